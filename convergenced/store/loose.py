"""Loose objects as files: one object, deflated, named by its id.

They are read here rather than through libgit2, which never comes back from a truncated one. Promises: what
is read has the bytes that its id stands for; nothing larger than was asked for is inflated; what was written
is on the disk, whole, before it has its name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import BinaryIO

from convergenced.errors import StoreError
from convergenced.model import Oid
from convergenced.store.objects import ObjectKind

MAX_OBJECT = 1 << 30
"""Bytes in one object; a larger one is not read into memory."""

_HEADER = re.compile(rb"(blob|tree|commit) (0|[1-9][0-9]{0,18})\0")
_HEADER_BYTES = 64
_READ_BYTES = 1024 * 1024
_KINDS: dict[bytes, ObjectKind] = {b"blob": "blob", b"tree": "tree", b"commit": "commit"}


Objects = dict[Oid, tuple[ObjectKind, bytes]]

SYNCED_AT_ONCE = 8
"""Files that are asked to be on the disk at the same time."""

_DAMAGE = (errno.EISDIR, errno.EIO, errno.ELOOP)
"""What the system says of an object that no trying again will read."""


class DamagedError(ValueError):
    """An object stands there, but not with the bytes that its id stands for. Says why."""


def loose_file(repository: str, oid: str) -> str:
    """Where an object lies if it is loose. `repository` is the folder that has `objects`."""
    return os.path.join(repository, "objects", oid[:2], oid[2:])


def read_loose(repository: str, oid: str) -> tuple[ObjectKind, bytes] | None:
    """A loose object's kind and bytes; None where there is none. Raises `DamagedError`."""
    with _opened(repository, oid) as stream:
        if stream is None:
            return None
        inflate, kind, size, data = _begin(stream)
        if size > MAX_OBJECT:
            raise DamagedError(f"it has {size} bytes")
        parts = [data, *_rest(stream, inflate, size - len(data))]
    whole = b"".join(parts)
    digest = hashlib.sha1(b"%s %d\0" % (kind.encode(), size), usedforsecurity=False)
    digest.update(whole)
    _check_end(inflate, len(whole) == size and digest.hexdigest() == oid)
    return kind, whole


def loose_header(repository: str, oid: str) -> tuple[ObjectKind, int] | None:
    """A loose object's kind and size by its header; None where there is none. Raises `DamagedError`."""
    with _opened(repository, oid) as stream:
        return None if stream is None else _begin(stream)[1:3]


def check_loose(repository: str, oid: str) -> ObjectKind | None:
    """The kind of a loose object that is whole, read piece by piece; None where there is none.

    Raises `DamagedError`.
    """
    with _opened(repository, oid) as stream:
        if stream is None:
            return None
        inflate, kind, size, data = _begin(stream)
        digest = hashlib.sha1(b"%s %d\0" % (kind.encode(), size), usedforsecurity=False)
        digest.update(data)
        left = size - len(data)
        for piece in _rest(stream, inflate, left):
            digest.update(piece)
            left -= len(piece)
    _check_end(inflate, left == 0 and digest.hexdigest() == oid)
    return kind


def write_loose(repository: str, oid: Oid, kind: ObjectKind, data: bytes) -> None:
    """Puts an object in place, over whatever file stands there. `oid` is known to be its id.

    Raises `StoreError`.
    """
    write_loose_together(repository, {oid: (kind, data)})


def write_loose_together(repository: str, objects: Objects) -> None:
    """Puts objects in place like `write_loose`, and waits for the disk as if they were one.

    They get their names in the order of the mapping. Raises `StoreError`.
    """
    file = repository
    with contextlib.ExitStack() as cleaning:
        try:
            streams = []
            for oid, (kind, data) in objects.items():
                file = loose_file(repository, oid)
                make_folder(os.path.dirname(file))
                streams.append(_begin_file(file, zlib.compress(_head(kind, data) + data), cleaning))
            sync_all(stream.fileno() for _, stream in streams)
            for file, stream in streams:
                os.replace(stream.name, file)
            folders = {os.path.dirname(file) for file, _ in streams}
            sync_folders([*folders, *{os.path.dirname(folder) for folder in folders}])
        except OSError as error:
            raise StoreError(f"{file} cannot be written: {error}", "free space on the disk?") from error


