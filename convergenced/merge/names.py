"""Which names a file may have that travels between machines.

Owns the judgement on a single name and on names that stand side by side. Promise: what passes can be
created in one folder on Linux, macOS and Windows alike without hitting another file, a git folder or
anything outside; and every machine judges the same, because only the names count.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from posixpath import splitext

from convergenced.model import Oid

MAX_NAME = 255
"""Bytes in a name, at most: the limit of every common file system."""

MAX_DEPTH = 16
"""Folders inside one another, at most."""

_SESSION = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

_GIT_NAMES = frozenset({".git", ".gitmodules", ".gitattributes"})
"""What git gives a meaning inside a tree."""

_PROJECT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")

_MACHINE = re.compile(r"[a-z0-9][a-z0-9-]*-[0-9a-f]{8}")

_NTFS_SHORT = re.compile(r"(?:git|gitmod|gitatt|gi[0-9a-f]{4})~[0-9]+")
"""The 8.3 names under which NTFS also finds the above."""

_HFS_IGNORED = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])
"""Code points that HFS+ drops when it compares names."""


def is_session_id(text: str) -> bool:
    """Whether `text` is a lower-case UUID."""
    return _SESSION.fullmatch(text) is not None


def is_machine_id(text: str) -> bool:
    """Whether `text` is a machine's id: a name of lower-case letters, digits and `-`, and 8 hex digits."""
    return _MACHINE.fullmatch(text) is not None


def valid_project_id(text: str) -> bool:
    """Whether `text` can be a project's id: at most 100 of `[A-Za-z0-9._-]`, safe in a ref's name."""
    return (
        _PROJECT.fullmatch(text) is not None
        and ".." not in text
        and not text.endswith((".", ".lock"))
        and not text.startswith("-")
    )


def find_fault(name: str) -> str | None:
    """Why a name is refused, in words that follow "its name"; None for a good one."""
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not UTF-8"
    if name in ("", ".", ".."):
        return "leads out of its folder"
    if "/" in name or "\\" in name:
        return "holds a path separator"
    if any(unicodedata.category(char) == "Cc" for char in name):
        return "holds a control character"
    if size > MAX_NAME:
        return f"is longer than {MAX_NAME} bytes"
    plain = name.translate(_HFS_IGNORED).casefold()
    plain = plain.partition(":")[0].rstrip(". ")
    if plain in _GIT_NAMES or _NTFS_SHORT.fullmatch(plain):
        return "means something to git"
    return None


def collision_key(name: str) -> str:
    """Equal for names that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def beside(path: str, oid: Oid) -> str:
    """The name under which a second version of a file is kept: `<stem>.<8 hex of content><suffix>`."""
    stem, suffix = splitext(path)
    folder, slash, name = stem.rpartition("/")
    tag = f".{oid[:8]}{suffix}"
    room = MAX_NAME - len(tag.encode())
    short = name.encode()[:room].decode("utf-8", "ignore")
    return f"{folder}{slash}{short}{tag}"


def settle_names(files: Mapping[str, Oid]) -> dict[str, Oid]:
    """The same files under names that do not collide, in a way that depends on nothing else.

    Two sides may each have brought a file that some file system takes for the other's (`A.md` and
    `a.md`), or a file where the other has a folder. Folders that collide become the first in byte
    order. Of files, the first keeps its name and those with other content are kept beside it.
    """
    ordered = sorted(files, key=lambda path: path.encode("utf-8", "surrogateescape"))
    folders: dict[str, str] = {}
    for path in ordered:
        _spell_folder(folders, path)
    settled: dict[str, Oid] = {}
    taken: dict[str, Oid] = {}
    for path in ordered:
        oid = files[path]
        target = _spell_folder(folders, path) + path.rpartition("/")[2]
        key = collision_key(target)
        if key in folders or taken.get(key, oid) != oid:
            target = beside(target, oid)
        elif key in taken:
            continue
        taken[collision_key(target)] = oid
        settled[target] = oid
    return settled


def _spell_folder(folders: dict[str, str], path: str) -> str:
    """The spelling that stands for the folder of `path`, with a final `/`; "" at the top."""
    folder, _, _ = path.rpartition("/")
    if not folder:
        return ""
    wanted = _spell_folder(folders, folder) + folder.rpartition("/")[2]
    return folders.setdefault(collision_key(wanted), wanted) + "/"
