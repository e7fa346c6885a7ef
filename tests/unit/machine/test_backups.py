"""Of each file the newest backups stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convergenced.errors import ConvergenceError
from convergenced.machine.backups import prune_backups
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
