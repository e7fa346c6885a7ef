"""One session, two versions of its transcript: what the store holds afterwards.

Owns the merge of transcripts as objects. Promises: nothing is lost, a version that is shorter or
lost records never shortens the other, and segments that both have are neither read nor written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice

from convergenced.canon.transcript import fork_id, with_session_id
from convergenced.errors import RefusedInputError
from convergenced.merge.layout import SessionTree
from convergenced.merge.lineage import OneLineage, TwoLineages, merge_tails
from convergenced.merge.segments import (
    PIECE_BYTES,
    append_transcript,
    common_segments,
    cut_short,
    list_segments,
    read_tail,
    read_transcript,
    write_transcript,
)
from convergenced.merge.sequences import is_contained
from convergenced.model import Oid, SessionId
from convergenced.ports import Objects

TAIL_LIMIT = 512 * 1024 * 1024
"""Bytes of each version past their common segments that are held in memory, at most."""


def merge_session(
    objects: Objects, sid: SessionId, ours: Oid | None, theirs: Oid | None
) -> dict[SessionId, Oid]:
    """The transcripts that hold both versions: one, or two under two ids where both went on.

    Commutative and idempotent. The fork has to be merged with what its id already stands for, see
    `merge.tree.absorb`. Raises `RefusedInputError` for a tree that is no transcript, or where the
    versions differ by more than `TAIL_LIMIT`.
    """
    if ours is None or theirs is None or ours == theirs:
        whole = ours or theirs
        return {} if whole is None else {sid: whole}
    same = _common_records(objects, ours, theirs)
    if _is_beginning(objects, ours, theirs, same):
        return {sid: theirs}
    if _is_beginning(objects, theirs, ours, same):
        return {sid: ours}
    tails = {oid: _load_tail(objects, oid, same) for oid in sorted((ours, theirs))}
    merged = merge_tails(*tails.values())
    fork: SessionId | None = None
    if isinstance(merged, OneLineage):
        kept = merged.records
    else:
        kept, forked, fork = _share_out(sid, merged)
    known = next((oid for oid, tail in tails.items() if tail == kept), None)
    if known is None:
        known = append_transcript(objects, cut_short(objects, ours, same), _join(kept))
    if fork is None:
        return {sid: known}
    beginning = iterate_records(islice(read_transcript(objects, ours), same))
    return {sid: known, fork: _write_renamed(objects, chain(beginning, forked), sid, fork)}


def contains(objects: Objects, whole: Oid, part: Oid) -> bool:
    """Whether every record of `part` is in `whole`, in order."""
    same = _common_records(objects, whole, part)
    return is_contained(
        iterate_records(read_tail(objects, part, same)), iterate_records(read_tail(objects, whole, same))
    )


def rename_session(objects: Objects, tree: Oid, old: SessionId, new: SessionId) -> Oid:
    """The same transcript with `new` in every session id field that says `old`."""
    return _write_renamed(objects, iterate_records(read_transcript(objects, tree)), old, new)


def transcripts_of(objects: Objects, sid: SessionId, session: SessionTree) -> dict[SessionId, Oid]:
    """A session's transcript as segments, whatever layout it has on the branch.

    More than one where a session has both layouts and they went apart; none for a session that has
    only a folder.
    """
    flat = None if session.flat is None else read_flat(objects, session.flat)
    return merge_session(objects, sid, session.transcript, flat)


def read_flat(objects: Objects, blob: Oid) -> Oid:
    """A flat transcript as segments. A last line without LF gets one, as the client does it."""
    data = objects.read_blob(blob)
    return write_transcript(objects, [data, b"" if not data or data.endswith(b"\n") else b"\n"])


def write_flat(objects: Objects, tree: Oid) -> Oid:
    """A transcript as one blob."""
    return objects.write_blob(b"".join(read_transcript(objects, tree)))


def iterate_records(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The records without their LF, from chunks that may end anywhere."""
    pieces: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        pieces.append(first)
        for record in others:
            yield b"".join(pieces)
            pieces = [record]
    if last := b"".join(pieces):
        yield last


def _share_out(sid: SessionId, both: TwoLineages) -> tuple[list[bytes], list[bytes], SessionId]:
    """The lineage that keeps the session's id, the one that does not, and its id.

    The elder keeps it, but that a lineage never leaves the id which it has as a fork. That makes an
    order of all lineages of a session in which nothing depends on its name or on who meets whom first.
    """
    named = [(one, fork_id(sid, one.own)) for one in (both.elder, both.younger)]
    (kept, _), (forked, fork) = sorted(named, key=lambda one: (one[1] != sid, one[0].began, one[1]))
    if fork == sid:  # both begin alike but for a session's name, which only a forger would write
        fork = fork_id(sid, forked.own + sid.encode())
    return kept.records, forked.records, fork


def _common_records(objects: Objects, one: Oid, other: Oid) -> int:
    """How many leading segments are the same and end with a whole record."""
    same = common_segments(objects, one, other)
    while same:
        last = next(list_segments(objects, one, same - 1))
        if objects.blob_size(last) < PIECE_BYTES or objects.read_blob(last).endswith(b"\n"):
            break
        same -= 1
    return same


def _is_beginning(objects: Objects, shorter: Oid, longer: Oid, same: int) -> bool:
    """Whether `shorter` is all in the common segments and one more, which `longer` goes on from.

    This is by far the commonest case, and costs two blobs however much longer the other is.
    """
    last = list(islice(list_segments(objects, shorter, same), 2))
    if len(last) != 1:
        return not last
    goes_on = next(list_segments(objects, longer, same), None)
    if goes_on is None or objects.blob_size(goes_on) < objects.blob_size(last[0]):
        return False
    return objects.read_blob(goes_on).startswith(objects.read_blob(last[0]))


def _load_tail(objects: Objects, tree: Oid, start: int) -> list[bytes]:
    size = 0
    for oid in list_segments(objects, tree, start):
        size += objects.blob_size(oid)
        if size > TAIL_LIMIT:
            raise RefusedInputError(
                f"two versions of a session differ by more than {TAIL_LIMIT >> 20} MiB",
                "both stay in the project's history; restore the one you need",
            )
    return list(iterate_records(read_tail(objects, tree, start)))


def _join(records: Iterable[bytes]) -> bytes:
    return b"".join(record + b"\n" for record in records)


def _write_renamed(objects: Objects, records: Iterable[bytes], old: SessionId, new: SessionId) -> Oid:
    return write_transcript(objects, (with_session_id(record, old, new) + b"\n" for record in records))
