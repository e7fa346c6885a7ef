"""Merging Markdown is fair and final, loses no line that was added, and ends whatever it is given."""

from __future__ import annotations

from collections import Counter
from itertools import count, permutations
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from convergenced.merge.markdown import Version, merge_markdown
from convergenced.merge.sections import parse

LINES = st.lists(
    st.sampled_from(
        (
            b"a b",
            b"c",
            b"- d",
            b"  - e",
            b"",
            b"",
            b"# A",
            b"## B",
            b"## C",
            b"### D",
            b"Title",
            b"===",
            b"---",
            b"```sh",
            b"```",
            b"~~~",
            b"<!--",
            b"-->",
            b"| x | y |",
            b"\xff\r",
        )
    ),
    max_size=12,
)
TEXTS = st.tuples(LINES, st.booleans()).map(lambda text: b"\n".join(text[0]) + b"\n" * text[1])

CLOSINGS = (b"-->", b"```", b"~~~")
"""Lines that add nothing where they end a block that the document's end would have ended."""

TITLES = (b"# A", b"## B", b"## C", b"# D", b"## E")
WORDS = (b"one", b"- two", b"three four", b"- five", b"six")


@st.composite
def _plain_texts(draw: st.DrawFn) -> bytes:
    """Texts of sections in which no title and within one section no line comes twice."""
    titles = sorted(draw(st.sets(st.sampled_from(range(len(TITLES))), max_size=4)))
    text = b""
    for title in [None, *titles]:
        body = [WORDS[at] for at in sorted(draw(st.sets(st.sampled_from(range(len(WORDS))), max_size=3)))]
        heading = [] if title is None else [TITLES[title], b""]
        text += b"".join(line + b"\n" for line in [*heading, *body, b""] if heading or body)
    return text


PLAIN = _plain_texts()


def _versions(data: tuple[bytes, ...], bases: tuple[bytes | None, ...]) -> list[Version]:
    return [Version(f"m{at}", *pair) for at, pair in enumerate(zip(data, bases, strict=True))]


@given(st.none() | TEXTS, st.tuples(TEXTS, TEXTS, TEXTS), st.tuples(*[st.none() | TEXTS] * 3))
def test_the_order_of_versions_makes_no_difference(
    current: bytes | None, data: tuple[bytes, ...], bases: tuple[bytes | None, ...]
) -> None:
    versions = _versions(data, bases)
    assert len({merge_markdown(current, order) for order in permutations(versions)}) == 1


@given(st.none() | TEXTS, st.tuples(TEXTS, TEXTS))
def test_no_line_is_lost_where_nobody_knows_of_a_removal(
    current: bytes | None, data: tuple[bytes, ...]
) -> None:
    merged = merge_markdown(current, _versions(data, (None, None))).data
    kept = {line.strip(b"# \r") for line in merged.split(b"\n")}
    for side in (current or b"", *data):
        assert {line.strip(b"# \r") for line in side.split(b"\n")} - kept <= {b""}


@given(TEXTS, st.tuples(TEXTS, TEXTS), st.tuples(TEXTS, TEXTS))
def test_no_line_that_was_added_is_lost(
    current: bytes, data: tuple[bytes, ...], bases: tuple[bytes, ...]
) -> None:
    for known in (bases, (current, current)):
        merged = merge_markdown(current, _versions(data, known)).data
        kept = {line.strip(b"# \r") for line in merged.split(b"\n")}
        former = {line for text in (current, *known) for line in text.split(b"\n")}
        for side in data:
            added = set(side.split(b"\n")) - former
            assert {line.strip(b"# \r") for line in added} - kept <= {b"", *CLOSINGS}


@given(PLAIN, st.tuples(PLAIN, PLAIN, PLAIN))
def test_what_was_merged_takes_its_versions_without_a_change(current: bytes, data: tuple[bytes, ...]) -> None:
    versions = _versions(data, (current, current, current))
    merged = merge_markdown(current, versions).data
    assert merge_markdown(merged, versions).data == merged


@given(st.none() | TEXTS, st.tuples(TEXTS, TEXTS))
def test_merging_without_a_base_again_and_again_comes_to_rest(
    current: bytes | None, data: tuple[bytes, ...]
) -> None:
    versions = _versions(data, (None, None))
    merged = merge_markdown(current, versions).data
    assert merge_markdown(merged, versions).data == merged


@given(PLAIN, PLAIN)
def test_what_one_machine_edited_is_taken_exactly(current: bytes, data: bytes) -> None:
    versions = _versions((data, current, data), (current, current, current))
    assert merge_markdown(current, versions).data == data
    assert merge_markdown(None, versions[:1]).data == data


@given(st.binary() | TEXTS, st.tuples(st.binary() | TEXTS, TEXTS))
def test_versions_that_say_nothing_new_change_nothing(current: bytes, data: tuple[bytes, ...]) -> None:
    assert merge_markdown(current, _versions((current, *data), (None, *data))).data == current


@given(
    st.none() | st.binary(), st.tuples(st.binary(), st.binary()), st.tuples(*[st.none() | st.binary()] * 2)
)
def test_any_bytes_are_merged(
    current: bytes | None, data: tuple[bytes, ...], bases: tuple[bytes | None, ...]
) -> None:
    merge_markdown(current, _versions(data, bases))


@given(st.tuples(TEXTS, TEXTS, TEXTS))
def test_the_sections_that_are_merged_are_the_sections_of_the_merged_text(data: tuple[bytes, ...]) -> None:
    merged = parse(merge_markdown(data[0], _versions(data[1:], (None, None))).data)
    assert {key for side in data for key in parse(side).sections} == set(merged.sections)


def _edited(random: Random, text: bytes, numbers: count[int]) -> bytes:
    """The text with one or two lines or sections more, less or changed; no line comes twice."""
    lines = text.split(b"\n")
    for _ in range(random.randrange(1, 3)):
        at = random.randrange(len(lines) + 1)
        kind = random.choice((b"- item N", b"prose N", b"### N", b"## N\n\ntext of N"))
        new = kind.replace(b"N", b"%d" % next(numbers))
        lines[at : at + random.randrange(2)] = [b"", *new.split(b"\n"), b""] if b"\n" in new else [new]
    return b"\n".join(lines)


@given(st.randoms(use_true_random=False))
def test_what_nobody_took_out_stays_through_rounds_of_edits_and_merges(random: Random) -> None:
    numbers = count()
    shared: bytes | None = None
    texts = [b"# Notes\n\n- known\n"] * 3
    bases: list[bytes | None] = [None] * 3
    added: set[bytes] = set()
    gone: set[bytes] = set()
    for _ in range(5):
        for at, text in enumerate(texts):
            texts[at] = _edited(random, text, numbers)
            former, now = (Counter(side.split(b"\n")) for side in (text, texts[at]))
            added |= (now - former).keys()
            gone |= (former - now).keys()
        shared = merge_markdown(shared, _versions(tuple(texts), tuple(bases))).data
        assert added - gone - {b""} <= {*shared.split(b"\n")}
        for at, text in enumerate(texts):
            if random.randrange(2):
                texts[at] = shared
            bases[at] = texts[at] if texts[at] == shared else text
    settled = merge_markdown(shared, _versions((shared or b"",) * 3, tuple(bases)))
    assert settled.data == shared
