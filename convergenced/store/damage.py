"""Finding and setting aside what a crash or a bad disk left behind in the store's folder.

Owns the files of the repository as files. Promise: nothing is deleted, only moved to
`<store>/set-aside/`, and every move is reported. Recovery runs when the store is opened by the one
process that may write to it, before anything else does.
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from typing import BinaryIO

from convergenced.errors import StoreError
from convergenced.model import LocalPath, Oid, Refusal

SET_ASIDE = "set-aside"
"""The folder in the store where damaged files go."""

MAX_ASIDE = 10_000
"""Files set aside under one name, at most."""

_REF_CONTENT = re.compile(rb"(?:[0-9a-f]{40}|ref: refs/[^\0\n]+)\n?")
_LOCK = "a lock left behind by a process that was stopped"
_INFLATE_BYTES = 1024 * 1024


def recover_refs(path: LocalPath) -> tuple[Refusal, ...]:
    """Sets aside left-over lock files and ref files that hold no ref."""
    locks = [name for name in sorted(os.listdir(path)) if name.endswith(".lock")]
    refusals = [_set_aside(path, name, _LOCK) for name in locks]
    if _is_damaged_ref(os.path.join(path, "HEAD")):
        refusals.append(_set_aside(path, "HEAD", "it named no branch"))
    for folder, _, names in os.walk(os.path.join(path, "refs")):
        for name in sorted(names):
            relative = os.path.relpath(os.path.join(folder, name), path)
            if name.endswith(".lock"):
                refusals.append(_set_aside(path, relative, _LOCK))
            elif _is_damaged_ref(os.path.join(folder, name)):
                refusals.append(_set_aside(path, relative, "the ref was empty or damaged"))
    return tuple(refusals)


def set_aside_if_damaged(path: LocalPath, oid: Oid) -> bool:
    """Moves a loose object away whose content does not match its name. True where it did.

    Packed objects are not looked at: packs are checked as a whole when they are made.
    """
    relative = os.path.join("objects", oid[:2], oid[2:])
    file = os.path.join(path, relative)
    try:
        with open(file, "rb") as stream:
            damaged = not _inflates_to(stream, oid)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error}", "check the disk") from error
    if damaged:
        _set_aside(path, relative, "")
    return damaged


def _inflates_to(stream: BinaryIO, oid: Oid) -> bool:
    """Whether the deflated stream holds exactly the object of that id."""
    digest = hashlib.sha1(usedforsecurity=False)
    inflate = zlib.decompressobj()
    try:
        while chunk := stream.read(_INFLATE_BYTES):
            while chunk:
                digest.update(inflate.decompress(chunk, _INFLATE_BYTES))
                chunk = inflate.unconsumed_tail
    except zlib.error:
        return False
    return inflate.eof and digest.hexdigest() == oid


def _is_damaged_ref(file: str) -> bool:
    try:
        with open(file, "rb") as stream:
            return _REF_CONTENT.fullmatch(stream.read(4096)) is None
    except FileNotFoundError:
        return False


def _set_aside(path: LocalPath, relative: str, reason: str) -> Refusal:
    folder = os.path.join(path, SET_ASIDE)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    stem = relative.replace(os.sep, "+")
    for number in range(MAX_ASIDE):
        target = os.path.join(folder, f"{stem}.{number}")
        if not os.path.lexists(target):
            os.rename(os.path.join(path, relative), target)
            return Refusal(f"store: {relative}", reason, f"it was moved to {target}")
    raise StoreError(f"{folder} is full", "look through it and empty it")
