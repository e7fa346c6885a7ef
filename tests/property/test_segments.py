"""However records came in, the tree is the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergenced.merge import segments
from convergenced.merge.segments import append_transcript, read_transcript, write_transcript
from convergenced.model import EMPTY_TREE, Oid
from tests.fakes.store import MemoryStore

SIZES = st.one_of(st.integers(0, 40), st.integers(40, 400), st.integers(900, 3000))
BATCHES = st.lists(st.lists(SIZES.map(lambda size: b"r" * size + b"\n"), max_size=6), max_size=12)


@contextmanager
def small_segments() -> Iterator[None]:
    """Segments, pieces and folders so small that every edge is met."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "SEGMENT_BYTES", 128)
        patch.setattr(segments, "PIECE_BYTES", 1000)
        patch.setattr(segments, "FOLDER_SEGMENTS", 4)
        yield


@given(BATCHES, st.integers(1, 2000))
def test_any_split_into_appends_gives_the_same_tree(batches: list[list[bytes]], chunk: int) -> None:
    with small_segments():
        store = MemoryStore()
        data = b"".join(record for batch in batches for record in batch)
        whole = write_transcript(store, [data[at : at + chunk] for at in range(0, len(data), chunk)])
        tree: Oid | None = None
        for batch in batches:
            tree = append_transcript(store, tree, b"".join(batch))
        assert (tree or EMPTY_TREE) == whole
        assert b"".join(read_transcript(store, whole)) == data
