"""Taking part no more: a project's folders are forgotten, and its copy here is taken away by request.

Promises: no local file is touched, and no peer hears of it; what is taken away of a project does not come
back by itself; and it is told before which sessions would be nowhere else then.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from convergenced import steps
from convergenced.errors import NewerSchemaError, UsageError
from convergenced.machine.state import ReplicaNote
from convergenced.merge.layout import ProjectTree
from convergenced.merge.sessions import Sessions
from convergenced.model import LocalPath, Oid, ProjectId, SessionId
from convergenced.ports import Store
from convergenced.store.branch import LOCAL, PEERS, PROJECTS, project_at, project_ref
from convergenced.sync.moving import as_replica
from convergenced.sync.replica import Parts
from convergenced.sync.scan import scan_folder
from convergenced.sync.tips import tip_of


@dataclass(frozen=True, slots=True)
class Leaving:
    """What leaving a project means.

    `sessions` are those in the store. `archived` of them have no file here any more, and `only_here` of these
    are with no peer as they are here.
    """

    project: ProjectId
    notes: tuple[ReplicaNote, ...]
    sessions: int = 0
    archived: int = 0
    only_here: int = 0
    peers: tuple[str, ...] = ()
    """The peers that are known to have the project."""


def find_project(parts: Parts, name: str, path: LocalPath) -> ProjectId:
    """The project a person means by its id, or by a path that is its root here. Raises `UsageError`."""
    notes = parts.state.replicas()
    known = {note.project for note in notes} | set(stored_projects(parts.store))
    if name in known:
        return ProjectId(name)
    meant = {note.project for note in notes if note.root == path}
    if len(meant) == 1:
        return meant.pop()
    listed = "\n".join(f"  {project}" for project in sorted(known))
    raise UsageError(f"there is no project {name!r} here", f"the projects here:\n{listed}" if known else "")


def stored_projects(store: Store) -> Iterator[ProjectId]:
    """Every project that the store has something of, be it what an interrupted purge left."""
    for ref in store.refs(PROJECTS):
        yield ProjectId(ref.removeprefix(PROJECTS))
    for ref in store.refs(LOCAL):
        yield ProjectId(ref.removeprefix(LOCAL).partition("/")[0])
    for ref in store.refs(PEERS):
        yield ProjectId(ref.rpartition("/")[2])


def plan_leaving(parts: Parts, project: ProjectId) -> Leaving:
    """What would go with the project's copy here, and what would be nowhere else."""
    notes = tuple(note for note in parts.state.replicas() if note.project == project)
    store = parts.store
    tracked = {ref.split("/")[2]: oid for ref, oid in _tracking(store, project)}
    tip = tip_of(store, project)
    try:
        tree, _ = project_at(store, tip)
        at_peers = {name: project_at(store, oid)[0] for name, oid in tracked.items()}
    except NewerSchemaError:
        tree, at_peers = ProjectTree(), {}
    local: set[SessionId] = set()
    for note in notes:
        scan = scan_folder(parts.files, as_replica(note).context_dir(parts.machine))
        local.update(scan.transcripts if scan is not None else ())
    archived = tree.sessions.keys() - local
    only_here = set(archived)
    for theirs in at_peers.values():
        only_here &= Sessions.of(tree.sessions).differing(Sessions.of(theirs.sessions))
    return Leaving(project, notes, len(tree.sessions), len(archived), len(only_here), tuple(sorted(tracked)))


def exclusions_of(notes: Collection[ReplicaNote], home: LocalPath) -> list[str]:
    """The patterns of `projects.exclude` that leave out these folders' roots and nothing else."""
    roots = sorted({note.root for note in notes})
    return [exclusion_of(root, home) for root in roots]


def exclusion_of(root: LocalPath, home: LocalPath) -> str:
    """The pattern that leaves out `root` and nothing else."""
    top = home.rstrip("/")
    spelled = f"~{root[len(top) :]}" if root.startswith(f"{top}/") else root
    return re.sub(r"[*?\[]", lambda found: f"[{found[0]}]", spelled)


def forget_folders(parts: Parts, notes: Collection[ReplicaNote]) -> None:
    """Has folders take part no more. What they are in step with stays known, should they take part again."""
    with parts.state.together():
        for note in notes:
            parts.state.forget_replica(note.folder)


def purge(parts: Parts, project: ProjectId) -> None:
    """Takes away what store and state have of a project; its folders take part no more. Can be repeated."""
    store = parts.store
    # The branch goes first: who looks again after a crash in between sees that there is nothing to lose.
    refs = {project_ref(project): oid for oid in [tip_of(store, project)] if oid is not None}
    refs |= store.refs(f"{LOCAL}{project}/")
    for ref, oid in [*refs.items(), *_tracking(store, project)]:
        store.swap(ref, oid, None)
        steps.reached("purge.ref")
    parts.state.forget_project(project)
    steps.reached("purge.forgotten")


def _tracking(store: Store, project: ProjectId) -> list[tuple[str, Oid]]:
    return [(ref, oid) for ref, oid in store.refs(PEERS).items() if ref.endswith(f"/project/{project}")]
