"""Threads for blocking work: jobs of one lane run one after the other, lanes side by side."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from convergenced.control.keeper import step_back
from convergenced.machine.memory import give_back

T = TypeVar("T")

REST = 150.0
"""Seconds without a job after which the thread of a lane ends: longer than between two rounds with a peer."""


def aside(work: Callable[[], T]) -> T:
    """Does the work in a thread of its own that lets everything else go first, and waits for it.

    A thread that stepped back cannot step forward again.
    """

    def humbly() -> T:
        step_back()
        return work()

    with ThreadPoolExecutor(1, "aside") as pool:
        return pool.submit(humbly).result()


Jobs = queue.SimpleQueue[Callable[[], None] | None]


class ThreadWorkers:
    """One daemon thread for each lane that has something to do.

    It ends after `rest` seconds without a job, and with it what was opened for that thread alone; the memory
    that its work took is given back.
    """

    def __init__(self, rest: float = REST) -> None:
        self._rest = rest
        self._lock = threading.Lock()
        self._lanes: dict[str, tuple[Jobs, threading.Thread]] = {}
        self._closed = False

    def submit(self, lane: str, job: Callable[[], None]) -> None:
        """Runs the job soon; after `drain` it is dropped."""
        with self._lock:
            if self._closed:
                return
            if lane not in self._lanes:
                jobs: Jobs = queue.SimpleQueue()
                thread = threading.Thread(target=self._work, args=(lane, jobs), name=lane, daemon=True)
                self._lanes[lane] = jobs, thread
                thread.start()
            self._lanes[lane][0].put(job)

    def drain(self, seconds: float) -> bool:
        """Lets each lane finish the job it is at; tells whether all did within `seconds`."""
        with self._lock:
            self._closed = True
            lanes = list(self._lanes.values())
        for jobs, _ in lanes:
            jobs.put(None)
        until = time.monotonic() + seconds
        for _, thread in lanes:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for _, thread in lanes)

    def _work(self, lane: str, jobs: Jobs) -> None:
        while (job := self._next(lane, jobs)) is not None:
            if not self._closed:
                job()

    def _next(self, lane: str, jobs: Jobs) -> Callable[[], None] | None:
        """The lane's next job; None where the lane is to end."""
        with contextlib.suppress(queue.Empty):
            return jobs.get(timeout=self._rest)
        with self._lock:
            is_over = jobs.empty()
            if is_over:
                self._lanes.pop(lane, None)
        if is_over:
            give_back()
            return None
        return jobs.get()
