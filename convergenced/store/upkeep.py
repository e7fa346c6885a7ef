"""Upkeep of the store: loose objects go into packs, small packs into larger ones.

Owns the form in which objects lie on disk, not which there are. Promises: an object is readable at
every moment, also for another thread or process and after a crash, because a pack is durable and was
indexed from its own bytes before anything that it replaces goes; objects that no ref names are kept
too; a pack is rewritten only when others of its size have gathered, so that the work over a store's
life grows with the store and not with its square; memory stays bounded by the largest object.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import pygit2
from pygit2.enums import FileMode, ObjectType
from pygit2.errors import check_error
from pygit2.ffi import C, ffi

from convergenced.errors import StoreError
from convergenced.model import LocalPath
from convergenced.store.loose import sync_folders
from convergenced.store.packs import IDX_MAGIC, IDX_NAMES_AT

LOOSE_LIMIT = 2_000
"""Loose objects that may gather before they are packed."""

PACK_LIMIT = 50
"""Packs worth joining that may gather: each fetch and each step of a long import makes one."""

GROWTH = 2
"""A pack is left alone while it is at least this many times as large as all smaller ones together."""

MEMORY_LIMIT = 16 * 1024 * 1024
"""Bytes that libgit2 may hold as a window, and as finished deltas."""

_FAN_OUT = "17"
"""The folder by which the number of loose objects is estimated: names are spread evenly."""

_LOOSE_NAME = re.compile(r"[0-9a-f]{38}")
_FAILURES = (pygit2.GitError, KeyError, ValueError, OSError)

Oids = Collection[pygit2.Oid]


@dataclass(frozen=True, slots=True)
class Upkept:
    """What upkeep did: objects that went into a pack, and packs that were joined into one."""

    packed: int = 0
    joined: int = 0


@dataclass(frozen=True, slots=True)
class _Pack:
    name: str
    oids: frozenset[bytes]


class Upkeep:
    """The upkeep of one store. `check` is called often and may raise to break off; nothing is lost by it."""

    def __init__(self, path: LocalPath, check: Callable[[], None] = lambda: None) -> None:
        self._objects = os.path.join(path, "objects")
        self._folder = os.path.join(self._objects, "pack")
        self._workshop = os.path.join(self._objects, "upkeep")
        """Where a pack is made; what a crash leaves there is swept by the next run."""
        self._path = path
        self._check = check
        self._replaced: set[str] = set()
        """Packs that a newer one holds; another thread may be about to read them, so they go next time."""

    def is_due(self) -> bool:
        """Whether there is enough to do. Looks at two folders."""
        with contextlib.suppress(FileNotFoundError):
            if len(os.listdir(os.path.join(self._objects, _FAN_OUT))) * 256 >= LOOSE_LIMIT:
                return True
        with contextlib.suppress(FileNotFoundError):
            sizes = self._pack_sizes()
            return len(_to_join({name: sizes[name] for name in sizes.keys() - self._replaced})) >= PACK_LIMIT
        return False

    def run(self) -> Upkept:
        """Packs what is loose, then joins packs. Raises `StoreError` where the disk refuses."""
        try:
            self._drop_replaced()
            return Upkept(self._pack_loose(), self._join_packs())
        except _FAILURES as error:
            raise StoreError(
                f"the store {self._path} could not be packed: {error}",
                "nothing is lost; it is tried again by itself",
            ) from error

    def _drop_replaced(self) -> None:
        for name in self._replaced:
            for suffix in (".idx", ".pack"):  # without its index a pack is not looked at
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._folder, name + suffix))
        self._replaced.clear()

    def _pack_loose(self) -> int:
        loose = dict(self._loose())
        if not loose:
            return 0
        pack = self._write_pack(loose.keys())
        for oid, path in loose.items():
            if oid.raw in pack.oids:
                os.unlink(path)
        return len(pack.oids)

    def _loose(self) -> Iterator[tuple[pygit2.Oid, str]]:
        for folder in sorted(os.listdir(self._objects)):
            if len(folder) != 2:
                continue
            self._check()
            for name in os.listdir(os.path.join(self._objects, folder)):
                if _LOOSE_NAME.fullmatch(name):
                    yield pygit2.Oid(hex=folder + name), os.path.join(self._objects, folder, name)

    def _join_packs(self) -> int:
        names = _to_join(self._pack_sizes())
        if len(names) < 2:
            return 0
        oids = {pygit2.Oid(raw=raw) for name in names for raw in self._names_in(name)}
        pack = self._write_pack(oids)
        if len(pack.oids) == len(oids):  # else something in there cannot be read: leave it as it is
            self._replaced.update(name for name in names if name != pack.name)
        return len(names)

    def _pack_sizes(self) -> dict[str, int]:
        sizes = {}
        for entry in os.scandir(self._folder):
            name, suffix = os.path.splitext(entry.name)
            if suffix == ".pack" and os.path.exists(os.path.join(self._folder, name + ".idx")):
                sizes[name] = entry.stat().st_size
        return sizes

    def _names_in(self, pack: str) -> Iterator[bytes]:
        """The raw ids in a pack, from its index (version 2, see gitformat-pack(5))."""
        with open(os.path.join(self._folder, pack + ".idx"), "rb") as stream:
            head = stream.read(IDX_NAMES_AT)
            if not head.startswith(IDX_MAGIC) or len(head) < IDX_NAMES_AT:
                raise ValueError(f"the index of {pack} is damaged")
            (count,) = struct.unpack(">I", head[-4:])
            for _ in range(count):
                yield stream.read(20)

    def _write_pack(self, oids: Oids) -> _Pack:
        """Writes one durable pack of all that can be read, under its own name."""
        repo = pygit2.Repository(self._path)
        for limit in ("pack.windowMemory", "pack.deltaCacheSize"):
            if limit not in repo.config:
                repo.config[limit] = MEMORY_LIMIT
        try:
            self._build(repo, oids)
        except pygit2.GitError:
            sound = [oid for oid in oids if _is_sound(repo, oid)]
            if len(sound) == len(oids):
                raise
            self._build(repo, sound)
        (name,) = (name for name in os.listdir(self._workshop) if name.endswith(".pack"))
        pack = name.removesuffix(".pack")
        for suffix in (".pack", ".idx"):  # with the index the pack comes into being
            os.rename(os.path.join(self._workshop, pack + suffix), os.path.join(self._folder, pack + suffix))
        sync_folders([self._folder])
        os.rmdir(self._workshop)
        return _Pack(pack, frozenset(self._names_in(pack)))

    def _build(self, repo: pygit2.Repository, oids: Oids) -> None:
        """Has a pack in the workshop, and nothing else."""
        shutil.rmtree(self._workshop, ignore_errors=True)
        os.mkdir(self._workshop, 0o700)
        builder = pygit2.PackBuilder(repo)
        builder.set_threads(1)
        for oid, name in _named(repo, oids, self._check).items():
            _insert(builder, oid, name)
        self._check()
        builder.write(self._workshop)


def _to_join(sizes: Mapping[str, int]) -> list[str]:
    """The packs from the smallest up to the last that is not `GROWTH` times as large as all below it."""
    ordered = sorted(sizes, key=lambda name: (sizes[name], name))
    total, end = 0, 0
    for number, name in enumerate(ordered):
        if number and sizes[name] < GROWTH * total:
            end = number + 1
        total += sizes[name]
    return ordered[:end]


def _named(repo: pygit2.Repository, oids: Oids, check: Callable[[], None]) -> dict[pygit2.Oid, bytes]:
    """The readable ones of the objects, each with the path at which a commit of them has it.

    Objects of one path are tried as deltas of each other: that makes the difference between a pack
    as small as git's and one four times as large.
    """
    kinds = {}
    for oid in oids:
        check()
        with contextlib.suppress(*_FAILURES):
            kinds[oid] = repo.odb.read_header(oid)[0]
    names: dict[pygit2.Oid, bytes] = {}
    known: dict[bytes, bytes] = {}
    for oid, kind in kinds.items():
        if kind == ObjectType.COMMIT:
            check()
            with contextlib.suppress(*_FAILURES):
                _name_below(repo, repo[oid].peel(pygit2.Tree).id, kinds.keys(), names, known)
    return names | dict.fromkeys(kinds.keys() - names.keys(), b"")


def _name_below(
    repo: pygit2.Repository,
    root: pygit2.Oid,
    wanted: Oids,
    names: dict[pygit2.Oid, bytes],
    known: dict[bytes, bytes],
) -> None:
    """Gives the wanted objects of a tree their paths. A tree that has one was gone through already."""
    waiting = [(root, b"/")]
    while waiting:
        tree, path = waiting.pop()
        if tree in names or tree not in wanted:
            continue
        names[tree] = path
        for entry in repo[tree].peel(pygit2.Tree):
            below = path + (entry.raw_name or b"") + b"/"
            below = known.setdefault(below, below)
            if entry.filemode == FileMode.TREE:
                waiting.append((entry.id, below))
            elif entry.id in wanted:
                names.setdefault(entry.id, below)


def _is_sound(repo: pygit2.Repository, oid: pygit2.Oid) -> bool:
    try:
        repo.odb.read(oid)  # which compares the bytes with the name
    except _FAILURES:
        return False
    return True


def _insert(builder: pygit2.PackBuilder, oid: pygit2.Oid, name: bytes) -> None:
    """`PackBuilder.add` with a name, which the binding has no word for."""
    raw = ffi.new("git_oid *")
    ffi.buffer(raw)[:] = oid.raw
    check_error(C.git_packbuilder_insert(builder._packbuilder, raw, name))
