"""What the engine knows at one moment, and what follows from it.

Owns the state of every replica and peer between jobs and the judgements made from it: a project's
state, what is not in step yet, what a person should look at. Promise: nothing is called synced
unless it was looked at and no check failed.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from convergenced.machine.settings_schema import PeerSettings
from convergenced.machine.state import Notice, SecretNote
from convergenced.model import Oid, ProjectId, Refusal
from convergenced.store.peers import is_behind
from convergenced.sync.converge import Pass
from convergenced.sync.exchange import RoundReport
from convergenced.sync.plan import STREAK_REST, ReplicaView
from convergenced.sync.replica import Replica
from convergenced.sync.scan import Glance, Scan
from convergenced.sync.screening import describe

ProjectState = Literal["synced", "pending", "ahead", "behind", "held", "paused", "quarantined", "conflict"]
Cause = Literal["work", "held", "paused", "person", "peer"]
WaitsFor = Literal["person", "look", "exchange", "claude", "peer"]

COMES_RIGHT = frozenset({"unreachable", "outpaced"})
"""Kinds of `Attention` that are told but need nobody."""

HOLDS_BOTH = "was edited in two places and holds both sides"
"""What became of a memory file, in words that follow its path."""

ALL = "*"
"""The name under which everything is paused."""


@dataclass(slots=True)
class ReplicaState:
    """A replica between its passes. Times ending in `_at` are monotonic, `last_*` wall clock."""

    replica: Replica
    first_change: float | None = None
    last_change: float | None = None
    asked: float | None = 0.0
    retry_at: float | None = None
    failures: int = 0
    busy: bool = False
    started_at: float = -1.0
    """When the newest pass that is finished was started."""
    held_at: float | None = None
    result: Pass | None = None
    error: str | None = None
    hint: str = ""
    last_ingest: float | None = None
    progress: tuple[int, int] | None = None
    """While much is taken in: bytes that were, and all of them."""
    scan: Scan | None = None
    """What the newest pass saw of the folder, if it came out clean."""
    hints: set[str] = field(default_factory=set)
    """Paths that may have changed since the newest pass began."""
    is_all_asked: bool = True
    """Whether the next pass is to look at everything, whatever is known."""
    committed_at: float | None = None
    streak: int = 0
    """Commits in a row that followed each other closely."""

    def glance(self) -> Glance | None:
        """What a pass that starts now may go by; None where it must look at everything."""
        known = None if self.is_all_asked or self.scan is None else Glance(self.scan, frozenset(self.hints))
        self.scan, self.hints, self.is_all_asked = None, set(), False
        return known

    def note_commit(self, now: float) -> None:
        """Counts a commit."""
        followed = self.committed_at is not None and now - self.committed_at < STREAK_REST
        self.streak = self.streak + 1 if followed else 0
        self.committed_at = now

    def view(self, *, paused: bool) -> ReplicaView:
        """What the plan looks at."""
        return ReplicaView(
            first_change=self.first_change,
            last_change=self.last_change,
            asked=self.asked,
            retry_at=self.retry_at,
            held_since=self.held_at,
            busy=self.busy,
            paused=paused,
            committed_at=self.committed_at,
            streak=self.streak,
        )


@dataclass(slots=True)
class PeerStatus:
    """A peer between its rounds. `due_at` is monotonic, `last_*`, `failing_since` wall clock."""

    settings: PeerSettings
    due_at: float = 0.0
    busy: bool = False
    failures: int = 0
    started_at: float = -1.0
    """When the newest round that is finished was started, however it ended."""
    last_fetch: float | None = None
    last_push: float | None = None
    failing_since: float | None = None
    error: str | None = None
    hint: str = ""
    may_come_back: bool = False
    """Whether the last failure may pass without a person: the peer could not be reached."""
    report: RoundReport | None = None

    @property
    def state(self) -> Literal["ok", "failing", "untried"]:
        """In the words of the command contract."""
        if self.error is not None:
            return "failing"
        return "ok" if self.report is not None else "untried"


@dataclass(frozen=True, slots=True)
class Missing:
    """Why something is not in step yet."""

    project: str
    text: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class Attention:
    """One thing that a person should look at, and the command that settles it."""

    kind: str
    project: str | None
    text: str
    fix: str


@dataclass(frozen=True, slots=True)
class Distance:
    """How many commits a project is ahead of and behind the peers, the worst of each."""

    ahead: int = 0
    behind: int = 0


@dataclass(slots=True)
class Board:
    """Everything the engine knows."""

    replicas: dict[str, ReplicaState] = field(default_factory=dict)
    peers: dict[str, PeerStatus] = field(default_factory=dict)
    pauses: dict[str, float | None] = field(default_factory=dict)
    tracked: dict[tuple[str, ProjectId], Oid] = field(default_factory=dict)
    """What each peer is known to have of each project."""
    tips: dict[ProjectId, Oid] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    """Found when looking at the projects folder as a whole, or when the store was opened."""
    halted: str | None = None
    degraded: dict[str, Attention] = field(default_factory=dict)
    """Parts of the daemon that do not work, by name of the part."""
    surveyed_at: float = -1.0
    notices: list[Notice] = field(default_factory=list)
    """What is to be shown for a while and needs nobody."""
    beside: dict[str, Sequence[Attention]] = field(default_factory=dict)
    """What needs a person in parts that work beside the projects, by name of the part."""

    def is_paused(self, project: str) -> bool:
        """Whether nothing may be done for the project."""
        return ALL in self.pauses or project in self.pauses

    def projects(self) -> list[ProjectId]:
        """The projects this machine takes part in."""
        return sorted({state.replica.project for state in self.replicas.values()})

    def of_project(self, project: str) -> list[ReplicaState]:
        """The project's replicas, the primary one first."""
        return _in_order(state for state in self.replicas.values() if state.replica.project == project)

    def by_project(self) -> dict[ProjectId, list[ReplicaState]]:
        """All replicas as `projects` and `of_project` give them, in one go."""
        found: dict[ProjectId, list[ReplicaState]] = {}
        for state in self.replicas.values():
            found.setdefault(state.replica.project, []).append(state)
        return {project: _in_order(found[project]) for project in sorted(found)}

    def missing(self, project: ProjectId, since: float = -1.0) -> list[Missing]:
        """Why the project is not in step; empty where it is.

        Passes and rounds that were started before `since` (monotonic) do not count as a look.
        """
        return self._missing(project, self.of_project(project), since)

    def _missing(self, project: ProjectId, states: list[ReplicaState], since: float) -> list[Missing]:
        if self.is_paused(project):
            return [Missing(project, "paused", "paused")]
        found = [miss for state in states for miss in self._replica_missing(state, since)]
        newest = max((state.started_at for state in states), default=since)
        for name, peer in self.peers.items():
            found.extend(self._peer_missing(project, name, peer, min(newest, since) if since >= 0 else -1.0))
        return found

    def _replica_missing(self, state: ReplicaState, since: float) -> list[Missing]:
        project, result = state.replica.project, state.result
        if state.error is not None:
            return [Missing(project, state.error, "person")]
        if state.busy or state.first_change is not None or result is None or state.started_at < since:
            return [Missing(project, "local changes are being looked at", "work")]
        if result.ingest.halted is not None:
            return [Missing(project, result.ingest.halted, "person")]
        if result.localize is None:
            return []
        if result.localize.held:
            return [Missing(project, held_text(result), "held")]
        if not result.localize.settled or state.asked is not None or state.retry_at is not None:
            cause: Cause = "person" if result.localize.refusals and not result.localize.retry else "work"
            return [Missing(project, "not everything could be written here yet", cause)]
        return []

    def _peer_missing(self, project: ProjectId, name: str, peer: PeerStatus, since: float) -> list[Missing]:
        if peer.started_at >= since and peer.error is not None:
            return [Missing(project, f"{name} fails: {peer.error}", "peer")]
        if peer.report is None or peer.started_at < since:
            return [Missing(project, f"not exchanged with {name} yet", "work")]
        if project in peer.report.refusals:
            return [Missing(project, peer.report.refusals[project][0].reason, "person")]
        if project in peer.report.rejected:
            reason = peer.report.rejected[project]
            cause: Cause = "peer" if is_behind(reason) else "person"
            return [Missing(project, f"{name} did not take it: {reason}", cause)]
        if project in self.tips and self.tracked.get((name, project)) != self.tips[project]:
            return [Missing(project, f"not all of it is at {name} yet", "work")]
        return []

    def state_of(self, project: ProjectId, distance: Distance) -> ProjectState:
        """The project's state in one word, the most telling one first."""
        states = self.of_project(project)
        results = [state.result for state in states if state.result is not None]
        missing = self.missing(project)
        if self.is_paused(project):
            return "paused"
        if any(result.conflicts for result in results):
            return "conflict"
        if any(result.refusals for result in results):
            return "quarantined"
        if any(project in peer.report.refusals for peer in self.peers.values() if peer.report is not None):
            return "quarantined"
        if any(miss.cause == "held" for miss in missing):
            return "held"
        if any(miss.cause in ("work", "person") for miss in missing) and not (
            distance.ahead or distance.behind
        ):
            return "pending"
        if distance.behind:
            return "behind"
        if distance.ahead:
            return "ahead"
        return "pending" if missing else "synced"

    def waits_for(self, project: ProjectId) -> WaitsFor | None:
        """What has to happen until the project is in step; None where it is, or is paused."""
        if self.is_paused(project):
            return None
        states = self.of_project(project)
        local = {miss.cause for state in states for miss in self._replica_missing(state, -1.0)}
        causes = local | {miss.cause for miss in self.missing(project)}
        if "person" in causes:
            return "person"
        if "work" in causes:
            return "look" if "work" in local else "exchange"
        if "held" in causes:
            return "claude"
        answering = [(name, peer) for name, peer in self.peers.items() if peer.error is None]
        if any(self._peer_missing(project, name, peer, -1.0) for name, peer in answering):
            return "exchange"  # others were faster; it is tried again
        return "peer" if causes else None

    def summary(self) -> str:
        """One line for the service manager."""
        if self.halted is not None:
            return f"halted: {self.halted}"
        if ALL in self.pauses:
            return "paused"
        projects = self.by_project()
        waiting = sum(1 for project, states in projects.items() if self._missing(project, states, -1.0))
        number = len(projects)
        noun = "project" if number == 1 else "projects"
        return f"{number} {noun}, {waiting} not in step" if waiting else f"{number} {noun} in step"

    def attention(self) -> list[Attention]:
        """What a person should look at, the gravest first."""
        found = []
        if self.halted is not None:
            fix = "bring it back, or stop here: convergencectl down"
            found.append(Attention("halted", None, f"nothing is synced: {self.halted}", fix))
        found.extend(self.degraded.values())
        for states in self.by_project().values():
            for state in states:
                found.extend(_replica_attention(state))
        for name, peer in self.peers.items():
            if peer.error is not None:
                kind = "unreachable" if peer.may_come_back else "peer"
                hint = peer.hint or "it is tried again by itself"
                found.append(Attention(kind, None, f"{name}: {peer.error}", hint))
            if peer.report is not None:
                for project, reason in peer.report.rejected.items():
                    text = f"{name} did not take it: {reason}"
                    kind, fix = "rejected", "see what the peer says, then: convergencectl sync"
                    if is_behind(reason):
                        kind, fix = "outpaced", "it is tried again by itself; look at the peer if this stays"
                    found.append(Attention(kind, project, text, fix))
                for project, refusals in peer.report.refusals.items():
                    found.extend(_refused(project, refusal) for refusal in refusals)
                for project, outcome in peer.report.merges.items():
                    found.extend(_refused(project, refusal) for refusal in outcome.refusals)
        found.extend(_refused(None, refusal) for refusal in self.refusals)
        for ones in self.beside.values():
            found.extend(ones)
        return list(dict.fromkeys(found))


