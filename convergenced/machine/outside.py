"""Where a process is whose folder the kernel hides: what the service's sandbox costs, and how to ask.

A service with a sandbox lives in a user namespace of its own, and from there the folders of the user's
other processes cannot be read. Only the user's service manager, which lives outside, can tell. Promise:
asking is rare (an answer holds for a while) and bounded; no answer is None, never an error.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence

from convergenced.errors import ConvergenceError
from convergenced.machine.durable import read_bounded
from convergenced.model import LocalPath

HOLDS_S = 60.0
"""Seconds for which an answer about one process is kept."""
TIMEOUT_S = 3.0
"""Seconds that the service manager may take."""
MAX_KEPT = 1000
_ASK = ("systemd-run", "--user", "--quiet", "--pipe", "--wait", "--collect", "--property=LogLevelMax=notice")

Ask = Callable[[Sequence[str]], str | None]


class Outside:
    """Asks the service manager where processes are, where this process cannot see it."""

    def __init__(
        self,
        ask: Ask | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        uid_map: LocalPath = LocalPath("/proc/self/uid_map"),  # noqa: B008 - a str
    ) -> None:
        self._ask = ask or _run
        self._monotonic = monotonic
        self._is_shut_in = _is_namespace(uid_map)
        self._known: dict[tuple[int, str], tuple[float, str | None]] = {}

    def folder_of(self, pid: int, started: str | None) -> str | None:
        """The working folder of the process `pid` that started at `started` (its start ticks).

        None where it cannot be told, and everywhere but in a user namespace: there the system has
        already said all that it would.
        """
        if not self._is_shut_in or started is None:
            return None
        now, key = self._monotonic(), (pid, started)
        if key in self._known and now - self._known[key][0] < HOLDS_S:
            return self._known[key][1]
        said = self._ask([*_ASK, "readlink", "--no-newline", "--", f"/proc/{pid}/cwd"])
        folder = said if said and said.startswith("/") else None
        if len(self._known) >= MAX_KEPT:
            self._known.clear()
        self._known[key] = (now, folder)
        return folder


def _is_namespace(uid_map: LocalPath) -> bool:
    """Whether the users are not those of the whole system."""
    try:
        raw = read_bounded(uid_map, 4096)
    except ConvergenceError:
        return False
    return raw is not None and raw.split() != [b"0", b"0", b"4294967295"]


def _run(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else None
