r"""Owns the rewrite of plain text (memory, tool results): anchors and sentinels as they stand.

The layers are those of `exact`, without escapes, styles and depths: in plain text a path has only
one spelling. So a path of another machine that happens to be an anchor here becomes a sentinel when
the text is canonicalized again; localizing what was canonicalized always gives the same bytes.
"""

from __future__ import annotations

import re

from convergenced.canon.anchors import Layer, Name, text_spelling
from convergenced.canon.exact import one_of

BUFFER = 1 << 16
"""Bytes of a stream that are rewritten at a time, where the text allows a cut."""

_ENDS = rb"(?![A-Za-z0-9_-]|\.[A-Za-z0-9])"
_SEPARATORS = (b"\n", b" ", b"\t", b"\r", b'"', b"'", b",", b";", b"=", b"<", b"(", b"|", b"\0")
_CUT_TRIES = 4096
_TOKEN_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ_}"
_TOKEN_REACH = 256


class TextLayer:
    """One anchor's mapping between the bytes before and after its layer."""

    def __init__(self, layer: Layer, names: tuple[Name, ...]) -> None:
        self.anchor = text_spelling(layer.path)
        self._sentinel = layer.sentinel
        plain = re.escape(self.anchor)
        sentinels = [b"{{CC_" + name.encode() + b"}}" for name in names]
        # Where the anchor ends in a letter nothing can follow that starts it again.
        again = b"" if self.anchor[-1:].isalnum() else rb"(%s)?" % plain
        self._pattern = re.compile(
            plain
            + rb"(?<![A-Za-z0-9]%s)" % plain
            + b"".join(rb"(?<!%s%s)" % (re.escape(sentinel), plain) for sentinel in sentinels)
            + _ENDS
            + rb"(?!%s)" % one_of(sentinels)
            + again
        )
        self._keeps_next = bool(again)

    def canonicalize(self, data: bytes) -> bytes:
        """Anchors become sentinels."""
        if self.anchor not in data:
            return data
        if self._keeps_next:
            return self._pattern.sub(lambda found: self._sentinel + (found[1] or b""), data)
        return self._pattern.sub(self._sentinel, data)

    def localize(self, data: bytes) -> bytes:
        """Sentinels become anchors."""
        return data.replace(self._sentinel, self.anchor)


class Text:
    """The whole composition for one participant."""

    def __init__(self, all_layers: tuple[Layer, ...]) -> None:
        names = tuple(layer.name for layer in all_layers)
        self._layers = [TextLayer(layer, names) for layer in all_layers]
        anchors = [layer.anchor for layer in self._layers]
        self._separators = [mark for mark in _SEPARATORS if not any(mark in anchor for anchor in anchors)]
        self._anchors = anchors
        self._starts = b"{}" + b"".join(anchor[:1] for anchor in anchors)
        literal = rb"(\{\{CC_%s(?:_LIT)*" % one_of(name.encode() for name in names)
        self._literal = re.compile(literal + rb")\}\}")
        self._lifted = re.compile(literal + rb")_LIT\}\}")

    def canonicalize(self, data: bytes) -> bytes:
        """The canonical form of plain text."""
        if b"{{CC_" in data:
            data = self._literal.sub(rb"\1_LIT}}", data)
        for layer in self._layers:
            data = layer.canonicalize(data)
        return data

    def localize(self, data: bytes) -> bytes:
        """The local form of plain text."""
        if b"{{CC_" not in data:
            return data
        for layer in reversed(self._layers):
            data = layer.localize(data)
        return self._lifted.sub(rb"\1}}", data)

    def cut(self, data: bytes) -> int:
        """A place near the end where `data` can be divided without changing the result; 0 for none.

        That is behind a separator that no anchor holds, or, in a long run without any, between two
        bytes that no anchor and no sentinel touches.
        """
        at = max((data.rfind(mark) for mark in self._separators), default=-1) + 1
        return at or self._cut_in_run(data)

    def _cut_in_run(self, data: bytes) -> int:
        reach = max((len(anchor) for anchor in self._anchors), default=0) + 1
        last = len(data) - reach
        for at in range(last, max(0, last - _CUT_TRIES), -1):
            if data[at] in self._starts:
                continue
            before = data[max(0, at - _TOKEN_REACH) : at].rstrip(_TOKEN_BYTES)
            if not before or before.endswith(b"{"):
                continue
            if not any(
                anchor in data[max(0, at - len(anchor) - 1) : at + len(anchor) - 1]
                for anchor in self._anchors
            ):
                return at
        return 0
