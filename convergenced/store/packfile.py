"""Writes one pack, object by object, without deltas: for the many objects of a first import.

Owns the form of a pack and of its index (gitformat-pack(5)). Promises: what was appended can be read at
once; the pack and its index are on the disk, whole, before they have their names; of an object that is
written nothing is kept in memory but where it lies, and little is on its way there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import struct
import zlib
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import NamedTuple

from convergenced.model import LocalPath, Oid
from convergenced.store.loose import make_folder, read_only, sync_all, sync_folders
from convergenced.store.objects import ObjectKind

LEVEL = 1
"""How hard zlib tries: upkeep packs more tightly, and nobody waits for it."""

TEMPORARY = "tmp_convergence_"
"""How the names of unfinished packs begin, so that those left by a crash can be swept."""

DEFLATERS = 2
"""Threads that deflate: zlib needs no interpreter, and takes as long as all else in a first import."""

BYTES_AHEAD = 1024 * 1024
"""Bytes of objects that may wait for them."""

_Entry = tuple[bytes, bytes]
_NUMBERS: dict[ObjectKind, int] = {"commit": 1, "tree": 2, "blob": 3}
_HEADER_BYTES = 12
_READ_BYTES = 1024 * 1024


class _Place(NamedTuple):
    kind: ObjectKind
    start: int
    """Of the deflated bytes; the entry begins `head` bytes before."""
    end: int
    head: int
    crc: int


def _deflate(kind: ObjectKind, data: bytes) -> _Entry:
    """An object's entry in a pack: its head, and its bytes deflated."""
    size = len(data)
    byte = _NUMBERS[kind] << 4 | size & 15
    size >>= 4
    head = bytearray()
    while size:
        head.append(byte | 0x80)
        byte = size & 0x7F
        size >>= 7
    head.append(byte)
    return bytes(head), zlib.compress(data, LEVEL)


class PackWriter:
    """A pack that grows in `folder`, without a name as yet. Not for several threads at once.

    Raises `OSError` where the disk refuses; then it is to be dropped.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._stem = os.path.join(folder, TEMPORARY + secrets.token_hex(8))
        make_folder(folder)
        self._stream = open(f"{self._stem}.pack", "x+b", opener=read_only)  # noqa: SIM115 - open until it is finished
        self._stream.write(bytes(_HEADER_BYTES))
        self._places: dict[Oid, _Place] = {}
        self._ahead: dict[Oid, tuple[ObjectKind, bytes, Future[_Entry]]] = {}
        """What is being deflated, in the order in which it came."""
        self._bytes_ahead = 0
        self._deflaters = ThreadPoolExecutor(DEFLATERS, "deflate")  # as humble as the thread that begins one
        self._size = _HEADER_BYTES
        """Bytes in the file so far."""

    @property
    def size(self) -> int:
        """Bytes in the file once all is there, at most."""
        return self._size + self._bytes_ahead

    def __contains__(self, oid: Oid) -> bool:
        return oid in self._places or oid in self._ahead

    def append(self, oid: Oid, kind: ObjectKind, data: bytes) -> None:
        """Adds an object; waits where too much is being deflated."""
        self._ahead[oid] = kind, data, self._deflaters.submit(_deflate, kind, data)
        self._bytes_ahead += len(data)
        while self._bytes_ahead > BYTES_AHEAD:
            self._write_first()

    def read(self, oid: Oid) -> tuple[ObjectKind, bytes]:
        """An object that was appended."""
        if oid in self._ahead:
            return self._ahead[oid][:2]
        place = self._places[oid]
        self._stream.flush()
        return place.kind, zlib.decompress(
            os.pread(self._stream.fileno(), place.end - place.start, place.start)
        )

    def _write_first(self) -> None:
        """Writes what was appended first of what is being deflated."""
        oid = next(iter(self._ahead))
        kind, data, entry = self._ahead[oid]
        head, body = entry.result()
        start = self._size + len(head)
        self._stream.write(head)
        self._stream.write(body)
        self._places[oid] = _Place(
            kind, start, start + len(body), len(head), zlib.crc32(body, zlib.crc32(head))
        )
        self._size = start + len(body)
        self._bytes_ahead -= len(data)
        del self._ahead[oid]

    def finish(self) -> None:
        """Makes the pack durable and gives it its name. Afterwards it is closed, however this ends."""
        try:
            while self._ahead:
                self._write_first()
            digest = self._seal()
            with open(f"{self._stem}.idx", "xb", opener=read_only) as index:
                index.write(self._index(digest))
                index.flush()
                sync_all([self._stream.fileno(), index.fileno()])
            for suffix in (".pack", ".idx"):  # with the index the pack comes into being
                os.rename(self._stem + suffix, os.path.join(self._folder, f"pack-{digest.hex()}{suffix}"))
            sync_folders([self._folder])
        finally:
            self.drop()

    def drop(self) -> None:
        """Takes away what has no name yet."""
        self._deflaters.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(OSError):
            self._stream.close()
        for suffix in (".pack", ".idx"):
            with contextlib.suppress(OSError):
                os.unlink(self._stem + suffix)

    def __del__(self) -> None:
        self.drop()

    def _seal(self) -> bytes:
        """Writes how many objects there are and the digest of all; returns the digest."""
        stream = self._stream
        stream.seek(0)
        stream.write(struct.pack(">4sII", b"PACK", 2, len(self._places)))
        stream.seek(0)
        digest = hashlib.sha1(usedforsecurity=False)
        while piece := stream.read(_READ_BYTES):
            digest.update(piece)
        if stream.tell() != self._size:
            raise OSError(f"{self._stem}.pack has {stream.tell()} bytes instead of {self._size}")
        stream.write(digest.digest())
        stream.flush()
        return digest.digest()

    def _index(self, pack: bytes) -> bytes:
        """The index, version 2, of the pack with that digest."""
        places = sorted((bytes.fromhex(oid), place) for oid, place in self._places.items())
        counts = Counter(name[0] for name, _ in places)
        totals = accumulate(counts[first] for first in range(256))
        data = b"".join(
            (
                b"\xfftOc\x00\x00\x00\x02",
                *(struct.pack(">I", total) for total in totals),
                *(name for name, _ in places),
                *(struct.pack(">I", place.crc) for _, place in places),
                *(struct.pack(">I", place.start - place.head) for _, place in places),
                pack,
            )
        )
        return data + hashlib.sha1(data, usedforsecurity=False).digest()


def sweep_unfinished(repository: LocalPath) -> None:
    """Takes away what a crash left of packs without a name. Only for the one process that may write."""
    folder = os.path.join(repository, "objects", "pack")
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if name.startswith(TEMPORARY):
                os.unlink(os.path.join(folder, name))
