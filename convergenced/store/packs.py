"""Takes out of a torn pack what can still be read of it, object by object.

git and libgit2 refuse a pack whose end is gone or whose index does not fit. Promises: an object is given
back only with the bytes that its id stands for; neither the pack nor its index needs to be whole, nor to
be there together; memory holds one object and its deltas' bases at a time.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator

from convergenced.model import Oid
from convergenced.store.loose import MAX_OBJECT
from convergenced.store.objects import ObjectKind, object_id

_HEADER = 12
_OID_BYTES = 20
IDX_MAGIC = b"\xfftOc\x00\x00\x00\x02"
"""How an index of version 2 begins (gitformat-pack(5))."""
IDX_NAMES_AT = 8 + 256 * 4
"""Where in it the sorted names begin; the four bytes before say how many."""
_KINDS: dict[int, ObjectKind] = {1: "commit", 2: "tree", 3: "blob"}
_OFFSET_DELTA, _NAME_DELTA = 6, 7
_CHUNK = 64 * 1024
_MAX_DEPTH = 4096
"""Deltas on deltas, at most; git makes 50."""

_FAILURES = (ValueError, IndexError, zlib.error)
"""What damaged bytes lead to."""

Object = tuple[Oid, ObjectKind, bytes]


def salvage(stem: str) -> Iterator[Object]:
    """All objects that can be read of the pack whose files are `stem`.pack and `stem`.idx."""
    try:
        with (
            open(f"{stem}.pack", "rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            yield from _Pack(data, read_index(f"{stem}.idx")).objects()
    except (OSError, ValueError):
        return  # no pack, or an empty one


def read_index(file: str) -> dict[Oid, int]:
    """Where in its pack each object begins, as far as the index tells; empty where it cannot be read."""
    try:
        with open(file, "rb") as stream:
            data = stream.read()
    except OSError:
        return {}
    if not data.startswith(IDX_MAGIC) or len(data) < IDX_NAMES_AT:
        return {}
    (count,) = struct.unpack_from(">I", data, IDX_NAMES_AT - 4)
    offsets_at = IDX_NAMES_AT + count * (_OID_BYTES + 4)
    large_at = offsets_at + count * 4
    if large_at > len(data):
        return {}
    found = {}
    for number in range(count):
        at = IDX_NAMES_AT + number * _OID_BYTES
        (offset,) = struct.unpack_from(">I", data, offsets_at + number * 4)
        if offset & 0x80000000:
            place = large_at + (offset & 0x7FFFFFFF) * 8
            if place + 8 > len(data):
                continue
            (offset,) = struct.unpack_from(">Q", data, place)
        found[Oid(data[at : at + _OID_BYTES].hex())] = offset
    return found


class _Pack:
    def __init__(self, data: mmap.mmap, index: dict[Oid, int]) -> None:
        self._data = data
        self._index = index
        self._named: dict[Oid, int] = dict(index)

    def objects(self) -> Iterator[Object]:
        """Each object once: those in the order of the pack first, then what the index still knows."""
        waiting = dict.fromkeys((*self._in_order(), *sorted(self._index.values())))
        while waiting:
            failed: dict[int, None] = {}
            for offset in waiting:
                try:
                    kind, data = self._read(offset)
                except _FAILURES:
                    failed[offset] = None
                    continue
                oid = object_id(kind, data)
                self._named[oid] = offset
                yield oid, kind, data
            if len(failed) == len(waiting):
                return
            waiting = failed  # the base of a delta may have been found after it

    def _in_order(self) -> Iterator[int]:
        """Where one entry ends the next begins; for as long as they can be inflated."""
        if self._data[:4] != b"PACK":
            return
        at = _HEADER
        while at < len(self._data) - _OID_BYTES:
            try:
                _, _, _, start = self._entry(at)
                end = self._inflate(start, None)[1]
            except _FAILURES:
                return
            yield at
            at = end

    def _entry(self, at: int) -> tuple[int, int, int | Oid, int]:
        """Number of the kind, size, the base of a delta, and where the deflated bytes start."""
        begin, byte = at, self._data[at]
        kind, size, shift = (byte >> 4) & 7, byte & 15, 4
        at += 1
        while byte & 0x80:
            byte = self._data[at]
            size |= (byte & 0x7F) << shift
            shift += 7
            at += 1
        base: int | Oid = 0
        if kind == _OFFSET_DELTA:
            byte = self._data[at]
            distance = byte & 0x7F
            at += 1
            while byte & 0x80:
                byte = self._data[at]
                distance = ((distance + 1) << 7) | (byte & 0x7F)
                at += 1
            base = begin - distance
        elif kind == _NAME_DELTA:
            base = Oid(self._data[at : at + _OID_BYTES].hex())
            at += _OID_BYTES
        elif kind not in _KINDS:
            raise ValueError(f"no kind has the number {kind}")
        if size > MAX_OBJECT or (isinstance(base, int) and not 0 <= base < begin):
            raise ValueError("the entry's head is damaged")
        return kind, size, base, at

    def _inflate(self, at: int, size: int | None) -> tuple[bytes, int]:
        """The inflated bytes from `at` on, and where the deflated ones end."""
        inflate = zlib.decompressobj()
        parts: list[bytes] = []
        length = 0
        while not inflate.eof:
            chunk = self._data[at : at + _CHUNK]
            if not chunk:
                raise ValueError("the pack is cut off")
            at += len(chunk)
            while chunk and not inflate.eof:
                piece = inflate.decompress(chunk, _CHUNK)
                length += len(piece)
                if length > (MAX_OBJECT if size is None else size):
                    raise ValueError("an entry is larger than it says")
                if size is not None:
                    parts.append(piece)
                chunk = inflate.unconsumed_tail
        return b"".join(parts), at - len(inflate.unused_data)

    def _read(self, at: int) -> tuple[ObjectKind, bytes]:
        deltas: list[bytes] = []
        while True:
            number, size, base, start = self._entry(at)
            data, _ = self._inflate(start, size)
            if len(data) != size:
                raise ValueError("an entry is shorter than it says")
            if number in _KINDS:
                break
            deltas.append(data)
            found = base if isinstance(base, int) else self._named.get(base)
            if found is None or len(deltas) > _MAX_DEPTH:
                raise ValueError("a delta's base is not in the pack")
            at = found
        for delta in reversed(deltas):
            data = _apply(data, delta)
        return _KINDS[number], data


def _apply(base: bytes, delta: bytes) -> bytes:
    """The object that a delta makes of its base. Raises `ValueError` or `IndexError` for a damaged one."""
    base_size, at = _number(delta, 0)
    size, at = _number(delta, at)
    if base_size != len(base):
        raise ValueError("the delta is for another base")
    parts: list[bytes] = []
    while at < len(delta):
        code = delta[at]
        at += 1
        if code & 0x80:
            start = length = 0
            for bit in range(7):
                if code & (1 << bit):
                    if bit < 4:
                        start |= delta[at] << (8 * bit)
                    else:
                        length |= delta[at] << (8 * (bit - 4))
                    at += 1
            parts.append(base[start : start + (length or 0x10000)])
        elif code:
            parts.append(delta[at : at + code])
            at += code
        else:
            raise ValueError("the delta is damaged")
    made = b"".join(parts)
    if len(made) != size:
        raise ValueError("the delta is damaged")
    return made


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
