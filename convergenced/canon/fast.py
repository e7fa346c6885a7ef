r"""Owns the fast rewrite of JSON bytes: what `exact` would answer, or None where it is not sure.

Every byte that is looked at once more costs as much as hashing it, so one search finds all that
matters: the name of the first folder (`home`), which all spellings of all anchors in a family share,
the encoded name's too. It stands first in the pattern, so that the search for it stays a plain byte
search, and everything around it is judged after it. What the bytes beside it do not settle (a run
of backslashes, an escape that may hide a letter, escaped slashes, a deeper spelling) is captured as
something that is no anchor, and the answer is None. So the common escapes (`\n`, `\"`, `\u001b`)
cost nothing, and the awkward ones are left to `exact`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from operator import itemgetter

from convergenced.canon.anchors import Layer, json_spellings, sentinel
from convergenced.canon.exact import CLOSING, SENTINEL_GATE, Literals, common_stem, one_of
from convergenced.canon.search import holder

_SURE_LEFT = rb"(?:(?<![A-Za-z0-9\\}]%(stem)s)|(?<=\\[bfnrt]%(stem)s)(?<!\\\\[bfnrt]%(stem)s))"
_UNSURE_LEFT = rb"(?:(?<=[\\}]%(stem)s)|(?<=\\\\[bfnrt]%(stem)s)|(?<=\\u[0-9a-fA-F]{4}%(stem)s))"
_UNSURE_RIGHT = rb"(?:\.?\\u(?!00[01])|\{\{CC_)"
_SURE_RIGHT = rb"(?![A-Za-z0-9_-]|\.[A-Za-z0-9]|%s)" % _UNSURE_RIGHT
_PLAIN_LIFTED = b"_LIT}}"
_WITHOUT_LEAD = itemgetter(slice(-1))
"""What stands before an anchor's core, without the slash or dash that belongs to the anchor."""

_has_sentinel = holder(SENTINEL_GATE)


class _Spelled:
    """A layer with its spellings in the usual style."""

    def __init__(self, layer: Layer) -> None:
        self.name = layer.name
        self.path = layer.path
        self.depths = json_spellings(layer.path)[0]
        self.plain = self.depths[0]
        self.parent = self.plain[: self.plain.rfind(b"/") + 1]
        self.stem = common_stem(self.depths)
        self.first = self.stem[1:].split(b"/")[0]
        """What is surely plain of the first folder's name."""

    @property
    def slashed(self) -> bool:
        """Whether this is a path, not an encoded name."""
        return self.path.startswith("/")

    def lies_below(self, other: _Spelled) -> bool:
        """Whether this is a path inside the other."""
        return self.path.startswith(other.path + "/")

    def ends_with(self, encoded: _Spelled | None) -> bool:
        """Whether this is the path of a folder with that encoded name."""
        return encoded is not None and self.path.endswith("/" + encoded.path)


class _Family:
    """The anchors that begin with one folder, and the encoded name if it begins with it too."""

    def __init__(self, core: bytes, members: Sequence[_Spelled]) -> None:
        self.core = core
        self.is_met = holder(core)
        """Whether bytes hold the core, without which they hold none of the anchors."""
        branches = [
            rb"(?<=%s)(?:%s(?:%s)|%s)"
            % (
                stem := re.escape(lead + core),
                _SURE_LEFT % {b"stem": stem},
                b"|".join(_found(each, len(core) + 1) for each in members if each.plain.startswith(lead)),
                _UNSURE_LEFT % {b"stem": stem},
            )
            for lead in (b"/", b"-")
            if any(each.plain.startswith(lead) for each in members)
        ]
        branches.append(rb"(?<=\\u002[fF]%s)" % re.escape(core))
        self.pattern = re.compile(rb"(%s(?:%s))" % (re.escape(core), b"|".join(branches)))
        self._by_lead = {each.plain: sentinel(each.name) for each in reversed(members)}
        self._by_rest = {plain[1:]: mark for plain, mark in self._by_lead.items()}
        self._touching = any(not _is_alnum(each.path[-1]) for each in members)

    def canonicalize(self, data: bytes) -> bytes:
        """Anchors become sentinels. Raises KeyError where it is not sure."""
        parts = self.pattern.split(data)
        if len(parts) == 1:
            return data
        if self._touching and any(len(part) == 1 for part in parts[2:-1:2]):
            raise KeyError(data)  # one anchor right behind another
        if len(self._by_rest) == len(self._by_lead):
            parts[1::2] = map(self._by_rest.__getitem__, parts[1::2])
        else:  # `/app` and `-app`
            parts[1::2] = [
                self._by_lead[before[-1:] + part]
                for before, part in zip(parts[0::2], parts[1::2], strict=False)
            ]
        parts[0:-1:2] = map(_WITHOUT_LEAD, parts[0:-1:2])
        return b"".join(parts)


