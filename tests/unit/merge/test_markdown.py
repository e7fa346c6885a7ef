"""Markdown of several machines merges by section, keeps what all wrote, and says where they differ."""

from __future__ import annotations

import pytest

from convergenced.merge.markdown import Version, merge_markdown, removed_sections
from convergenced.merge.marks import add_mark, conflict_mark, find_marks, unverified_mark

BASE = b"""\
# Rules

Be brief.

## Build

- make
- make test

## Style

Use tabs.

## Old

Nobody needs this.
"""


def merge(current: bytes | None, *versions: tuple[bytes, bytes | None]) -> bytes:
    """Merges and checks that merging again what went in changes nothing and says nothing new."""
    said = [
        Version(name, *version) for name, version in zip(("desk", "laptop", "mini"), versions, strict=False)
    ]
    merged = merge_markdown(current, said)
    assert merge_markdown(merged.data, said) == merge_markdown(merged.data, [])
    assert merge_markdown(current, said[::-1]) == merged
    stood = {mark.text for mark in find_marks(current or b"")}
    assert {mark.text for mark in find_marks(merged.data)} - stood == set(merged.contradictions) - stood
    return merged.data


class TestSections:
    def test_of_all_come_together(self) -> None:
        desk = b"# Rules\n\n## Build\n\n- make\n\n## Desk\n\nTwo screens.\n"
        laptop = b"# Rules\n\n## Style\n\nUse tabs.\n\n## Build\n\n- ninja\n\n## Laptop\n\nNo screen."
        assert merge(None, (desk, None), (laptop, None)) == (
            b"# Rules\n\n## Style\n\nUse tabs.\n\n## Build\n\n- make\n- ninja\n\n"
            b"## Desk\n\nTwo screens.\n\n## Laptop\n\nNo screen.\n"
        )

    def test_of_one_machine_are_taken_as_they_are(self) -> None:
        text = b"\xef\xbb\xbfno heading \r\n\xff```\n# open"
        assert merge(None, (text, None)) == text
        assert merge(None, (text, b"once"), (text, None)) == text
        assert merge(BASE, (text, BASE), (BASE, BASE), (b"as ever\n", b"as ever\n")) == text

    def test_removed_by_one_are_gone(self) -> None:
        without = BASE[: BASE.index(b"\n## Old")]
        edited = BASE.replace(b"tabs", b"spaces")
        assert merge(BASE, (without, BASE), (edited, BASE)) == edited[: edited.index(b"\n## Old")]

    def test_removed_by_one_and_changed_by_another_stay(self) -> None:
        without = BASE[: BASE.index(b"\n## Old")]
        edited = BASE.replace(b"Nobody needs", b"I need")
        assert merge(BASE, (without, BASE), (edited, BASE)) == edited
        assert merge(edited, (without.replace(b"brief", b"short"), BASE)) == edited.replace(
            b"brief", b"short"
        )

    def test_removed_with_what_stands_below_stay_where_that_was_changed(self) -> None:
        base = b"# A\n\na\n\n## B\n\nb\n\n## C\n\nc\n\n# D\n"
        edited = base.replace(b"\nb\n", b"\nbb\n")
        assert merge(base, (b"# D\n", base), (edited, base)) == b"# A\n\na\n\n## B\n\nbb\n\n# D\n"

    def test_a_mark_is_no_change_that_keeps_one(self) -> None:
        current = add_mark(BASE, "Nobody needs this.", unverified_mark("nobody said so"))
        without = BASE[: BASE.index(b"\n## Old")]
        assert merge(current, (without, BASE)) == without

    def test_nothing_is_removed_where_no_base_is_known(self) -> None:
        assert merge(BASE, (b"# Rules\n\n## New\n\nnew\n", None)) == BASE + b"\n## New\n\nnew\n"
        assert merge(None, (b"# A\n", BASE), (b"# B\n", BASE)) == b"# A\n\n# B\n"

    def test_added_stand_behind_those_they_follow(self) -> None:
        desk = BASE.replace(b"## Style", b"## Test\n\n- pytest\n\n## Style")
        laptop = BASE.replace(b"## Build", b"## First\n\n- read\n\n## Build") + b"\n## Last\n\n- go\n"
        merged = merge(BASE, (desk, BASE), (laptop, BASE))
        assert [line for line in merged.split(b"\n") if line.startswith(b"##")] == [
            *(b"## First", b"## Build", b"## Test", b"## Style", b"## Old", b"## Last")
        ]

    def test_moved_by_one_are_moved(self) -> None:
        base = b"# A\n\na\n\n# B\n\nb\n"
        assert merge(base, (b"# B\n\nb\n\n# A\n\na\n", base), (base + b"\n# C\n", base)) == (
            b"# B\n\nb\n\n# A\n\na\n\n# C\n"
        )

    def test_of_other_levels_stay_below_their_own(self) -> None:
        desk = b"# A\n\n### deep\n\nx\n\n## B\n\ny\n"
        laptop = b"# A\n\n## B\n\ny\n\n## C\n\nz\n\n### deep\n\nw\n"
        merged = merge(None, (desk, None), (laptop, None))
        assert merged == desk + b"\n## C\n\nz\n\n### deep\n\nw\n"

    def test_what_is_open_at_the_end_swallows_none(self) -> None:
        merged = merge(None, (b"# A\n\n```\ncode", None), (b"# B\n\n<!-- never ends\n", None))
        assert merged == b"# A\n\n```\ncode\n```\n\n# B\n\n<!-- never ends\n-->\n"

    def test_no_paragraph_becomes_a_heading(self) -> None:
        merged = merge(b"a\n\n---\n", (b"a\nb\n\n---\n", None), (b"---\n- x\n", None))
        assert b"b\n---" not in merged

    def test_no_text_becomes_a_front_matter(self) -> None:
        assert merge(b"---\na\n", (b"# B\n\nx\n\n---\n", None)) == b"\n---\na\n\n# B\n\nx\n\n---\n"


