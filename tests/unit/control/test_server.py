from __future__ import annotations

import errno
import json
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from convergenced.control import server as server_module
from convergenced.control.credentials import Credentials, peer_credentials
from convergenced.control.protocol import INTERNAL_ERROR, INVALID_REQUEST, MAX_LINE, PARSE_ERROR, Request
from convergenced.control.server import ControlServer, Reply
from convergenced.errors import ConvergenceError, UsageError

PATIENCE = 20.0
Handler = Callable[[Request, Reply], None]
Serve = Callable[..., ControlServer]


class Client:
    """A raw client that sends what it is told."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise
        self.file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, method: str = "ping", id_: int = 1) -> None:
        self.send(json.dumps({"jsonrpc": "2.0", "id": id_, "method": method}).encode() + b"\n")

    def answer(self) -> Any:
        line = self.file.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def send_again_and_again(send: Callable[[int], None]) -> None:
    """Sends until the other side hangs up, which it has to long before the end."""
    for number in range(10_000):
        send(number)


def echo(request: Request, reply: Reply) -> None:
    reply.result(request.method)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "run" / "control.sock")


@pytest.fixture
def serve(path: str) -> Iterator[Serve]:
    started: list[ControlServer] = []

    def begin(handler: Handler = echo, **options: Any) -> ControlServer:
        one = ControlServer(path, handler, **options)
        one.start()
        started.append(one)
        return one

    yield begin
    for one in started:
        one.stop()


@pytest.fixture
def connect(path: str) -> Iterator[Callable[[], Client]]:
    clients: list[Client] = []

    def begin() -> Client:
        clients.append(Client(path))
        return clients[-1]

    yield begin
    for one in clients:
        one.close()


Connect = Callable[[], Client]


def test_a_request_is_answered(serve: Serve, connect: Connect) -> None:
    serve()
    client = connect()
    client.ask("ping", 5)
    assert client.answer() == {"jsonrpc": "2.0", "id": 5, "result": "ping"}


def test_only_this_user_can_reach_the_socket(serve: Serve, path: str) -> None:
    before = os.umask(0)
    try:
        serve()
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700


def test_the_umask_is_as_it_was(serve: Serve) -> None:
    before = os.umask(0o027)
    try:
        serve()
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


@pytest.mark.parametrize("uid", [0, os.geteuid() + 1, None])
def test_another_user_is_turned_away_without_a_word(serve: Serve, connect: Connect, uid: int | None) -> None:
    if uid == os.geteuid():
        uid = os.geteuid() + 2
    asked = threading.Event()

    def handler(_: Request, __: Reply) -> None:
        asked.set()

    serve(handler, credentials=lambda _: None if uid is None else Credentials(uid, 1))
    client = connect()
    try:
        client.ask()
        assert client.file.read() == b""
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert not asked.is_set()


def test_the_kernel_names_us_at_both_ends() -> None:
    one, other = socket.socketpair()
    with one, other:
        for end in (one, other):
            who = peer_credentials(end)
            assert who is not None
            assert (who.uid, who.pid) == (os.geteuid(), os.getpid())


class Darwin:
    """A socket of macOS: no SO_PEERCRED, but LOCAL_PEERCRED (struct xucred) and LOCAL_PEERPID."""

    def __init__(self, xucred: bytes) -> None:
        self.xucred = xucred

    def getsockopt(self, level: int, name: int, length: int) -> bytes:
        assert level == 0
        return {1: self.xucred, 2: struct.pack("@i", 4711)}[name][:length]


def test_macos_names_the_other_end_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_PEERCRED", raising=False)
    xucred = struct.pack("@IIh16I", 0, 501, 1, 20, *[0] * 15)
    assert peer_credentials(cast("socket.socket", Darwin(xucred))) == Credentials(501, 4711)
    assert peer_credentials(cast("socket.socket", Darwin(b"short"))) is None


class NoDescriptorLeft:
    """A listener whose first `accept` finds no descriptor."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener, self.failed = listener, False

    def fileno(self) -> int:
        return self.listener.fileno()

    def close(self) -> None:
        self.listener.close()

    def accept(self) -> tuple[socket.socket, Any]:
        if not self.failed:
            self.failed = True
            raise OSError(errno.EMFILE, "Too many open files")
        return self.listener.accept()


