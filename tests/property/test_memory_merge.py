"""Merging texts is fair and final, and no line that was added is lost."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from convergenced.merge.memory import merge_text
from convergenced.merge.sequences import compare_three, hold_both, is_contained

LINES = st.lists(
    st.sampled_from([b"a", b"b", b"c", b"", b"=======", b"<<<<<<< convergence", b"\xff"]), max_size=8
)


def _texts(lines: st.SearchStrategy[list[bytes]]) -> st.SearchStrategy[bytes]:
    """Texts of such lines, with and without an LF at the end."""
    return st.tuples(lines, st.booleans()).map(
        lambda text: b"\n".join(text[0]) + (b"\n" if text[1] and text[0] else b"")
    )


TEXTS = _texts(LINES)
PLAIN = (b"a", b"b", b"=======", b"c", b"\xff", b"d\r", b"e", b"- f", b">>>>>>>")
PLAIN_TEXTS = _texts(
    st.sets(st.sampled_from(range(len(PLAIN)))).map(lambda at: [PLAIN[i] for i in sorted(at)])
)
"""Texts in which no line comes twice, and that all have their lines in one order: which of them belong
together can be told. Where a line comes twice, a text merged with what it holds may take it once more."""
PATHS = st.sampled_from(["MEMORY.md", "note.md"])


@given(PATHS, TEXTS, TEXTS, st.none() | TEXTS)
def test_merging_is_fair_and_final(path: str, ours: bytes, theirs: bytes, base: bytes | None) -> None:
    merged = merge_text(path, ours, theirs, base).data
    assert merged == merge_text(path, theirs, ours, base).data
    assert merged is not None
    assert merge_text(path, merged, merged, base).data == merged


@given(PLAIN_TEXTS, PLAIN_TEXTS, PLAIN_TEXTS)
def test_what_was_merged_takes_its_sides_without_a_change(ours: bytes, theirs: bytes, base: bytes) -> None:
    merged = merge_text("note.md", ours, theirs, base).data
    assert merge_text("note.md", merged, ours, base).data == merged
    assert merge_text("note.md", merged, theirs, base).data == merged


@given(PATHS, TEXTS, TEXTS, st.none() | TEXTS)
def test_no_added_line_is_lost(path: str, ours: bytes, theirs: bytes, base: bytes | None) -> None:
    merged = Counter((merge_text(path, ours, theirs, base).data or b"").split(b"\n"))
    known = Counter((base or b"").split(b"\n"))
    for side in (ours, theirs):
        for line in Counter(side.split(b"\n")) - known:
            assert merged[line] or line in known or not line.strip()


@given(LINES, LINES)
def test_what_holds_both_holds_both(one: list[bytes], other: list[bytes]) -> None:
    held = hold_both(one, other)
    assert held == hold_both(other, one)
    assert is_contained(one, held)
    assert is_contained(other, held)


@given(LINES, LINES, LINES)
def test_regions_are_a_cover_of_all_three(base: list[bytes], ours: list[bytes], theirs: list[bytes]) -> None:
    regions = list(compare_three(base, ours, theirs))
    assert [line for region in regions for line in region.base] == base
    assert [line for region in regions for line in region.ours] == ours
    assert [line for region in regions for line in region.theirs] == theirs
