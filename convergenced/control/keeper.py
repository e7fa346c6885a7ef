"""Keeps the store in shape in the background, with as little claim to the machine as a thread can have."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

import psutil

from convergenced.model import LocalPath
from convergenced.store.upkeep import Upkeep

NICE = 15


class BrokenOffError(Exception):
    """The daemon is about to end."""


class StoreKeeper:
    """Implements `sync.desk.Keeper` on the real store."""

    def __init__(self, store: LocalPath) -> None:
        self._upkeep = Upkeep(store, self._check)
        self._stopping = threading.Event()

    def run(self) -> str | None:
        """Packs the store if much has gathered; says what was done."""
        if not self._upkeep.is_due():
            return None
        step_back()  # it may be another thread each time
        try:
            done = self._upkeep.run()
        except BrokenOffError:
            return None
        joined = f", joined {done.joined} packs" if done.joined else ""
        return f"packed {done.packed} objects of the store{joined}"

    def close(self) -> None:
        """Breaks off soon; nothing is lost by it."""
        self._stopping.set()

    def _check(self) -> None:
        if self._stopping.is_set():
            raise BrokenOffError


def step_back() -> None:
    """Lets everything else go first, on the processor and on the disk: on Linux, for this thread alone."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, psutil.Error):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, NICE)
        psutil.Process(thread).ionice(psutil.IOPRIO_CLASS_IDLE)