def _begin_file(file: str, data: bytes, cleaning: contextlib.ExitStack) -> tuple[str, BinaryIO]:
    """What will be at `file`, under a temporary name, complete but not durable."""
    name = f"tmp_obj_{secrets.token_hex(8)}"  # git's upkeep sweeps such names
    temporary = os.path.join(os.path.dirname(file), name)
    stream = cleaning.enter_context(open(temporary, "xb", opener=read_only))  # noqa: SIM115 - entered
    cleaning.callback(_unlink, temporary)
    stream.write(data)
    stream.flush()
    return file, stream


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):  # it has its name by now
        os.unlink(path)


def _head(kind: ObjectKind, data: bytes) -> bytes:
    return b"%s %d\0" % (kind.encode(), len(data))


class _opened:  # noqa: N801 - reads as a sentence where it is used
    """The object's file, None where there is none; what goes wrong while it is read is told as damage."""

    def __init__(self, repository: str, oid: str) -> None:
        self._file = loose_file(repository, oid)
        self._stream: BinaryIO | None = None

    def __enter__(self) -> BinaryIO | None:
        try:
            self._stream = open(self._file, "rb")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._in_words(error) from error
        return self._stream

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._stream is not None:
            self._stream.close()
        if isinstance(error, zlib.error):
            raise DamagedError("its file is no object") from error
        if isinstance(error, OSError):
            raise self._in_words(error) from error

    def _in_words(self, error: OSError) -> Exception:
        text = f"{self._file} cannot be read: {error.strerror}"
        return DamagedError(text) if error.errno in _DAMAGE else StoreError(text, "check the disk")


def _begin(stream: BinaryIO) -> tuple[zlib._Decompress, ObjectKind, int, bytes]:
    """The inflating as begun, the kind, the size, and the first bytes of the object."""
    inflate = zlib.decompressobj()
    start = b""
    # The tables of the compression come first and may fill more than one piece.
    while not inflate.eof and len(start) < _HEADER_BYTES:
        chunk = inflate.unconsumed_tail or stream.read(_HEADER_BYTES)
        if not chunk:
            break
        start += inflate.decompress(chunk, _HEADER_BYTES - len(start))
    found = _HEADER.match(start)
    if found is None:
        raise DamagedError("its file is no object")
    return inflate, _KINDS[found[1]], int(found[2]), start[found.end() :]


def _rest(stream: BinaryIO, inflate: zlib._Decompress, left: int) -> Iterator[bytes]:
    """What follows the beginning, and one byte more where there is more than `left`."""
    while not inflate.eof and left >= 0:
        chunk = inflate.unconsumed_tail or stream.read(_READ_BYTES)
        piece = inflate.decompress(chunk, min(left + 1, _READ_BYTES))
        if not chunk and not piece:
            return
        left -= len(piece)
        yield piece


def _check_end(inflate: zlib._Decompress, same: bool) -> None:
    if not inflate.eof or not same:
        raise DamagedError("its bytes have another name" if inflate.eof else "its file is cut off")


def read_only(path: str, flags: int) -> int:
    """Opens a file of a repository, as git has them: nobody changes it later."""
    return os.open(path, flags, 0o444)


def make_folder(folder: str) -> None:
    """Makes a folder where there is none, but no store around it where that went away. Raises `OSError`."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)


def sync_all(descriptors: Iterable[int]) -> None:
    """Makes what is behind the descriptors durable. Raises `OSError`.

    Asked for side by side, the disk writes its journal once for all, and not once for each.
    """
    for _ in _syncing().map(os.fsync, descriptors):
        pass


def sync_folders(folders: Iterable[str]) -> None:
    """Makes the names in the folders durable. Raises `OSError`."""
    with contextlib.ExitStack() as closing:
        descriptors = []
        for folder in folders:
            descriptors.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
            closing.callback(os.close, descriptors[-1])
        sync_all(descriptors)


@cache
def _syncing() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(SYNCED_AT_ONCE, "sync")
