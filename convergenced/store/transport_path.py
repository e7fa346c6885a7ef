"""A peer that is a folder of this machine: two repositories side by side, in this process.

Owns the moving of such a peer's refs. Promise: a ref of the peer moves only by compare-and-swap and
only to a descendant, however many machines push at once. libgit2's own local push would overwrite
what came between, and knows no repository with a work tree.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence

import pygit2

from convergenced.errors import BranchesRefusedError, PeerError, PeerRefusedError
from convergenced.model import Commit, LocalPath, Oid
from convergenced.store.ancestry import best_common_ancestor
from convergenced.store.handles import GIT_FAILURES, open_exactly, store_handle
from convergenced.store.handles import tip as tip_of
from convergenced.store.objects import parse_commit
from convergenced.store.refnames import BRANCHES, is_branch, is_ref_name
from convergenced.store.refusals import (
    BEHIND,
    NO_SUCH_BRANCH,
    Place,
    explain,
    no_such_remote_branch,
    not_a_repository,
    push_reason,
    stopped,
)
from convergenced.store.transfer import copy_history, read_checked, take_over

LOCK_TRIES = 20
LOCK_PAUSE = 0.02
"""Another writer's lock on a ref is waited for this often, this long each (seconds)."""


class PathPeer:
    """One repository of this machine, with or without a work tree. Safe for several threads."""

    def __init__(self, place: Place, store: LocalPath) -> None:
        self._place = place
        self._store = store
        self._stopping = threading.Event()

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self._place.name

    @property
    def repository(self) -> LocalPath:
        """The folder that has its objects. Raises `PeerError`."""
        return LocalPath(self._open_peer().path)

    def list(self) -> dict[str, Oid]:
        """All branches of the peer and their tips. A ref that cannot be read is left out."""
        peer = self._open_peer()
        try:
            names = [name.decode("utf-8", "surrogateescape") for name in peer.raw_listall_references()]
        except GIT_FAILURES as error:
            raise explain(str(error), self._place).error from error
        tips = {name: tip_of(peer, name) for name in names if is_branch(name)}
        return {name: Oid(str(tip)) for name, tip in tips.items() if tip is not None}

    def fetch(self, wanted: Mapping[str, str]) -> None:
        """Brings remote refs (keys) into the store as tracking refs (values), which may be rewound.

        Where single branches cannot be had, the others are brought all the same, then raises.
        """
        peer = self._open_peer()
        store = store_handle(self._store)
        failures: dict[str, PeerError] = {}
        for remote, tracking in wanted.items():
            if not is_branch(remote) or not is_ref_name(tracking):
                raise PeerRefusedError(f"{remote!r} is no branch that can be fetched", "")
            tip = tip_of(peer, remote)
            if tip is None:
                failures[remote] = no_such_remote_branch(self._place)
                continue
            try:
                take_over(peer, store, tip, tracking, self._check)
            except ValueError as error:
                failures[remote] = explain(str(error), self._place).error
        if failures:
            raise BranchesRefusedError.of(failures)

    def push(self, refs: Sequence[str]) -> dict[str, str | None]:
        """Offers local refs under the same name, never forced; for each ref None or the reason."""
        peer = self._open_peer()
        store = store_handle(self._store)
        return {ref: self._push_one(store, peer, ref) for ref in refs}

    def close(self) -> None:
        """Breaks off what runs, for good: later calls raise `PeerUnreachableError`."""
        self._stopping.set()

    def _push_one(self, store: pygit2.Repository, peer: pygit2.Repository, ref: str) -> str | None:
        new = tip_of(store, ref) if is_branch(ref) else None
        if new is None:
            return NO_SUCH_BRANCH
        if _is_checked_out(peer, ref):
            return "the branch is checked out there; check out another one, or use a bare repository"
        pause = threading.Event()
        for _ in range(LOCK_TRIES):
            old = tip_of(peer, ref)
            if old == new:
                return None
            try:
                if old is not None and not _descends(store, new, old):
                    return f"{BEHIND} (fetch first)"
                copy_history(store, peer, new, self._check)
                _move(peer, ref, old, new)
            except GIT_FAILURES as error:
                if tip_of(peer, ref) != old:
                    continue  # somebody else moved it in this moment: look again
                if "lock" not in str(error):
                    return self._why_not(error)
                pause.wait(LOCK_PAUSE)
            else:
                return None
        lock = os.path.join(peer.path, f"{ref}.lock")
        return f"another writer holds {lock}; if there is none, remove that file"

    def _why_not(self, error: Exception) -> str:
        failure = explain(str(error), self._place)
        if isinstance(failure.error, PeerRefusedError) and not failure.one_ref:
            raise failure.error from error
        return push_reason(str(error), self._place)

    def _check(self) -> None:
        if self._stopping.is_set():
            raise stopped(self._place)

    def _open_peer(self) -> pygit2.Repository:
        self._check()
        path = self._place.path
        try:
            names = os.listdir(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise not_a_repository(self._place) from error
        except OSError as error:
            raise explain(str(error), self._place).error from error
        try:
            return open_exactly(path)
        except GIT_FAILURES as error:
            failure = explain(str(error), self._place).error
            missing = "HEAD" not in names and ".git" not in names
            raise (not_a_repository(self._place) if missing else failure) from error


def _descends(store: pygit2.Repository, new: pygit2.Oid, old: pygit2.Oid) -> bool:
    def read(oid: Oid) -> Commit:
        return parse_commit(read_checked(store, pygit2.Oid(hex=oid), "commit"))

    ours, theirs = Oid(str(new)), Oid(str(old))
    return old in store.odb and best_common_ancestor(read, ours, theirs) == theirs


def _move(repository: pygit2.Repository, ref: str, old: pygit2.Oid | None, new: pygit2.Oid) -> None:
    """Compare-and-swap: raises where `ref` is not at `old` any more."""
    if old is None:
        repository.references.create(ref, new, force=False)
        return
    reference = repository.references[ref].resolve()
    if reference.target != old:
        raise ValueError(f"{ref} moved")
    reference.set_target(new)


def _is_checked_out(repository: pygit2.Repository, ref: str) -> bool:
    if repository.is_bare:
        return False
    branch = repository.lookup_branch(ref.removeprefix(BRANCHES))
    return bool(branch) and branch.is_checked_out()
