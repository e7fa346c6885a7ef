"""Copies history from one repository to another and looks at each object.

Owns what may enter a repository without the git program's checks. Promises: an object gets there
after everything it names, so that a repository holds whole histories at every moment; only under
the id that its bytes really have; and only what `git fsck --strict` has nothing against, as one bad
tree in a history would keep every stricter hub from taking it ever again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pygit2
from pygit2.enums import ObjectType

from convergenced.errors import StoreError
from convergenced.model import MODE_TREE, LocalPath, Oid
from convergenced.store.intake import Intake
from convergenced.store.loose import MAX_OBJECT, DamagedError, read_loose
from convergenced.store.objects import ObjectKind, format_tree, object_id, parse_commit, parse_tree

_MODE_SUBMODULE = 0o160000
_MODES = frozenset({MODE_TREE, 0o100644, 0o100755, 0o100664, 0o120000, _MODE_SUBMODULE})
_KINDS: dict[ObjectKind, ObjectType] = {
    "blob": ObjectType.BLOB,
    "tree": ObjectType.TREE,
    "commit": ObjectType.COMMIT,
}


_HEX = rb"[0-9a-f]{40}"
_PERSON = rb"[^<>\n]*<[^<>\n]*> (?:0|[1-9][0-9]{0,18}) [+-][0-9]{4}\n"
_COMMIT = re.compile(
    rb"tree %b\n(?:parent %b\n)*author (?! )%b(?:committer (?! )%b)(?:[^\n]+\n)*\n"
    % (_HEX, _HEX, _PERSON, _PERSON)
)
"""The form of a commit's head that `git fsck --strict` has nothing against."""


class AbsentError(ValueError):
    """There is no such object."""


class Named(NamedTuple):
    """An object as another one names it: as what, and under which name in a tree."""

    oid: Oid
    kind: ObjectKind
    name: str


def copy_history(
    source: pygit2.Repository, target: pygit2.Repository, tip: pygit2.Oid, check: Callable[[], None]
) -> None:
    """Copies `tip` and what it reaches into `target`.

    What `target` has is taken to be whole. `check` is called between objects and may raise to
    break off. Raises `ValueError` for what is absent, damaged or not allowed, and `OSError` where
    `target` cannot be written.
    """
    arriving = Intake(LocalPath(target.path))
    pending: list[tuple[pygit2.Oid, ObjectKind, bytes | None]] = [(tip, "commit", None)]
    while pending:
        check()
        oid, kind, data = pending.pop()
        name = Oid(str(oid))
        if arriving.holds(name) or oid in target.odb:
            continue
        if data is None:
            data = _read(source, oid, kind)
            children: list[tuple[pygit2.Oid, ObjectKind, bytes | None]] = [
                (pygit2.Oid(hex=child.oid), child.kind, None) for child in named_by(kind, name, data)
            ]
            if children:
                # Read again when its turn comes: a long history is not held in memory.
                pending.append((oid, kind, data if kind == "tree" else b""))
                pending += children
                continue
        data = data or _read(source, oid, kind)
        with _refusing():
            arriving.add(name, kind, data)
    with _refusing():
        arriving.settle()


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Tells what the target's disk refuses apart from what is wrong with the source."""
    try:
        yield
    except StoreError as error:
        raise OSError(error.summary) from error


def take_over(
    source: pygit2.Repository,
    store: pygit2.Repository,
    tip: pygit2.Oid,
    tracking: str,
    check: Callable[[], None],
) -> None:
    """Brings `tip` into the store, then has `tracking` name it.

    Raises `ValueError` for what is wrong with the source, `StoreError` for what is wrong here.
    """
    try:
        copy_history(source, store, tip, check)
        store.references.create(tracking, tip, force=True)
    except (pygit2.GitError, OSError, KeyError) as error:
        raise StoreError(f"the store cannot be written: {error}", "free space on the disk?") from error


