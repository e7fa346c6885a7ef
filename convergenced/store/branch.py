"""Branches of the store: their names, a tree in and a commit out, two tips merged into one.

Owns what refs are called and how commits are made. Promises: a merge commit is a pure function of
its two parents, so that machines which merge the same tips make the same commit and merging ends;
and nothing is committed that changes nothing.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass

from convergenced.errors import RefusedInputError
from convergenced.merge.layout import ProjectTree, read_project, write_project
from convergenced.merge.names import is_session_id, valid_project_id
from convergenced.merge.tree import Fork, merge_projects
from convergenced.model import Author, CanonicalPath, Commit, Oid, ProjectId, Refusal, SessionId
from convergenced.ports import Store

PROJECTS = "refs/heads/project/"
"""Where project branches are; the rest of the name is the project's id."""

PEERS = "refs/peers/"
LOCAL = "refs/convergence/local/"

WALK_LIMIT = 10_000
"""Commits looked at to count how far two tips are apart, at most."""

MERGER = Author("convergence", "merge@convergence")
"""Who merge commits name: not the machine, which must not matter."""

MAX_NAMED_FORKS = 1_000
"""Forks that the message of one merge commit names, at most."""

_FORK = re.compile(r"Fork: (\S+) (\S+)")


def project_ref(project: ProjectId) -> str:
    """The branch of a project. Raises `RefusedInputError` for an id that cannot be one."""
    return PROJECTS + _component(project)


def tracking_ref(peer: str, project: ProjectId) -> str:
    """Where a peer's branch of a project is kept after a fetch."""
    return f"{PEERS}{_component(peer)}/project/{_component(project)}"


def peer_ref(peer: str, branch: str) -> str:
    """Where a peer's branch beside the projects' is kept after a fetch; `branch` is its name."""
    return f"{PEERS}{_component(peer)}/{_component(branch)}"


def local_ref(project: ProjectId, replica: str) -> str:
    """What this machine's replica of a project last committed."""
    return f"{LOCAL}{_component(project)}/{_component(replica)}"


def project_at(store: Store, commit: Oid | None) -> tuple[ProjectTree, list[Refusal]]:
    """The project as a commit has it, and a word on what had to be left out; empty for no commit.

    Raises `NewerSchemaError` and `MissingObjectError`, as `read_project` does.
    """
    if commit is None:
        return ProjectTree(), []
    return read_project(store, store.read_commit(commit).tree)


