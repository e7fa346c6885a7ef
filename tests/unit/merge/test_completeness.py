"""Whether a text still holds what a document says."""

from __future__ import annotations

import pytest

from convergenced.merge.completeness import lost_sections
from convergenced.merge.marks import conflict_mark

BUILD = b"## Build\n\nRun make before every commit.\n\n"
TESTS = b"## Tests\n\nAll of pytest must pass, also the slow ones.\n"
DOCUMENT = b"# Rules\n\n" + BUILD + TESTS


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (DOCUMENT, ()),
        (TESTS + b"# Rules\n" + BUILD, ()),
        (b"# Rules\n- MAKE is run before each commit\n- pytest has to pass, slow ones included\n", ()),
        (b"# Rules\n\n" + BUILD, ("Tests",)),
        (b"I cannot help with that.", ("Rules", "Build", "Tests")),
        (b"", ("Rules", "Build", "Tests")),
    ],
    ids=["same", "order", "other words", "one lacks", "refusal", "empty"],
)
def test_sections_of_which_nothing_is_left(text: bytes, lost: tuple[str, ...]) -> None:
    assert lost_sections(DOCUMENT, text) == lost


def test_what_has_no_words_and_marks_cannot_be_lost() -> None:
    document = b"# \n\n- a\n\n" + conflict_mark("ann and bob say different things") + b"\n\n---\n"
    assert lost_sections(document, b"") == ()
