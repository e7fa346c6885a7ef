"""The faults of the in-memory peer are the faults of a network: nothing half done is ever named."""

from __future__ import annotations

import pytest

from convergenced.errors import PeerRefusedError, PeerUnreachableError
from convergenced.model import Author, Commit, Oid, TreeEntry
from tests.fakes.peer import MemoryPeer
from tests.fakes.store import MemoryStore

X = "refs/heads/project/x"
TRACK_X = "refs/convergence/hub/x"


def write(store: MemoryStore, text: str) -> Oid:
    old = store.refs(X).get(X)
    tree = store.write_tree([TreeEntry("note.md", 0o100644, store.write_blob(text.encode()))])
    new = store.write_commit(Commit(tree, (old,) if old else (), Author("a", "a@b"), 1, text))
    store.swap(X, old, new)
    return new


@pytest.fixture
def here() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def there() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def peer(here: MemoryStore, there: MemoryStore) -> MemoryPeer:
    return MemoryPeer(here, there)


def test_a_fetch_that_breaks_in_the_middle_names_nothing_and_goes_on_later(
    peer: MemoryPeer, here: MemoryStore, there: MemoryStore
) -> None:
    x = write(there, "one") and write(there, "two")
    peer.fetch_breaks_after = 4
    with pytest.raises(PeerUnreachableError):
        peer.fetch({X: TRACK_X})
    assert len(here.objects) == 4
    assert here.refs("refs/") == {}
    peer.fetch({X: TRACK_X})
    assert here.refs("refs/") == {TRACK_X: x}
    assert here.objects == there.objects


def test_a_lost_push_was_not_taken_and_a_lost_answer_was(
    peer: MemoryPeer, here: MemoryStore, there: MemoryStore
) -> None:
    x = write(here, "one")
    peer.lost_pushes, peer.lost_answers = 1, 1
    with pytest.raises(PeerUnreachableError):
        peer.push([X])
    assert there.refs("refs/") == {}
    with pytest.raises(PeerUnreachableError):
        peer.push([X])
    assert there.refs("refs/") == {X: x}
    assert peer.push([X]) == {X: None}


def test_it_can_be_away_or_unwilling(peer: MemoryPeer, here: MemoryStore) -> None:
    write(here, "one")
    peer.unreachable = True
    with pytest.raises(PeerUnreachableError):
        peer.list()
    peer.unreachable, peer.refusing = False, True
    with pytest.raises(PeerRefusedError):
        peer.push([X])
    peer.refusing = False
    peer.declined[X] = "hook declined"
    assert peer.push([X]) == {X: "hook declined"}
    assert [call for call, _ in peer.calls] == ["list", "push", "push"]


def test_it_can_be_rewound(peer: MemoryPeer, there: MemoryStore) -> None:
    first = write(there, "one")
    write(there, "two")
    peer.rewind(X, first)
    assert peer.list() == {X: first}
    peer.rewind(X, None)
    assert peer.list() == {}
