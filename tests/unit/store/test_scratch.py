"""A store on trial: what is written can be read, and is nowhere else."""

from __future__ import annotations

import pytest

from convergenced.errors import MissingObjectError, StoreError
from convergenced.model import EMPTY_TREE, MODE_BLOB, Author, Commit, Oid, TreeEntry
from convergenced.store.scratch import ScratchStore
from tests.fakes.store import MemoryStore

ANN = Author("ann", "ann@example.org")


def test_what_is_written_is_read_again_and_the_store_below_stays_as_it_was() -> None:
    below = MemoryStore()
    known = below.write_blob(b"known")
    before = dict(below.objects)
    scratch = ScratchStore(below)
    blob = scratch.write_blob(b"new")
    tree = scratch.write_tree([TreeEntry("a", MODE_BLOB, blob), TreeEntry("b", MODE_BLOB, known)])
    commit = scratch.write_commit(Commit(tree, (), ANN, 1, "m\n"))
    assert [scratch.read_blob(one) for one in (blob, known)] == [b"new", b"known"]
    assert [scratch.blob_size(one) for one in (blob, known)] == [3, 5]
    assert [entry.name for entry in scratch.read_tree(tree)] == ["a", "b"]
    assert scratch.read_commit(commit).tree == tree
    assert scratch.read_tree(EMPTY_TREE) == ()
    assert below.objects == before


def test_refs_do_not_move_and_what_is_nowhere_is_missing() -> None:
    below = MemoryStore()
    commit = below.write_commit(Commit(EMPTY_TREE, (), ANN, 1, "m\n"))
    below.swap("refs/heads/x", None, commit)
    scratch = ScratchStore(below)
    assert scratch.refs("refs/") == {"refs/heads/x": commit}
    assert scratch.merge_base(commit, commit) == commit
    with pytest.raises(StoreError):
        scratch.swap("refs/heads/x", commit, None)
    with pytest.raises(MissingObjectError):
        scratch.read_blob(Oid("12" * 20))
