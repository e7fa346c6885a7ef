"""The control socket's server: one thread, many clients, none of which can hurt another.

Owns the socket file and every connection. Promises: only this user gets an answer; a client that
sends garbage, never reads or goes away costs a bounded amount of memory and no one else's time; the
handler is called in the server's thread and each request is answered exactly once, from any thread;
a socket file that somebody removed is made again.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from convergenced.control.credentials import Credentials, peer_credentials
from convergenced.control.listener import listen
from convergenced.control.protocol import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    MAX_ANSWER,
    MAX_LINE,
    Json,
    Request,
    RequestId,
    RpcError,
    format_error,
    format_result,
    parse_request,
    rpc_error,
)
from convergenced.errors import ConvergenceError, DegradedError

log = logging.getLogger(__name__)

MAX_CLIENTS = 64
MAX_OUTPUT = 2 * MAX_ANSWER
"""Bytes that wait for one client to read them; with more it is dropped."""
MAX_PENDING = 64
"""Requests of one client that may be unanswered at a time."""
IDLE_GRACE = 5.0
"""Seconds in which a client neither asks nor reads, after which it may have to make room for a new one."""
LOOK_EVERY = 5.0
"""Seconds between two looks whether the socket file is still there."""
STOP_GRACE = 1.0
"""Seconds that last answers get to leave when the server stops."""
ACCEPT_PAUSE = 1.0
"""Seconds to wait for a free descriptor when the process has none left."""
_READ = 64 * 1024

_Handler = Callable[[Request, "Reply"], None]


class Reply:
    """The way back to one request. The first of `result` and `error` is the answer.

    Both may be called from any thread, at any time, and are harmless when the client has gone.
    A second answer is an error of the caller and raises RuntimeError.
    """

    def __init__(self, server: ControlServer, client: _Client, id_: RequestId) -> None:
        self._server = server
        self._client = client
        self._id = id_
        self._lock = threading.Lock()
        self._answered = False

    @property
    def closed(self) -> bool:
        """Whether the client has left, so that nobody waits for the answer any more."""
        return self._client.gone.is_set()

    @property
    def answered(self) -> bool:
        """Whether `result` or `error` was called."""
        return self._answered

    def result(self, value: Json) -> None:
        """Answers with a value."""
        self._answer(format_result(self._id, value))

    def error(self, error: ConvergenceError) -> None:
        """Answers with an error that the client raises again."""
        self._answer(format_error(rpc_error(self._id, error)))

    def refuse(self, code: int, message: str) -> None:
        """Answers with a JSON-RPC error (`METHOD_NOT_FOUND`, `INVALID_PARAMS` …)."""
        self._answer(format_error(RpcError(self._id, code, message)))

    def _answer(self, line: bytes) -> None:
        with self._lock:
            if self._answered:
                raise RuntimeError("a request is answered once")
            self._answered = True
        self._server._deliver(self._client, b"" if self._id is None else line)


@dataclass(eq=False, slots=True)
class _Client:
    """One connection; everything but `gone` belongs to the server's thread."""

    connection: socket.socket
    since: float
    """When it last asked, or read anything of its answers."""
    gone: threading.Event = field(default_factory=threading.Event)
    input: bytearray = field(default_factory=bytearray)
    output: bytearray = field(default_factory=bytearray)
    pending: int = 0
    leaving: bool = False
    """No more input is read; the client is dropped once its output has left."""


