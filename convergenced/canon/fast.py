r"""Owns the fast rewrite of JSON bytes: what `exact` would answer, or None where it is not sure.

One pass of a regular expression finds the slash anchors. What all anchors of a family begin with
stands first in its pattern, so that the search stays a plain byte search, and the neighbours are
judged after it. What the bytes beside it do not settle (a run of backslashes, an escape that may
hide a letter, a deeper spelling) is captured as something that is no anchor, and the answer is
None. So the common escapes (`\n`, `\"`, `\u001b`) cost nothing, and the awkward ones are left to
`exact`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from convergenced.canon.anchors import Layer, json_spellings, sentinel
from convergenced.canon.exact import SENTINEL_GATE, Literals, common_stem, one_of

_SURE_LEFT = rb"(?:(?<![A-Za-z0-9\\]%(stem)s)|(?<=\\[bfnrt]%(stem)s)(?<!\\\\[bfnrt]%(stem)s))"
_UNSURE_LEFT = rb"(?:(?<=\\%(stem)s)|(?<=\\\\[bfnrt]%(stem)s)|(?<=\\u[0-9a-fA-F]{4}%(stem)s))"
_UNSURE_RIGHT = rb"(?:\.?\\u(?!00[01])|\{\{CC_)"
_SURE_RIGHT = rb"(?![A-Za-z0-9_-]|\.[A-Za-z0-9]|%s)" % _UNSURE_RIGHT
_ESCAPED_SLASH = rb"\\(?:/|u002[fF])"
_CLOSING = rb"(?:\}|\\u007d)(?:\}|\\u007d)"
_PLAIN_LIFTED = b"_LIT}}"


class _Spelled:
    """A layer with its spellings in the usual style."""

    def __init__(self, layer: Layer) -> None:
        self.name = layer.name
        self.path = layer.path
        self.depths = json_spellings(layer.path)[0]
        self.plain = self.depths[0]
        self.stem = self.plain[: self.plain.rfind(b"/") + 1] or common_stem(self.depths)

    def within(self, other: _Spelled) -> bool:
        """Whether this path is the other or lies below it."""
        return self.path == other.path or self.path.startswith(other.path + "/")

    def endings(self, start: int) -> bytes:
        """A pattern for all depths from byte `start` on, which lies in what they have in common."""
        return one_of(spelling[start:] for spelling in self.depths)


class Fast:
    """The fast way for one participant. Use it only where `tame`."""

    def __init__(self, all_layers: tuple[Layer, ...]) -> None:
        spelled = [_Spelled(layer) for layer in all_layers]
        slashed = [each for each in spelled if each.name != "ENCODED_DIR"]
        encoded = next((each for each in spelled if each.name == "ENCODED_DIR"), None)
        self._literals = Literals([each.name for each in spelled])
        families = list(_families(slashed))
        branches = [_family_pattern(family) for family in families]
        self._single = [
            (family[-1].stem, re.compile(b"(%s)" % branch))
            for family, branch in zip(families, branches, strict=True)
        ]
        self._combined = re.compile(b"(%s)" % b"|".join(branches)) if branches else _NOTHING
        self._encoded_stem = encoded.stem if encoded else b""
        self._encoded = re.compile(b"(%s)" % _family_pattern([encoded])) if encoded else _NOTHING
        self._gates = [_style_gate(family[-1]) for family in families]
        self._open_ended = any(not each.plain[-1:].isalnum() for each in slashed)
        self._canonical = {each.plain: sentinel(each.name) for each in reversed(spelled)}
        self._cores = _cores(slashed, encoded)
        self._composed = [
            each.stem + b"{{CC_ENCODED_DIR"
            for each in slashed
            if encoded and each.path.endswith("/" + encoded.path)
        ]
        # Where two anchors are the same path only the first one's sentinel is what comes back.
        self._local = {mark: self._literals.lower(plain) for plain, mark in self._canonical.items()}
        self._sentinel = re.compile(
            rb"(\{\{CC_%s(?:_LIT)*%s%s)"
            % (one_of(each.name.encode() for each in spelled), _CLOSING, _recomposed(slashed, encoded))
        )
        self.tame = bool(spelled) and not _overlap(slashed, encoded)
        """Whether one pass finds what the layers find one after the other. With odd anchors it does not."""

    def canonicalize(self, data: bytes) -> bytes | None:
        """The canonical form, or None."""
        data = self._literals.lift(data)
        if self._has_escaped_slashes(data):
            return None
        pattern = self._pattern_for(data)
        if pattern is not None:
            parts = pattern.split(data)
            if len(parts) > 1:
                if self._open_ended and b"" in parts[2:-1:2]:
                    return None
                try:
                    parts[1::2] = [self._canonical[part] for part in parts[1::2]]
                except KeyError:
                    return None
                data = b"".join(parts)
        if self._encoded is _NOTHING or self._encoded_stem not in data:
            return data
        parts = self._encoded.split(data)
        try:
            parts[1::2] = [self._canonical[part] for part in parts[1::2]]
        except KeyError:
            return None
        return b"".join(parts)

    def localize(self, data: bytes) -> bytes | None:
        """The local form, or None."""
        if any(core in data for core in self._cores) and self._may_hold_own(data):
            return None
        parts = self._sentinel.split(data)
        try:
            parts[1::2] = [self._local.get(part) or self._lowered(part) for part in parts[1::2]]
        except KeyError:
            return None
        return b"".join(parts)

    def _lowered(self, token: bytes) -> bytes:
        if not token.endswith(_PLAIN_LIFTED):
            raise KeyError(token)
        return token[: -len(_PLAIN_LIFTED)] + b"}}"

    def _pattern_for(self, data: bytes) -> re.Pattern[bytes] | None:
        """The narrowest pattern that finds all slash anchors in `data`; two families need one pass."""
        if len(self._single) == 1:
            return self._single[0][1]
        present = [pattern for stem, pattern in self._single if stem in data]
        return self._combined if len(present) > 1 else next(iter(present), None)

    def _has_escaped_slashes(self, data: bytes) -> bool:
        return any(needle in data and pattern.search(data) for needle, pattern in self._gates)

    def _may_hold_own(self, data: bytes) -> bool:
        """Whether this machine's own anchors may stand in canonical bytes, which needs a deeper spelling."""
        return (
            self._has_escaped_slashes(data)
            or self._combined.search(data) is not None
            or self._encoded.search(data) is not None
            or any(needle in data for needle in self._composed)
        )


