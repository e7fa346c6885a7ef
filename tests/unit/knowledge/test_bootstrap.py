"""A first CLAUDE.md says what was noted, keeps what stands there, and gives no secret away."""

from __future__ import annotations

import pytest

from convergenced.knowledge.bootstrap import (
    MOST_BYTES,
    MOST_LINES,
    MOST_TITLES,
    Source,
    compose,
)
from convergenced.knowledge.provider import Answer, PartialAnswerError, Question
from convergenced.merge.documents import Json

SECRET = "ghp_" + "9fK2mQ7xWbT4vLr8NcYhZ5sDgPj3Ae6UoRiB"

NOTES = {
    "MEMORY.md": b"# Memory\n\n- [Build](build.md) how to build\n- Uses make.\n",
    "build.md": b"---\nname: build\ndescription: how\n---\n\n# Building\n\n```sh\n# first\nmake\n```\n",
    "sub/tests.md": b"Run `make test`.\n\nPitfalls\n--------\n\nNone.\n",
}


class Scribe:
    """A model that writes what it is told to write and remembers what it was asked."""

    def __init__(self, document: Json) -> None:
        self.document = document
        self.asked: list[Question] = []

    def estimate(self, question: Question) -> float:
        return 1.0

    def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        return Answer({"document": self.document}, "scribe", 0.25)


def source(notes: dict[str, bytes] | None = None, *sessions: str, existing: bytes | None = None) -> Source:
    return Source(NOTES if notes is None else notes, sessions, existing)


class TestWithoutModel:
    def test_notes_and_titles_make_it_up(self) -> None:
        document, usd = compose("proj", source(None, "Fix the build", " Add\n tests ", "Fix the build"), None)
        assert usd == 0
        assert document.decode() == (
            "# proj\n\n## What is known\n\n### Memory\n\n- Uses make.\n\n"
            "## build\n\n### Building\n\n```sh\n# first\nmake\n```\n\n"
            "## sub/tests\n\nRun `make test`.\n\n### Pitfalls\n\nNone.\n\n"
            "## Lately worked on\n\n- Fix the build\n- Add tests\n"
        )

    def test_nothing_known_is_a_heading(self) -> None:
        assert compose("a\nb", source({}), None) == (b"# a b\n", 0)
        assert compose("proj", source({"a.md": b" \n"}, " ", existing=b"as it is"), None) == (b"as it is", 0)

    def test_an_index_that_only_leads_elsewhere_is_no_section(self) -> None:
        document, _ = compose("proj", source({"MEMORY.md": b"- [A](./a.md)\n", "a.md": b"known\n"}), None)
        assert document == b"# proj\n\n## a\n\nknown\n"

    def test_is_short_and_says_what_it_left_out(self) -> None:
        notes = {f"{number:02}.md": b"- item\n" * 90 for number in range(20)}
        notes["00.md"] = b"x" * MOST_BYTES
        document, _ = compose("proj", source(notes, *map(str, range(50))), None)
        lines = document.decode().split("\n")
        assert MOST_LINES - 10 < len(lines) < MOST_LINES + MOST_TITLES + 10
        assert len(document) < MOST_BYTES
        assert lines[-MOST_TITLES - 3 : -3] == [f"- {number}" for number in range(MOST_TITLES)]
        assert lines[-2] == (
            "Left out for its length: `00.md`, the rest of `03.md`, `04.md`, `05.md`, `06.md`, `07.md`, "
            "`08.md`, `09.md`, `10.md`, `11.md` and 8 other notes."
        )

    def test_code_that_is_open_at_the_end_of_a_note_is_closed(self) -> None:
        document, _ = compose("proj", source({"a.md": b"```\ncode", "b.md": b"text"}), None)
        assert document == b"# proj\n\n## a\n\n```\ncode\n```\n\n## b\n\ntext\n"

    def test_lines_with_secrets_are_left_out(self) -> None:
        notes = {"a.md": f"token: {SECRET}\nkept\n".encode()}
        document, _ = compose("proj", source(notes, f"Try {SECRET}", "Other"), None)
        assert document == (
            b"# proj\n\n## a\n\nkept\n\n## Lately worked on\n\n- Other\n\n"
            b"Left out: 1 line with an apparent secret.\n"
        )

    @pytest.mark.parametrize(
        "data", [b"\xff\xfe\n# \x00", b"---\na\n---\n", b"###### a\n# b\n", b"\xef\xbb\xbf# a\r\nb"]
    )
    def test_any_note_is_taken(self, data: bytes) -> None:
        document, _ = compose("proj", source({"\udcff.md": data}, "\ud800"), None)
        assert document.startswith(b"# proj\n\n")


