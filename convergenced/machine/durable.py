"""Owns durable writes and bounded reads, and what a failed one means in words.

Promise: after `write_durably` returned, the data survives a power cut; when it raised, the old file
is what it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator

from convergenced.errors import ConvergenceError, RefusedInputError
from convergenced.model import LocalPath

if sys.platform == "darwin":
    import fcntl

TEMPORARY_PREFIX = ".convergence-"
"""How the name of every temporary file starts, so that one left by a crash can be swept."""

_REMEDIES = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some of your quota on that disk",
    errno.EROFS: "the file system is mounted read-only; remount it writable",
    errno.EACCES: "give your user permission to read and write there",
    errno.EPERM: "give your user permission to read and write there",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "the system has too many files open",
    errno.EIO: "the disk reports errors; check it",
    errno.ENAMETOOLONG: "the path is longer than the file system allows",
}


def temporary_name() -> str:
    """A fresh name that `sweep_temporaries` recognizes."""
    return f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"


def sync(descriptor: int) -> None:
    """Returns when the file or folder behind `descriptor` is on the disk itself."""
    if sys.platform == "darwin":
        # fsync on macOS stops at the drive's cache; not every file system knows the stronger call.
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes every byte, however many the system takes at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns an `OSError` of the block into a `ConvergenceError`: `what`, the cause, a remedy."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        raise ConvergenceError(f"{what}: {cause}", _REMEDIES.get(error.errno or 0, "")) from error


def make_private_folders(folder: str) -> None:
    """Makes `folder` and its missing parents, each 0700 and durable. Existing ones stay as they are."""
    missing: list[str] = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        sync_folder(os.path.dirname(path))


def sync_folder(folder: str) -> None:
    """Makes the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: LocalPath, data: bytes, mode: int = 0o600) -> None:
    """Puts one of our own small files (or Claude's settings) in place, whole or not at all.

    Missing folders are made. Where `path` is a symlink (a config kept among dotfiles) the file it
    points to is written and the link stays. Raises `ConvergenceError`.
    """
    with explained(f"cannot write {path}"):
        _put(os.path.realpath(path), data, os.replace, mode)


def create_durably(path: LocalPath, data: bytes) -> bool:
    """Like `write_durably`, but only where nothing stands at `path`; False where something does."""
    with explained(f"cannot write {path}"):
        try:
            _put(path, data, os.link)
        except FileExistsError:
            return False
    return True


def _put(path: str, data: bytes, publish: Callable[[str, str], None], mode: int = 0o600) -> None:
    """Writes `data` beside `path`, syncs it and lets `publish(temporary, path)` give it its name."""
    folder = os.path.dirname(path)
    make_private_folders(folder)
    temporary = os.path.join(folder, temporary_name())
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        try:
            write_all(descriptor, data)
            if mode != 0o600:
                os.fchmod(descriptor, mode)
            sync(descriptor)
        finally:
            os.close(descriptor)
        publish(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):  # gone when it was renamed
            os.unlink(temporary)
    sync_folder(folder)


def read_bounded(path: LocalPath, limit: int) -> bytes | None:
    """The whole of one of our own or Claude's small files, following symlinks; None where there is none.

    Raises `RefusedInputError` where it is no regular file, longer than `limit` bytes or not readable.
    """
    with readable(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RefusedInputError(f"{path} is no regular file", "move it away")
            data = read_up_to(descriptor, 0, limit + 1)
        finally:
            os.close(descriptor)
    if len(data) > limit:
        raise RefusedInputError(f"{path} is longer than {limit} bytes", "it is not read")
    return data


def read_up_to(descriptor: int, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`, fewer only at the end of the file."""
    parts: list[bytes] = []
    while length > 0:
        part = os.pread(descriptor, length, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Turns an `OSError` of the block into a `RefusedInputError`: this path alone is set aside."""
    try:
        yield
    except OSError as error:
        raise RefusedInputError(
            f"cannot read {path}: {error.strerror or error}", "check its permissions and the disk"
        ) from error
