"""A real daemon whose control socket is ill-treated: every other client is served, syncing goes on.

What the server does with one bad client is tested on its own in `tests/unit/control`; here the whole
daemon has to stand it, with its memory and its descriptors.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convergenced.control.protocol import INVALID_PARAMS, INVALID_REQUEST, MAX_LINE, PARSE_ERROR
from convergenced.control.server import MAX_CLIENTS, MAX_PENDING
from tests.e2e.machines import PATIENCE, PAUSE, Machine, await_true, git, record, stop_all

SOMEBODY = 65534
"""The uid of another user."""
MEMORY_BOUND = 48 * 1024 * 1024
"""Bytes by which the daemon may grow, whatever clients do."""
NESTED = 100_000


class Client:
    """A raw client that sends what it is told."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.socket.settimeout(PATIENCE)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, method: str, params: dict[str, object] | None = None, id_: int = 1) -> None:
        self.send(line({"jsonrpc": "2.0", "id": id_, "method": method, "params": params or {}}))

    def answer(self) -> Any:
        """The next answer; None where the daemon hung up."""
        try:
            found = self.file.readline()
        except ConnectionResetError:
            return None
        return json.loads(found) if found else None

    def status(self) -> Any:
        self.ask("status")
        found = self.answer()
        if found is None or "result" not in found:
            raise ConnectionResetError(found)
        return found["result"]


def line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


def stored(machine: Machine, sid: str) -> int:
    """How many records of the session are in the store."""
    listed = git("-C", machine.store, "ls-tree", "-r", "project/proj", f"segments/{sid}/")
    blobs = [row.split()[2] for row in listed.splitlines()]
    return sum(git("-C", machine.store, "cat-file", "blob", blob).count("\n") for blob in blobs)


