"""`convergenced`: builds the real parts and runs the daemon in the foreground.

With `control.assembly` the only place that knows which implementation stands behind which Protocol.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from convergenced import __version__, steps
from convergenced.control.assembly import real_parts
from convergenced.control.configured import Configured
from convergenced.control.keeper import StoreKeeper
from convergenced.control.knowledge_door import NAME, KnowledgeDoor
from convergenced.control.knowledge_door import Surroundings as KnowledgeSurroundings
from convergenced.control.supervisor import Supervisor, single_instance
from convergenced.control.workers import ThreadWorkers, aside
from convergenced.errors import ConvergenceError
from convergenced.machine.activity import ActivityLog, Event
from convergenced.machine.backups import prune_backups
from convergenced.machine.checkouts import GitCheckouts
from convergenced.machine.desktop import show_on_desktop
from convergenced.machine.locations import ClaudeLocations, Locations
from convergenced.machine.memory import use_one_arena
from convergenced.machine.notify import Notifier
from convergenced.machine.settings_schema import PeerSettings
from convergenced.machine.watch import FolderWatcher
from convergenced.model import LocalPath
from convergenced.ports import Clock, Peer
from convergenced.store.git import GitStore
from convergenced.store.peers import open_peer
from convergenced.sync.desk import IDLE_TURN, Surroundings
from convergenced.sync.engine import Engine
from convergenced.sync.once import one_pass
from convergenced.sync.replica import Parts
from convergenced.sync.searcher import Searcher

log = logging.getLogger("convergenced")

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""Levels as journald reads them at the beginning of a line (sd-daemon(3))."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the daemon; returns its exit code."""
    arguments = _parse(argv)
    _set_up_log(arguments.log_format, os.environ)
    os.umask(0o077)
    try:
        steps.arm(os.environ)
        return _run(arguments.once)
    except ConvergenceError as error:
        grave = f"<{_PRIORITIES[logging.ERROR]}>" if _is_heard_by_journal(os.environ) else ""
        print(f"{grave}convergenced: {error.summary}", file=sys.stderr)
        if error.hint:
            print(f"{grave}  {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="convergenced",
        description="Keeps Claude Code sessions and memory in step across machines. Runs in the foreground.",
        epilog="example: convergenced --once   (one full pass, then exit)",
    )
    parser.add_argument("--once", action="store_true", help="do one full pass and exit")
    parser.add_argument("--log-format", choices=("auto", "json"), default="auto", help="how to log to stderr")
    parser.add_argument("--version", action="version", version=f"convergenced {__version__}")
    return parser.parse_args(argv)


def _run(once: bool) -> int:
    use_one_arena()
    home = os.path.expanduser("~")
    locations = Locations.from_environment(os.environ, home)
    configured = Configured(locations.config_file, locations.state_dir)
    settings, wrong = (configured.read(), None) if once else configured.begin()
    with single_instance(locations.lock_file), real_parts(locations, settings, os.environ, home) as parts:
        workers = ThreadWorkers()
        activity = ActivityLog(locations.activity_log, parts.clock)
        _tell_recovered(parts, activity)
        notifier = Notifier.from_environment(os.environ)

        def connect(peer: PeerSettings) -> Peer:
            transport = engine.settings.exchange.transport
            return open_peer(
                peer.url, locations.store, name=peer.name, transport=transport, environ=os.environ
            )

        pulse = _Pulse(notifier, lambda: engine, parts.clock)

        def after_turn() -> None:
            pulse()
            supervisor.follow()

        surroundings = Surroundings(
            parts=parts,
            checkouts=GitCheckouts(parts.machine.home),
            watcher=FolderWatcher(parts.clock),
            workers=workers,
            activity=activity,
            open_peer=connect,
            prune_backups=lambda folder, keep: prune_backups(
                LocalPath(os.path.join(locations.backups_dir, folder)), keep
            ),
            aside=aside,
            searcher=Searcher,
            show=lambda title, text: show_on_desktop(title, text, os.environ),
            keeper=StoreKeeper(locations.store),
            on_turn=after_turn,
            # `watchdog_interval` is half of what the manager waits for, and every second turn tells it.
            idle_turn=min(IDLE_TURN, (notifier.watchdog_interval or IDLE_TURN) / 2),
        )
        engine = Engine(surroundings, settings)
        config_dir = ClaudeLocations.from_environment(os.environ, home).config_dir
        around = KnowledgeSurroundings(config_dir, locations.state_dir, os.environ)
        knowledge = engine.attach(NAME, lambda desk, rounds: KnowledgeDoor(desk, rounds, around))
        supervisor = Supervisor(engine, parts, locations, notifier, parts.clock, configured, knowledge)
        if once:
            return one_pass(engine, parts.clock)
        if wrong is not None:
            supervisor.report(wrong)
        supervisor.run()
        return 0


def _tell_recovered(parts: Parts, activity: ActivityLog) -> None:
    """Says what had to be set aside when the store was opened."""
    assert isinstance(parts.store, GitStore)
    for refusal in parts.store.recovered:
        text = f"{refusal.where}: {refusal.reason}; {refusal.remedy}"
        log.warning("%s", text)
        activity.append(Event("recover", text))


class _Pulse:
    """Tells the service manager how the engine does, after every turn."""

    def __init__(self, notifier: Notifier, engine: Callable[[], Engine], clock: Clock) -> None:
        self._notifier = notifier
        self._engine = engine
        self._clock = clock
        self._alive_at = -math.inf
        self._told_ready = False
        self._told = ""

    def __call__(self) -> None:
        engine = self._engine()
        if engine.ready and not self._told_ready:
            self._told_ready = True
            self._notifier.ready()
        if self._notifier.is_heard and (text := engine.board.summary()) != self._told:
            self._told = text
            self._notifier.status(text)
        interval, now = self._notifier.watchdog_interval, self._clock.monotonic()
        if interval is not None and now - self._alive_at >= interval / 2:
            self._alive_at = now
            self._notifier.watchdog()


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


class _JournalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).split("\n"))


def _is_heard_by_journal(environ: Mapping[str, str]) -> bool:
    """Whether stderr goes to journald. A desktop's terminals inherit the word, not the stream."""
    try:
        stderr = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"


def _set_up_log(log_format: str, environ: Mapping[str, str]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(_JsonFormatter())
    elif _is_heard_by_journal(environ):
        handler.setFormatter(_JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


if __name__ == "__main__":
    sys.exit(main())
