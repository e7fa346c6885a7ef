"""The daemon's life as its service manager and its user see it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.machines import PATIENCE, Machine, await_true, make_hub, record, stop_all


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    one = Machine(tmp_path / "one", "desktop", (make_hub(tmp_path / "hub.git"),))
    sid = str(uuid.uuid4())
    one.append(sid, record(sid, one.project, 0))
    yield one
    stop_all([one])


def test_the_service_manager_hears_of_readiness_life_and_end(machine: Machine, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        heard: list[str] = []

        def listen() -> None:
            while not heard or heard[-1] != "STOPPING=1":
                heard.append(manager.recv(4096).decode())

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        machine.extra = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
        machine.start()
        machine.wait_synced()
        await_true(lambda: "WATCHDOG=1" in heard, "a sign of life")
        assert machine.stop() == 0
        listener.join(PATIENCE)
    assert heard.count("READY=1") == 1
    assert any(line.startswith("STATUS=1 project in step") for line in heard)
    assert heard[-1] == "STOPPING=1"


def test_the_socket_is_for_this_user_only_and_goes_away_with_the_daemon(machine: Machine) -> None:
    machine.start()
    found = machine.conv / "control.sock"
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    assert stat.S_IMODE(machine.conv.stat().st_mode) == 0o700
    machine.stop()
    assert not found.exists()


def test_what_the_daemon_writes_is_private(machine: Machine) -> None:
    machine.start()
    machine.wait_synced()
    for path in machine.conv.rglob("*"):
        if not path.is_symlink() and "store.git" not in path.parts:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE(machine.store.stat().st_mode) == 0o700


def test_a_hangup_reads_the_configuration_again_and_a_broken_one_changes_nothing(machine: Machine) -> None:
    machine.start()
    machine.wait_synced()
    assert machine.process is not None
    config = machine.conv / "config.toml"
    good = config.read_text()
    config.write_text(good + "\n[exchange]\nbroken = 1\n")
    machine.process.send_signal(signal.SIGHUP)
    await_true(lambda: machine.status()["daemon"]["state"] == "degraded", "the broken file to be reported")
    assert machine.status()["peers"][0]["state"] == "ok"
    assert any("config.toml" in one["text"] for one in machine.status()["attention"])
    config.write_text(good.replace('name = "hub"', 'name = "spare"'))
    machine.process.send_signal(signal.SIGHUP)
    await_true(lambda: machine.status()["peers"][0]["name"] == "spare", "the new settings")
    assert machine.status()["daemon"]["state"] == "running"


def test_a_file_that_is_saved_by_hand_counts_and_a_broken_one_never_ends_it(machine: Machine) -> None:
    machine.start()
    machine.wait_synced()
    config = machine.conv / "config.toml"
    good = config.read_text().replace('name = "hub"', 'name = "spare"')
    config.write_text(good)
    await_true(lambda: machine.status()["peers"][0]["name"] == "spare", "the new settings")
    config.write_text(good + "\n[backups]\nkeeep = 3\n")
    line = f"line {good.count(chr(10)) + 3}"

    def is_reported() -> bool:
        return any(f"config.toml, {line}" in one["text"] for one in machine.status()["attention"])

    await_true(is_reported, "the broken file to be reported")
    machine.kill()
    machine.start()
    assert is_reported()
    assert machine.status()["peers"][0]["name"] == "spare"
    unwrapped = "".join(machine.ctl("status").stdout.split())
    assert f"config.toml, {line}".replace(" ", "") in unwrapped
    machine.do("down")
    assert machine.process is not None
    assert machine.process.wait(PATIENCE) == 0
    machine.start()
    config.write_text(good)
    await_true(lambda: not is_reported(), "the file to be in order again")


def test_peers_come_and_go_while_it_runs(machine: Machine, tmp_path: Path) -> None:
    machine.hubs = ()
    machine.configure()
    machine.start()
    machine.wait_synced()
    machine.do("peer", "add", "hub", str(tmp_path / "hub.git"))
    machine.wait_synced()
    assert [peer["name"] for peer in machine.status()["peers"]] == ["hub"]
    assert machine.ctl("peer", "add", "hub", str(tmp_path / "hub.git")).returncode in (0, 2)
    machine.do("peer", "remove", "hub")
    assert machine.status()["peers"] == []
    assert "hub.git" not in (machine.conv / "config.toml").read_text()


def test_the_log_goes_to_stderr_in_lines_that_journald_or_programs_understand(
    machine: Machine, tmp_path: Path
) -> None:
    words = ["convergenced", "--once"]
    program = [str(Path(sys.executable).with_name(words[0])), *words[1:]]

    def told(*more: str, stream: str | None = None, code: int = 0) -> list[str]:
        with (tmp_path / "told").open("w") as log:
            named = f"{os.fstat(log.fileno()).st_dev}:{os.fstat(log.fileno()).st_ino}"
            environ = {**machine.environ, "JOURNAL_STREAM": named if stream is None else stream}
            done = subprocess.run([*program, *more], env=environ, stderr=log, timeout=PATIENCE, check=False)
        assert done.returncode == code
        return (tmp_path / "told").read_text().splitlines()

    lines = told()
    assert lines
    assert all(line.startswith("<") and line[2] == ">" for line in lines)
    assert not any(line.startswith("<") for line in told(stream="1:1")), "the stream is somebody else's"
    assert all({"time", "level", "text"} <= json.loads(line).keys() for line in told("--log-format", "json"))
    (machine.conv / "config.toml").write_text("nonsense = 1\n")
    assert all(line.startswith("<3>") for line in told(code=2)), "what keeps it from starting is an error"
