"""Two versions of a transcript past the point where they agree become one lineage, or two.

Owns the rule of DESIGN's "Merging / Session" on lists of records. Promises: whatever comes out holds
every record of both sides in order; it does not matter which side is which; and merging the result
with either side again changes nothing.

The conversation decides. Bookkeeping records (titles, modes, prompts seen) of both sides go into one
file; only where both sides went on talking are there two lineages. A side that lost records of the
conversation, because the client rewrote its tail, has not gone its own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convergenced.canon.transcript import facts, is_conversation
from convergenced.merge.sequences import count_common_prefix, hold_both, is_contained

Records = Sequence[bytes]
Pairs = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class OneLineage:
    """All records of both sides, in one order."""

    records: list[bytes]


@dataclass(frozen=True, slots=True)
class Lineage:
    """All records of one lineage, and the first one of the conversation that the other does not have.

    That record tells which lineage is the elder and names a fork, and nothing after it does, so that
    growing or merging again changes neither.
    """

    records: list[bytes]
    own: bytes

    @property
    def began(self) -> tuple[bool, float]:
        """When its own part began, Unix seconds, to be sorted by; without a time it counts as newest."""
        timestamp = facts(self.own).timestamp
        return timestamp is None, timestamp or 0.0


@dataclass(frozen=True, slots=True)
class TwoLineages:
    """Both lineages, each with what is common to them; ties of age are decided by bytes."""

    elder: Lineage
    younger: Lineage


def merge_tails(one: Records, other: Records) -> OneLineage | TwoLineages:
    """Brings two tails of records (without their LF) together."""
    left, right = sorted((list(one), list(other)))
    if is_contained(left, right):
        return OneLineage(right)
    if is_contained(right, left):
        return OneLineage(left)
    spoken_left, spoken_right = _conversation(left), _conversation(right)
    agreed = count_common_prefix(
        [left[index] for index in spoken_left], [right[index] for index in spoken_right]
    )
    pairs = list(zip(spoken_left[:agreed], spoken_right[:agreed], strict=True))
    own_left, own_right = spoken_left[agreed:], spoken_right[agreed:]
    if own_left and own_right:
        lost = _match_lost(left, own_left, right, own_right)
        if lost is None:
            return _part(left, right, pairs, left[own_left[0]], right[own_right[0]])
        pairs += lost
    return OneLineage(_weave(left, right, pairs))


def _part(left: Records, right: Records, pairs: Pairs, left_own: bytes, right_own: bytes) -> TwoLineages:
    """Two lineages with their common beginning."""
    end_left, end_right = (pairs[-1][0] + 1, pairs[-1][1] + 1) if pairs else (0, 0)
    shared = _weave(left[:end_left], right[:end_right], pairs)
    both = (
        Lineage(shared + list(left[end_left:]), left_own),
        Lineage(shared + list(right[end_right:]), right_own),
    )
    return TwoLineages(*sorted(both, key=lambda lineage: (lineage.began, lineage.own)))


def _conversation(records: Records) -> list[int]:
    """Where the records of the conversation stand."""
    return [index for index, record in enumerate(records) if is_conversation(record)]


def _match_lost(left: Records, own_left: list[int], right: Records, own_right: list[int]) -> Pairs | None:
    """What one side still has of the other's own conversation, if it lost some; None if it did not.

    It did where all it has is in the other in order, or where it does still have the other's last
    record and only added after that.
    """
    if (pairs := _match_fewer(left, own_left, right, own_right)) is not None:
        return pairs
    if (pairs := _match_fewer(right, own_right, left, own_left)) is not None:
        return [(of_left, of_right) for of_right, of_left in pairs]
    return None


def _match_fewer(fewer: Records, own: list[int], fuller: Records, candidates: list[int]) -> Pairs | None:
    spoken = [fewer[index] for index in own]
    last = fuller[candidates[-1]]
    known = len(spoken) - spoken[::-1].index(last) if last in spoken else len(spoken)
    pairs: Pairs = []
    rest = iter(candidates)
    for index in own[:known]:
        match = next((candidate for candidate in rest if fuller[candidate] == fewer[index]), None)
        if match is None:
            return None
        pairs.append((index, match))
    return pairs


def _weave(left: Records, right: Records, pairs: Pairs) -> list[bytes]:
    """One order for both, held together by the records they share.

    Between two of those at most one side has conversation of its own.
    """
    woven: list[bytes] = []
    at_left = at_right = 0
    for of_left, of_right in pairs:
        woven += _fill_gap(left[at_left:of_left], right[at_right:of_right])
        woven.append(left[of_left])
        at_left, at_right = of_left + 1, of_right + 1
    return woven + _fill_gap(left[at_left:], right[at_right:])


def _fill_gap(left: Records, right: Records) -> list[bytes]:
    """What both have between two shared records: bookkeeping first, since the last prompt counts."""
    same = count_common_prefix(left, right)
    rest_left, rest_right = left[same:], right[same:]
    if is_contained(rest_left, rest_right):
        return list(right)
    if is_contained(rest_right, rest_left):
        return list(left)
    if any(is_conversation(record) for record in rest_left):
        return [*right, *rest_left]
    if any(is_conversation(record) for record in rest_right):
        return [*left, *rest_right]
    return [*left[:same], *hold_both(rest_left, rest_right)]
