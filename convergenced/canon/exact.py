r"""Owns the exact rewrite of JSON bytes: escapes are understood, whatever surrounds them.

The lexer behind it needs no valid JSON. Its units are `\uXXXX`, the two-byte escapes, and single
bytes; a backslash that starts neither is a unit of its own. An anchor starts and ends at unit
borders, and its neighbours are judged by what they decode to.

Each layer is a one-to-one mapping on all bytes, for three reasons that the code must keep:
an anchor's neighbours decode to the same characters in local and canonical form; no anchor is
recognized directly beside another one or beside a sentinel; and canonicalizing lowers the depth
that localizing raises (see `anchors`). Every pass is linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from convergenced.canon.anchors import SLASHES, Layer, Name, json_spellings, sentinel, text_spelling

SENTINEL_GATE = b"{{CC_"
"""Bytes without these hold no sentinel."""

ALNUM = rb"(?:[A-Za-z0-9]|\\u00(?:3[0-9]|4[1-9a-fA-F]|5[0-9aA]|6[1-9a-fA-F]|7[0-9aA]))"
"""A unit that decodes to a letter or digit."""

ENDS = rb"(?!%(alnum)s|[_-]|\\u00(?:2[dD]|5[fF])|(?:\.|\\u002[eE])%(alnum)s)" % {b"alnum": ALNUM}
"""What follows an anchor does not go on with its last name."""

ESCAPE = rb'\\(?:u[0-9a-fA-F]{4}|["\\/bfnrt])'
_OPENING = rb"\{\{"
CLOSING = rb"(?:\}|\\u007d)(?:\}|\\u007d)"
_BYTE_ALNUM = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_ALNUM_UNIT = re.compile(ALNUM)


def one_of(literals: Iterable[bytes]) -> bytes:
    """A pattern for any of the literals, longest first; for none it matches nothing."""
    ordered = sorted(literals, key=lambda text: (-len(text), text))
    return rb"(?:%s)" % b"|".join(re.escape(text) for text in ordered) if ordered else b"(?!)"


def common_stem(spellings: Sequence[bytes]) -> bytes:
    """What all the spellings begin with."""
    shortest, longest = min(spellings), max(spellings)  # in the order of bytes the two differ most
    length = next(
        (at for at, pair in enumerate(zip(shortest, longest, strict=False)) if pair[0] != pair[1]), None
    )
    return shortest[:length]


class Literals:
    """Layer 0: literal sentinels, one level up or down. In text only the plain closing can occur."""

    def __init__(self, names: Iterable[Name]) -> None:
        head = rb"(%sCC_%s(?:_LIT)*)" % (_OPENING, one_of(name.encode() for name in names))
        self._any = re.compile(rb"%s(?=%s)" % (head, CLOSING))
        self._lifted = re.compile(rb"%s_LIT(?=%s)" % (head, CLOSING))

    def lift(self, data: bytes) -> bytes:
        """Appends one `_LIT` to every literal sentinel."""
        return self._any.sub(rb"\1_LIT", data) if SENTINEL_GATE in data else data

    def lower(self, data: bytes) -> bytes:
        """Takes one `_LIT` away from every sentinel that has one."""
        return self._lifted.sub(rb"\1", data) if SENTINEL_GATE in data else data


class ExactLayer:
    """One anchor's mapping between the bytes before and after its layer."""

    def __init__(self, layer: Layer, names: tuple[Name, ...]) -> None:
        spellings = json_spellings(layer.path)
        self._to_canonical: dict[bytes, bytes] = {}
        self._to_local: dict[bytes, bytes] = {}
        for style, depths in enumerate(spellings):
            self._to_canonical[depths[0]] = sentinel(layer.name, style)
            self._to_local[sentinel(layer.name, style)] = depths[0]
            for shallow, deep in pairwise(depths):
                self._to_canonical[deep] = shallow
                self._to_local[shallow] = deep
            self._to_local[depths[-1]] = depths[-1]  # as deep as it gets
        anchor = b"|".join(_style_pattern(depths) for depths in spellings)
        own = [layer.name] if layer.path.startswith("/") else []
        self._canonical_pattern = _pattern(anchor, names, names)
        self._local_pattern = _pattern(anchor, names, [name for name in names if name not in own])
        self._sentinels = frozenset(sentinel(layer.name, style) for style in range(len(spellings)))
        self._ends_open = ends_open(text_spelling(layer.path)[-1:])

    def canonicalize(self, data: bytes) -> bytes:
        """Anchors become sentinels, deeper spellings one shallower."""
        return self._rewrite(self._canonical_pattern, self._to_canonical, data)

    def localize(self, data: bytes) -> bytes:
        """Sentinels become anchors, what looks like an anchor one deeper."""
        return self._rewrite(self._local_pattern, self._to_local, data)

    def _rewrite(self, pattern: re.Pattern[bytes], table: Mapping[bytes, bytes], data: bytes) -> bytes:
        out: list[bytes] = []
        copied = 0  # all before is in `out`
        at = 0
        unit_end, open_after = 0, True  # where the last token ended; whether an anchor may follow it
        while token := pattern.search(data, at):
            start, at = token.span()
            open_before = open_after if start == unit_end else data[start - 1] not in _BYTE_ALNUM
            unit_end = at
            raw = token[0]
            if token.lastgroup == "anchor":
                if not open_before:
                    at = unit_end = start + _unit_length(raw)
                    open_after = True  # a slash or a dash
                    continue
                open_after = self._ends_open and table[raw] not in self._sentinels
            else:
                open_after = token.lastgroup != "sentinel" and ends_open(raw)
                if raw not in table:
                    continue
            out += (data[copied:start], table[raw])
            copied = at
        out.append(data[copied:])
        return b"".join(out)


