"""Roll-calls: looks which sessions are open here, and has the others told where that changed.

Promises: that costs one look at the processes every few minutes, and a commit only where a session was opened
for longer than a moment, or closed, at most every few minutes in one project, and a few a day while one stays
open; without a peer nothing is looked at; and nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from convergenced.errors import ConvergenceError
from convergenced.model import Oid, ProjectId, SessionId
from convergenced.sync.board import ALL
from convergenced.sync.desk import Desk
from convergenced.sync.presence import EXPIRES, LiveSession, believed, live_in, open_sessions, tell
from convergenced.sync.rounds import Rounds

EVERY = 300.0
"""Seconds between two looks, and between two commits about one project, at least."""
SOON = 60.0
"""Seconds after which is looked again where a session may just have been opened."""
RENEWED = EXPIRES / 2
"""Seconds after which is said again what is still so."""
LANE = "roll-call"


@dataclass(slots=True)
class _Said:
    """What was said of one project. `at` is monotonic."""

    sessions: frozenset[SessionId] = frozenset()
    at: float | None = None
    since: dict[SessionId, float] = field(default_factory=dict)
    """When a session was first seen open here, Unix seconds."""


class RollCall:
    """Owns what this machine said of its open sessions, and what others say."""

    def __init__(self, desk: Desk, rounds: Rounds) -> None:
        self._desk = desk
        self._rounds = rounds
        self._due: float | None = desk.clock.monotonic() + SOON
        self._looked_at = desk.clock.monotonic()
        self._said: dict[ProjectId, _Said] = {}
        self._told_of: dict[ProjectId, tuple[Oid, list[tuple[LiveSession, float]]]] = {}

    # -- what others have open

    def elsewhere(self) -> list[LiveSession]:
        """The sessions of our projects that other machines have open now, the latest first."""
        desk, board = self._desk, self._desk.board
        mine = {project: tip for project, tip in board.tips.items() if board.of_project(project)}
        for project, tip in mine.items():
            if self._told_of.get(project, (None,))[0] != tip:
                self._told_of[project] = tip, live_in(desk.parts.store, project, tip)
        self._told_of = {project: told for project, told in self._told_of.items() if project in mine}
        claims = [claim for _, told in self._told_of.values() for claim in told]
        return believed(claims, desk.parts.machine.id, desk.clock.now())

    # -- what is open here

    @property
    def due(self) -> float | None:
        """When is looked next; None while somebody looks."""
        return self._due

    def noticed(self, project: ProjectId, sessions: Collection[SessionId]) -> None:
        """Sessions went on here: one of which nothing is said yet may have been opened just now."""
        said = self._said.get(project)
        if self._due is not None and (said is None or not said.sessions.issuperset(sessions)):
            self._due = min(self._due, max(self._desk.clock.monotonic(), self._looked_at + SOON))

    def start_due(self) -> None:
        """Starts what is due."""
        desk = self._desk
        now = desk.clock.monotonic()
        if self._due is None or now < self._due:
            return
        self._looked_at = now
        board = desk.board
        if not board.peers or board.halted is not None or ALL in board.pauses:
            self._due = now + EVERY
            return
        self._due = None
        replicas = [state.replica for state in board.replicas.values()]
        desk.submit(LANE, lambda: open_sessions(desk.parts, replicas), self._looked, self._failed)

    def _failed(self, _error: Exception) -> None:
        """The passes meet the same, and tell it."""
        self._due = self._desk.clock.monotonic() + EVERY

    def _looked(self, found: Mapping[ProjectId, frozenset[SessionId]]) -> None:
        now = self._desk.clock.monotonic()
        self._due = now + EVERY
        for project in self._desk.board.projects():
            self._call(project, found.get(project, frozenset()))

    def _call(self, project: ProjectId, sessions: frozenset[SessionId]) -> None:
        desk, now, wall = self._desk, self._desk.clock.monotonic(), self._desk.clock.now()
        said = self._said.setdefault(project, _Said())
        fresh = sessions - said.since.keys()
        said.since = {sid: said.since.get(sid, wall) for sid in sessions}
        # One that is seen for the first time may be gone in a moment, as those of scripts are.
        sessions = sessions - fresh
        if fresh:
            self._again(now + SOON)
            if said.at is None:
                return  # what was said before the daemon started is not taken back too soon
        renewed = said.at is not None and now - said.at >= RENEWED
        if said.at is not None and sessions == said.sessions and not (renewed and sessions):
            return
        if said.at is not None and now - said.at < EVERY:
            self._again(said.at + EVERY)
            return
        if desk.board.is_paused(project) or project in self._rounds.renaming:
            return
        former, said.sessions, said.at = said.sessions, sessions, now
        since = {sid: said.since[sid] for sid in sessions}

        def told(commit: Oid | None) -> None:
            if commit is not None:
                desk.board.tips[project] = commit
                self._rounds.offer(project)

        def failed(error: Exception) -> None:
            # The next look tries again; what is wrong with the project its passes tell.
            said.sessions = former
            if not isinstance(error, ConvergenceError):
                desk.degrade(LANE, error)

        desk.submit(
            desk.lane_of(project), lambda: tell(desk.parts, project, since, renewed=renewed), told, failed
        )

    def _again(self, due: float) -> None:
        self._due = due if self._due is None else min(self._due, due)
