"""What became of a project since the log last told of it: conflicts, and sessions that became two.

Promise: each is news once, on every machine, however it came there and however often the daemon starts:
what the tip told of last holds already is none.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from convergenced.errors import ConvergenceError
from convergenced.merge.conflict import has_conflict
from convergenced.merge.layout import ProjectTree
from convergenced.model import Oid, ProjectId
from convergenced.ports import Store
from convergenced.store.branch import project_at
from convergenced.sync.divergences import Divergence, find_divergences

FRESH = 86_400.0
"""Seconds for which what happened is shown, and which are told of a project that nothing was told of."""


@dataclass(frozen=True, slots=True)
class News:
    """What `upto` has and `since` (None: nothing was told yet) had not.

    `appeared` and `settled` are names of memory files that hold conflicts now, and that held them.
    """

    since: Oid | None
    upto: Oid
    appeared: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()
    divergences: tuple[Divergence, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.appeared or self.settled or self.divergences)


def find_news(
    store: Store,
    project: ProjectId,
    since: Oid | None,
    tip: Oid,
    tree: ProjectTree,
    conflicts: Collection[str],
    now: float,
) -> News:
    """What there is to tell. `tree` is the tip's, `conflicts` its memory files that hold some."""
    former = ProjectTree()
    beyond, earliest = None, now - FRESH
    if since is not None:
        try:
            former, _ = project_at(store, since)
            beyond, earliest = since, 0.0
        except ConvergenceError:
            former = ProjectTree()  # not there any more: as if nothing had been told
    changed = [
        name for name in {*former.memory, *conflicts} if former.memory.get(name) != tree.memory.get(name)
    ]
    held = {
        name
        for name in changed
        if name in former.memory and has_conflict(store.read_blob(former.memory[name]))
    }
    divergences = find_divergences(store, project, tip, beyond=beyond, since=earliest)
    return News(
        since,
        tip,
        tuple(sorted({*changed}.intersection(conflicts) - held)),
        tuple(sorted(held.difference(conflicts))),
        tuple(one for one in reversed(divergences) if one.fork not in former.sessions),
    )
