"""What the pipeline's log says to whoever started it."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergenced.knowledge.markers import Ending, Trouble, done, failed, harmless, read_ending


@pytest.mark.parametrize("trouble", get_args(Trouble))
@pytest.mark.parametrize(
    "left", ["", "2026-01-01T10:00:00.1234567Z ", "2026-01-01T10:00:00.123456Z 01O ", "\x1b[0;m"]
)
def test_what_is_written_is_read(trouble: Trouble, left: str) -> None:
    log = "\n".join(left + line for line in ("before", failed(trouble, "why\nnot"), "after\r\n"))
    assert read_ending(log) == Ending(trouble, "why not")
    assert read_ending(f"{left}{done('1 scope')}") == Ending(None, "1 scope")


def test_the_last_one_counts() -> None:
    assert read_ending(f"{done('a')}\n{failed('raced', 'b')}") == Ending("raced", "b")
    assert read_ending("nothing of ours") is None


@given(st.text())
def test_nothing_else_speaks_in_its_name(text: str) -> None:
    log = f"convergence: {harmless(text)}\n  {harmless(done('x') + text)}"
    assert read_ending(log) is None
    assert "\n" not in harmless(text)


def test_no_command_for_a_ci() -> None:
    assert "::" not in harmless("::add-mask::x")
    assert "##[" not in harmless("##[group]x ##[error]")
