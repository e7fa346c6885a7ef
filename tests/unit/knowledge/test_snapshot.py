"""What of this machine's documents is committed, and what a look costs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from convergenced.errors import NewerSchemaError, StoreError
from convergenced.knowledge.branch import KNOWLEDGE_REF, commit_knowledge
from convergenced.knowledge.snapshot import Snapshots, describe_commit
from convergenced.merge.contributions import contributions
from convergenced.merge.knowledge import (
    GLOBAL,
    MAX_DOCUMENT_BYTES,
    SETTINGS,
    DocumentPath,
    Knowledge,
    MachineKnowledge,
    Scope,
)
from convergenced.model import Anchors, LocalPath, Snapshot
from convergenced.ports import Files
from tests.unit.knowledge.machines import APP, CLAUDE, NESTED, KnowingMachine

SECRET = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
NOTE = DocumentPath("memory/build.md")


class CountedFiles:
    """Real files; tells what was read, and lets something happen at a reading."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.reads: list[str] = []
        self.stats = 0
        self.at_read: Callable[[str], None] = lambda _path: None
        self.list = files.list
        self.replace = files.replace
        self.remove = files.remove

    def stat(self, path: LocalPath) -> Snapshot | None:
        self.stats += 1
        return self._files.stat(path)

    def read(self, path: LocalPath, offset: int, length: int) -> bytes:
        self.reads.append(path)
        data = self._files.read(path, offset, length)
        self.at_read(path)
        return data


def counted(machine: KnowingMachine) -> CountedFiles:
    files = CountedFiles(machine.files)
    machine.files = files
    return files


def message(machine: KnowingMachine) -> str:
    assert machine.tip is not None
    return machine.store.read_commit(machine.tip).message.rstrip()


def test_documents_are_committed_in_canonical_form(ann: KnowingMachine) -> None:
    (ann.root / "CLAUDE.md").write_text(f"build in {ann.root}/out, tools in {ann.home}/bin\n")
    (ann.config / "CLAUDE.md").write_text(f"notes in {ann.root}\n")
    (ann.config / "settings.json").write_text('{"theme": "dark", "apiKeyHelper": "/x"}')
    ann.memory.mkdir(parents=True)
    (ann.memory / "build.md").write_bytes(b"\xff no text\n")
    report = ann.take()
    assert report.commit == ann.tip
    assert report.documents == (
        "global/CLAUDE.md",
        "global/settings.json",
        "projects/app/CLAUDE.md",
        "projects/app/memory/build.md",
    )
    assert ann.shared() == b"build in {{CC_PROJECT_ROOT}}/out, tools in {{CC_HOME}}/bin\n"
    assert ann.shared(CLAUDE, GLOBAL) == b"notes in {{CC_HOME}}/src/app\n"
    assert ann.shared(NOTE) == b"\xff no text\n"
    assert json.loads(ann.shared(SETTINGS, GLOBAL) or b"") == {"theme": "dark"}
    assert report.left_out == {"global/settings.json": ("apiKeyHelper",)}
    assert ann.mine.name == "ann"
    assert message(ann) == "knowledge: global CLAUDE.md, settings.json; app CLAUDE.md, 1 note"


def test_an_empty_file_is_a_document_and_none_is_none(ann: KnowingMachine) -> None:
    assert ann.take().commit is None
    assert ann.tip is None
    (ann.root / "CLAUDE.md").write_bytes(b"")
    assert ann.take().documents == ("projects/app/CLAUDE.md",)
    assert ann.shared() == b""


def test_nothing_is_read_while_nothing_changed(ann: KnowingMachine) -> None:
    for path in (ann.root / "CLAUDE.md", ann.config / "CLAUDE.md"):
        path.write_text("x")
    files = counted(ann)
    ann.take()
    assert len(files.reads) == 2
    places = ann.look()[0]
    before, files.stats = list(files.reads), 0
    writes, reads = ann.store.writes, ann.store.reads
    report = ann.snapshots.take(files, places)
    assert (report.commit, report.documents) == (None, ())
    assert (files.reads, files.stats) == (before, len(places))
    assert (ann.store.writes, ann.store.reads) == (writes, reads)
    (ann.root / "CLAUDE.md").write_text("yy")
    assert ann.take().documents == ("projects/app/CLAUDE.md",)
    assert files.reads[2:] == [str(ann.root / "CLAUDE.md")]


