from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from ctl import sharing
from ctl.sharing import survey


def session(folder: Path, size: int, mtime: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{uuid.uuid4()}.jsonl"
    path.write_bytes(b"x" * size)
    os.utime(path, (mtime, mtime))


def test_folders_are_counted_newest_first(tmp_path: Path) -> None:
    session(tmp_path / "-old", 10, 1000)
    session(tmp_path / "-new", 20, 2000)
    session(tmp_path / "-new", 30, 1500)
    memory = tmp_path / "-new" / "memory"
    memory.mkdir()
    (memory / "MEMORY.md").write_bytes(b"m" * 5)
    os.utime(memory / "MEMORY.md", (1, 1))
    (tmp_path / "-new" / "notes.jsonl").write_bytes(b"")
    os.utime(tmp_path / "-new" / "notes.jsonl", (1, 1))
    found = [(one.name, one.sessions, one.bytes, one.newest) for one in survey(str(tmp_path))]
    assert found == [("-new", 2, 55, 2000.0), ("-old", 1, 10, 1000.0)]


def test_only_what_is_synced_is_shown_as_shared(tmp_path: Path) -> None:
    session(tmp_path / "-p", 10, 1000)
    for name in ("settings.local.json", "memory/picture.png", "not-a-session/subagents/a.jsonl"):
        path = tmp_path / "-p" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"z" * 100)
    assert [(one.sessions, one.bytes) for one in survey(str(tmp_path))] == [(1, 10)]


def test_links_fifos_and_empty_folders_do_not_count(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    session(outside / "-p", 10, 1000)
    projects = tmp_path / "projects"
    (projects / "-empty").mkdir(parents=True)
    (projects / "-linked").symlink_to(outside / "-p")
    (projects / "-odd").mkdir()
    os.mkfifo(projects / "-odd" / f"{uuid.uuid4()}.jsonl")
    (projects / "-odd" / "loop").symlink_to(projects)
    assert survey(str(projects)) == []


def test_nothing_there_is_nothing(tmp_path: Path) -> None:
    assert survey(str(tmp_path / "absent")) == []


def test_a_survey_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        session(tmp_path / "-p", 1, 1000)
    monkeypatch.setattr(sharing, "MAX_FILES", 3)
    assert survey(str(tmp_path))[0].sessions == 3
