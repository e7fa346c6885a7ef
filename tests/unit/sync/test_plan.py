"""When what is due."""

from __future__ import annotations

import inspect

import hypothesis.strategies as st
import pytest
from hypothesis import given

from convergenced.model import LocalPath, ProjectId
from convergenced.sync import plan
from convergenced.sync.board import ReplicaState
from convergenced.sync.plan import (
    HOLD_POLL,
    JITTER,
    PEER_RETRY_FIRST,
    PEER_RETRY_LAST,
    RETRY_FIRST,
    RETRY_LAST,
    STREAK_REST,
    Pace,
    ReplicaView,
    peer_delay,
    replica_due,
    retry_delay,
)
from convergenced.sync.replica import Replica

PACE = Pace(quiet=2.0, max_wait=30.0, rescan=600.0, interval=60.0)


def test_with_nothing_known_nothing_is_due() -> None:
    assert replica_due(ReplicaView(), PACE) is None


def test_a_change_is_due_after_silence() -> None:
    assert replica_due(ReplicaView(first_change=100.0, last_change=105.0), PACE) == 107.0


def test_a_constant_writer_is_due_at_the_latest_after_max_wait() -> None:
    assert replica_due(ReplicaView(first_change=100.0, last_change=129.5), PACE) == 130.0


def test_what_is_asked_for_is_due_at_once() -> None:
    assert replica_due(ReplicaView(first_change=100.0, last_change=100.0, asked=90.0), PACE) == 90.0


def test_the_earliest_reason_counts() -> None:
    view = ReplicaView(first_change=100.0, last_change=100.0, retry_at=101.0, held_since=50.0)
    assert replica_due(view, PACE) == 50.0 + HOLD_POLL


@pytest.mark.parametrize("view", [ReplicaView(asked=1.0, busy=True), ReplicaView(asked=1.0, paused=True)])
def test_what_is_busy_or_paused_is_never_due(view: ReplicaView) -> None:
    assert replica_due(view, PACE) is None


def test_local_retries_grow_up_to_a_bound() -> None:
    delays = [retry_delay(failures) for failures in range(1, 40)]
    assert delays[0] == RETRY_FIRST
    assert delays[1] == 2 * RETRY_FIRST
    assert delays == sorted(delays)
    assert delays[-1] == RETRY_LAST


def test_a_failing_peer_is_asked_ever_more_rarely_up_to_a_bound() -> None:
    delays = [peer_delay(failures, PACE, 0.5) for failures in range(1, 40)]
    assert delays[0] == PEER_RETRY_FIRST
    assert delays == sorted(delays)
    assert delays[-1] == PEER_RETRY_LAST


@given(st.integers(0, 2_000), st.floats(0, 1, exclude_max=True))
def test_no_two_machines_need_knock_in_step_and_none_waits_for_ever(failures: int, chance: float) -> None:
    middle = peer_delay(failures, PACE, 0.5)
    delay = peer_delay(failures, PACE, chance)
    assert middle * (1 - JITTER) <= delay <= middle * (1 + JITTER)
    assert 0 < retry_delay(failures) <= RETRY_LAST


def test_the_plan_knows_no_clock_and_no_chance() -> None:
    source = inspect.getsource(plan)
    assert not [word for word in ("import time", "import random", "now()", "monotonic()") if word in source]


def test_commits_that_follow_each_other_closely_come_ever_more_rarely() -> None:
    gaps = []
    now = committed = 100.0
    for streak in range(8):
        view = ReplicaView(first_change=now, last_change=now, committed_at=committed, streak=streak)
        due = replica_due(view, PACE)
        assert due is not None
        gaps.append(due - now)
    assert gaps == [2.0, 2.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]


def test_a_pause_ends_a_streak() -> None:
    state = ReplicaState(Replica(ProjectId("app"), "-app", LocalPath("/app"), primary=True))
    for now in (0.0, 10.0, 20.0, 20.0 + STREAK_REST):
        state.note_commit(now)
    assert state.streak == 0