def test_a_look_at_many_projects_is_cheap(ann: KnowingMachine, tmp_path: Path) -> None:
    for number in range(200):
        root = tmp_path / "code" / f"project-{number}"
        (root / ".claude").mkdir(parents=True)
        (root / "CLAUDE.md").write_text(f"{number}")
        (root / ".claude" / "CLAUDE.md").write_text(f"{number}")
        ann.replicas.append(ann.replica(f"project-{number}", root))
    files = counted(ann)
    ann.files = files = CountedFiles(ann.own_files())
    ann.take()
    places = ann.look()[0]
    ann.snapshots.take(files, places)
    files.reads.clear()
    files.stats = 0
    begin = time.process_time()
    ann.snapshots.take(files, places)
    print(f"a look at {len(places)} places: {(time.process_time() - begin) * 1e3:.1f} ms")
    assert files.reads == []
    assert files.stats == len(places) == 404


def test_what_changed_just_now_is_read_once_more(ann: KnowingMachine) -> None:
    path = ann.root / "CLAUDE.md"
    path.write_text("one")
    moment = int(ann.clock.now() * 1e9)
    os.utime(path, ns=(moment, moment))
    ann.take()
    path.write_text("two")  # within the same tick of the file system's clock
    os.utime(path, ns=(moment, moment))
    assert ann.take().documents == ("projects/app/CLAUDE.md",)
    assert ann.shared() == b"two"


def test_another_process_that_looks_first_finds_nothing_new(ann: KnowingMachine) -> None:
    (ann.root / "CLAUDE.md").write_text("x")
    first = ann.take().commit
    ann.snapshots = type(ann.snapshots)(ann.parts)
    assert ann.take().commit is None
    assert ann.tip == first


def test_a_document_that_goes_leaves_the_folder_and_is_remembered_as_applied(ann: KnowingMachine) -> None:
    (ann.root / "CLAUDE.md").write_text("x")
    ann.take()
    ann.consolidate(b"x")
    ann.take()
    applied = ann.mine.applied
    assert applied == {APP: {CLAUDE: ann.knowledge.consolidated[APP][CLAUDE]}}
    (ann.root / "CLAUDE.md").unlink()
    report = ann.take()
    assert (report.documents, report.gone) == ((), ("projects/app/CLAUDE.md",))
    assert message(ann) == "knowledge: without app CLAUDE.md"
    assert ann.shared() is None
    assert ann.mine.applied == applied
    assert ann.knowledge.consolidated[APP]


def test_what_is_applied_is_told_without_reading_anything(ann: KnowingMachine) -> None:
    (ann.root / "CLAUDE.md").write_text("x")
    files = counted(ann)
    ann.take()
    files.reads.clear()
    ann.consolidate(b"x")
    report = ann.take()
    assert report.commit == ann.tip
    assert report.documents == ()
    assert message(ann) == "knowledge: what is applied here"
    assert ann.mine.applied[APP][CLAUDE] == ann.knowledge.consolidated[APP][CLAUDE]
    assert files.reads == []
    (ann.root / "CLAUDE.md").write_text("edited")
    ann.take()
    assert ann.mine.applied[APP][CLAUDE] == ann.knowledge.consolidated[APP][CLAUDE]


def test_a_file_that_holds_what_a_canonical_document_looks_like_here_is_that_document(
    ann: KnowingMachine,
) -> None:
    """Text that names another machine's folder, which is this machine's own, keeps its spelling."""
    elsewhere = f"on the server it is {ann.home}/app, here {{{{CC_HOME}}}}/app\n".encode()
    (ann.root / "CLAUDE.md").write_bytes(elsewhere.replace(b"{{CC_HOME}}", str(ann.home).encode()))
    ann.consolidate(elsewhere)
    ann.take()
    assert ann.shared() == elsewhere
    assert ann.mine.applied[APP][CLAUDE] == ann.knowledge.consolidated[APP][CLAUDE]
    ann.consolidate(b"something else")
    assert ann.take().commit is None
    assert ann.shared() == elsewhere
    with (ann.root / "CLAUDE.md").open("ab") as file:
        file.write(b"more\n")
    ann.take()
    assert ann.shared() == b"on the server it is {{CC_HOME}}/app, here {{CC_HOME}}/app\nmore\n"


