"""What the parts of the engine share: what is known, the clock, the way to workers and to the log.

Everything here belongs to the control thread, but `post`, which any thread may call.
"""

from __future__ import annotations

import logging
import queue
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from convergenced.errors import ConvergenceError
from convergenced.machine.activity import ActivityLog, Event
from convergenced.machine.settings_schema import PeerSettings, Settings
from convergenced.machine.state import Notice
from convergenced.model import ProjectId
from convergenced.ports import Checkouts, Peer, Watcher
from convergenced.sync.board import HOLDS_BOTH, Attention, Board
from convergenced.sync.ingest import IngestReport
from convergenced.sync.news import FRESH, News
from convergenced.sync.plan import Pace
from convergenced.sync.replica import Parts
from convergenced.sync.scan import MEMORY
from convergenced.sync.searcher import Searcher

log = logging.getLogger(__name__)

T = TypeVar("T")

IDLE_TURN = 20.0
"""The engine turns at least this often, in seconds, so that a watchdog sees it alive."""
LOCAL_LANES = 2
"""Projects are worked on in so many lanes; each project keeps to one."""


class Workers(Protocol):
    """Where blocking work is done."""

    def submit(self, lane: str, job: Callable[[], None]) -> None:
        """Runs the job soon; jobs of one lane run one after the other, in order."""
        ...

    def drain(self, seconds: float) -> bool:
        """Takes no more jobs and waits for those under way; tells whether all ended in time."""
        ...


class Keeper(Protocol):
    """Keeps the store in shape."""

    def run(self) -> str | None:
        """Does what is due, which can take minutes; says what that was, None where it was nothing."""
        ...

    def close(self) -> None:
        """Breaks off soon; safe from any thread."""
        ...


class NoKeeper:
    """Lets the store be."""

    def run(self) -> str | None:
        """Nothing."""
        return None

    def close(self) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the engine needs besides the parts its jobs work with."""

    parts: Parts
    checkouts: Checkouts
    watcher: Watcher
    workers: Workers
    activity: ActivityLog
    open_peer: Callable[[PeerSettings], Peer]
    prune_backups: Callable[[str, int], object] = lambda folder, keep: None
    """Keeps the newest few backups of each file of a context folder."""
    aside: Callable[[Callable[[], IngestReport]], IngestReport] = lambda work: work()
    """Does work that takes long where it is in nobody's way."""
    show: Callable[[str, str], object] = lambda title, text: None
    """Shows a person something on the desktop, where there is one."""
    searcher: Callable[[bytes], Searcher] | None = None
    """Starts a search for apparent secrets beside such work; None where that searches itself."""
    keeper: Keeper = field(default_factory=NoKeeper)
    chance: Callable[[], float] = random.random
    on_turn: Callable[[], None] = field(default=lambda: None)
    idle_turn: float = IDLE_TURN


class Desk:
    """The shared things. `settings` are those in force."""

    def __init__(self, surroundings: Surroundings, settings: Settings) -> None:
        self.surroundings = surroundings
        self.settings = settings
        self.parts = surroundings.parts
        self.parts.screen.policy = settings.secrets.policy
        self.clock = surroundings.parts.clock
        self.board = Board(notices=surroundings.parts.state.notices())
        self.messages: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def post(self, message: Callable[[], None]) -> None:
        """Has `message` called in the control thread; safe from any thread."""
        self.messages.put(message)

    def submit(
        self, lane: str, job: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        """Has `job` done by a worker; `done` or `failed` is called in the control thread."""

        def work() -> None:
            try:
                result = job()
            except Exception as error:  # noqa: BLE001 - whatever a job meets belongs to that job alone
                self.post(lambda error=error: failed(error))  # type: ignore[misc]
            else:
                self.post(lambda: done(result))

        self.surroundings.workers.submit(lane, work)

    def lane_of(self, project: ProjectId) -> str:
        """The lane in which everything that touches a project's local files is done."""
        return f"local-{zlib.crc32(project.encode()) % LOCAL_LANES}"

    @property
    def pace(self) -> Pace:
        """The waiting times in force."""
        ingest = self.settings.ingest
        return Pace(ingest.quiet, ingest.max_wait, ingest.rescan, self.settings.exchange.interval)

    @property
    def whole_machine(self) -> bool:
        """Whether any running Claude Code holds everything."""
        return self.settings.localize.hold == "machine"

    # -- telling

    def note(self, kind: str, project: str | None, text: str) -> None:
        """Tells the log what was done."""
        log.info("%s%s", f"{project}: " if project else "", text)
        self.surroundings.activity.append(Event(kind, text, ProjectId(project) if project else None))

    def note_news(self, project: ProjectId, news: News) -> bool:
        """Tells what became of a project; False where something of it was told meanwhile.

        Then it is to be looked for again.
        """
        state, now = self.parts.state, self.clock.now()
        if state.told(project) != news.since:
            return news.is_empty
        for name in news.appeared:
            self.note("conflict", project, f"{MEMORY}/{name} {HOLDS_BOTH}; see: convergencectl conflicts")
        for name in news.settled:
            self.note("settled", project, f"{MEMORY}/{name} is settled: it holds one text again")
        for divergence in news.divergences:
            self.note("fork", project, divergence.text)
            state.note_notice(Notice("fork", project, divergence.text, now), now - FRESH)
        state.note_told(project, news.upto)
        if news.divergences:
            self.board.notices = state.notices()
        return True

    def degrade(self, part: str, error: Exception) -> None:
        """Remembers that a part of the daemon does not work; told once, until `restore`."""
        if not isinstance(error, (ConvergenceError, OSError)):
            log.error("%s failed", part, exc_info=error)
        text, hint = in_words(error)
        if part not in self.board.degraded:
            self.note("error", None, text)
        self.board.degraded[part] = Attention("degraded", None, text, hint or "see: convergencectl log")

    def restore(self, part: str) -> None:
        """Remembers that it works again."""
        self.board.degraded.pop(part, None)


def in_words(error: Exception) -> tuple[str, str]:
    """An error's summary and hint, whatever its kind."""
    if isinstance(error, ConvergenceError):
        return error.summary, error.hint
    return str(error) or type(error).__name__, ""
