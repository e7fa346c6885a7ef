"""Branches: safe names, commits that mean something, merges that every machine makes alike."""

from __future__ import annotations

import pytest

from convergenced.errors import NewerSchemaError, RefMovedError, RefusedInputError
from convergenced.merge.layout import ProjectTree, SessionTree, write_project
from convergenced.merge.names import valid_project_id
from convergenced.model import EMPTY_TREE, MODE_BLOB, Author, Commit, Oid, ProjectId, TreeEntry
from convergenced.store.branch import (
    MERGER,
    MergeOutcome,
    ahead_behind,
    commit_tree,
    forks_named_in,
    local_ref,
    merge_commit,
    project_ref,
    tracking_ref,
    walk_back,
)
from tests.fakes.store import MemoryStore
from tests.transcripts import SID, keep, spoken

ANN = Author("Ann", "ann@desktop")
PROJ = ProjectId("proj")
REF = project_ref(PROJ)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def project(store: MemoryStore, *turns: bytes, **memory: bytes) -> Oid:
    return write_project(
        store,
        ProjectTree(
            roster=store.write_blob(b"[]"),
            sessions={SID: SessionTree(keep(store, turns))},
            memory={name + ".md": store.write_blob(text) for name, text in memory.items()},
        ),
    )


def commit(store: MemoryStore, tree: Oid, *parents: Oid, time: int = 1) -> Oid:
    return store.write_commit(Commit(tree, parents, ANN, time, f"at {time}"))


@pytest.mark.parametrize("good", ["proj", "a", "My.Proj_2-x", "_x", "0", "x" * 100])
def test_an_id_that_can_be_a_branch(good: str) -> None:
    assert valid_project_id(good)
    assert project_ref(ProjectId(good)) == f"refs/heads/project/{good}"


@pytest.mark.parametrize(
    "bad",
    ["", ".", "..", ".x", "-x", "a..b", "a.lock", "a.", "a/b", "a b", "é", "a\n", "x" * 101, "a~1", "@{"],
)
def test_an_id_that_cannot(bad: str) -> None:
    assert not valid_project_id(bad)
    for name in (project_ref, lambda text: tracking_ref("hub", text), lambda text: local_ref(PROJ, text)):
        with pytest.raises(RefusedInputError):
            name(ProjectId(bad))


def test_refs_of_peers_and_replicas_have_their_own_places() -> None:
    assert tracking_ref("hub", PROJ) == "refs/peers/hub/project/proj"
    assert local_ref(PROJ, "main") == "refs/convergence/local/proj/main"


class TestCommitting:
    def test_a_commit_moves_the_branch(self, store: MemoryStore) -> None:
        tip = commit_tree(store, REF, project(store), (), ANN, 5, "1 session +1 record")
        assert store.refs(REF) == {REF: tip}
        assert store.read_commit(tip).message == "1 session +1 record\n"

    def test_nothing_is_committed_that_changes_nothing(self, store: MemoryStore) -> None:
        tip = commit_tree(store, REF, project(store), (), ANN, 5, "one")
        assert commit_tree(store, REF, project(store), (tip,), ANN, 6, "two") == tip

    def test_a_branch_that_moved_meanwhile_is_left_where_it_is(self, store: MemoryStore) -> None:
        first = commit_tree(store, REF, project(store), (), ANN, 5, "one")
        second = commit_tree(store, REF, project(store, spoken("a")), (first,), ANN, 6, "two")
        with pytest.raises(RefMovedError):
            commit_tree(store, REF, project(store, spoken("b")), (first,), ANN, 7, "three")
        assert store.refs(REF) == {REF: second}


