"""Passes over replicas: when one ends, what follows from it and what is told of it.

Promise: a pass that fails is tried again after a growing but bounded time and concerns its own replica
only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from convergenced.errors import ConvergenceError
from convergenced.model import ProjectId, SessionId
from convergenced.sync.board import ReplicaState
from convergenced.sync.converge import Pass, converge
from convergenced.sync.desk import Desk, in_words
from convergenced.sync.healing import Healing
from convergenced.sync.ingest import Bulk
from convergenced.sync.localize import LocalizeReport, holder_of
from convergenced.sync.lookout import WATCH, Lookout
from convergenced.sync.plan import retry_delay
from convergenced.sync.replica import Replica
from convergenced.sync.rounds import Rounds
from convergenced.sync.screening import describe

log = logging.getLogger(__name__)


class Passes:
    """Starts passes and takes up their results."""

    def __init__(self, desk: Desk, lookout: Lookout, rounds: Rounds, healing: Healing) -> None:
        self._desk = desk
        self._healing = healing
        self._lookout = lookout
        self._rounds = rounds
        self.on_committed: Callable[[ProjectId, Collection[SessionId]], None] = lambda project, sessions: None
        """Hears of the sessions that went on here."""

    def start(self, state: ReplicaState) -> None:
        """Starts a pass over one replica."""
        desk, replica = self._desk, state.replica
        started = desk.clock.monotonic()
        only_held = state.held_at is not None and state.asked is None and state.first_change is None
        state.busy = True
        state.first_change = state.last_change = state.asked = state.retry_at = state.held_at = None
        whole_machine = desk.whole_machine
        since = state.glance()
        if WATCH in desk.board.degraded:
            since = None

        def tell(done: int, of: int) -> None:
            desk.post(lambda: _show(state, done, of))

        bulk = Bulk(tell, desk.surroundings.aside, desk.surroundings.searcher)

        def work() -> Pass | None:
            if only_held and holder_of(desk.parts, replica, whole_machine) is not None:
                return None
            return converge(desk.parts, replica, whole_machine=whole_machine, since=since, bulk=bulk)

        desk.submit(
            desk.lane_of(replica.project),
            work,
            lambda result: self._passed(state, result, started),
            lambda error: self._failed(state, error),
        )

    def _failed(self, state: ReplicaState, error: Exception) -> None:
        state.busy, state.progress = False, None
        state.failures += 1
        state.retry_at = self._desk.clock.monotonic() + retry_delay(state.failures)
        if not isinstance(error, (ConvergenceError, OSError)):
            log.error("work on %s failed", state.replica.project, exc_info=error)
        self._healing.suspect_for(state.replica.project, error)
        text, hint = in_words(error)
        if state.error != text:
            self._desk.note("error", state.replica.project, text)
        state.error, state.hint = text, hint

    def _passed(self, state: ReplicaState, result: Pass | None, started: float) -> None:
        desk, project = self._desk, state.replica.project
        now = desk.clock.monotonic()
        state.busy, state.progress = False, None
        if result is None:
            state.held_at = now
            return
        former, state.result = state.result, result
        state.started_at, state.error = started, None
        if result.tip is not None:
            desk.board.tips[project] = result.tip
        if result.ingest.gone:
            desk.parts.state.forget_replica(state.replica.folder)
            self._lookout.want()
        if result.ingest.commit is not None:
            state.last_ingest = desk.clock.now()
            state.note_commit(now)
            desk.note("commit", project, f"committed {result.ingest.message}")
            self.on_committed(project, result.ingest.changes.sessions)
        if result.news is not None and not desk.note_news(project, result.news):
            state.asked = now
        if result.localize is not None:
            self._localized(state, former, result.localize)
            state.hints.update(result.localize.written, result.localize.removed)
        if result.is_clean:
            state.scan = result.ingest.scan
        self._note_refusals(project, former, result)
        for one in result.ingest.found:
            desk.note("secret", project, f"{one.path} {describe([one])}; see: convergencectl scan")
        if result.ingest.retry or (result.localize is not None and result.localize.retry):
            state.failures += 1
            state.retry_at = now + retry_delay(state.failures)
        else:
            state.failures = 0
        self._rounds.offer(project)

    def _localized(self, state: ReplicaState, former: Pass | None, report: LocalizeReport) -> None:
        desk, project = self._desk, state.replica.project
        if report.written or report.removed:
            desk.note("localize", project, _counted(report.written, report.removed))
            self._prune_backups(state.replica)
        if report.held:
            state.held_at = desk.clock.monotonic()
            if former is None or former.localize is None or not former.localize.held:
                desk.note("hold", project, f"{report.held} held: {report.held_reason}")

    def _prune_backups(self, replica: Replica) -> None:
        desk = self._desk
        prune, keep = desk.surroundings.prune_backups, desk.settings.backups.keep
        desk.submit(
            desk.lane_of(replica.project),
            lambda: prune(replica.folder, keep),
            lambda _: desk.restore("backups"),
            lambda error: desk.degrade("backups", error),
        )

    def _note_refusals(self, project: ProjectId, former: Pass | None, result: Pass) -> None:
        known = set(former.refusals) if former is not None else set()
        for refusal in result.refusals:
            if refusal not in known:
                self._desk.note("quarantine", project, f"{refusal.where} {refusal.reason}")


def _show(state: ReplicaState, done: int, of: int) -> None:
    state.progress = done, of


def _counted(written: list[str], removed: list[str]) -> str:
    sessions = sum(1 for path in written if path.endswith(".jsonl") and "/" not in path)
    others = len(written) - sessions
    parts = []
    if sessions:
        parts.append(f"wrote {sessions} {'session' if sessions == 1 else 'sessions'}")
    if others:
        parts.append(f"wrote {others} other {'file' if others == 1 else 'files'}")
    if removed:
        parts.append(f"removed {len(removed)}")
    return ", ".join(parts)
