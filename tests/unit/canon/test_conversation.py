"""What a person reads in records, and what a session is called."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergenced.canon.conversation import (
    MAX_TITLE,
    Entry,
    first_prompt,
    name_in,
    name_of,
    read_entries,
)

AT = 1_922_515_200.0
STAMP = "2030-12-03T08:00:00.000Z"


def line(kind: str, content: object, **more: object) -> bytes:
    fields = {"type": kind, "uuid": "u", "timestamp": STAMP, "message": {"content": content}, **more}
    return json.dumps(fields).encode()


def block(kind: str, **fields: object) -> list[dict[str, object]]:
    return [{"type": kind, **fields}]


@pytest.mark.parametrize(
    ("record", "entry"),
    [
        (line("user", "hello"), Entry("user", "text", "hello", AT)),
        (line("assistant", block("text", text="yes")), Entry("assistant", "text", "yes", AT)),
        (line("user", "go", isSidechain=True), Entry("agent", "text", "go", AT)),
        (line("user", "so far", isCompactSummary=True), Entry("user", "summary", "so far", AT)),
        (line("user", "remark", isMeta=True), Entry("user", "note", "remark", AT)),
        (line("assistant", block("thinking", thinking="hm")), Entry("assistant", "thinking", "hm", AT)),
        (line("assistant", block("redacted_thinking", data="x")), Entry("assistant", "thinking", "", AT)),
        (
            line(
                "assistant", block("tool_use", name="Bash", input={"description": "d", "command": "ls -la"})
            ),
            Entry("assistant", "call", "Bash: ls -la", AT),
        ),
        (
            line("assistant", block("tool_use", name="Odd", input={"n": 3})),
            Entry("assistant", "call", 'Odd: {"n": 3}', AT),
        ),
        (line("assistant", block("tool_use", name="List", input={})), Entry("assistant", "call", "List", AT)),
        (
            line("user", block("tool_result", content="done", is_error=True)),
            Entry("user", "result", "done", AT, is_error=True),
        ),
        (
            line("user", block("tool_result", content=[*block("text", text="a"), *block("image")])),
            Entry("user", "result", "a\n[image]", AT),
        ),
        (line("user", block("image", source={})), Entry("user", "text", "[image]", AT)),
        (
            b'{"type":"system","content":"out of credit"}',
            Entry("system", "note", "out of credit", None),
        ),
        (
            b'{"type":"system","subtype":"compact_boundary","content":"x"}',
            Entry("system", "note", "the conversation was compacted here", None),
        ),
    ],
)
def test_what_is_read_of_a_record(record: bytes, entry: Entry) -> None:
    assert read_entries(record) == [entry]


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"no json",
        b'{"type":"mode","message":"x"}',
        b'{"type":"user","message":{"content":3}}',
        b'{"type":"user","message":{"content":[3,{"type":"text","text":4},{"type":"new"}]}}',
        b'{"type":"user","message":[]}',
        b'{"type":"system","subtype":"turn_duration"}',
        b'{"type":"attachment","message":{"content":"x"}}',
        line("user", " \n "),
        b'{"type":"user","message":' + b"[" * 300 + b"]" * 300 + b"}",
    ],
)
def test_bookkeeping_and_nonsense_say_nothing(record: bytes) -> None:
    assert read_entries(record) == []


def test_a_record_that_is_too_long_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convergenced.canon.conversation.MAX_PARSED", 20)
    (entry,) = read_entries(line("user", "hello"))
    assert (entry.who, entry.kind) == ("system", "note")


def test_a_session_is_called_as_it_was_named_last() -> None:
    named = [json.dumps({"type": "custom-title", "customTitle": one}).encode() for one in ("a", " b\nc ")]
    assert name_of([b'{"type":"summary","summary":"s"}', *named, b'{"type":"custom-title"}']) == "b c"
    assert name_of([b'{"type":"user","message":{"content":"a \\"summary\\" of it"}}']) == ""
    assert name_in(b'{"customTitle":"kept"}') == "kept"
    assert name_in(b'{"customTitle":3}') == name_in(b"[]") == name_in(b"\xff") == ""


def test_the_first_prompt_is_what_the_user_asked_not_the_machinery() -> None:
    machinery = [
        line("user", "<system-reminder>x</system-reminder>"),
        line("user", "remark", isMeta=True),
        line("user", block("tool_result", content="r")),
        line("assistant", "user: hello"),
    ]
    command = line("user", "<command-name>/init</command-name> <command-args>now\n</command-args>")
    assert first_prompt([*machinery, command, line("user", "  fix\n it ")]) == "fix it"
    assert first_prompt([*machinery, command]) == "/init now"
    assert first_prompt(machinery) == ""


def test_titles_are_one_short_line_that_can_be_kept() -> None:
    long = first_prompt([line("user", "word " * 500)])
    assert len(long) == MAX_TITLE
    assert first_prompt([b'{"type":"user","message":{"content":"half \\ud83d"}}']) == "half ?"


@given(st.binary(max_size=200))
def test_nothing_raises_on_any_bytes(data: bytes) -> None:
    for record in (data, b'{"message":' + data, line("user", "x")[: len(data)]):
        read_entries(record)
        name_of([record])
        first_prompt([record])
        name_in(record)


_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "message", "content", "text", "input", "name", "thinking", "customTitle"]
            ),
            inner | st.sampled_from(["user", "assistant", "text", "tool_use", "tool_result", "thinking"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON, _JSON)
def test_nothing_raises_on_any_record(value: object, content: object) -> None:
    for record in (value, {"type": "user", "message": {"content": [content, {"type": content}]}}):
        data = json.dumps(record).encode()
        read_entries(data)
        name_of([data + b'"summary"', data])
        first_prompt([data])
        name_in(data)
