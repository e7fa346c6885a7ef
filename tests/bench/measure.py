"""What is measured, as rows of one table, and how two things are timed side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log
from statistics import median
from typing import Literal

TURNS = 7
"""How often each side of a comparison runs, in turns, so that a slow moment hits both."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `target` is what it must reach: "least" or "most" says on which side of it."""

    group: str
    what: str
    value: float
    unit: str
    target: float | None = None
    bound: Literal["least", "most"] = "most"
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.bound == "least" else self.value <= self.target


def share(amount: float, scale: float, least: float = 1) -> int:
    """An amount made smaller, but not too small to measure with."""
    return int(max(least, amount * scale))


def percentile(values: Sequence[float], rank: float) -> float:
    """The value that `rank` (0 to 1) of all do not exceed."""
    return sorted(values)[max(0, ceil(len(values) * rank) - 1)]


def timed(work: Callable[[], object]) -> float:
    """The seconds that something takes, once."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def side_by_side(*works: Callable[[], object], turns: int = TURNS) -> list[float]:
    """The median seconds of each, run in turns after one turn that does not count."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(turns + 1):
        for spent, work in zip(times, works, strict=True):
            seconds = timed(work)
            if turn:
                spent.append(seconds)
    return [median(spent) for spent in times]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of cost over size on logarithmic scales: 0 is flat, 1 is proportional."""
    points = [(log(size), log(max(cost, 1e-12))) for size, cost in zip(sizes, costs, strict=True)]
    mean_x, mean_y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    over = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return float(over / sum((x - mean_x) ** 2 for x, _ in points))
