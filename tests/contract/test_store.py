"""One contract for the store in memory and the store on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from convergenced.errors import MissingObjectError, RefMovedError, StoreError
from convergenced.model import EMPTY_TREE, MODE_BLOB, MODE_TREE, Author, Commit, LocalPath, Oid, TreeEntry
from convergenced.ports import Store
from convergenced.store.repo import open_store
from tests.fakes.store import MemoryStore

ANN = Author("Ann", "ann@desktop")
REF = "refs/heads/project/x"


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return MemoryStore()
    return open_store(LocalPath(str(tmp_path / "store.git")))


@pytest.fixture
def twins(tmp_path: Path) -> tuple[Store, Store]:
    return MemoryStore(), open_store(LocalPath(str(tmp_path / "twin.git")))


def commit(store: Store, text: str, *parents: Oid, time: int = 1) -> Oid:
    tree = store.write_tree([TreeEntry("a", MODE_BLOB, store.write_blob(text.encode()))])
    return store.write_commit(Commit(tree, parents, ANN, time, text))


class TestObjects:
    def test_a_blob_comes_back_byte_for_byte(self, store: Store) -> None:
        data = bytes(range(256)) * 3
        oid = store.write_blob(data)
        assert store.read_blob(oid) == data
        assert store.blob_size(oid) == len(data)

    def test_an_empty_blob_is_a_blob(self, store: Store) -> None:
        assert store.read_blob(store.write_blob(b"")) == b""

    def test_tree_entries_come_back_in_gits_order_whatever_order_they_came_in(self, store: Store) -> None:
        blob = store.write_blob(b"")
        folder = store.write_tree([TreeEntry("in", MODE_BLOB, blob)])
        entries = [
            TreeEntry("a", MODE_TREE, folder),
            TreeEntry("a.b", MODE_BLOB, blob),
            TreeEntry("a0", MODE_BLOB, blob),
        ]
        names = [entry.name for entry in store.read_tree(store.write_tree(reversed(entries)))]
        assert names == ["a.b", "a", "a0"]

    def test_names_that_are_no_text_ride_along(self, store: Store) -> None:
        entry = TreeEntry(b"\xff\xfe".decode("utf-8", "surrogateescape"), MODE_BLOB, store.write_blob(b""))
        assert store.read_tree(store.write_tree([entry])) == (entry,)

    def test_modes_are_told_as_they_stand(self, store: Store) -> None:
        oid = store.write_blob(b"x")
        entries = tuple(
            TreeEntry(f"{mode:o}", mode, oid) for mode in (0o100644, 0o100664, 0o100755, 0o120000, 0o160000)
        )
        assert store.read_tree(store.write_tree(entries)) == entries

    def test_the_empty_tree_can_be_read_without_having_been_written(self, store: Store) -> None:
        assert store.read_tree(EMPTY_TREE) == ()
        assert store.write_tree([]) == EMPTY_TREE

    @pytest.mark.parametrize("name", ["", "a/b", "a\0b"])
    def test_a_name_git_has_no_room_for_is_refused(self, store: Store, name: str) -> None:
        with pytest.raises(StoreError):
            store.write_tree([TreeEntry(name, MODE_BLOB, EMPTY_TREE)])

    def test_a_name_twice_is_refused_even_as_file_and_folder(self, store: Store) -> None:
        with pytest.raises(StoreError):
            store.write_tree([TreeEntry("a", MODE_BLOB, EMPTY_TREE), TreeEntry("a", MODE_TREE, EMPTY_TREE)])

    @pytest.mark.parametrize("read", ["read_blob", "read_tree", "read_commit", "blob_size"])
    def test_an_absent_object_is_named(self, store: Store, read: str) -> None:
        oid = Oid("12" * 20)
        with pytest.raises(MissingObjectError, match=oid):
            getattr(store, read)(oid)

    def test_an_object_of_another_kind_counts_as_absent(self, store: Store) -> None:
        blob = store.write_blob(b"x")
        tree = store.write_tree([TreeEntry("a", MODE_BLOB, blob)])
        for read, oid in ((store.read_blob, tree), (store.blob_size, tree), (store.read_commit, blob)):
            with pytest.raises(MissingObjectError):
                read(oid)
        with pytest.raises(MissingObjectError):
            store.read_tree(blob)


class TestHistory:
    def test_a_commit_comes_back(self, store: Store) -> None:
        first = commit(store, "one")
        written = Commit(
            EMPTY_TREE, (first,), Author("Ann Ä.", "ann@x"), 1_700_000_000, "2 sessions +41 records\n"
        )
        assert store.read_commit(store.write_commit(written)) == written

    def test_a_person_git_would_choke_on_is_written_so_that_it_does_not(self, store: Store) -> None:
        oid = store.write_commit(Commit(EMPTY_TREE, (), Author("<>\n", "a<b>\n@c"), 1, "m"))
        assert store.read_commit(oid).author == Author("unknown", "ab@c")

    def test_a_ref_is_made_moved_and_taken_away(self, store: Store) -> None:
        one = commit(store, "one")
        two = commit(store, "two", one)
        store.swap(REF, None, one)
        store.swap(REF, one, two)
        assert store.refs("refs/heads/project/") == {REF: two}
        store.swap(REF, two, None)
        assert store.refs("refs/heads/project/") == {}

    def test_refs_are_found_by_prefix(self, store: Store) -> None:
        one = commit(store, "one")
        for ref in ("refs/peers/hub/project/x", "refs/peers/hub/project/y", "refs/peers/hub2/project/x"):
            store.swap(ref, None, one)
        assert sorted(store.refs("refs/peers/hub/")) == [
            "refs/peers/hub/project/x",
            "refs/peers/hub/project/y",
        ]
        assert store.refs("refs/peers/hub") == store.refs("refs/peers/hub/project") == {}

    def test_the_name_of_a_ref_gives_that_one_alone(self, store: Store) -> None:
        one = commit(store, "one")
        for ref in (REF, f"{REF}-2"):
            store.swap(ref, None, one)
        assert store.refs(REF) == {REF: one}
        assert store.refs(f"{REF}-3") == {}

    @pytest.mark.parametrize("expected", ["nothing", "another"])
    def test_a_swap_that_expects_something_else_is_lost(self, store: Store, expected: str) -> None:
        one = commit(store, "one")
        two = commit(store, "two", one)
        store.swap(REF, None, one)
        with pytest.raises(RefMovedError):
            store.swap(REF, None if expected == "nothing" else two, two)
        assert store.refs(REF) == {REF: one}

    def test_a_swap_of_an_absent_ref_is_lost(self, store: Store) -> None:
        one = commit(store, "one")
        with pytest.raises(RefMovedError):
            store.swap(REF, one, commit(store, "two", one))
        with pytest.raises(RefMovedError):
            store.swap(REF, one, None)

    def test_a_branch_never_loses_history(self, store: Store) -> None:
        one = commit(store, "one")
        store.swap(REF, None, one)
        with pytest.raises(StoreError, match="lose history"):
            store.swap(REF, one, commit(store, "other"))
        assert store.refs(REF) == {REF: one}

    def test_a_tracking_ref_may_be_rewound(self, store: Store) -> None:
        one, other = commit(store, "one"), commit(store, "other")
        store.swap("refs/peers/hub/project/x", None, one)
        store.swap("refs/peers/hub/project/x", one, other)
        assert store.refs("refs/peers/") == {"refs/peers/hub/project/x": other}

    def test_a_ref_to_nothing_and_a_bad_name_are_refused(self, store: Store) -> None:
        with pytest.raises(StoreError):
            store.swap(REF, None, Oid("12" * 20))
        with pytest.raises(StoreError):
            store.swap("refs/heads/../x", None, commit(store, "one"))

    def test_the_merge_base_is_the_last_common_commit(self, store: Store) -> None:
        root = commit(store, "root")
        fork = commit(store, "fork", root, time=2)
        left, right = commit(store, "left", fork, time=3), commit(store, "right", fork, time=4)
        assert store.merge_base(left, right) == store.merge_base(right, left) == fork
        assert store.merge_base(left, root) == root

    def test_unrelated_histories_have_no_merge_base(self, store: Store) -> None:
        assert store.merge_base(commit(store, "one"), commit(store, "two")) is None


SAMPLES: dict[str, Callable[[Store], Oid]] = {
    "blob": lambda store: store.write_blob(b"\x00\xff text"),
    "tree": lambda store: store.write_tree(
        [
            TreeEntry("é", MODE_BLOB, store.write_blob(b"1")),
            TreeEntry("b", MODE_TREE, store.write_tree([TreeEntry("c", MODE_BLOB, store.write_blob(b"2"))])),
        ]
    ),
    "commit": lambda store: commit(store, "two", commit(store, "one"), time=1_700_000_000),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_both_stores_give_the_same_ids(twins: tuple[Store, Store], kind: str) -> None:
    memory, disk = twins
    assert SAMPLES[kind](memory) == SAMPLES[kind](disk)
