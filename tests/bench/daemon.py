"""Real daemons: from a write here to the file there, and what they cost while little or nothing happens."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from uuid import NAMESPACE_OID, uuid5

from convergenced.model import ProjectId
from convergenced.store.branch import project_ref
from tests.bench.corpus import Place, Scribe
from tests.bench.daemons import PAUSE, MeasuredMachine, await_soon
from tests.bench.desk import APPEND, folder
from tests.bench.measure import Row, exponent, percentile, share, timed
from tests.bench.resources import cpu_seconds, io, memory, switches
from tests.e2e.machines import DAEMON, git, make_hub, stop_all

TRANSCRIPTS = (1e6, 36e6, 200e6)
TURNS = 20
SESSIONS = (100, 1_000, 10_000)
SESSIONS_A_PROJECT = 500
SESSION_BYTES = 3_000
DIRECTORIES = 5_000
DIRECTORIES_A_PROJECT = 100
MINUTE = 60.0
LEAST_SECONDS = 35.0
"""Real time to look at a daemon: more than the longest wait for a commit."""
QUICK = 0.01
"""Below this scale nothing is measured in earnest, and nobody is to wait."""
WRITES_A_SECOND = 5
QUIET = 10.0
"""Seconds without a write to the disk after which a daemon is taken to be idle."""
REST = 0.1
"""Seconds between two writes that are followed to the other machine."""
GLANCE = 0.001
"""Seconds between two looks for what is timed."""

GROUP = "daemon"


def measure(scale: float = 1.0) -> Iterator[Row]:
    """The rows; `scale` makes the data smaller."""
    yield from from_write_to_file(scale)
    yield from restart(scale)
    yield from standing_by(scale)


def from_write_to_file(scale: float, transcripts: tuple[float, ...] = TRANSCRIPTS) -> Iterator[Row]:
    """Two daemons and a bare hub: both are told at once; growing transcripts."""
    sizes = [share(size, scale, 1e5 * 4**number) for number, size in enumerate(transcripts)]
    turns = TURNS if scale >= QUICK else 2
    tails, middles, work, notes = [], [], [], []
    for size in sizes:
        seconds, cpu = _write_to_file(size, turns)
        tails.append(percentile(seconds, 0.95) * 1e3)
        middles.append(median(seconds) * 1e3)
        work.append(cpu)
        notes.append(f"{size / 1e6:.1f} MB: {middles[-1]:.0f} ms, CPU {cpu * 1e3:.0f} ms")
    note = "; ".join(notes) + " (medians)"
    yield Row(GROUP, "write on A to file on B, told at once, p95", max(tails), "ms", 50, note=note)
    if len(sizes) > 1:
        yield Row(GROUP, "the same, median over transcript size", exponent(sizes, middles), "exponent", 0.1)
        yield Row(GROUP, "the same, CPU of both over transcript size", exponent(sizes, work), "exponent", 0.1)


def restart(scale: float) -> Iterator[Row]:
    """A daemon that comes back and finds nothing changed."""
    numbers = [share(number, scale, 10 * 2**turn) for turn, number in enumerate(SESSIONS)]
    costs = []
    for number in numbers:
        with folder() as top:
            machine = _with_sessions(top, number)
            machine.launch()
            machine.sync()
            machine.stop()
            costs.append(median(_restarted(machine) for _ in range(3)))
            read = _transcripts_read(machine) if number == numbers[-1] else 0
    note = ", ".join(f"{cost:.2f}" for cost in costs) + f" s with {', '.join(map(str, numbers))}"
    yield Row(GROUP, "restart with 10,000 sessions, until ready", costs[-1], "s", 2, note=note)
    yield Row(GROUP, "the same, bytes of transcripts read (strace)", read, "bytes", 0)
    yield Row(GROUP, "the same, time over sessions", exponent(numbers, costs), "exponent")


def standing_by(scale: float) -> Iterator[Row]:
    """One daemon that watches much where nothing happens, one where somebody works, and asking them."""
    seconds = max(LEAST_SECONDS, MINUTE * scale) if scale >= QUICK else 1.0
    with folder() as top:
        (top / "idle").mkdir()
        idle = MeasuredMachine(top / "idle" / "one", "idle", (make_hub(top / "idle" / "hub.git"),))
        directories = _make_directories(idle, share(DIRECTORIES, scale, 20))
        busy = MeasuredMachine(top / "busy", "busy", (make_hub(top / "hub.git"),))
        try:
            for machine in (idle, busy):
                git("init", "-q", machine.project)
                _write(machine.place(), 0, 1e6 * min(1, scale))
                machine.launch()
                machine.sync()
            imported = memory(idle.pid)
            idle.stop()
            idle.launch()
            idle.sync()
            _settle(idle, min(seconds, QUIET))
            _append_for(busy, min(seconds, 5.0), 0)
            still, work = _Watched(idle), _Watched(busy)
            writes = _append_for(busy, seconds, 1)
            yield from still.idle_rows(directories, imported)
            yield from work.busy_rows(writes)
            yield from _asking(idle, 20 if scale >= QUICK else 2)
        finally:
            stop_all([idle, busy])


class _Watched:
    """A daemon from a moment on."""

    def __init__(self, machine: MeasuredMachine) -> None:
        self._pid = machine.pid
        self._started = time.monotonic()
        self._cpu = cpu_seconds(self._pid)
        self._switches = switches(self._pid)
        self._written = io(self._pid, "write_bytes")
        self._memory = memory(self._pid)

    def idle_rows(self, directories: int, imported: int) -> Iterator[Row]:
        """What doing nothing costs; `imported` is the memory it had right after it had read everything."""
        minutes = (time.monotonic() - self._started) / MINUTE
        cpu = (cpu_seconds(self._pid) - self._cpu) / minutes
        note = f"{directories} directories, {minutes * MINUTE:.0f} s"
        yield Row(GROUP, "idle, 5,000 directories watched, CPU a minute", cpu * 1e3, "ms", 50, note=note)
        slept = (switches(self._pid) - self._switches) / minutes
        yield Row(GROUP, "idle, wake-ups a minute, all threads", slept, "times")
        written = io(self._pid, "write_bytes") - self._written
        yield Row(GROUP, "idle, bytes written to the disk", written, "bytes", 0)
        note = f"{imported / 1e6:.1f} MB right after a first import of all that"
        yield Row(GROUP, "idle, memory", memory(self._pid) / 1e6, "MB", 60, note=note)

    def busy_rows(self, writes: int) -> Iterator[Row]:
        """What somebody's work costs."""
        seconds = time.monotonic() - self._started
        cpu = (cpu_seconds(self._pid) - self._cpu) / seconds
        note = f"{writes} appends in {seconds:.0f} s"
        yield Row(GROUP, "appended 5 times a second, share of a core", cpu * 100, "%", 3, note=note)
        now = memory(self._pid)
        grown = max(0, now - self._memory) / 1e6
        yield Row(GROUP, "the same, growth of memory", grown, "MB", 2, note=f"to {now / 1e6:.1f} MB")


