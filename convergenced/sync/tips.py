"""Moving a project's branch: only by compare-and-swap, only to a descendant."""

from __future__ import annotations

from collections.abc import Callable

from convergenced import steps
from convergenced.errors import RefMovedError
from convergenced.model import Oid, ProjectId
from convergenced.ports import Store
from convergenced.store.branch import MergeOutcome, merge_commit, project_ref

Merge = Callable[[Store, Oid, Oid], MergeOutcome]

MAX_TRIES = 16
"""Ingest and the exchanges with several peers may move one branch at the same time."""


def tip_of(store: Store, project: ProjectId) -> Oid | None:
    """The commit the project's branch is at."""
    return ref_of(store, project_ref(project))


def ref_of(store: Store, ref: str) -> Oid | None:
    """The commit a ref is at, None where there is no such ref."""
    return store.refs(ref).get(ref)


def advance(store: Store, project: ProjectId, commit: Oid) -> MergeOutcome:
    """Moves the project's branch to include `commit`, by merging where both sides went on.

    Raises `RefMovedError` where others kept moving it, `NewerSchemaError` for a newer format.
    """
    return advance_ref(store, project_ref(project), commit, merge_commit)


def advance_ref(store: Store, ref: str, commit: Oid, merge: Merge) -> MergeOutcome:
    """The same for any branch; `merge` makes the commit in which two tips of it come together."""
    for _ in range(MAX_TRIES):
        tip = ref_of(store, ref)
        outcome = MergeOutcome(commit) if tip is None else merge(store, tip, commit)
        if outcome.commit == tip:
            return outcome
        steps.reached("merge.written")
        try:
            store.swap(ref, tip, outcome.commit)
        except RefMovedError:
            continue
        steps.reached("merge.advanced")
        return outcome
    raise RefMovedError(f"{ref} kept moving", "it is tried again by itself")