class ControlServer:
    """Serves `path`, a Unix socket, from its own thread between `start` and `stop`."""

    def __init__(
        self,
        path: str,
        handler: _Handler,
        *,
        max_clients: int = MAX_CLIENTS,
        credentials: Callable[[socket.socket], Credentials | None] = peer_credentials,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._handler = handler
        self._max_clients = max_clients
        self._credentials = credentials
        self._monotonic = monotonic
        self._clients: set[_Client] = set()
        self._answers: collections.deque[tuple[_Client, bytes]] = collections.deque()
        self._stopping = threading.Event()
        self._accept_at: float | None = None
        self._bound: tuple[int, int] | None = None
        self._look_at = 0.0
        self._trouble = ""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Binds and serves. Raises `ConvergenceError` where another daemon answers on `path`."""
        self._bind()
        self._waker, self._wake = socket.socketpair()
        self._waker.setblocking(False)
        self._wake.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._waker, selectors.EVENT_READ, self._drain_waker)
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Lets answers already given leave (`STOP_GRACE`), closes everything, removes the socket.

        May be called twice, and from the handler; then the thread ends after the handler returns.
        """
        if self._thread is None:
            return
        self._stopping.set()
        self._rouse()
        if self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None

    def _bind(self) -> None:
        self._listener = listen(self._path)
        with contextlib.suppress(FileNotFoundError):  # removed again already: it is noticed at the next look
            bound = os.lstat(self._path)
            self._bound = (bound.st_dev, bound.st_ino)
        self._look_at = self._monotonic() + LOOK_EVERY

    # -- the server's thread

    def _serve(self) -> None:
        try:
            while not self._stopping.is_set():
                self._turn(LOOK_EVERY if self._accept_at is None else ACCEPT_PAUSE)
                if self._monotonic() >= self._look_at:
                    self._bind_again()
            self._say_goodbye()
        finally:
            for client in list(self._clients):
                self._drop(client)
            self._remove_socket()
            self._selector.close()
            for one in (self._listener, self._waker, self._wake):
                one.close()

    def _turn(self, timeout: float | None) -> None:
        for key, events in self._selector.select(timeout):
            if isinstance(key.data, _Client):
                self._tend(key.data, events)
            else:
                key.data()
        while self._answers:
            client, line = self._answers.popleft()
            client.pending -= 1
            self._send(client, line)
        if self._accept_at is not None and self._monotonic() >= self._accept_at:
            self._accept_at = None
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _bind_again(self) -> None:
        """Makes the socket file again where it is gone: a runtime folder may be swept while we run."""
        self._look_at = self._monotonic() + LOOK_EVERY
        if self._accept_at is not None or os.path.lexists(self._path):
            return
        former = self._listener
        try:
            self._bind()
        except (ConvergenceError, OSError) as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                log.warning("the control socket %s is gone, nobody can ask: %s", self._path, error)
            return
        self._trouble = ""
        self._selector.unregister(former)
        former.close()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        log.warning("the control socket %s was gone and is made again", self._path)

    def _say_goodbye(self) -> None:
        if self._accept_at is None:
            self._selector.unregister(self._listener)
        until = self._monotonic() + STOP_GRACE
        self._turn(0)
        while any(client.output for client in self._clients) and self._monotonic() < until:
            self._turn(STOP_GRACE / 10)

    def _accept(self) -> None:
        for _ in range(MAX_CLIENTS):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:
                # No descriptor left: the listener would stay readable and spin. Look away for a moment.
                log.warning("cannot take a control connection: %s", error)
                self._selector.unregister(self._listener)
                self._accept_at = self._monotonic() + ACCEPT_PAUSE
                return
            self._welcome(connection)

    def _welcome(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        who = self._credentials(connection)
        if who is None or who.uid != os.geteuid():
            log.warning("refused a control connection of another user (%s)", who.uid if who else "unknown")
            connection.close()
            return
        client = _Client(connection, self._monotonic())
        full = len(self._clients) >= self._max_clients and not self._make_room()
        self._clients.add(client)
        self._selector.register(connection, selectors.EVENT_READ, client)
        if full:
            client.leaving = True
            full_up = DegradedError(f"{self._max_clients} clients are connected already", "try again later")
            self._send(client, format_error(rpc_error(None, full_up)))

    def _make_room(self) -> bool:
        idle = [one for one in self._clients if not one.pending]
        if not idle:
            return False
        oldest = min(idle, key=lambda one: one.since)
        if self._monotonic() - oldest.since < IDLE_GRACE:
            return False
        self._drop(oldest)
        return True

    def _tend(self, client: _Client, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send(client, b"")
        if events & selectors.EVENT_READ and client in self._clients:
            self._receive(client)

    def _receive(self, client: _Client) -> None:
        try:
            chunk = client.connection.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._drop(client)
            return
        if client.leaving or self._stopping.is_set():
            return
        searched = len(client.input)
        client.input += chunk
        start = 0
        while (end := client.input.find(b"\n", max(start, searched))) >= 0:
            line = bytes(client.input[start:end])
            start = end + 1
            if line.strip():
                self._request(client, line)
            if client not in self._clients:
                return
        del client.input[:start]
        if len(client.input) > MAX_LINE:
            # Where the next message begins cannot be known any more.
            client.input.clear()
            self._turn_away(client, f"a message is at most {MAX_LINE} bytes long")

    def _turn_away(self, client: _Client, message: str) -> None:
        client.leaving = True
        self._send(client, format_error(RpcError(None, INVALID_REQUEST, message)))

    def _request(self, client: _Client, line: bytes) -> None:
        client.since = self._monotonic()
        request = parse_request(line)
        if isinstance(request, RpcError):
            self._send(client, format_error(request))
            return
        if client.pending >= MAX_PENDING:
            message = f"{MAX_PENDING} requests of this client are unanswered"
            self._send(client, format_error(RpcError(request.id, INVALID_REQUEST, message)))
            return
        client.pending += 1
        reply = Reply(self, client, request.id)
        try:
            self._handler(request, reply)
        except ConvergenceError as error:
            if not reply.answered:
                reply.error(error)
        except Exception:
            # The boundary between the server and what it serves: one bad request must not end all.
            log.exception("the request %s failed", request.method)
            if not reply.answered:
                reply.refuse(INTERNAL_ERROR, f"{request.method} failed inside the daemon")

    def _send(self, client: _Client, line: bytes) -> None:
        if client not in self._clients:
            return
        client.output += line
        now = self._monotonic()
        try:
            while client.output:
                sent = client.connection.send(memoryview(client.output)[:_READ])
                del client.output[:sent]
                client.since = now
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._drop(client)
            return
        if len(client.output) > MAX_OUTPUT:
            log.warning("dropped a control client that does not read its answers")
            self._drop(client)
        elif client.leaving and not client.output:
            self._drop(client)
        else:
            # Who does not read its answers is not read either.
            wanted = selectors.EVENT_WRITE if client.output else selectors.EVENT_READ
            self._selector.modify(client.connection, wanted, client)

    def _drop(self, client: _Client) -> None:
        self._clients.discard(client)
        self._selector.unregister(client.connection)
        client.connection.close()
        client.output.clear()
        client.gone.set()

    def _drain_waker(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            self._waker.recv(_READ)

    def _remove_socket(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(self._path)
            if (found.st_dev, found.st_ino) == self._bound:
                os.unlink(self._path)

    # -- any thread

    def _deliver(self, client: _Client, line: bytes) -> None:
        self._answers.append((client, line))
        self._rouse()

    def _rouse(self) -> None:
        # A full pipe wakes as well as one more byte; a closed one has nobody left to wake.
        with contextlib.suppress(OSError):
            self._wake.send(b"\0")
