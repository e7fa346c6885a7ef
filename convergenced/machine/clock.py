"""Owns the real clock: the one place that asks the system for the time."""

from __future__ import annotations

import time


class SystemClock:
    """`ports.Clock` on the system's clocks."""

    def now(self) -> float:
        """Wall clock, Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that only grow. Stands still while a Linux machine sleeps: `now` does not."""
        return time.monotonic()
