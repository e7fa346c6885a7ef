"""However records came in, the tree is the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergenced.merge import segments
from convergenced.merge.segments import append_transcript, read_transcript, write_transcript
from convergenced.model import Oid
from tests.fakes.store import MemoryStore

RECORDS = st.lists(
    st.one_of(st.integers(0, 40), st.integers(40, 400), st.integers(900, 3000)).map(
        lambda size: b"r" * size + b"\n"
    ),
    max_size=60,
)


@contextmanager
def small_segments() -> Iterator[None]:
    """Segments, pieces and folders so small that every edge is met."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "SEGMENT_BYTES", 128)
        patch.setattr(segments, "PIECE_BYTES", 1000)
        patch.setattr(segments, "FOLDER_SEGMENTS", 4)
        yield


@given(RECORDS, st.lists(st.integers(0, 60), max_size=10), st.lists(st.integers(0, 20_000), max_size=10))
def test_any_split_into_appends_gives_the_same_tree(
    records: list[bytes], appends: list[int], chunks: list[int]
) -> None:
    with small_segments():
        store = MemoryStore()
        data = b"".join(records)
        ends = [0, *sorted(min(end, len(data)) for end in chunks), len(data)]
        whole = write_transcript(store, [data[a:b] for a, b in pairwise(ends)])
        tree: Oid | None = None
        ends = [0, *sorted(min(end, len(records)) for end in appends), len(records)]
        for start, end in pairwise(ends):
            tree = append_transcript(store, tree, b"".join(records[start:end]))
        assert tree == whole
        assert b"".join(read_transcript(store, whole)) == data