_NOTHING = re.compile(rb"(?!)")


def _families(slashed: Sequence[_Spelled]) -> Iterator[list[_Spelled]]:
    """The anchors grouped by the one they all lie in; that one stands last."""
    rest = list(slashed)
    while rest:
        base = rest[-1]  # the shortest
        yield [each for each in rest if each.within(base)]
        rest = [each for each in rest if not each.within(base)]


def _family_pattern(family: Sequence[_Spelled]) -> bytes:
    """Captures each anchor of the family, longest first, or something else where it is not sure."""
    base = family[-1]
    stem = {b"stem": re.escape(base.stem)}
    start = len(base.stem)
    found = [
        rb"%s(?:%s|%s)|%s"
        % (
            re.escape(each.plain[start:]),
            _SURE_RIGHT,
            _UNSURE_RIGHT,
            one_of(deep[start:] for deep in each.depths[1:]),
        )
        for each in family
    ]
    return rb"%s(?:%s(?:%s)|%s(?=%s))" % (
        stem[b"stem"],
        _SURE_LEFT % stem,
        b"|".join(found),
        _UNSURE_LEFT % stem,
        base.endings(start),
    )


def _style_gate(base: _Spelled) -> tuple[bytes, re.Pattern[bytes]]:
    """Finds a family in the styles with escaped slashes: needle first, then pattern."""
    first, _, more = base.plain[1:].partition(b"/")
    if more:
        return first + b"\\", re.compile(re.escape(first) + _ESCAPED_SLASH)
    return b"\\", re.compile(_ESCAPED_SLASH + base.endings(1))


def _cores(slashed: Sequence[_Spelled], encoded: _Spelled | None) -> list[bytes]:
    """Bytes of which each anchor holds one however it is spelled: few, so that absence is seen fast."""
    cores: list[bytes] = []
    for each in reversed(slashed):
        folders = each.stem.split(b"/")
        if not any(core in folders for core in cores):
            cores.append(max(folders[1:3], key=len))
    if encoded is not None and not any(core and core in encoded.stem for core in cores):
        cores.append(encoded.stem)
    return cores


def _recomposed(slashed: Sequence[_Spelled], encoded: _Spelled | None) -> bytes:
    """What behind a sentinel makes it a longer anchor of this machine: `{{CC_HOME}}` and the way to its project."""
    rests: set[bytes] = set()
    for outer in slashed:
        for inner in slashed:
            if inner.within(outer) and inner.path != outer.path:
                start = len(outer.plain)
                rests.add(re.escape(inner.plain[start : len(inner.stem)]) + inner.endings(len(inner.stem)))
                if encoded is not None and inner.path.endswith("/" + encoded.path):
                    rests.add(re.escape(inner.plain[start : len(inner.stem)]) + rb"\{\{CC_ENCODED_DIR")
    return b"(?:%s)?" % b"|".join(sorted(rests)) if rests else b""


def _overlap(slashed: Sequence[_Spelled], encoded: _Spelled | None) -> bool:
    """Whether an anchor could begin inside another one where no name begins."""
    for each in slashed:
        path = each.path
        for at in range(1, len(path)):
            if path[at] == "/" and not _is_alnum(path[at - 1]):
                rest = path[at:]
                if any(other.path.startswith(rest) or rest.startswith(other.path) for other in slashed):
                    return True
        if encoded is not None and encoded.path in path:
            if path.count(encoded.path) > 1 or not path.endswith("/" + encoded.path):
                return True
    return False


def _is_alnum(character: str) -> bool:
    return character.isascii() and character.isalnum()
