"""One passage of text, changed by two: where they are of one mind, and where not.

Owns the three-way merge of what stands under one heading. Promises: no line that either added is lost;
what one side changed alone is as that side has it; what holds the other's lines already stays as it is, so
that merging again changes nothing. Lists take up the items of both; a `Dispute` is where both rewrote the
same lines, wrote prose where there was none before, or say different things of the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from convergenced.merge.sections import find_blocks, is_text
from convergenced.merge.sequences import compare_three

RIVALS_LIMIT = 4_000
"""Pairs of lines up to which it is asked whether two say different things of the same."""

LONGEST_RIVAL = 400

Units = tuple[bytes, ...]

_ITEM = re.compile(rb"[ \t]*(?:[-+*]|[0-9]{1,9}[.)])[ \t]+|\|")
_LABEL = re.compile(rb"(?:[-+*][ \t]+|[0-9]{1,9}[.)][ \t]+)?([^:|\[\s][^:|\[]{1,59}):[ \t*_]")
_CODE = re.compile(rb"`[^`]*`")
_WORD = re.compile(rb"[^\s`*_\"'.,;:!?()]+(?:[.:/-][^\s`*_\"'.,;:!?()]+)*")


@dataclass(frozen=True, slots=True)
class Dispute:
    """Two texts for one place, both of which are kept."""

    ours: Units
    theirs: Units


Piece = bytes | Dispute


@dataclass(frozen=True, slots=True)
class _Edit:
    """Units `start` to `end` of the base became `new`."""

    start: int
    end: int
    new: Units


@dataclass(slots=True)
class _Cluster:
    """Edits of both sides that meet: what stands between them nobody kept."""

    start: int
    end: int
    ours: list[_Edit]
    theirs: list[_Edit]

    @property
    def sides(self) -> tuple[list[_Edit], list[_Edit]]:
        return self.ours, self.theirs


class _Line(bytes):
    """A line of text, equal to others by its text alone, with the blank lines before it."""

    gap: Units = ()

    @classmethod
    def of(cls, text: bytes, gap: Units) -> _Line:
        line = cls(text)
        line.gap = gap
        return line


def merge_passages(base: Units | None, ours: Units, theirs: Units) -> list[Piece]:
    """Merges two versions of a passage; None for a base stands for one that nobody knows.

    Blank lines are compared with nothing: they stay with the text that they stand before.
    """
    lines = [_lines(side) for side in (base or (), ours, theirs)]
    merged: list[Piece] = []
    for piece in _merge(*lines, is_new=base is None, is_code=False):
        if isinstance(piece, Dispute):
            merged.append(Dispute(tuple(_units(piece.ours)), tuple(_units(piece.theirs))))
        else:
            merged += _units([piece])
    return merged


def _lines(units: Units) -> Units:
    lines: list[bytes] = []
    gap: list[bytes] = []
    for unit in units:
        if is_text(unit):
            lines.append(_Line.of(unit, tuple(gap)))
            gap = []
        else:
            gap.append(unit)
    return tuple(lines)


def _units(lines: Iterable[bytes]) -> Iterator[bytes]:
    for line in lines:
        yield from _gap(line)
        yield bytes(line)


def _gap(line: bytes) -> Units:
    return line.gap if isinstance(line, _Line) else ()


def _merge(base: Units, ours: Units, theirs: Units, *, is_new: bool, is_code: bool) -> Iterator[Piece]:
    edits = [list(_edits(base, side)) for side in (ours, theirs)]
    kept = [_kept(base, side, made) for side, made in zip((ours, theirs), edits, strict=True)]
    at = 0
    for cluster in _clusters(*edits):
        yield from map(_keep, base[at : cluster.start], *(side[at : cluster.start] for side in kept))
        yield from _settle(base[cluster.start : cluster.end], cluster, is_new=is_new, is_code=is_code)
        at = cluster.end
    yield from map(_keep, base[at:], *(side[at:] for side in kept))


def _kept(base: Units, side: Units, edits: Sequence[_Edit]) -> Units:
    """The lines of a side where the base has them; those of the base where it does not."""
    kept: list[bytes] = []
    at_side = 0
    for edit in [*edits, _Edit(len(base), len(base), ())]:
        count = edit.start - len(kept)
        kept += side[at_side : at_side + count]
        kept += base[edit.start : edit.end]
        at_side += count + len(edit.new)
    return tuple(kept)


def _keep(base: bytes, ours: bytes, theirs: bytes) -> bytes:
    """A line that all have, with the blank lines before it as the side has them that changed these."""
    return theirs if _gap(ours) == _gap(base) else ours


def _edits(base: Units, side: Units) -> Iterator[_Edit]:
    at = 0
    at_side = 0
    for region in compare_three(base, side, base):
        end, end_side = at + len(region.base), at_side + len(region.ours)
        if tuple(region.ours) != tuple(region.base):
            yield _Edit(at, end, side[at_side:end_side])
        at, at_side = end, end_side


def _clusters(ours: Sequence[_Edit], theirs: Sequence[_Edit]) -> Iterator[_Cluster]:
    """The edits of both sides in their order, those together that overlap or touch."""
    cluster: _Cluster | None = None
    both = [(edit.start, edit.end, 0, edit) for edit in ours] + [(e.start, e.end, 1, e) for e in theirs]
    for start, end, side, edit in sorted(both, key=lambda one: one[:3]):
        if cluster is None or start > cluster.end:
            if cluster is not None:
                yield cluster
            cluster = _Cluster(start, end, [], [])
        cluster.end = max(cluster.end, end)
        (cluster.theirs if side else cluster.ours).append(edit)
    if cluster is not None:
        yield cluster


def _settle(base: Units, cluster: _Cluster, *, is_new: bool, is_code: bool) -> Iterator[Piece]:
    ours = _added(cluster.ours)
    theirs = _added(cluster.theirs)
    if not cluster.theirs or (cluster.ours and not _missing(theirs, ours)):
        yield from ours
    elif not cluster.ours or not _missing(ours, theirs):
        yield from theirs
    elif _overlap(cluster):
        yield from _merge_code(base, ours, theirs) or _place_both(ours, theirs, is_disputed=True)
    else:
        yield from _interleave(cluster, is_disputed=is_code or is_new)


def _interleave(cluster: _Cluster, *, is_disputed: bool) -> Iterator[Piece]:
    """Edits that only touch, each at its place."""
    places: dict[tuple[int, int], tuple[list[_Edit], list[_Edit]]] = {}
    for side, edits in enumerate(cluster.sides):
        for edit in edits:
            places.setdefault((edit.start, edit.end), ([], []))[side].append(edit)
    for _, (ours, theirs) in sorted(places.items(), key=lambda place: place[0]):
        if ours and theirs:
            yield from _place_both(_added(ours), _added(theirs), is_disputed=is_disputed)
        else:
            yield from _added(ours or theirs)


def _added(edits: Sequence[_Edit]) -> Units:
    return tuple(unit for edit in edits for unit in edit.new)


def _missing(part: Iterable[bytes], whole: Collection[bytes]) -> bool:
    """Whether a line of `part` is not in `whole`, not as a comment of a front matter either."""
    held = frozenset(whole)
    return any(unit not in held and b"# " + unit not in held for unit in part)


def _overlap(cluster: _Cluster) -> bool:
    """Whether both rewrote one and the same line."""
    rewritten = [{at for edit in edits for at in range(edit.start, edit.end)} for edits in cluster.sides]
    return not rewritten[0].isdisjoint(rewritten[1])


def _merge_code(base: Units, ours: Units, theirs: Units) -> list[Piece]:
    """One block of code that both changed, where it can be one block again."""
    sides = (base, ours, theirs)
    if any(len(side) != 1 or b"\n" not in side[0] for side in sides):
        return []
    lines = [tuple(side[0].split(b"\n")) for side in sides]
    merged = list(_merge(*lines, is_new=False, is_code=True))
    plain = [piece for piece in merged if isinstance(piece, bytes)]
    blocks = list(find_blocks(plain))
    is_whole = len(blocks) == 1 and blocks[0].kind in ("code", "comment") and not blocks[0].closing
    return [_Line.of(b"\n".join(plain), _gap(ours[0]))] if is_whole and len(plain) == len(merged) else []


def _place_both(ours: Units, theirs: Units, *, is_disputed: bool) -> Iterator[Piece]:
    """Two texts for one place, of which neither holds all of the other."""
    known = frozenset(ours)
    for region in compare_three(ours, ours, theirs):
        one, other = tuple(region.ours), tuple(region.theirs)
        if one == other or not other:
            yield from one
        elif not one:
            yield from other
        elif _is_list(one) and _is_list(other):
            other = tuple(unit for item in _items(other) if _missing(item, known) for unit in item)
            other = tuple(_Line.of(unit, ()) for unit in other[:1]) + other[1:]
            yield from [Dispute(one, other)] if _has_rivals(one, other) else (*one, *other)
        elif is_disputed or _has_rivals(one, other):
            yield Dispute(one, other)
        else:
            yield from (*one, _Line.of(other[0], _gap(other[0]) or (b"",)), *other[1:])


def _is_list(units: Units) -> bool:
    """Whether all that stands here are items of a list or rows of a table."""
    return _ITEM.match(units[0]) is not None and all(
        _ITEM.match(unit) is not None or unit[:1] in (b" ", b"\t") for unit in units
    )


def _items(units: Units) -> Iterator[list[bytes]]:
    """The outermost items of a list, each with what is indented below it."""
    item: list[bytes] = []
    for unit in units:
        if item and unit[:1] not in (b" ", b"\t"):
            yield item
            item = []
        item.append(unit)
    if item:
        yield item


def _has_rivals(ours: Units, theirs: Units) -> bool:
    """Whether a line of one and a line of the other say different things of the same, as it seems."""
    known = frozenset(ours) & frozenset(theirs)
    ones, others = (
        [unit for unit in side if unit not in known and _may_rival(unit)] for side in (ours, theirs)
    )
    if not 0 < len(ones) * len(others) <= RIVALS_LIMIT:
        return False
    read = [(_label(unit), _words(unit)) for unit in others]
    for unit in ones:
        label, words = _label(unit), _words(unit)
        for other_label, other_words in read:
            if label and label == other_label:
                return True
            same, all_words = len(words & other_words), len(words | other_words)
            if same >= 2 and same * 2 >= all_words and words - other_words and other_words - words:
                return True
    return False


def _may_rival(unit: bytes) -> bool:
    """Whether a line states something by itself; lines of an index lead elsewhere."""
    return len(unit) <= LONGEST_RIVAL and b"](" not in unit and unit[:1] != b"|"


def _label(unit: bytes) -> bytes:
    found = _LABEL.match(unit.strip())
    return b"" if found is None else found[1].strip(b" \t*_`").lower()


def _words(unit: bytes) -> frozenset[bytes]:
    return frozenset(word.lower() for word in _WORD.findall(_CODE.sub(b"", unit))) - {b"-", b"+"}
