"""The engine: one control thread that owns the sync state and decides what is done next.

Everything that blocks (reading, committing, the network) is a job for workers, whose results come
back as messages. The thread itself only waits for messages and for the next time something is due,
so it always answers. A simulator drives the same engine through `turn`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from convergenced.machine.settings_schema import Settings
from convergenced.model import ProjectId
from convergenced.ports import Checkouts, Peer
from convergenced.store.branch import ahead_behind
from convergenced.sync.alerts import Alerts
from convergenced.sync.board import ALL, Board, Distance, Missing, PeerStatus, ReplicaState
from convergenced.sync.companion import Companion
from convergenced.sync.desk import Desk, Surroundings
from convergenced.sync.healing import Healing
from convergenced.sync.housekeeping import Housekeeping
from convergenced.sync.lookout import Lookout
from convergenced.sync.passes import Passes
from convergenced.sync.patrol import Patrol
from convergenced.sync.plan import PUSH_DELAY, replica_due
from convergenced.sync.preview import preview
from convergenced.sync.rollcall import RollCall
from convergenced.sync.rounds import Rounds

T = TypeVar("T")
CompanionT = TypeVar("CompanionT", bound=Companion)

WAKE_JUMP = 30.0
"""A step of the wall clock against the monotonic one, in seconds, that means the machine slept."""
MAX_BATCH = 1_000
"""Messages handled in one turn, at most."""


class Engine:
    """Watches, commits, exchanges and localizes until it is stopped."""

    def __init__(self, surroundings: Surroundings, settings: Settings) -> None:
        self.desk = Desk(surroundings, settings)
        self._clock = self.desk.clock
        self._healing = Healing(self.desk)
        self._lookout = Lookout(self.desk, self._healing)
        self._healing.on_healed = self._lookout.want
        self._rounds = Rounds(self.desk, self._lookout, self._healing)
        self._passes = Passes(self.desk, self._lookout, self._rounds, self._healing)
        self._housekeeping = Housekeeping(self.desk)
        self._patrol = Patrol(self.desk, self._lookout)
        self.roll_call = RollCall(self.desk, self._rounds)
        self._passes.on_committed = self.roll_call.noticed
        self._alerts = Alerts(self.desk)
        self._companions: dict[str, Companion] = {}
        self._rescan_due = 0.0
        self._drift = 0.0
        self._waiters: list[_Waiter] = []
        self._distances: dict[tuple[str, str], tuple[int, int]] = {}
        self._stopping = threading.Event()
        self.started_at = self._clock.now()

    @property
    def board(self) -> Board:
        """What is known now. Belongs to the control thread."""
        return self.desk.board

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.desk.settings

    @property
    def ready(self) -> bool:
        """Whether it is known what takes part."""
        return self._lookout.surveys > 0 or self.board.halted is not None

    def attach(self, name: str, build: Callable[[Desk, Rounds], CompanionT]) -> CompanionT:
        """Has a companion work beside, before `start`; `build` makes it of what the engine's parts share."""
        companion = build(self.desk, self._rounds)
        self._companions[name] = companion
        return companion

    # -- life

    def post(self, message: Callable[[], None]) -> None:
        """Has `message` called in the control thread; safe from any thread."""
        self.desk.post(message)

    def start(self) -> None:
        """Takes up work: called once, in the control thread."""
        parts = self.desk.parts
        self.board.pauses = dict(parts.state.pauses())
        self._drift = self._clock.now() - self._clock.monotonic()
        for settings in self.settings.peers:
            self.board.peers[settings.name] = PeerStatus(settings)
        self._rescan_due = self._clock.monotonic() + self.settings.ingest.rescan
        self._lookout.watch()
        self.desk.note("start", None, f"started version {parts.machine.version} on {parts.machine.name}")

    def run(self) -> None:
        """Turns until `stop` is called."""
        self.start()
        while not self._stopping.is_set():
            timeout = max(0.0, self.next_due() - self._clock.monotonic())
            try:
                first = self.desk.messages.get(timeout=timeout)
            except queue.Empty:
                self.turn()
            else:
                self.turn(first)

    def turn(self, first: Callable[[], None] | None = None) -> None:
        """Handles what came in and starts what is due. Never blocks."""
        if first is not None:
            first()
        self._handle_messages()
        self._notice_wake_up()
        self._end_pauses()
        self._start_due()
        self._answer_waiters()
        self.desk.surroundings.on_turn()

    def stop(self) -> None:
        """Ends `run` after this turn; safe from any thread and from signal handlers."""
        self._stopping.set()
        self.desk.post(lambda: None)

    def close(self, seconds: float) -> bool:
        """Stops watching and lets jobs under way end; tells whether they did in time."""
        surroundings = self.desk.surroundings
        surroundings.watcher.stop()
        surroundings.keeper.close()
        for companion in self._companions.values():
            companion.close()
        drained = surroundings.workers.drain(seconds / 2)
        if not drained:
            self._rounds.close()
            drained = surroundings.workers.drain(seconds / 2)
        self._handle_messages()
        text = "stopped; all work is put away" if drained else "stopped with work under way"
        self.desk.note("stop", None, text)
        return drained

    def _handle_messages(self) -> None:
        for _ in range(MAX_BATCH):
            try:
                message = self.desk.messages.get_nowait()
            except queue.Empty:
                return
            message()

    # -- what is due

    def next_due(self) -> float:
        """The monotonic time at which `turn` has something to do by itself."""
        now = self._clock.monotonic()
        times = [now + self.desk.surroundings.idle_turn, self._rescan_due]
        if self._lookout.due is not None:
            times.append(self._lookout.due)
        others = (
            *(self._healing.next_due(), self._housekeeping.due, self._patrol.due),
            *(self.roll_call.due, self._alerts.due),
            *(companion.due for companion in self._companions.values()),
        )
        times.extend(due for due in others if due is not None)
        times.extend(due for _, due in self._passes_due())
        times.extend(peer.due_at for peer in self.board.peers.values() if self._rounds.may_start(peer))
        times.extend(waiter.deadline for waiter in self._waiters if waiter.deadline is not None)
        ends = (until - self._clock.now() for until in self.board.pauses.values() if until is not None)
        times.extend(now + max(0.0, left) for left in ends)
        return min(times)

    def _passes_due(self) -> list[tuple[ReplicaState, float]]:
        pace, found = self.desk.pace, []
        for state in self.board.replicas.values():
            due = replica_due(state.view(paused=self._is_paused(state)), pace)
            if due is not None:
                found.append((state, due))
        return found

    def _is_paused(self, state: ReplicaState) -> bool:
        project = state.replica.project
        stopped = self.board.halted is not None or project in self._rounds.renaming
        return stopped or self.board.is_paused(project)

    def _start_due(self) -> None:
        now = self._clock.monotonic()
        if now >= self._rescan_due:
            self._rescan_due = now + self.settings.ingest.rescan
            self._lookout.want()
            for state in self.board.replicas.values():
                state.asked = now if state.asked is None else state.asked
                state.is_all_asked = True
        if self._lookout.due is not None and now >= self._lookout.due:
            self._lookout.start()
        self._healing.start_due()
        self._rounds.start_waiting()
        self._housekeeping.start_due()
        self._patrol.start_due()
        self.roll_call.start_due()
        for name, companion in self._companions.items():
            companion.start_due()
            self.board.beside[name] = companion.attention()
        self._alerts.start_due()
        for state, due in self._passes_due():
            if now >= due:
                self._passes.start(state)
        for peer in self.board.peers.values():
            if now >= peer.due_at and self._rounds.may_start(peer):
                self._rounds.start(peer)

    def _notice_wake_up(self) -> None:
        drift = self._clock.now() - self._clock.monotonic()
        if drift - self._drift > WAKE_JUMP:
            self.desk.note("wake", None, "the machine slept or the clock was set; looking at everything")
            self.look_at_everything()
        self._drift = drift

    def _end_pauses(self) -> None:
        now = self._clock.now()
        for name in [name for name, until in self.board.pauses.items() if until is not None and until <= now]:
            self.resume([name])

    def look_at_everything(self, projects: Iterable[str] | None = None) -> float:
        """Has everything (or these projects) looked at and exchanged now; returns the time of asking."""
        now = self._clock.monotonic()
        wanted = None if projects is None else set(projects)
        for state in self.board.replicas.values():
            if wanted is None or state.replica.project in wanted:
                state.asked = now
                state.is_all_asked = True
                state.streak = 0  # who asks has finished something: what still follows of it shall not wait
        if wanted is None:
            for companion in self._companions.values():
                companion.look()
        # What the passes commit shall leave in the same round.
        self._visit_peers(now + PUSH_DELAY if any(self._passes_due()) else now)
        return now

    def tracked_anew(self) -> None:
        """Has the projects folder surveyed and the peers visited now: something takes part newly."""
        self._visit_peers(self._clock.monotonic())

    def _visit_peers(self, due: float) -> None:
        self._lookout.seek_again()
        self._lookout.want()
        for peer in self.board.peers.values():
            peer.due_at = due

    # -- what people ask for

    def pause(self, projects: Sequence[str], until: float | None) -> None:
        """Stops work on these projects, or on all; survives a restart."""
        for name in projects or [ALL]:
            self.desk.parts.state.pause(name, until)
            self.board.pauses[name] = until
            self.desk.note("pause", None if name == ALL else name, "paused")

    def resume(self, projects: Sequence[str]) -> None:
        """Takes work up again; nothing that happened meanwhile is missed."""
        for name in projects or list(self.board.pauses):
            if name in self.board.pauses:
                self.desk.parts.state.resume(name)
                del self.board.pauses[name]
                self.desk.note("resume", None if name == ALL else name, "resumed")
        self.look_at_everything()

    def apply(self, settings: Settings) -> None:
        """Takes on changed settings without a restart."""
        self.desk.settings = settings
        screen = self.desk.parts.screen
        if screen.policy != settings.secrets.policy:
            screen.policy = settings.secrets.policy
            self.look_at_everything()
        wanted = {peer.name: peer for peer in settings.peers}
        for name in [name for name, peer in self.board.peers.items() if wanted.get(name) != peer.settings]:
            del self.board.peers[name]
            for key in [key for key in self.board.tracked if key[0] == name]:
                del self.board.tracked[key]
        for name, peer in wanted.items():
            if name not in self.board.peers:
                self.board.peers[name] = PeerStatus(peer, due_at=self._clock.monotonic())
        self._lookout.want()
        for companion in self._companions.values():
            companion.settings_changed()
        self.desk.note("config", None, "applied the settings")

    def forget_notes(self, projects: Iterable[str] | None) -> None:
        """Has all files of these projects (or of all) read again in full."""
        wanted = None if projects is None else set(projects)
        for state in self.board.replicas.values():
            if wanted is None or state.replica.project in wanted:
                self.desk.parts.state.forget_files(state.replica.folder)

    def distance(self, project: ProjectId) -> Distance:
        """How far the project is ahead of and behind its peers, the worst of each."""
        tip = self.board.tips.get(project)
        ahead = behind = 0
        for (_, tracked_project), tracked in self.board.tracked.items():
            if tracked_project == project and tip is not None and tracked != tip:
                key = (tip, tracked)
                if key not in self._distances:
                    self._distances = {key: ahead_behind(self.desk.parts.store, tip, tracked)}
                ahead, behind = max(ahead, self._distances[key][0]), max(behind, self._distances[key][1])
        return Distance(ahead, behind)

    @property
    def checkouts(self) -> Checkouts:
        """Which code lies where, for requests that are answered by workers."""
        return self.desk.surroundings.checkouts

    def peer_openers(self) -> dict[str, Callable[[], Peer]]:
        """A way to each peer, for requests that are answered by workers."""
        open_peer = self.desk.surroundings.open_peer
        return {peer.name: partial(open_peer, peer) for peer in self.settings.peers}

    def background(
        self, job: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        """Has a request's blocking work done by a worker; both answers come in the control thread."""
        self.desk.submit("request", job, done, failed)

    def alone_with(
        self,
        project: ProjectId,
        job: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Has `job` done in the project's lane while nothing else is done for it, not even by a round.

        Its folders are surveyed anew afterwards; both answers come in the control thread.
        """
        self._rounds.apart(project, job, done, failed)

    def preview(
        self, projects: Iterable[str] | None, answer: Callable[[list[tuple[str, str]]], None]
    ) -> None:
        """Calls `answer` with lines of (project, what a sync would do)."""
        wanted = None if projects is None else set(projects)
        states = self.board.replicas.values()
        replicas = [one.replica for one in states if wanted is None or one.replica.project in wanted]
        tracked, peers = dict(self.board.tracked), list(self.board.peers)
        parts, whole_machine = self.desk.parts, self.desk.whole_machine
        self.background(
            lambda: preview(parts, replicas, tracked, peers, whole_machine=whole_machine),
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
        healing = [project for project in wanted if self._healing.is_healing(project)]
        found = [Missing(project, "the store is being healed", "work") for project in healing]
        found += [miss for project in wanted for miss in self.board.missing(project, since)]
        if projects is None:
            found += [miss for companion in self._companions.values() for miss in companion.missing(since)]
        return found

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