def _pattern(anchor: bytes, names: Iterable[Name], blockers: Iterable[Name]) -> re.Pattern[bytes]:
    """Finds the anchor, sentinels and escapes; an anchor is none directly before a blocker."""
    return re.compile(
        rb"(?P<anchor>%s)%s%s|(?P<sentinel>%s)|%s" % (anchor, ENDS, _no(blockers), _sentinels(names), ESCAPE)
    )


def _style_pattern(depths: tuple[bytes, ...]) -> bytes:
    """One style's spellings; what they begin with stands first, so that a mismatch is found early."""
    stem = common_stem(depths)
    return re.escape(stem) + one_of(spelling[len(stem) :] for spelling in depths)


def _no(names: Iterable[Name]) -> bytes:
    return rb"(?!%s)" % _sentinels(names)


def _sentinels(names: Iterable[Name]) -> bytes:
    return rb"%sCC_%s%s" % (_OPENING, one_of(name.encode() for name in names), CLOSING)


def _unit_length(raw: bytes) -> int:
    """The length of the slash or dash an anchor starts with."""
    if raw[:1] != b"\\":
        return 1
    return len(SLASHES[2]) if raw[1:2] == b"u" else len(SLASHES[1])


def ends_open(unit: bytes) -> bool:
    """Whether an anchor may follow this byte or escape: it decodes to no letter and no digit."""
    return _ALNUM_UNIT.fullmatch(unit) is None


class RewritingLayer(Protocol):
    """One anchor's way to its sentinel and back."""

    def canonicalize(self, data: bytes) -> bytes:
        """The anchor replaced by its sentinel."""
        ...

    def localize(self, data: bytes) -> bytes:
        """The sentinel replaced by the anchor."""
        ...


class Composition:
    """Literal sentinels first, then one layer after the other; the way back in the opposite order."""

    def __init__(self, names: Sequence[Name], layers: Sequence[RewritingLayer]) -> None:
        self._literals = Literals(names)
        self._layers = layers

    def canonicalize(self, data: bytes) -> bytes:
        """The canonical form of bytes that hold no signed thinking."""
        data = self._literals.lift(data)
        for layer in self._layers:
            data = layer.canonicalize(data)
        return data

    def localize(self, data: bytes) -> bytes:
        """The local form of bytes that hold no signed thinking."""
        for layer in reversed(self._layers):
            data = layer.localize(data)
        return self._literals.lower(data)


class Exact(Composition):
    """The whole composition for one participant."""

    def __init__(self, all_layers: tuple[Layer, ...]) -> None:
        names = tuple(layer.name for layer in all_layers)
        super().__init__(names, [ExactLayer(layer, names) for layer in all_layers])
