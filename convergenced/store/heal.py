"""Brings a damaged store in order: what is torn goes aside, what is missing comes from peers.

Promises: nothing is deleted, only moved to `set-aside`; nothing is set aside before all that can be read of
it was written anew; an object enters only with the bytes that its id stands for; no ref moves. What local
files hold is not brought back here but by reading them again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import pygit2

from convergenced.errors import PeerError
from convergenced.model import EMPTY_TREE, LocalPath, Oid
from convergenced.ports import Peer
from convergenced.store import damage
from convergenced.store.branch import LOCAL, PEERS, PROJECTS
from convergenced.store.git import BRANCHES, GitStore
from convergenced.store.handles import store_handle, tip
from convergenced.store.loose import DamagedError, check_loose, loose_file, write_loose
from convergenced.store.objects import ObjectKind
from convergenced.store.packs import read_index, salvage
from convergenced.store.transfer import AbsentError, named_by, read_any
from convergenced.store.transport_path import PathPeer
from convergenced.store.verify import PACKS, Flaw
from convergenced.wording import plural

_FETCHED = "healing-"
"""How the name of a repository in the store begins that holds what a peer sent for healing."""

_ONE = threading.Lock()


@dataclass(slots=True)
class Healed:
    """What healing did. `sources` counts the objects that came from each peer, by its name."""

    healed: list[Flaw] = field(default_factory=list)
    left: list[Flaw] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """In words, for the log; empty where nothing was healed."""
        parts = [f"{plural(number, 'object')} from {name}" for name, number in self.sources.items()]
        others = len([flaw for flaw in self.healed if flaw.kind in ("ref", "lock", "pack")])
        if others:
            parts.append(plural(others, "damaged file"))
        return f"healed {', '.join(parts)}" if parts else ""


@runtime_checkable
class Remote(Protocol):
    """A peer from which a whole history can be fetched into another repository of ours."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    def for_store(self, store: LocalPath) -> Peer:
        """The same peer for that repository."""
        ...


def heal(
    store: GitStore,
    flaws: Sequence[Flaw],
    peers: Sequence[Peer],
    check: Callable[[], None] = lambda: None,
) -> Healed:
    """Heals what it can of `flaws`; `left` has the others, and what came to light on the way.

    `check` is called between objects and may raise to break off. Raises `StoreError` where the store cannot
    be written.
    """
    with _ONE:
        return _Healing(store, flaws, check).run(peers)


def heal_peer(
    peer: PathPeer, store: GitStore, flaws: Sequence[Flaw], check: Callable[[], None] = lambda: None
) -> Healed:
    """Heals a peer on this machine from our store. `flaws` are those of its repository."""
    with _ONE:
        healing = _Healing(GitStore(peer.repository), flaws, check)
        healing.put_away()
        healing.take_from("this machine", store.path)
        return healing.result()


def set_incomplete_aside(store: GitStore, refs: Iterable[str]) -> None:
    """Sets aside each object these refs reach that names, near or far, what cannot be read.

    To be done before a ref is given up: whoever copies a history takes what the store has of it to be whole.
    """
    with _ONE:
        _Healing(store, (), lambda: None).set_incomplete_aside(refs)


