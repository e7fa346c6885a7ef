"""Transcripts as segments: one tree for one content, and appends that cost the same at any length."""

from __future__ import annotations

import pytest

from convergenced.errors import RefusedInputError
from convergenced.merge import segments
from convergenced.merge.segments import (
    FOLDER_SEGMENTS,
    PIECE_BYTES,
    SEGMENT_BYTES,
    append_transcript,
    common_segments,
    cut_short,
    extend_transcript,
    is_readable,
    list_segments,
    read_from,
    read_transcript,
    transcript_size,
    write_transcript,
)
from convergenced.model import EMPTY_TREE, MODE_BLOB, MODE_TREE, Oid, TreeEntry
from tests.fakes.store import MemoryStore

RECORD = b"x" * 1023 + b"\n"
FULL_FOLDER = RECORD * 64 * FOLDER_SEGMENTS


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def sizes(store: MemoryStore, tree: Oid) -> list[int]:
    return [store.blob_size(oid) for oid in list_segments(store, tree)]


def test_segments_are_filled_with_whole_records(store: MemoryStore) -> None:
    tree = write_transcript(store, [RECORD * 100])
    assert sizes(store, tree) == [SEGMENT_BYTES, 36 * 1024]


def test_a_record_that_does_not_fit_opens_the_next_segment(store: MemoryStore) -> None:
    long = b"y" * 40_000 + b"\n"
    assert sizes(store, write_transcript(store, [RECORD + long + long + RECORD])) == [41_025, 41_025]


def test_a_record_longer_than_a_segment_stands_alone(store: MemoryStore) -> None:
    long = b"y" * 70_000 + b"\n"
    assert sizes(store, write_transcript(store, [RECORD + long + RECORD])) == [1024, 70_001, 1024]


def test_a_record_longer_than_a_piece_is_cut_and_comes_back(store: MemoryStore) -> None:
    huge = b"y" * (2 * PIECE_BYTES + 10) + b"\n"
    tree = write_transcript(store, [RECORD, huge, RECORD])
    assert sizes(store, tree) == [1024, PIECE_BYTES, PIECE_BYTES, 11 + 1024]
    assert b"".join(read_transcript(store, tree)) == RECORD + huge + RECORD
    assert append_transcript(store, append_transcript(store, None, RECORD + huge), RECORD) == tree


def test_folders_hold_sixty_four_segments_each(store: MemoryStore) -> None:
    tree = write_transcript(store, [FULL_FOLDER, RECORD])
    assert [entry.name for entry in store.read_tree(tree)] == ["0000", "0001"]
    assert [entry.name for entry in store.read_tree(store.read_tree(tree)[0].oid)][-1] == "3f"


def test_no_records_are_the_empty_tree(store: MemoryStore) -> None:
    assert write_transcript(store, []) == append_transcript(store, None, b"") == EMPTY_TREE
    assert append_transcript(store, EMPTY_TREE, RECORD) == write_transcript(store, [RECORD])
    assert list(read_transcript(store, EMPTY_TREE)) == []


def test_chunks_that_end_anywhere_are_added_as_one(store: MemoryStore) -> None:
    more = b"".join(b"%01023d\n" % number for number in range(200))
    chunks = [more[at : at + 5_000] for at in range(0, len(more), 5_000)]
    tree = extend_transcript(store, write_transcript(store, [RECORD * 100]), iter(chunks))
    assert tree == write_transcript(store, [RECORD * 100 + more])
    assert extend_transcript(store, None, iter(chunks)) == write_transcript(store, [more])
    assert extend_transcript(store, tree, []) == tree


def test_an_append_costs_the_same_however_long_the_transcript_is(store: MemoryStore) -> None:
    def cost(folders: int) -> tuple[int, int]:
        tree = write_transcript(store, [FULL_FOLDER] * folders + [RECORD])
        store.reads = store.writes = 0
        append_transcript(store, tree, RECORD)
        return store.reads, store.writes

    assert cost(1) == cost(20)
    assert sum(cost(20)) <= 8


@pytest.mark.parametrize(
    "offset", [0, 1, 1024, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 100 * 1024]
)
def test_reading_from_an_offset_gives_the_rest(store: MemoryStore, offset: int) -> None:
    data = b"".join(b"%01023d\n" % number for number in range(100))
    tree = write_transcript(store, [data])
    assert transcript_size(store, tree) == len(data)
    assert b"".join(read_from(store, tree, offset)) == data[offset:]


def test_segments_before_an_offset_are_not_read(store: MemoryStore) -> None:
    tree = write_transcript(store, [FULL_FOLDER])
    store.reads = 0
    assert b"".join(read_from(store, tree, len(FULL_FOLDER) - 10)) == FULL_FOLDER[-10:]
    assert store.reads == 3


def test_common_segments_are_counted_without_opening_equal_folders(store: MemoryStore) -> None:
    one = write_transcript(store, [FULL_FOLDER, RECORD])
    other = write_transcript(store, [FULL_FOLDER, RECORD, RECORD])
    assert common_segments(store, one, other) == 64
    assert common_segments(store, one, one) == 65
    assert common_segments(store, one, EMPTY_TREE) == 0


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65])
def test_a_transcript_can_be_cut_short(store: MemoryStore, count: int) -> None:
    tree = write_transcript(store, [FULL_FOLDER, RECORD * 128])
    assert cut_short(store, tree, count) == write_transcript(store, [RECORD * 64 * count])


def test_a_transcript_that_ends_inside_a_record_is_a_mistake_of_the_caller(store: MemoryStore) -> None:
    with pytest.raises(ValueError, match="inside a record"):
        write_transcript(store, [b"half"])


def folder_of(store: MemoryStore, *names: str, mode: int = MODE_BLOB) -> Oid:
    return store.write_tree([TreeEntry(name, mode, store.write_blob(RECORD)) for name in names])


def transcript_from(store: MemoryStore, **folders: Oid) -> Oid:
    return store.write_tree([TreeEntry(name[1:], MODE_TREE, oid) for name, oid in folders.items()])


def test_a_tree_that_is_no_transcript_is_refused(store: MemoryStore) -> None:
    good = folder_of(store, "00")
    hostile = {
        "a gap between folders": transcript_from(store, _0000=good, _0002=good),
        "a gap between segments": transcript_from(store, _0000=folder_of(store, "00", "02")),
        "a short folder before another": transcript_from(store, _0000=good, _0001=good),
        "a file among folders": folder_of(store, "0000"),
        "a symlink": transcript_from(store, _0000=folder_of(store, "00", mode=0o120000)),
        "another name": transcript_from(store, _0000=folder_of(store, "00", "..")),
        "an empty folder": transcript_from(store, _0000=EMPTY_TREE),
    }
    for what, tree in hostile.items():
        with pytest.raises(RefusedInputError):
            list(read_transcript(store, tree))
        assert not is_readable(store, tree), what
    assert is_readable(store, transcript_from(store, _0000=good))


def test_a_segment_out_of_all_proportion_is_not_read(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "READ_LIMIT", 1000)
    with pytest.raises(RefusedInputError, match="larger"):
        list(read_transcript(store, write_transcript(store, [RECORD])))
