"""Marks stand where they belong, can be read back, and harm no document."""

from __future__ import annotations

import pytest

from convergenced.merge.marks import (
    LONGEST,
    Mark,
    add_mark,
    changed_share,
    conflict_mark,
    find_marks,
    is_mark,
    unverified_mark,
)

MARK = unverified_mark("who says that?")


class TestSpelling:
    def test_is_a_comment(self) -> None:
        assert conflict_mark("a or b") == "<!-- CONFLICT: a or b — resolve manually -->".encode()
        assert unverified_mark("a") == b"<!-- UNVERIFIED: a -->"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a\nb\r\n\tc\x00\x1b[31m", "a b c [31m"),
            ("ends --> here --!> and <!-- there", "ends - -> here - -!> and <!- - there"),
            ("-----", "- - - -"),
            ("ä\ud800", "ä"),
            ("", ""),
        ],
    )
    def test_no_text_ends_it(self, text: str, said: str) -> None:
        for mark in (conflict_mark(text), unverified_mark(text)):
            assert mark.count(b"-->") == 1
            assert b"\n" not in mark
            assert is_mark(mark)
            assert [one.text for one in find_marks(mark)] == [said]

    def test_is_short(self) -> None:
        (mark,) = find_marks(conflict_mark("word " * 10_000))
        assert len(mark.text) <= LONGEST
        assert mark.text.endswith("word…")


class TestFinding:
    def test_names_kind_line_and_text(self) -> None:
        text = b"# A\n\n- x " + MARK + b"\n\n" + conflict_mark("a or b") + b"\n<!-- UNVERIFIED:b\nc-->\n"
        assert find_marks(text) == [
            Mark("UNVERIFIED", 3, "who says that?"),
            Mark("CONFLICT", 5, "a or b"),
            Mark("UNVERIFIED", 6, "b c"),
        ]

    def test_leaves_code_other_comments_and_what_does_not_end_alone(self) -> None:
        text = b"```\n%s\n```\n<!-- note: CONFLICT: a -->\n<!-- CONFLICT a -->\n" % MARK
        assert find_marks(text) == []
        assert find_marks(b"<!-- CONFLICT: a\n" * 3) == []
        assert len(find_marks(text + MARK)) == 1

    def test_reads_what_is_no_utf8(self) -> None:
        assert find_marks(b"<!-- CONFLICT: \xff -->") == [Mark("CONFLICT", 1, "�")]


class TestAdding:
    @pytest.mark.parametrize(
        ("document", "quote", "expected"),
        [
            (b"one\ntwo\nthree\n", "two", b"one\ntwo\nM\nthree\n"),
            (b"one\ntwo", "two", b"one\ntwo\nM"),
            (b"one\n", "four", b"one\nM\n"),
            (b"one\n", "", b"one\nM\n"),
            (b"", "x", b"M\n"),
            (b"one\r\ntwo\r\n", "one", b"one\r\nM\r\ntwo\r\n"),
            (b"one\r\ntwo\r\n", "four", b"one\r\ntwo\r\nM\r\n"),
            (b"a  b\n\tc\nd\n", " a b\nc ", b"a  b\nM\n\tc\nd\n"),
            (b"a\nb\nc\n", "a\nb", b"a\nb\nM\nc\n"),
            (b"```\ncode\n```\nend\n", "code", b"```\ncode\n```\nM\nend\n"),
            (b"a\n```\ncode\n", "code", b"a\nM\n```\ncode\n"),
            (b"a\n```\ncode\n", "no", b"a\nM\n```\ncode\n"),
            (b"---\na: b\n---\nend\n", "a: b", b"---\na: b\n---\nM\nend\n"),
            (b"---\r\na: b\r\n---\r\n", "a: b", b"---\r\na: b\r\n---\r\nM\r\n"),
            (b"Title\n===\nend\n", "Title", b"Title\n===\nM\nend\n"),
            (b"| a |\n| - |\n| b |\nend\n", "| a |", b"| a |\n| - |\n| b |\nM\nend\n"),
            (b"<!-- a\nb -->\nend\n", "a", b"<!-- a\nb -->\nM\nend\n"),
        ],
    )
    def test_goes_behind_what_is_quoted(self, document: bytes, quote: str, expected: bytes) -> None:
        added = add_mark(document, quote, MARK)
        assert added == expected.replace(b"M", MARK)
        assert add_mark(added, quote, MARK) == added
        assert len(find_marks(added)) == 1


class TestChangedShare:
    @pytest.mark.parametrize(
        ("former", "new", "share"),
        [
            (b"", b"", 0),
            (b"", b"a\n", 1),
            (b"a\nb\nc\nd\n", b"a\nb\nc\nx\n", 0.25),
            (b"a\n\n\n\nb\n", b"x\n\n\n\ny\n", 1),
            (b"a\r\nb\r\n", b"a\nb", 0),
            (b"a\nb\n", b"a\nb\nc\nd\n", 0.5),
            (b"a\nb\nc\nd\n", b"a\n", 0.75),
        ],
    )
    def test_is_of_the_lines_of_the_longer_text(self, former: bytes, new: bytes, share: float) -> None:
        assert changed_share(former, new) == share

    def test_of_what_is_long_is_counted(self) -> None:
        lines = [b"%d\n" % number for number in range(4000)]
        assert changed_share(b"".join(lines), b"".join([b"x\n", *lines[1:-1], b"y\n"])) == pytest.approx(
            0.0005
        )