class TestLines:
    def test_changed_by_one_are_as_that_one_has_them(self) -> None:
        desk = BASE.replace(b"- make\n", b"- gmake\n")
        laptop = BASE.replace(b"- make test", b"- make check").replace(
            b"Be brief.\n", b"Be brief.\nBe kind.\n"
        )
        assert merge(BASE, (desk, BASE), (laptop, BASE)) == laptop.replace(b"- make\n", b"- gmake\n")

    def test_changed_by_two_are_kept_with_a_mark(self) -> None:
        desk, laptop = BASE.replace(b"tabs", b"spaces"), BASE.replace(b"tabs", b"nothing")
        mark = conflict_mark("Style: desk and laptop say different things")
        assert merge(BASE, (desk, BASE), (laptop, BASE)) == BASE.replace(
            b"Use tabs.", b"Use spaces.\n\nUse nothing.\n" + mark
        )

    def test_changed_by_three_have_one_mark(self) -> None:
        versions = [BASE.replace(b"tabs", word) for word in (b"spaces", b"nothing", b"both")]
        merged = merge(BASE, *((version, BASE) for version in versions))
        assert b"Use spaces.\n\nUse nothing.\n\nUse both.\n" in merged
        assert [mark.text for mark in find_marks(merged)] == [
            "Style: desk, laptop and mini say different things"
        ]

    def test_changed_here_and_in_what_was_agreed_on_are_kept_with_a_mark(self) -> None:
        current = BASE.replace(b"tabs", b"spaces")
        merged = merge(current, (BASE.replace(b"tabs", b"nothing"), BASE))
        assert [mark.text for mark in find_marks(merged)] == [
            "Style: desk says something else than what stood here"
        ]

    def test_the_same_change_is_one(self) -> None:
        edited = BASE.replace(b"tabs", b"spaces")
        assert merge(BASE, (edited, BASE), (edited.replace(b"- make\n", b""), BASE)) == edited.replace(
            b"- make\n", b""
        )

    def test_prose_of_two_for_one_heading_is_kept_with_a_mark(self) -> None:
        merged = merge(None, (b"# Style\n\nTabs.\n", None), (b"# Style\n\nSpaces.\n", None))
        mark = conflict_mark("Style: desk and laptop say different things")
        assert merged == b"# Style\n\nTabs.\n\nSpaces.\n%s\n" % mark

    def test_paragraphs_that_both_added_to_a_text_are_two(self) -> None:
        added = [BASE + b"\nFrom %s.\n" % name for name in (b"here", b"there")]
        assert merge(BASE, (added[0], BASE), (added[1], BASE)) == added[0] + b"\nFrom there.\n"

    def test_of_an_index_are_united(self) -> None:
        desk = b"- [Build](build.md) how to build\n- [Test](test.md) how to test\n"
        laptop = b"- [Test](test.md) how to test\n- [Deploy](deploy.md) how to deploy\n"
        united = desk + b"- [Deploy](deploy.md) how to deploy\n"
        assert merge(None, (desk, None), (laptop, None)) == united
        base = b"- [Build](build.md) how to build\n"
        assert merge(base, (desk, base), (laptop, base)) == desk.removeprefix(base) + united.removeprefix(
            desk
        )

    def test_of_tables_are_united(self) -> None:
        head = b"| a | b |\n| - | - |\n"
        assert merge(head, (head + b"| 1 | 2 |\n", head), (head + b"| 1 | 3 |\n", head)) == (
            head + b"| 1 | 2 |\n| 1 | 3 |\n"
        )

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (b"- Indent with tabs.", b"- Indent with spaces."),
            (b"- **Python**: 3.11", b"- Python: 3.12 or newer"),
            (b"1. The timeout is 30 seconds.", b"1. The timeout is 60 seconds."),
        ],
    )
    def test_of_lists_that_say_different_things_of_the_same_are_marked(
        self, one: bytes, other: bytes
    ) -> None:
        merged = merge(None, (b"- a\n" + one, None), (b"- b\n" + other, None))
        assert merged.split(b"\n")[:4] == [b"- a", one, b"- b", other]
        assert len(find_marks(merged)) == 1

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (b"- `npm run build` - build it", b"- `npm run test` - test it"),
            (b"- Build: `make build`", b"- Test: `make test`"),
            (b"- Be kind.", b"- Be kind. Always."),
            (b"- [A](a.md): notes", b"- [B](b.md): notes"),
        ],
    )
    def test_of_lists_that_say_different_things_are_not_marked(self, one: bytes, other: bytes) -> None:
        assert find_marks(merge(None, (b"- a\n" + one, None), (b"- b\n" + other, None))) == []

    def test_items_stay_with_what_is_below_them(self) -> None:
        desk, laptop = b"- a\n  - b\n- c\n", b"- d\n  - b\n- a\n  - b\n"
        assert merge(None, (desk, None), (laptop, None)) == b"- d\n  - b\n- a\n  - b\n- c\n"


