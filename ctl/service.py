"""The daemon as a service of the user's own: systemd --user or launchd, where there is one.

Owns the choice of the manager and what a service takes over from the shell. Promises: the service
carries the environment that decides where things are (a service does not inherit the shell's);
installing again what is installed changes nothing; and of the machines that CONVERGENCE_HOME lets live
on one host, each meets only the service that was installed for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from convergenced.errors import ConvergenceError

COMMAND_TIMEOUT = 30.0
"""Seconds that systemctl or launchctl may take."""
LOG_LINES = 15
"""Lines of the log that are shown where the daemon does not start."""
HOME_VARIABLE = "CONVERGENCE_HOME"
WITHOUT = "to do without a service: CONVERGENCE_NO_SERVICE=1 convergencectl up"

_INHERITED = (
    "PATH",
    "CLAUDE_CONFIG_DIR",
    HOME_VARIABLE,
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
"""In either case. One that holds a password is not written down."""

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]
RunState = Literal["running", "starting", "stopping", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class ServiceState:
    """How the service is. `since` is Unix seconds; None stands for what cannot be told."""

    state: RunState
    enabled: bool
    pid: int | None = None
    since: float | None = None
    text: str | None = None
    """The daemon's own line."""
    restarts: int | None = None
    sandbox: str | None = None
    """"full", or in words why there is none."""
    lingers: bool | None = None
    """Whether it goes on after the user has logged out."""


class ServiceManager(Protocol):
    """What starts and stops the daemon on this machine."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def path(self) -> Path:
        """The installed definition."""
        ...

    def installed(self) -> bool:
        """Whether the daemon's definition is installed."""
        ...

    def install(self, *, sandbox: bool | None = None, writable: Sequence[str] = ()) -> bool:
        """Writes the definition and has it start with the login; whether that changed anything.

        `sandbox` False asks for none and is remembered, True forgets that, None keeps what was asked.
        `writable` are folders outside the usual places that the daemon writes to.
        """
        ...

    def start(self) -> None:
        """Starts what is installed, anew if it runs. Does not wait until it is ready."""
        ...

    def stop(self) -> None:
        """Stops the service and keeps it from starting again until the next `install`."""
        ...

    def uninstall(self) -> None:
        """Stops it and removes the definition."""
        ...

    def state(self) -> ServiceState:
        """How it is now."""
        ...

    def last_words(self) -> str:
        """The last lines of the daemon's log."""
        ...

    def log_command(self, lines: int, *, follow: bool) -> list[str]:
        """The command that shows the log."""
        ...

    def can_write(self, folder: str) -> bool:
        """Whether the service as it is installed may write below `folder`."""
        ...


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a service command. Raises `ConvergenceError` where it cannot be run or hangs."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConvergenceError(f"{command[0]} could not be run: {error}", WITHOUT) from error


def detect(
    environ: Mapping[str, str], log: Path, run: Run = run, *, asked: bool = False
) -> ServiceManager | None:
    """The service manager that looks after this machine's daemon, None where none does or shall.

    `log` is the file for the daemon's stderr where the manager keeps none itself. A machine under
    CONVERGENCE_HOME gets a service only where a person `asked` for one. Raises `ConvergenceError` where
    one is asked for and the login's service belongs to another machine.
    """
    if environ.get("CONVERGENCE_NO_SERVICE", "0") not in {"", "0"}:
        return None
    found = _manager(environ, log, run)
    if found is None:
        return None
    ours = environ.get(HOME_VARIABLE) or None
    if found.installed() and (owner := found.home()) != ours:
        if not asked:
            return None
        whose = f"the machine in {HOME_VARIABLE}={owner}" if owner else "the machine of this login"
        settled = f"{HOME_VARIABLE}={owner or ''} convergencectl service uninstall"
        raise ConvergenceError(f"the service of this login belongs to {whose}", f"remove that one: {settled}")
    if ours is not None and not asked and not found.installed():
        return None
    return found


def _manager(environ: Mapping[str, str], log: Path, run: Run) -> _Owned | None:
    path = environ.get("PATH")
    if sys.platform == "darwin":
        from .launchd import Launchd

        return Launchd(environ, log, run) if shutil.which("launchctl", path=path) else None
    if not shutil.which("systemctl", path=path):
        return None
    runtime = environ.get("XDG_RUNTIME_DIR")
    if not runtime or not os.path.exists(os.path.join(runtime, "systemd", "private")):
        return None  # no user manager runs for this login (a container, su, cron)
    from .systemd import SystemdUser

    return SystemdUser(environ, run)


class _Owned(ServiceManager, Protocol):
    def home(self) -> str | None:
        """The CONVERGENCE_HOME that the installed definition is for."""
        ...


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a service needs from the shell that installs it.

    Of PATH what does not depend on the working folder, of proxies those that need no password. An ssh
    agent is passed on only where its socket's path outlives the login session's shell. What no definition
    can hold (a line break, bytes that are no text) is left out.
    """
    kept = {name: environ[name] for name in _INHERITED if environ.get(name)}
    for name in (*_PROXIES, *map(str.upper, _PROXIES)):
        if (value := environ.get(name)) and "@" not in value:
            kept[name] = value
    if "PATH" in kept:
        kept["PATH"] = ":".join(part for part in kept["PATH"].split(":") if part.startswith("/"))
    agent, runtime = environ.get("SSH_AUTH_SOCK"), environ.get("XDG_RUNTIME_DIR")
    if agent and runtime and agent.startswith(runtime.rstrip("/") + "/"):
        kept["SSH_AUTH_SOCK"] = agent
    return {name: value for name, value in kept.items() if value and value.isprintable()}


def tail(path: Path) -> str:
    """The last lines of a log file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            found = file.read(8192).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(found.splitlines()[-LOG_LINES:])


def file_log_command(log: Path, lines: int, *, follow: bool) -> list[str]:
    """The command that shows the log where it is a file."""
    return ["tail", "-n", str(lines), *(["-F"] if follow else []), str(log)]


def write_if_changed(path: Path, text: bytes) -> bool:
    """Puts `text` in the file's place; whether it was another."""
    if path.exists() and path.read_bytes() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(text)
    fresh.replace(path)
    return True
