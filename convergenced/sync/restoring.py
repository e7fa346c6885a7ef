"""Bringing a session back: what was removed here, or an older state of it as a session of its own.

A session that is missing in a folder whose head has it was removed there, and stays so until it is wanted
back: the next pass then writes it like one that arrives (`localize`), under the same checks. An older state
is one more session on the project's branch, whose id is made from what it holds. Promises: nothing that
is there is changed or written over; asked twice, nothing more happens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from convergenced.canon.transcript import restored_id, with_session_id
from convergenced.errors import RefMovedError, UsageError
from convergenced.machine.backups import Backup
from convergenced.merge import layout
from convergenced.merge.layout import ProjectTree, SessionTree, read_folder, write_folder
from convergenced.merge.session import rename_session, write_flat
from convergenced.merge.sessions import Sessions
from convergenced.model import Oid, ProjectId, SessionId
from convergenced.store.branch import commit_tree, project_at, project_ref
from convergenced.sync.archive import session_in
from convergenced.sync.ingest import policy_of
from convergenced.sync.replica import Parts, Replica, lineage_of
from convergenced.sync.scan import scan_folder
from convergenced.sync.tips import MAX_TRIES, tip_of
from convergenced.sync.transcripts import take_transcript


@dataclass(frozen=True, slots=True)
class Restored:
    """A session that is wanted back: `session` is its id, `origin` what it is an older state of, if it is.

    `replica` is where it lies or will lie. `is_here`: it was there already.
    """

    session: SessionId
    origin: SessionId | None
    replica: Replica
    is_here: bool
    commit: Oid | None = None


def restore(
    parts: Parts,
    replicas: Iterable[Replica],
    project: ProjectId,
    sid: SessionId,
    *,
    at: Oid | None = None,
    backup: Backup | None = None,
) -> Restored:
    """Has a session brought back by the next pass, or a state of it: as of a commit, or as a backup has it.

    `replicas` are this machine's folders of the project. Belongs into the project's lane. Raises
    `UsageError` where there is nothing to bring back or no folder to bring it to.
    """
    mine = sorted(
        (one for one in replicas if one.project == project), key=lambda one: (not one.primary, one.folder)
    )
    if not mine:
        raise UsageError(
            f"{project} does not take part on this machine",
            f"in its checkout: convergencectl join --id {project}",
        )
    restoring = _Restoring(parts, project, mine[0])
    if at is None and backup is None:
        return restoring.want(mine, sid, None, None)
    older = restoring.from_backup(sid, backup, mine) if backup is not None else restoring.from_commit(sid, at)
    tree, _ = project_at(parts.store, tip_of(parts.store, project))
    present = tree.sessions.get(sid)
    if at is not None and present is not None and lineage_of(parts.store, sid, present) == older.transcript:
        return restoring.want(mine, sid, None, None)
    return restoring.want(mine, *restoring.keep(sid, older))


class _Restoring:
    def __init__(self, parts: Parts, project: ProjectId, replica: Replica) -> None:
        self._parts = parts
        self._store = parts.store
        self._project = project
        self._replica = replica

    def want(
        self, replicas: Iterable[Replica], sid: SessionId, origin: SessionId | None, commit: Oid | None
    ) -> Restored:
        """Has the session written where it is not there already."""
        tree, _ = project_at(self._store, tip_of(self._store, self._project))
        session = tree.sessions.get(sid)
        if session is None or not (session.transcript or session.flat):
            raise UsageError(f"{self._project} has no session {sid}", "see: convergencectl sessions")
        for replica in replicas:
            scan = scan_folder(self._parts.files, replica.context_dir(self._parts.machine))
            if scan is None or sid not in scan.transcripts or sid in scan.hollow:
                continue
            names, _ = read_folder(self._store, session.folder, f"context/{sid}")
            if all(f"{sid}/{name}" in scan.attached for name in names):
                return Restored(sid, origin, replica, True, commit)
        self._parts.state.want(self._replica.folder, sid)
        return Restored(sid, origin, self._replica, False, commit)

    # -- older states

    def from_commit(self, sid: SessionId, at: Oid | None) -> SessionTree:
        """The session as a commit has it, its transcript in segments."""
        assert at is not None
        session = session_in(self._store, self._store.read_commit(at).tree, sid)
        transcript = lineage_of(self._store, sid, session)
        if transcript is None:
            raise UsageError(f"{at[:10]} has no session {sid}", f"see: convergencectl session history {sid}")
        return SessionTree(transcript, folder=session.folder)

    def from_backup(self, sid: SessionId, backup: Backup, replicas: Iterable[Replica]) -> SessionTree:
        """The session with the transcript of a backup, spelled as the branch has it as far as they agree."""
        parts, files = self._parts, self._parts.files
        snapshot = files.stat(backup.path)
        if snapshot is None:
            raise UsageError(f"{backup.path} is not there", "see: convergencectl session backups")
        tree, _ = project_at(self._store, tip_of(self._store, self._project))
        session = tree.sessions.get(sid, SessionTree())
        spelled = next((one for one in replicas if one.folder == backup.folder), self._replica)
        rewriter = spelled.rewriter(parts.machine, policy_of(parts, self._replica).rewrite_home)
        others = lineage_of(self._store, sid, session)
        taken = take_transcript(
            self._store, files, rewriter, backup.path, snapshot, note=None, own=None, others=others
        )
        if taken is None:
            raise UsageError(f"{backup.path} holds no complete record", "see: convergencectl session backups")
        return SessionTree(taken.note.oid, folder=session.folder)

    def keep(self, sid: SessionId, older: SessionTree) -> tuple[SessionId, SessionId, Oid | None]:
        """Puts an older state on the branch as a session of its own: its id, what it was, and the commit."""
        assert older.transcript is not None
        new = restored_id(sid, older.transcript)
        renamed: SessionTree | None = None
        for _ in range(MAX_TRIES):
            tip = tip_of(self._store, self._project)
            tree, _ = project_at(self._store, tip)
            held = tree.sessions.get(new)
            if tip is None or (held is not None and (held.transcript or held.flat)):
                return new, sid, None
            renamed = renamed or self._renamed(tree, sid, new, older)
            sessions = Sessions.of(tree.sessions).updated({new: renamed})
            oid = layout.write_project(self._store, replace(tree, sessions=sessions))
            message = f"restored a session\n\nRestored: {sid} {new}"
            now, author = int(self._parts.clock.now()), self._parts.machine.author
            try:
                commit = commit_tree(
                    self._store, project_ref(self._project), oid, (tip,), author, now, message
                )
            except RefMovedError:
                continue
            return new, sid, commit
        raise RefMovedError(f"{project_ref(self._project)} kept moving", "try again")

    def _renamed(self, tree: ProjectTree, sid: SessionId, new: SessionId, older: SessionTree) -> SessionTree:
        assert older.transcript is not None
        transcript = rename_session(self._store, older.transcript, sid, new)
        files, _ = read_folder(self._store, older.folder, f"context/{sid}")
        for name, oid in files.items():
            if name.endswith((".json", ".jsonl")):
                files[name] = self._store.write_blob(_with_id(self._store.read_blob(oid), sid, new))
        folder = write_folder(self._store, files) if files else None
        if layout.policy_of(self._store, tree).layout == "flat":
            return SessionTree(flat=write_flat(self._store, transcript), folder=folder)
        return SessionTree(transcript, folder=folder)


def _with_id(data: bytes, old: SessionId, new: SessionId) -> bytes:
    return b"\n".join(with_session_id(record, old, new) for record in data.split(b"\n"))
