"""The store: one bare git repository on this machine, through libgit2.

Owns every object and ref on disk. Promises: what was written is on disk before a ref names it; a
ref moves by compare-and-swap only, and a branch only to a descendant; an object that cannot be read
is reported by its id, and writing the same content again heals it; the ordinary git program finds
nothing to complain about.

A `GitStore` may be used from several threads. libgit2 repositories may not, so each thread gets a
handle of its own; moving refs is serialized, because libgit2 fails rather than waits on a ref's lock.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator

import pygit2
from pygit2.enums import ObjectType

from convergenced.errors import MissingObjectError, RefMovedError, StoreError
from convergenced.model import EMPTY_TREE, Commit, LocalPath, Oid, Refusal, TreeEntry
from convergenced.store import damage
from convergenced.store.ancestry import best_common_ancestor
from convergenced.store.intake import Intake
from convergenced.store.loose import loose_header
from convergenced.store.objects import (
    ObjectKind,
    format_commit,
    format_tree,
    object_id,
    parse_commit,
    parse_tree,
)
from convergenced.store.transfer import read_checked

BRANCHES = "refs/heads/"
MAX_COMMITS = 10_000
"""Commits kept in memory, at most."""

_LIBGIT2_ERRORS = (pygit2.GitError, KeyError, ValueError, OSError)
"""What the binding raises, by the error's class and code."""


