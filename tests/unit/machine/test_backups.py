"""Of each file the newest backups stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convergenced.errors import ConvergenceError
from convergenced.machine.backups import list_backups, prune_backups
from convergenced.model import LocalPath


def test_only_the_newest_backups_of_each_file_stay(tmp_path: Path) -> None:
    for moment in range(5):
        folder = tmp_path / f"2026010{moment}T000000Z" / "memory"
        folder.mkdir(parents=True)
        (folder / "a.md").write_text(f"a{moment}")
    rare = tmp_path / "20250101T000000Z"
    rare.mkdir()
    (rare / "session.jsonl").write_text("the only one")
    assert prune_backups(LocalPath(str(tmp_path)), keep=2) == 3
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {
        "20260104T000000Z/memory/a.md",
        "20260103T000000Z/memory/a.md",
        "20250101T000000Z/session.jsonl",
    }
    assert not (tmp_path / "20260100T000000Z").exists()


def test_a_folder_without_backups_is_no_error(tmp_path: Path) -> None:
    assert prune_backups(LocalPath(str(tmp_path / "none")), keep=2) == 0


def test_a_backup_that_was_written_to_afterwards_stays_and_is_told(tmp_path: Path) -> None:
    for day in range(1, 5):
        folder = tmp_path / f"2026010{day}T000000.000000Z"
        folder.mkdir()
        (folder / "session.jsonl").write_text("records")
        os.utime(folder / "session.jsonl", (0, 0))
    late = tmp_path / "20260101T000000.000000Z" / "session.jsonl"
    late.write_text("records and one more")
    with pytest.raises(ConvergenceError, match="20260101T000000") as caught:
        prune_backups(LocalPath(str(tmp_path)), keep=1)
    assert caught.value.hint
    left = sorted(path.parent.name for path in tmp_path.rglob("*.jsonl"))
    assert left == ["20260101T000000.000000Z", "20260104T000000.000000Z"]
    late.unlink()
    assert prune_backups(LocalPath(str(tmp_path)), keep=1) == 0


def test_backups_are_listed_newest_first_with_what_was_written_to_since(tmp_path: Path) -> None:
    for day, name in ((1, "memory/a.md"), (3, "memory/a.md"), (2, "s.jsonl")):
        file = tmp_path / "-proj" / f"2026010{day}T000000.000000Z" / name
        file.parent.mkdir(parents=True)
        file.write_text("x" * day)
        os.utime(file, (0, 0))
    os.utime(file)
    (tmp_path / "-proj" / "no time").mkdir()
    (tmp_path / "-proj" / "20260104T000000.000000Z").mkdir()
    (tmp_path / "-proj" / "20260104T000000.000000Z" / "link").symlink_to(file)
    (tmp_path / "a file").touch()
    found = list_backups(LocalPath(str(tmp_path)), ["-proj", "-none", "a file"])
    assert [(one.stamp[:8], one.name, one.size, one.is_late) for one in found] == [
        ("20260103", "memory/a.md", 3, False),
        ("20260102", "s.jsonl", 2, True),
        ("20260101", "memory/a.md", 1, False),
    ]
    assert Path(found[1].path) == file