class TestCode:
    BASE = b"# Run\n\n```sh\none\ntwo\nthree\n```\n"

    def test_changed_in_two_places_is_one_block(self) -> None:
        desk, laptop = self.BASE.replace(b"one", b"1"), self.BASE.replace(b"three", b"3")
        assert merge(self.BASE, (desk, self.BASE), (laptop, self.BASE)) == desk.replace(b"three", b"3")

    def test_changed_in_one_place_is_two_blocks_and_a_mark_behind(self) -> None:
        desk, laptop = self.BASE.replace(b"one", b"1"), self.BASE.replace(b"one", b"I")
        merged = merge(self.BASE, (desk, self.BASE), (laptop, self.BASE))
        assert merged.startswith(
            b"# Run\n\n```sh\n1\ntwo\nthree\n```\n\n```sh\nI\ntwo\nthree\n```\n<!-- CONFLICT"
        )


class TestFrontMatter:
    BASE = b"---\nname: a\nwhat: b\n---\n\ntext\n"

    def test_merges_by_lines(self) -> None:
        desk, laptop = self.BASE.replace(b": a", b": aa"), self.BASE.replace(b"text", b"more")
        assert merge(self.BASE, (desk, self.BASE), (laptop, self.BASE)) == desk.replace(b"text", b"more")

    def test_stays_readable_where_two_differ(self) -> None:
        desk, laptop = self.BASE.replace(b": b", b": c"), self.BASE.replace(b": b", b": d")
        mark = conflict_mark("front matter: desk and laptop say different things")
        assert merge(self.BASE, (desk, self.BASE), (laptop, self.BASE)) == self.BASE.replace(
            b"what: b\n", b"what: c\n# what: d\n# %s\n" % mark
        )

    def test_of_one_comes_first(self) -> None:
        assert merge(None, (b"text\n", None), (self.BASE, None)) == self.BASE