class GitStore:
    """Implements `ports.Store` on a bare repository. Made by `open_store`."""

    def __init__(self, path: LocalPath, recovered: tuple[Refusal, ...] = ()) -> None:
        self.path = path
        self.recovered = recovered
        """What had to be set aside when the store was opened."""
        self._intake = Intake(path)
        self._handles = threading.local()
        self._moving = threading.Lock()
        self._generation = 0
        self._commits: dict[Oid, Commit] = {}

    # Objects

    def read_blob(self, oid: Oid) -> bytes:
        """The blob's bytes."""
        return self._read("blob", oid)

    def write_blob(self, data: bytes) -> Oid:
        """Keeps the bytes."""
        return self._write("blob", data)

    def read_tree(self, oid: Oid) -> tuple[TreeEntry, ...]:
        """The entries in git's order."""
        return () if oid == EMPTY_TREE else parse_tree(self._read("tree", oid))

    def write_tree(self, entries: Iterable[TreeEntry]) -> Oid:
        """Keeps a tree."""
        return self._write("tree", format_tree(entries))

    def blob_size(self, oid: Oid) -> int:
        """Bytes in the blob, from the object's header."""
        if (unsettled := self._intake.read(oid)) is not None and unsettled[0] == "blob":
            return len(unsettled[1])
        try:
            if (loose := loose_header(self.path, oid)) is not None:
                is_blob, size = loose[0] == "blob", loose[1]
            else:
                kind, size = self._repo.odb.read_header(oid)
                is_blob = kind == ObjectType.BLOB
        except _LIBGIT2_ERRORS as error:
            raise _missing(oid, "blob") from error
        if not is_blob:
            raise _missing(oid, "blob")
        return int(size)

    # History

    def write_commit(self, commit: Commit) -> Oid:
        """Keeps a commit."""
        return self._write("commit", format_commit(commit))

    def read_commit(self, oid: Oid) -> Commit:
        """The commit of that id."""
        return parse_commit(self._read("commit", oid))

    def refs(self, prefix: str) -> dict[str, Oid]:
        """All refs below a prefix, or the one of that name: the others are not looked at then."""
        found: dict[str, Oid] = {}
        repo = self._repo
        try:
            for name in _names(repo) if prefix.endswith("/") else (prefix,):
                if name.startswith(prefix) and (target := _target(repo, name)) is not None:
                    found[name] = target
        except _LIBGIT2_ERRORS as error:
            raise StoreError(f"the refs of {self.path} cannot be read: {error}", _RESTART) from error
        return found

    def swap(self, ref: str, old: Oid | None, new: Oid | None) -> None:
        """Moves `ref`; a branch moves to descendants only, or goes away."""
        if not pygit2.reference_is_valid_name(ref):
            raise StoreError(f"{ref!r} is no name for a ref")
        if ref.startswith(BRANCHES) and old is not None and new is not None:
            self._check_descends(ref, old, new)
        self.settle()
        with self._moving:
            repo = self._repo
            try:
                if _target(repo, ref) != old:
                    raise _moved(ref)
                if old is None and new is not None:
                    repo.references.create(ref, new, force=False)
                elif old is not None and new is not None:
                    repo.lookup_reference(ref).set_target(new)
                elif old is not None:
                    repo.lookup_reference(ref).delete()
            except _LIBGIT2_ERRORS as error:
                # Another process may have been faster: that is a lost swap, not a broken store.
                with contextlib.suppress(*_LIBGIT2_ERRORS):
                    if _target(repo, ref) != old:
                        raise _moved(ref) from error
                raise StoreError(f"{ref} cannot be moved: {error}", _RESTART) from error

    def merge_base(self, one: Oid, other: Oid) -> Oid | None:
        """The best common ancestor; of several equally good ones always the same."""
        return best_common_ancestor(self._commit, one, other)

    def settle(self) -> None:
        """Makes all that was written durable, as every move of a ref does. Raises `StoreError`."""
        try:
            self._intake.settle()
        except StoreError as error:
            raise _unwritable(error) from error

    def reopen(self) -> None:
        """Forgets what is remembered of the files: they were changed by other means."""
        self._commits.clear()
        self._generation += 1

    # Below the surface

    @property
    def _repo(self) -> pygit2.Repository:
        """The handle of the calling thread."""
        repo: pygit2.Repository | None = getattr(self._handles, "repo", None)
        generation = self._generation
        if repo is None or self._handles.generation != generation:
            try:
                repo = pygit2.Repository(self.path)
            except _LIBGIT2_ERRORS as error:
                raise StoreError(f"the store {self.path} cannot be opened: {error}", _RESTART) from error
            self._handles.repo, self._handles.generation = repo, generation
        return repo

    def _commit(self, oid: Oid) -> Commit:
        """A commit, read once as long as few others are: histories are walked again and again."""
        commit = self._commits.get(oid)
        if commit is None:
            if len(self._commits) >= MAX_COMMITS:
                self._commits.clear()
            commit = self._commits[oid] = self.read_commit(oid)
        return commit

    def _read(self, kind: ObjectKind, oid: Oid) -> bytes:
        if (unsettled := self._intake.read(oid)) is not None:
            if unsettled[0] != kind:
                raise _missing(oid, kind)
            return unsettled[1]
        try:
            return read_checked(self._repo, pygit2.Oid(hex=oid), kind)
        except _LIBGIT2_ERRORS as error:
            raise _missing(oid, kind) from error

    def _write(self, kind: ObjectKind, data: bytes) -> Oid:
        oid = object_id(kind, data)
        if not self._intake.holds(oid) and not self._has(oid):
            try:
                self._intake.add(oid, kind, data)
            except StoreError as error:
                raise _unwritable(error) from error
        return oid

    def _has(self, oid: Oid) -> bool:
        """Whether the object is on the disk and, as far as that is seen at once, whole."""
        try:
            # libgit2 takes a damaged object for a present one.
            damage.set_aside_if_damaged(self.path, oid)
            return pygit2.Oid(hex=oid) in self._repo.odb
        except _LIBGIT2_ERRORS as error:
            raise StoreError(f"the store cannot be read: {error}", _RESTART) from error

    def _check_descends(self, ref: str, old: Oid, new: Oid) -> None:
        if self.merge_base(new, old) != old:
            raise StoreError(f"{ref} would lose history: {new} does not descend from {old}")


_RESTART = "run `convergencectl doctor --deep`"


def _names(repo: pygit2.Repository) -> Iterator[str]:
    return (name.decode("utf-8", "surrogateescape") for name in repo.raw_listall_references())


def _target(repo: pygit2.Repository, ref: str) -> Oid | None:
    """Where a ref stands, None for no such ref. Symbolic refs are not ours and count as none."""
    try:
        target = repo.lookup_reference(ref).target
    except KeyError:
        return None
    return Oid(str(target)) if isinstance(target, pygit2.Oid) else None


def _unwritable(error: StoreError) -> StoreError:
    return StoreError(f"the store cannot be written: {error.summary}", error.hint)


def _missing(oid: Oid, kind: ObjectKind) -> MissingObjectError:
    return MissingObjectError(f"the store has no readable {kind} {oid}", _RESTART)


def _moved(ref: str) -> RefMovedError:
    return RefMovedError(f"{ref} was moved meanwhile", "read it again and repeat")