class Bystander:
    """A client of good manners that asks again and again, while the machine's sessions go on."""

    def __init__(self, machine: Machine, sid: str) -> None:
        self.machine, self.sid = machine, sid
        self.rounds = 0
        self.faults: list[str] = []
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._go_on)

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join(PATIENCE)
        assert not self.faults

    def _go_on(self) -> None:
        while not self._leave.is_set() and not self.faults:
            # Those of the test before may not have left yet: there is room as soon as they have.
            with (
                contextlib.suppress(BrokenPipeError, ConnectionResetError),
                Client(self.machine.conv / "control.sock") as client,
            ):
                self._ask(client)

    def _ask(self, client: Client) -> None:
        while not self._leave.wait(PAUSE):
            found = client.status()
            if found["daemon"]["pid"] is None:
                self.faults.append(str(found))
                return
            data = record(self.sid, self.machine.project, self.rounds)
            self.machine.append(self.sid, data)
            self.rounds += 1

    def await_rounds(self, number: int = 2) -> None:
        """Waits for rounds that begin after now."""
        wanted = self.rounds + number + 1
        await_true(lambda: self.faults or self.rounds >= wanted, "the other client to be served")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One daemon for all tests of this file that leave it alive: so it has to stand them in a row."""
    one = Machine(tmp_path_factory.mktemp("control") / "m", "desktop")
    sid = str(uuid.uuid4())
    one.append(sid, record(sid, one.project, 0))
    one.start()
    yield one
    stop_all([one])


@pytest.fixture
def machine(daemon: Machine) -> Iterator[Machine]:
    """The daemon, which must afterwards be as well as before: in good health and nothing left open."""
    one = daemon
    one.wait_synced()
    before = descriptors(one)
    memory = resident(one)
    yield one
    await_true(lambda: descriptors(one) <= before, f"descriptors to be closed ({before} before)")
    assert resident(one) - memory < MEMORY_BOUND
    assert "Traceback" not in one.log()
    # A store that could not be opened for want of descriptors is looked at again within seconds.
    await_true(lambda: one.ctl("status").returncode == 0, "all to be well again")


@pytest.fixture
def beside(machine: Machine) -> Iterator[Bystander]:
    """A bystander, all of whose records must be committed in the end."""
    sid = str(uuid.uuid4())
    with Bystander(machine, sid) as other:
        yield other
    machine.wait_synced()
    assert other.rounds
    assert stored(machine, sid) == other.rounds


def pid_of(machine: Machine) -> int:
    assert machine.process is not None
    return machine.process.pid


def descriptors(machine: Machine) -> int:
    return len(os.listdir(f"/proc/{pid_of(machine)}/fd"))


def resident(machine: Machine) -> int:
    """Bytes of memory the daemon uses now."""
    text = Path(f"/proc/{pid_of(machine)}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) * 1024


def socket_of(machine: Machine) -> Path:
    return machine.conv / "control.sock"


def connect(machine: Machine) -> Client:
    return Client(socket_of(machine))


def call(params: str, method: str = "pause") -> bytes:
    return f'{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}\n'.encode()


BAD_LINES = {
    "zeros": (bytes(5000), PARSE_ERROR),
    "noise": (random.Random(3).randbytes(5000).replace(b"\n", b""), PARSE_ERROR),
    "invalid UTF-8": (b'{"jsonrpc":"2.0","id":1,"method":"\xff\xfe"}', PARSE_ERROR),
    "lists in lists": (b"[" * NESTED + b"]" * NESTED, PARSE_ERROR),
    "objects in objects": (b'{"a":' * NESTED + b"1" + b"}" * NESTED, PARSE_ERROR),
    "deep parameters": (call("[" * NESTED + "]" * NESTED), PARSE_ERROR),
    "a number of a hundred thousand digits": (b"9" * 100_000, PARSE_ERROR),
    "a batch": (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', INVALID_REQUEST),
    "an empty batch": (b"[]", INVALID_REQUEST),
    "an object as id": (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', INVALID_REQUEST),
    "a fraction as id": (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', INVALID_REQUEST),
    "not a number as id": (b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}', INVALID_REQUEST),
    "true as id": (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', INVALID_REQUEST),
    "another version": (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', INVALID_REQUEST),
    "no method": (b'{"jsonrpc":"2.0","id":1}', INVALID_REQUEST),
    "a list of parameters": (call("[1,2]"), INVALID_PARAMS),
    "not a number of seconds": (call('{"seconds":NaN}'), INVALID_PARAMS),
    "for ever": (call('{"seconds":1e999}'), INVALID_PARAMS),
    "longer than there are years": (call('{"seconds":1e300}'), INVALID_PARAMS),
    "longer than a number": (call('{"seconds":' + "9" * 4000 + "}"), INVALID_PARAMS),
    "a timeout that is none": (call('{"timeout":NaN}', "wait"), INVALID_PARAMS),
    "a path with NUL": (call('{"path":"/tmp/a\\u0000b"}', "init"), INVALID_PARAMS),
    "a path no name can hold": (call('{"path":"/tmp/\\ud800"}', "join"), INVALID_PARAMS),
}


def test_whatever_a_line_holds_it_is_answered_and_the_connection_goes_on(
    machine: Machine, beside: Bystander
) -> None:
    with connect(machine) as client:
        for what, (data, code) in BAD_LINES.items():
            client.send(data.rstrip(b"\n") + b"\n")
            found = client.answer()
            assert found["error"]["code"] == code, (what, found)
            client.ask("ping", id_=7)
            assert client.answer()["id"] == 7, what
        beside.await_rounds()


ODD_WISHES: tuple[tuple[str, dict[str, object]], ...] = (
    ("init", {"path": "/" + "x" * 5000}),
    ("init", {"path": "/nowhere/at/all"}),
    ("join", {"path": "/nowhere/at/all", "id": "\ud800\x00"}),
    ("status", {"project": "\ud800"}),
    ("pause", {"projects": ["\x00"]}),
    ("peer_add", {"name": "\ud800", "url": "/tmp/\ud800"}),
    ("peer_add", {"name": "a\x00b", "url": "file:///\x00"}),
    ("peer_add", {"name": "good", "url": "/tmp/\ud800"}),
    ("peer_remove", {"name": "\x00"}),
)


def test_wishes_that_nobody_could_grant_are_refused_in_words(machine: Machine, beside: Bystander) -> None:
    config = (machine.conv / "config.toml").read_bytes()
    with connect(machine) as client:
        for method, params in ODD_WISHES:
            client.ask(method, params)
            found = client.answer()
            assert "error" in found, (method, params, found)
            assert "daemon's log" not in json.dumps(found), (method, params, found)
        beside.await_rounds()
    assert (machine.conv / "config.toml").read_bytes() == config


def test_a_message_without_end_is_refused_and_its_sender_hung_up_on(
    machine: Machine, beside: Bystander
) -> None:
    with connect(machine) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(16):
                client.send(b"x" * (MAX_LINE // 4))
        assert client.answer()["error"]["code"] == INVALID_REQUEST
        assert client.answer() is None
        beside.await_rounds()


def test_half_messages_wait_in_silence_or_leave_and_a_slow_one_is_answered(
    machine: Machine, beside: Bystander
) -> None:
    whole = line({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    with connect(machine) as silent, connect(machine) as slow:
        silent.send(whole[:20])
        for byte in whole:
            slow.send(bytes([byte]))
            with connect(machine) as leaving:
                leaving.send(whole[:30])
        assert slow.answer()["id"] == 1
        beside.await_rounds()
        silent.send(whole[20:])
        assert silent.answer()["id"] == 1


def test_a_hundred_clients_at_once_are_each_answered_or_told_that_there_is_no_room(
    machine: Machine, beside: Bystander
) -> None:
    beside.await_rounds()
    clients = [connect(machine) for _ in range(100)]
    for client in clients:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.ask("status")
    found = [client.answer() for client in clients]
    served = [one for one in found if "result" in one]
    refused = [one["error"]["data"]["type"] for one in found if "error" in one]
    assert len(served) in (MAX_CLIENTS - 1, MAX_CLIENTS)
    assert refused == ["DegradedError"] * (100 - len(served))
    beside.await_rounds()
    for client in clients:
        client.__exit__()


def test_clients_that_ask_and_never_read_cost_little_and_make_room(
    machine: Machine, beside: Bystander
) -> None:
    beside.await_rounds()
    question = line({"jsonrpc": "2.0", "id": 1, "method": "status"})
    deaf = [connect(machine) for _ in range(MAX_CLIENTS - 1)]
    for client in deaf:
        client.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(10_000):
                client.send(question * 100)
    beside.await_rounds()
    assert resident(machine) < 3 * MEMORY_BOUND
    # Each has had its seconds of grace; then a newcomer is worth more than they are.
    await_true(lambda: _is_served(machine), "room for a newcomer")
    for client in deaf:
        client.__exit__()


def _is_served(machine: Machine) -> bool:
    with connect(machine) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.ask("ping")
        return "result" in (client.answer() or {})


def test_clients_that_come_and_go_leave_nothing_behind(machine: Machine, beside: Bystander) -> None:
    question = line({"jsonrpc": "2.0", "id": 1, "method": "status"})
    waiting = line({"jsonrpc": "2.0", "id": 2, "method": "wait", "params": {"for": "synced"}})
    for number in range(300):
        with connect(machine) as client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.send((b"", question, question[:9], waiting, waiting * (MAX_PENDING + 5))[number % 5])
    beside.await_rounds()


ASK = """
import os, socket, sys
os.setgroups([]); os.setgid({uid}); os.setuid({uid})
s = socket.socket(socket.AF_UNIX)
try:
    s.connect({path!r})
    s.sendall(b'{{"jsonrpc":"2.0","id":1,"method":"shutdown"}}\\n')
    sys.stdout.buffer.write(s.recv(1000))