def test_other_machines_folders_stay(ann: KnowingMachine, bob: KnowingMachine) -> None:
    (ann.root / "CLAUDE.md").write_text("of ann")
    (bob.root / "CLAUDE.md").write_text("of bob")
    ann.take()
    bob.take()
    (ann.root / "CLAUDE.md").write_text("of ann again")
    ann.take()
    assert (ann.shared(), bob.shared()) == (b"of ann again", b"of bob")


def test_what_cannot_be_read_is_set_aside_alone_and_stays_as_it_was(ann: KnowingMachine) -> None:
    for path in (ann.root / "CLAUDE.md", ann.config / "CLAUDE.md"):
        path.write_text("before")
    (ann.config / "settings.json").write_text('{"theme": "dark"}')
    ann.take()
    (ann.root / "CLAUDE.md").write_bytes(b"x" * (MAX_DOCUMENT_BYTES + 1))
    (ann.config / "settings.json").write_text('{"theme": ')
    (ann.config / "CLAUDE.md").write_text("after")
    report = ann.take()
    assert report.documents == ("global/CLAUDE.md",)
    assert {one.where for one in report.refusals} == {"projects/app/CLAUDE.md", "global/settings.json"}
    assert all(one.reason and one.remedy for one in report.refusals)
    assert ann.shared() == b"before"
    assert json.loads(ann.shared(SETTINGS, GLOBAL) or b"") == {"theme": "dark"}
    again = ann.take()
    assert (again.commit, again.refusals) == (None, report.refusals)
    (ann.root / "CLAUDE.md").write_text("short")
    assert ann.take().documents == ("projects/app/CLAUDE.md",)


def test_what_other_machines_could_not_give_back_is_set_aside(ann: KnowingMachine) -> None:
    path = ann.root / "CLAUDE.md"
    path.write_bytes(rb"C:\Users\ann/src and {{CC_HOME}} \{{CC_HOME}}")
    places, _ = ann.look()
    anchors = Anchors("windows", "", "", "", r"C:\Users\ann")
    odd = [
        replace(place, rewriter=type(place.rewriter)(anchors)) if place.local == str(path) else place
        for place in places
    ]
    report = ann.snapshots.take(ann.files, odd)
    assert "could not give back" in report.refusals[0].reason
    assert ann.shared() is None


def test_a_file_that_is_being_written_is_looked_at_again(ann: KnowingMachine) -> None:
    path = ann.root / "CLAUDE.md"
    path.write_text("before")
    ann.take()
    files = counted(ann)

    def more(_path: str) -> None:
        with path.open("a") as file:
            file.write("more")

    path.write_text("now")
    files.at_read = more
    report = ann.take()
    assert report.retry
    assert (report.commit, report.refusals) == (None, ())
    assert ann.shared() == b"before"
    files.at_read = lambda _path: None
    report = ann.take()
    assert not report.retry
    assert ann.shared() == b"nowmore"


def test_a_project_that_is_not_here_now_stays_as_it_was(ann: KnowingMachine) -> None:
    (ann.root / "CLAUDE.md").write_text("x")
    (ann.config / "CLAUDE.md").write_text("x")
    ann.take()
    ann.root.rename(ann.home / "away")
    (ann.config / "CLAUDE.md").unlink()
    report = ann.take()
    assert report.gone == ("global/CLAUDE.md",)
    assert ann.shared() == b"x"


def test_a_document_that_git_carries_now_leaves_the_folder(ann: KnowingMachine) -> None:
    (ann.root / "CLAUDE.md").write_text("x")
    ann.take()
    places = [place for place in ann.look()[0] if place.local != str(ann.root / "CLAUDE.md")]
    assert ann.snapshots.take(ann.files, places).gone == ("projects/app/CLAUDE.md",)


