"""A clock that stands still until it is moved."""

from __future__ import annotations


class FakeClock:
    """`ports.Clock` set by hand. Begins at 2026-01-01T00:00:00Z."""

    def __init__(self, now: float = 1_767_225_600.0, monotonic: float = 1000.0) -> None:
        self._now = now
        self._monotonic = monotonic

    def now(self) -> float:
        """Wall clock, Unix seconds."""
        return self._now

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        if seconds < 0:
            raise ValueError("time does not run backwards; see set_now for a jump of the wall clock")
        self._now += seconds
        self._monotonic += seconds

    def set_now(self, now: float) -> None:
        """Sets the wall clock alone: a correction, or a wake-up after the machine slept."""
        self._now = now


class ShiftedClock(FakeClock):
    """A machine's own clock: time passes as on `base`, which it shows with `offset` seconds added."""

    def __init__(self, base: FakeClock, offset: float = 0.0) -> None:
        super().__init__()
        self._base = base
        self.offset = offset

    def now(self) -> float:
        """Wall clock, Unix seconds."""
        return self._base.now() + self.offset

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return self._base.monotonic()

    def advance(self, seconds: float) -> None:
        """Lets time pass, for all who share the base."""
        self._base.advance(seconds)

    def set_now(self, now: float) -> None:
        """Sets this machine's wall clock alone."""
        self.offset = now - self._base.now()
