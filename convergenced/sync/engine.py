"""The engine: one control thread that owns the sync state and decides what is done next.

Everything that blocks (reading, committing, the network) is a job for workers, whose results come
back as messages. The thread itself only waits for messages and for the next time something is due,
so it always answers. A simulator drives the same engine through `turn`.
"""

from __future__ import annotations

import logging
import math
import queue
import random
import threading
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from posixpath import dirname
from typing import Protocol, TypeVar

from convergenced.errors import ConvergenceError
from convergenced.machine.activity import ActivityLog, Event
from convergenced.machine.settings import expand_home
from convergenced.machine.settings_schema import PeerSettings, Settings
from convergenced.model import LocalPath, ProjectId
from convergenced.ports import Checkouts, Peer, Watcher
from convergenced.store.branch import MergeOutcome, ahead_behind, tracking_ref
from convergenced.sync.board import ALL, Attention, Board, Distance, Missing, PeerStatus, ReplicaState
from convergenced.sync.converge import Pass, converge
from convergenced.sync.exchange import RoundReport, exchange
from convergenced.sync.identity import Identity
from convergenced.sync.joining import join_offered, rename_project
from convergenced.sync.localize import holder_of
from convergenced.sync.plan import PUSH_DELAY, Pace, peer_delay, replica_due, retry_delay
from convergenced.sync.preview import preview
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.survey import Scope, Survey, survey
from convergenced.sync.tips import ref_of, tip_of

log = logging.getLogger(__name__)

T = TypeVar("T")

IDLE_TURN = 20.0
"""The engine turns at least this often, in seconds, so that a watchdog sees it alive."""
WAKE_JUMP = 30.0
"""A step of the wall clock against the monotonic one, in seconds, that means the machine slept."""
MAX_BATCH = 1_000
"""Messages handled in one turn, at most."""
HALTED_POLL = 30.0
"""How often is looked whether a projects folder that was lost is back, in seconds."""
LOCAL_LANES = 2


class Workers(Protocol):
    """Where blocking work is done."""

    def submit(self, lane: str, job: Callable[[], None]) -> None:
        """Runs the job soon; jobs of one lane run one after the other, in order."""
        ...

    def drain(self, seconds: float) -> bool:
        """Takes no more jobs and waits for those under way; tells whether all ended in time."""
        ...


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
    chance: Callable[[], float] = random.random
    on_turn: Callable[[], None] = field(default=lambda: None)
    idle_turn: float = IDLE_TURN