class TestSecrets:
    def test_without_a_policy_nothing_is_searched(self, ann: KnowingMachine) -> None:
        (ann.root / "CLAUDE.md").write_text(f"token {SECRET}\n")
        report = ann.take()
        assert report.secrets == ()
        assert ann.shared() == f"token {SECRET}\n".encode()

    def test_a_warning_shares_and_tells(self, ann: KnowingMachine) -> None:
        ann.screen.policy = "warn"
        (ann.root / "CLAUDE.md").write_text(f"token {SECRET}\n")
        report = ann.take()
        assert len(report.secrets) == 1
        assert report.secrets[0].startswith("projects/app/CLAUDE.md holds an apparent secret: GitHub token ")
        assert SECRET not in report.secrets[0]
        assert report.refusals == ()
        assert ann.shared() is not None
        assert ann.take().secrets == report.secrets

    def test_a_block_keeps_the_former_version_until_it_is_allowed(self, ann: KnowingMachine) -> None:
        ann.screen.policy = "block"
        (ann.root / "CLAUDE.md").write_text("before\n")
        ann.take()
        (ann.root / "CLAUDE.md").write_text(f"token {SECRET}\n")
        (ann.root / ".claude").mkdir()
        (ann.root / ".claude" / "CLAUDE.md").write_text(f"token {SECRET}\n")
        report = ann.take()
        assert [one.where for one in report.refusals] == [
            "projects/app/CLAUDE.md",
            "projects/app/.claude/CLAUDE.md",
        ]
        assert SECRET not in str(report)
        assert ann.shared() == b"before\n"
        assert ann.shared(NESTED) is None
        assert not any(SECRET.encode() in data for _, data in ann.store.objects.values())
        fingerprint = report.refusals[0].remedy.split()[-1]
        ann.parts.state.allow([fingerprint], 1.0)
        report = ann.take()
        assert (report.refusals, report.secrets) == ((), ())
        assert ann.shared() == f"token {SECRET}\n".encode()
        ann.parts.state.disallow([fingerprint])
        report = ann.take()
        assert len(report.refusals) == 2
        assert report.commit is None

    def test_another_policy_is_in_force_at_once(self, ann: KnowingMachine) -> None:
        ann.screen.policy = "block"
        (ann.root / "CLAUDE.md").write_text(f"token {SECRET}\n")
        assert ann.take().commit is None
        ann.screen.policy = "warn"
        report = ann.take()
        assert report.documents == ("projects/app/CLAUDE.md",)
        assert len(report.secrets) == 1
        ann.screen.policy = "off"
        assert ann.take().secrets == ()

    def test_what_of_the_settings_stays_here_is_not_searched(self, ann: KnowingMachine) -> None:
        ann.screen.policy = "block"
        (ann.config / "settings.json").write_text(json.dumps({"env": {"GH_TOKEN": SECRET}, "theme": "dark"}))
        report = ann.take()
        assert report.refusals == ()
        assert SECRET.encode() not in (ann.shared(SETTINGS, GLOBAL) or b"")


def test_a_store_that_fails_is_tried_from_the_beginning(
    ann: KnowingMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ann.root / "CLAUDE.md").write_text("x")

    def fails(*_words: object) -> None:
        raise StoreError("no")

    with monkeypatch.context() as patch:
        patch.setattr(ann.store, "swap", fails)
        with pytest.raises(StoreError):
            ann.take()
    ann.store.objects.clear()  # what no ref names may be gone by then
    assert ann.take().documents == ("projects/app/CLAUDE.md",)
    assert ann.shared() == b"x"


def test_a_branch_that_moves_meanwhile_keeps_both(
    ann: KnowingMachine, bob: KnowingMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ann.root / "CLAUDE.md").write_text("of ann")
    moves: list[str] = []
    swap = ann.store.swap

    def late(ref: str, old: object, new: object) -> None:
        if not moves:
            moves.append(ref)
            commit_knowledge(
                bob.store,
                lambda knowledge: replace(
                    knowledge, machines={bob.machine.id: MachineKnowledge(name="bob"), **knowledge.machines}
                ),
                bob.machine.author,
                1,
                "bob's",
            )
        swap(ref, old, new)  # type: ignore[arg-type]

    monkeypatch.setattr(ann.store, "swap", late)
    ann.take()
    assert moves == [KNOWLEDGE_REF]
    assert ann.shared() == b"of ann"


