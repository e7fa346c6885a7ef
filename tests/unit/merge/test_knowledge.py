"""The branch of shared knowledge comes back as it was written, a hostile one harmless, two as one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from convergenced.errors import NewerSchemaError
from convergenced.merge import knowledge_files, knowledge_tree
from convergenced.merge.contributions import with_rejection, with_synthesis
from convergenced.merge.documents import Fields, Json
from convergenced.merge.knowledge import (
    GLOBAL,
    MAX_DOCUMENT_BYTES,
    MAX_LOG,
    DocumentPath,
    Input,
    Knowledge,
    LogEntry,
    MachineKnowledge,
    Rejection,
    Scope,
    ScopeRecord,
    Synthesis,
    is_document,
    is_scope,
    project_scope,
)
from convergenced.merge.knowledge_log import MAX_ENTRY, merge_logs
from convergenced.merge.knowledge_merge import merge_knowledge, with_revisions
from convergenced.merge.knowledge_tree import read_knowledge, write_knowledge
from convergenced.merge.layout import write_folder
from convergenced.merge.names import MAX_DEPTH
from convergenced.model import EMPTY_TREE, MODE_BLOB, MODE_TREE, Oid, ProjectId, TreeEntry
from tests.fakes.store import MemoryStore
from tests.knowledge import ANN, BOB, CYD, build, documents, synthesis, texts

CLAUDE = DocumentPath("CLAUDE.md")
PROJ = project_scope(ProjectId("proj"))
RECORDS = "meta/last-synthesis.json"
LOG = "meta/sync-log.json"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def tree_of(store: MemoryStore, files: dict[str, bytes]) -> Oid:
    """A branch of these files, however hostile."""
    return write_folder(store, {path: store.write_blob(data) for path, data in files.items()})


def document(**fields: Json) -> bytes:
    return json.dumps(fields).encode()


def reasons(store: MemoryStore, tree: Oid) -> dict[str, str]:
    return {refusal.where: refusal.reason for refusal in read_knowledge(store, tree)[1]}


def whole(store: MemoryStore) -> Knowledge:
    """Knowledge that says something everywhere."""
    one, other, third = documents(store, {"a": "1", "b": "2", "c": "3"}).values()
    newer: Fields = {"newer": {"field": [1, "x"]}}
    note, inner = DocumentPath("memory/a/b.md"), DocumentPath(".claude/CLAUDE.md")
    return Knowledge(
        machines={
            ANN: MachineKnowledge(
                name="Ann's",
                documents={
                    GLOBAL: {CLAUDE: one, DocumentPath("settings.json"): other},
                    PROJ: {CLAUDE: one, inner: other, note: third},
                },
                applied={GLOBAL: {CLAUDE: third}},
                anew={GLOBAL: {CLAUDE: one}},
                revision=7,
                other=newer,
            ),
            BOB: MachineKnowledge(),
        },
        consolidated={GLOBAL: {CLAUDE: third}, PROJ: {note: one}},
        records={
            GLOBAL: ScopeRecord(
                written=Synthesis(
                    at=100,
                    machine=BOB,
                    provider="claude",
                    outcome="merged",
                    inputs={ANN: {CLAUDE: Input(one, third)}, CYD: {CLAUDE: Input(other)}},
                    model="m",
                    prompt="p",
                    usd=0.25,
                    marks=("é", "\ud800"),
                    other=newer,
                ),
                rejected=Rejection(
                    at=101, machine=ANN, provider="claude", inputs="d", claims=("x",), usd=1.0, other=newer
                ),
                revision=3,
                former={CLAUDE: (one, other)},
                other=newer,
            ),
            PROJ: ScopeRecord(revision=1),
        },
        log=(
            LogEntry(99, ANN, PROJ, "copied", "none"),
            LogEntry(100, BOB, GLOBAL, "merged", "claude", "m", 0.25, "é", newer),
        ),
        other=newer,
        others=(
            TreeEntry(".gitlab-ci.yml", MODE_BLOB, one),
            TreeEntry("later", MODE_TREE, tree_of(store, {"x": b""})),
        ),
        others_meta=(TreeEntry("later.json", MODE_BLOB, other),),
    )


class TestTheTree:
    def test_it_comes_back_as_it_was_written(self, store: MemoryStore) -> None:
        knowledge = whole(store)
        tree = write_knowledge(store, knowledge)
        assert read_knowledge(store, tree) == (knowledge, [])
        assert write_knowledge(store, read_knowledge(store, tree)[0]) == tree

    def test_names_lie_where_everybody_looks_for_them(self, store: MemoryStore) -> None:
        tree = write_knowledge(
            store,
            build(
                store,
                {
                    "machines": {ANN: {"global": {"CLAUDE.md": "1"}, PROJ: {".claude/CLAUDE.md": "2"}}},
                    "consolidated": {PROJ: {"memory/a.md": "3"}},
                },
            ),
        )
        assert sorted(paths(store, tree)) == [
            f"consolidated/{PROJ}/memory/a.md",
            f"machines/{ANN}/global/CLAUDE.md",
            f"machines/{ANN}/machine.json",
            f"machines/{ANN}/{PROJ}/.claude/CLAUDE.md",
        ]

    def test_order_and_empty_parts_leave_no_trace(self, store: MemoryStore) -> None:
        knowledge = whole(store)
        turned = replace(
            knowledge,
            machines=dict(reversed([*knowledge.machines.items()])),
            consolidated={
                Scope("projects/x"): {},
                PROJ: knowledge.consolidated[PROJ],
                **knowledge.consolidated,
            },
            records={Scope("projects/x"): ScopeRecord(), PROJ: knowledge.records[PROJ], **knowledge.records},
            log=(*reversed(knowledge.log), *knowledge.log),
            others=knowledge.others[::-1],
        )
        assert write_knowledge(store, turned) == write_knowledge(store, knowledge)

    def test_an_empty_tree_is_empty_knowledge(self, store: MemoryStore) -> None:
        assert read_knowledge(store, EMPTY_TREE) == (Knowledge(), [])
        assert write_knowledge(store, Knowledge()) == EMPTY_TREE

    def test_what_was_read_before_is_not_read_again(self, store: MemoryStore) -> None:
        knowledge = whole(store)
        read_knowledge(store, write_knowledge(store, knowledge))
        ann = knowledge.machines[ANN]
        changed = replace(
            knowledge, machines={**knowledge.machines, BOB: replace(ann, documents={}, applied={})}
        )
        tree = write_knowledge(store, changed)
        store.reads = 0
        assert read_knowledge(store, tree) == (changed, [])
        assert store.reads <= 12
        store.reads = 0
        assert read_knowledge(store, tree) == (changed, [])
        assert store.reads == 0

    def test_documents_are_not_opened(self, store: MemoryStore) -> None:
        blob = store.write_blob(b"text")
        tree = write_knowledge(store, Knowledge({ANN: MachineKnowledge(documents={GLOBAL: {CLAUDE: blob}})}))
        opened: list[Oid] = []

        class Watched(MemoryStore):
            def read_blob(self, oid: Oid) -> bytes:
                opened.append(oid)
                return super().read_blob(oid)

        watched = Watched()
        watched.objects = store.objects
        read_knowledge(watched, tree)
        assert len(opened) == 1
        assert blob not in opened

    def test_what_a_synthesis_started_from_need_not_be_there_any_more(self, store: MemoryStore) -> None:
        gone = Oid("12" * 20)
        known = MachineKnowledge(applied={GLOBAL: {CLAUDE: gone}})
        written = Synthesis(1, ANN, "none", "copied", {ANN: {CLAUDE: Input(gone, gone)}})
        knowledge = Knowledge(machines={ANN: known}, records={GLOBAL: ScopeRecord(written)})
        assert read_knowledge(store, write_knowledge(store, knowledge)) == (knowledge, [])


def paths(store: MemoryStore, tree: Oid, prefix: str = "") -> list[str]:
    found: list[str] = []
    for entry in store.read_tree(tree):
        inner = prefix + entry.name
        found += paths(store, entry.oid, inner + "/") if entry.is_tree else [inner]
    return found


class TestNames:
    @pytest.mark.parametrize("text", ["global", "projects/a", "projects/My.Proj_2-x"])
    def test_scopes(self, text: str) -> None:
        assert is_scope(text)

    @pytest.mark.parametrize(
        "text", ["", "globals", "global/", "projects", "projects/", "projects/..", "projects/a/b", "x/a"]
    )
    def test_what_is_no_scope(self, text: str) -> None:
        assert not is_scope(text)

    @pytest.mark.parametrize(
        ("scope", "path"),
        [
            (GLOBAL, "CLAUDE.md"),
            (GLOBAL, "settings.json"),
            (PROJ, "CLAUDE.md"),
            (PROJ, ".claude/CLAUDE.md"),
            (PROJ, "memory/a.md"),
            (PROJ, "memory/" + "d/" * (MAX_DEPTH - 2) + "a.md"),
        ],
    )
    def test_documents(self, scope: Scope, path: str) -> None:
        assert is_document(scope, path)

    @pytest.mark.parametrize(
        ("scope", "path"),
        [
            (GLOBAL, "memory/a.md"),
            (GLOBAL, ".claude/CLAUDE.md"),
            (GLOBAL, "claude.md"),
            (GLOBAL, "settings.local.json"),
            (PROJ, "settings.json"),
            (PROJ, ".claude/settings.json"),
            (PROJ, "memory"),
            (PROJ, "memory/"),
            (PROJ, "memory/a.txt"),
            (PROJ, "memory/../CLAUDE.md"),
            (PROJ, "memory/.git/a.md"),
            (PROJ, "memory//a.md"),
            (PROJ, "memory\\a.md"),
            (PROJ, "memory/" + "d/" * (MAX_DEPTH - 1) + "a.md"),
            (PROJ, "/etc/CLAUDE.md"),
        ],
    )
    def test_what_is_no_document(self, scope: Scope, path: str) -> None:
        assert not is_document(scope, path)


class TestHostileTrees:
    @pytest.mark.parametrize(
        ("path", "place"),
        [
            ("machines/Desk-00000001/global/CLAUDE.md", "machines/Desk-00000001"),
            ("machines/desk/global/CLAUDE.md", "machines/desk"),
            ("machines/desk-0000000g/global/CLAUDE.md", "machines/desk-0000000g"),
            ("machines/readme", "machines/readme"),
            (f"machines/{ANN}/notes", f"machines/{ANN}/notes"),
            (f"machines/{ANN}/global/other.md", f"machines/{ANN}/global/other.md"),
            (f"machines/{ANN}/global/memory/a.md", f"machines/{ANN}/global/memory"),
            (f"machines/{ANN}/global/claude.md", f"machines/{ANN}/global/claude.md"),
            (f"machines/{ANN}/global/CLAUDE.md/x", f"machines/{ANN}/global/CLAUDE.md"),
            (f"machines/{ANN}/projects/a..b/CLAUDE.md", f"machines/{ANN}/projects/a..b"),
            (f"machines/{ANN}/projects/-x/CLAUDE.md", f"machines/{ANN}/projects/-x"),
            (f"machines/{ANN}/projects/file", f"machines/{ANN}/projects/file"),
            (f"machines/{ANN}/{PROJ}/settings.json", f"machines/{ANN}/{PROJ}/settings.json"),
            (f"machines/{ANN}/{PROJ}/.claude/settings.json", f"machines/{ANN}/{PROJ}/.claude/settings.json"),
            (f"machines/{ANN}/{PROJ}/memory/a.txt", f"machines/{ANN}/{PROJ}/memory/a.txt"),
            (f"machines/{ANN}/{PROJ}/memory/con\\trol.md", f"machines/{ANN}/{PROJ}/memory/con\\trol.md"),
            (f"machines/{ANN}/{PROJ}/memory/.git/a.md", f"machines/{ANN}/{PROJ}/memory/.git"),
            (
                f"machines/{ANN}/{PROJ}/memory/" + "d/" * MAX_DEPTH + "a.md",
                f"machines/{ANN}/{PROJ}/memory" + "/d" * MAX_DEPTH,
            ),
            (f"machines/{ANN}/{PROJ}/Memory/a.md", f"machines/{ANN}/{PROJ}/Memory"),
            (f"machines/{ANN}/machine.json/x", f"machines/{ANN}/machine.json"),
            ("consolidated/machine.json", "consolidated/machine.json"),
            ("consolidated/global/x.md", "consolidated/global/x.md"),
            ("Machines/x", "Machines"),
            ("meta/Sync-log.json", "meta/Sync-log.json"),
        ],
    )
    def test_what_does_not_belong_there_is_left_out_alone(
        self, store: MemoryStore, path: str, place: str
    ) -> None:
        good = {f"machines/{ANN}/{PROJ}/memory/good.md": b"1", "consolidated/global/CLAUDE.md": b"2"}
        knowledge, refusals = read_knowledge(store, tree_of(store, {**good, path: b"{}"}))
        assert [refusal.where for refusal in refusals] == [place]
        clean = write_knowledge(store, knowledge)
        assert read_knowledge(store, clean) == (knowledge, [])
        kept = {one for one in paths(store, clean) if not one.endswith("machine.json")}
        assert kept == set(good)

    @pytest.mark.parametrize(
        ("mode", "word"),
        [(0o120000, "link"), (0o160000, "submodule"), (0o100600, "mode"), (MODE_TREE, "file")],
    )
    @pytest.mark.parametrize(
        "folder", [f"machines/{ANN}/global", f"machines/{ANN}/{PROJ}", "consolidated/global"]
    )
    def test_what_is_no_plain_file_is_left_out(
        self, store: MemoryStore, folder: str, mode: int, word: str
    ) -> None:
        oid = EMPTY_TREE if mode == MODE_TREE else store.write_blob(b"/etc/passwd")
        tree = store.write_tree([TreeEntry("CLAUDE.md", mode, oid)])
        for name in reversed(folder.split("/")):
            tree = store.write_tree([TreeEntry(name, MODE_TREE, tree)])
        knowledge, refusals = read_knowledge(store, tree)
        assert [refusal.where for refusal in refusals] == [f"{folder}/CLAUDE.md"]
        assert word in refusals[0].reason
        assert not knowledge.consolidated
        assert not any(machine.documents for machine in knowledge.machines.values())

    @pytest.mark.parametrize("mode", [MODE_BLOB, 0o120000, 0o160000])
    @pytest.mark.parametrize("name", ["machines", "consolidated", "meta"])
    def test_what_should_be_a_folder_is_left_out(self, store: MemoryStore, name: str, mode: int) -> None:
        tree = store.write_tree([TreeEntry(name, mode, store.write_blob(b"x"))])
        assert read_knowledge(store, tree)[0] == Knowledge()
        assert list(reasons(store, tree)) == [name]

    @pytest.mark.parametrize(
        "path",
        [
            f"machines/{ANN}/global/CLAUDE.md",
            f"machines/{ANN}/{PROJ}/memory/a.md",
            "consolidated/global/CLAUDE.md",
        ],
    )
    def test_a_document_out_of_all_proportion_is_left_out(self, store: MemoryStore, path: str) -> None:
        assert (
            "larger than 1 MiB" in reasons(store, tree_of(store, {path: bytes(MAX_DOCUMENT_BYTES + 1)}))[path]
        )
        assert not reasons(store, tree_of(store, {path: bytes(MAX_DOCUMENT_BYTES)}))

    def test_numbers_are_bounded(self, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("MAX_MACHINES", "MAX_PROJECTS", "MAX_NOTES"):
            monkeypatch.setattr(knowledge_tree, name, 2)
        files = {f"machines/m-0000000{number}/global/CLAUDE.md": b"x" for number in range(5)}
        files |= {f"consolidated/projects/p{number}/CLAUDE.md": b"x" for number in range(5)}
        files |= {f"consolidated/projects/p1/memory/{number}.md": b"x" for number in range(5)}
        tree = tree_of(store, files)
        knowledge, _ = read_knowledge(store, tree)
        assert sorted(knowledge.machines) == ["m-00000000", "m-00000001"]
        assert sorted(knowledge.consolidated) == ["projects/p0", "projects/p1"]
        assert sorted(knowledge.consolidated[Scope("projects/p1")]) == [
            "CLAUDE.md",
            "memory/0.md",
            "memory/1.md",
        ]
        assert sorted(reasons(store, tree)) == [
            "consolidated/projects",
            "consolidated/projects/p1/memory",
            "machines",
        ]

    def test_projects_whose_ids_differ_only_in_case_are_two(self, store: MemoryStore) -> None:
        known = build(store, {"consolidated": {"projects/Foo": {CLAUDE: "1"}, "projects/foo": {CLAUDE: "2"}}})
        assert read_knowledge(store, write_knowledge(store, known)) == (known, [])

    def test_what_was_refused_is_told_each_time(self, store: MemoryStore) -> None:
        tree = tree_of(store, {f"machines/{ANN}/{PROJ}/memory/a.txt": b"x", "machines/x": b"x"})
        first = read_knowledge(store, tree)
        assert len(first[1]) == 2
        assert read_knowledge(store, tree) == first


class TestMalformedFiles:
    @pytest.mark.parametrize("path", [f"machines/{ANN}/machine.json", RECORDS])
    @pytest.mark.parametrize(
        "data", [b"", b"[]", b"{", b"\xff", b'{"schema": "x"}', b'{"x": NaN}', b"[" * 9_999]
    )
    def test_a_file_that_is_none_is_ignored(self, store: MemoryStore, path: str, data: bytes) -> None:
        tree = tree_of(store, {path: data, f"machines/{ANN}/global/CLAUDE.md": b"x"})
        knowledge, refusals = read_knowledge(store, tree)
        assert [refusal.where for refusal in refusals] == [path]
        assert knowledge == Knowledge(
            {ANN: MachineKnowledge(documents={GLOBAL: documents(store, {CLAUDE: "x"})})}
        )

    @pytest.mark.parametrize("data", [b"", b"{}", b"[", b"null"])
    def test_a_log_that_is_none_is_ignored(self, store: MemoryStore, data: bytes) -> None:
        assert list(reasons(store, tree_of(store, {LOG: data}))) == [LOG]

    @pytest.mark.parametrize("path", [f"machines/{ANN}/machine.json", RECORDS])
    def test_a_newer_schema_is_left_alone(self, store: MemoryStore, path: str) -> None:
        with pytest.raises(NewerSchemaError):
            read_knowledge(store, tree_of(store, {path: b'{"schema": 2}'}))

    def test_what_a_machine_did_not_mean_is_dropped_and_the_rest_counts(self, store: MemoryStore) -> None:
        oid = store.write_blob(b"x")
        data = document(
            name="desk",
            later=1,
            applied={
                "global": {"CLAUDE.md": oid, "../x": oid, "settings.json": "nothing"},
                "projects/../x": {"CLAUDE.md": oid},
                PROJ: [],
            },
            revision=-1,
        )
        path = f"machines/{ANN}/machine.json"
        tree = tree_of(store, {path: data})
        known = read_knowledge(store, tree)[0].machines[ANN]
        assert known == MachineKnowledge("desk", applied={GLOBAL: {CLAUDE: oid}}, other={"later": 1})
        assert reasons(store, tree)[path] == (
            "not all of it can be read: '../x' names no document, and 4 more like that"
        )

    @pytest.mark.parametrize(
        "change",
        [
            {"at": -1},
            {"at": 1.5},
            {"at": True},
            {"at": 1 << 60},
            {"at": None},
            {"machine": "nobody"},
            {"machine": 1},
            {"provider": []},
            {"outcome": "guessed"},
            {"usd": -1},
            {"usd": "1"},
            {"usd": 1e300},
            {"marks": "x"},
            {"marks": [1]},
            {"model": {}},
        ],
        ids=str,
    )
    def test_a_malformed_synthesis_is_none(self, store: MemoryStore, change: dict[str, Json]) -> None:
        good: dict[str, Json] = {"at": 1, "machine": ANN, "provider": "none", "outcome": "copied"}
        tree = tree_of(
            store, {RECORDS: document(scopes={"global": {"revision": 4, "written": good | change}})}
        )
        assert read_knowledge(store, tree)[0].records == {GLOBAL: ScopeRecord(revision=4)}
        assert list(reasons(store, tree)) == [RECORDS]

    def test_what_a_document_was_before_is_sifted(self, store: MemoryStore) -> None:
        oid = store.write_blob(b"x")
        former: Json = {"CLAUDE.md": [oid, oid], "x": [oid], "settings.json": [oid, 1]}
        tree = tree_of(store, {RECORDS: document(scopes={"global": {"former": former}})})
        knowledge, refusals = read_knowledge(store, tree)
        assert knowledge.records == {GLOBAL: ScopeRecord(former={CLAUDE: (oid, oid)})}
        assert "and 1 more" in refusals[0].reason

    def test_what_goes_into_a_synthesis_is_sifted(self, store: MemoryStore) -> None:
        oid = store.write_blob(b"x")
        written: dict[str, Json] = {
            "at": 1,
            "machine": ANN,
            "provider": "none",
            "outcome": "copied",
            "inputs": {ANN: {"CLAUDE.md": oid, "x": oid}, "nobody": {"CLAUDE.md": oid}, BOB: 7},
            "applied": {ANN: {"CLAUDE.md": oid}, CYD: {"CLAUDE.md": oid}},
        }
        scopes: Json = {"global": {"written": written}, "x": {"written": written}, PROJ: 5}
        tree = tree_of(store, {RECORDS: document(scopes=scopes)})
        knowledge, refusals = read_knowledge(store, tree)
        assert knowledge.records == {
            GLOBAL: ScopeRecord(Synthesis(1, ANN, "none", "copied", {ANN: {CLAUDE: Input(oid, oid)}}))
        }
        assert len(refusals) == 1

    def test_records_out_of_all_proportion_are_ignored(
        self, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(knowledge_tree, "MAX_RECORDS", 10)
        tree = tree_of(store, {RECORDS: document(scopes={}, other="x")})
        assert list(reasons(store, tree)) == [RECORDS]

    def test_of_too_many_records_the_latest_are_kept(
        self, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        oid = store.write_blob(b"x")
        records = {
            project_scope(ProjectId(f"p{at}")): ScopeRecord(
                Synthesis(at % 50, ANN, "none", "copied", {ANN: {CLAUDE: Input(oid)}})
            )
            for at in range(100)
        }
        monkeypatch.setattr(knowledge_files, "MAX_RECORDS", 20_000)
        knowledge, refusals = read_knowledge(store, write_knowledge(store, Knowledge(records=records)))
        assert refusals == []
        ages = [record.written.at for record in knowledge.records.values() if record.written]
        assert 20 < len(ages) < 80
        assert set(ages) == set(range(50 - len(set(ages)), 50))
        assert write_knowledge(store, knowledge) == write_knowledge(store, Knowledge(records=records))

    def test_entries_of_the_log_that_are_none_are_left_out(self, store: MemoryStore) -> None:
        good: dict[str, Json] = {"at": 5, "machine": ANN, "scope": "global", "outcome": "later", "new": [1]}
        long = {**good, "text": "x" * MAX_ENTRY}
        bad: list[Json] = [7, {}, {**good, "scope": "x"}, {**good, "at": "5"}, long]
        tree = tree_of(store, {LOG: json.dumps([good, *bad]).encode()})
        knowledge, refusals = read_knowledge(store, tree)
        assert knowledge.log == (LogEntry(5, ANN, GLOBAL, "later", "", other={"new": [1]}),)
        assert refusals[0].reason.endswith(", and 4 more like that")

    def test_the_log_has_a_line_for_each_entry_and_keeps_the_newest(self, store: MemoryStore) -> None:
        log = tuple(LogEntry(at, ANN, GLOBAL, "copied", "none") for at in range(MAX_LOG + 5))
        tree = write_knowledge(store, Knowledge(log=log))
        assert [entry.at for entry in read_knowledge(store, tree)[0].log] == list(range(5, MAX_LOG + 5))
        (meta,) = store.read_tree(tree)
        (file,) = store.read_tree(meta.oid)
        lines = store.read_blob(file.oid).splitlines()
        assert len(lines) == MAX_LOG + 2
        assert json.loads(store.read_blob(file.oid))[0]["at"] == 5


Change = Callable[[MemoryStore, Knowledge], Knowledge]


def snapshot(machine: str, text: str) -> Change:
    def change(store: MemoryStore, known: Knowledge) -> Knowledge:
        fresh = build(store, {"machines": {machine: {"global": {"CLAUDE.md": text}}}})
        return replace(known, machines={**known.machines, **fresh.machines})

    return change


def renamed(name: str) -> Change:
    return lambda _, known: replace(
        known, machines={**known.machines, ANN: replace(known.machines[ANN], name=name)}
    )


def synthesized(text: str, at: int) -> Change:
    return lambda store, known: with_synthesis(
        known, GLOBAL, documents(store, {"CLAUDE.md": text}), synthesis(known, at=at)
    )


def rejected(at: int) -> Change:
    return lambda _, known: with_rejection(known, GLOBAL, Rejection(at, BOB, "claude", "digest", ("c",)))


def retired(machine: str) -> Change:
    return lambda _, known: replace(
        known, machines={name: one for name, one in known.machines.items() if name != machine}
    )


class TestMerging:
    def go(self, store: MemoryStore, known: Knowledge, *changes: Change) -> Knowledge:
        """What commits of these changes one after the other come to."""
        for change in changes:
            known = with_revisions(change(store, known), known)
        return known

    def merge(
        self, store: MemoryStore, one: Knowledge, other: Knowledge, base: Knowledge | None
    ) -> Knowledge:
        """Merges both ways round, and once more with each side, and checks that it makes no difference."""
        ours, theirs = write_knowledge(store, one), write_knowledge(store, other)
        former = None if base is None else write_knowledge(store, base)
        merged = merge_knowledge(store, ours, theirs, former)
        assert merge_knowledge(store, theirs, ours, former) == merged
        for side in (ours, theirs):
            assert merge_knowledge(store, merged, side, side) == merged
        knowledge, refusals = read_knowledge(store, merged)
        assert refusals == []
        return knowledge

    def said(self, store: MemoryStore, known: Knowledge) -> dict[str, str]:
        return {
            machine: store.read_blob(one.documents[GLOBAL][CLAUDE]).decode()
            for machine, one in known.machines.items()
        }

    def test_each_side_brings_its_own_machine(self, store: MemoryStore) -> None:
        base = self.go(store, Knowledge(), snapshot(ANN, "a1"), snapshot(BOB, "b1"))
        ours = self.go(store, base, snapshot(ANN, "a2"))
        theirs = self.go(store, base, snapshot(BOB, "b2"), snapshot(CYD, "c1"))
        merged = self.merge(store, ours, theirs, base)
        assert self.said(store, merged) == {ANN: "a2", BOB: "b2", CYD: "c1"}

    def test_without_an_ancestor_both_are_there(self, store: MemoryStore) -> None:
        merged = self.merge(
            store,
            self.go(store, Knowledge(), snapshot(ANN, "a1")),
            self.go(store, Knowledge(), snapshot(BOB, "b1")),
            None,
        )
        assert self.said(store, merged) == {ANN: "a1", BOB: "b1"}

    @pytest.mark.parametrize("texts_of_ann", [("x", "y", "z"), ("z", "y", "x"), ("y", "x", "z")])
    def test_what_a_machine_wrote_last_stands_whatever_the_ancestor_was(
        self, store: MemoryStore, texts_of_ann: tuple[str, str, str]
    ) -> None:
        first, second, third = texts_of_ann
        base = self.go(store, Knowledge(), snapshot(ANN, first))
        ours = self.go(store, base, snapshot(ANN, second))
        theirs = self.go(store, ours, snapshot(ANN, third))
        for ancestor in (base, ours, None):
            assert self.said(store, self.merge(store, ours, theirs, ancestor)) == {ANN: third}

    def test_the_newer_of_two_versions_is_told_by_nothing_else(self, store: MemoryStore) -> None:
        base = self.go(store, Knowledge(), snapshot(ANN, "a1"), *map(renamed, "abcdefg"))
        ours = self.go(store, base, renamed("z"))
        assert ours.machines[ANN].revision == 9
        theirs = self.go(store, ours, renamed("a"))
        assert self.merge(store, ours, theirs, base).machines[ANN].name == "a"

    def test_a_machine_that_was_cloned_ends_as_one(self, store: MemoryStore) -> None:
        base = self.go(store, Knowledge(), snapshot(ANN, "a1"))
        ours, theirs = (self.go(store, base, snapshot(ANN, text)) for text in ("left", "right"))
        assert self.said(store, self.merge(store, ours, theirs, base))[ANN] in ("left", "right")

    def test_a_machine_that_retired_is_gone_unless_it_went_on(self, store: MemoryStore) -> None:
        base = self.go(store, Knowledge(), snapshot(ANN, "a1"), snapshot(BOB, "b1"))
        without = self.go(store, base, retired(BOB))
        assert self.said(
            store, self.merge(store, without, self.go(store, base, snapshot(ANN, "a2")), base)
        ) == {ANN: "a2"}
        went_on = self.go(store, base, snapshot(BOB, "b2"))
        assert self.said(store, self.merge(store, without, went_on, base)) == {ANN: "a1", BOB: "b2"}

    def test_of_two_syntheses_the_later_stands_with_its_record(self, store: MemoryStore) -> None:
        base = self.go(store, Knowledge(), snapshot(ANN, "a1"), snapshot(BOB, "b1"))
        early, late = (self.go(store, base, synthesized(f"c{at}", at)) for at in (10, 20))
        merged = self.merge(store, early, late, base)
        assert texts(store, merged.consolidated[GLOBAL]) == {"CLAUDE.md": "c20"}
        assert merged.records[GLOBAL] == late.records[GLOBAL]
        assert [entry.at for entry in merged.log] == [10, 20]

    def test_a_synthesis_on_top_of_another_stands_whatever_clocks_say(self, store: MemoryStore) -> None:
        base = self.go(store, Knowledge(), snapshot(ANN, "a1"))
        early = self.go(store, base, synthesized("c1", 1_000))
        late = self.go(store, early, synthesized("c2", 3))
        for ancestor in (base, early, None):
            merged = self.merge(store, early, late, ancestor)
            assert texts(store, merged.consolidated[GLOBAL]) == {"CLAUDE.md": "c2"}

    def test_a_synthesis_stands_against_a_rejection(self, store: MemoryStore) -> None:
        base = self.go(store, Knowledge(), snapshot(ANN, "a1"), synthesized("c1", 5))
        refused = self.go(store, base, rejected(90), rejected(91), rejected(92))
        made = self.go(store, base, synthesized("c2", 80))
        for ancestor in (base, None):
            merged = self.merge(store, refused, made, ancestor)
            assert merged.records[GLOBAL] == made.records[GLOBAL]
            assert texts(store, merged.consolidated[GLOBAL]) == {"CLAUDE.md": "c2"}
            assert {entry.outcome for entry in merged.log} == {"merged", "rejected"}
        alone = self.merge(store, refused, self.go(store, base, snapshot(ANN, "a2")), base)
        assert alone.records[GLOBAL] == refused.records[GLOBAL]

    def test_what_a_newer_version_wrote_is_carried_along(self, store: MemoryStore) -> None:
        base = whole(store)
        ours = self.go(store, base, snapshot(CYD, "c1"))
        newer = TreeEntry("later", MODE_TREE, tree_of(store, {"x": b"newer"}))
        theirs = replace(
            base,
            others=(base.others[0], newer),
            others_meta=(*base.others_meta, TreeEntry("more.json", MODE_BLOB, store.write_blob(b"7"))),
            other={"newer": 2, "more": 1},
        )
        merged = self.merge(store, ours, theirs, base)
        assert merged.others == theirs.others
        assert merged.others_meta == theirs.others_meta
        assert set(merged.other) == {"newer", "more"}
        assert merged.machines[ANN].other == base.machines[ANN].other

    def test_what_was_refused_does_not_survive_a_merge(self, store: MemoryStore) -> None:
        hostile = tree_of(
            store, {f"machines/{ANN}/global/evil.sh": b"x", "consolidated/global/CLAUDE.md": b"y"}
        )
        other = write_knowledge(store, self.go(store, Knowledge(), snapshot(BOB, "b1")))
        merged = merge_knowledge(store, hostile, other, None)
        assert not [path for path in paths(store, merged) if "evil" in path]
        assert "consolidated/global/CLAUDE.md" in paths(store, merged)

    def test_a_newer_side_is_left_alone(self, store: MemoryStore) -> None:
        newer = tree_of(store, {RECORDS: b'{"schema": 2}'})
        with pytest.raises(NewerSchemaError):
            merge_knowledge(store, newer, EMPTY_TREE, None)

    def test_logs_become_one(self) -> None:
        entries = [LogEntry(at, ANN, GLOBAL, "copied", "none", usd=0) for at in range(4)]
        assert merge_logs(entries[2:], entries[:3], entries) == tuple(entries)
        assert merge_logs([replace(entries[0], usd=0.0)], [entries[0]]) == (entries[0],)


class TestRevisions:
    def test_only_what_changed_has_a_new_one(self, store: MemoryStore) -> None:
        base = with_revisions(whole(store), whole(store))
        assert base == whole(store)
        ann = replace(base.machines[ANN], name="other", revision=0)
        scope = {PROJ: documents(store, {CLAUDE: "new"})}
        changed = replace(
            base,
            machines={**base.machines, ANN: ann},
            consolidated={**base.consolidated, **scope},
        )
        found = with_revisions(changed, base)
        assert found.machines[ANN].revision == base.machines[ANN].revision + 1
        assert found.machines[BOB] == base.machines[BOB]
        assert found.records[PROJ].revision == base.records[PROJ].revision + 1
        assert found.records[GLOBAL] == base.records[GLOBAL]

    def test_whoever_says_nothing_new_says_so_whatever_revision_it_names(self, store: MemoryStore) -> None:
        base = whole(store)
        ann = replace(base.machines[ANN], revision=0)
        assert with_revisions(replace(base, machines={**base.machines, ANN: ann}), base) == base

    def test_the_first_of_a_machine_is_one(self, store: MemoryStore) -> None:
        fresh = Knowledge(
            machines={ANN: MachineKnowledge()}, consolidated={GLOBAL: documents(store, {CLAUDE: "x"})}
        )
        found = with_revisions(fresh, Knowledge())
        assert found.machines[ANN].revision == found.records[GLOBAL].revision == 1
