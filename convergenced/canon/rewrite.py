"""Owns `Rewriter`: the way between local and canonical form for one participant.

Promises, for a participant on POSIX: `localize(canonicalize(x)) == x` for any bytes;
`canonicalize(localize(c)) == c` for JSON in canonical form (the depth limit of `anchors` is the
exception), and for text that holds none of this machine's own anchors. A stream gives the same
bytes as the whole, however it is divided. Everything is linear.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from convergenced import __version__
from convergenced.canon.anchors import Layer, layers, text_spelling
from convergenced.canon.exact import Exact
from convergenced.canon.fast import Fast
from convergenced.canon.signed import candidates, gated_lines, is_gated, signed_spans
from convergenced.canon.text import BUFFER, Text
from convergenced.canon.windows import Windows
from convergenced.model import Anchors, Content

Rewrite = Callable[[bytes], bytes]

SENTINEL_START = b"{{CC_"

PIECE = 1 << 10
"""Bytes, about, for which the exact way is taken where the fast way is not sure."""


class Rewriter:
    """Rewrites for one participant. Safe to share between threads; compiled when first needed."""

    def __init__(self, anchors: Anchors) -> None:
        self.anchors = anchors

    @cached_property
    def form(self) -> bytes:
        """A short name of this way to spell: what was localized under the same one is spelled alike."""
        return hashlib.blake2b(repr((__version__, self.anchors)).encode(), digest_size=8).digest()

    @cached_property
    def _forms(self) -> _Forms:
        return _forms(self.anchors)

    @property
    def _text(self) -> Text | Windows:
        return _text(self.anchors)

    @cached_property
    def _spelled(self) -> tuple[bytes, ...]:
        return tuple(text_spelling(layer.path) for layer in layers(self.anchors))

    def _is_plain(self, data: bytes) -> bool:
        """Whether a text surely stays as it is: then nothing need be compiled for it."""
        is_free = self.anchors.os != "windows" and SENTINEL_START not in data
        return is_free and not any(anchor in data for anchor in self._spelled)

    def canonicalize(self, data: bytes, content: Content) -> bytes:
        """The canonical form of a whole file or of whole records."""
        if content is Content.TEXT:
            return data if self._is_plain(data) else self._text.canonicalize(data)
        return _by_chunk(data, self._forms.canonical)

    def localize(self, data: bytes, content: Content) -> bytes:
        """The local form of a whole file or of whole records."""
        if content is Content.TEXT:
            is_plain = self.anchors.os != "windows" and SENTINEL_START not in data
            return data if is_plain else self._text.localize(data)
        return _by_chunk(data, self._forms.local)

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


@dataclass(frozen=True, slots=True)
class _Shared:
    """What both directions have in common."""

    touches: Callable[[bytes], bool]
    """Whether a protected string holds anything that would be rewritten."""
    pieces: re.Pattern[bytes]
    """Divides bytes where no anchor, no sentinel and no escape goes on."""


class _JsonWay:
    """One direction for JSON bytes: fast where the fast way is sure, exact where it is not."""

    def __init__(self, fast: Callable[[bytes], bytes | None], exact: Rewrite, ways: _Shared) -> None:
        self._fast = fast
        self._exact = exact
        self._touches = ways.touches
        self._pieces = ways.pieces

    def chunk(self, chunk: bytes) -> bytes:
        """Rewrites whole lines, all but their signed thinking."""
        if not is_gated(chunk):
            return self._part(chunk)
        out: list[bytes] = []
        at = 0
        for start, end in gated_lines(chunk):
            line = chunk[start:end]
            if any(map(self._touches, candidates(line))):
                out += (self._part(chunk[at:start]), self._around_signed(line))
                at = end
        out.append(self._part(chunk[at:]))
        return b"".join(out)

    def _part(self, part: bytes) -> bytes:
        whole = self._fast(part)
        return b"".join(map(self._piece, self._pieces.findall(part))) if whole is None else whole

    def _piece(self, piece: bytes) -> bytes:
        done = self._fast(piece)
        return self._exact(piece) if done is None else done

    def _around_signed(self, line: bytes) -> bytes:
        out: list[bytes] = []
        at = 0
        for start, end in signed_spans(line):
            out += (self._part(line[at:start]), line[start:end])
            at = end
        out.append(self._part(line[at:]))
        return b"".join(out)


@dataclass(frozen=True, slots=True)
class _Forms:
    """What is compiled for one participant's JSON."""

    canonical: _JsonWay
    local: _JsonWay


@lru_cache(maxsize=32)
def _text(anchors: Anchors) -> Text | Windows:
    """What is compiled for its plain text: a third of the work, and all that notes need."""
    ordered = layers(anchors)
    return Windows(ordered, Content.TEXT) if anchors.os == "windows" else Text(ordered)


@lru_cache(maxsize=32)
def _forms(anchors: Anchors) -> _Forms:
    ordered = layers(anchors)
    pieces = _pieces(ordered)
    if anchors.os == "windows":
        json = Windows(ordered, Content.JSON)
        careful = _Shared(_always, pieces)
        return _Forms(
            _JsonWay(_unsure, json.canonicalize, careful),
            _JsonWay(_unsure, json.localize, careful),
        )
    exact, fast = Exact(ordered), Fast(ordered)
    if not fast.tame:
        careful = _Shared(_always, pieces)
        return _Forms(
            _JsonWay(_unsure, exact.canonicalize, careful), _JsonWay(_unsure, exact.localize, careful)
        )
    shared = _Shared(fast.touches, pieces)
    return _Forms(
        _JsonWay(fast.canonicalize, exact.canonicalize, shared),
        _JsonWay(fast.localize, exact.localize, shared),
    )


def _pieces(ordered: Sequence[Layer]) -> re.Pattern[bytes]:
    """Cuts behind spaces and quotes that no anchor holds, at least `PIECE` bytes apart, and line ends."""
    paths = "".join(layer.path for layer in ordered)
    marks = "".join(mark for mark in ' "' if mark not in paths).encode() + b"\n"
    return re.compile(rb"(?s:.{%d})[^%s]*+[%s]|(?s:.+)" % (PIECE, marks, marks))


def _unsure(_data: bytes) -> None:
    return None


def _always(_data: bytes) -> bool:
    return True


def _by_chunk(data: bytes, way: _JsonWay) -> bytes:
    """Rewrites in pieces of whole lines that fit the processor's cache."""
    if len(data) <= BUFFER:
        return way.chunk(data)
    out = io.BytesIO(bytes(len(data)))  # about as large as it gets; pieces to be joined take that twice
    at = 0
    while at < len(data):
        end = data.find(b"\n", at + BUFFER) + 1 or len(data)
        out.write(way.chunk(data[at:end]))
        at = end
    out.truncate()
    return out.getvalue()


def _after_last_line(data: bytes) -> int:
    return data.rfind(b"\n") + 1


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
