"""Upkeep of the store: what it leaves, whom it holds up, what it takes; and how history grows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from convergenced.machine.activity import ActivityLog
from convergenced.machine.settings_schema import ExchangeSettings, PeerSettings, Settings
from convergenced.model import LocalPath
from convergenced.store.peers import open_peer
from convergenced.store.upkeep import Upkeep
from convergenced.sync.desk import Surroundings
from convergenced.sync.engine import Engine
from tests.bench.desk import Desk, desk, desk_at, folder, in_haste
from tests.bench.measure import Row, exponent, percentile, share, timed
from tests.bench.passes import cost_of_appends
from tests.bench.resources import size_of
from tests.fakes.checkouts import FakeCheckouts
from tests.fakes.clock import FakeClock
from tests.fakes.watcher import ManualWatcher

COMMITS = 500
TRANSCRIPT = 1e6
LARGE_STORES = (75e6, 150e6, 300e6)
BUSY_STORE = 50e6
SESSION = 5e6
HISTORIES = (10, 100, 1_000, 10_000)
DAY = 28_800
"""Seconds of steady work, with one append in each."""
APPEND_OF_A_DAY = 800
"""Bytes said in each, which make a record of 1 KB."""

HERE = Path(__file__).parents[2]

GROUP = "upkeep"


def measure(scale: float = 1.0) -> Iterator[Row]:
    """The rows; `scale` makes the data smaller."""
    yield from against_repack(scale)
    yield from on_a_large_store(scale)
    yield from beside_commits(scale)
    yield from day_of_work(scale)
    yield from over_history(scale)


def against_repack(scale: float) -> Iterator[Row]:
    """Small commits, packed as they gather, against one repack of them all."""
    with desk(lasting=False) as one:
        commits = share(COMMITS, scale, 20)
        one.fill(0, TRANSCRIPT * min(1, scale))
        one.converge()
        for turn in range(commits):
            one.append(0, turn)
            one.converge()
        copy = one.top / "copy.git"
        shutil.copytree(one.store, copy)
        before = _objects(copy)
        subprocess.run(["git", "-C", copy, "repack", "-a", "-d", "-q"], check=True)
        _keep_up(one.store)
        ours, git = _objects(Path(one.store)), _objects(copy)
    sizes = ", ".join(f"{size / 1e6:.2f}" for size in (before, ours, git))
    note = f"{commits} commits: before, after, git: {sizes} MB"
    yield Row(GROUP, "store after upkeep, against git repack -ad", ours / git, "x", 1.1, note=note)


def on_a_large_store(scale: float) -> Iterator[Row]:
    """The memory that upkeep takes, over the size of what it has to pack."""
    sizes = [share(size, scale, 2e6 * 2**number) for number, size in enumerate(LARGE_STORES)]
    bases, peaks, seconds = zip(*map(_memory_of_upkeep, sizes), strict=True)
    note = f"{(bases[-1] + peaks[-1]) / 1e6:.0f} MB with the interpreter, {seconds[-1]:.0f} s"
    yield Row(GROUP, "memory that upkeep of a large store takes", peaks[-1] / 1e6, "MB", 100, note=note)
    note = ", ".join(f"{peak / 1e6:.1f}" for peak in peaks) + f" MB up to {sizes[-1] / 1e6:.0f} MB"
    yield Row(GROUP, "memory over the size of the store", exponent(sizes, peaks), "exponent", note=note)


def beside_commits(scale: float) -> Iterator[Row]:
    """How long a commit has to wait while upkeep runs in the same process."""
    with desk() as one:
        _fill(one, share(BUSY_STORE, scale, 2e6))
        with_it, turns = list[float](), iter(range(1_000_000))

        def commit() -> float:
            one.append(0, next(turns))
            return timed(one.converge)

        running = threading.Thread(target=_keep_up, args=(one.store,))
        before = [commit() for _ in range(10)]
        running.start()
        while running.is_alive() or not with_it:
            with_it.append(commit())
        running.join()
        without = before + [commit() for _ in range(len(with_it))]
    longest = max(with_it) - max(without)
    shown = ", ".join(
        f"{percentile(with_it, rank) * 1e3:.0f}/{percentile(without, rank) * 1e3:.0f}"
        for rank in (0.5, 0.9, 1)
    )
    note = f"{len(with_it)} commits, ms with/without: {shown} (p50, p90, longest)"
    yield Row(GROUP, "longest commit while it runs, beyond one without", longest * 1e3, "ms", 50, note=note)


def day_of_work(scale: float) -> Iterator[Row]:
    """One session, appended to once a second, with the engine's own cadence and a hub."""
    seconds = share(DAY, scale, 300)
    clock = FakeClock()
    with folder(lasting=False) as top, desk_at(top / "one", clock) as one:
        hub = top / "hub.git"
        subprocess.run(["git", "init", "-q", "--bare", hub], check=True)
        one.fill(0, TRANSCRIPT * min(1, scale))
        day = _Day(one, hub, clock)
        day.rest()
        _keep_up(one.store)
        before = _objects(Path(one.store))
        new = day.work(seconds)
        day.rest()
        commits = _commits(one.store)
        _keep_up(one.store)
        grown = _objects(Path(one.store)) - before
        squeezed = len(zlib.compress(new))
    note = (
        f"{grown / 1e6:.2f} MB for {squeezed / 1e6:.2f} MB ({len(new) / 1e6:.1f} MB raw) in {seconds} appends"
    )
    yield Row(
        GROUP, "a day of steady work, against its compressed bytes", grown / squeezed, "x", 1.3, note=note
    )
    yield Row(GROUP, "commits of that day that stay, of 1,000 appends", commits / seconds * 1e3, "commits")


