"""Runs one program with an end: bounded in time, in output and in what it leaves behind.

Promises: the program cannot ask anybody anything (no terminal, and of stdin only what it is given);
it ends after `Limits.overall` seconds, or after `Limits.stall` seconds without a
sign of life, or when `Programs.close` is called; when `run` returns, its whole process group is
gone; output beyond the bound is not kept.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Literal

MAX_OUT = 16 * 1024 * 1024
"""Bytes on stdout; a program that says more is ended."""
MAX_ERR = 64 * 1024
"""Bytes of stderr that are kept: the last ones."""
GRACE = 2.0
"""Seconds between SIGTERM, on which git removes its lock files, and SIGKILL."""
_READ = 64 * 1024
_DRAIN_READS = 16
"""Reads after the end, each of what a pipe holds: a daemon left behind cannot keep us reading."""
_TICK = 0.1
"""Seconds between looks at whether the program has ended while a descendant keeps its pipes open."""

End = Literal["exit", "overall", "stall", "flood", "closed"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds a program may take as a whole, and seconds it may be silent."""

    overall: float
    stall: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended. `code` means something only where `end` is "exit"."""

    end: End
    code: int
    out: bytes
    err: str


class Programs:
    """The programs of one owner. Safe for use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[_Running] = set()
        self._closed = False

    def run(
        self,
        argv: Sequence[str],
        *,
        environ: Mapping[str, str],
        limits: Limits,
        given: bytes = b"",
        folder: str | None = None,
        hear: Callable[[bytes], object] | None = None,
    ) -> Outcome:
        """Runs `argv` to its end; it reads `given` and works in `folder`, by default in this process's.

        `hear` is told at once of each piece of its output. Raises OSError where it cannot be started.
        """
        with self._lock:
            if self._closed:
                return Outcome("closed", -1, b"", "")
            running = _Running(argv, environ, given, folder, hear)
            self._running.add(running)
        try:
            return running.follow(limits)
        finally:
            with self._lock:
                self._running.discard(running)
                running.release()

    def close(self) -> None:
        """Ends what runs and starts nothing any more. Does not wait for `run` to return."""
        with self._lock:
            self._closed = True
            for running in self._running:
                running.stop()


class _Running:
    def __init__(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        given: bytes,
        folder: str | None,
        hear: Callable[[bytes], object] | None,
    ) -> None:
        self._hear = hear
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        try:
            with _to_read(given) as stdin:
                self._process = subprocess.Popen(
                    argv,
                    cwd=folder,
                    env=dict(environ),
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._wake)
            os.close(self._waker)
            raise
        self._out = bytearray()
        self._err = bytearray()

    def stop(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._waker, b"x")

    def follow(self, limits: Limits) -> Outcome:
        try:
            end = self._read(limits)
        except BaseException:
            self._end_group(graceful=True)
            raise
        else:
            self._end_group(graceful=end != "exit")
            self._drain()
        return Outcome(end, self._process.returncode, bytes(self._out), self._err.decode("utf-8", "replace"))

    def release(self) -> None:
        """Gives the descriptors back; `stop` must not be called afterwards."""
        os.close(self._wake)
        os.close(self._waker)
        for pipe in self._pipes():
            pipe.close()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        out, err = self._process.stdout, self._process.stderr
        if out is None or err is None:
            raise OSError("a program was started without its pipes")
        return out, err

    def _read(self, limits: Limits) -> End:
        out, err = self._pipes()
        started = heard = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ, None)
            selector.register(out, selectors.EVENT_READ, self._out)
            selector.register(err, selectors.EVENT_READ, self._err)
            while True:
                now = time.monotonic()
                if now - started >= limits.overall:
                    return "overall"
                if now - heard >= limits.stall:
                    return "stall"
                ready = selector.select(
                    max(0.0, min(_TICK, started + limits.overall - now, heard + limits.stall - now))
                )
                if not ready and self._has_ended():
                    return "exit"
                for key, _ in ready:
                    if key.data is None:
                        return "closed"
                    heard = time.monotonic()
                    if not self._take(key.fd, key.data):
                        selector.unregister(key.fileobj)
                if len(self._out) > MAX_OUT:
                    return "flood"
                if len(selector.get_map()) == 1:  # both pipes are at their end; only `_wake` is left
                    return self._await_end(selector, started + limits.overall)

    def _await_end(self, selector: selectors.BaseSelector, deadline: float) -> End:
        while not self._has_ended():
            left = deadline - time.monotonic()
            if left <= 0:
                return "overall"
            if selector.select(min(0.001, left)):
                return "closed"
        return "exit"

    def _take(self, fd: int, into: bytearray) -> bool:
        data = os.read(fd, _READ)
        into += data
        if into is self._err:
            del self._err[:-MAX_ERR]
        elif data and self._hear is not None:
            self._hear(data)
        return bool(data)

    def _has_ended(self) -> bool:
        # Not reaped yet, so that the process group id cannot be given to somebody else.
        if sys.platform == "darwin":  # has no waitid before Python 3.13
            return self._process.poll() is not None
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _end_group(self, *, graceful: bool) -> None:
        group = self._process.pid
        try:
            if graceful:
                _signal_group(group, signal.SIGTERM)
                deadline = time.monotonic() + GRACE
                never = threading.Event()
                while not self._has_ended() and time.monotonic() < deadline:
                    never.wait(0.01)
        finally:
            _signal_group(group, signal.SIGKILL)
            self._process.wait()

    def _drain(self) -> None:
        """What the program wrote before its end and nobody has read yet: never more than a pipe holds."""
        for pipe, into in zip(self._pipes(), (self._out, self._err), strict=True):
            os.set_blocking(pipe.fileno(), False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(_DRAIN_READS):
                    if not self._take(pipe.fileno(), into):
                        break


@contextlib.contextmanager
def _to_read(data: bytes) -> Iterator[int]:
    """A descriptor that the data can be read from: a file without a name, which nobody has to feed."""
    if not data:
        yield subprocess.DEVNULL
        return
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file.fileno()


def _signal_group(group: int, number: signal.Signals) -> None:
    # macOS answers EPERM where only zombies are left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
