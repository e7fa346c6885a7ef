"""The daemon as a service of the user's own: systemd --user or launchd, where there is one.

Owns the installed unit file. Promises: the unit carries the environment that decides where things
are (a service does not inherit the shell's), installing again what is installed changes nothing, and
a CONVERGENCE_HOME never becomes a service, for then several machines live on one host.
"""

from __future__ import annotations

import importlib.resources
import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from convergenced.errors import ConvergenceError

UNIT = "convergenced.service"
LABEL = "io.github.convergence.convergenced"
COMMAND_TIMEOUT = 30.0
"""Seconds that systemctl or launchctl may take."""
_LOG_LINES = 15

_INHERITED = (
    "PATH",
    "CLAUDE_CONFIG_DIR",
    "CONVERGENCE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "GIT_SSH_COMMAND",
)

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


class ServiceManager(Protocol):
    """What starts and stops the daemon on this machine."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def installed(self) -> bool:
        """Whether the daemon's unit is installed."""
        ...

    def start(self) -> None:
        """Installs or refreshes the unit and starts it. Does not wait until it is ready."""
        ...

    def stop(self) -> None:
        """Stops the service and keeps it from starting again until the next `start`."""
        ...

    def last_words(self) -> str:
        """The last lines of the daemon's log."""
        ...


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a service command. Raises `ConvergenceError` where it cannot be run or hangs."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConvergenceError(f"{command[0]} could not be run: {error}", _WITHOUT) from error


_WITHOUT = "to do without a service: CONVERGENCE_NO_SERVICE=1 convergencectl up"


def detect(environ: Mapping[str, str], log: Path, run: Run = run) -> ServiceManager | None:
    """The service manager of this login, None where there is none or none is wanted.

    `log` is the file for the daemon's stderr where the manager keeps none itself.
    """
    if environ.get("CONVERGENCE_HOME") or environ.get("CONVERGENCE_NO_SERVICE", "0") not in {"", "0"}:
        return None
    if sys.platform == "darwin":
        return Launchd(environ, log, run) if shutil.which("launchctl", path=environ.get("PATH")) else None
    if not shutil.which("systemctl", path=environ.get("PATH")):
        return None
    runtime = environ.get("XDG_RUNTIME_DIR")
    if not runtime or not os.path.exists(os.path.join(runtime, "systemd", "private")):
        return None  # no user manager runs for this login (a container, su, cron)
    return SystemdUser(environ, run)


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a service needs from the shell that installs it.

    An ssh agent is passed on only where its socket's path outlives the login session's shell.
    """
    kept = {name: environ[name] for name in _INHERITED if environ.get(name)}
    agent, runtime = environ.get("SSH_AUTH_SOCK"), environ.get("XDG_RUNTIME_DIR")
    if agent and runtime and agent.startswith(runtime.rstrip("/") + "/"):
        kept["SSH_AUTH_SOCK"] = agent
    return {name: value for name, value in kept.items() if "\n" not in value and "\0" not in value}


def systemd_unit(python: str, environment: Mapping[str, str]) -> str:
    """The unit file's text for that interpreter and environment."""
    lines = "\n".join(f"Environment={_quoted(f'{name}={value}')}" for name, value in environment.items())
    program = _quoted(python).replace("$", "$$")
    return _template(UNIT).replace("@PYTHON@", program).replace("@ENVIRONMENT@", lines or "# (nothing set)")


def launch_agent(python: str, environment: Mapping[str, str], log: Path) -> bytes:
    """The launchd property list for that interpreter, environment and log file."""
    agent = plistlib.loads(_template(f"{LABEL}.plist").encode())
    agent["ProgramArguments"][0] = python
    agent["EnvironmentVariables"] = dict(environment)
    agent["StandardErrorPath"] = str(log)
    return plistlib.dumps(agent, sort_keys=False)


def _quoted(text: str) -> str:
    """A word for a systemd unit: quoted, specifiers kept literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def _template(name: str) -> str:
    return (importlib.resources.files("convergencectl.service_units") / name).read_text("utf-8")


class SystemdUser:
    """`systemctl --user`."""

    name = "systemd"

    def __init__(self, environ: Mapping[str, str], run: Run = run) -> None:
        self._environ = environ
        self._run = run
        config = environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
        self.path = Path(config, "systemd", "user", UNIT)

    def installed(self) -> bool:
        """Whether the unit file is there."""
        return self.path.exists()

    def start(self) -> None:
        """Writes the unit where it differs, enables it and starts it."""
        if _write_if_changed(self.path, systemd_unit(sys.executable, inherited(self._environ)).encode()):
            self._systemctl("daemon-reload")
        # A service that failed too often stays refused until it is reset; none to reset is fine.
        self._run(["systemctl", "--user", "reset-failed", UNIT])
        self._systemctl("enable", UNIT)
        self._systemctl("start", "--no-block", UNIT)

    def stop(self) -> None:
        """Stops and disables the unit; the file stays."""
        self._systemctl("disable", "--now", UNIT)

    def last_words(self) -> str:
        """The end of the unit's journal."""
        command = ["journalctl", "--user", "-u", UNIT, "-n", str(_LOG_LINES), "--no-pager", "-o", "cat"]
        return self._run(command).stdout

    def _systemctl(self, *arguments: str) -> None:
        done = self._run(["systemctl", "--user", *arguments])
        if done.returncode != 0:
            said = done.stderr.strip() or f"exit code {done.returncode}"
            raise ConvergenceError(f"systemctl --user {' '.join(arguments)} failed: {said}", _WITHOUT)


class Launchd:
    """launchd, in the login's GUI domain."""

    name = "launchd"

    def __init__(self, environ: Mapping[str, str], log: Path, run: Run = run) -> None:
        self._environ = environ
        self._log = log
        self._run = run
        self._domain = f"gui/{os.getuid()}"
        self.path = Path(os.path.expanduser("~"), "Library", "LaunchAgents", f"{LABEL}.plist")

    def installed(self) -> bool:
        """Whether the property list is there."""
        return self.path.exists()

    def start(self) -> None:
        """Writes the property list, loads it and starts it."""
        self._log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_if_changed(self.path, launch_agent(sys.executable, inherited(self._environ), self._log))
        # What is loaded keeps its old text: unload first; nothing loaded is fine.
        self._run(["launchctl", "bootout", f"{self._domain}/{LABEL}"])
        self._run(["launchctl", "enable", f"{self._domain}/{LABEL}"])
        done = self._run(["launchctl", "bootstrap", self._domain, str(self.path)])
        if done.returncode != 0:
            said = done.stderr.strip() or f"exit code {done.returncode}"
            raise ConvergenceError(f"launchctl bootstrap failed: {said}", _WITHOUT)

    def stop(self) -> None:
        """Unloads the agent and disables it, so that the next login does not start it."""
        self._run(["launchctl", "bootout", f"{self._domain}/{LABEL}"])
        self._run(["launchctl", "disable", f"{self._domain}/{LABEL}"])

    def last_words(self) -> str:
        """The end of the log file."""
        return tail(self._log)


def tail(path: Path) -> str:
    """The last lines of a log file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            found = file.read(8192).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(found.splitlines()[-_LOG_LINES:])


def _write_if_changed(path: Path, text: bytes) -> bool:
    if path.exists() and path.read_bytes() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(text)
    fresh.replace(path)
    return True
