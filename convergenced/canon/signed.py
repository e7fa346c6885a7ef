r"""Owns the search for signed thinking, which is never rewritten: the API refuses an edited block.

A signed block is an object in a line of JSON that holds `"type":"thinking"`, a `"thinking"` string
and a `"signature"` that is not empty, in any order; or `"type":"redacted_thinking"` and `"data"`.
The same words inside another string are text and protect nothing.

The answer must be the same for the local and the canonical spelling of a line. It is, because only
a line that is lexically JSON from end to end has protected strings at all: rewriting changes what
stands between quotes, never a quote, and an anchor or sentinel outside of a string makes either
spelling of the line fail. So do a torn line and a value spread over several lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from convergenced.canon.search import holder

GATE = b'thinking"'
"""A line without these bytes has no signed thinking."""

is_gated = holder(GATE)
"""Whether bytes may have signed thinking."""

_TOKEN = re.compile(
    rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
    rb"|([{}\[\]:,])"
    rb"|[ \t\r\n]++|true|false|null|-?[0-9]++(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?",
    re.DOTALL,
)
_PROTECTED = frozenset({b"thinking", b"signature", b"data"})

_CANDIDATE = re.compile(
    rb'"(?:thinking|signature|data)"[ \t\r]*+:[ \t\r]*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL
)

Span = tuple[int, int]


class _Object:
    """An object that is being read."""

    __slots__ = ("key", "spans", "type")

    def __init__(self) -> None:
        self.key: bytes | None = None
        self.type = b""
        self.spans: dict[bytes, list[Span]] = {}

    def take(self, value: bytes, span: Span) -> None:
        """A string value of the key that was read last."""
        if self.key == b"type":
            self.type = value
        elif self.key in _PROTECTED:
            self.spans.setdefault(self.key, []).append(span)

    def signed(self) -> list[Span]:
        """The spans to protect, now that all keys are known."""
        signatures = self.spans.get(b"signature", [])
        if self.type == b"thinking" and any(start < end for start, end in signatures):
            return [*self.spans.get(b"thinking", []), *signatures]
        if self.type == b"redacted_thinking":
            return [*self.spans.get(b"data", []), *signatures]
        return []


def signed_spans(line: bytes) -> list[Span]:
    """Where the protected strings of a line stand, quotes not included, in order. Linear."""
    if GATE not in line:
        return []
    found: list[Span] = []
    open_values: list[_Object | None] = []  # None for an array
    text, text_span = b"", (0, 0)
    at = 0
    while at < len(line):
        token = _TOKEN.match(line, at)
        if token is None:
            return []
        at = token.end()
        inside = open_values[-1] if open_values else None
        if token[1] is not None:
            text, text_span = token[1], token.span(1)
            if inside is not None and inside.key is not None:
                inside.take(text, text_span)
            continue
        match token[2]:
            case b"{":
                open_values.append(_Object())
            case b"[":
                open_values.append(None)
            case b"}" | b"]":
                if not open_values or (inside is None) is (token[2] == b"}"):
                    return []
                open_values.pop()
                if inside is not None:
                    found += inside.signed()
            case b":" if inside is not None:
                inside.key = text
            case b"," if inside is not None:
                inside.key = None
            case _:
                pass
    return [] if open_values else sorted(found)


def candidates(line: bytes) -> Iterator[bytes]:
    """The contents of all strings of a line that may be protected, and perhaps of others: cheap."""
    return (found[1] for found in _CANDIDATE.finditer(line))


def gated_lines(chunk: bytes) -> Iterator[Span]:
    """Where the lines of a chunk stand, LF included, that may have signed thinking."""
    end = 0
    while (at := chunk.find(GATE, end)) >= 0:
        start = chunk.rfind(b"\n", end, at) + 1 or end
        end = chunk.find(b"\n", at) + 1 or len(chunk)
        yield start, end
