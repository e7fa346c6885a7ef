"""Two projects become one, part by part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from convergenced.canon.transcript import fork_id
from convergenced.errors import NewerSchemaError, RefusedInputError
from convergenced.merge import tree as tree_module
from convergenced.merge.layout import (
    ProjectTree,
    SessionTree,
    read_folder,
    read_project,
    write_folder,
    write_project,
)
from convergenced.merge.names import beside
from convergenced.merge.roster import parse_roster
from convergenced.merge.session import write_flat
from convergenced.merge.tree import Fork, MergedProject, absorb, merge_projects
from convergenced.model import MODE_BLOB, MODE_TREE, Oid, SessionId, TreeEntry
from tests.fakes.store import MemoryStore
from tests.transcripts import SID, keep, noted, records_of, spoken

P, A, B, C = spoken("p", 1), spoken("a", 11), spoken("b", 21), spoken("c", 31)
OTHER = SessionId("7" + SID[1:])


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def merge(
    store: MemoryStore, ours: ProjectTree, theirs: ProjectTree, base: ProjectTree | None = None
) -> MergedProject:
    """Merges both ways round, and once more with each side, and checks that it makes no difference."""
    merged = merge_projects(store, ours, theirs, base)
    swapped = merge_projects(store, theirs, ours, base)
    assert write_project(store, merged.tree) == write_project(store, swapped.tree)
    assert (merged.conflicts, merged.forks) == (swapped.conflicts, swapped.forks)
    for side in (ours, theirs):
        again = merge_projects(store, merged.tree, side, side)
        assert write_project(store, again.tree) == write_project(store, merged.tree)
    return merged


def session(store: MemoryStore, *records: bytes, **files: bytes) -> SessionTree:
    folder = (
        write_folder(store, {name: store.write_blob(data) for name, data in files.items()}) if files else None
    )
    return SessionTree(keep(store, records) if records else None, None, folder)


def with_files(store: MemoryStore, files: Mapping[str, bytes]) -> ProjectTree:
    return ProjectTree(sessions={SID: session(store, P, **files)})


def files_of(store: MemoryStore, merged: MergedProject) -> dict[str, bytes]:
    files, _ = read_folder(store, merged.tree.sessions[SID].folder, "")
    return {path: store.read_blob(oid) for path, oid in files.items()}


class TestSessions:
    def test_sessions_of_both_are_there(self, store: MemoryStore) -> None:
        ours = ProjectTree(sessions={SID: session(store, P, A)})
        theirs = ProjectTree(sessions={OTHER: session(store, P)})
        assert merge(store, ours, theirs).tree.sessions == {**ours.sessions, **theirs.sessions}

    def test_a_session_is_never_deleted(self, store: MemoryStore) -> None:
        base = ProjectTree(sessions={SID: session(store, P)})
        assert merge(store, ProjectTree(), base, base).tree == base

    def test_a_divergence_becomes_two_sessions_and_the_folder_stays(self, store: MemoryStore) -> None:
        ours = ProjectTree(sessions={SID: session(store, P, A, title=b"t")})
        theirs = ProjectTree(sessions={SID: session(store, P, B)})
        merged = merge(store, ours, theirs)
        fork = fork_id(SID, B)
        assert merged.forks == (Fork(SID, fork),)
        assert merged.tree.sessions[SID] == ours.sessions[SID]
        assert merged.tree.sessions[fork].folder is None

    def test_a_fork_joins_the_fork_that_is_there(self, store: MemoryStore) -> None:
        ours = ProjectTree(sessions={SID: session(store, P, A)})
        known = merge(store, ours, ProjectTree(sessions={SID: session(store, P, B)})).tree
        merged = merge(store, known, ProjectTree(sessions={SID: session(store, P, B, C)}))
        assert merged.forks == ()
        assert len(merged.tree.sessions) == 2
        fork = merged.tree.sessions[fork_id(SID, B)].transcript
        assert fork is not None
        assert len(records_of(store, fork)) == 3

    def test_forks_are_bounded(self, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tree_module, "MAX_FORKS", 1)
        with pytest.raises(RefusedInputError, match="forks"):
            absorb(
                store, {SID: keep(store, [P, A])}, [(SID, keep(store, [P, B])), (SID, keep(store, [P, C]))]
            )

    def test_what_is_held_already_changes_nothing(self, store: MemoryStore) -> None:
        known = {SID: keep(store, [P, noted("m"), A])}
        assert absorb(store, known, [(SID, keep(store, [P, A])), (SID, known[SID])]).changed == {}

    def test_a_hostile_transcript_is_set_aside_alone(self, store: MemoryStore) -> None:
        blob = store.write_blob(b"x")
        hostile = store.write_tree(
            [TreeEntry("0000", MODE_TREE, store.write_tree([TreeEntry("zz", MODE_BLOB, blob)]))]
        )
        good = session(store, P, A)
        ours = ProjectTree(sessions={SID: good, OTHER: session(store, P)})
        theirs = ProjectTree(sessions={SID: SessionTree(hostile), OTHER: session(store, P, B)})
        merged = merge(store, ours, theirs)
        assert merged.tree.sessions == {SID: good, OTHER: session(store, P, B)}
        assert [refusal.where for refusal in merged.refusals] == [f"session {SID}"]

    def test_equal_sessions_are_not_opened(self, store: MemoryStore) -> None:
        many = {
            SessionId(f"{number:08x}{SID[8:]}"): session(store, P, A, title=b"t") for number in range(100)
        }
        ours = ProjectTree(sessions={**many, SID: session(store, P)})
        theirs = ProjectTree(sessions={**many, SID: session(store, P, A)})
        store.reads = 0
        merge_projects(store, ours, theirs, None)
        assert store.reads < 12

    @pytest.mark.parametrize("layout", ["flat", "segments"])
    def test_what_changed_is_laid_out_as_the_policy_says(self, store: MemoryStore, layout: str) -> None:
        policy = store.write_blob(json.dumps({"layout": layout}).encode())
        flat = SessionTree(flat=write_flat(store, keep(store, [P, A])))
        ours = ProjectTree(policy=policy, sessions={SID: flat})
        merged = merge(
            store, ours, replace(ours, sessions={SID: session(store, P, noted("m"))})
        ).tree.sessions[SID]
        whole = keep(store, [P, noted("m"), A])
        expected = SessionTree(flat=write_flat(store, whole)) if layout == "flat" else SessionTree(whole)
        assert merged == expected

    def test_a_flat_cluster_stays_flat(self, store: MemoryStore) -> None:
        one, other = (
            ProjectTree(sessions={SID: SessionTree(flat=write_flat(store, keep(store, records)))})
            for records in ([P, A], [P, B])
        )
        merged = merge(store, one, other).tree
        assert all(tree.flat and not tree.transcript for tree in merged.sessions.values())
        assert len(merged.sessions) == 2


class TestFolders:
    def test_files_of_both_are_there_and_deletion_does_not_travel(self, store: MemoryStore) -> None:
        base = with_files(store, {"a": b"1", "b": b"2"})
        merged = merge(store, with_files(store, {"a": b"1"}), with_files(store, {"b": b"2", "c": b"3"}), base)
        assert files_of(store, merged) == {"a": b"1", "b": b"2", "c": b"3"}

    def test_the_changed_version_wins_over_the_old_one(self, store: MemoryStore) -> None:
        base = with_files(store, {"custom-title.json": b"old"})
        merged = merge(store, base, with_files(store, {"custom-title.json": b"new"}), base)
        assert files_of(store, merged) == {"custom-title.json": b"new"}

    def test_files_that_went_apart_are_both_kept(self, store: MemoryStore) -> None:
        one, other = sorted((store.write_blob(b"one"), store.write_blob(b"two")))
        merged = merge(store, with_files(store, {"r.txt": b"one"}), with_files(store, {"r.txt": b"two"}))
        files, _ = read_folder(store, merged.tree.sessions[SID].folder, "")
        assert files == {"r.txt": one, beside("r.txt", other): other}

    def test_a_subagent_that_went_on_is_the_longer_one(self, store: MemoryStore) -> None:
        short, long = P + b"\n", P + b"\n" + A + b"\n"
        merged = merge(
            store,
            with_files(store, {"subagents/a.jsonl": short}),
            with_files(store, {"subagents/a.jsonl": long}),
        )
        assert files_of(store, merged) == {"subagents/a.jsonl": long}

    def test_a_subagent_that_went_two_ways_is_kept_twice(self, store: MemoryStore) -> None:
        one, other = (b"\n".join([P, own, b""]) for own in (A, B))
        merged = merge(
            store,
            with_files(store, {"subagents/a.jsonl": one}),
            with_files(store, {"subagents/a.jsonl": other}),
        )
        files = files_of(store, merged)
        assert files.pop("subagents/a.jsonl") == one
        assert list(files.values()) == [other]

    def test_names_that_collide_are_settled(self, store: MemoryStore) -> None:
        merged = merge(store, with_files(store, {"A.txt": b"1"}), with_files(store, {"a.txt": b"2"}))
        assert len({path.casefold() for path in files_of(store, merged)}) == 2


class TestHostileNames:
    def test_a_folder_that_looks_like_ours_hides_no_session(self, store: MemoryStore) -> None:
        ours = ProjectTree(sessions={SID: SessionTree(keep(store, [P, A]))})
        odd = store.write_tree([TreeEntry("x", MODE_BLOB, store.write_blob(b"x"))])
        root = store.write_tree([TreeEntry(name, MODE_TREE, odd) for name in ("Context", "Segments")])
        merged = merge(store, ours, read_project(store, root)[0])
        assert read_project(store, write_project(store, merged.tree))[0].sessions == ours.sessions

    def test_what_newer_versions_named_nearly_alike_stays_once(self, store: MemoryStore) -> None:
        blob = store.write_blob(b"x")
        sides = [ProjectTree(other=(TreeEntry(name, MODE_BLOB, blob),)) for name in ("Future", "future")]
        merged = merge(store, *sides)
        assert merged.tree.other == sides[1].other
        assert read_project(store, write_project(store, merged.tree))[0] == merged.tree


class TestMemory:
    def project(self, store: MemoryStore, **memory: bytes) -> ProjectTree:
        return ProjectTree(memory={name + ".md": store.write_blob(data) for name, data in memory.items()})

    def test_each_file_is_merged_on_its_own(self, store: MemoryStore) -> None:
        base = self.project(store, a=b"1\n2\n3\n", b=b"x", c=b"same")
        ours = self.project(store, a=b"one\n2\n3\n", c=b"same", d=b"new")
        theirs = self.project(store, a=b"1\n2\nthree\n", b=b"x", c=b"same")
        merged = merge(store, ours, theirs, base)
        assert {path: store.read_blob(oid) for path, oid in merged.tree.memory.items()} == {
            "a.md": b"one\n2\nthree\n",
            "c.md": b"same",
            "d.md": b"new",
        }
        assert merged.conflicts == ()

    def test_a_conflict_is_told_by_its_path(self, store: MemoryStore) -> None:
        merged = merge(store, self.project(store, a=b"1"), self.project(store, a=b"2"))
        assert merged.conflicts == ("context/memory/a.md",)

    def test_the_index_never_conflicts(self, store: MemoryStore) -> None:
        merged = merge(store, self.project(store, MEMORY=b"- 1\n"), self.project(store, MEMORY=b"- 2\n"))
        assert store.read_blob(merged.tree.memory["MEMORY.md"]) == b"- 1\n- 2\n"
        assert merged.conflicts == ()


class TestTheRest:
    def test_rosters_unite(self, store: MemoryStore) -> None:
        sides = [
            ProjectTree(roster=store.write_blob(json.dumps([{"machine_id": name}]).encode()))
            for name in ("a", "b")
        ]
        merged = merge(store, *sides).tree.roster
        assert merged is not None
        assert set(parse_roster(store.read_blob(merged)).participants) == {"a", "b"}

    def test_a_newer_roster_stops_the_merge(self, store: MemoryStore) -> None:
        newer = ProjectTree(roster=store.write_blob(b'{"schema": 9, "participants": []}'))
        with pytest.raises(NewerSchemaError):
            merge_projects(store, newer, ProjectTree(roster=store.write_blob(b"[]")), None)

    def test_cards_and_what_is_unknown_take_the_changed_version(self, store: MemoryStore) -> None:
        old, new, odd = (store.write_blob(data) for data in (b"1", b"2", b"3"))

        def project(card: Oid, extra: Oid) -> ProjectTree:
            return ProjectTree(machines={"a.json": card}, other=(TreeEntry("x", MODE_BLOB, extra),))

        merged = merge(store, project(old, new), project(new, old), project(old, old)).tree
        assert merged == project(new, new)
        assert merge(store, project(new, odd), project(odd, new)).tree == project(
            max(new, odd), max(new, odd)
        )

    def test_nothing_merges_with_nothing(self, store: MemoryStore) -> None:
        assert merge(store, ProjectTree(), ProjectTree()).tree == ProjectTree()