def test_what_a_machine_lacks_that_came_out_of_a_backup_was_not_removed(ann: KnowingMachine) -> None:
    path = ann.root / "CLAUDE.md"
    path.write_text("old\n")
    ann.take()
    state = ann.parts.state.said(KNOWLEDGE_REF)
    assert state is not None
    assert state == ann.tip
    path.write_text("old\nnew\n")
    ann.take()
    ann.consolidate(b"old\nnew\n")
    ann.take()
    path.write_text("old\n")
    ann.parts.state.note_said(KNOWLEDGE_REF, state)
    ann.snapshots = Snapshots(ann.parts)
    ann.take()
    (said,) = contributions(ann.knowledge, APP)
    assert (ann.shared(), said.base) == (b"old\n", None)
    assert ann.parts.state.said(KNOWLEDGE_REF) == ann.tip
    path.write_text("old\nnewer\n")
    ann.take()
    (said,) = contributions(ann.knowledge, APP)
    assert (ann.shared(), said.base) == (b"old\nnewer\n", None)
    # Once it is in step again, what goes is removed.
    ann.consolidate(b"old\nnew\nnewer\n")
    ann.apply([change.id for change in ann.plan().changes])
    ann.take()
    path.write_text("old\n")
    ann.take()
    (said,) = contributions(ann.knowledge, APP)
    assert said.base == ann.knowledge.consolidated[APP][CLAUDE]


def test_what_it_had_shared_last_is_taken_in_before_the_older_state(ann: KnowingMachine) -> None:
    path = ann.root / "CLAUDE.md"
    path.write_text("old\n")
    ann.take()
    state = ann.parts.state.said(KNOWLEDGE_REF)
    assert state is not None
    path.write_text("old\nnew\n")
    ann.take()
    path.write_text("old\n")
    ann.parts.state.note_said(KNOWLEDGE_REF, state)
    ann.snapshots = Snapshots(ann.parts)
    ann.take()
    assert ann.shared() == b"old\nnew\n"
    assert ann.standing().state == "waits"
    for number in range(9):
        (ann.config / "CLAUDE.md").write_text(str(number))
        report = ann.take()
        assert (len(report.documents), report.refusals) == (1, ()), "nobody else did this"
    ann.consolidate(b"old\nnew\n")
    assert ann.standing().state == "edited"
    assert ann.shared() == b"old\n"


def test_machines_with_one_id_come_to_rest(ann: KnowingMachine, tmp_path: Path) -> None:
    twin = KnowingMachine(tmp_path / "ann twin", ann.store)
    twin.snapshots = Snapshots(replace(twin.parts, machine=replace(twin.machine, id=ann.machine.id)))
    (ann.root / "CLAUDE.md").write_text("ann\n")
    (twin.root / "CLAUDE.md").write_text("twin\n")
    tips = []
    for _ in range(10):
        refused = [report.refusals for report in (ann.take(), twin.take())]
        tips.append(ann.tip)
    assert tips[-1] == tips[-4]
    told = [one.where for refusals in refused for one in refusals]
    assert set(told) == {"the id of this machine"}


def test_a_newer_branch_is_left_alone(ann: KnowingMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    def newer(*_words: object) -> tuple[Knowledge, list[object]]:
        raise NewerSchemaError("newer")

    monkeypatch.setattr("convergenced.knowledge.snapshot.knowledge_at", newer)
    (ann.root / "CLAUDE.md").write_text("x")
    with pytest.raises(NewerSchemaError):
        ann.take()
    assert ann.tip is None


def test_the_subject_of_a_commit_is_short() -> None:
    many = [(Scope(f"projects/p{number}"), CLAUDE) for number in range(9)]
    assert describe_commit(many, []).endswith("; and 3 more")
    assert describe_commit([], [(GLOBAL, SETTINGS)]) == "knowledge: without global settings.json"
    notes = [(APP, DocumentPath(f"memory/{name}.md")) for name in "ab"]
    assert describe_commit(notes, notes[:1]) == "knowledge: app 2 notes; without app 1 note"
