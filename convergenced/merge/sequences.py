"""Sequences of lines side by side: is one inside the other, what holds both, what changed where.

Owns the three comparisons that merging rests on. Pure, and bounded: what is too long to compare line
by line is not compared, and the answer is then correct though not the shortest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

COMPARE_LIMIT = 4_000_000
"""Product of two sequences' lengths up to which they are compared line by line."""

WORK_LIMIT = 50_000_000
"""Pairs of equal lines times the shorter length, beyond which the commonest lines find no match of their
own: a blank line goes with its neighbours. Comparing is cubic where most lines are alike."""

Lines = Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of a three-way comparison; where nobody changed anything all three are equal."""

    base: Lines
    ours: Lines
    theirs: Lines


def is_contained(part: Iterable[bytes], whole: Iterable[bytes]) -> bool:
    """Whether every line of `part` is in `whole`, in order."""
    rest = iter(whole)
    return all(any(line == candidate for candidate in rest) for line in part)


def count_common_prefix(one: Lines, other: Lines) -> int:
    """How many leading lines are equal."""
    same = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        same += 1
    return same


def hold_both(one: Lines, other: Lines) -> list[bytes]:
    """A sequence that contains both, each in order, and does not depend on which comes first."""
    first, second = sorted((list(one), list(other)))
    held: list[bytes] = []
    at_first = at_second = 0
    for start_first, start_second, size in _matches(first, second):
        held += first[at_first:start_first]
        held += second[at_second:start_second]
        held += first[start_first : start_first + size]
        at_first, at_second = start_first + size, start_second + size
    return held


def compare_three(base: Lines, ours: Lines, theirs: Lines) -> Iterator[Region]:
    """Cuts three versions into regions, in order.

    Neighbouring changes of both sides fall into one region: whether they go together cannot be told.
    """
    at_base = at_ours = at_theirs = 0
    for start, end, in_ours, in_theirs in _shared(base, ours, theirs):
        if start > at_base or in_ours > at_ours or in_theirs > at_theirs:
            yield Region(base[at_base:start], ours[at_ours:in_ours], theirs[at_theirs:in_theirs])
        size = end - start
        if size:
            same = base[start:end]
            yield Region(same, same, same)
        at_base, at_ours, at_theirs = end, in_ours + size, in_theirs + size


def _shared(base: Lines, ours: Lines, theirs: Lines) -> Iterator[tuple[int, int, int, int]]:
    """Stretches of `base` that both sides kept: start, end, where in ours, where in theirs.

    The last one is empty and stands at the three ends.
    """
    left, right = _matches(base, ours), _matches(base, theirs)
    at_left = at_right = 0
    while at_left < len(left) and at_right < len(right):
        left_start, left_to, left_size = left[at_left]
        right_start, right_to, right_size = right[at_right]
        start = max(left_start, right_start)
        end = min(left_start + left_size, right_start + right_size)
        if start < end:
            yield start, end, left_to + start - left_start, right_to + start - right_start
        if left_start + left_size < right_start + right_size:
            at_left += 1
        else:
            at_right += 1
    yield len(base), len(base), len(ours), len(theirs)


def _matches(one: Lines, other: Lines) -> list[tuple[int, int, int]]:
    """Equal stretches: start in one, start in other, length. The last is empty, at both ends."""
    prefix = count_common_prefix(one, other)
    ends = (one[prefix:][::-1], other[prefix:][::-1])
    suffix = count_common_prefix(*ends)
    inner_one = one[prefix : len(one) - suffix]
    inner_other = other[prefix : len(other) - suffix]
    found = [(0, 0, prefix)]
    if len(inner_one) * len(inner_other) <= COMPARE_LIMIT:
        common = _too_common(inner_one, inner_other)
        matcher = SequenceMatcher(common.__contains__, inner_one, inner_other, autojunk=False)
        found += [(prefix + a, prefix + b, size) for a, b, size in matcher.get_matching_blocks()]
    found.append((len(one) - suffix, len(other) - suffix, suffix))
    return [match for match in found if match[2]] + [(len(one), len(other), 0)]


def _too_common(one: Lines, other: Lines) -> frozenset[bytes]:
    """The lines that are left out of a comparison so that it ends; the same whichever side is which."""
    ones, others = Counter(one), Counter(other)
    pairs = {line: ones[line] * others[line] for line in ones.keys() & others.keys()}
    work, shorter = sum(pairs.values()), min(len(one), len(other))
    common: list[bytes] = []
    for line in sorted(pairs, key=lambda line: (-pairs[line], line)):
        if work * shorter <= WORK_LIMIT:
            break
        work -= pairs[line]
        common.append(line)
    return frozenset(common)