def test_without_descriptors_newcomers_wait_and_the_others_are_served(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "ACCEPT_PAUSE", 0.05)
    server = serve()
    old = connect()
    old.ask("before")
    assert old.answer()["result"] == "before"
    listener = NoDescriptorLeft(server._listener)
    server._listener = cast("socket.socket", listener)
    fresh = connect()
    fresh.ask("fresh")
    old.ask("old")
    assert old.answer()["result"] == "old"
    assert fresh.answer()["result"] == "fresh"
    assert listener.failed


def test_a_socket_that_nobody_serves_is_replaced(serve: Serve, connect: Connect, path: str) -> None:
    Path(path).parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    serve()
    client = connect()
    client.ask()
    assert client.answer()["result"] == "ping"


def test_a_served_socket_is_left_alone_and_its_daemon_named(
    serve: Serve, connect: Connect, path: str
) -> None:
    serve()
    with pytest.raises(ConvergenceError, match=f"pid {os.getpid()}"):
        ControlServer(path, echo).start()
    client = connect()
    client.ask()
    assert client.answer()["result"] == "ping"


def test_what_is_no_socket_is_never_removed(path: str) -> None:
    Path(path).parent.mkdir()
    Path(path).write_text("precious")
    with pytest.raises(ConvergenceError, match="in the way"):
        ControlServer(path, echo).start()
    assert Path(path).read_text() == "precious"


def test_stopping_removes_the_socket_and_lets_answers_leave(
    serve: Serve, connect: Connect, path: str
) -> None:
    replies: list[Reply] = []
    taken = threading.Event()

    def handler(_: Request, reply: Reply) -> None:
        replies.append(reply)
        taken.set()

    server = serve(handler)
    client = connect()
    client.ask("shutdown")
    assert taken.wait(PATIENCE)
    replies[0].result("bye")
    server.stop()
    assert client.answer()["result"] == "bye"
    assert client.answer() is None
    assert not Path(path).exists()
    server.stop()


def test_stopping_leaves_the_socket_of_a_successor(serve: Serve, path: str) -> None:
    first = serve()
    Path(path).unlink()
    serve()
    first.stop()
    assert Path(path).exists()


def test_the_handler_may_stop_the_server(serve: Serve, connect: Connect, path: str) -> None:
    servers: list[ControlServer] = []

    def handler(_: Request, reply: Reply) -> None:
        reply.result("bye")
        servers[0].stop()

    servers.append(serve(handler))
    client = connect()
    client.ask()
    assert client.answer()["result"] == "bye"
    assert client.answer() is None
    servers[0].stop()
    assert not Path(path).exists()


def test_an_answer_may_come_later_and_from_another_thread(serve: Serve, connect: Connect) -> None:
    def handler(_: Request, reply: Reply) -> None:
        threading.Thread(target=reply.result, args=("late",)).start()

    serve(handler)
    client = connect()
    client.ask()
    assert client.answer()["result"] == "late"


def test_answers_go_to_their_own_requests_in_any_order(serve: Serve, connect: Connect) -> None:
    waiting: list[Reply] = []

    def handler(request: Request, reply: Reply) -> None:
        waiting.append(reply)
        if request.method == "last":
            for number, one in enumerate(reversed(waiting)):
                one.result(number)

    serve(handler)
    client = connect()
    for id_, method in enumerate(["a", "b", "last"]):
        client.ask(method, id_)
    answers = [client.answer() for _ in range(3)]
    assert {one["id"]: one["result"] for one in answers} == {2: 0, 1: 1, 0: 2}


def test_a_request_is_answered_once(serve: Serve, connect: Connect) -> None:
    said: list[str] = []

    def handler(_: Request, reply: Reply) -> None:
        reply.result(1)
        with pytest.raises(RuntimeError):
            reply.error(UsageError("no"))
        said.append("refused")
        reply.answered  # noqa: B018 - it can still be asked

    serve(handler)
    client = connect()
    client.ask("one", 1)
    assert client.answer()["result"] == 1
    client.ask("two", 2)
    assert client.answer()["id"] == 2
    assert said == ["refused", "refused"]


def test_a_notification_is_acted_on_and_not_answered(serve: Serve, connect: Connect) -> None:
    seen: list[str] = []

    def handler(request: Request, reply: Reply) -> None:
        seen.append(request.method)
        reply.result(None)

    serve(handler)
    client = connect()
    client.send(b'{"jsonrpc":"2.0","method":"quiet"}\n')
    client.ask("loud")
    assert client.answer()["id"] == 1
    assert seen == ["quiet", "loud"]


