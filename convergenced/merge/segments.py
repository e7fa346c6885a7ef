"""A transcript as a tree of segments: `<hhhh>/<ll>`, cut at record ends.

Owns how canonical transcript bytes become git objects and come back. Two promises: the tree is a
pure function of the bytes, however they were appended, so that two machines that hold the same
records hold the same object; and an append touches the last segment and its folder only, so that
its cost does not depend on how long the transcript already is.

The cut is greedy. A segment holds as many whole records as fit into `SEGMENT_BYTES`; a longer record
stands alone; one longer than `PIECE_BYTES` is cut into pieces of that size, because hubs refuse blobs
above 100 MB. Where a segment ends depends only on the bytes from its own start, never on what came
before: that is what makes cutting and appending commute.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, takewhile

from convergenced.errors import RefusedInputError
from convergenced.model import EMPTY_TREE, MODE_BLOB, MODE_TREE, Oid, TreeEntry
from convergenced.ports import Objects

SEGMENT_BYTES = 65536
"""Bytes in a segment, at most, unless one record alone is longer."""

PIECE_BYTES = 16 * 1024 * 1024
"""Bytes of one record kept in one blob, at most."""

FOLDER_SEGMENTS = 64
"""Segments in a folder: at 64 KiB each, one folder entry per 4 MiB of transcript."""

FOLDERS = 65536
"""Folders in a transcript, at most: 256 GiB of full segments."""

READ_LIMIT = 2 * PIECE_BYTES
"""Bytes in a blob that is read as a segment, at most; ours are never longer than a piece."""


def write_transcript(objects: Objects, data_chunks: Iterable[bytes]) -> Oid:
    """Keeps a whole transcript: canonical bytes, complete records each ending in LF.

    The chunks may end anywhere; a few segments at most are in memory. Raises ValueError where the
    last byte is no LF.
    """
    return _Writer(objects).write(data_chunks)


def append_transcript(objects: Objects, tree: Oid | None, more: bytes) -> Oid:
    """The transcript `tree` followed by `more`, complete records each ending in LF.

    None stands for no transcript yet. Raises ValueError where the last byte is no LF.
    """
    return tree if tree is not None and not more else extend_transcript(objects, tree, [more])


def extend_transcript(objects: Objects, tree: Oid | None, chunks: Iterable[bytes]) -> Oid:
    """The transcript `tree` followed by complete records, as chunks that may end anywhere.

    A few segments at most are in memory. None and ValueError are as with `append_transcript`.
    """
    folders = [] if tree is None else _folders(objects, tree)
    if not folders:
        return write_transcript(objects, chunks)
    *closed, last = folders
    segments = _folder_segments(objects, last.oid)
    writer = _Writer(objects, closed, segments)
    if objects.blob_size(segments[-1]) < SEGMENT_BYTES:
        chunks = chain([_read_segment(objects, segments.pop())], chunks)
    return writer.write(chunks)


def read_transcript(objects: Objects, tree: Oid) -> Iterator[bytes]:
    """The bytes, a segment at a time. Raises `RefusedInputError` for a tree that is none of ours."""
    for oid in list_segments(objects, tree):
        yield _read_segment(objects, oid)


def transcript_size(objects: Objects, tree: Oid) -> int:
    """Bytes in the transcript, without reading them."""
    return sum(objects.blob_size(oid) for oid in list_segments(objects, tree))


def read_from(objects: Objects, tree: Oid, offset: int) -> Iterator[bytes]:
    """The bytes from `offset` on; segments before it are not read."""
    for oid in list_segments(objects, tree):
        if offset and (size := objects.blob_size(oid)) <= offset:
            offset -= size
            continue
        yield _read_segment(objects, oid)[offset:]
        offset = 0


def common_segments(objects: Objects, a: Oid, b: Oid) -> int:
    """How many leading segments of both are the same objects.

    Only the first folder that differs is opened: each before it is full.
    """
    ours, theirs = _folders(objects, a), _folders(objects, b)
    pairs = enumerate(zip(ours, theirs, strict=False))
    different = next((index for index, (one, other) in pairs if one.oid != other.oid), None)
    if different is None:
        shorter = min(ours, theirs, key=len)
        last = [_folder_segments(objects, folder.oid) for folder in shorter[-1:]]
        return max(0, len(shorter) - 1) * FOLDER_SEGMENTS + sum(map(len, last))
    segments = zip(
        _folder_segments(objects, ours[different].oid),
        _folder_segments(objects, theirs[different].oid),
        strict=False,
    )
    same = takewhile(lambda pair: pair[0] == pair[1], segments)
    return different * FOLDER_SEGMENTS + sum(1 for _ in same)


def list_segments(objects: Objects, tree: Oid, start: int = 0) -> Iterator[Oid]:
    """The segments' blobs from index `start` on, folder by folder."""
    folders = _folders(objects, tree)
    first = start // FOLDER_SEGMENTS
    for index, folder in enumerate(folders[first:], first):
        segments = _folder_segments(objects, folder.oid)
        if len(segments) < FOLDER_SEGMENTS and index != len(folders) - 1:
            raise RefusedInputError(f"segment folder {folder.name} has a gap", _REMEDY)
        yield from segments[start % FOLDER_SEGMENTS if index == first else 0 :]