def _write_to_file(size: float, turns: int) -> tuple[list[float], float]:
    """Seconds of each turn, and the median CPU seconds of both daemons in one."""
    with folder() as top:
        hub = make_hub(top / "hub.git")
        one, other = (MeasuredMachine(top / name, name, (hub,)) for name in ("one", "other"))
        for machine in (one, other):
            git("init", "-q", machine.project)
            git("-C", machine.project, "remote", "add", "origin", "git@example.org:team/proj.git")
            machine.place()
        path = _write(one.place(), 0, size)
        there = other.context / path.name
        try:
            for machine in (one, other):
                machine.launch()
                machine.sync()
            await_soon(there.exists, "the transcript on the other machine")
            for machine in (one, other, one):
                machine.sync()
            seconds, cpu = [], []
            for turn in range(turns + 1):
                used = cpu_seconds(one.pid) + cpu_seconds(other.pid)
                record = Scribe(one.place(), path.stem, 1_000 + turn).record(APPEND)
                spent = timed(lambda record=record: _travel(record, one, other, hub, there))  # type: ignore[misc]
                if turn:
                    seconds.append(spent)
                    cpu.append(cpu_seconds(one.pid) + cpu_seconds(other.pid) - used)
                time.sleep(REST)
        finally:
            stop_all([one, other])
    return seconds, median(cpu)


