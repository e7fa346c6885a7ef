"""A project's tree comes back as it was written, and a hostile one comes back harmless."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from uuid import NAMESPACE_OID, uuid5

import pytest

from convergenced.errors import NewerSchemaError
from convergenced.merge import reading
from convergenced.merge.layout import (
    ProjectTree,
    SessionTree,
    policy_of,
    read_folder,
    read_project,
    write_folder,
    write_project,
)
from convergenced.merge.names import MAX_DEPTH, beside, find_fault, settle_names
from convergenced.merge.segments import write_transcript
from convergenced.merge.sessions import MAX_SESSIONS
from convergenced.model import EMPTY_TREE, MODE_BLOB, MODE_TREE, Oid, SessionId, TreeEntry
from tests.fakes.store import MemoryStore
from tests.transcripts import keep, spoken

SID = SessionId("2af1d7f8-1206-438d-b660-8b22937b7f38")
ROSTER = b'{"participants": []}'


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def folder(store: MemoryStore, *entries: tuple[str, int, Oid]) -> Oid:
    return store.write_tree([TreeEntry(*entry) for entry in entries])


def with_memory(store: MemoryStore, *entries: tuple[str, int, Oid]) -> Oid:
    """A project whose memory is this, however hostile."""
    context = folder(store, ("memory", MODE_TREE, folder(store, *entries)))
    return folder(
        store, ("roster.json", MODE_BLOB, store.write_blob(ROSTER)), ("context", MODE_TREE, context)
    )


def test_a_project_comes_back_as_it_was_written(store: MemoryStore) -> None:
    blob = store.write_blob(b"text")
    project = ProjectTree(
        roster=store.write_blob(ROSTER),
        policy=store.write_blob(b'{"schema": 1}'),
        machines={"desktop.json": store.write_blob(b"{}")},
        sessions={
            SID: SessionTree(
                write_transcript(store, [b"{}\n"]), None, write_folder(store, {"subagents/a.jsonl": blob})
            ),
            SessionId(SID.replace("2", "3")): SessionTree(flat=store.write_blob(b"{}\n")),
        },
        memory={"MEMORY.md": blob, "deep/er/note.md": blob},
        other=(TreeEntry("knowledge", MODE_TREE, folder(store, ("x", MODE_BLOB, blob))),),
        other_context=(TreeEntry("agent-1.jsonl", MODE_BLOB, blob),),
    )
    tree = write_project(store, project)
    assert read_project(store, tree) == (project, [])
    assert write_project(store, read_project(store, tree)[0]) == tree


def test_an_empty_tree_is_an_empty_project(store: MemoryStore) -> None:
    assert read_project(store, EMPTY_TREE) == (ProjectTree(), [])
    assert write_project(store, ProjectTree()) == EMPTY_TREE


def test_session_folders_are_not_opened(store: MemoryStore) -> None:
    files = {f"tool-results/{number}.txt": store.write_blob(b"%d" % number) for number in range(50)}
    tree = write_project(
        store,
        ProjectTree(store.write_blob(ROSTER), sessions={SID: SessionTree(folder=write_folder(store, files))}),
    )
    store.reads = 0
    project, _ = read_project(store, tree)
    assert store.reads == 3
    assert read_folder(store, project.sessions[SID].folder, "context/x") == (files, [])


BAD_NAMES = [
    "..", ".", "a\\b", "C:\\x", "tab\there", "bell\x07", "del\x7f", "\x85", ".git", ".GIT", ".Git ", ".git.",
    "git~1", "GIT~2", ".g\u200cit", ".gi\ufefft", ".git::$INDEX_ALLOCATION", ".gitmodules",
    "gi7eba~1", "n" * 256, "é" * 128,
    b"\xff.md".decode("utf-8", "surrogateescape"),
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_hostile_name_is_left_out_alone(store: MemoryStore, name: str) -> None:
    blob = store.write_blob(b"x")
    project, refusals = read_project(
        store, with_memory(store, (name, MODE_BLOB, blob), ("good.md", MODE_BLOB, blob))
    )
    assert project.memory == {"good.md": blob}
    assert len(refusals) == 1
    assert refusals[0].where.startswith("context/memory/")
    assert refusals[0].remedy


@pytest.mark.parametrize(
    "name", ["a.md", "é.md", "日本.md", ".hidden", "git", ".gitignore", "digit~1", "a b", "..a", "n" * 255]
)
def test_an_ordinary_name_is_welcome(name: str) -> None:
    assert find_fault(name) is None


@pytest.mark.parametrize(("mode", "word"), [(0o120000, "link"), (0o160000, "submodule"), (0o100600, "mode")])
def test_what_is_no_plain_file_is_left_out(store: MemoryStore, mode: int, word: str) -> None:
    project, refusals = read_project(
        store, with_memory(store, ("x.md", mode, store.write_blob(b"/etc/passwd")))
    )
    assert project.memory == {}
    assert word in refusals[0].reason


@pytest.mark.parametrize("mode", [0o100755, 0o100664])
def test_old_and_executable_files_are_plain_files(store: MemoryStore, mode: int) -> None:
    project, refusals = read_project(store, with_memory(store, ("x.md", mode, store.write_blob(b"x"))))
    assert (list(project.memory), refusals) == (["x.md"], [])
    assert store.read_tree(write_folder(store, project.memory))[0].mode == MODE_BLOB


@pytest.mark.parametrize(
    ("within", "name", "hidden"),
    [
        ("", "Context", "context"),
        ("", "\u017fegments", "segments"),
        ("", "ROSTER.json", "roster.json"),
        ("", "MACHINES", "machines"),
        ("context", "Memory", "memory"),
        ("context", SID.upper(), SID),
        ("context", f"{SID.upper()}.jsonl", f"{SID}.jsonl"),
        ("segments", SID.upper(), SID),
        ("segments", "A", "a"),
        ("machines", "Desktop-1.json", "desktop-1.json"),
    ],
)
def test_nothing_stands_where_one_of_ours_will_be(
    store: MemoryStore, within: str, name: str, hidden: str
) -> None:
    odd = folder(store, (name, MODE_TREE, folder(store, ("x", MODE_BLOB, store.write_blob(b"x")))))
    project, refusals = read_project(store, folder(store, (within, MODE_TREE, odd)) if within else odd)
    assert project == ProjectTree()
    assert f"its name would hide {hidden!r}" in [refusal.reason for refusal in refusals]


def test_a_flood_of_entries_crowds_out_no_session(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_ENTRIES", 10)
    blob = store.write_blob(b"x")
    flood = [TreeEntry(f"a{number}", MODE_BLOB, blob) for number in range(20)]
    ours = ProjectTree(
        roster=store.write_blob(ROSTER),
        sessions={
            SID: SessionTree(write_transcript(store, [b"{}\n"]), None, write_folder(store, {"a": blob}))
        },
        memory={entry.name: blob for entry in flood},
        other=tuple(flood),
        other_context=tuple(flood),
    )
    project, _ = read_project(store, write_project(store, ours))
    assert (project.sessions, project.roster) == (ours.sessions, ours.roster)


@pytest.mark.parametrize(
    ("first", "second"),
    [("A.md", "a.md"), ("stra\u00dfe", "strasse"), (unicodedata.normalize("NFD", "é"), "é"), ("K", "\u212a")],
)
def test_of_colliding_names_the_first_in_byte_order_stays(
    store: MemoryStore, first: str, second: str
) -> None:
    first, second = sorted((first, second), key=str.encode)
    one, two = store.write_blob(b"1"), store.write_blob(b"2")
    project, refusals = read_project(
        store, with_memory(store, (second, MODE_BLOB, two), (first, MODE_BLOB, one))
    )
    assert project.memory == {first: one}
    assert "collides" in refusals[0].reason


def test_depth_is_bounded(store: MemoryStore) -> None:
    tree = folder(store, ("x", MODE_BLOB, store.write_blob(b"x")))
    for _ in range(MAX_DEPTH):
        tree = folder(store, ("d", MODE_TREE, tree))
    files, refusals = read_folder(store, tree, "context/s")
    assert files == {}
    assert "deep" in refusals[0].reason


def test_a_tree_that_repeats_itself_a_billion_times_ends_soon(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_ENTRIES", 500)
    tree = folder(store, ("x", MODE_BLOB, store.write_blob(b"x")))
    for _ in range(10):
        tree = folder(store, *((f"d{number}", MODE_TREE, tree) for number in range(10)))
    store.reads = 0
    _, refusals = read_folder(store, tree, "context/s")
    assert store.reads < 1000
    assert any("more than" in refusal.reason for refusal in refusals)


def test_a_file_out_of_all_proportion_is_left_out(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_FILE", 10)
    project, refusals = read_project(
        store, with_memory(store, ("big.md", MODE_BLOB, store.write_blob(b"x" * 11)))
    )
    assert project.memory == {}
    assert "larger" in refusals[0].reason


def test_sessions_must_be_named_by_lower_case_uuids_and_be_what_they_should(store: MemoryStore) -> None:
    blob = store.write_blob(b"{}\n")
    transcript = write_transcript(store, [b"{}\n"])
    segments = folder(
        store, (SID.upper(), MODE_TREE, transcript), (SID, MODE_BLOB, blob), ("x", MODE_TREE, transcript)
    )
    context = folder(store, (f"{SID}.jsonl", MODE_TREE, transcript), (SID, MODE_BLOB, blob))
    tree = folder(store, ("segments", MODE_TREE, segments), ("context", MODE_TREE, context))
    project, refusals = read_project(store, tree)
    assert project.sessions == {}
    assert sorted(refusal.where for refusal in refusals) == sorted(
        [
            "roster.json",
            f"segments/{SID}",
            "segments/x",
            f"context/{SID}",
            f"context/{SID}.jsonl",
            f"segments/{SID.upper()}",
        ]
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[1", b"3", b"\xff", b"[" * 100_000])
def test_a_broken_roster_or_policy_counts_as_absent(store: MemoryStore, content: bytes) -> None:
    blob = store.write_blob(content)
    project, refusals = read_project(
        store, folder(store, ("roster.json", MODE_BLOB, blob), ("convergence.json", MODE_BLOB, blob))
    )
    assert (project.roster, project.policy) == (None, None)
    assert sorted(refusal.where for refusal in refusals) == ["convergence.json", "roster.json"]


def test_a_folder_where_a_file_should_be_and_the_other_way_round(store: MemoryStore) -> None:
    blob = store.write_blob(b"x")
    inner = folder(store, ("x", MODE_BLOB, blob))
    names = [
        ("roster.json", MODE_TREE, inner),
        *((name, MODE_BLOB, blob) for name in ("context", "segments", "machines")),
    ]
    project, refusals = read_project(store, folder(store, *names))
    assert project == ProjectTree()
    assert len(refusals) == 4


def test_a_newer_schema_is_left_alone(store: MemoryStore) -> None:
    tree = folder(store, ("convergence.json", MODE_BLOB, store.write_blob(b'{"schema": 2}')))
    with pytest.raises(NewerSchemaError):
        read_project(store, tree)


def test_a_branch_of_context_convergence_speaks_for_itself(store: MemoryStore) -> None:
    roster = store.write_blob(b'{"project_id": "x", "rewrite_home": false, "participants": []}')
    flat = ProjectTree(roster, sessions={SID: SessionTree(flat=store.write_blob(b"{}\n"))})
    assert policy_of(store, flat).layout == "flat"
    assert policy_of(store, flat).rewrite_home is False
    assert policy_of(store, ProjectTree()).layout == "segments"


def test_colliding_files_are_kept_beside_each_other(store: MemoryStore) -> None:
    one, two = store.write_blob(b"1"), store.write_blob(b"2")
    assert settle_names({"a.md": two, "A.md": one}) == {"A.md": one, beside("a.md", two): two}
    assert settle_names({"a": one, "a/b": two}) == {beside("a", one): one, "a/b": two}
    assert settle_names({"D/x": one, "d/y": two, "d/X": two}) == {
        "D/x": one,
        "D/y": two,
        beside("D/X", two): two,
    }
    assert settle_names({"a.md": one, "A.md": one}) == {"A.md": one}


def test_a_long_name_still_fits_when_it_is_kept_beside() -> None:
    oid = Oid("abcdef12" + "0" * 32)
    name = beside("d/" + "é" * 125 + ".md", oid)
    assert find_fault(name.partition("/")[2]) is None
    assert name.endswith(".abcdef12.md")


class TestManySessions:
    """Transcripts beyond what one folder holds go into folders by the digits of their ids."""

    @staticmethod
    def project(store: MemoryStore, number: int) -> ProjectTree:
        sids = (SessionId(str(uuid5(NAMESPACE_OID, str(one)))) for one in range(number))
        sessions = {sid: SessionTree(keep(store, [spoken(sid)])) for sid in sids}
        return ProjectTree(roster=store.write_blob(b"{}"), sessions=sessions)

    @pytest.mark.parametrize("number", [0, 1, MAX_SESSIONS, MAX_SESSIONS + 1, 17 * MAX_SESSIONS])
    def test_what_is_written_is_read_again(self, store: MemoryStore, number: int) -> None:
        project = self.project(store, number)
        found, refusals = read_project(store, write_project(store, project))
        assert found == project
        assert refusals == []

    def test_the_tree_depends_on_what_there_is_and_not_on_how_it_came(self, store: MemoryStore) -> None:
        project = self.project(store, 200)
        backwards = replace(project, sessions=dict(sorted(project.sessions.items(), reverse=True)))
        assert write_project(store, project) == write_project(store, backwards)

    def test_no_folder_is_long_however_many_there_are(self, store: MemoryStore) -> None:
        root = write_project(store, self.project(store, 3000))
        (waiting,) = ([entry.oid] for entry in store.read_tree(root) if entry.name == "segments")
        longest = 0
        while waiting:
            entries = store.read_tree(waiting.pop())
            longest = max(longest, len(entries))
            waiting += [entry.oid for entry in entries if len(entry.name) == 1]
        assert 16 <= longest <= MAX_SESSIONS

    def test_a_session_in_the_folder_of_another_digit_is_refused(self, store: MemoryStore) -> None:
        transcript = folder(store, (SID, MODE_TREE, keep(store, [spoken("a")])))
        wrong = "0" if SID[0] != "0" else "1"
        segments = folder(store, (wrong, MODE_TREE, transcript))
        project, refusals = read_project(store, folder(store, ("segments", MODE_TREE, segments)))
        assert project.sessions == {}
        assert f"segments/{wrong}/{SID}" in [refusal.where for refusal in refusals]

    def test_a_session_that_is_there_twice_is_taken_once(self, store: MemoryStore) -> None:
        first, second = keep(store, [spoken("a")]), keep(store, [spoken("b")])
        below = folder(store, (SID, MODE_TREE, first))
        segments = folder(store, (SID[0], MODE_TREE, below), (SID, MODE_TREE, second))
        project, refusals = read_project(store, folder(store, ("segments", MODE_TREE, segments)))
        assert project.sessions == {SID: SessionTree(second)}
        assert [refusal.where for refusal in refusals if "twice" in refusal.reason] == [f"segments: {SID}"]

    def test_folders_inside_one_another_without_end_are_not_followed(self, store: MemoryStore) -> None:
        inner = keep(store, [spoken("a")])
        for _ in range(40):
            inner = folder(store, ("a", MODE_TREE, inner))
        project, refusals = read_project(store, folder(store, ("segments", MODE_TREE, inner)))
        assert project.sessions == {}
        assert any("no session's transcript" in refusal.reason for refusal in refusals)
