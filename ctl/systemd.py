"""`systemctl --user`: the unit, its sandbox, and how the service is.

Promise: a sandbox that this system denies never keeps the daemon from starting. It is tried before the
unit is written, and left out where it fails.
"""

from __future__ import annotations

import importlib.resources
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from convergenced.errors import ConvergenceError

from .service import (
    HOME_VARIABLE,
    LOG_LINES,
    WITHOUT,
    Run,
    RunState,
    ServiceState,
    inherited,
    run,
    write_if_changed,
)

UNIT = "convergenced.service"
SANDBOX = "sandbox.conf"
_NONE = "# No sandbox: "
CHOSEN = _NONE + "it was asked for (convergencectl service install --no-sandbox)"
DENIED = _NONE + "this system lets no user make a namespace"
FOREIGN = _NONE + "ssh would refuse its configuration from within, for it belongs to another user"
_PROBE = ("PrivateUsers=yes", "ProtectSystem=strict", "PrivateDevices=yes", "CapabilityBoundingSet=")
_GROWING_PAUSES = 254
"""The first version of systemd that waits longer with each restart."""
_STATES: dict[str, RunState] = {
    "active": "running",
    "reloading": "running",
    "activating": "starting",
    "deactivating": "stopping",
    "failed": "failed",
}
_SHOWN = "ActiveState,MainPID,StatusText,NRestarts,UnitFileState,ActiveEnterTimestampMonotonic"
_PLACES = ("CLAUDE_CONFIG_DIR", HOME_VARIABLE, "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
"""Variables that name folders which the daemon writes to."""
_WRITABLE = ("/tmp", "/var/tmp", "/srv", "/mnt", "/media", "/run/media")  # noqa: S108 - as in the sandbox


def systemd_unit(
    python: str,
    environment: Mapping[str, str],
    *,
    version: int = 0,
    without_sandbox: str | None = None,
    writable: Sequence[str] = (),
) -> str:
    """The unit's text for that interpreter, environment and version of systemd.

    `without_sandbox` is the comment that stands in the place of the sandbox; else `writable` are the
    folders that may be written besides the usual ones.
    """
    lines = [f"Environment={_quoted(f'{name}={value}')}" for name, value in environment.items()]
    pace = (
        "RestartSec=5\nRestartSteps=6\nRestartMaxDelaySec=300"
        if version >= _GROWING_PAUSES
        else "RestartSec=10"
    )
    paths = " ".join(_quoted(f"-{folder}") for folder in writable)
    sandbox = _template(SANDBOX).replace("@WRITABLE@\n", f"ReadWritePaths={paths}\n" if paths else "")
    filled = {
        "@PYTHON@": _quoted(python).replace("$", "$$"),
        "@ENVIRONMENT@": "\n".join(lines) or "# (nothing set)",
        "@PACE@": pace,
        "@SANDBOX@": without_sandbox or "\n" + sandbox.rstrip("\n"),
    }
    return re.sub("|".join(filled), lambda found: filled[found[0]], _template(UNIT))


def _quoted(text: str) -> str:
    """A word for a systemd unit: quoted, specifiers kept literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def _template(name: str) -> str:
    return (importlib.resources.files("convergencectl.service_units") / name).read_text("utf-8")


class SystemdUser:
    """The user's own manager."""

    name = "systemd"

    def __init__(self, environ: Mapping[str, str], run: Run = run) -> None:
        self._environ = environ
        self._run = run
        self._user_home = os.path.expanduser("~")
        config = environ.get("XDG_CONFIG_HOME") or os.path.join(self._user_home, ".config")
        self.path = Path(config, "systemd", "user", UNIT)

    def installed(self) -> bool:
        """Whether the unit file is there."""
        return self.path.exists()

    def home(self) -> str | None:
        """The CONVERGENCE_HOME that the installed unit is for."""
        found = re.search(rf'^Environment="{HOME_VARIABLE}=(.*)"$', self._text(), re.MULTILINE)
        return None if found is None else re.sub(r'\\([\\"])|%(%)', r"\1\2", found[1])

    def install(self, *, sandbox: bool | None = None, writable: Sequence[str] = ()) -> bool:
        """Writes the unit where it differs and enables it; whether it differed."""
        chosen = sandbox is False or (sandbox is None and CHOSEN in self._text())
        without = CHOSEN if chosen else self._obstacle()
        environment = inherited(self._environ)
        places = [environment[name] for name in _PLACES if name in environment]
        text = systemd_unit(
            sys.executable,
            environment,
            version=self._version(),
            without_sandbox=without,
            writable=sorted({place for place in (*places, *writable) if not self._is_usual(place)}),
        )
        changed = write_if_changed(self.path, text.encode())
        if changed:
            self._systemctl("daemon-reload")
        self._systemctl("enable", UNIT)
        return changed

    def start(self) -> None:
        """Starts the unit, anew if it runs, and at once if it waits for its next try after a failure."""
        self._run(["systemctl", "--user", "reset-failed", UNIT])  # none to reset is fine
        self._systemctl("restart", "--no-block", UNIT)

    def stop(self) -> None:
        """Stops and disables the unit; the file stays."""
        self._systemctl("disable", "--now", UNIT)

    def uninstall(self) -> None:
        """Stops it and removes the file. What the user added by `systemctl edit` is the user's."""
        self.stop()
        self.path.unlink()
        self._systemctl("daemon-reload")
        self._run(["systemctl", "--user", "reset-failed", UNIT])

    def state(self) -> ServiceState:
        """What systemd says of the unit."""
        done = self._run(["systemctl", "--user", "show", UNIT, f"--property={_SHOWN}"])
        said = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
        pid, began = _number(said.get("MainPID")), _number(said.get("ActiveEnterTimestampMonotonic"))
        state = _STATES.get(said.get("ActiveState", ""), "stopped")
        runs = state == "running"
        return ServiceState(
            state=state,
            enabled=said.get("UnitFileState") == "enabled",
            pid=pid or None,
            since=time.time() - time.monotonic() + began / 1e6 if runs and began else None,
            text=said.get("StatusText") or None,
            restarts=_number(said.get("NRestarts")),
            sandbox=self._sandbox(),
            lingers=self._lingers(),
        )

    def last_words(self) -> str:
        """The end of the unit's journal."""
        command = ["journalctl", "--user", "-u", UNIT, "-n", str(LOG_LINES), "--no-pager", "-o", "cat"]
        return self._run(command).stdout

    def log_command(self, lines: int, *, follow: bool) -> list[str]:
        """journalctl, which pages and colours by itself."""
        return ["journalctl", "--user", "-u", UNIT, "-n", str(lines), *(["-f"] if follow else ["--no-pager"])]

    def can_write(self, folder: str) -> bool:
        """Whether `folder` lies in the usual places, or the installed unit names it."""
        text = self._text()
        if not text or _NONE in text or self._is_usual(folder):
            return True
        named = re.findall(r'"-((?:[^"\\]|\\.)*)"', text)
        return any(_below(folder, re.sub(r'\\([\\"])|%(%)', r"\1\2", place)) for place in named)

    def _is_usual(self, folder: str) -> bool:
        return any(_below(folder, place) for place in (self._user_home, *_WRITABLE))

    def _obstacle(self) -> str | None:
        """What keeps a unit here from having a user namespace. What cannot be tried counts as denied."""
        folder = Path(self._user_home, ".ssh")
        files = [one for pattern in ("config*", "*.conf", "conf*/*") for one in folder.glob(pattern)]
        if any(_belongs_to_another(one) for one in files):
            return FOREIGN
        options = [f"--property={one}" for one in _PROBE]
        try:
            done = self._run(["systemd-run", "--user", "--quiet", "--wait", *options, "true"])
        except ConvergenceError:
            return DENIED
        return None if done.returncode == 0 else DENIED

    def _version(self) -> int:
        found = re.match(r"systemd (\d+)", self._run(["systemctl", "--version"]).stdout)
        return int(found[1]) if found else 0

    def _sandbox(self) -> str | None:
        found = re.search(f"^{_NONE}(.*)$", text := self._text(), re.MULTILINE)
        return f"none: {found[1]}" if found else "full" if text else None

    def _lingers(self) -> bool | None:
        done = self._run(["loginctl", "show-user", str(os.getuid()), "--property=Linger", "--value"])
        return {"yes": True, "no": False}.get(done.stdout.strip())

    def _text(self) -> str:
        try:
            return self.path.read_text("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def _systemctl(self, *arguments: str) -> None:
        done = self._run(["systemctl", "--user", *arguments])
        if done.returncode != 0:
            said = done.stderr.strip() or f"exit code {done.returncode}"
            raise ConvergenceError(f"systemctl --user {' '.join(arguments)} failed: {said}", WITHOUT)


def _belongs_to_another(path: Path) -> bool:
    """Whether a file, such as one that a system's configuration manager put there, is not the user's."""
    try:
        return path.stat().st_uid != os.getuid()
    except OSError:
        return False


def _below(path: str, folder: str) -> bool:
    return os.path.normpath(path) == folder or os.path.normpath(path).startswith(folder.rstrip("/") + "/")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
