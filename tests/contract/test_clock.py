"""What `ports.Clock` promises, of the system and by hand."""

from __future__ import annotations

import pytest

from convergenced.machine.clock import SystemClock
from convergenced.ports import Clock
from tests.fakes.clock import FakeClock

TWINS = [SystemClock, FakeClock]


@pytest.mark.parametrize("make", TWINS)
def test_monotonic_never_runs_backwards(make: type[SystemClock] | type[FakeClock]) -> None:
    clock: Clock = make()
    readings = [clock.monotonic() for _ in range(100)]
    assert readings == sorted(readings)


@pytest.mark.parametrize("make", TWINS)
def test_now_is_in_unix_seconds_of_this_century(make: type[SystemClock] | type[FakeClock]) -> None:
    clock: Clock = make()
    assert 1_700_000_000 < clock.now() < 4_102_444_800


def test_time_passes_by_hand() -> None:
    clock = FakeClock()
    now, monotonic = clock.now(), clock.monotonic()
    clock.advance(2.5)
    assert (clock.now() - now, clock.monotonic() - monotonic) == (2.5, 2.5)


def test_a_machine_that_slept_shows_it_on_the_wall_clock_only() -> None:
    clock = FakeClock()
    monotonic = clock.monotonic()
    clock.set_now(clock.now() + 3600)
    assert clock.monotonic() == monotonic


def test_time_does_not_run_backwards() -> None:
    with pytest.raises(ValueError, match="backwards"):
        FakeClock().advance(-1)