class TestMarksAgain:
    DESK, LAPTOP = BASE.replace(b"tabs", b"spaces"), BASE.replace(b"tabs", b"nothing")

    def conflict(self) -> bytes:
        return merge(BASE, (self.DESK, BASE), (self.LAPTOP, BASE))

    def test_stay_where_something_else_changes(self) -> None:
        current = add_mark(self.conflict(), "- make", unverified_mark("who says that?"))
        edited = self.LAPTOP.replace(b"- make test", b"- make check")
        assert merge(current, (edited, self.LAPTOP)) == current.replace(b"- make test", b"- make check")

    def test_are_not_doubled_by_another_change_to_what_they_mark(self) -> None:
        edited = self.LAPTOP.replace(b"nothing", b"both")
        merged = merge(self.conflict(), (edited, self.LAPTOP))
        assert merged == self.conflict().replace(b"nothing", b"both")

    def test_are_not_doubled_by_one_more_that_differs(self) -> None:
        merged = merge(self.conflict(), (BASE.replace(b"tabs", b"both"), BASE))
        assert b"Use spaces.\n\nUse nothing.\n\nUse both.\n<!--" in merged
        assert len(find_marks(merged)) == 1

    def test_are_gone_once_somebody_resolved_them(self) -> None:
        edited = self.conflict().replace(b"- make\n", b"- gmake\n")
        merged = merge(self.conflict(), (self.DESK, self.conflict()), (edited, self.conflict()))
        assert merged == self.DESK.replace(b"- make\n", b"- gmake\n")


class TestBytes:
    def test_line_ends_are_those_of_what_was_agreed_on(self) -> None:
        crlf = BASE.replace(b"\n", b"\r\n")
        edited = BASE.replace(b"tabs", b"spaces")
        assert merge(crlf, (edited, None)).count(b"\n") == crlf.count(b"\n") + 3
        other = crlf.replace(b"brief", b"short")
        assert merge(BASE, (edited, BASE), (other, crlf)) == edited.replace(b"brief", b"short")
        assert merge(crlf, (edited, BASE), (other, crlf)) == other.replace(b"tabs", b"spaces")

    def test_a_byte_order_mark_is_that_of_what_was_agreed_on(self) -> None:
        marked = b"\xef\xbb\xbf" + BASE
        edited = [BASE.replace(b"tabs", b"spaces"), marked.replace(b"brief", b"short")]
        assert merge(marked, (edited[0], BASE), (edited[1], marked)) == edited[1].replace(b"tabs", b"spaces")

    def test_what_nobody_touched_stays(self) -> None:
        odd = b"\n\nbefore \t\n#  A  ##\n\n\n\xff\xfe \n* a\t\n\n \n\nB\n-\nb\r\nb\n\n\n## C\x00\nlast"
        desk, laptop = odd.replace(b"* a", b"* aa"), odd.replace(b"last", b"end")
        assert merge(odd, (desk, odd), (laptop, odd)) == desk.replace(b"last", b"end")

    def test_nothing_merges_to_nothing(self) -> None:
        assert merge(None) == b""
        assert merge(None, (b"", None)) == b""
        assert merge(b"", (b"", b"x")) == b""
        assert merge(b"", (b"a\r\n", None), (b"b\r\n", None)).endswith(b"\r\n")


@pytest.mark.parametrize(
    "texts",
    [
        [b"# a\n" * 5_000, b"# a\nx\n" * 5_000, b""],
        [b"".join(b"## %d\n" % at for at in range(start, 5_000, 3)) for start in range(3)],
        [b"".join(b"- %d\n" % at for at in range(start, 5_000, 3)) for start in range(3)],
        [b"x" * 1_000_000, b"y" * 1_000_000, b"# " * 500_000],
        [b" " * 1_000_000, b"a\n---\n" * 5_000, b"```\n~~~\n" * 5_000],
        [b"<!-- CONFLICT: " * 5_000, b"<!-- CONFLICT: \n" * 5_000, b"- a: " * 200_000],
    ],
)
def test_large_and_hostile_texts_end(texts: list[bytes]) -> None:
    merged = merge_markdown(None, [Version(str(at), text, None) for at, text in enumerate(texts)]).data
    assert len(merged) >= max(len(text) for text in texts)


class TestRemovedSections:
    def test_are_named_with_what_they_stood_below(self) -> None:
        base = b"# A\n\n## B\n\n### C\n\n## D\n\n# E\n"
        assert removed_sections(base, b"# A\n\n## D\n") == ("A / B", "E")
        assert removed_sections(base, base) == ()
        assert removed_sections(None, base) == ()

    def test_are_not_those_that_moved(self) -> None:
        assert removed_sections(b"# A\n\n## B\n", b"# A\n\n# B\n") == ()
        assert removed_sections(b"---\na: b\n---\n# A\n", b"# A\n") == ("front matter",)
