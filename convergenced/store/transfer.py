"""Copies history from one repository to another, object by object, and looks at each.

Owns what may enter a repository without the git program's checks. Promises: an object is written
after everything it names, so that a repository holds whole histories at every moment; only under
the id that its bytes really have; and only what `git fsck --strict` has nothing against, as one bad
tree in a history would keep every stricter hub from taking it ever again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pygit2
from pygit2.enums import ObjectType

from convergenced.errors import StoreError
from convergenced.model import MODE_TREE
from convergenced.store.objects import ObjectKind, format_tree, object_id, parse_commit, parse_tree

MAX_OBJECT = 1 << 30
"""Bytes in one object; a larger one is not read into memory."""

_MODE_SUBMODULE = 0o160000
_MODES = frozenset({MODE_TREE, 0o100644, 0o100755, 0o100664, 0o120000, _MODE_SUBMODULE})
_KINDS: dict[ObjectKind, ObjectType] = {
    "blob": ObjectType.BLOB,
    "tree": ObjectType.TREE,
    "commit": ObjectType.COMMIT,
}


def copy_history(
    source: pygit2.Repository, target: pygit2.Repository, tip: pygit2.Oid, check: Callable[[], None]
) -> None:
    """Copies `tip` and what it reaches into `target`.

    What `target` has is taken to be whole. `check` is called between objects and may raise to
    break off. Raises `ValueError` for what is absent, damaged or not allowed, and what pygit2
    raises where `target` cannot be written.
    """
    pending: list[tuple[pygit2.Oid, ObjectKind, bytes | None]] = [(tip, "commit", None)]
    while pending:
        check()
        oid, kind, data = pending.pop()
        if oid in target:
            continue
        if data is None:
            data = _read(source, oid, kind)
            children = [(child, child_kind, None) for child, child_kind in _named_by(kind, oid, data)]
            if children:
                # Read again when its turn comes: a long history is not held in memory.
                pending.append((oid, kind, data if kind == "tree" else b""))
                pending += children
                continue
        target.odb.write(_KINDS[kind], data or _read(source, oid, kind))


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


def _read(source: pygit2.Repository, oid: pygit2.Oid, kind: ObjectKind) -> bytes:
    try:
        found, size = source.odb.read_header(oid)
        data = bytes(source.odb.read(oid)[1]) if size <= MAX_OBJECT else b""
    except KeyError as error:
        raise ValueError(f"object {oid} is damaged: it is not there") from error
    except pygit2.GitError as error:
        raise ValueError(f"object {oid} is damaged: {error}") from error
    if found != _KINDS[kind]:
        raise ValueError(f"object {oid} is damaged: it is not the {kind} it is named as")
    if size > MAX_OBJECT:
        raise ValueError(f"not allowed: object {oid} has {size} bytes")
    if object_id(kind, data) != str(oid):
        raise ValueError(f"object {oid} is damaged: its bytes have another name")
    return data


def _named_by(kind: ObjectKind, oid: pygit2.Oid, data: bytes) -> Sequence[tuple[pygit2.Oid, ObjectKind]]:
    """What an object names, having looked at its form."""
    try:
        match kind:
            case "blob":
                return ()
            case "tree":
                return _tree_names(oid, data)
            case "commit":
                commit = parse_commit(data)
                parents: list[tuple[pygit2.Oid, ObjectKind]] = [
                    (pygit2.Oid(hex=parent), "commit") for parent in commit.parents
                ]
                return [*parents, (pygit2.Oid(hex=commit.tree), "tree")]
    except StoreError as error:
        raise ValueError(f"not allowed: {kind} {oid}: {error.summary}") from error


def _tree_names(oid: pygit2.Oid, data: bytes) -> Sequence[tuple[pygit2.Oid, ObjectKind]]:
    entries = parse_tree(data)
    for entry in entries:
        if entry.mode not in _MODES or is_dangerous(entry.name):
            raise ValueError(f"not allowed: tree {oid} holds {entry.name!r} with mode {entry.mode:o}")
    if format_tree(entries) != data:
        raise ValueError(f"not allowed: tree {oid} is not in git's order")
    return [
        (pygit2.Oid(hex=entry.oid), "tree" if entry.mode == MODE_TREE else "blob")
        for entry in entries
        if entry.mode != _MODE_SUBMODULE  # a submodule's commit lies elsewhere
    ]


_IGNORED_BY_HFS = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")


def is_dangerous(name: str) -> bool:
    """Whether some file system takes the name for `.git`, for this folder or the one above.

    The rules are those of `git fsck` (hasDot, hasDotdot, hasDotgit), HFS+ and NTFS included.
    """
    if name in ("", ".", ".."):
        return True
    if _IGNORED_BY_HFS.sub("", name).casefold() == ".git":
        return True
    parts = (part.partition(":")[0].rstrip(". ").casefold() for part in name.split("\\"))
    return any(part in (".git", "git~1") for part in parts)
