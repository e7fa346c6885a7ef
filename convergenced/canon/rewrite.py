"""Owns `Rewriter`: the way between local and canonical form for one participant.

Promises, for a participant on POSIX: `localize(canonicalize(x)) == x` for any bytes;
`canonicalize(localize(c)) == c` for JSON in canonical form (the depth limit of `anchors` is the
exception), and for text that holds none of this machine's own anchors. A stream gives the same
bytes as the whole, however it is divided. Everything is linear.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from convergenced.canon.anchors import layers
from convergenced.canon.exact import Exact
from convergenced.canon.signed import signed_spans
from convergenced.canon.text import BUFFER, Text
from convergenced.model import Anchors, Content

_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


class Rewriter:
    """Rewrites for one participant. Safe to share between threads; cheap enough to build again."""

    def __init__(self, anchors: Anchors) -> None:
        self.anchors = anchors
        ordered = layers(anchors)
        self._exact = Exact(ordered)
        self._text = Text(ordered)

    def canonicalize(self, data: bytes, content: Content) -> bytes:
        """The canonical form of a whole file or of whole records."""
        if content is Content.TEXT:
            return self._text.canonicalize(data)
        return b"".join(_around_signed(line, self._exact.canonicalize) for line in _lines(data))

    def localize(self, data: bytes, content: Content) -> bytes:
        """The local form of a whole file or of whole records."""
        if content is Content.TEXT:
            return self._text.localize(data)
        return b"".join(_around_signed(line, self._exact.localize) for line in _lines(data))

    def canonicalize_chunks(self, chunks: Iterable[bytes], content: Content) -> Iterator[bytes]:
        """The canonical form of a stream; holds one record or a few `BUFFER` at a time."""
        return _stream(chunks, self._cut(content), lambda data: self.canonicalize(data, content))

    def localize_chunks(self, chunks: Iterable[bytes], content: Content) -> Iterator[bytes]:
        """The local form of a stream; holds one record or a few `BUFFER` at a time."""
        return _stream(chunks, self._cut(content), lambda data: self.localize(data, content))

    def is_reversible(self, data: bytes, content: Content) -> bool:
        """Whether these local bytes come back from their canonical form; always so on POSIX."""
        return self.localize(self.canonicalize(data, content), content) == data

    def _cut(self, content: Content) -> Callable[[bytes], int]:
        return self._text.cut if content is Content.TEXT else _after_last_line


def _lines(data: bytes) -> list[bytes]:
    """The lines with their LF, and only LF ends one."""
    return _LINE.findall(data)


def _after_last_line(data: bytes) -> int:
    return data.rfind(b"\n") + 1


def _around_signed(line: bytes, rewrite: Callable[[bytes], bytes]) -> bytes:
    """Rewrites a line but for its signed thinking."""
    out: list[bytes] = []
    at = 0
    for start, end in signed_spans(line):
        out += (rewrite(line[at:start]), line[start:end])
        at = end
    out.append(rewrite(line[at:]))
    return b"".join(out)


def _stream(
    chunks: Iterable[bytes], cut: Callable[[bytes], int], rewrite: Callable[[bytes], bytes]
) -> Iterator[bytes]:
    """Gathers chunks until there is a place to cut. Looks again only when the rest has doubled."""
    pending: list[bytes] = []
    size, due = 0, BUFFER
    for chunk in chunks:
        pending.append(chunk)
        size += len(chunk)
        if size < due:
            continue
        data = b"".join(pending)
        at = cut(data)
        if at:
            yield rewrite(data[:at])
        pending = [data[at:]]
        size = len(data) - at
        due = max(BUFFER, 2 * size)
    if size:
        yield rewrite(b"".join(pending))