except OSError as error:
    print(type(error).__name__)
"""


def ask_as(uid: int, path: Path) -> str:
    """What another user hears who asks the daemon to end."""
    words = [sys.executable, "-c", ASK.format(uid=uid, path=str(path))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert not done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_reaches_nothing_not_even_where_the_folder_lies_open(
    machine: Machine, beside: Bystander
) -> None:
    place = socket_of(machine)
    assert ask_as(SOMEBODY, place) == "PermissionError"
    opened = [folder for folder in (place, *place.parents) if folder.owner() == place.owner()]
    modes = {folder: folder.stat().st_mode for folder in opened}
    try:
        for folder in opened:
            folder.chmod(modes[folder] | 0o777)
        heard = ask_as(SOMEBODY, place)
    finally:
        for folder, mode in modes.items():
            folder.chmod(mode)
    assert heard in ("", "BrokenPipeError", "ConnectionResetError")
    await_true(lambda: f"another user ({SOMEBODY})" in machine.log(), "the refusal to be told in the log")
    beside.await_rounds()


def test_without_descriptors_newcomers_wait_nothing_spins_and_all_goes_on_afterwards(
    machine: Machine, beside: Bystander
) -> None:
    before = resource.prlimit(pid_of(machine), resource.RLIMIT_NOFILE)
    said = machine.log().count("cannot take a control connection")
    beside.await_rounds()
    resource.prlimit(pid_of(machine), resource.RLIMIT_NOFILE, (descriptors(machine) + 8, before[1]))
    clients = []
    try:
        for _ in range(16):
            clients.append(connect(machine))
            clients[-1].ask("ping")
        words = "cannot take a control connection"
        await_true(lambda: machine.log().count(words) > said, "the daemon to have no descriptor left")
        ticks = cpu_ticks(machine)
        rounds = beside.rounds
        beside.await_rounds(20)
        # Somebody who spins uses all of the time that 20 rounds with pauses between them take.
        spent = (cpu_ticks(machine) - ticks) / os.sysconf("SC_CLK_TCK")
        assert spent < (beside.rounds - rounds) * PAUSE * 0.8
    finally:
        resource.prlimit(pid_of(machine), resource.RLIMIT_NOFILE, before)
    assert [client.answer()["result"]["pid"] for client in clients] == [pid_of(machine)] * len(clients)
    for client in clients:
        client.__exit__()


def cpu_ticks(machine: Machine) -> int:
    """Processor time the daemon has used."""
    fields = Path(f"/proc/{pid_of(machine)}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[Machine]:
    """A machine with a daemon of its own, which is not started yet."""
    one = Machine(tmp_path / "m", "desktop")
    sid = str(uuid.uuid4())
    one.append(sid, record(sid, one.project, 0))
    yield one
    stop_all([one])


def test_the_socket_of_a_daemon_that_was_killed_is_taken_over(lonely: Machine) -> None:
    lonely.start()
    lonely.kill()
    assert socket_of(lonely).is_socket()
    assert lonely.ctl("sync").returncode == 3
    lonely.start()
    lonely.wait_synced()


@pytest.mark.parametrize("what", ["file", "folder", "link", "dangling link"])
def test_what_stands_where_the_socket_belongs_is_named_and_never_touched(lonely: Machine, what: str) -> None:
    place, precious = socket_of(lonely), lonely.top / "precious"
    precious.write_text("precious")
    if what == "file":
        precious.rename(place)
    elif what == "folder":
        place.mkdir()
    else:
        place.symlink_to(precious if what == "link" else "nowhere")
    before = os.lstat(place)
    done = lonely.run_daemon()
    assert done.returncode == 1
    assert f"{place} is in the way" in done.stderr
    assert f"move {place} away" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.path.samestat(os.lstat(place), before)
    assert what not in ("file", "link") or place.read_text() == "precious"
    asked = lonely.ctl("status")
    assert "Traceback" not in asked.stderr
    if place.is_dir() and not place.is_symlink():
        place.rmdir()
    else:
        place.unlink()
    lonely.start()
    lonely.wait_synced()


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime folder with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        yield Path(folder)


def test_a_runtime_folder_that_is_swept_away_is_made_again_and_ctl_finds_the_daemon(
    tmp_path: Path, runtime: Path
) -> None:
    # A path too long for a socket: it then lies in the runtime folder.
    one = Machine(tmp_path / ("long" * 25) / "m", "desktop", extra={"XDG_RUNTIME_DIR": str(runtime)})
    sid = str(uuid.uuid4())
    try:
        one.append(sid, record(sid, one.project, 0))
        one.start()
        one.wait_synced()
        shutil.rmtree(runtime / "convergence")
        told = one.ctl("status")
        assert f"pid {pid_of(one)}" in told.stderr
        assert "socket is gone" in told.stderr
        one.append(sid, record(sid, one.project, 1))
        await_true(lambda: stored(one, sid) == 2, "a commit though nobody can ask")
        await_true(lambda: one.ctl("wait", "--timeout", "30").returncode == 0, "ctl to reach the daemon")
        assert (runtime / "convergence").stat().st_mode & 0o777 == 0o700
        assert "was gone and is made again" in one.log()
        assert one.stop() == 0
        assert not list((runtime / "convergence").iterdir())
    finally:
        stop_all([one])
