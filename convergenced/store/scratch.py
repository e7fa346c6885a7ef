"""A store on top of a store: reads go through, what is written stays in memory and is forgotten.

For questions whose answer takes work that would write ("what would merging these two give?") where
nothing may change.
"""

from __future__ import annotations

from collections.abc import Iterable

from convergenced.errors import StoreError
from convergenced.model import EMPTY_TREE, Commit, Oid, TreeEntry
from convergenced.ports import Store
from convergenced.store.objects import (
    ObjectKind,
    format_commit,
    format_tree,
    object_id,
    parse_commit,
    parse_tree,
)


class ScratchStore:
    """Implements `ports.Store` for as long as it lives. Refs cannot be moved."""

    def __init__(self, below: Store) -> None:
        self._below = below
        self._written: dict[Oid, bytes] = {}

    def read_blob(self, oid: Oid) -> bytes:
        """The blob's bytes."""
        return self._written[oid] if oid in self._written else self._below.read_blob(oid)

    def write_blob(self, data: bytes) -> Oid:
        """Keeps the bytes in memory."""
        return self._write("blob", bytes(data))

    def read_tree(self, oid: Oid) -> tuple[TreeEntry, ...]:
        """The entries in git's order."""
        if oid == EMPTY_TREE:
            return ()
        return parse_tree(self._written[oid]) if oid in self._written else self._below.read_tree(oid)

    def write_tree(self, entries: Iterable[TreeEntry]) -> Oid:
        """Keeps a tree in memory."""
        return self._write("tree", format_tree(entries))

    def blob_size(self, oid: Oid) -> int:
        """Bytes in the blob."""
        return len(self._written[oid]) if oid in self._written else self._below.blob_size(oid)

    def write_commit(self, commit: Commit) -> Oid:
        """Keeps a commit in memory."""
        return self._write("commit", format_commit(commit))

    def read_commit(self, oid: Oid) -> Commit:
        """The commit of that id."""
        return parse_commit(self._written[oid]) if oid in self._written else self._below.read_commit(oid)

    def refs(self, prefix: str) -> dict[str, Oid]:
        """The refs of the store below."""
        return self._below.refs(prefix)

    def swap(self, ref: str, old: Oid | None, new: Oid | None) -> None:
        """Refuses."""
        raise StoreError(f"{ref} cannot be moved from {old} to {new}: this is only a trial")

    def merge_base(self, one: Oid, other: Oid) -> Oid | None:
        """The best common ancestor in the store below."""
        return self._below.merge_base(one, other)

    def _write(self, kind: ObjectKind, data: bytes) -> Oid:
        oid = object_id(kind, data)
        self._written[oid] = data
        return oid