class Fast:
    """The fast way for one participant. Use it only where `tame`."""

    def __init__(self, all_layers: tuple[Layer, ...]) -> None:
        spelled = [_Spelled(layer) for layer in all_layers]
        slashed = [each for each in spelled if each.slashed]
        encoded = next((each for each in spelled if not each.slashed), None)
        self.tame = bool(spelled) and all(each.first for each in spelled) and not _overlap(slashed, encoded)
        """Whether one search finds what the layers find one by one. With odd anchors it does not."""
        self._literals = Literals([each.name for each in spelled])
        self._families = list(_families(slashed, encoded))
        self._composed = [each.parent + b"{{CC_ENCODED_DIR" for each in slashed if each.ends_with(encoded)]
        # Of two names for one path only the first comes back as it was; the other is left to `exact`.
        first_names = {each.plain: each.name for each in reversed(spelled)}
        self._local = {sentinel(name): self._literals.lower(plain) for plain, name in first_names.items()}
        names = one_of(each.name.encode() for each in spelled)
        self._sentinel = re.compile(
            rb"(\{\{CC_%s(?:\}\}|(?:_LIT)*%s)%s)" % (names, CLOSING, _recomposed(slashed, encoded))
        )

    def touches(self, data: bytes) -> bool:
        """Whether anything in `data` may have to be rewritten, in either direction."""
        return SENTINEL_GATE in data or any(family.is_met(data) for family in self._families)

    def canonicalize(self, data: bytes) -> bytes | None:
        """The canonical form, or None."""
        if _has_sentinel(data):
            data = self._literals.lift(data)
        try:
            for family in self._families:
                data = family.canonicalize(data)
        except KeyError:
            return None
        return data

    def localize(self, data: bytes) -> bytes | None:
        """The local form, or None."""
        for family in self._families:
            # This machine's own anchor in canonical bytes needs a deeper spelling.
            if family.is_met(data) and (
                family.pattern.search(data) or any(part in data for part in self._composed)
            ):
                return None
        parts = self._sentinel.split(data)
        try:
            parts[1::2] = map(self._local.__getitem__, parts[1::2])
        except KeyError:
            try:
                parts[1::2] = [self._local.get(part) or _lowered(part) for part in parts[1::2]]
            except KeyError:
                return None
        return b"".join(parts)


def _lowered(token: bytes) -> bytes:
    if not token.endswith(_PLAIN_LIFTED):
        raise KeyError(token)
    return token[: -len(_PLAIN_LIFTED)] + b"}}"


def _families(slashed: Sequence[_Spelled], encoded: _Spelled | None) -> Iterator[_Family]:
    """The anchors grouped by their first folder, each group longest first."""
    groups: dict[str, list[_Spelled]] = {}
    for each in slashed:
        groups.setdefault(each.path.split("/")[1], []).append(each)
    for group in groups.values():
        core = min((each.first for each in group), key=len)
        if encoded is not None and encoded.stem.startswith(b"-" + core):
            group.append(encoded)
            encoded = None
        yield _Family(core, group)
    if encoded is not None:
        yield _Family(encoded.first, [encoded])


def _found(each: _Spelled, start: int) -> bytes:
    """Captures the anchor from byte `start` on, or something else where it is not sure."""
    deeper = one_of(deep[start:] for deep in each.depths[1:])
    return rb"%s(?:%s|%s)|%s" % (re.escape(each.plain[start:]), _SURE_RIGHT, _UNSURE_RIGHT, deeper)


def _recomposed(slashed: Sequence[_Spelled], encoded: _Spelled | None) -> bytes:
    """What behind a sentinel makes it another anchor here: `{{CC_HOME}}` and the way to the project."""
    rests: set[bytes] = set()
    for outer in slashed:
        for inner in slashed:
            if inner.lies_below(outer):
                start = len(outer.plain)
                rests.add(one_of(deep[start:] for deep in inner.depths))
                if inner.ends_with(encoded):
                    rests.add(re.escape(inner.parent[start:]) + rb"\{\{CC_ENCODED_DIR")
    return b"(?:%s)?" % b"|".join(sorted(rests)) if rests else b""


def _overlap(slashed: Sequence[_Spelled], encoded: _Spelled | None) -> bool:
    """Whether an anchor could touch another one, or begin inside of one where no name begins."""
    for each in slashed:
        path = each.path
        for at in range(1, len(path)):
            if path[at] == "/" and not _is_alnum(path[at - 1]):
                rest = path[at:]
                if any(other.path.startswith(rest) or rest.startswith(other.path) for other in slashed):
                    return True
        if encoded is not None and path.count(encoded.path) > int(each.ends_with(encoded)):
            return True
    return False


def _is_alnum(character: str) -> bool:
    return character.isascii() and character.isalnum()
