"""Threads for blocking work: in order, side by side, and gone when there is nothing to do."""

from __future__ import annotations

import threading

from convergenced.control.workers import ThreadWorkers

PATIENCE = 20.0
LONG = 600.0


def test_jobs_of_one_lane_keep_their_order_and_lanes_go_side_by_side() -> None:
    workers, done, other = ThreadWorkers(LONG), list[int](), threading.Event()
    workers.submit("one", lambda: done.append(0 if other.wait(PATIENCE) else -1))
    for number in (1, 2, 3):
        workers.submit("one", lambda number=number: done.append(number))  # type: ignore[misc]
    last = threading.Event()
    workers.submit("one", last.set)
    workers.submit("other", other.set)
    assert last.wait(PATIENCE)
    assert done == [0, 1, 2, 3]
    assert workers.drain(PATIENCE)


def test_after_the_end_nothing_is_taken_any_more() -> None:
    workers, done = ThreadWorkers(LONG), list[int]()
    assert workers.drain(PATIENCE)
    workers.submit("one", lambda: done.append(1))
    assert workers.drain(PATIENCE)
    assert done == []


def test_a_lane_without_a_job_ends_and_is_made_again() -> None:
    workers, ran = ThreadWorkers(0.0), list[threading.Thread]()
    for number in (1, 2):
        began = threading.Event()

        def job(began: threading.Event = began) -> None:
            ran.append(threading.current_thread())
            began.set()

        workers.submit("lane", job)
        assert began.wait(PATIENCE)
        ran[-1].join(PATIENCE)
        assert not ran[-1].is_alive()
        assert len(ran) == number
    assert ran[0] is not ran[1]
    assert workers.drain(PATIENCE)


def test_no_job_is_lost_while_lanes_end() -> None:
    workers, done = ThreadWorkers(0.0), list[int]()
    for number in range(500):
        workers.submit("lane", lambda number=number: done.append(number))  # type: ignore[misc]
    last = threading.Event()
    workers.submit("lane", last.set)
    assert last.wait(PATIENCE)
    assert done == list(range(500))
    assert workers.drain(PATIENCE)
