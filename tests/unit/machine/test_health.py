"""The checks of this machine and of our own files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from convergenced.machine import health
from convergenced.machine.durable import TEMPORARY_PREFIX
from convergenced.machine.locations import Locations
from convergenced.machine.settings import Settings
from convergenced.machine.settings_schema import ExchangeSettings, PeerSettings
from convergenced.model import Finding, LocalPath

MIB = 1024 * 1024


@pytest.fixture
def where(tmp_path: Path) -> Locations:
    found = Locations.from_environment({"CONVERGENCE_HOME": str(tmp_path / "conv")}, str(tmp_path))
    Path(found.store).mkdir(parents=True, mode=0o700)
    (tmp_path / "conv").chmod(0o700)
    return found


def states(findings: Iterable[Finding]) -> list[str]:
    return [one.state for one in findings]


def faulty(findings: Iterable[Finding]) -> Finding:
    (one,) = [one for one in findings if one.state != "ok"]
    return one


def test_configuration(where: Locations) -> None:
    assert states(health.check_config(where)) == ["ok"]
    Path(where.config_file).write_text("[machine]\nnam = 1\n")
    one = faulty(health.check_config(where))
    assert "line 2" in one.text
    Path(where.config_file).unlink()
    Path(where.config_file).mkdir()
    assert states(health.check_config(where)) == ["problem"]


@pytest.mark.parametrize(("name", "allowed"), [("store", 0o700), ("config_file", 0o600)])
def test_what_others_can_reach_is_made_private(where: Locations, name: str, allowed: int) -> None:
    path = Path(getattr(where, name))
    if name == "config_file":
        path.touch()
    path.chmod(allowed)
    assert states(health.check_permissions(where)) == ["ok"]
    path.chmod(allowed | 0o055)
    one = faulty(health.check_permissions(where))
    assert one.repair is not None
    assert str(path) in one.repair()
    assert path.stat().st_mode & 0o777 == allowed
    assert states(health.check_permissions(where)) == ["ok"]


def test_a_configuration_kept_among_dotfiles_is_theirs(where: Locations, tmp_path: Path) -> None:
    (tmp_path / "dotfiles.toml").touch(0o644)
    Path(where.config_file).symlink_to(tmp_path / "dotfiles.toml")
    assert states(health.check_permissions(where)) == ["ok"]


def test_files_of_another_user(where: Locations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4_242)
    assert {one.state for one in health.check_permissions(where)} >= {"problem"}
    assert all(one.repair is None for one in health.check_permissions(where) if "belongs" in one.text)


def test_the_socket_is_private(where: Locations) -> None:
    assert states(health.check_socket(where)) == ["ok"]
    Path(where.socket).touch()
    Path(where.socket).chmod(0o666)
    one = faulty(health.check_socket(where))
    assert one.repair is not None
    one.repair()
    assert states(health.check_socket(where)) == ["ok"]


@pytest.mark.parametrize(
    ("free", "largest", "state"),
    [(50 * 1024, 0, "ok"), (500, 0, "warning"), (500, 400 * MIB, "problem"), (10, 0, "problem")],
)
def test_space(
    where: Locations, monkeypatch: pytest.MonkeyPatch, free: int, largest: int, state: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free * MIB))
    found = list(health.check_space(where, LocalPath("/nowhere"), largest))
    assert ("ok" if state == "ok" else state) in states(found)
    assert (states(found) == ["ok"]) == (state == "ok")


def programs(folder: Path, *names: str) -> dict[str, str]:
    folder.mkdir()
    for name in names:
        (folder / name).touch(0o755)
    return {"PATH": str(folder)}


@pytest.mark.parametrize(
    ("there", "url", "transport", "state"),
    [
        ((), "/srv/hub.git", "auto", "ok"),
        (("git", "ssh"), "git@example.org:you/context.git", "auto", "ok"),
        (("git",), "https://example.org/you/context.git", "auto", "ok"),
        (("git",), "git@example.org:you/context.git", "auto", "problem"),
        (("ssh",), "https://example.org/you/context.git", "auto", "warning"),
        (("ssh",), "git@example.org:you/context.git", "git", "problem"),
        ((), "git@example.org:you/context.git", "libgit2", "ok"),
    ],
)
def test_programs_that_a_peer_needs(
    tmp_path: Path, there: tuple[str, ...], url: str, transport: str, state: str
) -> None:
    settings = Settings(
        peers=(PeerSettings("hub", url),),
        exchange=ExchangeSettings(transport=transport),  # type: ignore[arg-type]
    )
    assert states(health.check_programs(programs(tmp_path / "bin", *there), settings)) == [state]


def test_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        (tmp_path / str(number)).mkdir()
    assert states(health.check_watches(LocalPath(str(tmp_path)))) == ["ok"]
    monkeypatch.setattr("convergenced.machine.watch._limit", lambda _: 10)
    assert "fs.inotify.max_user_watches" in faulty(health.check_watches(LocalPath(str(tmp_path)))).fix
    monkeypatch.setattr("convergenced.machine.watch._limit", lambda _: None)
    assert states(health.check_watches(LocalPath(str(tmp_path)))) == ["ok"]


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / f"{TEMPORARY_PREFIX}1").touch()
    (folder / "transcript.jsonl").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / f"{TEMPORARY_PREFIX}2").touch()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    top = LocalPath(str(tmp_path / "a"))
    assert states(health.check_leftovers([top], in_use=True)) == ["ok"], "it may be written just now"
    one = faulty(health.check_leftovers([top, top], in_use=False))
    assert one.repair is not None
    assert one.repair() == "removed 1 temporary file"
    assert one.repair()
    assert sorted(path.name for path in folder.iterdir()) == ["link", "transcript.jsonl"]
    assert list((tmp_path / "elsewhere").iterdir())


def test_backups(where: Locations, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(where.backups_dir) / "-home-ann-app" / "20260101T000000.000000Z"
    folder.mkdir(parents=True)
    (folder / "x.jsonl").write_bytes(b"x" * (3 * MIB))
    (one,) = health.check_backups(where, 10)
    assert (one.state, one.text) == ("ok", "3 MiB in 1 backup of replaced files")
    monkeypatch.setattr(health, "BACKUPS_LARGE", MIB)
    assert "backups.keep 5" in faulty(health.check_backups(where, 10)).fix