class TestMerging:
    def test_what_descends_is_taken_as_it_is(self, store: MemoryStore) -> None:
        one = commit(store, project(store))
        two = commit(store, project(store, spoken("a")), one)
        assert merge_commit(store, one, two) == merge_commit(store, two, one) == MergeOutcome(two)
        assert merge_commit(store, one, one) == MergeOutcome(one)

    def test_every_machine_makes_the_same_merge(self, store: MemoryStore) -> None:
        base = commit(store, project(store, note=b"1\n2\n3\n"))
        left = commit(store, project(store, spoken("a", 1), note=b"one\n2\n3\n"), base, time=20)
        right = commit(store, project(store, spoken("b", 2), note=b"1\n2\nthree\n"), base, time=10)
        merged = merge_commit(store, left, right)
        assert merged == merge_commit(store, right, left)
        written = store.read_commit(merged.commit)
        assert written.parents == tuple(sorted((left, right)))
        assert written.time == 20
        (fork,) = merged.forks
        assert written.message == f"merge: 1 session became two\n\nFork: {fork.session} {fork.fork}\n"
        assert forks_named_in(written) == merged.forks
        assert merge_commit(store, merged.commit, left) == MergeOutcome(merged.commit)

    def test_unrelated_histories_come_together(self, store: MemoryStore) -> None:
        left, right = commit(store, project(store, a=b"1")), commit(store, project(store, b=b"2"))
        merged = store.read_commit(merge_commit(store, left, right).commit)
        assert merged.tree == project(store, a=b"1", b=b"2")

    def test_conflicts_and_refusals_are_told(self, store: MemoryStore) -> None:
        left = commit(store, project(store, a=b"1"))
        tree = store.write_tree(
            [*store.read_tree(project(store, a=b"2")), TreeEntry("lnk", 0o120000, store.write_blob(b"/etc"))]
        )
        merged = merge_commit(store, left, commit(store, tree))
        assert merged.conflicts == ("context/memory/a.md",)
        assert [refusal.where for refusal in merged.refusals] == ["lnk"]
        assert "1 memory conflict" in store.read_commit(merged.commit).message
        assert "lnk" not in [entry.name for entry in store.read_tree(store.read_commit(merged.commit).tree)]

    def test_a_newer_side_is_left_alone(self, store: MemoryStore) -> None:
        tree = store.write_tree(
            [TreeEntry("convergence.json", MODE_BLOB, store.write_blob(b'{"schema": 2}'))]
        )
        with pytest.raises(NewerSchemaError):
            merge_commit(store, commit(store, tree), commit(store, project(store)))


class TestAheadBehind:
    def test_commits_on_each_side_are_counted(self, store: MemoryStore) -> None:
        base = commit(store, EMPTY_TREE, time=1)
        left = commit(store, EMPTY_TREE, commit(store, EMPTY_TREE, base, time=2), time=3)
        right = commit(store, EMPTY_TREE, base, time=9)
        assert ahead_behind(store, left, right) == (2, 1)
        assert ahead_behind(store, left, base) == (2, 0)
        assert ahead_behind(store, base, left) == (0, 2)
        assert ahead_behind(store, left, left) == (0, 0)

    def test_a_shared_past_is_not_walked(self, store: MemoryStore) -> None:
        base = commit(store, EMPTY_TREE)
        for time in range(2, 300):
            base = commit(store, EMPTY_TREE, base, time=time)
        left, right = commit(store, EMPTY_TREE, base, time=400), commit(store, EMPTY_TREE, base, time=500)
        store.reads = 0
        assert ahead_behind(store, left, right) == (1, 1)
        assert store.reads < 20

    def test_counting_ends(self, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("convergenced.store.branch.WALK_LIMIT", 5)
        tip = commit(store, EMPTY_TREE)
        for time in range(2, 50):
            tip = commit(store, EMPTY_TREE, tip, time=time)
        assert ahead_behind(store, tip, commit(store, EMPTY_TREE, time=99)) == (5, 1)


class TestWalkingBack:
    def test_the_newest_comes_first_and_what_is_known_does_not_come(self, store: MemoryStore) -> None:
        base = commit(store, EMPTY_TREE, time=1)
        known = commit(store, EMPTY_TREE, base, time=2)
        left = commit(store, EMPTY_TREE, known, time=5)
        right = commit(store, EMPTY_TREE, base, time=4)
        tip = commit(store, EMPTY_TREE, left, right, time=6)
        assert [oid for oid, _ in walk_back(store, tip, known)] == [tip, left, right]
        assert [oid for oid, _ in walk_back(store, tip)] == [tip, left, right, known, base]
        assert list(walk_back(store, tip, tip)) == []

    def test_what_is_known_is_not_walked(self, store: MemoryStore) -> None:
        base = commit(store, EMPTY_TREE)
        for time in range(2, 300):
            base = commit(store, EMPTY_TREE, base, time=time)
        tip = commit(store, EMPTY_TREE, base, time=400)
        store.reads = 0
        assert [oid for oid, _ in walk_back(store, tip, base)] == [tip]
        assert store.reads < 20

    def test_walking_ends(self, store: MemoryStore) -> None:
        tip = commit(store, EMPTY_TREE)
        for time in range(2, 50):
            tip = commit(store, EMPTY_TREE, tip, time=time)
        assert len(list(walk_back(store, tip, limit=5))) == 5


def test_only_merges_name_forks_and_only_by_ids_that_sessions_can_have(store: MemoryStore) -> None:
    ids = "00000000-0000-4000-8000-000000000001 00000000-0000-4000-8000-000000000002"
    tree = project(store)
    assert forks_named_in(Commit(tree, (), ANN, 1, f"merge\n\nFork: {ids}\n")) == ()
    hostile = Commit(tree, (), MERGER, 1, f"merge\n\nFork: ../x \x1b[2J\nFork: {ids}\nFork: {ids} more\n")
    assert [tuple(fork) for fork in forks_named_in(hostile)] == [tuple(ids.split())]
