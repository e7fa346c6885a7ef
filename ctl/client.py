"""The client's end of the control socket.

Owns one connection to the daemon and promises that whatever goes wrong with it is raised as a
`ConvergenceError` with a hint: nobody there, no answer in time, an error of the daemon's own.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from convergenced.control.credentials import peer_credentials
from convergenced.control.protocol import (
    MAX_ANSWER,
    Json,
    Request,
    RpcError,
    format_request,
    parse_answer,
    raised_error,
)
from convergenced.errors import ConvergenceError, NoDaemonError, TimedOutError

CONNECT_TIMEOUT = 5.0
CALL_TIMEOUT = 30.0
"""Seconds that an ordinary request may take. Requests that wait for work pass their own bound."""
GRACE = 5.0
"""Seconds beyond a timeout which the daemon keeps itself, before the client gives up on it."""
TICK = 1.0
"""Seconds between two calls of `each_tick` while an answer is awaited."""
_KNOCK_EVERY = 0.05
_READ = 64 * 1024

START_HINT = "start it with: convergencectl up"


class Connection:
    """One connection; requests on it go one after the other."""

    def __init__(self, path: str) -> None:
        """Connects. Raises `NoDaemonError` where no daemon of this user answers at `path`."""
        self._path = path
        self._next_id = 0
        self._received = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connect()
        except BaseException:
            self._socket.close()
            raise

    def _connect(self) -> None:
        try:
            self._knock()
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoDaemonError("convergenced does not run", START_HINT) from error
        except TimeoutError as error:
            raise TimedOutError("convergenced takes no connection", "see: convergencectl log") from error
        except OSError as error:
            raise NoDaemonError(
                f"cannot reach {self._path}: {error.strerror or error}", START_HINT
            ) from error
        who = peer_credentials(self._socket)
        if who is not None and who.uid != os.geteuid():
            raise NoDaemonError(f"{self._path} is served by another user (uid {who.uid})", START_HINT)
        self.pid = None if who is None else who.pid

    def _knock(self) -> None:
        """Connects. Raises `OSError`; a full queue of newcomers is waited for."""
        self._socket.settimeout(CONNECT_TIMEOUT)
        until = time.monotonic() + CONNECT_TIMEOUT
        while True:
            try:
                self._socket.connect(self._path)
            except BlockingIOError as error:  # what Linux says of a full queue, at once
                if time.monotonic() >= until:
                    raise TimeoutError from error
                time.sleep(_KNOCK_EVERY)
            else:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves; a request that is still unanswered is given up."""
        self._socket.close()

    def call(
        self,
        method: str,
        params: dict[str, Json] | None = None,
        *,
        timeout: float | None = CALL_TIMEOUT,
        each_tick: Callable[[], None] | None = None,
    ) -> Json:
        """The daemon's answer. `timeout` None waits for as long as the daemon lives.

        Raises the daemon's error as it was there, `TimedOutError`, or `NoDaemonError` where the
        daemon ends before it answers.
        """
        self._next_id += 1
        deadline = None if timeout is None else time.monotonic() + timeout
        self._socket.settimeout(CALL_TIMEOUT if timeout is None else max(timeout, TICK))
        try:
            self._socket.sendall(format_request(Request(self._next_id, method, params or {})))
        except TimeoutError as error:
            raise TimedOutError("convergenced does not read requests", "see: convergencectl log") from error
        except OSError:
            pass  # It hung up; what it said before that is still to be read.
        while True:
            answer = parse_answer(self._read_line(deadline, each_tick))
            if isinstance(answer, RpcError):
                if answer.id in {None, self._next_id}:
                    raise raised_error(answer)
            elif answer.id == self._next_id:
                return answer.value

    def _read_line(self, deadline: float | None, each_tick: Callable[[], None] | None) -> bytes:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > MAX_ANSWER:
                raise ConvergenceError("the daemon's answer has no end", "restart it: convergencectl down")
            self._received += self._read(deadline, each_tick)
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _read(self, deadline: float | None, each_tick: Callable[[], None] | None) -> bytes:
        while True:
            left = TICK if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimedOutError("convergenced did not answer in time", "see: convergencectl log")
            self._socket.settimeout(min(left, TICK))
            try:
                chunk = self._socket.recv(_READ)
            except TimeoutError:
                if each_tick is not None:
                    each_tick()
                continue
            except ConnectionError:
                chunk = b""
            if not chunk:
                raise NoDaemonError("convergenced ended before it answered", START_HINT)
            return chunk