@dataclass(frozen=True, slots=True)
class MergeOutcome:
    """What merging two tips gave.

    `conflicts` are memory files that hold both sides between markers. `forks` are the sessions that
    became two. `refusals` are entries of either tree that were left out.
    """

    commit: Oid
    conflicts: tuple[CanonicalPath, ...] = ()
    forks: tuple[Fork, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def commit_tree(
    store: Store, ref: str, tree: Oid, parents: tuple[Oid, ...], author: Author, time: int, message: str
) -> Oid:
    """Commits `tree` on `ref`, which stands at the first parent, and returns the new tip.

    Where the tree equals that of the only parent, nothing is committed and the parent is returned.
    Raises `RefMovedError` where the ref stands elsewhere.
    """
    if len(parents) == 1 and store.read_commit(parents[0]).tree == tree:
        return parents[0]
    commit = store.write_commit(Commit(tree, parents, author, time, message))
    store.swap(ref, parents[0] if parents else None, commit)
    return commit


def merge_commit(store: Store, one: Oid, other: Oid) -> MergeOutcome:
    """The commit in which two tips come together; no ref is moved.

    Where one tip descends from the other, that is the descendant itself. Unrelated histories merge
    without a base. Raises `NewerSchemaError` where either was written by a newer version.
    """
    base = store.merge_base(one, other)
    if base in (one, other):
        return MergeOutcome(other if base == one else one)
    first, second = sorted((one, other))
    tips = store.read_commit(first), store.read_commit(second)
    ours, ours_refused = read_project(store, tips[0].tree)
    theirs, theirs_refused = read_project(store, tips[1].tree)
    ancestor = None if base is None else project_at(store, base)[0]
    merged = merge_projects(store, ours, theirs, ancestor)
    tree = write_project(store, merged.tree)
    time = max(tip.time for tip in tips)
    commit = store.write_commit(
        Commit(tree, (first, second), MERGER, time, _describe(merged.conflicts, merged.forks))
    )
    refusals = dict.fromkeys((*ours_refused, *theirs_refused, *merged.refusals))
    return MergeOutcome(commit, merged.conflicts, merged.forks, tuple(refusals))


def ahead_behind(store: Store, one: Oid, other: Oid) -> tuple[int, int]:
    """How many commits only `one` has and only `other` has, each counted up to `WALK_LIMIT`."""
    reached = {one: _OURS, other: _THEIRS} if one != other else {}
    newest_first = [(-store.read_commit(oid).time, oid) for oid in reached]
    heapq.heapify(newest_first)
    undecided = set(reached)
    for _ in range(2 * WALK_LIMIT):
        if not undecided:
            break
        _, oid = heapq.heappop(newest_first)
        undecided.discard(oid)
        for parent in store.read_commit(oid).parents:
            before = reached.get(parent, 0)
            now = reached[parent] = before | reached[oid]
            if now == before:
                continue
            heapq.heappush(newest_first, (-store.read_commit(parent).time, parent))
            if now == _OURS | _THEIRS:
                undecided.discard(parent)
            else:
                undecided.add(parent)
    sides = list(reached.values())
    return min(sides.count(_OURS), WALK_LIMIT), min(sides.count(_THEIRS), WALK_LIMIT)


_OURS, _THEIRS = 1, 2


def walk_back(
    store: Store, tip: Oid, beyond: Oid | None = None, limit: int = WALK_LIMIT
) -> Iterator[tuple[Oid, Commit]]:
    """Commits that `tip` has and `beyond` lacks, the newest first by their clocks, `limit` at most.

    Where clocks were wrong, some that `beyond` has may be among them.
    """
    known = set() if beyond is None else {beyond}
    seen = {tip, *known}
    waiting = [(-store.read_commit(oid).time, oid) for oid in seen]
    heapq.heapify(waiting)
    fresh = seen - known
    shown = 0
    for _ in range(2 * limit):
        if not fresh or shown == limit:
            return
        _, oid = heapq.heappop(waiting)
        commit = store.read_commit(oid)
        if oid in fresh:
            fresh.discard(oid)
            shown += 1
            yield oid, commit
        for parent in commit.parents:
            if oid in known:
                known.add(parent)
                fresh.discard(parent)
            if parent not in seen:
                seen.add(parent)
                heapq.heappush(waiting, (-store.read_commit(parent).time, parent))
                if parent not in known:
                    fresh.add(parent)


def forks_named_in(commit: Commit) -> tuple[Fork, ...]:
    """The sessions that became two in a merge commit, as its message names them."""
    if commit.author != MERGER:
        return ()
    found = map(_FORK.fullmatch, commit.message.split("\n", MAX_NAMED_FORKS + 2))
    pairs = (match.groups() for match in found if match)
    return tuple(Fork(SessionId(a), SessionId(b)) for a, b in pairs if is_session_id(a) and is_session_id(b))


def _describe(conflicts: tuple[CanonicalPath, ...], forks: tuple[Fork, ...]) -> str:
    parts = ["merge"]
    if forks:
        parts.append(f"{len(forks)} sessions became two" if len(forks) > 1 else "1 session became two")
    if conflicts:
        parts.append(f"{len(conflicts)} memory conflicts" if len(conflicts) > 1 else "1 memory conflict")
    subject = parts[0] if len(parts) == 1 else f"{parts[0]}: {', '.join(parts[1:])}"
    named = [f"Fork: {fork.session} {fork.fork}" for fork in forks[:MAX_NAMED_FORKS]]
    return "\n".join([subject, "", *named]) if named else subject


def _component(text: str) -> str:
    if not valid_project_id(text):
        raise RefusedInputError(
            f"{text!r} cannot be part of a branch's name", "use letters, digits, '.', '_' and '-'"
        )
    return text
