"""Checkouts that moved: the folder at the new place takes over from the one at the old.

The two folders are two replicas of one project, so nothing is copied: the new one is written as any folder
is that lacks something, and the old one stays. Promise: what had been removed at the old place is not
brought back at the new one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain, islice
from posixpath import join

from convergenced import steps
from convergenced.canon.folder import encode_folder_name
from convergenced.canon.transcript import find_project_root, scan_cwds
from convergenced.errors import UsageError
from convergenced.machine.state import ReplicaNote
from convergenced.merge.layout import ProjectTree, write_project
from convergenced.model import LocalPath, ProjectId
from convergenced.ports import Checkouts
from convergenced.store.branch import commit_tree, project_at
from convergenced.sync.identity import Identity, identity_of_checkout, identity_of_project, participants
from convergenced.sync.replica import Parts, Replica, replica_ref
from convergenced.sync.scan import TRANSCRIPT_SUFFIX, is_set_aside, scan_folder
from convergenced.sync.tips import advance, ref_of, tip_of

SUBJECT = "the checkout moved"
LOOK_TRANSCRIPTS = 50
"""How many transcripts of a folder are looked at."""
LOOK_BYTES = 1024 * 1024
"""How far into a transcript is looked for the first `cwd`."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A folder that another one took over from."""

    project: ProjectId
    former: ReplicaNote
    note: ReplicaNote


# -- taking over


def hand_over(parts: Parts, former: ReplicaNote, root: LocalPath) -> ReplicaNote:
    """Has the folder of `root` take part where `former`, whose checkout is gone, did."""
    note = ReplicaNote(encode_folder_name(root), former.project, root, former.by_hand)
    _take_over_removals(parts, former, note)
    steps.reached("move.begun")
    parts.state.note_replica(note)
    return note


def _take_over_removals(parts: Parts, former: ReplicaNote, note: ReplicaNote) -> None:
    """Gives the new folder a head that holds what was removed from the old one, and nothing else.

    Such a head has no policy, by which it is told from one that the folder was ever in step with.
    """
    store = parts.store
    head = ref_of(store, replica_ref(as_replica(former)))
    if head is None or ref_of(store, replica_ref(as_replica(note))) is not None:
        return
    if former.folder != _folder_in_roster(parts, former.project):
        return  # it never took what others began, so what it lacks was not removed there
    scan = scan_folder(parts.files, as_replica(former).context_dir(parts.machine))
    if scan is None or scan.is_empty:
        return  # gone as a whole: that was nobody's wish
    tree, _ = project_at(store, head)
    refused = {refusal.where for refusal in scan.refusals}
    removed = {
        sid: session
        for sid, session in tree.sessions.items()
        if sid not in scan.transcripts and not is_set_aside(f"{sid}{TRANSCRIPT_SUFFIX}", refused)
    }
    if not removed:
        return
    oid = write_project(store, ProjectTree(roster=tree.roster, sessions=removed))
    now = int(parts.clock.now())
    ref = replica_ref(as_replica(note))
    commit = commit_tree(store, ref, oid, (), parts.machine.author, now, SUBJECT)
    advance(store, note.project, commit)


def is_taken_over(tree: ProjectTree) -> bool:
    """Whether a head only tells what was removed at the place its checkout moved from."""
    return tree.policy is None and bool(tree.sessions)


def as_replica(note: ReplicaNote, *, primary: bool = False) -> Replica:
    """The folder that a note speaks of."""
    return Replica(note.project, note.folder, note.root, primary, by_hand=note.by_hand)


def choose_former(parts: Parts, notes: Iterable[ReplicaNote]) -> ReplicaNote | None:
    """Of several folders of one project whose checkouts are gone, the one that another takes over from."""
    ordered = sorted(notes, key=lambda note: (not note.by_hand, note.folder))
    if not ordered:
        return None
    named = _folder_in_roster(parts, ordered[0].project)
    return next((note for note in ordered if note.folder == named), ordered[0])


