"""The bytes of git objects: trees and commits as git spells them, and their ids.

Pure. Trees are read and written here rather than through libgit2 because a peer's tree may hold
names and modes that libgit2 silently changes, and because a tree of thousands of entries costs a
look-up for each in its builder. Promise: what is written passes `git fsck --strict`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Literal

from convergenced.errors import StoreError
from convergenced.model import MODE_TREE, Author, Commit, Oid, TreeEntry

ObjectKind = Literal["blob", "tree", "commit"]

_OID_BYTES = 20
_MODE = re.compile(rb"[1-7][0-7]{0,6}")
_PERSON = rb"(?P<name>[^<>\n\0]*) <(?P<email>[^<>\n\0]*)> (?P<time>0|[1-9][0-9]{0,18}) [+-][0-9]{4}\n"
_COMMIT = re.compile(
    rb"tree (?P<tree>[0-9a-f]{40})\n(?P<parents>(?:parent [0-9a-f]{40}\n)*+)author "
    + _PERSON
    + rb"committer "
    + re.sub(rb"\?P<([a-z]+)>", rb"?P<by_\1>", _PERSON)
    + rb"(?:[^\n\0]++\n)*+(?:\n(?P<message>[^\0]*+))?"
)
"""What `git fsck --strict` lets pass; headers of others' (`encoding`, `gpgsig`) stand before the message."""

_LAST_TIME = (1 << 63) - 1
_UNWRITABLE = str.maketrans("", "", "<>\n\r\0")
"""What git forbids in a name or address of a person."""


def object_id(kind: ObjectKind, data: bytes) -> Oid:
    """The id git gives to an object."""
    digest = hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)), usedforsecurity=False)
    digest.update(data)
    return Oid(digest.hexdigest())


def format_tree(entries: Iterable[TreeEntry]) -> bytes:
    """A tree's bytes. Raises `StoreError` for names git has no room for and for double names."""
    lines: dict[bytes, bytes] = {}
    seen: set[bytes] = set()
    for entry in entries:
        name = entry.name.encode("utf-8", "surrogateescape")
        if not name or b"/" in name or b"\0" in name or name in seen:
            raise StoreError(f"a tree cannot hold the name {entry.name!r} (again)")
        seen.add(name)
        key = name + b"/" if entry.mode == MODE_TREE else name
        lines[key] = b"%o %s\0" % (entry.mode, name) + bytes.fromhex(entry.oid)
    return b"".join(lines[key] for key in sorted(lines))


def parse_tree(data: bytes) -> tuple[TreeEntry, ...]:
    """A tree's entries in its own order. Raises `StoreError` for bytes that are no tree."""
    entries: list[TreeEntry] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at)
        end = data.find(b"\0", at)
        if not at < space < end or end + 1 + _OID_BYTES > len(data):
            raise StoreError("a tree object is malformed")
        mode = data[at:space]
        if _MODE.fullmatch(mode) is None:
            raise StoreError("a tree object is malformed")
        name = data[space + 1 : end].decode("utf-8", "surrogateescape")
        at = end + 1 + _OID_BYTES
        entries.append(TreeEntry(name, int(mode, 8), Oid(data[end + 1 : at].hex())))
    return tuple(entries)


def format_commit(commit: Commit) -> bytes:
    """A commit's bytes. The message gets the final LF git gives it."""
    person = f"{_person(commit.author)} {commit.time} +0000"
    lines = [f"tree {commit.tree}", *(f"parent {oid}" for oid in commit.parents)]
    lines += [f"author {person}", f"committer {person}"]
    message = commit.message.replace("\0", "").strip("\n") + "\n"
    return ("\n".join(lines) + "\n\n" + message).encode("utf-8", "surrogateescape")


def parse_commit(data: bytes) -> Commit:
    """A commit as we use it. Raises `StoreError` for bytes that are no commit."""
    found = _COMMIT.fullmatch(data)
    if found is None or max(int(found["time"]), int(found["by_time"])) > _LAST_TIME:
        raise StoreError("a commit object is malformed")
    parents = tuple(Oid(line[7:].decode()) for line in found["parents"].splitlines())
    author = Author(_text(found["name"]), _text(found["email"]))
    message = _text(found["message"] or b"")
    return Commit(Oid(found["tree"].decode()), parents, author, int(found["time"]), message)


def _person(author: Author) -> str:
    """Name and address as git stores them: an empty name would not parse again."""
    name = author.name.translate(_UNWRITABLE).strip() or "unknown"
    return f"{name} <{author.email.translate(_UNWRITABLE).strip()}>"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
