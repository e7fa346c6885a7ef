"""Real daemons to measure from outside: started, told and watched."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from convergenced.canon.folder import encode_folder_name
from convergenced.control.protocol import Json
from convergenced.errors import ConvergenceError
from convergenced.machine.locations import Locations
from ctl.client import Connection
from tests.bench.corpus import Place
from tests.e2e.machines import DAEMON, Machine

PAUSE = 0.01
PATIENCE = 300.0
"""Seconds that a slow disk may take for the largest corpus."""

DEFAULTS = '[machine]\nname = "{name}"\n{peers}'


@dataclass
class MeasuredMachine(Machine):
    """A machine of the end-to-end tests with the settings that users have."""

    def configure(self) -> None:
        """Writes a config.toml that says no times."""
        peers = "".join(f'[[peers]]\nname = "hub"\nurl = "{hub}"\n' for hub in self.hubs)
        (self.conv / "config.toml").write_text(DEFAULTS.format(name=self.name, peers=peers))
        (self.conv / "config.toml").chmod(0o600)

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self.process is not None
        return self.process.pid

    def place(self, project: str | None = None) -> Place:
        """Where the user works on a project; its folders are made."""
        root = self.project if project is None else self.home / "src" / project
        root.mkdir(parents=True, exist_ok=True)
        (self.projects / encode_folder_name(str(root))).mkdir(exist_ok=True)
        return Place(str(self.home), str(root))

    def launch(self) -> float:
        """Starts the daemon; the seconds until it says that it is ready."""
        started = time.monotonic()
        with (self.top / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(DAEMON, env=self.environ, stderr=log, stdin=subprocess.DEVNULL)
        await_soon(self._says_ready, "the daemon to be ready")
        return time.monotonic() - started

    def connect(self) -> Connection:
        """A connection to the daemon."""
        where = Locations.from_environment(self.environ, str(self.home))
        return Connection(where.socket)

    def call(self, method: str, **params: Json) -> Json:
        """The daemon's answer."""
        with self.connect() as daemon:
            return daemon.call(method, params, timeout=PATIENCE)

    def sync(self) -> None:
        """Has everything committed, exchanged and localized now."""
        answer = self.call("sync", wait=True)
        assert isinstance(answer, dict)
        assert answer["state"] == "synced", (answer, self.log())

    def _says_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            answer = self.call("ping")
        except ConvergenceError:
            return False
        return isinstance(answer, dict) and answer["ready"] is True


def await_soon(condition: Callable[[], object], what: str, pause: float = PAUSE) -> None:
    """Looks often until the condition holds; fails naming what was waited for."""
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"waited {PATIENCE:.0f} s in vain for {what}")
        time.sleep(pause)