def over_history(scale: float) -> Iterator[Row]:
    """The cost of a small commit after many."""
    lengths = [share(length, scale, 10 * 2**turn) for turn, length in enumerate(HISTORIES)]
    costs = []
    with desk() as one:
        one.fill(0, 100_000)
        done, upkeep = 0, Upkeep(one.store)
        for length in lengths:
            with in_haste():
                for turn in range(done, length):
                    one.append(1, turn)
                    one.converge()
                    if upkeep.is_due():
                        upkeep.run()
            done = length
            costs.append(cost_of_appends(one))
    for what, unit, amounts in (
        ("time", "ms", [cost.seconds * 1e3 for cost in costs]),
        ("bytes", "KB", [cost.written / 1e3 for cost in costs]),
    ):
        note = (
            ", ".join(f"{amount:.1f}" for amount in amounts) + f" {unit} after {lengths[0]} to {lengths[-1]}"
        )
        yield Row(
            GROUP,
            f"commit of 2 KB, {what} over commits",
            exponent(lengths, amounts),
            "exponent",
            0.1,
            note=note,
        )


class _Day:
    """A daemon's engine on one desk, whose time passes when it is told to."""

    def __init__(self, one: Desk, hub: Path, clock: FakeClock) -> None:
        self._one, self._clock = one, clock
        self._watcher, self._workers = ManualWatcher(), _AtOnce()
        settings = Settings(peers=(PeerSettings("hub", str(hub)),), exchange=ExchangeSettings(interval=60.0))
        surroundings = Surroundings(
            parts=one.parts,
            checkouts=FakeCheckouts(),
            watcher=self._watcher,
            workers=self._workers,
            activity=ActivityLog(LocalPath(str(one.top / "activity.log")), clock),
            open_peer=lambda peer: open_peer(peer.url, one.store, name=peer.name, environ=os.environ),
            chance=lambda: 0.5,
        )
        self._engine = Engine(surroundings, settings)
        self._engine.start()

    def rest(self) -> None:
        """Ten minutes in which nothing is written."""
        self._pass(600)

    def work(self, seconds: int) -> bytes:
        """An append in each of so many seconds; returns all that was written."""
        new = bytearray()
        for turn in range(seconds):
            new += self._one.append(0, turn, APPEND_OF_A_DAY)
            self._watcher.hint(str(self._one.transcript(0)))
            self._pass(1)
        return bytes(new)

    def _pass(self, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        while True:
            self._engine.turn()
            if self._engine.desk.messages.empty():
                due = self._engine.next_due()
                if due >= until:
                    break
                self._clock.advance(max(0.0, due - self._clock.monotonic()))
        self._clock.advance(until - self._clock.monotonic())


class _AtOnce:
    """Does each job where it is handed in."""

    def submit(self, lane: str, job: Callable[[], None]) -> None:
        """Does the job."""
        del lane
        job()

    def drain(self, seconds: float) -> bool:
        """All is done already."""
        return seconds >= 0


def _keep_up(store: LocalPath) -> None:
    upkeep = Upkeep(store)
    upkeep.run()
    upkeep.run()  # which takes away what the first has replaced


_UPKEEP = """
import os, sys, time
from convergenced.store.upkeep import Upkeep
from convergenced.store.repo import open_store
open_store(sys.argv[1])
from tests.bench.resources import memory
def peak(): return memory(os.getpid(), "VmHWM")
base, started = peak(), time.monotonic()
Upkeep(sys.argv[1]).run()
print(base, peak() - base, time.monotonic() - started)
"""


def _memory_of_upkeep(size: int) -> tuple[int, int, float]:
    """Bytes that a process takes before upkeep and on top of that for it, and its seconds."""
    with desk(lasting=False) as one:
        _fill(one, size)
        words = [sys.executable, "-c", _UPKEEP, one.store]
        done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=HERE)
    base, peak, seconds = done.stdout.split()
    return int(base), int(peak), float(seconds)


def _fill(one: Desk, size: int) -> None:
    """Has so many bytes of sessions in the store, each object for itself."""
    with in_haste():
        for number in range(max(1, int(size / SESSION))):
            one.fill(number, min(size, SESSION))
        one.converge()


def _objects(store: Path) -> int:
    return size_of(store / "objects")


def _commits(store: LocalPath) -> int:
    words = ["git", "--git-dir", store, "rev-list", "--count", "refs/heads/project/proj"]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
