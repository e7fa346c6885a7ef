"""Reading a local transcript into canonical segments, new bytes only where that can be known.

Promises: an incomplete last line is neither taken nor lost; a file that lost records (the client
can rewrite a tail) never shortens what is in the store; what the store already holds keeps its
exact canonical spelling, because it is recognized in local form.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from convergenced.canon.rewrite import Rewriter
from convergenced.errors import FileChangedError, RefusedInputError
from convergenced.machine.state import FileNote
from convergenced.merge.segments import extend_transcript, read_transcript
from convergenced.model import EMPTY_TREE, Content, LocalPath, Oid, Snapshot
from convergenced.ports import Files, Objects

READ_BYTES = 1024 * 1024
UNKNOWN = b""
"""The window of a file that was written to while it was read: what it shows may not be what was taken."""
WINDOW_BYTES = 64 * 1024
"""The client rewrites a tail within the last 64 KiB, so that much is compared before appending."""
MAX_RECORD_BYTES = 512 * 1024 * 1024
TOO_LONG = "goes on with a line that is too long for a record"
TOO_LONG_REMEDY = "that line and what follows it stay on this machine; remove it"


@dataclass(frozen=True, slots=True)
class Taken:
    """What reading a transcript gave: its note for the state, and how many records were new.

    `is_stuck` where a line came that is longer than `MAX_RECORD_BYTES`: from there on nothing is read.
    """

    note: FileNote
    records: int
    is_stuck: bool = False


def take_transcript(
    objects: Objects,
    files: Files,
    rewriter: Rewriter,
    path: LocalPath,
    snapshot: Snapshot,
    *,
    note: FileNote | None,
    own: Oid | None,
    others: Oid | None,
    look: Callable[[bytes, int], None] | None = None,
) -> Taken | None:
    """Brings a transcript's complete records into the store; None where it has none yet.

    `own` is what this replica last committed of the session, `others` what the project's tip holds
    of it; both are recognized in local form. `look` is shown every record that is new, before it is taken,
    and the byte at which it stands; what it raises ends the reading. Raises `FileChangedError` where the
    file is rewritten meanwhile, `RefusedInputError` for what cannot round-trip.
    """
    reader = _Reader(objects, files, rewriter, path, snapshot, look)
    if note is not None and note.oid == EMPTY_TREE:
        note = None
    if note is not None and snapshot.size >= note.consumed and reader.window(note.consumed) == note.window:
        return reader.append(note.oid, note.consumed, is_exact=note.form == rewriter.form)
    if note is not None:
        own = note.oid
    if own is not None and (taken := reader.continue_from(own, may_lag=True)):
        return taken
    if others is not None and (taken := reader.continue_from(others, may_lag=False)):
        return taken
    if own is not None:
        return reader.add_missing(own)
    return reader.start(others)


def tail_window(files: Files, path: LocalPath, end: int) -> bytes:
    """A digest of the last bytes before `end`, by which a rewrite is told from an append."""
    start = max(0, end - WINDOW_BYTES)
    return _digest(files.read(path, start, end - start))


class _Reader:
    """One transcript at one moment."""

    def __init__(
        self,
        objects: Objects,
        files: Files,
        rewriter: Rewriter,
        path: LocalPath,
        snapshot: Snapshot,
        look: Callable[[bytes, int], None] | None = None,
    ) -> None:
        self._objects = objects
        self._files = files
        self._rewriter = rewriter
        self._path = path
        self._snapshot = snapshot
        self._look = look
        self._is_stuck = False

    def window(self, end: int) -> bytes:
        """The digest of the last bytes before `end`."""
        return tail_window(self._files, self._path, end)

    def append(self, tree: Oid, offset: int, *, is_exact: bool = True) -> Taken:
        """Takes all complete records from `offset` on.

        `is_exact` where `tree` is all that comes before, in the form in which it is localized.
        """
        return self._finish(tree, *self._take(tree, offset), is_exact=is_exact)

    def continue_from(self, base: Oid, *, may_lag: bool) -> Taken | None:
        """Takes what follows `base`, if the file begins with all of it in local form.

        With `may_lag`, a file that is itself a shorter beginning of `base` counts as accounted for.
        """
        matched, whole_base, whole_file = self._align(base)
        if whole_base:
            return self.append(base, matched)
        if whole_file and may_lag:
            return self._finish(base, base, matched, 0)
        return None

    def add_missing(self, base: Oid) -> Taken:
        """Keeps `base` and adds the file's records that it does not have, in the file's order."""
        known: Counter[bytes] = Counter()
        for record in _records(
            self._rewriter.localize_chunks(read_transcript(self._objects, base), Content.JSON)
        ):
            known[_digest(record)] += 1

        def is_known(record: bytes) -> bool:
            digest = _digest(record)
            if known[digest]:
                known[digest] -= 1
                return True
            return False

        return self._finish(base, *self._take(base, 0, is_known))

    def start(self, others: Oid | None) -> Taken | None:
        """Takes the whole file as a lineage of its own, spelled as `others` as far as they agree."""
        tree: Oid | None = None
        offset = records = 0

        def beginning(others: Oid) -> Iterator[bytes]:
            nonlocal records
            for canonical in self._beginning(others, offset):
                records += 1
                yield canonical

        if others is not None:
            offset, _, _ = self._align(others)
            tree = extend_transcript(self._objects, None, beginning(others)) if offset else None
        tree, end, more = self._take(tree, offset)
        if tree is not None:
            return self._finish(tree, tree, end, records + more, is_exact=True)
        if self._is_stuck:
            raise RefusedInputError(TOO_LONG, TOO_LONG_REMEDY)
        return None

    def _beginning(self, tree: Oid, local_size: int) -> Iterator[bytes]:
        """The canonical records of `tree` whose local form is `local_size` bytes."""
        for canonical in _records(read_transcript(self._objects, tree)):
            if local_size <= 0:
                return
            local_size -= len(self._rewriter.localize(canonical, Content.JSON))
            yield canonical

    def _align(self, base: Oid) -> tuple[int, bool, bool]:
        """How much the file agrees with `base` in local form.

        Returns the bytes of whole records that agree, whether that is all of `base`, and whether it
        is all of the file's complete records.
        """
        matched = 0
        for expected in self._rewriter.localize_chunks(read_transcript(self._objects, base), Content.JSON):
            found = self._files.read(
                self._path, matched, min(len(expected), max(0, self._snapshot.size - matched))
            )
            if found == expected:
                matched += len(expected)
                continue
            same = _common_prefix(found, expected)
            agreed = matched + found.rfind(b"\n", 0, same) + 1
            rest_is_torn = same == len(found) or self._line_end(agreed) is None
            return agreed, False, rest_is_torn
        return matched, True, matched >= self._snapshot.size

    def _line_end(self, start: int) -> int | None:
        """Where the line that begins at `start` ends, behind its LF; None where no end is found.

        However long the line is, a piece of it is in memory at a time.
        """
        at = start
        while at < self._snapshot.size:
            if at - start > MAX_RECORD_BYTES:
                self._is_stuck = True
                return None
            piece = self._piece(at, READ_BYTES)
            end = piece.find(b"\n") + 1
            if end:
                return at + end
            at += len(piece)
        return None

    def _piece(self, at: int, length: int) -> bytes:
        piece = self._files.read(self._path, at, min(length, self._snapshot.size - at))
        if not piece:
            raise FileChangedError(f"{self._path} shrank while it was read")
        return piece

    def _take(
        self, tree: Oid | None, offset: int, skip: Callable[[bytes], bool] | None = None
    ) -> tuple[Oid | None, int, int]:
        """Adds to `tree` the records from `offset` on; returns what it is then, their end, their number."""
        end, records = offset, 0

        def canonical() -> Iterator[bytes]:
            nonlocal end, records
            for complete in self._complete(offset):
                wanted = complete if skip is None else self._unknown(complete, end, skip)
                if skip is None and self._look is not None:
                    self._look(complete, end)
                end += len(complete)
                if wanted:
                    records += _count_lines(wanted)
                    yield self._canonical(wanted)

        pieces = canonical()
        if (first := next(pieces, None)) is not None:
            tree = extend_transcript(self._objects, tree, chain([first], pieces))
        return tree, end, records

    def _complete(self, at: int) -> Iterator[bytes]:
        """The complete records from `at` on, several at a time."""
        while at < self._snapshot.size:
            complete = self._piece(at, READ_BYTES)
            cut = complete.rfind(b"\n") + 1
            if cut:
                complete = complete[:cut]
            else:
                long_end = self._line_end(at)
                if long_end is None:
                    return
                complete = self._piece(at, long_end - at)
                if complete[-1:] != b"\n":
                    raise FileChangedError(f"{self._path} was rewritten while it was read")
            at += len(complete)
            yield complete

    def _unknown(self, complete: bytes, start: int, skip: Callable[[bytes], bool]) -> bytes:
        """The records that are not to be skipped."""
        kept = []
        for record in _records([complete]):
            if not skip(record):
                if self._look is not None:
                    self._look(record, start)
                kept.append(record)
            start += len(record)
        return b"".join(kept)

    def _canonical(self, local: bytes) -> bytes:
        canonical = self._rewriter.canonicalize(local, Content.JSON)
        if self._rewriter.localize(canonical, Content.JSON) != local:
            raise RefusedInputError(
                "records that would not come back byte for byte",
                "run `convergencectl doctor` and report this",
            )
        return canonical

    def _finish(
        self, fallback: Oid, tree: Oid | None, consumed: int, records: int, *, is_exact: bool = False
    ) -> Taken:
        window = self.window(consumed)
        now = self._files.stat(self._path)
        if now != self._snapshot:
            window, is_exact = UNKNOWN, False
        if now is None or now.inode != self._snapshot.inode or now.size < self._snapshot.size:
            raise FileChangedError(f"{self._path} was replaced while it was read")
        form = self._rewriter.form if is_exact else b""
        note = FileNote(self._snapshot, consumed, window, tree or fallback, form)
        return Taken(note, records, self._is_stuck)


def _count_lines(data: bytes) -> int:
    """How many LF there are: `count` looks at each byte, `split` jumps from one to the next."""
    return len(data.split(b"\n")) - 1


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _records(chunks: Iterator[bytes] | list[bytes]) -> Iterator[bytes]:
    """Records with their LF, from chunks that may end anywhere."""
    carry = b""
    for chunk in chunks:
        *complete, carry = (carry + chunk).split(b"\n")
        for record in complete:
            yield record + b"\n"
    if carry:
        yield carry


def _common_prefix(one: bytes, other: bytes) -> int:
    """How many leading bytes agree; bisects, because `==` on slices is fast."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