def _in_order(states: Iterable[ReplicaState]) -> list[ReplicaState]:
    """The primary one first."""
    return sorted(states, key=lambda state: (not state.replica.primary, state.replica.folder))


def held_text(result: Pass) -> str:
    """What is held and by whom, in words."""
    localized = result.localize
    if localized is None:
        return ""
    pid = f" (pid {localized.held_by.pid})" if localized.held_by is not None and localized.held_by.pid else ""
    return f"{localized.held} held: {localized.held_reason}{pid}"


def settling_command(project: str, path: str) -> str:
    """What settles a conflict in a memory file."""
    return f"convergencectl conflict resolve {shlex.quote(f'{project}:{path}')} --take ours|theirs|both"


def _replica_attention(state: ReplicaState) -> list[Attention]:
    project, result = state.replica.project, state.result
    found = []
    if state.error is not None:
        found.append(Attention("error", project, state.error, state.hint or "see: convergencectl log"))
    if result is None:
        return found
    if result.ingest.halted is not None:
        fix = f"bring it back, or stop tracking it: convergencectl project remove {project}"
        found.append(Attention("halted", project, result.ingest.halted, fix))
    found.extend(
        Attention("conflict", project, f"{path} {HOLDS_BOTH}", settling_command(project, path))
        for path in result.conflicts
    )
    found.extend(_refused(project, refusal) for refusal in result.refusals)
    by_path: dict[str, list[SecretNote]] = {}
    for one in result.ingest.secrets:
        by_path.setdefault(one.path, []).append(one)
    fix = f"convergencectl scan {shlex.quote(project)}"
    found.extend(
        Attention("secret", project, f"{path} {describe(notes)}", fix) for path, notes in by_path.items()
    )
    return found


def _refused(project: str | None, refusal: Refusal) -> Attention:
    return Attention("quarantine", project, f"{refusal.where} {refusal.reason}", refusal.remedy)
