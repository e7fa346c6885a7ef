"""One story out of one number: machines, what happens to them, and when each piece of work is done.

Owns the choice of everything that is left to chance, the turns of all engines, and the trace. The same seed
tells the same story, record by record. The engines, the merge and the planner are the real ones; clocks,
files, stores, peers and processes are fakes (`tests/fakes`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING

from convergenced import steps
from convergenced.machine.activity import Event
from convergenced.machine.state import State
from convergenced.model import LocalPath, SessionId
from tests.fakes.clock import ShiftedClock
from tests.fakes.files import Copy
from tests.fakes.store import MemoryStore
from tests.simulation.invariants import Invariants
from tests.simulation.watched import WatchedFiles
from tests.unit.sync.world import APP_URL, HUB, FakeMachine, World, sid

if TYPE_CHECKING:
    from tests.simulation.actions import Action

NAMES = ("ann", "bob", "cyd", "dan", "eve")
LENGTH = (20, 70)
"""How many things happen in a story."""
REST = 2_400.0
"""Seconds of peace after which everything must have come to rest: more than the longest wait for a peer."""
AFTERWARDS = 700.0
"""Seconds in which then nothing may be written: more than the rescan interval."""
MAX_TURNS = 20_000
DAY = 86_400.0


class CrashError(BaseException):
    """The daemon is killed here."""


class BrokenError(AssertionError):
    """An invariant does not hold."""


class Machine(FakeMachine):
    """A machine of a story, with what is to be known of it beyond its fakes."""

    torn: dict[str, bytes]
    """What is still missing of the last line, by transcript."""
    deleted: set[SessionId]
    """What the user deleted here."""
    muddled: bool = False
    """Whether files went back in time or away as a whole: what is missing then may well stay so."""
    away: dict[str, str]
    """Folders that were moved away, and where to."""
    backup: Backup | None = None
    worktree: str | None = None
    rewritten: set[str]
    """Transcripts from which the client took records: it has its way with its own file."""
    older: dict[str, bytes]
    """An earlier version of each transcript."""


class Backup:
    """A machine at an earlier moment."""

    def __init__(self, machine: Machine) -> None:
        found = machine.files.copy_below(machine.machine.projects_dir)
        # A client that was in the middle of a line when the backup was made will not go on with it.
        self.files: Copy = {
            path: (data[: data.rfind(b"\n") + 1] if path.endswith(".jsonl") else data, when)
            for path, (data, when) in found.items()
        }
        self.store: MemoryStore = machine.store.copy()
        self.state: State = copy_state(machine.state)


def copy_state(state: State) -> State:
    """The same notes once more."""
    copied = State(":memory:")
    state._db.backup(copied._db)
    return copied


Moment = Callable[[], None]


class Scenario:
    """The story of one seed. `trace` is what happened, line by line."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.trace: list[str] = []
        hubs = (HUB, "spare") if self.rng.random() < 0.2 else (HUB,)
        self.world = World(hubs)
        self.invariants = Invariants(self)
        self.machines: list[Machine] = []
        self.armed: dict[str, tuple[str, int, Moment]] = {}
        """By machine: at which moment, after how many such, what happens."""
        self._acting: Machine | None = None
        self._numbers = 0
        self.sessions: list[SessionId] = []
        for number in range(self.rng.choice((2, 2, 2, 3, 3, 4, 5))):
            self._add_machine(number)

    # -- the cast

    def _add_machine(self, number: int) -> None:
        rng, key = self.rng, NAMES[number]
        name = NAMES[0] if rng.random() < 0.1 else key
        offset = rng.choice((0.0, 0.0, 0.0, 1.5, -40.0, 3_600.0, -DAY, 400 * DAY, -800 * DAY))
        home = rng.choice((f"/home/{key}", f"/Users/{key}", f"/home/{key}.smith"))
        root = rng.choice((None, None, f"{home}/work/the-app", f"{home}/{key}/app.git"))
        files = WatchedFiles(self.invariants.findings)
        clock = ShiftedClock(self.world.clock, offset)
        files.use_clock(clock)
        made = Machine(self.world, name, LocalPath(home), root=root, key=key, clock=clock, files=files)
        self.world.machines[key] = made
        made.torn, made.deleted, made.away, made.older, made.rewritten = {}, set(), {}, {}, set()
        self.machines.append(made)
        self.invariants.watch(made)
        made.log.heard = lambda event: self._heard(made, event)
        files.before = lambda verb, _path: self._reached(made, f"files.{verb}")
        files.between = lambda _path: self._reached(made, "files.between")
        self.note(f"{key}: named {name}, root {made.root}, clock {offset:+}")
        if rng.random() < 0.25:
            made.worktree = f"{home}/trees/app-wt"
            made.checkout(made.worktree, APP_URL, main_root=made.root)

    def hire(self) -> SessionId:
        """A session that nobody has yet."""
        self.sessions.append(sid(len(self.sessions) + 1))
        return self.sessions[-1]

    def number(self) -> int:
        """A number that was not given yet in this story."""
        self._numbers += 1
        return self._numbers

    # -- telling

    def note(self, text: str) -> None:
        """Something happened."""
        self.trace.append(f"{self.world.clock.monotonic():10.2f} {text}")

    def _heard(self, machine: Machine, event: Event) -> None:
        self.note(f"  {machine.key}: [{event.kind}] {event.text}")

    def run(self, actions: list[Action]) -> None:
        """Tells the story. Raises `BrokenError`."""
        weights = [action.weight for action in actions]
        with self._hooked():
            self._begin()
            for _ in range(self.rng.randint(*LENGTH)):
                action = self.rng.choices(actions, weights)[0]
                told = action.run(self, self.rng.choice(self.machines))
                if told is not None:
                    self.note(told)
                self.work(self.rng.choice((0, 0, 1, 2, 5, 30)))
                self.check()
            self.come_to_rest()

    def _begin(self) -> None:
        for machine in self.machines:
            if self.rng.random() < 0.75:
                self.note(f"{machine.key}: begins")
                machine.say(self.hire(), f"see {machine.root}/x")
            machine.start()
        if self.rng.random() < 0.6:
            self.advance(150.0)

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        logger = logging.getLogger("convergenced")
        handler = _Defects(self.invariants)
        logger.addHandler(handler)
        propagates, logger.propagate = logger.propagate, False
        steps.hook = lambda step: self._reached(self._acting, step)
        try:
            yield
        finally:
            steps.hook = None
            logger.propagate = propagates
            logger.removeHandler(handler)

    def check(self) -> None:
        """What must hold at any moment."""
        self.invariants.check_safety()
        self._raise_found()

    def _raise_found(self) -> None:
        found = self.invariants.findings.found
        if found:
            raise BrokenError(f"seed {self.seed}: " + "; ".join(dict.fromkeys(found)))

    # -- moments

    def _reached(self, machine: Machine | None, moment: str) -> None:
        if machine is None or machine is not self._acting or machine.key not in self.armed:
            return
        wanted, turns, happens = self.armed[machine.key]
        if wanted != moment:
            return
        if turns > 1:
            self.armed[machine.key] = (wanted, turns - 1, happens)
            return
        del self.armed[machine.key]
        happens()

    @contextmanager
    def acting(self, machine: Machine | None) -> Iterator[None]:
        """Whose code runs; nobody's where it is the world that acts."""
        before, self._acting = self._acting, machine
        try:
            yield
        finally:
            self._acting = before

    # -- work

    def work(self, pieces: int) -> None:
        """Some engines do some of what is due, in any order."""
        for _ in range(pieces):
            running = [one for one in self.machines if one.is_running]
            if not running:
                return
            self.step(self.rng.choice(running))

    def step(self, machine: Machine) -> bool:
        """One turn and one job of one machine; tells whether there was anything to do."""
        due = machine.engine.next_due() <= self.world.clock.monotonic()
        machine.engine.turn()
        ran = self.run_job(machine)
        if machine.is_running:
            machine.engine.turn()
            self.invariants.passed(machine)
        return ran or due

    def run_job(self, machine: Machine, lanes: list[str] | None = None) -> bool:
        """One job of a machine, of one of these lanes."""
        waiting = [lane for lane in machine.workers.waiting() if lanes is None or lane in lanes]
        if not waiting:
            return False
        lane = self.rng.choice(waiting)
        if lane.startswith("local"):
            self.invariants.pass_begins(machine)
        try:
            with self.acting(machine):
                machine.workers.run_one(lane)
        except CrashError:
            self.kill(machine)
        return True

    def kill(self, machine: Machine) -> None:
        """The daemon is gone, with all it had under way."""
        machine.crash()
        self.invariants.died(machine)

    def settle(self) -> None:
        """All engines do all that is due."""
        for _ in range(MAX_TURNS):
            if not [one for one in self.machines if one.is_running and self.step(one)]:
                return
        self.invariants.findings.add("the engines do not come to rest")

    def advance(self, seconds: float) -> None:
        """Time passes, and all engines do what becomes due meanwhile."""
        clock = self.world.clock
        end = clock.monotonic() + seconds
        self.settle()
        while (now := clock.monotonic()) < end:
            running = [one.engine.next_due() for one in self.machines if one.is_running]
            clock.advance(max(min([*running, end]) - now, 1e-3))
            self.settle()

    # -- the end

    def come_to_rest(self) -> None:
        """All is well again, and after a bounded time everything agrees and nothing happens any more."""
        from tests.simulation.actions import heal

        self.armed.clear()
        for machine in self.machines:
            heal(self, machine)
        self.note("-- all is well again")
        self.advance(REST)
        for machine in self.machines:
            self.invariants.revive(machine)
        self.advance(REST)
        self.check()
        self.invariants.check_agreement()
        self._raise_found()
        before = self.invariants.writings()
        self.advance(AFTERWARDS)
        if self.invariants.writings() != before:
            self.invariants.findings.add("something is written though nothing happens")
        self.check()


class _Defects(logging.Handler):
    """Hears of errors that no code expected."""

    def __init__(self, invariants: Invariants) -> None:
        super().__init__(logging.ERROR)
        self._invariants = invariants

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        self._invariants.findings.add(f"defect: {record.getMessage()}: {cause!r}")
