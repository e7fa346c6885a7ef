"""Two trees of a project become one: the one merge of the whole house.

Owns what happens to each part of a project when two replicas meet; ingest is the same, with the local
files as one of the replicas. Promises: commutative, idempotent, and nothing that either side holds is
lost; parts that are equal on both sides are not opened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from convergenced.errors import RefusedInputError
from convergenced.merge.choosing import choose, choose_all, choose_entries
from convergenced.merge.folder import merge_folders
from convergenced.merge.layout import (
    CONTEXT,
    MEMORY,
    ProjectTree,
    SessionTree,
    policy_of,
    read_folder,
    write_folder,
)
from convergenced.merge.memory import merge_text
from convergenced.merge.names import settle_names
from convergenced.merge.roster import merge_rosters
from convergenced.merge.segments import is_readable
from convergenced.merge.session import merge_session, transcripts_of, write_flat
from convergenced.merge.sessions import Sessions
from convergenced.model import CanonicalPath, Oid, Refusal, SessionId
from convergenced.ports import Objects

MAX_FORKS = 10_000
"""Forks that one merge may make, at most."""


class Fork(NamedTuple):
    """A session that became two: its own id keeps one lineage, `fork` is the other's."""

    session: SessionId
    fork: SessionId


@dataclass(frozen=True, slots=True)
class Absorbed:
    """What transcripts that arrived changed: the sessions that are not what they were."""

    changed: Mapping[SessionId, Oid] = field(default_factory=dict)
    forks: tuple[Fork, ...] = ()
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class MergedProject:
    """The merged tree. `conflicts` are memory files that hold both sides between markers."""

    tree: ProjectTree
    conflicts: tuple[CanonicalPath, ...] = ()
    forks: tuple[Fork, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def absorb(
    objects: Objects, known: Mapping[SessionId, Oid], arrivals: Iterable[tuple[SessionId, Oid]]
) -> Absorbed:
    """Merges transcripts into those that are known, and every fork into the session of its id.

    Nothing changed means: all that arrived is held already, each record in the lineage it belongs
    to. A transcript that cannot be read is set aside alone.
    """
    return _absorb(objects, known.get, arrivals)


def merge_projects(
    objects: Objects, ours: ProjectTree, theirs: ProjectTree, base: ProjectTree | None
) -> MergedProject:
    """Brings two versions of a project together; `base` is their common ancestor, if there is one.

    Raises `NewerSchemaError` where a part was written by a newer version.
    """
    base = base or ProjectTree()
    sessions, absorbed = _merge_sessions(objects, ours, theirs, base)
    memory, conflicts = _merge_memory(objects, ours.memory, theirs.memory, base.memory)
    merged = ProjectTree(
        roster=_merge_roster(objects, ours.roster, theirs.roster),
        policy=choose(ours.policy, theirs.policy, base.policy),
        machines=choose_all(ours.machines, theirs.machines, base.machines),
        sessions=sessions,
        memory=memory,
        other=choose_entries(ours.other, theirs.other, base.other),
        other_context=choose_entries(ours.other_context, theirs.other_context, base.other_context),
    )
    merged = _lay_out(objects, merged, absorbed.changed)
    return MergedProject(merged, conflicts, absorbed.forks, absorbed.refusals)


def _absorb(
    objects: Objects, look_up: Callable[[SessionId], Oid | None], arrivals: Iterable[tuple[SessionId, Oid]]
) -> Absorbed:
    before: dict[SessionId, Oid | None] = {}
    now: dict[SessionId, Oid] = {}
    forks: list[Fork] = []
    refusals: list[Refusal] = []
    waiting = deque(arrivals)
    while waiting:
        sid, tree = waiting.popleft()
        former = now.get(sid) or before.setdefault(sid, look_up(sid))
        try:
            merged = merge_session(objects, sid, former, tree)
        except RefusedInputError as error:
            now[sid] = tree if former is None or not is_readable(objects, former) else former
            refusals.append(Refusal(f"session {sid}", error.summary, error.hint))
            continue
        now[sid] = merged.pop(sid)
        for fork, oid in merged.items():
            if fork not in now and before.setdefault(fork, look_up(fork)) is None:
                forks.append(Fork(sid, fork))
            waiting.append((fork, oid))
        if len(forks) > MAX_FORKS:
            raise RefusedInputError(
                f"one merge would make more than {MAX_FORKS} forks", "see who wrote these sessions"
            )
    changed = {sid: oid for sid, oid in now.items() if before[sid] != oid}
    return Absorbed(changed, tuple(dict.fromkeys(forks)), tuple(refusals))


def _merge_sessions(
    objects: Objects, ours: ProjectTree, theirs: ProjectTree, base: ProjectTree
) -> tuple[Sessions, Absorbed]:
    """The sessions of both, with the transcripts that went apart still to be laid out."""
    all_ours, all_theirs = Sessions.of(ours.sessions), Sessions.of(theirs.sessions)
    changed: dict[SessionId, SessionTree] = {}
    apart: dict[SessionId, list[SessionTree]] = {}
    refusals: list[Refusal] = []
    for sid in sorted(all_ours.differing(all_theirs) | all_ours.in_both_layouts()):
        one, other = all_ours.get(sid), all_theirs.get(sid)
        whole = one or other or SessionTree()
        if one is not None and other is not None and one != other:
            folder, refused = _merge_folder(objects, sid, one, other, base.sessions.get(sid, SessionTree()))
            refusals += refused
            whole = SessionTree(one.transcript or other.transcript, one.flat or other.flat, folder)
            if (one.transcript, one.flat) != (other.transcript, other.flat):
                apart[sid] = [one, other]
        if whole.transcript and whole.flat:
            apart.setdefault(sid, [whole])
        changed[sid] = whole
    merged = all_ours.updated(changed)

    def look_up(sid: SessionId) -> Oid | None:
        session = None if sid in apart else merged.get(sid)
        return None if session is None else transcripts_of(objects, sid, session).get(sid)

    arrivals = {
        arrival
        for sid, sides in apart.items()
        for side in sides
        for arrival in transcripts_of(objects, sid, side).items()
    }
    absorbed = _absorb(objects, look_up, sorted(arrivals))
    return merged, replace(absorbed, refusals=(*refusals, *absorbed.refusals))


def _lay_out(objects: Objects, project: ProjectTree, changed: Mapping[SessionId, Oid]) -> ProjectTree:
    """The project with the changed transcripts, in the layout that its policy says."""
    flat = policy_of(objects, project).layout == "flat"
    laid_out: dict[SessionId, SessionTree] = {}
    for sid, transcript in changed.items():
        folder = project.sessions.get(sid, SessionTree()).folder
        if flat:
            laid_out[sid] = SessionTree(None, write_flat(objects, transcript), folder)
        else:
            laid_out[sid] = SessionTree(transcript, None, folder)
    return replace(project, sessions=Sessions.of(project.sessions).updated(laid_out))


def _merge_folder(
    objects: Objects, sid: SessionId, ours: SessionTree, theirs: SessionTree, base: SessionTree
) -> tuple[Oid | None, list[Refusal]]:
    if ours.folder == theirs.folder or ours.folder is None or theirs.folder is None:
        return ours.folder or theirs.folder, []
    where = f"{CONTEXT}/{sid}"
    refusals: list[Refusal] = []
    sides: list[dict[str, Oid]] = []
    for folder in (ours.folder, theirs.folder, base.folder):
        files, refused = read_folder(objects, folder, where)
        sides.append(files)
        refusals += refused
    return write_folder(objects, merge_folders(objects, *sides)), list(dict.fromkeys(refusals))


def _merge_memory(
    objects: Objects, ours: Mapping[str, Oid], theirs: Mapping[str, Oid], base: Mapping[str, Oid]
) -> tuple[dict[str, Oid], tuple[CanonicalPath, ...]]:
    merged: dict[str, Oid] = {}
    conflicts: list[CanonicalPath] = []
    for path in sorted({*ours, *theirs}):
        sides = [side.get(path) for side in (ours, theirs, base)]
        one, other, ancestor = sides
        if other in (one, ancestor):
            kept = one
        elif one == ancestor:
            kept = other
        else:
            text = merge_text(path, *(None if oid is None else objects.read_blob(oid) for oid in sides))
            kept = None if text.data is None else objects.write_blob(text.data)
            if text.conflict:
                conflicts.append(CanonicalPath(f"{CONTEXT}/{MEMORY}/{path}"))
        if kept is not None:
            merged[path] = kept
    return settle_names(merged), tuple(conflicts)


def _merge_roster(objects: Objects, ours: Oid | None, theirs: Oid | None) -> Oid | None:
    if ours == theirs or ours is None or theirs is None:
        return ours or theirs
    return objects.write_blob(merge_rosters(objects.read_blob(ours), objects.read_blob(theirs)))
