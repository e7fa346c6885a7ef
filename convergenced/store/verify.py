"""Reads a store in full and tells of everything that is wrong with it. Changes nothing.

Owns the walk over all that the refs reach, and the look at packs, refs and locks as files. Promises: each
object is read once, from the disk and not from a cache; memory holds the ids and one object at a time;
what passes here passes `git fsck --strict`. A store in use may be verified: what another process is just
putting there is not taken for a flaw.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pygit2

from convergenced.errors import StoreError
from convergenced.model import EMPTY_TREE, LocalPath, Oid
from convergenced.store import damage
from convergenced.store.git import GitStore
from convergenced.store.handles import GIT_FAILURES, store_handle, tip
from convergenced.store.loose import DamagedError, check_loose
from convergenced.store.objects import ObjectKind
from convergenced.store.transfer import AbsentError, Named, named_by, read_checked

FlawKind = Literal["missing", "damaged", "malformed", "ref", "lock", "pack"]

PACKS = os.path.join("objects", "pack")
_READ_BYTES = 1024 * 1024
_TRAILER_BYTES = 20


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing that is wrong with a store.

    "missing": no such object. "damaged": its bytes are not those that its id stands for. "malformed": whole,
    but not what it is named as, or not what git accepts. "ref": a ref that holds no commit's id, or that
    names something that is no commit. "lock": left behind by a process that was stopped. "pack": a pack
    that cannot be relied on. `where` is the ref by which an object was reached, else a file's path in the
    store. `oid` is the object's id, None where it is about a file. `text` is for a person.
    """

    kind: FlawKind
    where: str
    oid: Oid | None
    text: str


def verify(
    store: GitStore, refs: Collection[str] | None = None, check: Callable[[], None] = lambda: None
) -> Iterator[Flaw]:
    """All flaws of the store, as they are found.

    `refs` are full names: only what they reach is read then, and only they are looked at; packs are looked
    at in any case. `check` is called between objects and may raise to break off. Raises `StoreError` where
    the store cannot be opened at all.
    """
    path = store.path
    suspects = {*_locks(path), *_single_packs(path)}
    yield from _damaged_refs(path, refs)
    yield from _damaged_packs(path, check)
    yield from _walk(path, refs, check)
    for where in sorted(suspects & {*_locks(path), *_single_packs(path)}):
        if where.endswith(".lock"):
            if refs is None or where.removesuffix(".lock") in refs:
                yield Flaw("lock", where, None, f"{where} is a lock that nobody gives back")
        else:
            yield Flaw("pack", where, None, f"{where} is half of a pack: the other file is not there")


# -- files


def _locks(path: LocalPath) -> Iterator[str]:
    for name in sorted(os.listdir(path)):
        if name.endswith(".lock"):
            yield name
    yield from (name for name in damage.ref_files(path) if name.endswith(".lock"))


def _damaged_refs(path: LocalPath, refs: Collection[str] | None) -> Iterator[Flaw]:
    names = [*damage.ref_files(path), "HEAD"] if refs is None else list(refs)
    for name in names:
        if not name.endswith(".lock") and damage.is_damaged_ref(os.path.join(path, name)):
            yield Flaw("ref", name, None, f"{name} is empty or damaged")


def _pack_files(path: LocalPath) -> list[str]:
    try:
        names = sorted(os.listdir(os.path.join(path, PACKS)))
    except FileNotFoundError:
        return []
    return [os.path.join(PACKS, name) for name in names if name.startswith("pack-")]


def _single_packs(path: LocalPath) -> Iterator[str]:
    """Of each pack that lacks its index, and of each index that lacks its pack, the file that is there."""
    stems = [os.path.splitext(name) for name in _pack_files(path) if name.endswith((".pack", ".idx"))]
    for stem, ending in stems:
        if (stem, ".idx" if ending == ".pack" else ".pack") not in stems:
            yield stem + ending


def _damaged_packs(path: LocalPath, check: Callable[[], None]) -> Iterator[Flaw]:
    single = set(_single_packs(path))
    for name in _pack_files(path):
        if name.endswith((".pack", ".idx")) and name not in single:
            reason = _why_damaged(os.path.join(path, name), check)
            if reason:
                yield Flaw("pack", name, None, f"{name} is damaged: {reason}")


def _why_damaged(file: str, check: Callable[[], None]) -> str:
    """Why a pack or its index does not end with the digest of what it holds; empty where it does."""
    digest = hashlib.sha1(usedforsecurity=False)
    try:
        with open(file, "rb") as stream:
            left = os.fstat(stream.fileno()).st_size - _TRAILER_BYTES
            while left > 0:
                check()
                chunk = stream.read(min(_READ_BYTES, left))
                if not chunk:
                    break
                digest.update(chunk)
                left -= len(chunk)
            whole = stream.read() == digest.digest()
    except FileNotFoundError:
        return ""  # packed anew meanwhile
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return "" if whole else "its bytes do not match its checksum"


# -- objects


def _walk(path: LocalPath, refs: Collection[str] | None, check: Callable[[], None]) -> Iterator[Flaw]:
    repository = store_handle(path)
    seen: dict[ObjectKind, set[bytes]] = {"commit": set(), "tree": set(), "blob": set()}
    for ref in _names(repository, path) if refs is None else sorted(refs):
        target = tip(repository, ref)
        if target is None:
            continue  # gone meanwhile, or told of already
        pending = [(Named(Oid(str(target)), "commit", ""), "")]
        while pending:
            check()
            named, at = pending.pop()
            name = bytes.fromhex(named.oid)
            if name in seen[named.kind] or named.oid == EMPTY_TREE:
                continue
            seen[named.kind].add(name)
            shown = f"{named.kind} {named.oid}" + (f" ({at})" if at else "")
            try:
                children = _look_at(repository, named)
            except AbsentError:
                yield Flaw("missing", ref, named.oid, f"{shown} is missing")
            except DamagedError as error:
                yield Flaw("damaged", ref, named.oid, f"{shown} is damaged: {error}")
            except ValueError as error:
                yield Flaw("malformed", ref, named.oid, f"{shown} is {error}")
            else:
                # The last one is looked at first: a commit's tree before its parents, so that little waits.
                pending += [(child, f"{at}/{child.name}".lstrip("/")) for child in children]


def _look_at(repository: pygit2.Repository, named: Named) -> Sequence[Named]:
    if named.kind != "blob":
        return named_by(
            named.kind, named.oid, read_checked(repository, pygit2.Oid(hex=named.oid), named.kind)
        )
    loose = check_loose(repository.path, named.oid)
    if loose is None:
        read_checked(repository, pygit2.Oid(hex=named.oid), "blob")
    elif loose != "blob":
        raise DamagedError("it is not the blob it is named as")
    return ()


def _names(repository: pygit2.Repository, path: LocalPath) -> list[str]:
    try:
        names = [name.decode("utf-8", "surrogateescape") for name in repository.raw_listall_references()]
    except GIT_FAILURES as error:
        raise StoreError(f"the refs of {path} cannot be read: {error}", "check the disk") from error
    return sorted(names)
