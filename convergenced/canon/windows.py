r"""Owns the dialect of a Windows participant: three spellings of a path in, one out.

Its anchors are found as `C:\Users\ann`, `C:/Users/ann` and `/c/Users/ann`, without regard to case.
The path that goes on behind an anchor has `/` in canonical form and `\` in local form; it ends at
whitespace, a quote, or a character that no Windows file name holds.

So several local texts have one canonical form, and local text need not come back as it was: ask
`Rewriter.is_reversible`. Canonical form comes back where the path behind a sentinel is not followed
by a backslash, and this machine's own anchors do not stand in it literally.
"""

from __future__ import annotations

import re

from convergenced.canon.anchors import Layer, json_spellings, text_spelling
from convergenced.canon.exact import CLOSING, ENDS, ESCAPE, Composition, ends_open
from convergenced.model import Content

_TEXT_ENDS = rb"(?![A-Za-z0-9_-]|\.[A-Za-z0-9])"
_NAME = rb"[^\\/\x00- :*?\"'<>|{}`]+"
_SEPARATORS = (b"\n", b" ", b"\t", b"\r", b'"')


class Windows(Composition):
    """The whole composition for one Windows participant and one kind of content."""

    def __init__(self, all_layers: tuple[Layer, ...], content: Content) -> None:
        layers = [_WindowsLayer(layer, content) for layer in all_layers]
        super().__init__([layer.name for layer in all_layers], layers)
        self._separators = [mark for mark in _SEPARATORS if not any(mark in layer.local for layer in layers)]

    def cut(self, data: bytes) -> int:
        """A place near the end where plain text can be divided without changing the result; 0 for none."""
        return max((data.rfind(mark) for mark in self._separators), default=-1) + 1


class _WindowsLayer:
    """One anchor and the path behind it."""

    def __init__(self, layer: Layer, content: Content) -> None:
        path = layer.path.replace("/", "\\")
        json = content is Content.JSON
        backslash = rb"\\\\" if json else rb"\\"
        self._backslash = b"\\\\" if json else b"\\"
        self.local = json_spellings(path)[0][0] if json else text_spelling(path)
        self._sentinel = layer.sentinel
        separator = rb"(?:%s|/)" % backslash
        # Looked for only where an anchor stands, so that no path is gone through for each anchor in it.
        self._tail = re.compile(rb"(?:%s%s)*%s?" % (separator, _NAME, separator))
        self._pattern = re.compile(
            rb"(?P<anchor>%s)%s|%s"
            % (
                _spellings(self.local, self._backslash, separator),
                ENDS if json else _TEXT_ENDS,
                ESCAPE if json else b"(?!)",
            ),
            re.IGNORECASE,
        )
        closing = CLOSING if json else rb"\}\}"
        self._sentinel_pattern = re.compile(
            rb"\{\{CC_%s%s((?:/%s)*/?)" % (layer.name.encode(), closing, _NAME)
        )

    def canonicalize(self, data: bytes) -> bytes:
        """Anchors become sentinels, the path behind one gets slashes."""
        out: list[bytes] = []
        copied = at = 0
        escape_end, open_after = -1, True
        while token := self._pattern.search(data, at):
            start, at = token.span()
            if token["anchor"] is None:
                escape_end, open_after = at, ends_open(token[0])
                continue
            open_before = (
                open_after if start == escape_end else start == 0 or ends_open(data[start - 1 : start])
            )
            if not open_before:
                at = start + 1
                continue
            tail = self._tail.match(data, at)
            below = b"" if tail is None else tail[0]
            out += (data[copied:start], self._sentinel, below.replace(self._backslash, b"/"))
            copied = at = at + len(below)
        out.append(data[copied:])
        return b"".join(out)

    def localize(self, data: bytes) -> bytes:
        """Sentinels become anchors, the path behind one gets backslashes."""
        return self._sentinel_pattern.sub(
            lambda found: self.local + found[1].replace(b"/", self._backslash), data
        )


def _spellings(local: bytes, backslash: bytes, separator: bytes) -> bytes:
    """A pattern for the spellings of one anchor."""
    names = local.split(backslash)
    rest = separator.join(re.escape(name) for name in names[1:])
    if local[1:3] != b":" + backslash[:1]:
        return separator.join(re.escape(name) for name in names)
    drive = re.escape(local[:1])
    return rb"(?:%s:%s|/%s/)%s" % (drive, separator, drive, rest)
