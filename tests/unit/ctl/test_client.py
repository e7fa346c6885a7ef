from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convergenced.control import protocol
from convergenced.control.credentials import Credentials
from convergenced.errors import ConvergenceError, NoDaemonError, TimedOutError, UsageError
from convergenced.machine.locations import Locations
from ctl import client
from ctl.client import Connection
from tests.fakes.daemon import FakeDaemon


@pytest.fixture
def locations(tmp_path: Path) -> Locations:
    return Locations.from_environment({"CONVERGENCE_HOME": str(tmp_path / "home")}, str(tmp_path))


@pytest.fixture
def daemon(locations: Locations) -> Iterator[FakeDaemon]:
    with FakeDaemon(locations) as one:
        yield one


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Callable[[bytes], str]]:
    """A server that sends the given bytes, whatever it is asked, and hangs up."""
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    threads = []

    def begin(answer: bytes) -> str:
        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return path

    yield begin
    for thread in threads:
        thread.join()
    listener.close()


def test_several_requests_on_one_connection(daemon: FakeDaemon, locations: Locations) -> None:
    with Connection(locations.socket) as connection:
        assert connection.call("ping") == connection.call("ping")


def test_nobody_there_is_no_daemon(locations: Locations, tmp_path: Path) -> None:
    with pytest.raises(NoDaemonError) as caught:
        Connection(locations.socket)
    assert "convergencectl up" in caught.value.hint
    dead = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(dead))
    with pytest.raises(NoDaemonError):
        Connection(str(dead))


def test_a_socket_of_another_user_is_not_spoken_to(
    daemon: FakeDaemon, locations: Locations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "peer_credentials", lambda _: Credentials(12345, 1))
    with pytest.raises(NoDaemonError, match="another user"):
        Connection(locations.socket)
    assert daemon.asked == []


def test_the_daemons_error_is_raised_as_it_was(daemon: FakeDaemon, locations: Locations) -> None:
    daemon.answers["sync"] = UsageError("no such project", "look again")
    with Connection(locations.socket) as connection, pytest.raises(UsageError) as caught:
        connection.call("sync")
    assert (caught.value.summary, caught.value.hint) == ("no such project", "look again")


def test_an_unknown_method_is_a_clear_error(daemon: FakeDaemon, locations: Locations) -> None:
    with Connection(locations.socket) as connection, pytest.raises(ConvergenceError, match="no method x"):
        connection.call("x")


def test_no_answer_in_time_is_exit_7(daemon: FakeDaemon, locations: Locations) -> None:
    daemon.answers["wait"] = lambda _: None
    with Connection(locations.socket) as connection, pytest.raises(TimedOutError):
        connection.call("wait", timeout=0.05)


def test_time_is_told_while_an_answer_is_awaited(
    daemon: FakeDaemon, locations: Locations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TICK", 0.01)
    daemon.answers["wait"] = lambda _: None
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            daemon.waiting[0].result("done")

    with Connection(locations.socket) as connection:
        assert connection.call("wait", timeout=None, each_tick=tick) == "done"
    assert len(ticks) >= 3


def test_a_daemon_that_ends_meanwhile_is_no_daemon(daemon: FakeDaemon, locations: Locations) -> None:
    daemon.answers["wait"] = lambda _: None
    with Connection(locations.socket) as connection:

        def stop_when_asked() -> None:
            if daemon.was_asked("wait"):
                daemon.stop()

        stopping = threading.Thread(target=stop_when_asked)
        stopping.start()
        with pytest.raises(NoDaemonError, match="before it answered"):
            connection.call("wait", timeout=None)
        stopping.join()


@pytest.mark.parametrize("answer", [b"rubbish\n", b'{"id":1}\n', b"\xff\n"])
def test_an_answer_that_is_none_is_an_error(scripted: Callable[[bytes], str], answer: bytes) -> None:
    with Connection(scripted(answer)) as connection, pytest.raises(ConvergenceError):
        connection.call("ping")


def test_an_answer_to_another_request_is_passed_over(scripted: Callable[[bytes], str]) -> None:
    lines = protocol.format_result(99, "not mine") + protocol.format_result(1, "mine")
    with Connection(scripted(lines)) as connection:
        assert connection.call("ping") == "mine"


def test_an_answer_without_end_is_bounded(
    scripted: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER", 1000)
    with Connection(scripted(b"x" * 5000)) as connection, pytest.raises(ConvergenceError, match="no end"):
        connection.call("ping")


def test_a_full_queue_of_newcomers_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "s")
    monkeypatch.setattr(client, "CONNECT_TIMEOUT", 0.2)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with pytest.raises(TimedOutError):
            Connection(path)
        monkeypatch.setattr(client, "CONNECT_TIMEOUT", 20.0)

        def let_in() -> None:
            listener.accept()[0].close()

        letting_in = threading.Thread(target=let_in)
        letting_in.start()
        Connection(path).close()
        letting_in.join()
