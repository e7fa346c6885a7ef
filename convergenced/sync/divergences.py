"""Sessions that went on in two places and became two, as the history tells of them.

Promise: only what merge commits say is told; a walk through the history is bounded. Which machine wrote
what is found by looking, and left open where that cannot be told.
"""

from __future__ import annotations

from dataclasses import dataclass

from convergenced.errors import ConvergenceError
from convergenced.merge.layout import read_project
from convergenced.merge.tree import Fork
from convergenced.model import Commit, Oid, ProjectId, SessionId
from convergenced.ports import Store
from convergenced.store.branch import MERGER, forks_named_in, walk_back

LOOK_BACK = 200
"""Commits on each side of a merge in which the writer of a session is looked for, at most."""

MAX_TOLD = 500
"""Divergences that are told of one project at once, at most: the newest."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """A session that became two: `session` keeps its id, `fork` has the other lineage.

    `at` is the time of the merge in Unix seconds, `session_by` and `fork_by` are the machines that went on
    with each, None where that cannot be told.
    """

    project: ProjectId
    session: SessionId
    fork: SessionId
    at: int
    session_by: str | None = None
    fork_by: str | None = None

    @property
    def text(self) -> str:
        """What happened, in a line."""
        known = self.session_by is not None and self.fork_by is not None
        where = f" ({self.session_by} and {self.fork_by})" if known else ""
        return f"session {self.session} went on in two places{where}; the other is now {self.fork}"


def find_divergences(
    store: Store, project: ProjectId, tip: Oid, *, beyond: Oid | None = None, since: float = 0.0
) -> list[Divergence]:
    """What `tip` has and `beyond` lacks, merged at `since` (Unix seconds) or later, the newest first.

    Each fork is told once, at its first merge among those.
    """
    found: dict[SessionId, tuple[Commit, Fork]] = {}
    for _, commit in walk_back(store, tip, beyond):
        if commit.time < since:
            break
        for fork in forks_named_in(commit):
            found[fork.fork] = commit, fork
    newest = sorted(found.values(), key=lambda one: (-one[0].time, one[1]))[:MAX_TOLD]
    return [_described(store, project, commit, fork) for commit, fork in newest]


def _described(store: Store, project: ProjectId, merge: Commit, fork: Fork) -> Divergence:
    plain = Divergence(project, fork.session, fork.fork, merge.time)
    try:
        return _with_writers(store, plain, merge)
    except (
        ConvergenceError
    ):  # the history is damaged or newer than we are: what happened is known all the same
        return plain


def _with_writers(store: Store, plain: Divergence, merge: Commit) -> Divergence:
    kept = _session_at(store, merge.tree, plain.session)
    by: dict[bool, str | None] = {}
    for parent in merge.parents:
        before = _session_at(store, store.read_commit(parent).tree, plain.session)
        by[before == kept] = _writer_of(store, parent, plain.session)
    if len(by) < 2:
        return plain  # not one of the two as it was
    return Divergence(plain.project, plain.session, plain.fork, plain.at, by[True], by[False])


def _writer_of(store: Store, tip: Oid, sid: SessionId) -> str | None:
    """The machine that last changed a session, as `tip` has it."""
    for _, commit in walk_back(store, tip, limit=LOOK_BACK):
        if commit.author == MERGER:
            continue
        now = _session_at(store, commit.tree, sid)
        before = [_session_at(store, store.read_commit(one).tree, sid) for one in commit.parents]
        if now is not None and now not in before:
            return commit.author.name
    return None


def _session_at(store: Store, tree: Oid, sid: SessionId) -> tuple[Oid | None, Oid | None] | None:
    project, _ = read_project(store, tree)
    session = project.sessions.get(sid)
    return None if session is None else (session.transcript, session.flat)
