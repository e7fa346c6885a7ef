"""Rounds with peers: one at a time with each, each in a lane of its own.

Promises: a failing peer delays nobody else; what is wanted while a round is under way gets another
round; a project whose name means other code at a peer steps aside before anything is mixed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from convergenced.errors import ConvergenceError, PeerUnreachableError, StoreError
from convergenced.model import Oid, ProjectId
from convergenced.ports import Peer
from convergenced.store.branch import tracking_ref
from convergenced.sync.board import ALL, PeerStatus
from convergenced.sync.desk import Desk, in_words
from convergenced.sync.exchange import RoundReport, exchange
from convergenced.sync.healing import Healing
from convergenced.sync.identity import Identity
from convergenced.sync.joining import Begun, Considered, consider_offers, move_project, rename_project
from convergenced.sync.lookout import Lookout
from convergenced.sync.plan import PUSH_DELAY, peer_delay
from convergenced.sync.side_branches import SideBranch, SideReport
from convergenced.sync.tips import ref_of, tip_of

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_TOLD = 20
"""Entries of a peer's tree that were left out of one merge and are told of in the log, at most."""


class Rounds:
    """Starts rounds and takes up their results."""

    def __init__(self, desk: Desk, lookout: Lookout, healing: Healing) -> None:
        self._desk = desk
        self._healing = healing
        self._lookout = lookout
        self._tried: dict[str, tuple[int, set[ProjectId]]] = {}
        """What each peer offered when checkouts of that were last looked for, and in which survey."""
        self._connections: dict[str, Peer] = {}
        """The newest connection to each peer; closing one that is done does nothing."""
        self.renaming: set[ProjectId] = set()
        """Projects that are getting another id, or are leaving: nothing is done for them meanwhile."""
        self.sides: list[SideBranch] = []
        """Branches that are exchanged beside the projects' own."""
        self.on_sides: Callable[[str, Mapping[str, SideReport]], None] = lambda name, reports: None
        """Hears what a round with a peer did about them."""
        self.on_moving: Begun = lambda project, name: None
        """Called by a worker before a project of ours goes on under another id (see `move_project`)."""
        self.on_moved: Begun = lambda project, name: None
        """Called in the control thread afterwards."""
        self._waiting: list[Callable[[], None]] = []

    def may_start(self, peer: PeerStatus) -> bool:
        """Whether a round may start: not before it is known what takes part."""
        board = self._desk.board
        stopped = board.halted is not None or ALL in board.pauses
        return not (peer.busy or stopped or board.surveyed_at < 0)

    def start(self, peer: PeerStatus) -> None:
        """Starts a round with the peer."""
        desk, name = self._desk, peer.settings.name
        peer.busy = True
        # What is wanted from now on, a round that is under way may have missed: it gets one of its own.
        peer.due_at = math.inf
        started = desk.clock.monotonic()
        projects = {
            project: self._lookout.identities.get(project, Identity())
            for project in desk.board.projects()
            if not desk.board.is_paused(project) and project not in self.renaming
        }
        trusted = {state.replica.project for state in desk.board.replicas.values() if state.replica.by_hand}
        settings, parts, scope = peer.settings, desk.parts, self._lookout.scope()
        unfit = peer.report.unfit if peer.report is not None else {}
        # A project that is getting another id is not compared with the peer's, of which they may speak.
        sides = () if self.renaming else tuple(self.sides)
        survey, tried = self._tried.get(name, (-1, set[ProjectId]()))
        surveys = self._lookout.surveys
        if survey != surveys:
            tried = set()

        def work() -> tuple[RoundReport, Considered]:
            connection = desk.surroundings.open_peer(settings)
            self._connections[name] = connection
            try:
                report = exchange(parts.store, connection, name, projects, trusted, unfit, sides)
                considered = Considered()
                if scope.auto_join and not tried >= report.offered.keys():
                    checkouts, offered = desk.surroundings.checkouts, report.offered
                    considered = consider_offers(parts, checkouts, scope, connection, name, projects, offered)
            finally:
                connection.close()
            return report, considered

        def done(result: tuple[RoundReport, Considered]) -> None:
            report, considered = result
            self._tried[name] = surveys, set(report.offered)
            self._exchanged(peer, report, considered, started)

        desk.submit(f"peer-{name}", work, done, lambda error: self._failed(peer, error, started))

    def close(self) -> None:
        """Breaks off all rounds under way."""
        for connection in list(self._connections.values()):
            connection.close()

    def offer_sides(self) -> None:
        """Has the peers visited soon: a branch beside the projects' has moved."""
        now = self._desk.clock.monotonic()
        for peer in self._desk.board.peers.values():
            if peer.failures == 0:
                peer.due_at = min(peer.due_at, now + PUSH_DELAY)

    def offer(self, project: ProjectId) -> None:
        """Has the peers that lack something of the project visited soon, and its other folders passed.

        At once where no pass is under way whose commit could leave together with this one. A merge that
        says nothing new to a peer waits a little: machines that merge each other's merges in step would
        never end.
        """
        desk = self._desk
        tip, now = desk.board.tips.get(project), desk.clock.monotonic()
        is_calm = not any(state.busy or state.asked is not None for state in desk.board.replicas.values())
        for name, peer in desk.board.peers.items():
            tracked = desk.board.tracked.get((name, project))
            lacks = tip is not None and tracked != tip
            if lacks and peer.failures == 0:
                peer.due_at = min(peer.due_at, now + PUSH_DELAY)
            if is_calm and peer.due_at <= now + PUSH_DELAY and not (lacks and self._say_alike(tracked, tip)):
                peer.due_at = now
        for state in desk.board.of_project(project):
            is_behind = state.result is not None and state.result.tip != tip
            if is_behind and not state.busy and state.asked is None:
                state.asked = now

    def _say_alike(self, one: Oid | None, other: Oid | None) -> bool:
        """Whether two commits hold the same."""
        store = self._desk.parts.store
        try:
            trees = {None if commit is None else store.read_commit(commit).tree for commit in (one, other)}
        except StoreError:
            return False
        return len(trees) == 1

    def _failed(self, peer: PeerStatus, error: Exception, started: float) -> None:
        desk, name = self._desk, peer.settings.name
        peer.busy, peer.started_at = False, started
        peer.failures += 1
        if not isinstance(error, ConvergenceError):
            log.error("the exchange with %s failed", name, exc_info=error)
        text, hint = in_words(error)
        if peer.error != text:
            desk.note("peer", None, f"{name}: {text}")
        peer.error, peer.hint = text, hint
        peer.may_come_back = isinstance(error, PeerUnreachableError)
        peer.failing_since = peer.failing_since or desk.clock.now()
        chance = desk.surroundings.chance()
        # Who asked meanwhile wants to know how things are now, not how they were.
        peer.due_at = min(peer.due_at, desk.clock.monotonic() + peer_delay(peer.failures, desk.pace, chance))
        if desk.board.peers.get(name) is peer:
            self._note_refs(name, desk.board.projects())

    def _exchanged(
        self, peer: PeerStatus, report: RoundReport, considered: Considered, started: float
    ) -> None:
        desk, name = self._desk, peer.settings.name
        if considered.joined:
            self._lookout.want()
        if desk.board.peers.get(name) is not peer:
            return  # taken away meanwhile, or another place now
        if peer.error is not None:
            desk.note("peer", None, f"{name} answers again")
        peer.busy, peer.failures, peer.error, peer.failing_since = False, 0, None, None
        former, peer.report = peer.report, report
        now = desk.clock.monotonic()
        peer.started_at = started
        peer.last_fetch = desk.clock.now()
        if report.pushed:
            peer.last_push = peer.last_fetch
        peer.due_at = min(peer.due_at, now + peer_delay(0, desk.pace, desk.surroundings.chance()))
        unknown = {project for project in desk.board.projects() if (name, project) not in desk.board.tracked}
        self._note_refs(name, report.moved | unknown)
        for project in report.damaged:
            self._healing.suspect(project)
        self._tell(name, report, former)
        if report.sides:
            self.on_sides(name, report.sides)
        for text in considered.joined:
            desk.note("join", None, f"joined {text}")
        for project in report.strangers:
            identity = self._lookout.identities.get(project, Identity())
            self._move(
                project,
                lambda project=project, identity=identity: rename_project(  # type: ignore[misc]
                    desk.parts, project, identity, self.on_moving
                ),
                f"a peer has other code under the name {project}",
            )
        for ours, theirs in considered.twins:
            self._move(
                ours,
                lambda ours=ours, theirs=theirs: move_project(desk.parts, ours, theirs, self.on_moving),  # type: ignore[misc]
                f"a peer has the same code as {ours} under another name",
            )

    def _tell(self, name: str, report: RoundReport, former: RoundReport | None) -> None:
        desk = self._desk
        if report.pushed:
            desk.note("push", None, f"pushed {', '.join(report.pushed)} to {name}")
        for project, outcome in report.merges.items():
            desk.note("fetch", project, f"fetched from {name}")
            for refusal in outcome.refusals[:MAX_TOLD]:
                desk.note("quarantine", project, f"{name}: {refusal.where} {refusal.reason}")
        for project, reason in report.rejected.items():
            if former is None or former.rejected.get(project) != reason:
                desk.note("rejected", project, f"{name} did not take it: {reason}")
        for project, refusals in report.refusals.items():
            if former is None or former.refusals.get(project) != refusals:
                desk.note("quarantine", project, f"{name}: {refusals[0].reason}")

    def _note_refs(self, name: str, projects: Iterable[ProjectId]) -> None:
        """Takes up what a round left in the store: one that broke off may have merged before it did."""
        board, store = self._desk.board, self._desk.parts.store
        try:
            refs = {
                project: (ref_of(store, tracking_ref(name, project)), tip_of(store, project))
                for project in projects
            }
        except StoreError as error:
            self._desk.degrade("store", error)
            return
        self._desk.restore("store")
        for project, (tracked, tip) in refs.items():
            if tracked is None:
                board.tracked.pop((name, project), None)
            else:
                board.tracked[(name, project)] = tracked
            if tip is not None and tip != board.tips.get(project):
                board.tips[project] = tip
                for state in board.of_project(project):
                    state.asked = self._desk.clock.monotonic()
                self.offer(project)

    def _move(self, project: ProjectId, job: Callable[[], ProjectId], reason: str) -> None:
        """Gives a project of ours another id."""
        desk, part = self._desk, f"rename {project}"
        if project not in desk.board.projects() or project in self.renaming:
            return

        def moved(name: ProjectId) -> None:
            desk.restore(part)
            desk.note("rename", name, f"{reason}; ours is now {name}")
            self.on_moved(project, name)
            for peer in desk.board.peers.values():
                peer.due_at = desk.clock.monotonic()

        self._alone(project, job, moved, lambda error: desk.degrade(part, error))

    def _alone(
        self,
        project: ProjectId,
        job: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Does something to a project in its own lane: passes that were begun end first.

        Until its folders were surveyed again, nothing is done for them.
        """
        desk = self._desk
        self.renaming.add(project)

        def succeeded(result: T) -> None:
            self.renaming.discard(project)
            for state in desk.board.of_project(project):
                del desk.board.replicas[state.replica.folder]
            self._lookout.distrust()
            done(result)

        def broke(error: Exception) -> None:
            self.renaming.discard(project)
            self._lookout.distrust()
            failed(error)

        desk.submit(desk.lane_of(project), job, succeeded, broke)

    def apart(
        self,
        project: ProjectId,
        job: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Does something to a project while no pass and no round has to do with it.

        Rounds that are under way end first; they might bring back what the job takes away.
        """
        if project in self.renaming:
            failed(ConvergenceError(f"something else is done to {project} right now", "try again"))
            return
        self.renaming.add(project)
        busy = {name: peer.started_at for name, peer in self._desk.board.peers.items() if peer.busy}

        def start() -> None:
            peers = self._desk.board.peers
            if any(name in peers and peers[name].started_at == at for name, at in busy.items()):
                return
            self._waiting.remove(start)
            self._alone(project, job, done, failed)

        self._waiting.append(start)
        start()

    def start_waiting(self) -> None:
        """Starts what waited for rounds to end."""
        for start in list(self._waiting):
            start()
