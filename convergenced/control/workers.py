"""Threads for blocking work: jobs of one lane run one after the other, lanes side by side."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from convergenced.control.keeper import step_back

T = TypeVar("T")


def aside(work: Callable[[], T]) -> T:
    """Does the work in a thread of its own that lets everything else go first, and waits for it.

    A thread that stepped back cannot step forward again.
    """

    def humbly() -> T:
        step_back()
        return work()

    with ThreadPoolExecutor(1, "aside") as pool:
        return pool.submit(humbly).result()


class ThreadWorkers:
    """One daemon thread for each lane, made when the lane is first used."""

    def __init__(self) -> None:
        self._lanes: dict[str, queue.SimpleQueue[Callable[[], None] | None]] = {}
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, lane: str, job: Callable[[], None]) -> None:
        """Runs the job soon; after `drain` it is dropped."""
        if self._closed:
            return
        if lane not in self._lanes:
            jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
            thread = threading.Thread(target=self._work, args=(jobs,), name=lane, daemon=True)
            self._lanes[lane] = jobs
            self._threads.append(thread)
            thread.start()
        self._lanes[lane].put(job)

    def drain(self, seconds: float) -> bool:
        """Lets each lane finish the job it is at; tells whether all did within `seconds`."""
        self._closed = True
        for jobs in self._lanes.values():
            jobs.put(None)
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self, jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
        while (job := jobs.get()) is not None:
            if not self._closed:
                job()
