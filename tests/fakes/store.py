"""The in-memory twin of `GitStore`: the same ids, the same refusals, no disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from convergenced.errors import MissingObjectError, RefMovedError, StoreError
from convergenced.model import EMPTY_TREE, Commit, Oid, TreeEntry
from convergenced.store.objects import (
    ObjectKind,
    format_commit,
    format_tree,
    object_id,
    parse_commit,
    parse_tree,
)

BRANCHES = "refs/heads/"

_commit = lru_cache(maxsize=20_000)(parse_commit)
_tree = lru_cache(maxsize=20_000)(parse_tree)


class MemoryStore:
    """Implements `ports.Store` in two dictionaries.

    `writes` and `reads` count objects, so that a test can say what an operation may cost. `moved` hears of
    every ref that was moved, with where it was and where it is.
    """

    def __init__(self) -> None:
        self.objects: dict[Oid, tuple[ObjectKind, bytes]] = {}
        self.ref_targets: dict[str, Oid] = {}
        self.writes = 0
        self.reads = 0
        self.moved: Callable[[str, Oid | None, Oid | None], None] = lambda _ref, _old, _new: None

    def copy(self) -> MemoryStore:
        """The same objects and refs once more, as a backup has them."""
        copied = MemoryStore()
        copied.objects, copied.ref_targets = dict(self.objects), dict(self.ref_targets)
        return copied

    def read_blob(self, oid: Oid) -> bytes:
        return self._read("blob", oid)

    def write_blob(self, data: bytes) -> Oid:
        return self._write("blob", bytes(data))

    def read_tree(self, oid: Oid) -> tuple[TreeEntry, ...]:
        return () if oid == EMPTY_TREE else _tree(self._read("tree", oid))

    def write_tree(self, entries: Iterable[TreeEntry]) -> Oid:
        return self._write("tree", format_tree(entries))

    def blob_size(self, oid: Oid) -> int:
        self.reads -= 1
        return len(self._read("blob", oid))

    def write_commit(self, commit: Commit) -> Oid:
        return self._write("commit", format_commit(commit))

    def read_commit(self, oid: Oid) -> Commit:
        return _commit(self._read("commit", oid))

    def refs(self, prefix: str) -> dict[str, Oid]:
        if not prefix.endswith("/"):
            return {prefix: self.ref_targets[prefix]} if prefix in self.ref_targets else {}
        return {name: oid for name, oid in sorted(self.ref_targets.items()) if name.startswith(prefix)}

    def swap(self, ref: str, old: Oid | None, new: Oid | None) -> None:
        if not ref.startswith("refs/") or ".." in ref or ref.endswith((".lock", "/", ".")) or " " in ref:
            raise StoreError(f"{ref!r} is no name for a ref")
        if (
            new is not None
            and old is not None
            and ref.startswith(BRANCHES)
            and old not in self._ancestors(new)
        ):
            raise StoreError(f"{ref} would lose history: {new} does not descend from {old}")
        if self.ref_targets.get(ref) != old:
            raise RefMovedError(f"{ref} was moved meanwhile", "read it again and repeat")
        if new is None:
            self.ref_targets.pop(ref, None)
        else:
            if new not in self.objects or self.objects[new][0] != "commit":
                raise StoreError(f"{ref} cannot be moved: no commit {new}")
            self.ref_targets[ref] = new
        self.moved(ref, old, new)

    def merge_base(self, one: Oid, other: Oid) -> Oid | None:
        common = self._ancestors(one) & self._ancestors(other)
        covered = {parent for oid in common for parent in self.read_commit(oid).parents}
        best = sorted(common - covered, key=lambda oid: (-self.read_commit(oid).time, oid))
        return best[0] if best else None

    def _ancestors(self, tip: Oid) -> set[Oid]:
        seen = {tip}
        waiting = [tip]
        while waiting:
            for parent in self.read_commit(waiting.pop()).parents:
                if parent not in seen:
                    seen.add(parent)
                    waiting.append(parent)
        return seen

    def _read(self, kind: ObjectKind, oid: Oid) -> bytes:
        self.reads += 1
        found, data = self.objects.get(oid, (None, b""))
        if found != kind:
            raise MissingObjectError(f"the store has no readable {kind} {oid}")
        return data

    def _write(self, kind: ObjectKind, data: bytes) -> Oid:
        self.writes += 1
        oid = object_id(kind, data)
        self.objects[oid] = (kind, data)
        return oid
