"""What of a context folder is synced, and what never is."""

from __future__ import annotations

import pytest

from convergenced.errors import RefusedInputError
from convergenced.model import Content, LocalPath
from convergenced.sync import scan as scanning
from convergenced.sync.scan import MAX_DEPTH, content_of, scan_folder, session_of
from tests.fakes.files import MemoryFiles
from tests.unit.sync.world import sid

FOLDER = LocalPath("/c")
S = sid(1)


@pytest.fixture
def files() -> MemoryFiles:
    files = MemoryFiles()
    files.make_folder(FOLDER)
    return files


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (f"{S}.jsonl", Content.JSON),
        (f"{S}/subagents/agent-1.jsonl", Content.JSON),
        (f"{S}/subagents/agent-1.meta.json", Content.JSON),
        (f"{S}/subagents/deeper/agent-2.jsonl", Content.JSON),
        (f"{S}/tool-results/1.txt", Content.TEXT),
        (f"{S}/custom-title.json", Content.JSON),
        ("memory/MEMORY.md", Content.TEXT),
        ("memory/deep/er/a.md", Content.TEXT),
    ],
)
def test_sessions_and_memory_are_synced(path: str, content: Content) -> None:
    assert content_of(path) is content


@pytest.mark.parametrize(
    "path",
    [
        "memory",
        "memory.md",
        "memory/a.txt",
        "memory/.credentials.json",
        "settings.json",
        "settings.local.json",
        "history.jsonl",
        "1234.key",
        ".last-cleanup",
        "notes.jsonl",
        f"{S}",
        f"{S}.json",
        f"{S}.jsonl.bak",
        f"{str(S).upper()}.jsonl",
        f"{S}.jsonl/agent.jsonl",
        f"{S}/other.json",
        f"{S}/shell-snapshots/a.json",
        f"{S}/session-env/env.json",
        f"{S}/custom-title.json/x",
        f"{S}/subagents",
        f"notes/{S}.jsonl",
    ],
)
def test_nothing_else_is_ever_synced(path: str) -> None:
    assert content_of(path) is None


def test_a_name_tells_its_session() -> None:
    assert session_of(f"{S}.jsonl") == session_of(str(S)) == S
    assert session_of("memory") is None


def test_a_folder_that_is_not_there_is_not_an_empty_one(files: MemoryFiles) -> None:
    assert scan_folder(files, LocalPath("/elsewhere")) is None
    empty = scan_folder(files, FOLDER)
    assert empty is not None
    assert empty.is_empty
    assert empty.size == 0


def test_a_scan_finds_what_is_synced_and_passes_by_the_rest_in_silence(files: MemoryFiles) -> None:
    files.write(f"/c/{S}.jsonl", b"12345")
    files.write(f"/c/{S}/subagents/agent-1.jsonl", b"123")
    files.write(f"/c/{S}/tool-results/1.txt", b"12")
    files.write(f"/c/{S}/custom-title.json", b"1")
    files.write("/c/memory/MEMORY.md", b"1")
    for ignored in ("history.jsonl", "x.key", "settings.local.json", f"{S}/unknown/a.json", "memory/a.png"):
        files.write(f"/c/{ignored}", b"never")
    scan = scan_folder(files, FOLDER)
    assert scan is not None
    assert set(scan.transcripts) == {S}
    assert set(scan.attached) == {
        f"{S}/subagents/agent-1.jsonl",
        f"{S}/tool-results/1.txt",
        f"{S}/custom-title.json",
    }
    assert set(scan.memory) == {"memory/MEMORY.md"}
    assert scan.has_memory_folder
    assert scan.refusals == []
    assert scan.size == 5 + 3 + 2 + 1 + 1


def test_an_unknown_folder_of_a_session_is_not_even_opened(files: MemoryFiles) -> None:
    files.write(f"/c/{S}/session-env/a/b.json", b"never")
    opened: list[str] = []
    files.before = lambda verb, path: opened.append(path)
    scan_folder(files, FOLDER)
    assert opened == ["/c", f"/c/{S}"]


def test_a_folder_named_like_a_transcript_is_refused_alone(files: MemoryFiles) -> None:
    files.make_folder(f"/c/{S}.jsonl")
    files.write(f"/c/{sid(2)}.jsonl", b"1")
    scan = scan_folder(files, FOLDER)
    assert scan is not None
    assert set(scan.transcripts) == {sid(2)}
    assert [(one.where, one.reason) for one in scan.refusals] == [
        (f"{S}.jsonl", "is a folder, not a regular file")
    ]


def test_a_file_named_like_a_session_folder_is_refused(files: MemoryFiles) -> None:
    files.write(f"/c/{S}", b"1")
    scan = scan_folder(files, FOLDER)
    assert scan is not None
    assert [one.reason for one in scan.refusals] == ["is a file, not a folder"]


