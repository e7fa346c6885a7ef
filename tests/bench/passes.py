"""A commit after a small append: what it costs, and whether it depends on what there is already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from tests.bench.desk import APPENDS_A_SEGMENT, Desk, desk, in_haste
from tests.bench.measure import Row, exponent, share, timed
from tests.bench.resources import written

SESSION_BYTES = 1_000

TRANSCRIPTS = (1e6, 10e6, 200e6)
SESSIONS = (100, 1_000, 10_000)
PROJECTS = (1, 20, 200)

GROUP = "commit of 2 KB"


@dataclass(frozen=True)
class Cost:
    """What a commit costs: seconds, bytes handed to the system to write, and what one fsync costs then."""

    seconds: float
    written: float
    fsync: float


def cost_of_appends(one: Desk, turns: int = APPENDS_A_SEGMENT) -> Cost:
    """The median time and the mean bytes of a commit after a small append to session 0."""
    seconds, amounts, fsyncs = [], [], []
    for turn in range(turns + 1):
        one.append(0, turn)
        before = written()
        spent = timed(one.converge)
        if turn:
            seconds.append(spent)
            amounts.append(written() - before)
            fsyncs.append(timed(lambda: _write_durably(one.top / "durable")))
    return Cost(median(seconds), mean(amounts), median(fsyncs))


def measure(scale: float = 1.0) -> Iterator[Row]:
    """The rows; `scale` makes the data smaller."""
    sizes = [share(size, scale, 1e5 * (1 + number)) for number, size in enumerate(TRANSCRIPTS)]
    costs = [_with_transcript(size) for size in sizes]
    small, large = costs[0], costs[-1]
    yield Row(GROUP, "median, small transcript", small.seconds * 1e3, "ms", 10)
    yield Row(
        GROUP,
        "the same, in durable writes of a small file",
        small.seconds / small.fsync,
        "x",
        note=f"one takes {small.fsync * 1e3:.1f} ms here now",
    )
    yield Row(GROUP, "200 MB transcript against 1 MB", large.seconds / small.seconds, "x", 1.5)
    yield Row(GROUP, "kilobytes written, 200 MB transcript", large.written / 1e3, "KB", 20)
    yield from _growth("transcript size", sizes, costs)
    numbers = [share(number, scale, 10 * (1 + turn)) for turn, number in enumerate(SESSIONS)]
    yield from _growth("number of sessions", numbers, [_among_sessions(number) for number in numbers])
    yield from among_projects(scale)


def among_projects(scale: float) -> Iterator[Row]:
    """The cost where other projects share the store."""
    numbers = [share(number, scale, 1 + turn) for turn, number in enumerate(PROJECTS)]
    yield from _growth("number of projects", numbers, [_among_projects(number) for number in numbers])


def _growth(of: str, sizes: list[int], costs: list[Cost]) -> Iterator[Row]:
    for what, unit, amounts in (
        ("time", "ms", [cost.seconds * 1e3 for cost in costs]),
        ("bytes", "KB", [cost.written / 1e3 for cost in costs]),
    ):
        note = ", ".join(f"{amount:.1f}" for amount in amounts) + f" {unit}"
        yield Row(GROUP, f"{what} over {of}", exponent(sizes, amounts), "exponent", 0.1, note=note)


def _with_transcript(size: int) -> Cost:
    with desk() as one:
        one.fill(0, size)
        with in_haste():
            one.converge()
        return cost_of_appends(one)


def _among_sessions(number: int) -> Cost:
    with desk() as one:
        for session in range(number):
            one.fill(session, SESSION_BYTES)
        with in_haste():
            one.converge()
        return cost_of_appends(one)


def _among_projects(number: int) -> Cost:
    with desk() as one:
        with in_haste():
            for project in [one, *(one.beside(f"proj-{other}") for other in range(1, number))]:
                project.fill(0, SESSION_BYTES)
                project.converge()
        return cost_of_appends(one)


def _write_durably(path: Path) -> None:
    """What any durable change of a file costs: written, synced, renamed, its folder synced."""
    beside = path.with_suffix(".new")
    with beside.open("wb") as stream:
        stream.write(b"x" * 1_000)
        stream.flush()
        os.fsync(stream.fileno())
    beside.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
