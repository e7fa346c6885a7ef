"""Taking part in what peers have, and stepping aside where a name means other code there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from convergenced.canon.folder import encode_folder_name
from convergenced.errors import ConvergenceError, NewerSchemaError, PeerRefusedError
from convergenced.machine.state import ReplicaNote
from convergenced.model import Checkout, LocalPath, Oid, ProjectId
from convergenced.ports import Checkouts, Peer
from convergenced.store.branch import LOCAL, PEERS, project_ref, tracking_ref
from convergenced.sync.exchange import look_at
from convergenced.sync.identity import (
    Identity,
    distinct_name,
    identity_of_checkout,
    may_be_named,
    name_for,
    stem_of,
)
from convergenced.sync.replica import Parts
from convergenced.sync.survey import Scope
from convergenced.sync.tips import advance, ref_of, tip_of

MAX_CHECKOUTS = 2_000

Begun = Callable[[ProjectId, ProjectId], None]
"""Hears which project of ours goes on under which other id."""


def _nothing(_project: ProjectId, _name: ProjectId) -> None:
    return


@dataclass(slots=True)
class Considered:
    """What a peer's offers mean for this machine."""

    joined: list[str] = field(default_factory=list)
    """The projects that were joined, and where, in words."""
    twins: list[tuple[ProjectId, ProjectId]] = field(default_factory=list)
    """A project of ours and the peer's of the same code, which goes by the id that all are to use."""


def consider_offers(
    parts: Parts,
    checkouts: Checkouts,
    scope: Scope,
    peer: Peer,
    peer_name: str,
    projects: Mapping[ProjectId, Identity],
    offered: Mapping[ProjectId, Oid],
) -> Considered:
    """Joins the peer's projects whose code is checked out within `scope`, and finds twins of `projects`.

    Two machines that met repositories of one name in different order gave the same code two ids; the
    shorter, then the smaller one counts. A project is fetched to learn what code it is about only if
    its name fits something here.
    """
    notes = parts.state.replicas()
    mine = {note.project for note in notes}
    roots_known = {note.root for note in notes}
    candidates = [project for project in offered if project not in mine]
    considered = Considered()
    if not candidates:
        return considered
    found = [
        one
        for one in islice(checkouts.find(scope.roots), MAX_CHECKOUTS)
        if one.root not in roots_known and not scope.excludes(one.root, parts.machine.home)
    ]
    for project in candidates:
        twins = [
            (ours, identity)
            for ours, identity in projects.items()
            if may_be_named(project, (ours, stem_of(ours))) and _rank(project) < _rank(ours)
        ]
        here = [
            (checkout, identity_of_checkout(checkout, checkout.root, parts.machine.home))
            for checkout in found
            if not checkout.is_worktree and may_be_named(project, (name_for(checkout, checkout.root),))
        ]
        known = [identity for _, identity in (*twins, *here) if identity.has_code]
        theirs = _look(parts, peer, peer_name, project, offered[project], known)
        if theirs is None:
            continue
        for ours, identity in twins:
            if identity.is_same(theirs):
                considered.twins.append((ours, project))
        for checkout, identity in here:
            if identity.is_same(theirs):
                parts.state.note_replica(_note_for(project, checkout))
                considered.joined.append(f"{project} at {checkout.root}")
                break
    return considered


def _rank(project: ProjectId) -> tuple[int, str]:
    return len(project), project


def _look(
    parts: Parts, peer: Peer, peer_name: str, project: ProjectId, tip: Oid, known: Sequence[Identity]
) -> Identity | None:
    """What code a peer's project is about, if it is any of the `known`.

    What was found to be none of them is asked again only when either side has changed.
    """
    asked = f"{tip} {_digest(known)}"
    if not known or parts.state.stranger(peer_name, project) == asked:
        return None
    try:
        theirs = look_at(parts.store, peer, peer_name, project)
    except (NewerSchemaError, PeerRefusedError):
        theirs = Identity()
    if theirs.has_code and any(identity.is_same(theirs) for identity in known):
        return theirs
    parts.state.note_stranger(peer_name, project, asked)
    ref = tracking_ref(peer_name, project)
    fetched = ref_of(parts.store, ref)
    if fetched is not None:
        parts.store.swap(ref, fetched, None)
    return None


def _digest(identities: Sequence[Identity]) -> str:
    told = sorted("\n".join(sorted(one.urls | one.first_commits)) for one in identities)
    return hashlib.sha256("\n\n".join(told).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _note_for(project: ProjectId, checkout: Checkout) -> ReplicaNote:
    return ReplicaNote(encode_folder_name(checkout.root), project, checkout.root, by_hand=False)


def rename_project(
    parts: Parts, project: ProjectId, identity: Identity, begun: Begun = _nothing
) -> ProjectId:
    """Gives our project another id, because a peer has other code under this one (see `move_project`)."""
    root = min(
        (note.root for note in parts.state.replicas() if note.project == project), default=LocalPath(project)
    )
    name = distinct_name(project, identity, parts.machine.id, root)
    tip, taken = tip_of(parts.store, project), tip_of(parts.store, name)
    if tip is not None and taken not in (None, tip):
        raise ConvergenceError(
            f"project {project} is other code at a peer, and {name} is taken as well",
            f"give it a name by hand: convergencectl init {root} --id NAME",
        )
    return move_project(parts, project, name, begun)


def move_project(parts: Parts, project: ProjectId, name: ProjectId, begun: Begun = _nothing) -> ProjectId:
    """Has our project go on under another id, together with what is already known of that.

    Only when the branch is there under its new name is the old name let go. `begun` is called with both
    before anything is done, and called again where that was broken off.
    """
    store, state = parts.store, parts.state
    begun(project, name)
    tip = tip_of(store, project)
    if tip is not None:
        advance(store, name, tip)
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
