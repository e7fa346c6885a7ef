"""Finding and setting aside what a crash or a bad disk left behind in the store's folder.

Owns the files of the repository as files. Promise: nothing is deleted, only moved to
`<store>/set-aside/`, and every move is reported. Recovery runs when the store is opened by the one
process that may write to it, before anything else does.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from convergenced.errors import RefMovedError, StoreError
from convergenced.model import LocalPath, Oid, Refusal
from convergenced.store.loose import DamagedError, check_loose, loose_file

SET_ASIDE = "set-aside"
"""The folder in the store where damaged files go."""

MAX_ASIDE = 10_000
"""Files set aside under one name, at most."""

_REF_CONTENT = re.compile(rb"(?:[0-9a-f]{40}|ref: refs/[^\0\n]+)\n?")
_PACKED_REFS = "packed-refs"
_PACKED_LINE = re.compile(rb"#[^\0\n]*\n|[0-9a-f]{40} refs/[^\0\n]+\n|\^[0-9a-f]{40}\n")
_WANTS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_LOCK = "a lock left behind by a process that was stopped"


def may_be_damage(error: Exception) -> bool:
    """Whether what failed tells of a store that is damaged, rather than of a want that will pass."""
    if not isinstance(error, StoreError) or isinstance(error, RefMovedError):
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _WANTS:
            return False
        if any(os.strerror(want) in str(cause) for want in _WANTS):
            return False  # libgit2 tells it in words only
        cause = cause.__cause__
    return True


def recover_refs(path: LocalPath) -> tuple[Refusal, ...]:
    """Sets aside left-over lock files and ref files that hold no ref."""
    locks = [name for name in sorted(os.listdir(path)) if name.endswith(".lock")]
    refusals = [set_aside(path, name, _LOCK) for name in locks]
    if is_damaged_ref(os.path.join(path, "HEAD")):
        refusals.append(set_aside(path, "HEAD", "it named no branch"))
    for relative in list(ref_files(path)):
        if relative.endswith(".lock"):
            refusals.append(set_aside(path, relative, _LOCK))
        elif is_damaged_ref(os.path.join(path, relative)):
            refusals.append(set_aside(path, relative, "the ref was empty or damaged"))
    refusals.extend(_recover_packed_refs(path))
    return tuple(refusals)


def _recover_packed_refs(path: LocalPath) -> list[Refusal]:
    """Keeps the whole lines of a `packed-refs` that git cannot read; the refs that it lost are made again."""
    file = os.path.join(path, _PACKED_REFS)
    try:
        with open(file, "rb") as stream:
            lines = stream.read().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    whole = [line for line in lines if _PACKED_LINE.fullmatch(line)]
    if whole == lines:
        return []
    refusal = set_aside(path, _PACKED_REFS, "the list of refs was damaged")
    with open(f"{file}.new", "wb") as stream:
        stream.writelines(whole)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(f"{file}.new", file)
    return [refusal]


def set_aside_if_damaged(path: LocalPath, oid: Oid) -> bool:
    """Moves a loose object away whose content does not match its name. True where it did.

    Packed objects are not looked at: packs are checked as a whole when they are made.
    """
    try:
        check_loose(path, oid)
    except DamagedError:
        set_aside(path, os.path.relpath(loose_file(path, oid), path), "")
        return True
    return False


def ref_files(path: LocalPath) -> Iterator[str]:
    """All files below `refs`, relative to the store; locks are among them."""
    for folder, _, names in os.walk(os.path.join(path, "refs")):
        for name in sorted(names):
            yield os.path.relpath(os.path.join(folder, name), path)


def is_damaged_ref(file: str) -> bool:
    """Whether a file is there that should hold a ref and does not."""
    try:
        with open(file, "rb") as stream:
            return _REF_CONTENT.fullmatch(stream.read(4096)) is None
    except (FileNotFoundError, IsADirectoryError):
        return False


def keep_ref(path: LocalPath, ref: str, target: Oid) -> None:
    """Writes down among what was set aside where a ref stood that is about to be made anew."""
    folder = os.path.join(path, SET_ASIDE)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(os.path.join(folder, f"{ref.replace('/', '+')}@{target}"), "w", encoding="ascii") as stream:
        stream.write(f"{target}\n")
        stream.flush()
        os.fsync(stream.fileno())


def set_aside(path: LocalPath, relative: str, reason: str) -> Refusal:
    """Moves a file of the store away, because of `reason`; says where to."""
    folder = os.path.join(path, SET_ASIDE)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    stem = relative.replace(os.sep, "+")
    for number in range(MAX_ASIDE):
        target = os.path.join(folder, f"{stem}.{number}")
        if not os.path.lexists(target):
            os.rename(os.path.join(path, relative), target)
            return Refusal(f"store: {relative}", reason, f"it was moved to {target}")
    raise StoreError(f"{folder} is full", "look through it and empty it")
