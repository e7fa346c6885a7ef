"""What `ports.Processes` promises, of real processes and from a list."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from convergenced.machine.claude import RealProcesses
from convergenced.model import ClaudeProcess
from convergenced.ports import Processes
from tests.clients import Client, start_client
from tests.fakes.processes import FakeProcesses


class World(Protocol):
    processes: Processes

    def begin(self, cwd: str, session: str | None) -> int: ...
    def end(self, pid: int) -> None: ...


class RealWorld:
    def __init__(self, sessions: Path, programs: Path) -> None:
        self.processes: Processes = RealProcesses(str(sessions))  # type: ignore[arg-type]
        self._sessions, self._programs = sessions, programs
        self._clients: dict[int, Client] = {}

    def begin(self, cwd: str, session: str | None) -> int:
        client = start_client(self._programs, cwd)
        self._clients[client.pid] = client
        if session is not None:
            client.write_session_file(self._sessions, session)
        return client.pid

    def end(self, pid: int) -> None:
        self._clients.pop(pid).kill()

    def end_all(self) -> None:
        for pid in list(self._clients):
            self.end(pid)


class ListWorld:
    def __init__(self) -> None:
        fake = FakeProcesses()
        self.processes: Processes = fake
        self.begin = fake.begin
        self.end = fake.end


@pytest.fixture(params=["real", "list"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "list":
        yield ListWorld()
        return
    for name in ("sessions", "programs"):
        (tmp_path / name).mkdir()
    real = RealWorld(tmp_path / "sessions", tmp_path / "programs")
    yield real
    real.end_all()


def of(world: World, *pids: int) -> list[ClaudeProcess]:
    """What is said of these pids; other clients may run on this machine while it is tested."""
    return [process for process in world.processes.claude() if process.pid in pids]


def test_a_client_runs_where_it_was_started(world: World, tmp_path: Path) -> None:
    one, two = (str(tmp_path / name) for name in ("one", "two"))
    for folder in (one, two):
        os.mkdir(folder)
    first, second = world.begin(one, None), world.begin(two, None)
    assert {(process.pid, process.cwd) for process in of(world, first, second)} == {
        (first, one),
        (second, two),
    }


def test_a_client_that_ended_does_not_run(world: World, tmp_path: Path) -> None:
    pid = world.begin(str(tmp_path), "7d5c0f0e-0000-4000-8000-000000000001")
    assert [process.pid for process in of(world, pid)] == [pid]
    world.end(pid)
    assert of(world, pid) == []


def test_the_session_is_known_where_the_client_says_it(world: World, tmp_path: Path) -> None:
    session = "7d5c0f0e-0000-4000-8000-000000000001"
    pid, silent = world.begin(str(tmp_path), session), world.begin(str(tmp_path), None)
    assert {(process.pid, process.session) for process in of(world, pid, silent)} == {
        (pid, session),
        (silent, None),
    }
