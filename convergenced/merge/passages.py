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
from convergenced.merge.sequences import Region, compare_three

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


def merge_passages(base: Units | None, ours: Units, theirs: Units) -> list[Piece]:
    """Merges two versions of a passage; None for a base stands for one that nobody knows."""
    return list(_merge(base or (), ours, theirs, is_new=base is None, is_code=False))


def _merge(base: Units, ours: Units, theirs: Units, *, is_new: bool, is_code: bool) -> Iterator[Piece]:
    at = 0
    for cluster in _clusters(list(_edits(base, ours)), list(_edits(base, theirs))):
        yield from base[at : cluster.start]
        yield from _settle(base[cluster.start : cluster.end], cluster, is_new=is_new, is_code=is_code)
        at = cluster.end
    yield from base[at:]


def _edits(base: Units, side: Units) -> Iterator[_Edit]:
    at = 0
    for region in compare_three(base, side, base):
        end = at + len(region.base)
        if tuple(region.ours) != tuple(region.base):
            yield _Edit(at, end, tuple(region.ours))
        at = end


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
    elif _overlap(base, cluster):
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
    return any(is_text(unit) and unit not in held and b"# " + unit not in held for unit in part)


def _overlap(base: Units, cluster: _Cluster) -> bool:
    """Whether both rewrote one and the same line."""
    rewritten = [{at for edit in edits for at in range(edit.start, edit.end)} for edits in cluster.sides]
    return any(is_text(base[at - cluster.start]) for at in rewritten[0] & rewritten[1])


def _merge_code(base: Units, ours: Units, theirs: Units) -> list[Piece]:
    """One block of code that both changed, where it can be one block again."""
    sides = [tuple(unit for unit in side if is_text(unit)) for side in (base, ours, theirs)]
    if any(len(side) != 1 or b"\n" not in side[0] for side in sides):
        return []
    lines = [tuple(side[0].split(b"\n")) for side in sides]
    merged = list(_merge(*lines, is_new=False, is_code=True))
    plain = [piece for piece in merged if isinstance(piece, bytes)]
    blocks = list(find_blocks(plain))
    is_whole = len(blocks) == 1 and blocks[0].kind in ("code", "comment") and not blocks[0].closing
    return [b"\n".join(plain)] if is_whole and len(plain) == len(merged) else []


def _place_both(ours: Units, theirs: Units, *, is_disputed: bool) -> Iterator[Piece]:
    """Two texts for one place, of which neither holds all of the other."""
    known = frozenset(ours)
    for region in _side_by_side(ours, theirs):
        one, other = tuple(region.ours), tuple(region.theirs)
        if not any(map(is_text, other)):
            yield from one
            continue
        if not any(map(is_text, one)):
            yield from other
            continue
        if _is_list(one) and _is_list(other):
            other = tuple(unit for item in _items(other) if _missing(item, known) for unit in item)
            yield from [Dispute(one, other)] if _has_rivals(one, other) else (*one, *other)
        elif is_disputed or _has_rivals(one, other):
            yield Dispute(one, other)
        else:
            gap = [b""] if is_text(one[-1]) and is_text(other[0]) else []
            yield from (*one, *gap, *other)


def _side_by_side(ours: Units, theirs: Units) -> Iterator[Region]:
    """Stretches that are the same and stretches that are not; blank lines alone keep nothing apart."""
    one: list[bytes] = []
    other: list[bytes] = []
    for region in compare_three(ours, ours, theirs):
        is_same = tuple(region.ours) == tuple(region.theirs)
        if is_same and any(map(is_text, region.ours)):
            if one or other:
                yield Region((), one, other)
                one, other = [], []
            yield Region((), region.ours, ())
        else:
            one += region.ours
            other += region.theirs
    if one or other:
        yield Region((), one, other)


def _is_list(units: Units) -> bool:
    """Whether all that stands here are items of a list or rows of a table."""
    texts = [unit for unit in units if is_text(unit)]
    return _ITEM.match(texts[0]) is not None and all(
        _ITEM.match(unit) is not None or unit[:1] in (b" ", b"\t") for unit in texts
    )


def _items(units: Units) -> Iterator[list[bytes]]:
    """The outermost items of a list, each with what is indented below it."""
    item: list[bytes] = []
    for unit in units:
        if item and is_text(unit) and unit[:1] not in (b" ", b"\t"):
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
    return is_text(unit) and len(unit) <= LONGEST_RIVAL and b"](" not in unit and unit[:1] != b"|"


def _label(unit: bytes) -> bytes:
    found = _LABEL.match(unit.strip())
    return b"" if found is None else found[1].strip(b" \t*_`").lower()


def _words(unit: bytes) -> frozenset[bytes]:
    return frozenset(word.lower() for word in _WORD.findall(_CODE.sub(b"", unit))) - {b"-", b"+"}