def _travel(record: bytes, one: MeasuredMachine, other: MeasuredMachine, hub: Path, there: Path) -> None:
    """From a write on one machine to the file on the other; each is told as soon as it can do something."""
    tip = hub / project_ref(ProjectId("proj"))
    commit, size = tip.read_text(), there.stat().st_size
    one.append(there.stem, record)
    one.call("sync")
    await_soon(lambda: tip.read_text() != commit, "the commit in the hub", GLANCE)
    other.call("sync")
    await_soon(lambda: there.stat().st_size > size, "the append on the other machine", GLANCE)


def _settle(machine: MeasuredMachine, seconds: float) -> None:
    """Waits until nothing was written for so long: what follows from the first pass is done."""
    before, since = -1, time.monotonic()
    while time.monotonic() - since < seconds:
        if (now := io(machine.pid, "write_bytes")) != before:
            before, since = now, time.monotonic()
        time.sleep(PAUSE)


def _restarted(machine: MeasuredMachine) -> float:
    seconds = machine.launch()
    machine.stop()
    return seconds


_READ = re.compile(rb"(?:read|pread64|readv)\(\d+<[^>]*/projects/[^>]*>.* = (\d+)")


def _transcripts_read(machine: MeasuredMachine) -> int:
    """Bytes that a restarted daemon reads of transcripts, until it has nothing more to do."""
    trace = machine.top / "trace"
    options = ["-f", "-y", "-e", "trace=read,pread64,readv", "-o", str(trace)]
    subprocess.run(
        ["strace", *options, *DAEMON, "--once"], check=True, env=machine.environ, capture_output=True
    )
    return sum(int(found[1]) for line in trace.read_bytes().splitlines() if (found := _READ.search(line)))


def _with_sessions(top: Path, number: int) -> MeasuredMachine:
    machine = MeasuredMachine(top / "one", "one")
    for session in range(number):
        _write(machine.place(f"proj-{session // SESSIONS_A_PROJECT}"), session, SESSION_BYTES)
    return machine


def _make_directories(machine: MeasuredMachine, number: int) -> int:
    """Context folders with sessions' folders below them, so many in all."""
    made = 0
    while made < number:
        place = machine.place(f"proj-{made // DIRECTORIES_A_PROJECT}")
        made += 1
        for session in range(min(DIRECTORIES_A_PROJECT - 1, number - made)):
            path = _write(place, session, 500)
            results = path.with_suffix("") / "tool-results"
            results.mkdir(parents=True)
            (results / "one.txt").write_text("said\n")
            made += 2
    return made


def _write(place: Place, number: int, size: float) -> Path:
    """A session of so many bytes."""
    session = str(uuid5(NAMESPACE_OID, f"{place.root} {number}"))
    path = Path(place.anchors.context_dir) / f"{session}.jsonl"
    with path.open("wb") as stream:
        stream.writelines(Scribe(place, session, number).records(int(size)))
    return path


def _append_for(machine: MeasuredMachine, seconds: float, seed: int) -> int:
    """Appends to one session for so long; returns how often."""
    place = machine.place()
    path = Path(place.anchors.context_dir) / f"{uuid5(NAMESPACE_OID, f'{place.root} 0')}.jsonl"
    author = Scribe(place, path.stem, 1_000_000 + seed)
    started, writes = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        machine.append(path.stem, author.record(APPEND // 2))
        writes += 1
        time.sleep(max(0.0, started + writes / WRITES_A_SECOND - time.monotonic()))
    return writes


def _asking(machine: MeasuredMachine, turns: int) -> Iterator[Row]:
    """Whole processes of the client, beside one of the interpreter that does nothing."""
    spent: dict[str, list[float]] = {"pass": [], "status": [], "-h": []}
    for _ in range(turns):
        spent["pass"].append(timed(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)))
        for word in ("status", "-h"):
            spent[word].append(timed(lambda word=word: machine.ctl(word)))  # type: ignore[misc]
    note = f"the interpreter alone {percentile(spent['pass'], 0.9) * 1e3:.0f} ms"
    for word, target in (("status", 100), ("-h", 60)):
        value = percentile(spent[word], 0.9) * 1e3
        yield Row(GROUP, f"convergencectl {word}, whole process, p90", value, "ms", target, note=note)
