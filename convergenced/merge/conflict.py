"""Conflicts as they stand in a memory file: alternatives between markers.

Owns the spelling::

    <<<<<<< convergence
    one alternative
    =======
    another
    >>>>>>> convergence

Promises: the order of alternatives does not depend on who merged; merging a conflict again with one
of its alternatives changes nothing, and conflicts are never put inside one another. Markers are as
many characters longer than seven as it takes to differ from every line between them.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

MARKER = 7
"""Characters in a marker, at least."""

LABEL = b" convergence"

MAX_ALTERNATIVES = 16
"""Alternatives that conflicts are multiplied out to, at most; beyond that they are taken as text."""

Lines = tuple[bytes, ...]

_OPENING = re.compile(rb"(<{7,}) convergence\r?")
_SEPARATOR = re.compile(rb"(={7,})\r?")
_CLOSING = re.compile(rb"(>{7,}) convergence\r?")
_MARKER_LIKE = re.compile(rb"(<{7,}|={7,}|>{7,})(?: convergence)?\r?")


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two or more alternatives for the same place."""

    alternatives: tuple[Lines, ...]


Part = bytes | Conflict
"""A line without its LF, or a conflict that stands in the place of lines."""


def parse_conflicts(lines: Sequence[bytes]) -> list[Part]:
    """The lines, with every conflict block as one part. A line is looked at once, whatever it opens."""
    marks = _Marks(_places(_SEPARATOR, lines), _places(_CLOSING, lines))
    parts: list[Part] = []
    at = 0
    while at < len(lines):
        opening = _OPENING.fullmatch(lines[at])
        block = None if opening is None else _parse_block(lines, at + 1, marks.of(len(opening[1])))
        if block is None:
            parts.append(lines[at])
            at += 1
        else:
            conflict, at = block
            parts.append(conflict)
    return parts


def format_parts(parts: Iterable[Part]) -> Iterator[bytes]:
    """The lines of parts, conflicts as blocks."""
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        sizes = [
            len(match[1])
            for lines in part.alternatives
            for match in map(_MARKER_LIKE.fullmatch, lines)
            if match
        ]
        size = max([MARKER - 1, *sizes]) + 1
        yield b"<" * size + LABEL
        for index, lines in enumerate(part.alternatives):
            if index:
                yield b"=" * size
            yield from lines
        yield b">" * size + LABEL


def join_alternatives(base: Sequence[Part], ours: Sequence[Part], theirs: Sequence[Part]) -> list[Part]:
    """One conflict of all that the sides hold, or plain lines where that is only one thing.

    An alternative of a conflict in `base` that one side decided against is gone, although the other, which
    decided nothing, still holds it.
    """
    former = base[0].alternatives if len(base) == 1 and isinstance(base[0], Conflict) else ()
    one, other = set(_multiply(ours)), set(_multiply(theirs))
    gone = {lines for lines in former if (lines in one) != (lines in other)}
    sides = [side - gone if len(side) > 1 else side for side in (one, other)]
    alternatives = sorted(sides[0] | sides[1])
    return list(alternatives[0]) if len(alternatives) == 1 else [Conflict(tuple(alternatives))]


def has_conflict(data: bytes) -> bool:
    """Whether a file holds a conflict."""
    return any(isinstance(part, Conflict) for part in parse_conflicts(data.split(b"\n")))


@dataclass(frozen=True, slots=True)
class _Marks:
    """Where the separators and closing markers of each size stand."""

    separators: Mapping[int, Sequence[int]]
    closings: Mapping[int, Sequence[int]]

    def of(self, size: int) -> tuple[Sequence[int], Sequence[int]]:
        return self.separators.get(size, ()), self.closings.get(size, ())


def _places(marker: re.Pattern[bytes], lines: Sequence[bytes]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for index, match in enumerate(map(marker.fullmatch, lines)):
        if match:
            found.setdefault(len(match[1]), []).append(index)
    return found


def _parse_block(
    lines: Sequence[bytes], start: int, marks: tuple[Sequence[int], Sequence[int]]
) -> tuple[Conflict, int] | None:
    """The block whose first alternative begins at `start`, and where the lines go on behind it."""
    separators, closings = marks
    closing = bisect_left(closings, start)
    if closing == len(closings):
        return None
    end = closings[closing]
    borders = separators[bisect_left(separators, start) : bisect_left(separators, end)]
    if not borders:
        return None
    starts = [start, *(border + 1 for border in borders)]
    alternatives = [tuple(lines[at:to]) for at, to in zip(starts, [*borders, end], strict=True)]
    return Conflict(tuple(alternatives)), end + 1


def _multiply(side: Sequence[Part]) -> Iterator[Lines]:
    """The plain texts that a side with conflicts stands for."""
    if len(side) == 1 and isinstance(side[0], Conflict):
        yield from side[0].alternatives
        return
    choices = [part.alternatives if isinstance(part, Conflict) else ((part,),) for part in side]
    count = 1
    for choice in choices:
        count *= len(choice)
        if count > MAX_ALTERNATIVES:
            yield tuple(format_parts(side))
            return
    for chosen in product(*choices):
        yield tuple(line for lines in chosen for line in lines)
