"""The activity log for people: reading it, following it, and one line for each thing that was done."""

from __future__ import annotations

import os

from convergenced.machine.activity import Activity, read_activity

from .here import locations
from .render import Terminal, clean, clock, parse_time

_WINDOW = 1000
"""Activities that are compared to find out which are new."""


def read(count: int) -> list[Activity]:
    """The newest `count` activities, newest last."""
    return read_activity(locations().activity_log, count)


class Follower:
    """Tells what was added to the log since it was last asked."""

    def __init__(self) -> None:
        self._path = locations().activity_log
        self._stamp = self._look()
        self._seen = read(_WINDOW)

    def fresh(self) -> list[Activity]:
        """What is new. Costs one `stat` while nothing is."""
        stamp = self._look()
        if stamp == self._stamp:
            return []
        before, self._stamp, self._seen = self._seen, stamp, read(_WINDOW)
        return added(before, self._seen)

    def _look(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size


def added(before: list[Activity], now: list[Activity]) -> list[Activity]:
    """The end of `now` that `before` lacks, where `now` may have lost some of its beginning."""
    if now[: len(before)] == before:
        return now[len(before) :]
    for end in range(len(now), 0, -1):
        overlap = min(end, len(before))
        if now[end - overlap : end] == before[len(before) - overlap :]:
            return now[end:]
    return now


def describe(activity: Activity, terminal: Terminal, now: float) -> list[str]:
    """The lines for one activity: local time, project, what was done."""
    moment = parse_time(activity.time)
    time = clean(activity.time) if moment is None else clock(moment, now)
    where = f"{clean(activity.event.project)}: " if activity.event.project else ""
    indent = " " * (len(time) + 2)
    lines = terminal.paragraph(f"{where}{clean(activity.event.text)}", first=f"{time}  ", indent=indent)
    return [terminal.style(time, "dim") + lines[0][len(time) :], *lines[1:]]
