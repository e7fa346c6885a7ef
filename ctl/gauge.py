"""How far long work is and how fast it goes, from looks at the status that follow one another."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .render import Terminal, clean, clip, portion, span, width

if TYPE_CHECKING:
    from convergenced.control.answers import Progress, Status

WINDOW = 10.0
"""Seconds over which the speed is taken."""
SLOW = 3.0
"""Seconds from which on an exchange is worth a line."""
BAR = 24
_LEAST_SPEED = 1000.0
"""Bytes a second below which it is not said when something will be done."""


class Gauge:
    """Remembers what it has seen. Times are Unix seconds, and may be any that grow."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}
        self._busy: dict[str, float] = {}

    def lines(self, status: Status, terminal: Terminal, now: float) -> list[str]:
        """One line for each import and each exchange that takes long; none where there is neither."""
        imports = {
            one["id"]: progress
            for one in status["projects"]
            if (progress := one.get("progress")) is not None and progress["of"] > 0
        }
        self._seen = {name: self._seen.get(name, deque()) for name in imports}
        busy = [one["name"] for one in status["peers"] if one.get("busy")]
        self._busy = {name: self._busy.get(name, now) for name in busy}
        shown = [self._import(name, progress, terminal, now) for name, progress in imports.items()]
        for name, since in self._busy.items():
            if now - since >= SLOW:
                shown.append(clip(f"exchanging with {clean(name)} for {span(now - since)}", terminal.width))
        return shown

    def _import(self, name: str, progress: Progress, terminal: Terminal, now: float) -> str:
        done, of = min(progress["done"], progress["of"]), progress["of"]
        speed = self._speed(name, done, now)
        words = f" {100 * done // of:3} %  {portion(done, of)}"
        if speed is not None and speed >= _LEAST_SPEED:
            words += f", {speed / 1e6:.1f} MB/s, {span((of - done) / speed)} left"
        room = terminal.width - width(words) - 1
        bar = max(4, min(BAR, room // 2))
        filled = bar * done // of
        label = clip(clean(name), max(8, room - bar - 1))
        text = f"{label} {'█' * filled}{'░' * (bar - filled)}{words}"
        return clip(text, terminal.width)

    def _speed(self, name: str, done: int, now: float) -> float | None:
        """Bytes a second; None before there is anything to compare with."""
        seen = self._seen[name]
        if seen and done < seen[-1][1]:
            seen.clear()  # another import began
        seen.append((now, done))
        while now - seen[0][0] > WINDOW:
            seen.popleft()
        since, before = seen[0]
        return (done - before) / (now - since) if now > since else None
