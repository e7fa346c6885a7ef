"""Where things are, for every environment; and that nothing is made by asking."""

from __future__ import annotations

import dataclasses
import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from convergenced.errors import ConvergenceError
from convergenced.machine import durable, locations
from convergenced.machine.locations import (
    ClaudeLocations,
    Locations,
    load_or_create_machine_id,
    make_socket_folder,
)
from convergenced.machine.runtime import MAX_SOCKET_PATH
from convergenced.model import LocalPath

UID = 4242


FOLDER_VARIABLES = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")


def located(home: str, platform: str = "linux", **environ: str) -> Locations:
    """The locations in a process that has just this environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FOLDER_VARIABLES:
            patch.delenv(name, raising=False)
        for name, value in {"HOME": home, **environ}.items():
            patch.setenv(name, value)
        return Locations.from_environment(environ, home, platform=platform, uid=UID)


def test_linux_keeps_to_the_xdg_folders() -> None:
    assert located("/home/ann") == Locations(
        config_file=LocalPath("/home/ann/.config/convergence/config.toml"),
        store=LocalPath("/home/ann/.local/share/convergence/store.git"),
        state_dir=LocalPath("/home/ann/.local/state/convergence"),
        backups_dir=LocalPath("/home/ann/.local/state/convergence/backups"),
        activity_log=LocalPath("/home/ann/.local/state/convergence/activity.jsonl"),
        machine_id_file=LocalPath("/home/ann/.local/share/convergence/machine-id"),
        socket=LocalPath("/tmp/convergence-4242/control.sock"),
        lock_file=LocalPath("/home/ann/.local/state/convergence/daemon.lock"),
    )


def test_macos_keeps_to_application_support() -> None:
    where = located("/Users/ann", "darwin")
    assert where.config_file == "/Users/ann/Library/Application Support/convergence/config.toml"
    assert where.store == "/Users/ann/Library/Application Support/convergence/store.git"
    assert where.state_dir == "/Users/ann/Library/Application Support/convergence"
    assert where.socket == "/Users/ann/Library/Caches/TemporaryItems/convergence/control.sock"


def test_the_xdg_variables_count() -> None:
    where = located("/home/ann", XDG_CONFIG_HOME="/c", XDG_STATE_HOME="")
    assert where.config_file == "/c/convergence/config.toml"
    assert where.store == "/home/ann/.local/share/convergence/store.git"
    assert where.state_dir == "/home/ann/.local/state/convergence"


def test_one_variable_puts_everything_below_one_folder(tmp_path: Path) -> None:
    where = located("/home/ann", CONVERGENCE_HOME=f"{tmp_path}/", XDG_CONFIG_HOME="/c", XDG_RUNTIME_DIR="/r")
    for place in dataclasses.astuple(where):
        assert place == str(tmp_path) or place.startswith(f"{tmp_path}/"), place


def test_one_folder_may_be_named_from_home_but_not_from_nowhere() -> None:
    assert located("/home/ann", CONVERGENCE_HOME="~/c").store == "/home/ann/c/store.git"
    with pytest.raises(ConvergenceError, match="absolute"):
        located("/home/ann", CONVERGENCE_HOME="c")


def test_asking_makes_nothing(tmp_path: Path) -> None:
    located(str(tmp_path))
    located(str(tmp_path), CONVERGENCE_HOME=str(tmp_path / "all"))
    ClaudeLocations.from_environment({}, str(tmp_path)).cleanup_period_days()
    assert os.listdir(tmp_path) == []


def test_the_sessions_runtime_folder_takes_the_socket_where_it_is_ours(tmp_path: Path) -> None:
    mine = Locations.from_environment({"XDG_RUNTIME_DIR": str(tmp_path)}, "/home/ann", uid=os.getuid())
    assert mine.socket == f"{tmp_path}/convergence/control.sock"
    other = Locations.from_environment({"XDG_RUNTIME_DIR": str(tmp_path)}, "/home/ann", uid=UID)
    assert not other.socket.startswith(str(tmp_path))


def test_a_long_socket_path_gives_way_to_a_short_stable_one(tmp_path: Path) -> None:
    one, two = (f"/{name * 90}/{'x' * 20}" for name in "ab")
    sockets = [located("/home/ann", CONVERGENCE_HOME=home).socket for home in (one, one, two)]
    assert sockets[0] == sockets[1] != sockets[2]
    assert all(socket.startswith("/tmp/convergence-4242/") for socket in sockets)
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        environ = {"CONVERGENCE_HOME": one, "XDG_RUNTIME_DIR": runtime}
        short = Locations.from_environment(environ, "/home/ann", uid=os.getuid()).socket
        assert short.startswith(f"{runtime}/convergence/")


@pytest.mark.parametrize("length", [60, 85, 86, 87, 88, 200])
def test_no_socket_path_is_too_long(length: int) -> None:
    assert len(located("/h", CONVERGENCE_HOME="/" + "é" * length).socket.encode()) <= MAX_SOCKET_PATH


def test_the_sockets_folder_is_private(tmp_path: Path) -> None:
    make_socket_folder(LocalPath(str(tmp_path / "a" / "control.sock")))
    (tmp_path / "open").mkdir(mode=0o755)
    make_socket_folder(LocalPath(str(tmp_path / "open" / "control.sock")))
    for name in ("a", "open"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


def test_a_sockets_folder_behind_a_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ConvergenceError, match="not this user's own"):
        make_socket_folder(LocalPath(str(tmp_path / "link" / "control.sock")))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_sockets_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", UID, UID)
    with pytest.raises(ConvergenceError, match="not this user's own"):
        make_socket_folder(LocalPath(str(tmp_path / "theirs" / "control.sock")))


# ---------------------------------------------------------------------- Claude's folders


@pytest.mark.parametrize(
    ("environ", "config"),
    [
        ({}, "/home/ann/.claude"),
        ({"CLAUDE_CONFIG_DIR": ""}, "/home/ann/.claude"),
        ({"CLAUDE_CONFIG_DIR": "/etc/claude/"}, "/etc/claude"),
        ({"CLAUDE_CONFIG_DIR": "~/c"}, "/home/ann/c"),
    ],
)
def test_claudes_folders_are_where_its_environment_says(environ: dict[str, str], config: str) -> None:
    where = ClaudeLocations.from_environment(environ, "/home/ann")
    assert (where.config_dir, where.projects, where.sessions) == (
        config,
        f"{config}/projects",
        f"{config}/sessions",
    )


@pytest.mark.parametrize(
    ("content", "days"),
    [
        (None, 30),
        (b'{"cleanupPeriodDays": 99}', 99),
        (b'{"cleanupPeriodDays": 0}', 0),
        (b'{"cleanupPeriodDays": 0.5}', 0.5),
        (b'{"cleanupPeriodDays": -1}', 30),
        (b'{"cleanupPeriodDays": true}', 30),
        (b'{"cleanupPeriodDays": "7"}', 30),
        (b'{"cleanupPeriodDays": NaN}', 30),
        (b'{"other": 1}', 30),
        (b"[]", 30),
        (b"{", 30),
        (b"\xff", 30),
        (b"[" * 100_000, 30),
    ],
)
def test_claudes_cleanup_is_read_with_patience(tmp_path: Path, content: bytes | None, days: float) -> None:
    if content is not None:
        (tmp_path / "settings.json").write_bytes(content)
    assert ClaudeLocations(LocalPath(str(tmp_path))).cleanup_period_days() == days


# ---------------------------------------------------------------------- the machine's id


def test_a_machine_keeps_the_id_it_got_first(tmp_path: Path) -> None:
    path = LocalPath(str(tmp_path / "data" / "machine-id"))
    made = load_or_create_machine_id(path, "Ann's Désktop", lambda number: bytes(range(number)))
    assert made == "ann-s-d-sktop-00010203"
    assert load_or_create_machine_id(path, "another name") == made
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


@pytest.mark.parametrize(
    ("name", "slug"), [("", "machine"), ("日本", "machine"), ("-x-", "x"), ("A" * 99, "a" * 40)]
)
def test_any_name_makes_an_id(tmp_path: Path, name: str, slug: str) -> None:
    made = load_or_create_machine_id(LocalPath(str(tmp_path / "id")), name, lambda number: b"\xab" * number)
    assert made == f"{slug}-abababab"


@pytest.mark.parametrize("content", [b"", b"desktop", b"desktop-0001020\n", b"Desk-00010203", b"\x00" * 21])
def test_a_damaged_id_is_an_error_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "id").write_bytes(content)
    with pytest.raises(ConvergenceError, match="machine id") as caught:
        load_or_create_machine_id(LocalPath(str(tmp_path / "id")), "desktop")
    assert caught.value.hint
    assert (tmp_path / "id").read_bytes() == content


def test_two_who_start_at_once_agree_on_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = LocalPath(str(tmp_path / "id"))
    both = threading.Barrier(2, timeout=20)
    create = durable.create_durably

    def created_together(where: LocalPath, data: bytes) -> bool:
        both.wait()
        return create(where, data)

    monkeypatch.setattr(locations, "create_durably", created_together)
    ids: list[str] = []

    def begin() -> None:
        ids.append(load_or_create_machine_id(path, "desktop"))

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(ids) == 2
    assert ids[0] == ids[1]
