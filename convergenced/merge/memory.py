"""Memory files: three versions of a text become one.

Owns the rule of DESIGN's "Merging / Memory". Promises: no line that somebody added is lost; it does
not matter which side is which; where both changed the same place, both are kept between markers.
Bytes are compared as lines between LF, so that invalid UTF-8 and carriage returns pass unharmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convergenced.merge.conflict import Conflict, Part, format_parts, join_alternatives, parse_conflicts
from convergenced.merge.sequences import Region, compare_three, count_common_prefix, hold_both

INDEX = "MEMORY.md"
"""The index at the top of memory: lines are added by everyone, so it unions."""


@dataclass(frozen=True, slots=True)
class MergedText:
    """What came out: None for a file that is gone; `conflict` where merging left both sides in it."""

    data: bytes | None
    conflict: bool = False


def merge_text(path: str, ours: bytes | None, theirs: bytes | None, base: bytes | None) -> MergedText:
    """Merges one memory file; `path` is relative to `context/memory/`, None stands for no file.

    A deletion counts where the other side left the file as it was; against a change it does not.
    """
    if theirs in (ours, base):
        return MergedText(ours)
    if ours == base:
        return MergedText(theirs)
    if ours is None or theirs is None:
        return MergedText(theirs if ours is None else ours)
    if path == INDEX:
        return MergedText(_merge_index(ours, theirs, base))
    return _merge_lines(ours, theirs, base)


def _merge_lines(ours: bytes, theirs: bytes, base: bytes | None) -> MergedText:
    first, second = sorted((ours, theirs))
    merged: list[Part] = []
    for region in _regions(first, second, base):
        merged += _merge_region(region)
    conflict = any(isinstance(part, Conflict) for part in merged)
    return MergedText(_join(list(format_parts(merged)), _ends_with_lf(first, second, base)), conflict)


def _merge_index(ours: bytes, theirs: bytes, base: bytes | None) -> bytes:
    first, second = sorted((ours, theirs))
    merged: list[bytes] = []
    for region in _regions(first, second, base):
        merged += _unite_region(region)
    return _join(merged, _ends_with_lf(first, second, base))


def _regions(ours: bytes, theirs: bytes, base: bytes | None) -> list[Region]:
    """The three-way comparison, in which a conflict block counts as one line."""
    texts = [_blocks(base or b""), _blocks(ours), _blocks(theirs)]
    return list(compare_three(*texts))


def _blocks(data: bytes) -> list[bytes]:
    """The lines; the lines of a conflict block are kept together as one."""
    return [b"\n".join(format_parts([part])) for part in parse_conflicts(_lines(data))]


def _parts(blocks: Sequence[bytes]) -> list[Part]:
    return [part for block in blocks for part in parse_conflicts(block.split(b"\n"))]


def _merge_region(region: Region) -> list[Part]:
    base, ours, theirs = (list(side) for side in (region.base, region.ours, region.theirs))
    if theirs in (ours, base):
        return _parts(ours)
    if ours == base:
        return _parts(theirs)
    start = count_common_prefix(ours, theirs)
    end = count_common_prefix(ours[start:][::-1], theirs[start:][::-1])
    inner = [side[start : len(side) - end] for side in (ours, theirs)]
    conflict = join_alternatives(_parts(base), *(_parts(side) for side in inner))
    return [*_parts(ours[:start]), *conflict, *_parts(ours[len(ours) - end :])]


def _unite_region(region: Region) -> list[bytes]:
    """The lines of both, without what either took away."""
    base, ours, theirs = (list(side) for side in (region.base, region.ours, region.theirs))
    if theirs in (ours, base):
        return ours
    if ours == base:
        return theirs
    gone = set(base) - (set(ours) & set(theirs))
    seen: set[bytes] = set()
    united: list[bytes] = []
    for line in hold_both(ours, theirs):
        if line not in gone and (line not in seen or not line.strip()):
            united.append(line)
            seen.add(line)
    return united


def _lines(data: bytes) -> list[bytes]:
    """What stands between LF bytes; whether the last line ends in one is a matter of its own."""
    return data.removesuffix(b"\n").split(b"\n") if data else []


def _join(lines: list[bytes], ends_with_lf: bool) -> bytes:
    return b"\n".join(lines) + (b"\n" if lines and ends_with_lf else b"")


def _ends_with_lf(ours: bytes, theirs: bytes, base: bytes | None) -> bool:
    """Whether the merged text ends in LF: as on the side that changed it, else as on both."""
    sides = [side.endswith(b"\n") for side in (ours, theirs) if side]
    if len(set(sides)) == 1 or not sides:
        return not sides or sides[0]
    return True if base is None or not base else not base.endswith(b"\n")
