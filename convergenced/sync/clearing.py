"""The context folder that a moved checkout left behind: its files are put away, by request.

Promises: that is done only where each file is in the branch's tip byte for byte and stands in the new
folder, and no Claude Code runs in either; each file goes among the backups; and none that goes is taken for
one that a person deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from posixpath import join

from convergenced import steps
from convergenced.errors import ConvergenceError, HeldError, RefusedInputError
from convergenced.machine.backups import STAMP
from convergenced.machine.state import FileNote, ReplicaNote
from convergenced.merge.layout import ProjectTree, read_folder
from convergenced.merge.sessions import Sessions
from convergenced.model import ClaudeProcess, LocalPath, Oid, SessionId, Snapshot
from convergenced.store.branch import project_at
from convergenced.sync.localize import holder_of
from convergenced.sync.moving import as_replica
from convergenced.sync.replica import Parts, Replica, replica_ref
from convergenced.sync.scan import MEMORY, TRANSCRIPT_SUFFIX, Scan, scan_folder
from convergenced.sync.tips import ref_of, tip_of
from convergenced.sync.whereabouts import Whereabouts


@dataclass(frozen=True, slots=True)
class PutAway:
    """What became of the old folder: how many files went among the backups, or why they stay."""

    files: int = 0
    backups: LocalPath | None = None
    stays: str | None = None


def put_away(parts: Parts, former: ReplicaNote, note: ReplicaNote, *, whole_machine: bool) -> PutAway:
    """Empties the old folder where that loses nothing; it takes part no more then.

    Belongs into the project's lane, while nothing else is done for the project.
    """
    old, new = as_replica(former), as_replica(note, primary=True)
    scan = scan_folder(parts.files, old.context_dir(parts.machine))
    tip, head = tip_of(parts.store, former.project), ref_of(parts.store, replica_ref(old))
    if scan is not None and not scan.is_empty:
        stays = _why_it_stays(parts, old, new, scan, tip, whole_machine=whole_machine)
        if stays is not None:
            return PutAway(stays=stays)
    if head is not None and (tip is None or parts.store.merge_base(head, tip) != head):
        return PutAway(stays="not all that it held is on the branch yet")
    # Nothing may take the files that go for deleted by a person: first the folder takes part no more.
    if head is not None:
        parts.store.swap(replica_ref(old), head, None)
    with parts.state.together():
        parts.state.forget_replica(former.folder)
        parts.state.forget_files(former.folder)
    steps.reached("move.forgotten")
    return _empty(parts, old, scan or Scan(), whole_machine=whole_machine)


def _why_it_stays(
    parts: Parts, old: Replica, new: Replica, scan: Scan, tip: Oid | None, *, whole_machine: bool
) -> str | None:
    for replica in (old, new):
        holder = holder_of(parts, replica, whole_machine)
        if holder is not None:
            return runs(holder)
    if tip is None or ref_of(parts.store, replica_ref(new)) != tip:
        return "the new folder does not hold everything yet"
    if scan.refusals:
        return f"{scan.refusals[0].where} {scan.refusals[0].reason}"
    there = scan_folder(parts.files, new.context_dir(parts.machine)) or Scan()
    proof = _Proof(parts, old, project_at(parts.store, tip)[0])
    for path, snapshot in _files_of(scan):
        if not there.holds(path):
            return f"{path} is not in the new folder"
        if not proof.holds(path, snapshot):
            return f"{path} is not in the store as it stands there"
    return None


def _files_of(scan: Scan) -> list[tuple[str, Snapshot]]:
    transcripts = {f"{sid}{TRANSCRIPT_SUFFIX}": one for sid, one in scan.transcripts.items()}
    return [*scan.attached.items(), *transcripts.items(), *scan.memory.items()]


class _Proof:
    """That files of a folder are in one tree of its project."""

    def __init__(self, parts: Parts, replica: Replica, tree: ProjectTree) -> None:
        self._parts = parts
        self._notes = parts.state.files(replica.folder)
        self._tree = tree
        self._sessions = Sessions.of(tree.sessions)
        self._whereabouts = Whereabouts(parts.store, tree)
        self._folders: dict[SessionId, dict[str, Oid]] = {}

    def holds(self, path: str, snapshot: Snapshot) -> bool:
        """Whether every byte of the file was taken in, and what it became is in the tree."""
        note = self._notes.get(path)
        if note is None or note.snapshot != snapshot or note.consumed != snapshot.size:
            return False
        if "/" not in path:
            return self._has_transcript(SessionId(path.removesuffix(TRANSCRIPT_SUFFIX)), note)
        folder, _, name = path.partition("/")
        if folder == MEMORY:
            return self._tree.memory.get(name) == note.oid
        return self._folder(SessionId(folder)).get(name) == note.oid

    def _has_transcript(self, sid: SessionId, note: FileNote) -> bool:
        try:
            return self._whereabouts.find(sid, note.oid) is not None
        except RefusedInputError:
            return False

    def _folder(self, sid: SessionId) -> dict[str, Oid]:
        if sid not in self._folders:
            session = self._sessions.get(sid)
            folder = None if session is None else session.folder
            self._folders[sid] = read_folder(self._parts.store, folder, f"context/{sid}")[0]
        return self._folders[sid]


def _empty(parts: Parts, old: Replica, scan: Scan, *, whole_machine: bool) -> PutAway:
    stamp = datetime.fromtimestamp(parts.clock.now(), UTC).strftime(STAMP)
    backups = LocalPath(join(parts.machine.backups_dir, old.folder, stamp))

    def guard() -> None:
        holder = holder_of(parts, old, whole_machine)
        if holder is not None:
            raise HeldError(runs(holder), "end it first", holder.pid)

    gone = 0
    for path, snapshot in _files_of(scan):
        backup, local = LocalPath(join(backups, path)), old.path(parts.machine, path)
        try:
            parts.files.remove(local, expect=snapshot, backup=backup, guard=guard)
        except (ConvergenceError, OSError) as error:
            why = error.summary if isinstance(error, ConvergenceError) else str(error)
            return PutAway(gone, backups if gone else None, f"{path}: {why}")
        gone += 1
        steps.reached("move.emptied")
    return PutAway(gone, backups if gone else None)


def runs(holder: ClaudeProcess) -> str:
    """That Claude Code runs, and where, in words."""
    pid = f" (pid {holder.pid})" if holder.pid else ""
    return f"Claude Code runs in {holder.cwd or 'a folder that cannot be seen'}{pid}"