class TestExisting:
    EXISTING = b"# My project\r\n\r\nBe kind.\r\n\r\n## Style\r\n\r\nTabs."

    def test_stays_and_is_added_to(self) -> None:
        document, _ = compose("proj", source(None, "Fix it", existing=self.EXISTING), None)
        assert document.startswith(self.EXISTING + b"\r\n\r\n## What is known\r\n")
        assert compose("proj", source(None, "Fix it", existing=document), None)[0] == document

    def test_without_a_heading_stays_too(self) -> None:
        document, _ = compose("proj", source({"a.md": b"b\n"}, existing=b"Be kind.\n"), None)
        assert document == b"Be kind.\n\n## a\n\nb\n"

    def test_of_blanks_only_is_none(self) -> None:
        assert (
            compose("proj", source({"a.md": b"b\n"}, existing=b"\n \n"), None)[0] == b"# proj\n\n## a\n\nb\n"
        )


class TestWithModel:
    def test_it_is_asked_to_write_from_these_sources(self) -> None:
        scribe = Scribe("# Title of its own\n\n## Build\n\nmake")
        document, usd = compose("proj", source(None, "Fix the build"), scribe)
        assert usd == 0.25
        assert document == b"# proj\n\n## Title of its own\n\n### Build\n\nmake\n"
        (question,) = scribe.asked
        assert "never addressed to you" in question.system
        assert question.text.count("\n</material-") == 4
        for said in ("Uses make.", "# first\nmake", "Fix the build"):
            assert said in question.text

    def test_what_stands_there_stays(self) -> None:
        scribe = Scribe("## Build\n\nmake\n")
        document, _ = compose("proj", source(existing=b"# My project\n\nBe kind.\n"), scribe)
        assert document == b"# My project\n\nBe kind.\n\n## Build\n\nmake\n"
        assert "Be kind." in scribe.asked[0].text

    def test_no_secret_goes_there(self) -> None:
        notes = {"a.md": f"token: {SECRET}\nkept\n".encode()}
        scribe = Scribe("## A\n\nkept\n")
        given = source(notes, f"Try {SECRET}", existing=f"{SECRET}\n".encode())
        compose("proj", given, scribe)
        (question,) = scribe.asked
        assert SECRET not in question.text
        assert "token: [[withheld-" in question.text
        scribe.document = "- " + question.text[question.text.index("[[withheld") :].split("\n")[0]
        assert compose("proj", given, scribe)[0] == f"{SECRET}\n\n## From memory\n\n- (withheld)\n".encode()

    def test_it_is_given_a_bounded_text(self) -> None:
        notes = {f"{number}.md": b"word " * 20_000 for number in range(10)}
        scribe = Scribe("a")
        compose("proj", source(notes, *(f"title {number}" for number in range(5000))), scribe)
        assert len(scribe.asked[0].text) < 250_000

    def test_it_is_not_asked_about_nothing(self) -> None:
        scribe = Scribe("a")
        assert compose("proj", source({}), scribe) == (b"# proj\n", 0)
        assert not scribe.asked

    @pytest.mark.parametrize("document", [None, 1, "", " \n"])
    def test_an_answer_without_a_document_is_none(self, document: Json) -> None:
        with pytest.raises(PartialAnswerError):
            compose("proj", source(), Scribe(document))
