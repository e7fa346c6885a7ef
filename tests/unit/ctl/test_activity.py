from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergenced.machine.activity import Activity, Event
from convergenced.model import ProjectId
from ctl.activity import added, describe
from ctl.render import Terminal, parse_time


def numbered(first: int, end: int) -> list[Activity]:
    return [
        Activity(f"2031-05-04T12:00:00.{number:03}Z", Event("commit", "x")) for number in range(first, end)
    ]


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 30))
def test_what_was_added_is_found_in_a_window_that_moves(before: int, more: int, window: int) -> None:
    old, new = numbered(0, before), numbered(before, before + more)
    assert added(old[-window:], (old + new)[-window:]) == new[-window:]


def test_two_events_that_are_alike_are_both_new() -> None:
    one = numbered(0, 1)
    assert added(one, one * 3) == one * 2


@pytest.mark.usefixtures("utc")
def test_an_event_is_told_in_local_time_with_its_project() -> None:
    activity = Activity(
        "2031-05-04T12:00:00.000Z", Event("commit", "1 session\x1b[2J +3 records", ProjectId("proj"))
    )
    now = parse_time("2031-05-04T13:00:00Z") or 0
    (line,) = describe(activity, Terminal(80, colour=False, interactive=False), now)
    assert line == "12:00  proj: 1 session\N{REPLACEMENT CHARACTER}[2J +3 records"


@pytest.mark.usefixtures("utc")
def test_a_long_event_is_broken_under_its_text() -> None:
    activity = Activity("2031-05-04T12:00:00.000Z", Event("commit", "word " * 20))
    lines = describe(activity, Terminal(40, colour=True, interactive=True), 1_000_000_000)
    assert len(lines) > 2
    assert lines[0].startswith("\x1b[2m")
    assert all(line.startswith(" " * 8) for line in lines[1:])
