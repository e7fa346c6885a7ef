"""Looking out: hints of changes, and surveys of which folders take part.

Promises: a folder that appears is taken in by itself; a lost hint costs at most the rescan interval;
where the projects folder is gone, nothing is done until it is back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from posixpath import dirname

from convergenced.errors import ConvergenceError
from convergenced.machine.settings import expand_home
from convergenced.model import LocalPath, ProjectId
from convergenced.sync.board import ReplicaState
from convergenced.sync.desk import Desk
from convergenced.sync.healing import Healing
from convergenced.sync.identity import Identity
from convergenced.sync.survey import Scope, Survey, survey

HALTED_POLL = 30.0
"""How often is looked whether a projects folder that was lost is back, in seconds."""
RETRY = 30.0
"""How long after a survey that failed the next one is tried, in seconds."""
LANE = "local-0"
WATCH = "watch"
"""The part that is degraded while hints may be missing."""
WATCH_AGAIN = 300.0
"""Seconds after which a watcher that is in trouble may be begun anew: its limit may have been raised."""
SEEK_LEAST, SEEK_MOST = 540.0, 86_400.0
"""Seconds between two searches for a checkout that is gone; each time twice as long, up to a day."""
SEEK_REST = 60.0
"""Seconds for which it is not looked again, whoever asks."""
MAX_HINTS = 1_000
"""Changes beyond which everything is looked at."""


@dataclass(frozen=True, slots=True)
class _Sought:
    """Where a checkout that is gone was looked for, and when (monotonic) that is done again."""

    roots: tuple[LocalPath, ...]
    again_at: float
    wait: float


class Lookout:
    """Owns the watcher and the surveys."""

    def __init__(self, desk: Desk, healing: Healing) -> None:
        self._desk = desk
        self._healing = healing
        self._due: float | None = 0.0
        self._is_surveying = False
        self._is_stale = False
        self._ignored: set[str] = set()
        self._is_watching = False
        self._watching_since = 0.0
        self._sought: dict[LocalPath, _Sought] = {}
        """Checkouts that are gone and were looked for in vain."""
        self.identities: dict[ProjectId, Identity] = {}
        self.surveys = 0
        """How many surveys were completed."""

    @property
    def due(self) -> float | None:
        """When the next survey is to start; None where none is wanted or one is under way."""
        return None if self._is_surveying else self._due

    def want(self, delay: float = 0.0) -> None:
        """Has the projects folder looked at as a whole, `delay` seconds from now at the latest."""
        wanted = self._desk.clock.monotonic() + delay
        self._due = wanted if self._due is None else min(self._due, wanted)

    def distrust(self) -> None:
        """Has a survey that is under way repeated: what it began with has changed."""
        self._is_stale = self._is_surveying
        self.want()

    def seek_again(self) -> None:
        """Has the next survey look for every checkout that is gone, unless that was done a moment ago.

        Who asks may be a hook, many times a minute.
        """
        for root, one in list(self._sought.items()):
            if self._desk.clock.monotonic() - (one.again_at - one.wait) >= SEEK_REST:
                del self._sought[root]

    def scope(self) -> Scope:
        """What the user wants shared, and where checkouts may be."""
        projects, home = self._desk.settings.projects, self._desk.parts.machine.home
        # Where the user keeps one checkout others are likely; the home folder itself is too wide.
        states = self._desk.board.replicas.values()
        beside = {LocalPath(dirname(state.replica.root)) for state in states}
        wanted = {expand_home(root, home) for root in projects.roots} | (beside - {home, LocalPath("/")})
        roots = tuple(sorted(root for root in wanted if not _is_below_another(root, wanted)))
        now = self._desk.clock.monotonic()
        sought = (root for root, one in self._sought.items() if one.roots == roots and now < one.again_at)
        return Scope(projects.track == "all", projects.exclude, roots, projects.auto_join, frozenset(sought))

    def start(self) -> None:
        """Starts a survey."""
        self._due = None
        self._is_surveying = True
        self._is_stale = False
        desk, scope, started = self._desk, self.scope(), self._desk.clock.monotonic()

        def failed(error: Exception) -> None:
            self._is_surveying = False
            self.want(RETRY)
            desk.degrade("survey", error)

        desk.submit(
            LANE,
            lambda: survey(desk.parts, desk.surroundings.checkouts, scope),
            lambda result: self._surveyed(result, scope, started),
            failed,
        )

    def _surveyed(self, result: Survey, scope: Scope, started: float) -> None:
        self._is_surveying = False
        self._note_moves(result, scope)
        if self._is_stale:
            self.want()
            return
        desk, board = self._desk, self._desk.board
        board.surveyed_at = started
        desk.restore("survey")
        was_halted = board.halted
        if result.halted != was_halted:
            text = f"nothing is synced: {result.halted}" if result.halted else "the projects folder is back"
            desk.note("halt", None, text)
        board.halted = result.halted
        if result.halted is not None:
            # Its return may be heard of by nobody: what was watched is gone.
            self.want(HALTED_POLL)
            return
        for project in result.damaged:
            self._healing.suspect(project)
        board.refusals = result.refusals
        self.identities = result.identities
        self._ignored = result.ignored
        self.surveys += 1
        self._take_in(result)
        self.watch(anew=was_halted is not None or self._is_stale_watch())

    def _note_moves(self, result: Survey, scope: Scope) -> None:
        for moved in result.moved:
            self._sought.pop(moved.former.root, None)
            self._desk.note("move", moved.project, f"{moved.former.root} is now {moved.note.root}")
        for root in result.missed:
            wait = min(2 * self._sought[root].wait, SEEK_MOST) if root in self._sought else SEEK_LEAST
            self._sought[root] = _Sought(scope.roots, self._desk.clock.monotonic() + wait, wait)

    def _take_in(self, result: Survey) -> None:
        board, now = self._desk.board, self._desk.clock.monotonic()
        found = {replica.folder: replica for replica in result.replicas}
        for folder in board.replicas.keys() - found.keys():
            del board.replicas[folder]
        for folder, replica in found.items():
            state = board.replicas.get(folder)
            if state is None:
                board.replicas[folder] = ReplicaState(replica, asked=now)
                self._desk.note("track", replica.project, f"takes part with {replica.root}")
            elif state.replica != replica:
                state.replica = replica
                state.asked = now
                state.is_all_asked = True

    def watch(self, *, anew: bool = False) -> None:
        """Makes sure that changes are heard of; `anew` where the folder may be another one."""
        desk = self._desk
        watcher, folder = desk.surroundings.watcher, desk.parts.machine.projects_dir
        if anew and self._is_watching:
            watcher.stop()
            self._is_watching = False
        if not self._is_watching:
            try:
                watcher.start(folder, lambda path: desk.post(lambda: self.changed(path)))
            except (ConvergenceError, OSError) as error:
                if desk.parts.files.list(folder) is not None:
                    desk.degrade(WATCH, error)
                return
            self._is_watching = True
            self._watching_since = desk.clock.monotonic()
            self._look_at_all()
        self.check()

    def check(self) -> None:
        """Takes up what the watcher says of itself."""
        desk = self._desk
        if not self._is_watching:
            return
        trouble = desk.surroundings.watcher.trouble()
        if trouble is None:
            if WATCH in desk.board.degraded:
                self._look_at_all()
            desk.restore(WATCH)
        else:
            desk.degrade(WATCH, ConvergenceError(*_with_remedy(trouble)))

    def _is_stale_watch(self) -> bool:
        """Whether a watcher in trouble has had its time: what it lacked may be there for another one."""
        age = self._desk.clock.monotonic() - self._watching_since
        return WATCH in self._desk.board.degraded and age >= WATCH_AGAIN

    def _look_at_all(self) -> None:
        """Nothing was heard for a while: what was seen before is not to be gone by."""
        for state in self._desk.board.replicas.values():
            state.is_all_asked = True

    def changed(self, path: LocalPath) -> None:
        """A hint that something changed at `path`."""
        desk = self._desk
        relative = path.removeprefix(desk.parts.machine.projects_dir).lstrip("/")
        folder, _, below = relative.partition("/")
        if folder in self._ignored:
            return
        state = desk.board.replicas.get(folder)
        if state is None:
            self.want(desk.settings.ingest.quiet)
            return
        if not state.is_all_asked:
            state.hints.add(below)
        if len(state.hints) > MAX_HINTS:
            state.is_all_asked = True
            state.hints.clear()
        state.last_change = desk.clock.monotonic()
        if state.first_change is None:
            state.first_change = state.last_change


def _with_remedy(trouble: str) -> tuple[str, str]:
    """What a watcher says, and of that the command that settles it, where there is one."""
    what, _, last = trouble.rpartition(". ")
    if what and ": sudo " in last:
        return what, f"{last[0].lower()}{last[1:]}"
    return trouble, "nothing to do: changes are still found by scanning"


def _is_below_another(folder: str, others: Iterable[str]) -> bool:
    return any(folder != other and folder.startswith(other.rstrip("/") + "/") for other in others)
