"""Taking part in what peers have, and stepping aside where a name means other code there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from convergenced.canon.folder import encode_folder_name
from convergenced.errors import ConvergenceError, NewerSchemaError, PeerRefusedError
from convergenced.machine.state import ReplicaNote
from convergenced.model import Checkout, LocalPath, Oid, ProjectId
from convergenced.ports import Checkouts, Peer
from convergenced.store.branch import LOCAL, PEERS, project_ref, tracking_ref
from convergenced.sync.exchange import look_at
from convergenced.sync.identity import Identity, distinct_name, identity_of_checkout, may_be_named, name_for
from convergenced.sync.replica import Parts
from convergenced.sync.tips import ref_of, tip_of

MAX_CHECKOUTS = 2_000


def join_offered(
    parts: Parts,
    checkouts: Checkouts,
    roots: Sequence[LocalPath],
    peer: Peer,
    peer_name: str,
    offered: Mapping[ProjectId, Oid],
) -> list[str]:
    """Joins the peer's projects whose code is checked out below `roots`; tells which, in words.

    A project is fetched to learn what code it is about only if its name fits a checkout here.
    """
    notes = parts.state.replicas()
    mine = {note.project for note in notes}
    roots_known = {note.root for note in notes}
    candidates = [project for project in offered if project not in mine]
    if not candidates or not roots:
        return []
    joined = []
    home = parts.machine.home
    found = [one for one in islice(checkouts.find(roots), MAX_CHECKOUTS) if one.root not in roots_known]
    for project in candidates:
        for checkout in found:
            names = (name_for(checkout, checkout.root),)
            if not may_be_named(project, names) or checkout.is_worktree:
                continue
            identity = identity_of_checkout(checkout, checkout.root, home)
            if _is_about(parts, peer, peer_name, project, offered[project], identity):
                parts.state.note_replica(_note_for(project, checkout))
                joined.append(f"{project} at {checkout.root}")
                break
    return joined


def _is_about(
    parts: Parts, peer: Peer, peer_name: str, project: ProjectId, tip: Oid, identity: Identity
) -> bool:
    """Whether a peer's project is about this code. What was found to be other code is asked once."""
    if not identity.has_code or parts.state.stranger(peer_name, project) == tip:
        return False
    ref = tracking_ref(peer_name, project)
    try:
        theirs = look_at(parts.store, peer, peer_name, project)
    except (NewerSchemaError, PeerRefusedError):
        theirs = Identity()
    if theirs.has_code and identity.is_same(theirs):
        return True
    parts.state.note_stranger(peer_name, project, tip)
    fetched = ref_of(parts.store, ref)
    if fetched is not None:
        parts.store.swap(ref, fetched, None)
    return False


def _note_for(project: ProjectId, checkout: Checkout) -> ReplicaNote:
    return ReplicaNote(encode_folder_name(checkout.root), project, checkout.root, by_hand=False)


def rename_project(parts: Parts, project: ProjectId, identity: Identity) -> ProjectId:
    """Gives our project another id, because a peer has other code under this one.

    The branch goes on at the same commit under its new name; only then the old name is let go.
    """
    store, state = parts.store, parts.state
    root = min(
        (note.root for note in state.replicas() if note.project == project), default=LocalPath(project)
    )
    name = distinct_name(project, identity, parts.machine.id, root)
    tip = tip_of(store, project)
    taken = tip_of(store, name)
    if tip is not None and taken is None:
        store.swap(project_ref(name), None, tip)
    elif tip is not None and taken != tip:
        raise ConvergenceError(
            f"project {project} is other code at a peer, and {name} is taken as well",
            f"give it a name by hand: convergencectl init {root} --id NAME",
        )
    for ref, commit in store.refs(f"{LOCAL}{project}/").items():
        moved = f"{LOCAL}{name}/" + ref.removeprefix(f"{LOCAL}{project}/")
        if ref_of(store, moved) is None:
            store.swap(moved, None, commit)
        store.swap(ref, commit, None)
    with state.together():
        for note in state.replicas():
            if note.project == project:
                state.note_replica(ReplicaNote(note.folder, name, note.root, note.by_hand))
    for ref, commit in store.refs(PEERS).items():
        if ref.endswith(f"/project/{project}"):
            store.swap(ref, commit, None)
    if tip is not None:
        store.swap(project_ref(project), tip, None)
    return name