def test_symlinks_and_special_files_are_refused_and_not_opened(files: MemoryFiles) -> None:
    files.link(f"/c/{S}.jsonl", "/etc/passwd")
    files.fifo(f"/c/{sid(2)}.jsonl")
    files.link(f"/c/{sid(3)}", "/etc")
    files.fifo("/c/memory/a.md")
    files.link("/c/memory/b.md", "/etc/passwd")
    scan = scan_folder(files, FOLDER)
    assert scan is not None
    assert scan.is_empty
    assert {one.where: one.reason for one in scan.refusals} == {
        f"{S}.jsonl": "is a symbolic link, not a regular file",
        f"{sid(2)}.jsonl": "is a special file, not a regular file",
        f"{sid(3)}": "is a symbolic link, not a folder",
        "memory/a.md": "is a special file, not a regular file",
        "memory/b.md": "is a symbolic link, not a regular file",
    }


def test_a_linked_memory_folder_is_refused_and_counts_as_missing(files: MemoryFiles) -> None:
    files.link("/c/memory", "/elsewhere")
    scan = scan_folder(files, FOLDER)
    assert scan is not None
    assert not scan.has_memory_folder
    assert [one.where for one in scan.refusals] == ["memory"]


def test_what_a_hub_would_refuse_for_its_size_stays_here_alone(
    files: MemoryFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "MAX_FILE_BYTES", 10)
    files.write("/c/memory/big.md", b"x" * 11)
    files.write("/c/memory/fits.md", b"x" * 10)
    files.write(f"/c/{S}.jsonl", b"x" * 1000)
    scan = scan_folder(files, FOLDER)
    assert scan is not None
    assert set(scan.memory) == {"memory/fits.md"}
    assert set(scan.transcripts) == {S}, "transcripts are cut into segments: no size is too large"
    assert [one.where for one in scan.refusals] == ["memory/big.md"]


def test_names_that_some_machine_cannot_hold_are_refused_alone(files: MemoryFiles) -> None:
    for name in ("a.md", "A.md", ".git/x.md", "bad\udcff.md"):
        files.write(f"/c/memory/{name}", b"1")
    files.write("/c/memory/.git.png", b"1")
    scan = scan_folder(files, FOLDER)
    assert scan is not None
    assert len(scan.memory) + len(scan.refusals) == 4
    assert set(scan.memory) <= {"memory/a.md", "memory/A.md", "memory/bad\udcff.md"}
    assert any("cannot be told from" in one.reason for one in scan.refusals)
    assert any(one.where == "memory/.git" for one in scan.refusals)


def test_nesting_is_bounded(files: MemoryFiles) -> None:
    allowed = "/".join(["memory", *(["d"] * (MAX_DEPTH - 1))])
    files.write(f"/c/{allowed}/a.md", b"1")
    files.write(f"/c/{allowed}/d/b.md", b"1")
    scan = scan_folder(files, FOLDER)
    assert scan is not None
    assert set(scan.memory) == {f"{allowed}/a.md"}
    assert [one.where for one in scan.refusals] == [f"{allowed}/d"]


def test_the_number_of_files_is_bounded(files: MemoryFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "MAX_FILES", 3)
    for number in range(5):
        files.write(f"/c/memory/{number}.md", b"1")
    scan = scan_folder(files, FOLDER)
    assert scan is not None
    assert len(scan.memory) == 3
    assert [one.where for one in scan.refusals] == ["memory"]


def test_a_folder_that_vanishes_while_it_is_walked_is_empty(files: MemoryFiles) -> None:
    files.write("/c/memory/a.md", b"1")

    def vanish(verb: str, path: LocalPath) -> None:
        if path == "/c/memory":
            files.unlink("/c/memory")

    files.before = vanish
    scan = scan_folder(files, FOLDER)
    assert scan is not None
    assert scan.memory == {}


def test_a_folder_that_cannot_be_listed_is_refused_alone(files: MemoryFiles) -> None:
    files.write("/c/memory/locked/a.md", b"1")
    files.write("/c/memory/b.md", b"1")

    def forbid(verb: str, path: LocalPath) -> None:
        if path.endswith("locked"):
            raise RefusedInputError("may not be read", "check its permissions")

    files.before = forbid
    scan = scan_folder(files, FOLDER)
    assert scan is not None
    assert set(scan.memory) == {"memory/b.md"}
    assert scan.has_memory_folder
    assert [(one.where, one.reason) for one in scan.refusals] == [("memory/locked", "may not be read")]


@pytest.mark.parametrize(
    ("names", "known", "lost"),
    [
        (["a.md"], ["a.md", "b.md"], False),
        ([], ["a.md", "b.md"], True),
        ([], ["a.md"], False),
        (None, ["a.md"], True),
        (None, [], False),
    ],
)
def test_memory_is_lost_where_all_of_it_went_at_one_stroke(
    files: MemoryFiles, names: list[str] | None, known: list[str], lost: bool
) -> None:
    if names is not None:
        files.make_folder("/c/memory")
    for name in names or ():
        files.write(f"/c/memory/{name}", b"1")
    scan = scan_folder(files, FOLDER)
    assert scan is not None
    assert scan.lost_memory(known) is lost


def test_a_memory_folder_that_was_refused_is_not_lost(files: MemoryFiles) -> None:
    files.link("/c/memory", "/elsewhere")
    scan = scan_folder(files, FOLDER)
    assert scan is not None
    assert not scan.lost_memory(["a.md", "b.md"])