def read_checked(source: pygit2.Repository, oid: pygit2.Oid, kind: ObjectKind) -> bytes:
    """An object's bytes as its id stands for them.

    Raises `DamagedError`, also for an object of another kind, and `AbsentError`.
    """
    found, data = read_any(source, Oid(str(oid)))
    if found != kind:
        raise DamagedError(f"it is not the {kind} it is named as")
    return data


def read_any(source: pygit2.Repository, oid: Oid) -> tuple[ObjectKind, bytes]:
    """An object's kind and bytes, whatever it is. Raises `DamagedError` and `AbsentError`."""
    return read_loose(source.path, oid) or _read_packed(source, pygit2.Oid(hex=oid))


def _read_packed(source: pygit2.Repository, oid: pygit2.Oid) -> tuple[ObjectKind, bytes]:
    try:
        number, size = source.odb.read_header(oid)
        if size > MAX_OBJECT:
            raise DamagedError(f"it has {size} bytes")
        data = bytes(source.odb.read(oid)[1])
    except KeyError as error:
        raise AbsentError("it is not there") from error
    except pygit2.GitError as error:
        raise DamagedError(str(error)) from error
    kind = next((one for one, its_number in _KINDS.items() if its_number == number), None)
    if kind is None or object_id(kind, data) != str(oid):
        raise DamagedError("its bytes have another name")
    return kind, data


def _read(source: pygit2.Repository, oid: pygit2.Oid, kind: ObjectKind) -> bytes:
    try:
        return read_checked(source, oid, kind)
    except (AbsentError, DamagedError) as error:
        raise ValueError(f"object {oid} is damaged: {error}") from error


def named_by(kind: ObjectKind, oid: Oid, data: bytes) -> Sequence[Named]:
    """What an object names, having looked at its form. Raises `ValueError` for what git would not accept."""
    try:
        match kind:
            case "blob":
                return ()
            case "tree":
                return _tree_names(oid, data)
            case "commit":
                return _commit_names(oid, data)
    except StoreError as error:
        raise ValueError(f"not allowed: {kind} {oid}: {error.summary}") from error


def _commit_names(oid: Oid, data: bytes) -> Sequence[Named]:
    if _COMMIT.match(data) is None or b"\0" in data:
        raise ValueError(f"not allowed: commit {oid} is malformed")
    commit = parse_commit(data)
    return [*(Named(parent, "commit", "") for parent in commit.parents), Named(commit.tree, "tree", "")]


def _tree_names(oid: Oid, data: bytes) -> Sequence[Named]:
    entries = parse_tree(data)
    for entry in entries:
        if entry.mode not in _MODES or is_dangerous(entry.name):
            raise ValueError(f"not allowed: tree {oid} holds {entry.name!r} with mode {entry.mode:o}")
    if format_tree(entries) != data:
        raise ValueError(f"not allowed: tree {oid} is not in git's order")
    return [
        Named(entry.oid, "tree" if entry.mode == MODE_TREE else "blob", entry.name)
        for entry in entries
        if entry.mode != _MODE_SUBMODULE  # a submodule's commit lies elsewhere
    ]


_GIT_NAMES = (".git", ".gitmodules")
_NTFS_SHORT = re.compile(r"git~1|gitmod~[1-4]|gi7eba~[1-9]")
_IGNORED_BY_HFS = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")


def is_dangerous(name: str) -> bool:
    """Whether some file system takes the name for `.git`, for this folder or the one above.

    The rules are those of `git fsck` (hasDot, hasDotdot, hasDotgit), HFS+ and NTFS included. A
    `.gitmodules` counts too: what it may say is git's own matter, and nothing of ours is called so.
    """
    if name in ("", ".", ".."):
        return True
    if _IGNORED_BY_HFS.sub("", name).casefold() in _GIT_NAMES:
        return True
    parts = (part.partition(":")[0].rstrip(". ").casefold() for part in name.split("\\"))
    return any(part in _GIT_NAMES or _NTFS_SHORT.fullmatch(part) for part in parts)