def test_the_daemons_error_crosses(serve: Serve, connect: Connect) -> None:
    def handler(_: Request, __: Reply) -> None:
        raise UsageError("no such project", "see the list")

    serve(handler)
    client = connect()
    client.ask()
    assert client.answer()["error"]["data"] == {
        "type": "UsageError",
        "summary": "no such project",
        "hint": "see the list",
        "exit_code": 2,
    }


def test_a_bug_in_the_handler_costs_one_request(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(request: Request, reply: Reply) -> None:
        if request.method == "bad":
            raise ZeroDivisionError
        reply.result("fine")

    serve(handler)
    client = connect()
    client.ask("bad")
    assert client.answer()["error"]["code"] == INTERNAL_ERROR
    client.ask("good")
    assert client.answer()["result"] == "fine"
    assert "ZeroDivisionError" in caplog.text


def test_a_client_that_leaves_is_noticed_and_its_answer_is_harmless(serve: Serve, connect: Connect) -> None:
    replies: list[Reply] = []
    taken = threading.Event()

    def handler(request: Request, reply: Reply) -> None:
        if request.method == "wait":
            replies.append(reply)
            taken.set()
        else:
            reply.result("fine")

    serve(handler)
    leaving, staying = connect(), connect()
    leaving.ask("wait")
    assert taken.wait(PATIENCE)
    assert [one.closed for one in replies] == [False]
    leaving.close()
    assert replies[0]._client.gone.wait(PATIENCE)
    assert [one.closed for one in replies] == [True]
    replies[0].result("nobody hears this")
    staying.ask()
    assert staying.answer()["result"] == "fine"


def test_an_answer_after_the_server_stopped_is_harmless(serve: Serve, connect: Connect) -> None:
    replies: list[Reply] = []
    taken = threading.Event()

    def handler(_: Request, reply: Reply) -> None:
        replies.append(reply)
        taken.set()

    server = serve(handler)
    client = connect()
    client.ask()
    assert taken.wait(PATIENCE)
    server.stop()
    replies[0].error(UsageError("too late"))
    assert replies[0].closed


def test_garbage_is_answered_and_the_connection_goes_on(serve: Serve, connect: Connect) -> None:
    serve()
    client = connect()
    client.send(b"\xff\x00 rubbish\n\n   \n[1,2]\n")
    assert client.answer()["error"]["code"] == PARSE_ERROR
    assert client.answer()["error"]["code"] == INVALID_REQUEST
    client.ask()
    assert client.answer()["result"] == "ping"


def test_a_frame_may_come_in_pieces(serve: Serve, connect: Connect) -> None:
    serve()
    client, other = connect(), connect()
    for byte in b'{"jsonrpc":"2.0","id":1,"method":"slow"}\n':
        client.send(bytes([byte]))
        other.ask()
        assert other.answer()["result"] == "ping"
    assert client.answer()["result"] == "slow"


def test_half_a_frame_and_goodbye_disturbs_nobody(serve: Serve, connect: Connect) -> None:
    serve()
    half, other = connect(), connect()
    half.send(b'{"jsonrpc":"2.0","id":1,"meth')
    half.close()
    other.ask()
    assert other.answer()["result"] == "ping"


def test_an_oversized_message_is_refused_and_its_sender_dropped(serve: Serve, connect: Connect) -> None:
    serve()
    big, other = connect(), connect()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        send_again_and_again(lambda _: big.send(b"x" * (MAX_LINE // 4)))
    assert big.answer()["error"]["code"] == INVALID_REQUEST
    other.ask()
    assert other.answer()["result"] == "ping"


def test_a_client_with_too_much_that_it_does_not_read_is_dropped_and_hurts_nobody(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_OUTPUT", 1 << 20)
    waiting: list[Reply] = []
    taken = threading.Event()

    def handler(request: Request, reply: Reply) -> None:
        if request.method == "big":
            waiting.append(reply)
            if len(waiting) == server_module.MAX_PENDING:
                taken.set()
        else:
            reply.result("fine")

    serve(handler)
    deaf, other = connect(), connect()
    for number in range(server_module.MAX_PENDING):
        deaf.ask("big", number)
    assert taken.wait(PATIENCE)
    for reply in waiting:
        reply.result("x" * 100_000)
    assert waiting[0]._client.gone.wait(PATIENCE)
    other.ask()
    assert other.answer()["result"] == "fine"


def test_a_slow_reader_gets_a_large_answer_whole(serve: Serve, connect: Connect) -> None:
    serve(lambda _, reply: reply.result("y" * 3_000_000))
    client = connect()
    client.ask()
    assert len(client.answer()["result"]) == 3_000_000


def test_too_many_open_requests_of_one_client_are_refused(serve: Serve, connect: Connect) -> None:
    replies: list[Reply] = []
    serve(lambda _, reply: replies.append(reply))
    client, other = connect(), connect()
    for id_ in range(server_module.MAX_PENDING + 1):
        client.ask("wait", id_)
    refused = client.answer()
    assert refused["id"] == server_module.MAX_PENDING
    assert refused["error"]["code"] == INVALID_REQUEST
    other.ask("wait")
    for reply in replies[: server_module.MAX_PENDING]:
        reply.result(None)
    assert client.answer()["result"] is None


def test_a_hundred_clients_at_once_are_all_served_where_there_is_room(serve: Serve, connect: Connect) -> None:
    serve(max_clients=100)
    clients = [connect() for _ in range(100)]
    for number, client in enumerate(clients):
        client.ask(f"m{number}")
    assert [client.answer()["result"] for client in clients] == [f"m{number}" for number in range(100)]


def test_without_room_a_newcomer_is_told_so(serve: Serve, connect: Connect) -> None:
    now = [0.0]
    serve(max_clients=2, monotonic=lambda: now[0])
    old = [connect() for _ in range(2)]
    for client in old:
        client.ask()
        assert client.answer()["result"] == "ping"
    refused = connect()
    assert refused.answer()["error"]["data"]["type"] == "DegradedError"
    assert refused.answer() is None
    old[0].ask()
    assert old[0].answer()["result"] == "ping"


def test_a_client_that_has_long_been_idle_makes_room(serve: Serve, connect: Connect) -> None:
    now = [0.0]
    serve(max_clients=2, monotonic=lambda: now[0])
    idle, busy = connect(), connect()
    idle.ask()
    assert idle.answer()["result"] == "ping"
    now[0] = 100.0
    busy.ask()
    assert busy.answer()["result"] == "ping"
    fresh = connect()
    fresh.ask()
    assert fresh.answer()["result"] == "ping"
    assert idle.answer() is None
    busy.ask()
    assert busy.answer()["result"] == "ping"


def test_a_place_that_cannot_hold_a_socket_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConvergenceError) as caught:
        ControlServer(str(tmp_path / ("long" * 40) / "control.sock"), echo).start()
    assert caught.value.hint


def test_who_does_not_read_is_not_read_and_makes_room(serve: Serve, connect: Connect) -> None:
    now = [0.0]
    serve(lambda _, reply: reply.result("x" * 100_000), max_clients=2, monotonic=lambda: now[0])
    deaf, other = connect(), connect()
    deaf.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        send_again_and_again(lambda number: deaf.ask("big", number))
    other.ask()
    assert len(other.answer()["result"]) == 100_000
    refused = connect()
    assert refused.answer()["error"]["data"]["type"] == "DegradedError"
    now[0] = 100.0
    other.ask()
    assert len(other.answer()["result"]) == 100_000
    fresh = connect()
    fresh.ask()
    assert len(fresh.answer()["result"]) == 100_000


def test_a_socket_file_that_was_removed_is_made_again(
    serve: Serve,
    connect: Connect,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(server_module, "LOOK_EVERY", 0.02)
    server = serve()
    old = connect()
    Path(path).unlink()
    Path(path).parent.rmdir()
    Path(path).parent.write_text("in the way")
    tried = threading.Event()
    while not caplog.records:
        tried.wait(0.01)
    assert "nobody can ask" in caplog.text
    Path(path).parent.unlink()
    while len(caplog.records) < 2:  # the file is there a moment before anybody listens behind it
        tried.wait(0.01)
    fresh = connect()
    for client in (old, fresh):
        client.ask()
        assert client.answer()["result"] == "ping"
    assert len(caplog.records) == 2
    server.stop()
    assert not Path(path).exists()
