"""Of each file the newest backups stay."""

from __future__ import annotations

from pathlib import Path

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