class _Healing:
    def __init__(self, store: GitStore, flaws: Sequence[Flaw], check: Callable[[], None]) -> None:
        self._store = store
        self._path = store.path
        self._flaws = flaws
        self._check = check
        self._wanted: dict[Oid, Flaw] = {
            flaw.oid: flaw for flaw in flaws if flaw.oid is not None and flaw.kind in ("missing", "damaged")
        }
        self._put_away: set[Flaw] = set()
        self._got: set[Oid] = set()
        self._sources: dict[str, int] = {}

    def run(self, peers: Sequence[Peer]) -> Healed:
        self.put_away()
        for peer in peers:
            if self._wanted:
                with contextlib.suppress(PeerError):  # another one may have it
                    self._take_from_peer(peer)
        return self.result()

    def result(self) -> Healed:
        healed: list[Flaw] = []
        left: list[Flaw] = []
        for flaw in self._flaws:
            done = flaw in self._put_away if flaw.oid is None else flaw.oid in self._got
            (healed if done else left).append(flaw)
        left += [flaw for flaw in self._wanted.values() if flaw not in left]
        return Healed(healed, left, self._sources)

    # -- what is torn

    def put_away(self) -> None:
        """Sets damaged files aside, having taken out of packs what can be read."""
        for flaw in self._flaws:
            if flaw.oid is None:
                if flaw.kind == "pack":
                    self._unpack(os.path.splitext(flaw.where)[0])
                elif os.path.lexists(os.path.join(self._path, flaw.where)):
                    damage.set_aside(self._path, flaw.where, flaw.text)
                self._put_away.add(flaw)
        for oid in list(self._wanted):
            damage.set_aside_if_damaged(self._path, oid)
        self._store.reopen()
        repository = store_handle(self._path)
        for oid in list(self._wanted):
            if _is_damaged(repository, oid):
                for stem in self._packs_of(oid):
                    self._unpack(stem)
        self._store.reopen()
        repository = store_handle(self._path)
        for oid in list(self._wanted):
            with contextlib.suppress(AbsentError, DamagedError):
                self._take_up(oid, *read_any(repository, oid), repository)

    def _unpack(self, stem: str) -> None:
        for oid, kind, data in salvage(os.path.join(self._path, stem)):
            self._check()
            damage.set_aside_if_damaged(self._path, oid)
            if check_loose(self._path, oid) is None:
                write_loose(self._path, oid, kind, data)
        folder, name = os.path.split(stem)
        for other in sorted(os.listdir(os.path.join(self._path, folder))):
            if os.path.splitext(other)[0] == name:
                damage.set_aside(self._path, os.path.join(folder, other), "torn")

    def _packs_of(self, oid: Oid) -> Iterator[str]:
        for name in sorted(os.listdir(os.path.join(self._path, PACKS))):
            stem, ending = os.path.splitext(os.path.join(PACKS, name))
            if ending == ".idx" and oid in read_index(os.path.join(self._path, f"{stem}.idx")):
                yield stem

    def set_incomplete_aside(self, refs: Iterable[str]) -> None:
        """What is named goes before what names it, so that it can be taken up again after a crash."""
        repository = store_handle(self._path)
        tips = [target for ref in refs if (target := tip(repository, ref)) is not None]
        for oid in _incomplete(repository, [Oid(str(target)) for target in tips]):
            file = os.path.relpath(loose_file(self._path, oid), self._path)
            if not os.path.exists(os.path.join(self._path, file)):
                for stem in list(self._packs_of(oid)):
                    self._unpack(stem)
            if os.path.exists(os.path.join(self._path, file)):
                damage.set_aside(self._path, file, "it is not complete")
        self._store.reopen()

    # -- what is missing

    def _take_from_peer(self, peer: Peer) -> None:
        if isinstance(peer, PathPeer):
            self.take_from(peer.name, peer.repository)
        elif isinstance(peer, Remote):
            for name in os.listdir(self._path):
                if name.startswith(_FETCHED):  # left behind by a crash
                    shutil.rmtree(os.path.join(self._path, name), ignore_errors=True)
            folder = LocalPath(tempfile.mkdtemp(prefix=_FETCHED, dir=self._path))
            try:
                pygit2.init_repository(folder, bare=True)
                remote = peer.for_store(folder)
                branches = _branches(self._wanted.values(), list(peer.list()))
                with contextlib.suppress(PeerError):  # single branches: the others arrived
                    remote.fetch({ref: ref for ref in branches})
                self.take_from(peer.name, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def take_from(self, name: str, path: LocalPath) -> None:
        """Copies what is missing, and what that turns out to miss, out of another repository."""
        source, target = store_handle(path), store_handle(self._path)
        tried: set[Oid] = set()
        while waiting := [oid for oid in self._wanted if oid not in tried]:
            for oid in waiting:
                self._check()
                tried.add(oid)
                try:
                    kind, data = read_any(source, oid)
                    named_by(kind, oid, data)
                except (AbsentError, ValueError):
                    continue
                damage.set_aside_if_damaged(self._path, oid)
                write_loose(self._path, oid, kind, data)
                self._sources[name] = self._sources.get(name, 0) + 1
                self._take_up(oid, kind, data, target)
        self._store.reopen()

    def _take_up(self, oid: Oid, kind: ObjectKind, data: bytes, target: pygit2.Repository) -> None:
        """Notes that an object is there now, and what it names that is not."""
        flaw = self._wanted.pop(oid)
        self._got.add(oid)
        for child in named_by(kind, oid, data):
            if child.oid != EMPTY_TREE and child.oid not in self._wanted and not _is_there(target, child.oid):
                text = f"{child.kind} {child.oid} is missing"
                self._wanted[child.oid] = Flaw("missing", flaw.where, child.oid, text)


def _incomplete(repository: pygit2.Repository, tips: Sequence[Oid]) -> list[Oid]:
    """What the tips reach that is not whole, or names what is not; what is named before what names it."""
    is_whole = {EMPTY_TREE: True}
    found: list[Oid] = []
    named: dict[Oid, list[Oid]] = {}
    pending = [*tips]
    while pending:
        oid = pending[-1]
        if oid not in is_whole and oid not in named:
            try:
                kind, data = read_any(repository, oid)
                named[oid] = [child.oid for child in named_by(kind, oid, data)]
            except (DamagedError, ValueError):
                is_whole[oid] = False
                found.append(oid)
        if oid in is_whole:
            pending.pop()
        elif below := [one for one in named[oid] if one not in is_whole]:
            pending += below
        else:
            is_whole[oid] = all(is_whole[one] for one in named.pop(oid))
            if not is_whole[oid]:
                found.append(oid)
    return found


def _is_there(repository: pygit2.Repository, oid: Oid) -> bool:
    try:
        return check_loose(repository.path, oid) is not None or pygit2.Oid(hex=oid) in repository.odb
    except DamagedError:
        return False


def _is_damaged(repository: pygit2.Repository, oid: Oid) -> bool:
    try:
        read_any(repository, oid)
    except DamagedError:
        return True
    except AbsentError:
        return False
    return False


def _branches(flaws: Iterable[Flaw], offered: Sequence[str]) -> list[str]:
    """Of the branches that a peer has, those in whose history the missing objects may be."""
    wanted = {_branch_of(flaw.where) for flaw in flaws}
    return [ref for ref in offered if ref in wanted] if None not in wanted else list(offered)


def _branch_of(ref: str) -> str | None:
    """The branch whose history a ref shares; None where any may be meant."""
    if ref.startswith(LOCAL):
        return PROJECTS + ref.removeprefix(LOCAL).partition("/")[0]
    if ref.startswith(PEERS):
        return BRANCHES + ref.removeprefix(PEERS).partition("/")[2]
    return ref if ref.startswith(BRANCHES) else None
