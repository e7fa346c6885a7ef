"""Markdown is cut where its headings are, and nowhere else."""

from __future__ import annotations

import pytest

from convergenced.merge.sections import FRONT, PREAMBLE, find_blocks, parse, title_of


def titles(text: bytes) -> list[str]:
    """The sections of a text, by the headings that lead to them."""
    return ["/".join(step[1].decode() for step in key) for key in parse(text).sections]


class TestHeadings:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            (b"# A\n## B\n### C\n## D\n# E\n", ["", "A", "A/B", "A/B/C", "A/D", "E"]),
            (b"### C\n## B\n# A\n", ["", "C", "B", "A"]),
            (b"text\n   # A #  \n    # code\n\t# code\n#no\n####### no\n#\n", ["", "A", ""]),
            (b"# A # b ##\n# C#\n#\tD   e\n", ["", "A # b", "C#", "D e"]),
            (b"Title\n=====\n\nOther\n---\n", ["", "Title", "Title/Other"]),
            (b"two\nlines\n---\n- item\n---\n> quote\n===\n| a |\n---\n\n---\n", [""]),
            (b"***\n---\n# A\n---\n", ["", "A"]),
        ],
    )
    def test_are_found_as_markdown_has_them(self, text: bytes, found: list[str]) -> None:
        assert titles(text) == found

    @pytest.mark.parametrize(
        "text",
        [
            b"```sh\n# no\n```` \n",
            b"  ~~~ a ` b\n# no\n```\n# no\n~~~\n",
            b"````\n```\n# no\n````\n",
            b"```\n# no\n    ```\n# no\n",
            b"<!-- a\n# no\n-->\n",
            b"<!--\n# no\n",
        ],
    )
    def test_in_code_and_comments_are_none(self, text: bytes) -> None:
        assert titles(text) == [""]

    def test_behind_code_and_comments_are_some(self) -> None:
        assert titles(b"```\n```\n# A\n<!-- a -->\n# B\n``` a ` b\n# C\n<!--\n--> x\n# D\n") == [
            *("", "A", "B", "C", "D")
        ]

    def test_of_one_name_are_counted_where_they_stand(self) -> None:
        keys = list(parse(b"# A\n## N\n## N\n# B\n## N\n# A\n## N\n").sections)
        assert keys == [
            PREAMBLE,
            ((1, b"A", 0),),
            ((1, b"A", 0), (2, b"N", 0)),
            ((1, b"A", 0), (2, b"N", 1)),
            ((1, b"B", 0),),
            ((1, b"B", 0), (2, b"N", 0)),
            ((1, b"A", 1),),
            ((1, b"A", 1), (2, b"N", 0)),
        ]


class TestFrontMatter:
    def test_is_what_stands_between_two_rules_at_the_beginning(self) -> None:
        sections = parse(b"---\n# a: b\nc\n---\n\ntext\n").sections
        assert list(sections) == [FRONT, PREAMBLE]
        assert sections[FRONT].body == (b"# a: b", b"c")
        assert sections[FRONT].tail == (b"---", b"")
        assert sections[PREAMBLE].body == (b"text",)

    @pytest.mark.parametrize("text", [b"---\na: b\n", b"\n---\na: b\n\n---\n", b"--- \na\n\n---\n"])
    def test_is_nothing_else(self, text: bytes) -> None:
        assert list(parse(text).sections) == [PREAMBLE]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"a",
        b"a\n",
        b"a\n\n \n",
        b"\n\n# A\n\n\na\xff\r\n\n# B",
        b"# A\n```\n```\n\x00",
        b"---\na\n\n---\n\n",
    ],
)
def test_the_lines_of_all_sections_are_the_document(text: bytes) -> None:
    document = parse(text)
    lines: list[bytes] = []
    for section in document.sections.values():
        lines += [*section.heading, *section.body, *(section.tail or ())]
    assert b"\n".join([*lines, *document.end]) == text


@pytest.mark.parametrize(
    ("text", "closed"),
    [(b"a\n````x\nb", b"````x\nb\n````"), (b"~~~", b"~~~\n~~~"), (b"<!-- a\nb", b"<!-- a\nb\n-->")],
)
def test_what_is_open_at_the_end_is_closed(text: bytes, closed: bytes) -> None:
    assert parse(text).sections[PREAMBLE].body[-1] == closed


def test_sections_have_names_for_people() -> None:
    assert title_of(PREAMBLE) == "text before the first heading"
    assert title_of(FRONT) == "front matter"
    assert title_of(((1, b"A", 0), (2, b"\xff b", 0))) == "� b"
    assert title_of(((1, b"", 0),)) == "(untitled)"


def test_blocks_leave_no_gap() -> None:
    lines = b"---\na\n---\nb\n\nT\n==\n```\nc\n```\n<!--\n-->\nd".split(b"\n")
    blocks = list(find_blocks(lines))
    assert [block.kind for block in blocks] == [
        *("front", "line", "line", "heading", "code", "comment", "line")
    ]
    assert [block.start for block in blocks[1:]] == [block.end for block in blocks[:-1]]
    assert blocks[-1].end == len(lines)
