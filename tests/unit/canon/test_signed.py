"""Signed thinking is never rewritten, and nothing else is spared."""

from __future__ import annotations

import pytest

from convergenced.canon.rewrite import Rewriter
from convergenced.canon.signed import signed_spans
from convergenced.model import Content
from tests.property.canon.machines import ANN, MAC

SIGNED = (
    b'{"type":"thinking","thinking":"%s","signature":"c2ln"}',
    b'{"signature":"c2ln","thinking":"%s","type":"thinking"}',
    b'{"thinking" : "%s" ,\t"x":{"type":"y"},"l":[1,-2.5e3,null],"type": "thinking", "signature" :"c2ln"}',
    b'{"type":"redacted_thinking","data":"%s"}',
    b'{"data":"%s","type":"redacted_thinking","signature":""}',
    b'{"message":{"content":[{"type":"thinking","thinking":"%s","signature":"a"}]}}',
    b'{"a":1}{"type":"thinking","thinking":"%s","signature":"a"}',
)

UNSIGNED = (
    b'{"type":"thinking","thinking":"%s"}',
    b'{"type":"thinking","thinking":"%s","signature":""}',
    b'{"type":"text","thinking":"%s","signature":"c2ln"}',
    b'{"type":"thinking","thinking":["%s"],"signature":"c2ln"}',
    b'{"type":"thinking","text":"%s","signature":"c2ln"}',
    b'{"x":"%s","y":"{\\"type\\":\\"thinking\\",\\"thinking\\":\\"\\",\\"signature\\":\\"c2ln\\"}","thinking":""}',
    b'{"type":"thinking","signature":"c2ln","x":{"thinking":"%s"}}',
    b'{"type":"thinking","thinking":"%s","signature":"c2ln"',
    b'{"type":"thinking","thinking":"%s","signature":"c2l',
    b'{"type":"thinking","thinking":"%s","signature":"c2ln"}]',
    b'[{"type":"thinking","thinking":"%s","signature":"c2ln"}}',
    b'{"type":"thinking","thinking":"%s","signature":"c2ln"} nonsense',
    b'["type":"thinking","thinking":"%s","signature":"c2ln"]',
)


@pytest.mark.parametrize("block", SIGNED)
@pytest.mark.parametrize("text", [b"/home/ann/src/proj and {{CC_HOME}}", b"/Users/ann", rb"\"/home/ann\\"])
def test_a_signed_block_stays_in_both_directions(block: bytes, text: bytes) -> None:
    line = b'{"cwd":"/home/ann"}' + block % text + b'{"cwd":"/home/ann"}\n'
    stored = Rewriter(ANN).canonicalize(line, Content.JSON)
    assert stored == b'{"cwd":"{{CC_HOME}}"}' + block % text + b'{"cwd":"{{CC_HOME}}"}\n'
    there = Rewriter(MAC).localize(stored, Content.JSON)
    assert there == b'{"cwd":"/Users/ann"}' + block % text + b'{"cwd":"/Users/ann"}\n'
    assert Rewriter(MAC).canonicalize(there, Content.JSON) == stored


@pytest.mark.parametrize("block", UNSIGNED)
def test_anything_else_is_rewritten_as_usual(block: bytes) -> None:
    line = block % b"/home/ann" + b"\n"
    stored = Rewriter(ANN).canonicalize(line, Content.JSON)
    assert stored == block % b"{{CC_HOME}}" + b"\n"
    assert Rewriter(ANN).localize(stored, Content.JSON) == line


def test_a_signature_is_never_rewritten() -> None:
    line = b'{"type":"thinking","thinking":"","signature":"x+/home/ann"}\n'
    assert Rewriter(ANN).canonicalize(line, Content.JSON) == line


def test_lines_around_a_signed_one_are_rewritten() -> None:
    signed = b'{"type":"thinking","thinking":"/home/ann","signature":"a"}\n'
    data = b"/home/ann\n" + signed + b"/home/ann\n" + signed + b"/home/ann"
    stored = Rewriter(ANN).canonicalize(data, Content.JSON)
    assert stored == b"{{CC_HOME}}\n" + signed + b"{{CC_HOME}}\n" + signed + b"{{CC_HOME}}"


def test_without_the_word_there_is_nothing_to_protect() -> None:
    assert signed_spans(b'{"type":"redacted"}') == []


def test_all_thinking_of_a_block_with_a_key_twice_is_protected() -> None:
    line = b'{"type":"thinking","thinking":"a","thinking":"b","signature":"c"}'
    assert [line[start:end] for start, end in signed_spans(line)] == [b"a", b"b", b"c"]