def _folder_in_roster(parts: Parts, project: ProjectId) -> str | None:
    """The folder of this machine that took what other machines began, as the branch has it."""
    tree, _ = project_at(parts.store, tip_of(parts.store, project))
    mine = [one for one in participants(parts.store, tree) if one.machine_id == parts.machine.id]
    return mine[0].encoded_dir if mine else None


def speaks_of(parts: Parts, context_dir: LocalPath, folder: str) -> bool:
    """Whether the transcripts in a context folder were begun where another one's name (`folder`) says."""
    scan = scan_folder(parts.files, context_dir)
    names = islice(scan.transcripts, LOOK_TRANSCRIPTS) if scan is not None else ()
    heads = (parts.files.read(LocalPath(join(context_dir, f"{sid}.jsonl")), 0, LOOK_BYTES) for sid in names)
    return find_project_root(chain.from_iterable(map(scan_cwds, heads)), folder) is not None


# -- by request


def plan_move(parts: Parts, checkouts: Checkouts, old: LocalPath, new: LocalPath) -> list[Moved]:
    """What follows when the checkout at `old` is at `new` (or will be): one for each project in it.

    Raises `UsageError` where nothing took part at `old`, or `new` means something else.
    """
    notes = parts.state.replicas()
    inside = [note for note in notes if note.root == old or note.root.startswith(old.rstrip("/") + "/")]
    if not inside:
        here = "\n".join(f"  {note.project}  {note.root}" for note in notes)
        raise UsageError(
            f"nothing that is tracked was at {old}", f"tracked are:\n{here}" if here else "nothing is tracked"
        )
    taken = {note.folder: note for note in notes}
    found = []
    for former in inside:
        root = LocalPath(new + former.root[len(old.rstrip("/")) :])
        note = ReplicaNote(encode_folder_name(root), former.project, root, former.by_hand)
        there = taken.get(note.folder)
        if there is not None and there.project != note.project:
            raise UsageError(
                f"{root} already takes part in project {there.project}",
                f"stop that first: convergencectl project remove {there.project}",
            )
        _check_same_code(parts, checkouts, note)
        found.append(Moved(note.project, former, there or note))
    return found


def move_checkout(parts: Parts, checkouts: Checkouts, old: LocalPath, new: LocalPath) -> list[Moved]:
    """Has the folders of the checkout at `new` take over from those of `old`. Doing it again is harmless.

    Raises `UsageError` as `plan_move` does, and where `old` is still there or `new` is not.
    """
    moves = plan_move(parts, checkouts, old, new)
    if parts.files.list(new) is None:
        raise UsageError(f"{new} is not a folder", "give the place where the checkout is now")
    if parts.files.list(old) is not None:
        raise UsageError(
            f"{old} is still there",
            f"a second checkout takes part beside it: convergencectl init {new}\n"
            "one that is to be moved: add --rename-dir",
        )
    taken = {note.folder for note in parts.state.replicas()}
    for one in moves:
        if one.note.folder not in taken and is_misplaced(parts, one):
            there = as_replica(one.former).context_dir(parts.machine)
            raise UsageError(
                f"the context folder of {one.note.root} still speaks of {one.former.root}",
                f"put it back first: mv {as_replica(one.note).context_dir(parts.machine)} {there}",
            )
    return [
        one if one.note.folder in taken else replace(one, note=hand_over(parts, one.former, one.note.root))
        for one in moves
    ]


def is_misplaced(parts: Parts, moved: Moved) -> bool:
    """Whether somebody moved the context folder along with the checkout.

    What stands in it still speaks of the old place, so it is no folder of the new one as it is.
    """
    old, new = (as_replica(one).context_dir(parts.machine) for one in (moved.former, moved.note))
    return parts.files.list(old) is None and speaks_of(parts, new, moved.former.folder)


def _check_same_code(parts: Parts, checkouts: Checkouts, note: ReplicaNote) -> None:
    tip = tip_of(parts.store, note.project)
    known = Identity() if tip is None else identity_of_project(parts.store, project_at(parts.store, tip)[0])
    found = identity_of_checkout(checkouts.inspect(note.root), note.root, parts.machine.home)
    if found.is_stranger(known):
        raise UsageError(
            f"{note.root} holds other code than project {note.project}", "give the place it moved to"
        )