class Engine:
    """Watches, commits, exchanges and localizes until it is stopped."""

    def __init__(self, surroundings: Surroundings, settings: Settings) -> None:
        self._s = surroundings
        self._parts = surroundings.parts
        self._clock = surroundings.parts.clock
        self._messages: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._settings = settings
        self.board = Board()
        self._identities: dict[ProjectId, Identity] = {}
        self._survey_due: float | None = 0.0
        self._surveying = False
        self._survey_is_stale = False
        self._renaming: set[ProjectId] = set()
        self._ignored: set[str] = set()
        self._join_tried: dict[str, set[ProjectId]] = {}
        """What each peer offered when it was last looked for checkouts of that."""
        self._rescan_due = 0.0
        self._watching = False
        self._waiters: list[_Waiter] = []
        self._connections: dict[str, Peer] = {}
        """The newest connection to each peer; closing one that is done does nothing."""
        self._stopping = threading.Event()
        self._stopped_at: float | None = None
        self._drift = 0.0
        self._distances: dict[tuple[str, str], tuple[int, int]] = {}
        self.started_at = self._clock.now()
        self.ready = False

    # -- life

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    def post(self, message: Callable[[], None]) -> None:
        """Has `message` called in the control thread; safe from any thread."""
        self._messages.put(message)

    def start(self) -> None:
        """Takes up work: called once, in the control thread."""
        self.board.pauses = dict(self._parts.state.pauses())
        self._drift = self._clock.now() - self._clock.monotonic()
        for settings in self._settings.peers:
            self.board.peers[settings.name] = PeerStatus(settings)
        self._rescan_due = self._clock.monotonic() + self._settings.ingest.rescan
        self._watch()
        self.note("start", None, f"version {self._parts.machine.version} on {self._parts.machine.name}")

    def run(self) -> None:
        """Turns until `stop` is called."""
        self.start()
        while not self._stopping.is_set():
            timeout = max(0.0, self.next_due() - self._clock.monotonic())
            try:
                first = self._messages.get(timeout=timeout)
            except queue.Empty:
                self.turn()
            else:
                self.turn(first)

    def turn(self, first: Callable[[], None] | None = None) -> None:
        """Handles what came in and starts what is due. Never blocks."""
        if first is not None:
            first()
        for _ in range(MAX_BATCH):
            try:
                message = self._messages.get_nowait()
            except queue.Empty:
                break
            message()
        self._notice_wake_up()
        self._end_pauses()
        self._start_due()
        self._answer_waiters()
        self._s.on_turn()

    def stop(self) -> None:
        """Ends `run` after this turn; safe from any thread and from signal handlers."""
        self._stopping.set()
        self._messages.put(lambda: None)

    def close(self, seconds: float) -> bool:
        """Stops watching and lets jobs under way end; tells whether they did in time."""
        self._s.watcher.stop()
        drained = self._s.workers.drain(seconds / 2)
        if not drained:
            for connection in list(self._connections.values()):
                connection.close()
            drained = self._s.workers.drain(seconds / 2)
        for _ in range(MAX_BATCH):
            try:
                self._messages.get_nowait()()
            except queue.Empty:
                break
        self.note("stop", None, "all work is put away" if drained else "stopped with work under way")
        return drained

    def note(self, kind: str, project: str | None, text: str) -> None:
        """Tells the log what was done."""
        log.info("%s%s: %s", kind, f" {project}" if project else "", text)
        self._s.activity.append(Event(kind, text, ProjectId(project) if project else None))

    # -- what is due

    def next_due(self) -> float:
        """The monotonic time at which `turn` has something to do by itself."""
        now = self._clock.monotonic()
        times = [now + self._s.idle_turn, self._rescan_due]
        if self._survey_due is not None and not self._surveying:
            times.append(self._survey_due)
        pace = self._pace()
        for state in self.board.replicas.values():
            due = replica_due(state.view(paused=self._is_paused(state)), pace)
            if due is not None:
                times.append(due)
        times.extend(peer.due_at for peer in self.board.peers.values() if self._may_exchange(peer))
        times.extend(waiter.deadline for waiter in self._waiters if waiter.deadline is not None)
        ends = (until - self._clock.now() for until in self.board.pauses.values() if until is not None)
        times.extend(now + max(0.0, left) for left in ends)
        return min(times)

    def _pace(self) -> Pace:
        ingest = self._settings.ingest
        return Pace(ingest.quiet, ingest.max_wait, ingest.rescan, self._settings.exchange.interval)

    def _is_paused(self, state: ReplicaState) -> bool:
        project = state.replica.project
        return self.board.halted is not None or self.board.is_paused(project) or project in self._renaming

    def _may_exchange(self, peer: PeerStatus) -> bool:
        """Whether a round may start: not before it is known what takes part."""
        stopped = self.board.halted is not None or ALL in self.board.pauses
        return not (peer.busy or stopped or self.board.surveyed_at < 0)

    def _start_due(self) -> None:
        now = self._clock.monotonic()
        if now >= self._rescan_due:
            self._rescan_due = now + self._settings.ingest.rescan
            self._survey_due = now
            for state in self.board.replicas.values():
                state.asked = now if state.asked is None else state.asked
        if self._survey_due is not None and now >= self._survey_due and not self._surveying:
            self._start_survey()
        pace = self._pace()
        for state in self.board.replicas.values():
            due = replica_due(state.view(paused=self._is_paused(state)), pace)
            if due is not None and now >= due:
                self._start_pass(state)
        for peer in self.board.peers.values():
            if now >= peer.due_at and self._may_exchange(peer):
                self._start_round(peer)

    def _notice_wake_up(self) -> None:
        drift = self._clock.now() - self._clock.monotonic()
        if drift - self._drift > WAKE_JUMP:
            self.note("wake", None, "the machine slept or the clock was set; looking at everything")
            self.look_at_everything()
        self._drift = drift

    def _end_pauses(self) -> None:
        now = self._clock.now()
        for name in [name for name, until in self.board.pauses.items() if until is not None and until <= now]:
            self.resume([name])

    # -- jobs

    def _submit(
        self, lane: str, job: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        def work() -> None:
            try:
                result = job()
            except Exception as error:  # noqa: BLE001 - whatever a job meets belongs to that job alone
                self.post(lambda error=error: failed(error))  # type: ignore[misc]
            else:
                self.post(lambda: done(result))

        self._s.workers.submit(lane, work)

    def _scope(self) -> Scope:
        projects, home = self._settings.projects, self._parts.machine.home
        # Where the user keeps one checkout others are likely; the home folder itself is too wide.
        beside = {LocalPath(dirname(state.replica.root)) for state in self.board.replicas.values()}
        wanted = {expand_home(root, home) for root in projects.roots} | (beside - {home, LocalPath("/")})
        roots = tuple(sorted(root for root in wanted if not _is_below_another(root, wanted)))
        return Scope(projects.track == "all", projects.exclude, roots, projects.auto_join)

    def _start_survey(self) -> None:
        self._survey_due = None
        self._surveying = True
        self._survey_is_stale = False
        started = self._clock.monotonic()
        scope = self._scope()

        def failed(error: Exception) -> None:
            self._surveying = False
            self._survey_due = self._clock.monotonic() + retry_delay(6)
            self._degrade("survey", error)

        self._submit(
            "local-0",
            lambda: survey(self._parts, self._s.checkouts, scope),
            lambda result: self._surveyed(result, started),
            failed,
        )

    def _surveyed(self, result: Survey, started: float) -> None:
        self._surveying = False
        if self._survey_is_stale:
            self._survey_due = self._clock.monotonic()
            return
        self.board.surveyed_at = started
        self.board.degraded.pop("survey", None)
        self.ready = True
        if result.halted != self.board.halted:
            text = f"nothing is synced: {result.halted}" if result.halted else "the projects folder is back"
            self.note("halt", None, text)
        self.board.halted = result.halted
        if result.halted is not None:
            # Its return may be heard of by nobody: what was watched is gone.
            self._survey_due = self._clock.monotonic() + HALTED_POLL
            return
        self.board.refusals = result.refusals
        self._identities = result.identities
        self._ignored = result.ignored
        self._join_tried.clear()
        found = {replica.folder: replica for replica in result.replicas}
        for folder in self.board.replicas.keys() - found.keys():
            del self.board.replicas[folder]
        for folder, replica in found.items():
            state = self.board.replicas.get(folder)
            if state is None:
                self.board.replicas[folder] = ReplicaState(replica, asked=self._clock.monotonic())
                self.note("track", replica.project, f"{replica.root}")
            elif state.replica != replica:
                state.replica = replica
                state.asked = self._clock.monotonic()
        self._watch()

    def _start_pass(self, state: ReplicaState) -> None:
        now = self._clock.monotonic()
        was_held = state.held_at is not None and state.asked is None and state.first_change is None
        state.busy = True
        state.first_change = state.last_change = state.asked = state.retry_at = state.held_at = None
        replica, parts = state.replica, self._parts
        whole_machine = self._settings.localize.hold == "machine"

        def work() -> Pass | None:
            if was_held and holder_of(parts, replica, whole_machine) is not None:
                return None
            return converge(parts, replica, whole_machine=whole_machine)

        def failed(error: Exception) -> None:
            state.busy = False
            state.failures += 1
            state.retry_at = self._clock.monotonic() + retry_delay(state.failures)
            self._report_error(state, error)

        self._submit(
            self._lane(replica.project), work, lambda result: self._passed(state, result, now), failed
        )

    def _report_error(self, state: ReplicaState, error: Exception) -> None:
        if not isinstance(error, (ConvergenceError, OSError)):
            log.error("work on %s failed", state.replica.project, exc_info=error)
        text = error.summary if isinstance(error, ConvergenceError) else str(error) or type(error).__name__
        if state.error != text:
            self.note("error", state.replica.project, text)
        state.error = text
        state.hint = error.hint if isinstance(error, ConvergenceError) else ""

    def _passed(self, state: ReplicaState, result: Pass | None, started: float) -> None:
        now = self._clock.monotonic()
        state.busy = False
        if result is None:
            state.held_at = now
            return
        former = state.result
        state.started_at, state.result, state.error = started, result, None
        project = state.replica.project
        if result.tip is not None:
            self.board.tips[project] = result.tip
        if result.ingest.gone:
            self._parts.state.forget_replica(state.replica.folder)
            self._survey_due = now
        if result.ingest.commit is not None:
            state.last_ingest = self._clock.now()
            self.note("commit", project, result.ingest.message)
        self._tell_merge(project, result.ingest.merged, "local changes")
        localized = result.localize
        if localized is not None:
            if localized.written or localized.removed:
                self.note("localize", project, _counted(localized.written, localized.removed))
                self._prune(state.replica)
            if localized.held:
                state.held_at = now
                if former is None or former.localize is None or not former.localize.held:
                    self.note("hold", project, f"{localized.held} wait: {localized.held_reason}")
        self._tell_refusals(project, former, result)
        if result.ingest.retry or (localized is not None and localized.retry):
            state.failures += 1
            state.retry_at = now + retry_delay(state.failures)
        else:
            state.failures = 0
        self._offer(project)

    def _prune(self, replica: Replica) -> None:
        keep = self._settings.backups.keep
        self._submit(
            self._lane(replica.project),
            lambda: self._s.prune_backups(replica.folder, keep),
            lambda _: None,
            lambda error: self._degrade("backups", error),
        )

    def _tell_refusals(self, project: ProjectId, former: Pass | None, result: Pass) -> None:
        known = set(former.refusals) if former is not None else set()
        for refusal in result.refusals:
            if refusal not in known:
                self.note("quarantine", project, f"{refusal.where} {refusal.reason}")

    def _tell_merge(self, project: ProjectId, outcome: MergeOutcome | None, source: str) -> None:
        if outcome is None:
            return
        for fork in outcome.forks:
            self.note(
                "fork", project, f"session {fork.session} went on in two places; the other is {fork.fork}"
            )
        for path in outcome.conflicts:
            self.note("conflict", project, f"{path} was edited on both sides in the same place ({source})")

    def _offer(self, project: ProjectId) -> None:
        """Has peers that lack something of the project be visited soon."""
        tip = self.board.tips.get(project)
        soon = self._clock.monotonic() + PUSH_DELAY
        for name, peer in self.board.peers.items():
            if tip is not None and self.board.tracked.get((name, project)) != tip and peer.failures == 0:
                peer.due_at = min(peer.due_at, soon)
        for state in self.board.of_project(project):
            # Another folder of the same project on this machine.
            settled = state.result is not None and state.result.tip == tip
            if not settled and not state.busy and state.asked is None and state.result is not None:
                state.asked = self._clock.monotonic()

    def _start_round(self, peer: PeerStatus) -> None:
        peer.busy = True
        # What is wanted from now on, a round that is under way may have missed: it gets one of its own.
        peer.due_at = math.inf
        started = self._clock.monotonic()
        name = peer.settings.name
        projects = {
            project: self._identities.get(project, Identity())
            for project in self.board.projects()
            if not self.board.is_paused(project) and project not in self._renaming
        }
        trusted = {state.replica.project for state in self.board.replicas.values() if state.replica.by_hand}
        settings, parts, scope = peer.settings, self._parts, self._scope()
        unfit = peer.report.unfit if peer.report is not None else {}
        # What was looked for once is looked for again when the projects folder was.
        tried = self._join_tried.get(name, set())

        def work() -> tuple[RoundReport, list[str]]:
            connection = self._s.open_peer(settings)
            self._connections[name] = connection
            try:
                report = exchange(parts.store, connection, name, projects, trusted, unfit)
                joined = []
                if scope.auto_join and not tried >= report.offered.keys():
                    joined = join_offered(
                        parts, self._s.checkouts, scope.roots, connection, name, report.offered
                    )
            finally:
                connection.close()
            return report, joined

        def failed(error: Exception) -> None:
            peer.busy = False
            if not isinstance(error, ConvergenceError):
                log.error("the exchange with %s failed", name, exc_info=error)
            peer.failures += 1
            text = (
                error.summary if isinstance(error, ConvergenceError) else str(error) or type(error).__name__
            )
            if peer.error != text:
                self.note("peer", None, f"{name}: {text}")
            peer.error, peer.hint = text, error.hint if isinstance(error, ConvergenceError) else ""
            peer.failing_since = peer.failing_since or self._clock.now()
            peer.due_at = self._clock.monotonic() + peer_delay(peer.failures, self._pace(), self._s.chance())
            if self.board.peers.get(name) is peer:
                self._note_refs(name)

        self._submit(f"peer-{name}", work, lambda result: self._exchanged(peer, *result, started), failed)

    def _exchanged(
        self, peer: PeerStatus, report: RoundReport, joined: Iterable[str], started: float
    ) -> None:
        name, now = peer.settings.name, self._clock.now()
        if joined:
            self._survey_due = self._clock.monotonic()
        if self.board.peers.get(name) is not peer:
            return  # taken away meanwhile, or another place now
        if peer.error is not None:
            self.note("peer", None, f"{name} answers again")
        peer.busy, peer.failures, peer.error, peer.failing_since = False, 0, None, None
        self._join_tried[name] = set(report.offered)
        former, peer.report = peer.report, report
        peer.started_at, peer.finished_at = started, self._clock.monotonic()
        peer.last_fetch = now
        if report.pushed:
            peer.last_push = now
            self.note("push", None, f"{', '.join(report.pushed)} to {name}")
        next_round = self._clock.monotonic() + peer_delay(0, self._pace(), self._s.chance())
        peer.due_at = min(peer.due_at, next_round)
        self._note_refs(name)
        for project, outcome in report.merges.items():
            self.note("fetch", project, f"from {name}")
            self._tell_merge(project, outcome, f"from {name}")
        for project, reason in report.rejected.items():
            if former is None or former.rejected.get(project) != reason:
                self.note("rejected", project, f"{name} did not take it: {reason}")
        for project, refusals in report.refusals.items():
            if former is None or former.refusals.get(project) != refusals:
                self.note("quarantine", project, f"{name}: {refusals[0].reason}")
        for text in joined:
            self.note("join", None, text)
        for project in report.strangers:
            if project in self.board.projects() and project not in self._renaming:
                self._step_aside(project)

    def _note_refs(self, name: str) -> None:
        """Takes up what a round left in the store: one that broke off may have merged before it did."""
        for project in self.board.projects():
            tracked = ref_of(self._parts.store, tracking_ref(name, project))
            if tracked is None:
                self.board.tracked.pop((name, project), None)
            else:
                self.board.tracked[(name, project)] = tracked
            tip = tip_of(self._parts.store, project)
            if tip is not None and tip != self.board.tips.get(project):
                self.board.tips[project] = tip
                for state in self.board.of_project(project):
                    state.asked = self._clock.monotonic()
                self._offer(project)

    def _step_aside(self, project: ProjectId) -> None:
        """Gives a project of ours another id, in its own lane: passes that were begun end first.

        Until its folders were surveyed under the new id, nothing is done for them.
        """
        identity = self._identities.get(project, Identity())
        part = f"rename {project}"
        self._renaming.add(project)

        def renamed(name: ProjectId) -> None:
            self._renaming.discard(project)
            self.board.degraded.pop(part, None)
            for state in self.board.of_project(project):
                del self.board.replicas[state.replica.folder]
            self._survey_is_stale = self._surveying
            self.note("rename", name, f"a peer has other code under the name {project}; ours is now {name}")
            self.tracked_anew()

        def failed(error: Exception) -> None:
            self._renaming.discard(project)
            self._degrade(part, error)

        self._submit(
            self._lane(project), lambda: rename_project(self._parts, project, identity), renamed, failed
        )

    def _lane(self, project: ProjectId) -> str:
        return f"local-{zlib.crc32(project.encode()) % LOCAL_LANES}"

    def _degrade(self, part: str, error: Exception) -> None:
        text = error.summary if isinstance(error, ConvergenceError) else str(error) or type(error).__name__
        hint = error.hint if isinstance(error, ConvergenceError) else "see: convergencectl log"
        if not isinstance(error, (ConvergenceError, OSError)):
            log.error("%s failed", part, exc_info=error)
        if part not in self.board.degraded:
            self.note("error", None, text)
        self.board.degraded[part] = Attention("degraded", None, text, hint)

    # -- hints

    def _watch(self) -> None:
        if not self._watching:
            try:
                self._s.watcher.start(
                    self._parts.machine.projects_dir, lambda path: self.post(lambda: self.changed(path))
                )
            except (ConvergenceError, OSError) as error:
                if self._parts.files.list(self._parts.machine.projects_dir) is not None:
                    self._degrade("watch", error)
                return
            self._watching = True
        trouble = self._s.watcher.trouble()
        if trouble is None:
            self.board.degraded.pop("watch", None)
        else:
            self._degrade("watch", ConvergenceError(trouble, "changes are still found by scanning"))

    def changed(self, path: LocalPath) -> None:
        """A hint that something changed at `path`."""
        below = path.removeprefix(self._parts.machine.projects_dir).lstrip("/")
        folder = below.partition("/")[0]
        now = self._clock.monotonic()
        state = self.board.replicas.get(folder)
        if folder in self._ignored:
            return
        if state is None:
            quiet = self._settings.ingest.quiet
            self._survey_due = now + quiet if self._survey_due is None else self._survey_due
            return
        state.last_change = now
        if state.first_change is None:
            state.first_change = now

    def look_at_everything(self, projects: Iterable[str] | None = None) -> float:
        """Has everything (or these projects) looked at and exchanged now; returns the time of asking."""
        now = self._clock.monotonic()
        wanted = None if projects is None else set(projects)
        for state in self.board.replicas.values():
            if wanted is None or state.replica.project in wanted:
                state.asked = now
        self._survey_due = now
        for peer in self.board.peers.values():
            peer.due_at = now
        return now

    # -- what people ask for

    def pause(self, projects: Sequence[str], until: float | None) -> None:
        """Stops work on these projects, or on all; survives a restart."""
        for name in projects or [ALL]:
            self._parts.state.pause(name, until)
            self.board.pauses[name] = until
            self.note("pause", None if name == ALL else name, "paused")

    def resume(self, projects: Sequence[str]) -> None:
        """Takes work up again; nothing that happened meanwhile is missed."""
        for name in projects or list(self.board.pauses):
            if name in self.board.pauses:
                self._parts.state.resume(name)
                del self.board.pauses[name]
                self.note("resume", None if name == ALL else name, "resumed")
        self.look_at_everything()

    def apply(self, settings: Settings) -> None:
        """Takes on changed settings without a restart."""
        self._settings = settings
        wanted = {peer.name: peer for peer in settings.peers}
        for name in [name for name, peer in self.board.peers.items() if wanted.get(name) != peer.settings]:
            del self.board.peers[name]
            for key in [key for key in self.board.tracked if key[0] == name]:
                del self.board.tracked[key]
        for name, peer in wanted.items():
            if name not in self.board.peers:
                self.board.peers[name] = PeerStatus(peer, due_at=self._clock.monotonic())
        self._survey_due = self._clock.monotonic()
        self.note("config", None, "settings applied")

    def forget_notes(self, projects: Iterable[str] | None) -> None:
        """Has all files of these projects (or of all) read again in full."""
        wanted = None if projects is None else set(projects)
        for state in self.board.replicas.values():
            if wanted is None or state.replica.project in wanted:
                self._parts.state.forget_files(state.replica.folder)

    def tracked_anew(self) -> None:
        """Has a folder that was made to take part just now be taken in."""
        self._survey_due = self._clock.monotonic()
        for peer in self.board.peers.values():
            peer.due_at = self._survey_due

    def distance(self, project: ProjectId) -> Distance:
        """How far the project is ahead of and behind its peers, the worst of each."""
        tip = self.board.tips.get(project)
        ahead = behind = 0
        for (_, tracked_project), tracked in self.board.tracked.items():
            if tracked_project == project and tip is not None and tracked != tip:
                key = (tip, tracked)
                if key not in self._distances:
                    self._distances = {key: ahead_behind(self._parts.store, tip, tracked)}
                ahead, behind = max(ahead, self._distances[key][0]), max(behind, self._distances[key][1])
        return Distance(ahead, behind)

    @property
    def checkouts(self) -> Checkouts:
        """Which code lies where, for requests that are answered by workers."""
        return self._s.checkouts

    def peer_openers(self) -> dict[str, Callable[[], Peer]]:
        """A way to each peer, for requests that are answered by workers."""
        return {peer.name: partial(self._s.open_peer, peer) for peer in self._settings.peers}

    def background(
        self, job: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        """Has a request's blocking work done by a worker; both answers come in the control thread."""
        self._submit("request", job, done, failed)

    def preview(
        self, projects: Iterable[str] | None, answer: Callable[[list[tuple[str, str]]], None]
    ) -> None:
        """Calls `answer` with lines of (project, what a sync would do)."""
        wanted = None if projects is None else set(projects)
        states = self.board.replicas.values()
        replicas = [one.replica for one in states if wanted is None or one.replica.project in wanted]
        tracked, peers = dict(self.board.tracked), list(self.board.peers)
        whole_machine = self._settings.localize.hold == "machine"
        self.background(
            lambda: preview(self._parts, replicas, tracked, peers, whole_machine=whole_machine),
            answer,
            lambda error: answer([("", f"cannot tell: {error}")]),
        )

    def unsynced(self, projects: Iterable[ProjectId] | None, since: float) -> list[Missing]:
        """What is not in step, looking only at what was looked at after `since`."""
        if self.board.surveyed_at < since:
            return [Missing("", "the projects folder is being looked at", "work")]
        if self.board.halted is not None:
            return [Missing("", f"nothing is synced: {self.board.halted}", "person")]
        wanted = self.board.projects() if projects is None else list(projects)
        return [miss for project in wanted for miss in self.board.missing(project, since)]

    def wait(
        self,
        projects: Iterable[ProjectId] | None,
        since: float,
        timeout: float | None,
        answer: Callable[[list[Missing]], bool],
    ) -> None:
        """Calls `answer` with what is missing after every turn, until it returns True.

        At the deadline it is called once more, whatever it returns.
        """
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        self._waiters.append(_Waiter(None if projects is None else tuple(projects), since, deadline, answer))

    def _answer_waiters(self) -> None:
        now = self._clock.monotonic()
        remaining = []
        for waiter in self._waiters:
            late = waiter.deadline is not None and now >= waiter.deadline
            if not waiter.answer(self.unsynced(waiter.projects, waiter.since)) and not late:
                remaining.append(waiter)
        self._waiters = remaining


@dataclass(frozen=True, slots=True)
class _Waiter:
    projects: tuple[ProjectId, ...] | None
    since: float
    deadline: float | None
    answer: Callable[[list[Missing]], bool]


def _is_below_another(folder: str, others: Iterable[str]) -> bool:
    return any(folder != other and folder.startswith(other.rstrip("/") + "/") for other in others)


def _counted(written: list[str], removed: list[str]) -> str:
    sessions = sum(1 for path in written if path.endswith(".jsonl") and "/" not in path)
    others = len(written) - sessions
    parts = []
    if sessions:
        parts.append(f"{sessions} {'session' if sessions == 1 else 'sessions'} written")
    if others:
        parts.append(f"{others} other {'file' if others == 1 else 'files'} written")
    if removed:
        parts.append(f"{len(removed)} removed")
    return ", ".join(parts)
