"""The in-memory twin of the real peers: two stores, and every way in which a network fails."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from convergenced.errors import (
    BranchesRefusedError,
    MissingObjectError,
    PeerError,
    PeerRefusedError,
    PeerUnreachableError,
    RefMovedError,
)
from convergenced.model import EMPTY_TREE, Oid
from convergenced.ports import Store
from convergenced.store.refusals import BEHIND, NO_SUCH_BRANCH

BRANCHES = "refs/heads/"

_pushing = threading.Lock()


class MemoryPeer:
    """Implements `ports.Peer` between `here`, this machine's store, and `there`, the peer's.

    The switches may be turned at any time; the counting ones go down by one with each use.
    `calls` keeps what was asked of the peer, so that a test can say what an exchange may cost.
    """

    def __init__(self, here: Store, there: Store, *, name: str = "hub") -> None:
        self.here = here
        self.there = there
        self.name = name
        self.unreachable = False
        self.refusing = False
        self.declined: dict[str, str] = {}
        """Refs the peer does not take, and the reason it gives."""
        self.lost_pushes = 0
        """This many pushes break off before the peer took anything."""
        self.lost_answers = 0
        """This many pushes break off after the peer took everything."""
        self.fetch_breaks_after: int | None = None
        """The next fetch breaks off after so many objects."""
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self._closed = False

    def list(self) -> dict[str, Oid]:
        self._reach("list", ())
        return dict(self.there.refs(BRANCHES))

    def fetch(self, wanted: Mapping[str, str]) -> None:
        self._reach("fetch", tuple(wanted))
        there = self.there.refs(BRANCHES)
        budget = self.fetch_breaks_after
        self.fetch_breaks_after = None
        for remote, tracking in wanted.items():
            if remote in there:
                copied = copy_history(self.there, self.here, there[remote], budget)
                budget = None if budget is None else budget - copied
                self._track(tracking, there[remote])
        missing = [remote for remote in wanted if remote not in there]
        if missing:
            gone = PeerRefusedError(f"{self.name} does not have a wanted branch")
            raise BranchesRefusedError.of(dict.fromkeys(missing, gone))

    def push(self, refs: Sequence[str]) -> dict[str, str | None]:
        self._reach("push", tuple(refs))
        if self.lost_pushes:
            self.lost_pushes -= 1
            raise PeerUnreachableError(f"peer {self.name}: broke off")
        with _pushing:
            answer = {ref: self._push_one(ref) for ref in refs}
        if self.lost_answers:
            self.lost_answers -= 1
            raise PeerUnreachableError(f"peer {self.name}: broke off")
        return answer

    def close(self) -> None:
        self._closed = True

    def rewind(self, ref: str, to: Oid | None) -> None:
        """The peer's branch goes back in history, or away, as after a forced push by somebody."""
        self.there.swap(ref, self.there.refs(ref)[ref], None)
        if to is not None:
            self.there.swap(ref, None, to)

    def _reach(self, call: str, refs: tuple[str, ...]) -> None:
        self.calls.append((call, refs))
        failure = self._failure()
        if failure is not None:
            raise failure

    def _failure(self) -> PeerError | None:
        if self.unreachable or self._closed:
            return PeerUnreachableError(f"peer {self.name}: cannot be reached", "try again later")
        if self.refusing:
            return PeerRefusedError(f"peer {self.name}: permission denied", "ask its keeper")
        return None

    def _push_one(self, ref: str) -> str | None:
        new = self.here.refs(ref).get(ref)
        old = self.there.refs(ref).get(ref)
        if new is None:
            return NO_SUCH_BRANCH
        if ref in self.declined:
            return self.declined[ref]
        if new == old:
            return None
        if old is not None and not _descends(self.here, new, old):
            return f"{BEHIND} (fetch first)"
        copy_history(self.here, self.there, new)
        try:
            self.there.swap(ref, old, new)
        except RefMovedError as error:
            return f"{BEHIND} ({error})"
        return None

    def _track(self, tracking: str, new: Oid) -> None:
        old = self.here.refs(tracking).get(tracking)
        if old != new:
            self.here.swap(tracking, old, new)


def copy_history(source: Store, target: Store, tip: Oid, budget: int | None = None) -> int:
    """Copies `tip` and what it reaches, the named before the naming; returns the objects written.

    With a budget, raises `PeerUnreachableError` where more objects would have to be written.
    """
    written = 0
    pending = [("commit", tip, False)]
    while pending:
        kind, oid, ready = pending.pop()
        if _has(target, kind, oid):
            continue
        if not ready:
            pending.append((kind, oid, True))
            pending += [(*child, False) for child in _children(source, kind, oid)]
            continue
        if budget is not None and written >= budget:
            raise PeerUnreachableError("the peer broke off in the middle")
        _copy(source, target, kind, oid)
        written += 1
    return written


def _children(source: Store, kind: str, oid: Oid) -> list[tuple[str, Oid]]:
    if kind == "commit":
        commit = source.read_commit(oid)
        return [("tree", commit.tree), *(("commit", parent) for parent in commit.parents)]
    if kind == "tree":
        return [("tree" if entry.is_tree else "blob", entry.oid) for entry in source.read_tree(oid)]
    return []


def _copy(source: Store, target: Store, kind: str, oid: Oid) -> None:
    if kind == "commit":
        target.write_commit(source.read_commit(oid))
    elif kind == "tree":
        target.write_tree(source.read_tree(oid))
    else:
        target.write_blob(source.read_blob(oid))


def _has(store: Store, kind: str, oid: Oid) -> bool:
    if oid == EMPTY_TREE:
        return False  # every store can read it, none needs to hold it: let it be written
    try:
        if kind == "commit":
            store.read_commit(oid)
        elif kind == "tree":
            store.read_tree(oid)
        else:
            store.blob_size(oid)
    except MissingObjectError:
        return False
    return True


def _descends(store: Store, new: Oid, old: Oid) -> bool:
    seen: set[Oid] = set()
    waiting = [new]
    while waiting:
        oid = waiting.pop()
        if oid == old:
            return True
        if oid not in seen:
            seen.add(oid)
            waiting += store.read_commit(oid).parents
    return False
