"""The word to the service manager, heard on a real socket."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from convergenced.machine.notify import MAX_STATUS, Notifier


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """A service manager's end: a datagram socket, not yet bound."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.settimeout(10)
        yield end


def say_everything(notifier: Notifier) -> None:
    notifier.ready()
    notifier.status("2 projects\n  in step")
    notifier.watchdog()
    notifier.stopping()


EVERYTHING = [b"READY=1", b"STATUS=2 projects in step", b"WATCHDOG=1", b"STOPPING=1"]


def test_everything_is_heard_on_a_socket_with_a_path(manager: socket.socket, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    manager.bind(path)
    say_everything(Notifier.from_environment({"NOTIFY_SOCKET": path}))
    assert [manager.recv(4096) for _ in EVERYTHING] == EVERYTHING


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_everything_is_heard_on_an_abstract_socket(manager: socket.socket) -> None:
    name = f"convergence-test-{secrets.token_hex(8)}"
    manager.bind(f"\0{name}")
    say_everything(Notifier.from_environment({"NOTIFY_SOCKET": f"@{name}"}))
    assert [manager.recv(4096) for _ in EVERYTHING] == EVERYTHING


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_a_manager_nothing_is_said(environ: dict[str, str]) -> None:
    notifier = Notifier.from_environment(environ)
    say_everything(notifier)
    assert notifier.watchdog_interval is None


def test_a_manager_that_went_away_hurts_nobody(tmp_path: Path) -> None:
    say_everything(Notifier.from_environment({"NOTIFY_SOCKET": str(tmp_path / "gone")}))


def test_a_manager_that_does_not_listen_blocks_nobody(manager: socket.socket, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    manager.bind(path)
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": path})
    for _ in range(5000):
        notifier.watchdog()


def test_a_long_status_is_cut_to_one_line(manager: socket.socket, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    manager.bind(path)
    Notifier.from_environment({"NOTIFY_SOCKET": path}).status("x" * 10_000 + "\nREADY=1")
    assert manager.recv(65536) == b"STATUS=" + b"x" * MAX_STATUS


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_in_half_its_time(environ: dict[str, str], interval: float | None) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": "/run/notify", **environ})
    assert notifier.watchdog_interval == interval


def test_whether_there_is_a_manager_can_be_told() -> None:
    assert Notifier.from_environment({"NOTIFY_SOCKET": "/run/notify"}).is_heard
    assert not Notifier.from_environment({}).is_heard