def is_readable(objects: Objects, tree: Oid) -> bool:
    """Whether the tree is laid out as a transcript."""
    try:
        return all(objects.blob_size(oid) <= READ_LIMIT for oid in list_segments(objects, tree))
    except RefusedInputError:
        return False


def read_tail(objects: Objects, tree: Oid, start: int) -> Iterator[bytes]:
    """The bytes from segment number `start` on, a segment at a time."""
    for oid in list_segments(objects, tree, start):
        yield _read_segment(objects, oid)


def read_backwards(objects: Objects, tree: Oid) -> Iterator[bytes]:
    """The segments, the last one first; what comes before is not looked at."""
    for folder in reversed(_folders(objects, tree)):
        for oid in reversed(_folder_segments(objects, folder.oid)):
            yield _read_segment(objects, oid)


def cut_short(objects: Objects, tree: Oid, count: int) -> Oid:
    """The transcript's first `count` segments as a tree of its own."""
    folders = _folders(objects, tree)
    whole, rest = divmod(count, FOLDER_SEGMENTS)
    writer = _Writer(objects, folders[:whole])
    if rest:
        writer.segments.extend(_folder_segments(objects, folders[whole].oid)[:rest])
    return writer.close()


_REMEDY = "the transcript was not written by convergence; it is left alone"


@dataclass(slots=True)
class _Pending:
    """Bytes that are not cut yet; `start` moves so that cutting does not copy the rest."""

    data: bytearray
    start: int = 0

    def add(self, chunk: bytes) -> None:
        del self.data[: self.start]
        self.start = 0
        self.data += chunk

    def cut(self, *, final: bool) -> bytes | None:
        """The next segment, or None where more bytes could still belong to it."""
        left = len(self.data) - self.start
        if not left or (left < SEGMENT_BYTES and not final):
            return None
        end = self.data.rfind(b"\n", self.start, self.start + SEGMENT_BYTES) + 1
        if not end:
            end = self.data.find(b"\n", self.start, self.start + PIECE_BYTES) + 1
        if not end and left >= PIECE_BYTES:
            end = self.start + PIECE_BYTES
        if not end:
            if final:
                raise ValueError("a transcript ends inside a record")
            return None
        segment = bytes(memoryview(self.data)[self.start : end])
        self.start = end
        return segment


class _Writer:
    """Collects segments into folders and folders into the transcript's tree."""

    def __init__(
        self, objects: Objects, folders: Iterable[TreeEntry] = (), segments: list[Oid] | None = None
    ) -> None:
        self._objects = objects
        self._folders = list(folders)
        self.segments = [] if segments is None else segments

    def write(self, chunks: Iterable[bytes]) -> Oid:
        pending = _Pending(bytearray())
        for chunk in chunks:
            pending.add(chunk)
            while segment := pending.cut(final=False):
                self._add(segment)
        while segment := pending.cut(final=True):
            self._add(segment)
        return self.close()

    def close(self) -> Oid:
        if self.segments:
            self._close_folder()
        return self._objects.write_tree(self._folders) if self._folders else EMPTY_TREE

    def _add(self, segment: bytes) -> None:
        if len(self.segments) == FOLDER_SEGMENTS:
            self._close_folder()
        self.segments.append(self._objects.write_blob(segment))

    def _close_folder(self) -> None:
        if len(self._folders) == FOLDERS:
            raise RefusedInputError(
                "a transcript is longer than 256 GiB", "the session stays on this machine"
            )
        entries = [TreeEntry(f"{index:02x}", MODE_BLOB, oid) for index, oid in enumerate(self.segments)]
        name = f"{len(self._folders):04x}"
        self._folders.append(TreeEntry(name, MODE_TREE, self._objects.write_tree(entries)))
        self.segments = []


def _folders(objects: Objects, tree: Oid) -> list[TreeEntry]:
    if tree == EMPTY_TREE:
        return []
    entries = list(objects.read_tree(tree))
    for index, entry in enumerate(entries):
        if entry.name != f"{index:04x}" or not entry.is_tree:
            raise RefusedInputError(f"unexpected entry {entry.name!r} among segment folders", _REMEDY)
    return entries


def _folder_segments(objects: Objects, folder: Oid) -> list[Oid]:
    entries = objects.read_tree(folder)
    if not 0 < len(entries) <= FOLDER_SEGMENTS:
        raise RefusedInputError(f"a segment folder holds {len(entries)} entries", _REMEDY)
    for index, entry in enumerate(entries):
        if entry.name != f"{index:02x}" or entry.mode != MODE_BLOB:
            raise RefusedInputError(f"unexpected entry {entry.name!r} among segments", _REMEDY)
    return [entry.oid for entry in entries]


def _read_segment(objects: Objects, oid: Oid) -> bytes:
    if objects.blob_size(oid) > READ_LIMIT:
        raise RefusedInputError(f"segment {oid} is larger than {READ_LIMIT} bytes", _REMEDY)
    return objects.read_blob(oid)
