"""The daemon's life: one instance, signals, the control socket, an orderly end.

Promises: there is one daemon per store; SIGTERM and SIGINT let work under way finish (bounded);
a broken configuration never takes a running daemon down.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from convergenced.control.configured import Configured
from convergenced.control.dispatch import Dispatcher
from convergenced.control.doctor import Doctor
from convergenced.control.knowledge_door import KnowledgeDoor
from convergenced.control.server import ControlServer
from convergenced.errors import ConfigError, ConvergenceError
from convergenced.machine.durable import make_private_folders, write_durably
from convergenced.machine.locations import Locations, make_socket_folder
from convergenced.machine.notify import Notifier
from convergenced.machine.settings import (
    add_peer,
    change_exclusions,
    default_config_text,
    remove_peer,
)
from convergenced.model import LocalPath
from convergenced.ports import Clock
from convergenced.sync.board import Attention
from convergenced.sync.engine import Engine
from convergenced.sync.replica import Parts

log = logging.getLogger(__name__)

DRAIN_SECONDS = 8.0
"""How long work under way may take at the end; the service manager waits longer."""


@contextlib.contextmanager
def single_instance(lock_file: LocalPath) -> Iterator[None]:
    """Holds the daemon's lock. Raises `ConvergenceError` naming the pid of the daemon that has it."""
    make_private_folders(os.path.dirname(lock_file))
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise ConvergenceError(
                f"a daemon already runs for this store (pid {pid})", "see: convergencectl status"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Runs an engine as a daemon."""

    engine: Engine
    parts: Parts
    locations: Locations
    notifier: Notifier
    clock: Clock
    configured: Configured
    knowledge: KnowledgeDoor

    def run(self) -> None:
        """Serves until SIGTERM, SIGINT or a request to shut down."""
        make_socket_folder(self.locations.socket)
        dispatcher = Dispatcher(
            self.engine,
            self.parts,
            reload=self.reload,
            add_peer=self._add_peer,
            remove_peer=self._remove_peer,
            exclude=self._change_exclusions,
            doctor=Doctor(self.parts, self.locations, os.environ, self.knowledge.deafness),
            shutdown=self.engine.stop,
            beside=self.knowledge.methods(self.engine),
        )
        server = ControlServer(self.locations.socket, dispatcher.handle)
        server.start()
        try:
            with _on_signals(self.engine.stop, lambda: self.engine.post(self._reload_or_report)):
                self.engine.run()
        finally:
            self.notifier.stopping()
            drained = self.engine.close(DRAIN_SECONDS)
            server.stop()
            if not drained:
                log.warning(
                    "work under way did not end in %s seconds; it is taken up at the next start",
                    DRAIN_SECONDS,
                )

    def reload(self) -> None:
        """Applies config.toml as it stands now. Raises `ConfigError`; then the old one stays."""
        self.engine.apply(self.configured.read())
        self.engine.board.degraded.pop("config", None)

    def follow(self) -> None:
        """Takes on what somebody saved in config.toml. Called after every turn of the engine."""
        if self.configured.was_saved(self.clock.monotonic()):
            self._reload_or_report()

    def report(self, error: ConfigError) -> None:
        """Says that the file is wrong and the settings from before are in force."""
        self.engine.board.degraded["config"] = Attention("config", None, error.summary, error.hint)
        self.engine.desk.note("config", None, f"the old settings stay: {error.summary}")

    def _reload_or_report(self) -> None:
        try:
            self.reload()
        except ConfigError as error:
            self.report(error)

    def _add_peer(self, name: str, url: str) -> None:
        self._edit(lambda text: add_peer(text, name, url))

    def _remove_peer(self, name: str) -> None:
        self._edit(lambda text: remove_peer(text, name))

    def _change_exclusions(self, add: Sequence[str], remove: Sequence[str]) -> None:
        self._edit(lambda text: change_exclusions(text, add=add, remove=remove))

    def _edit(self, change: Callable[[str], str]) -> None:
        try:
            with open(self.locations.config_file, encoding="utf-8") as stream:
                text = stream.read()
        except FileNotFoundError:
            text = default_config_text()
        changed = change(text)
        make_private_folders(os.path.dirname(self.locations.config_file))
        write_durably(self.locations.config_file, changed.encode())
        self.reload()


@contextlib.contextmanager
def _on_signals(stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGHUP:
            reload()
        else:
            stop()

    former = {
        number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
