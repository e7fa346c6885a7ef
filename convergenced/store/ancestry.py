"""Where two histories meet, read commit by commit.

Not left to libgit2, which never comes back from a truncated commit. Promise: the answer does not depend on
what the commits' clocks say; they only decide how soon it is found.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from convergenced.model import Commit, Oid

_OURS, _THEIRS, _OLDER = 1, 2, 4


def best_common_ancestor(read: Callable[[Oid], Commit], one: Oid, other: Oid) -> Oid | None:
    """The common ancestor that no other one descends from; of several the newest, then by id.

    Raises what `read` raises.
    """
    if one == other:
        return one
    reached = {one: _OURS, other: _THEIRS}
    newest_first = [(-read(oid).time, oid) for oid in reached]
    heapq.heapify(newest_first)
    undecided, found = set(reached), []
    while undecided:
        _, oid = heapq.heappop(newest_first)
        undecided.discard(oid)
        mark = reached[oid]
        if mark == _OURS | _THEIRS:
            found.append(oid)
            mark |= _OLDER
        for parent in read(oid).parents:
            before = reached.get(parent, 0)
            if before | mark != before:
                reached[parent] = before | mark
                heapq.heappush(newest_first, (-read(parent).time, parent))
                (undecided.discard if reached[parent] & _OLDER else undecided.add)(parent)
    best = {oid for oid in found if not reached[oid] & _OLDER}
    if len(best) > 1:
        best -= _reached_from(read, best)
    return min(best, key=lambda oid: (-read(oid).time, oid), default=None)


def _reached_from(read: Callable[[Oid], Commit], starts: set[Oid]) -> set[Oid]:
    """All that lies before any of `starts`."""
    waiting = [parent for oid in starts for parent in read(oid).parents]
    seen = set(waiting)
    while waiting:
        fresh = set(read(waiting.pop()).parents) - seen
        seen |= fresh
        waiting.extend(fresh)
    return seen
