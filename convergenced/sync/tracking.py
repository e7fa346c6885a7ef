"""Taking part by hand: `init` starts a project for a folder, `join` takes up one that peers have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from posixpath import join

from convergenced.canon.folder import encode_folder_name
from convergenced.errors import PeerError, UsageError
from convergenced.machine.state import ReplicaNote
from convergenced.merge.layout import ProjectTree, policy_of, write_project
from convergenced.merge.names import valid_project_id
from convergenced.merge.roster import Policy, format_policy
from convergenced.model import LocalPath, Oid, ProjectId
from convergenced.ports import Checkouts, Peer
from convergenced.store.branch import (
    PROJECTS,
    commit_tree,
    project_at,
    project_ref,
    tracking_ref,
)
from convergenced.sync.identity import identity_of_checkout, identity_of_project, may_be_named, name_for
from convergenced.sync.replica import Parts, Replica, replica_ref
from convergenced.sync.survey import choose_project
from convergenced.sync.tips import advance, ref_of, tip_of

SUBJECT = "begin the project"


@dataclass(frozen=True, slots=True)
class Tracked:
    """A folder that takes part in a project now."""

    project: ProjectId
    root: LocalPath
    context_dir: LocalPath


def begin_project(
    parts: Parts, checkouts: Checkouts, path: LocalPath, wanted: str | None, rewrite_home: bool
) -> Tracked:
    """Tracks the project at `path`, under the id `wanted` or the one its code suggests.

    Raises `UsageError` where the folder or the id already means something else.
    """
    root = _project_root(parts, path)
    folder = encode_folder_name(root)
    former = _note_of(parts, folder)
    if wanted is not None:
        project = _valid(wanted)
        if former is None and tip_of(parts.store, project) is not None:
            _check_same_code(parts, checkouts, project, root)
    elif former is not None:
        project = former.project
    else:
        project = choose_project(parts, checkouts, folder, root)
    if former is not None and former.project != project:
        raise UsageError(
            f"{root} already takes part in project {former.project}",
            f"stop that first: convergencectl project remove {former.project}",
        )
    tip = tip_of(parts.store, project)
    if tip is not None:
        tree, _ = project_at(parts.store, tip)
        if policy_of(parts.store, tree).rewrite_home != rewrite_home and not rewrite_home:
            raise UsageError(
                f"project {project} already rewrites the home folder", "its policy was fixed when it began"
            )
    elif not rewrite_home:
        _write_policy(parts, Replica(project, folder, root, primary=True), Policy(rewrite_home=False))
    return _take_part(parts, folder, project, root)


def join_project(
    parts: Parts,
    checkouts: Checkouts,
    peers: Mapping[str, Callable[[], Peer]],
    path: LocalPath,
    wanted: str | None,
) -> Tracked:
    """Takes part, at `path`, in a project that peers have.

    Without `wanted`, the id must follow from the code at `path`. Raises `UsageError` where no peer
    has such a project, `PeerError` where none could be asked.
    """
    root = _project_root(parts, path)
    folder = encode_folder_name(root)
    former = _note_of(parts, folder)
    if former is not None and wanted in (None, former.project):
        return _take_part(parts, folder, former.project, root)
    offered = _offered(parts, peers)
    if wanted is not None:
        project = _valid(wanted)
        if project not in offered:
            raise UsageError(f"no peer has a project {project}", _available(offered))
    else:
        name = name_for(checkouts.inspect(root), root)
        fitting = sorted(one for one in offered if may_be_named(one, (name,)))
        if len(fitting) != 1:
            what = "no project" if not fitting else "more than one project"
            raise UsageError(
                f"{what} of the peers is named like {name}", f"say which: --id ID ({_available(offered)})"
            )
        project = ProjectId(fitting[0])
    if former is not None and not _is_untouched(parts, former):
        raise UsageError(
            f"{root} already takes part in project {former.project}",
            f"stop that first: convergencectl project remove {former.project}",
        )
    for peer_name, peer in offered[project]:
        # Fetched before the first pass, so that this machine does not begin a history of its own.
        tracking = tracking_ref(peer_name, project)
        peer.fetch({project_ref(project): tracking})
        fetched = ref_of(parts.store, tracking)
        if fetched is None:
            continue
        if wanted is None:
            _check_offer(parts, checkouts, project, fetched, root)
        advance(parts.store, project, fetched)
    return _take_part(parts, folder, project, root)


def _check_offer(
    parts: Parts, checkouts: Checkouts, project: ProjectId, fetched: Oid, root: LocalPath
) -> None:
    """A name alone does not make two repositories one project."""
    theirs = identity_of_project(parts.store, project_at(parts.store, fetched)[0])
    if identity_of_checkout(checkouts.inspect(root), root, parts.machine.home).is_stranger(theirs):
        raise UsageError(
            f"project {project} of the peers is other code than what is checked out at {root}",
            f"if they belong together all the same: convergencectl join {root} --id {project}",
        )


def _is_untouched(parts: Parts, note: ReplicaNote) -> bool:
    """Whether a folder was only taken in by itself, as the sole one of a project of its own.

    Then joining another project carries its sessions along, and nothing is left behind.
    """
    others = [
        one for one in parts.state.replicas() if one.project == note.project and one.folder != note.folder
    ]
    return not note.by_hand and not others


def _take_part(parts: Parts, folder: str, project: ProjectId, root: LocalPath) -> Tracked:
    former = _note_of(parts, folder)
    note = ReplicaNote(folder, project, root, by_hand=True)
    if former is not None and former.project != project:
        # What was noted of the files belongs to another project's store objects; they are read again.
        parts.state.forget_files(folder)
    if former != note:
        parts.state.note_replica(note)
    return Tracked(project, root, LocalPath(join(parts.machine.projects_dir, folder)))


def _write_policy(parts: Parts, replica: Replica, policy: Policy) -> None:
    tree = write_project(
        parts.store, replace(ProjectTree(), policy=parts.store.write_blob(format_policy(policy)))
    )
    now = int(parts.clock.now())
    commit = commit_tree(parts.store, replica_ref(replica), tree, (), parts.machine.author, now, SUBJECT)
    advance(parts.store, replica.project, commit)


def _project_root(parts: Parts, path: LocalPath) -> LocalPath:
    if parts.files.list(path) is None:
        raise UsageError(f"{path} is not a folder", "give the path of the project's checkout")
    return path


def _note_of(parts: Parts, folder: str) -> ReplicaNote | None:
    return next((note for note in parts.state.replicas() if note.folder == folder), None)


def _valid(wanted: str) -> ProjectId:
    if not valid_project_id(wanted):
        raise UsageError(
            f"{wanted!r} cannot be a project's id", "use letters, digits, '.', '_' and '-', at most 100"
        )
    return ProjectId(wanted)


def _check_same_code(parts: Parts, checkouts: Checkouts, project: ProjectId, root: LocalPath) -> None:
    tip = tip_of(parts.store, project)
    if tip is None:
        return
    tree, _ = project_at(parts.store, tip)
    theirs = identity_of_project(parts.store, tree)
    if identity_of_checkout(checkouts.inspect(root), root, parts.machine.home).is_stranger(theirs):
        raise UsageError(f"the id {project} is taken by another project", "choose another: --id ID")


def _offered(
    parts: Parts, peers: Mapping[str, Callable[[], Peer]]
) -> dict[ProjectId, list[tuple[str, Peer]]]:
    """The projects that can be joined, and which peers have them."""
    offered: dict[ProjectId, list[tuple[str, Peer]]] = {
        ProjectId(ref.removeprefix(PROJECTS)): [] for ref in parts.store.refs(PROJECTS)
    }
    failures: list[PeerError] = []
    for name, open_peer in peers.items():
        try:
            peer = open_peer()
            listing = peer.list()
        except PeerError as error:
            failures.append(error)
            continue
        for ref in listing:
            project = ref.removeprefix(PROJECTS)
            if ref.startswith(PROJECTS) and valid_project_id(project):
                offered.setdefault(ProjectId(project), []).append((name, peer))
    if failures and len(failures) == len(peers):
        raise failures[0]
    return offered


def _available(offered: Iterable[ProjectId]) -> str:
    return f"the peers have: {', '.join(sorted(offered)) or 'nothing yet'}"
