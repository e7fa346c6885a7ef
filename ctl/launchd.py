"""launchd: the daemon as an agent of the login's GUI domain."""

from __future__ import annotations

import importlib.resources
import os
import plistlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from convergenced.errors import ConvergenceError

from .service import (
    HOME_VARIABLE,
    WITHOUT,
    Run,
    RunState,
    ServiceState,
    file_log_command,
    inherited,
    run,
    tail,
    write_if_changed,
)

LABEL = "io.github.convergence.convergenced"


def launch_agent(python: str, environment: Mapping[str, str], log: Path) -> bytes:
    """The launchd property list for that interpreter, environment and log file."""
    template = importlib.resources.files("convergencectl.service_units") / f"{LABEL}.plist"
    agent = plistlib.loads(template.read_bytes())
    agent["ProgramArguments"][0] = python
    agent["EnvironmentVariables"] = dict(environment)
    agent["StandardErrorPath"] = str(log)
    return plistlib.dumps(agent, sort_keys=False)


class Launchd:
    """The login's launchd. It has no sandbox to offer that an agent could ask for."""

    name = "launchd"

    def __init__(self, environ: Mapping[str, str], log: Path, run: Run = run) -> None:
        self._environ = environ
        self._log = log
        self._run = run
        self._domain = f"gui/{os.getuid()}"
        self._target = f"{self._domain}/{LABEL}"
        self.path = Path(os.path.expanduser("~"), "Library", "LaunchAgents", f"{LABEL}.plist")

    def installed(self) -> bool:
        """Whether the property list is there."""
        return self.path.exists()

    def home(self) -> str | None:
        """The CONVERGENCE_HOME that the installed agent is for."""
        try:
            agent = plistlib.loads(self.path.read_bytes())
        except (OSError, ValueError, plistlib.InvalidFileException):
            return None
        found = agent.get("EnvironmentVariables", {}).get(HOME_VARIABLE)
        return None if found is None else str(found)

    def install(self, *, sandbox: bool | None = None, writable: Sequence[str] = ()) -> bool:
        """Writes the property list where it differs and lets it start with the login."""
        self._log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        changed = write_if_changed(
            self.path, launch_agent(sys.executable, inherited(self._environ), self._log)
        )
        self._run(["launchctl", "enable", self._target])
        return changed

    def start(self) -> None:
        """Loads the property list as it stands now, which starts it."""
        # What is loaded keeps its old text: unload first; nothing loaded is fine.
        self._run(["launchctl", "bootout", self._target])
        done = self._run(["launchctl", "bootstrap", self._domain, str(self.path)])
        if done.returncode != 0:
            said = done.stderr.strip() or f"exit code {done.returncode}"
            raise ConvergenceError(f"launchctl bootstrap failed: {said}", WITHOUT)

    def stop(self) -> None:
        """Unloads the agent and disables it, so that the next login does not start it."""
        self._run(["launchctl", "bootout", self._target])
        self._run(["launchctl", "disable", self._target])

    def uninstall(self) -> None:
        """Unloads the agent and removes it; launchd's note that it is disabled goes as well."""
        self._run(["launchctl", "bootout", self._target])
        self._run(["launchctl", "enable", self._target])
        self.path.unlink(missing_ok=True)

    def state(self) -> ServiceState:
        """What launchd says of the agent. An agent that is not loaded does not run."""
        done = self._run(["launchctl", "print", self._target])
        said = dict(re.findall(r"^\s*(state|pid|last exit code) = (.*)$", done.stdout, re.MULTILINE))
        pid = said.get("pid", "")
        state: RunState = "running" if said.get("state") == "running" else "stopped"
        if state == "stopped" and said.get("last exit code", "0") not in {"0", "(never exited)"}:
            state = "failed"
        return ServiceState(
            state=state, enabled=done.returncode == 0, pid=int(pid) if pid.isdigit() else None
        )

    def last_words(self) -> str:
        """The end of the log file."""
        return tail(self._log)

    def log_command(self, lines: int, *, follow: bool) -> list[str]:
        """tail, of the log file."""
        return file_log_command(self._log, lines, follow=follow)

    def can_write(self, folder: str) -> bool:
        """An agent may write wherever its user may."""
        return True
