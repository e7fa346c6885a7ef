"""The first import of all that is there: how fast, in how much memory, and what a kill costs."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from uuid import NAMESPACE_OID, uuid5

from convergenced.control.workers import aside
from tests.bench.corpus import Scribe
from tests.bench.daemons import MeasuredMachine
from tests.bench.desk import folder
from tests.bench.measure import Row, share, timed
from tests.bench.resources import cpu_seconds, io, memory
from tests.e2e.machines import DAEMON

TOTAL = 1e9
SESSIONS = 200
PROJECTS = 8
COMPRESSED = 200e6
"""Bytes that are enough to tell how fast zlib is."""
LOOK = 0.01
"""Seconds between two looks at a process."""

GROUP = "first import"


@dataclass(frozen=True)
class Ran:
    """What a process used until it ended or was killed."""

    seconds: float
    read: int
    cpu: float
    peak: int


def measure(scale: float = 1.0) -> Iterator[Row]:
    """The rows; `scale` makes the data smaller."""
    with folder() as top:
        machine = MeasuredMachine(top, "bench")
        size = write_corpus(machine, share(TOTAL, scale, 1e6))
        sample = _sample(machine.projects)
        _search(machine, "off")
        before = aside(lambda: _compress(sample))  # as humbly as the daemon imports
        whole = _once(machine)
        zlib_speed = 1 / mean((before, aside(lambda: _compress(sample))))
        speed = size / whole.seconds
        note = f"{size / 1e6:.0f} MB: {speed / 1e6:.0f} MB/s on {whole.cpu / whole.seconds:.1f} cores"
        yield Row(GROUP, "share of zlib level 1's speed", speed / zlib_speed, "x", 0.5, "least", note)
        _forget(machine)
        _search(machine, "warn")
        searched = size / _once(machine).seconds
        note = f"{searched / 1e6:.0f} MB/s, in processes beside it"
        yield Row(GROUP, "the same, searched for secrets meanwhile", searched / zlib_speed, "x", note=note)
        _forget(machine)
        _search(machine, "off")
        whole = _once(machine)
        yield Row(GROUP, "peak memory of the process", whole.peak / 1e6, "MB")
        idle = _once(machine)
        note = f"reads {idle.read / 1e6:.1f} MB of all kinds"
        yield Row(
            GROUP,
            "once more with nothing new, share of the time",
            idle.seconds / whole.seconds,
            "x",
            note=note,
        )
        _forget(machine)
        _search(machine, "off")
        first = _once(machine, kill_after=idle.read + (whole.read - idle.read) // 2)
        second = _once(machine)
    net, cpu = whole.read - idle.read, whole.cpu - idle.cpu
    twice = (first.read + second.read - 2 * idle.read - net) / net
    cpu_twice = (first.cpu + second.cpu - 2 * idle.cpu - cpu) / cpu
    note = f"of the CPU time {cpu_twice:.0%}"
    yield Row(GROUP, "killed in the middle: share that is read twice", max(0.0, twice), "x", 0.1, note=note)


def write_corpus(machine: MeasuredMachine, size: int) -> int:
    """Sessions of all sizes in some projects; returns their bytes."""
    chance = random.Random(1)
    weights = [chance.lognormvariate(0, 1) for _ in range(SESSIONS)]
    for number, weight in enumerate(weights):
        place = machine.place(f"proj-{number % PROJECTS}")
        session = str(uuid5(NAMESPACE_OID, f"{number}"))
        records = Scribe(place, session, number).records(int(size * weight / sum(weights)))
        with (machine.projects / place.encoded / f"{session}.jsonl").open("wb") as stream:
            stream.writelines(records)
    return sum(path.stat().st_size for path in machine.projects.rglob("*.jsonl"))


def _once(machine: MeasuredMachine, kill_after: float = float("inf")) -> Ran:
    """One `convergenced --once`, which is killed once it has read so many bytes."""
    started = time.monotonic()
    with (machine.top / "daemon.log").open("ab") as log:
        process = subprocess.Popen(
            [*DAEMON, "--once"], env=machine.environ, stderr=log, stdin=subprocess.DEVNULL
        )
    read, cpu, peak = 0, 0.0, 0
    while process.poll() is None:
        try:
            read, cpu, peak = io(process.pid, "rchar"), cpu_seconds(process.pid), memory(process.pid, "VmHWM")
        except (OSError, KeyError):
            continue  # it is about to end
        if read >= kill_after:
            process.send_signal(signal.SIGKILL)
            process.wait()
            break
        time.sleep(LOOK)
    else:
        assert process.returncode == 0, machine.log()
    return Ran(time.monotonic() - started, read, cpu, peak)


def _search(machine: MeasuredMachine, policy: str) -> None:
    """What is done about apparent secrets."""
    with (machine.conv / "config.toml").open("a") as config:
        config.write(f'\n[secrets]\npolicy = "{policy}"\n')


def _forget(machine: MeasuredMachine) -> None:
    shutil.rmtree(machine.conv)
    machine.conv.mkdir(mode=0o700)
    machine.configure()


def _sample(projects: Path) -> Sequence[Path]:
    chosen, size = [], 0
    for path in sorted(projects.rglob("*.jsonl")):
        chosen.append(path)
        size += path.stat().st_size
        if size >= COMPRESSED:
            break
    return chosen


def _compress(paths: Sequence[Path]) -> float:
    """Seconds that zlib at level 1 takes for a byte."""

    def work() -> None:
        for path in paths:
            squeeze = zlib.compressobj(1)
            with path.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    squeeze.compress(chunk)
            squeeze.flush()

    return timed(work) / sum(path.stat().st_size for path in paths)
