"""Looking for bytes in bytes, with the C library or without."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergenced.canon import search
from convergenced.canon.search import holder

ENOUGH = 2 * search._WORTHWHILE
"""Bytes for which the library is asked, where there is one."""

few = st.binary(min_size=1, max_size=9) | st.text("\0ab", min_size=1, max_size=9).map(str.encode)


@given(few, st.lists(few, max_size=9), st.integers(0, ENOUGH), st.booleans())
def test_what_is_held_is_told_wherever_it_stands(
    needle: bytes, around: list[bytes], filling: int, is_there: bool
) -> None:
    data = b"".join(around) + bytes(filling) + (needle if is_there else b"") + b"ab".join(around)
    assert holder(needle)(data) is (needle in data)


@pytest.mark.parametrize("at", [0, 1, ENOUGH - 3, ENOUGH - 2, ENOUGH])
def test_the_ends_are_looked_at(at: int) -> None:
    data = bytearray(b"x" * ENOUGH)
    data[at : at + 3] = b"a\0b"
    assert holder(b"a\0b")(bytes(data)) is True
    assert holder(b"a\0b")(bytes(data[: at + 2])) is False


def test_without_the_library_it_is_told_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_memmem", None)
    holds = holder(b"a\0b")
    assert holds(b"x" * ENOUGH + b"a\0b")
    assert not holds(b"x" * ENOUGH + b"a\0")
