"""`sessions` and `session …`: what is listed, which one is meant, how bringing one back runs in a daemon.

Promises: one project that cannot be read does not hide the others; the answer to a request to bring a session
back comes once it lies here, or it is known why it waits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from posixpath import join

from convergenced.canon.conversation import Entry, read_entries
from convergenced.canon.rewrite import Rewriter
from convergenced.control import answers
from convergenced.control.status import iso
from convergenced.control.writing import SETTLE_S, find_stop, was_looked_at, why_it_waits
from convergenced.errors import ConvergenceError, UsageError
from convergenced.machine import backups
from convergenced.machine.state import CatalogNote
from convergenced.merge.segments import read_transcript
from convergenced.merge.session import iterate_records
from convergenced.model import EMPTY_TREE, Content, Oid, ProjectId, SessionId
from convergenced.store.branch import PROJECTS, project_at
from convergenced.sync.archive import SessionHistory, find_commit, find_session, history_of
from convergenced.sync.board import Missing
from convergenced.sync.catalog import read_catalog, title_of
from convergenced.sync.engine import Engine
from convergenced.sync.ingest import policy_of
from convergenced.sync.presence import LiveSession
from convergenced.sync.replica import Parts, Replica, lineage_of, replica_ref
from convergenced.sync.restoring import Restored, restore
from convergenced.sync.scan import TRANSCRIPT_SUFFIX, session_of
from convergenced.sync.tips import ref_of, tip_of

SCHEMA = 1
LANE = "archive"
"""Other requests need not wait for it."""
MAX_PAGE = 2_000
"""Sessions in one answer, at most."""
MAX_BACKUPS = 2_000
"""Backups in one answer, at most."""


def projects_in(parts: Parts) -> list[ProjectId]:
    """The projects that the store has, also those that take no part here any more."""
    return sorted(ProjectId(ref.removeprefix(PROJECTS)) for ref in parts.store.refs(PROJECTS))


def project_named(parts: Parts, replicas: Iterable[Replica], text: str) -> ProjectId:
    """The project of that id, or that lies at that path here. Raises `UsageError`."""
    known = projects_in(parts)
    for project in (text, *(one.project for one in replicas if one.root == text)):
        if project in known:
            return ProjectId(project)
    raise UsageError(f"the store has no project {text!r}", f"it has: {', '.join(known) or 'none yet'}")


# -- listing


def list_sessions(
    parts: Parts,
    replicas: Iterable[Replica],
    only: ProjectId | None,
    offset: int = 0,
    limit: int | None = None,
    live: Iterable[LiveSession] = (),
) -> answers.Sessions:
    """The sessions of all projects or of one, the newest first.

    `replicas` are the folders that take part, `live` what other machines have open.
    """
    listing = _Listing(parts, replicas, live)
    for project in projects_in(parts) if only is None else [only]:
        listing.add(project)
    found = sorted(listing.found, key=lambda one: (one.note.ended or 0.0, one.session), reverse=True)
    return {
        "schema": SCHEMA,
        "total": len(found),
        "offset": offset,
        "sessions": [one.tell() for one in found[offset : None if limit is None else offset + limit]],
        "unreadable": listing.unreadable,
    }


@dataclass(frozen=True, slots=True)
class _Place:
    """What this machine knows of a project: where its sessions are, which were, and how paths are spelled."""

    project: ProjectId
    paths: Mapping[SessionId, str]
    had: Collection[SessionId]
    rewriter: Rewriter | None
    open_on: Mapping[SessionId, list[str]]


@dataclass(frozen=True, slots=True)
class _Listed:
    session: SessionId
    note: CatalogNote
    place: _Place

    def tell(self) -> answers.Session:
        note, place, path = self.note, self.place, self.place.paths.get(self.session)
        return {
            "id": self.session,
            "project": place.project,
            "title": title_of(note, place.rewriter),
            "machine": note.machine,
            "at": iso(note.ended),
            "began": iso(note.began),
            "bytes": note.size,
            "records": note.records,
            "exact": note.is_exact,
            "origin": note.origin,
            "state": "here" if path is not None else "removed" if self.session in place.had else "store",
            "path": path,
            "open_on": place.open_on.get(self.session, []),
        }


class _Listing:
    def __init__(self, parts: Parts, replicas: Iterable[Replica], live: Iterable[LiveSession]) -> None:
        self._parts = parts
        self._live: dict[ProjectId, dict[SessionId, list[str]]] = {}
        for one in live:
            self._live.setdefault(one.project, {}).setdefault(one.session, []).append(one.machine)
        self._replicas = _primary_first(replicas)
        self.found: list[_Listed] = []
        self.unreadable: list[answers.ProjectText] = []

    def add(self, project: ProjectId) -> None:
        tip = tip_of(self._parts.store, project)
        if tip is None:
            return
        mine = [one for one in self._replicas if one.project == project]
        try:
            notes = read_catalog(self._parts, project, tip)
            rewriter, live = _rewriter(self._parts, mine), self._live.get(project, {})
            place = _Place(project, self._paths(mine), self._had(mine), rewriter, live)
        except ConvergenceError as error:
            self.unreadable.append({"project": project, "text": str(error)})
            return
        self.found += (_Listed(sid, note, place) for sid, note in notes.items())

    def _paths(self, replicas: Sequence[Replica]) -> dict[SessionId, str]:
        """Where the transcripts lie that are here."""
        paths: dict[SessionId, str] = {}
        for replica in replicas:
            for entry in self._parts.files.list(replica.context_dir(self._parts.machine)) or ():
                sid = session_of(entry.name) if entry.name.endswith(TRANSCRIPT_SUFFIX) else None
                if sid is not None:
                    paths.setdefault(sid, replica.path(self._parts.machine, entry.name))
        return paths

    def _had(self, replicas: Sequence[Replica]) -> Collection[SessionId]:
        """The sessions that the project's first folder has had: those that are missing were removed."""
        if not replicas:
            return ()
        head = ref_of(self._parts.store, replica_ref(replicas[0]))
        return project_at(self._parts.store, head)[0].sessions.keys()


def _primary_first(replicas: Iterable[Replica]) -> list[Replica]:
    return sorted(replicas, key=lambda one: (not one.primary, one.folder))


def _rewriter(parts: Parts, replicas: Sequence[Replica]) -> Rewriter | None:
    """What spells paths as this machine does; None where the project has no place here."""
    if not replicas:
        return None
    return replicas[0].rewriter(parts.machine, policy_of(parts, replicas[0]).rewrite_home)


def find(parts: Parts, text: str) -> tuple[ProjectId, SessionId]:
    """The session that a person means. Raises `UsageError` where none or more than one is meant."""
    projects = projects_in(parts)

    def titles() -> dict[SessionId, str]:
        notes = (parts.state.catalog(project) for project in projects)
        return {sid: title_of(note, None) for found in notes for sid, note in found.items()}

    return find_session(parts.store, projects, text, titles)


# -- one session


@dataclass(frozen=True, slots=True)
class Conversation:
    """A session for reading. `title` is empty where nothing tells it; `entries` come as they are read."""

    project: ProjectId
    session: SessionId
    title: str
    entries: Iterator[Entry]


def read_conversation(parts: Parts, replicas: Iterable[Replica], text: str) -> Conversation:
    """A session as its branch has it, with this machine's paths.

    Raises `UsageError` for none or more than one session.
    """
    project, sid = find(parts, text)
    mine = [one for one in _primary_first(replicas) if one.project == project]
    rewriter = _rewriter(parts, mine)
    tree, _ = project_at(parts.store, tip_of(parts.store, project))
    lineage = lineage_of(parts.store, sid, tree.sessions[sid])
    chunks = read_transcript(parts.store, lineage or EMPTY_TREE)
    if rewriter is not None:
        chunks = rewriter.localize_chunks(chunks, Content.JSON)
    note = parts.state.catalog(project).get(sid)
    entries = chain.from_iterable(map(read_entries, iterate_records(chunks)))
    return Conversation(project, sid, title_of(note, rewriter), entries)


def tell_history(parts: Parts, replicas: Iterable[Replica], text: str) -> answers.SessionHistory:
    """Who added what to a session when. Raises `UsageError` for none or more than one."""
    project, sid = find(parts, text)
    mine = [one for one in _primary_first(replicas) if one.project == project]
    history: SessionHistory = history_of(parts.store, project, sid)
    return {
        "schema": SCHEMA,
        "project": project,
        "session": sid,
        "title": title_of(parts.state.catalog(project).get(sid), _rewriter(parts, mine)),
        "changes": [
            {
                "commit": one.commit,
                "at": iso(one.at),
                "machine": one.machine,
                "records": one.records,
                "bytes": one.size,
                "origin": one.origin,
                "became": list(one.became),
            }
            for one in history.changes
        ],
        "whole": history.is_whole,
    }


def list_backups(parts: Parts, replicas: Iterable[Replica], text: str | None) -> answers.Backups:
    """What was replaced here and is kept: of all files, or of one session's.

    Raises `UsageError` for none or more than one session.
    """
    meant = None if text is None else find(parts, text)
    projects = {one.folder: one.project for one in replicas}
    found = [
        one
        for one in backups.list_backups(parts.machine.backups_dir, sorted(projects))
        if meant is None or (projects[one.folder], session_of(one.name.partition("/")[0])) == meant
    ]
    return {
        "schema": SCHEMA,
        "total": len(found),
        "backups": [
            {
                "stamp": one.stamp,
                "at": iso(one.at),
                "project": projects[one.folder],
                "session": session_of(one.name.partition("/")[0]),
                "name": one.name,
                "path": one.path,
                "bytes": one.size,
                "late": one.is_late,
            }
            for one in found[:MAX_BACKUPS]
        ],
    }


def find_backup(
    parts: Parts, replicas: Iterable[Replica], project: ProjectId, sid: SessionId, stamp: str
) -> backups.Backup:
    """The backup of a session's transcript whose stamp begins so. Raises `UsageError`."""
    folders = sorted({one.folder for one in replicas if one.project == project})
    name = f"{sid}{TRANSCRIPT_SUFFIX}"
    kept = [one for one in backups.list_backups(parts.machine.backups_dir, folders) if one.name == name]
    found = [one for one in kept if one.stamp.startswith(stamp.upper())] if stamp else []
    if len(found) == 1:
        return found[0]
    hint = f"see: convergencectl session backups {sid}"
    if found:
        raise UsageError(f"{stamp} can be any of {len(found)} backups", hint)
    raise UsageError(f"session {sid} has no backup {stamp} here", hint)


# -- bringing back


Target = tuple[ProjectId, SessionId, Oid | None, backups.Backup | None]


class Restoring:
    """One `session restore` in a daemon. Everything here is called in the control thread."""

    def __init__(
        self,
        engine: Engine,
        text: str,
        *,
        at: str | None,
        backup: str | None,
        done: Callable[[answers.Restored], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._engine = engine
        self._text = text
        self._at = at
        self._backup = backup
        self._done = done
        self._failed = failed

    def start(self) -> None:
        """Finds what is meant and has it brought back; the answer comes later."""
        replicas = self._replicas()
        self._engine.desk.submit(LANE, lambda: self._locate(replicas), self._restore, self._failed)

    def _replicas(self) -> list[Replica]:
        return [state.replica for state in self._engine.board.replicas.values()]

    def _locate(self, replicas: list[Replica]) -> Target:
        parts = self._engine.desk.parts
        project, sid = find(parts, self._text)
        at = None if self._at is None else find_commit(parts.store, project, self._at)
        backup = None
        if self._backup is not None:
            backup = find_backup(parts, replicas, project, sid, self._backup)
        return project, sid, at, backup

    def _restore(self, target: Target) -> None:
        project, sid, at, backup = target
        desk = self._engine.desk
        if (stop := find_stop(desk, project)) is not None:
            self._failed(stop)
            return
        replicas = self._replicas()
        desk.submit(
            desk.lane_of(project),
            lambda: restore(desk.parts, replicas, project, sid, at=at, backup=backup),
            lambda restored: self._restored(project, restored),
            self._failed,
        )

    def _restored(self, project: ProjectId, restored: Restored) -> None:
        desk = self._engine.desk
        if restored.commit is not None:
            text = f"kept an older state of session {restored.origin} as {restored.session}"
            desk.note("restore", project, text)
        if restored.is_here:
            self._answer(project, restored, None)
            return
        desk.note("restore", project, f"session {restored.session} is wanted back")
        since = self._engine.look_at_everything([project])
        deadline = desk.clock.monotonic() + SETTLE_S

        def is_written(_: list[Missing]) -> bool:
            if restored.session not in desk.parts.state.wanted(restored.replica.folder):
                self._answer(project, restored, None)
                return True
            state = desk.board.replicas.get(restored.replica.folder)
            if state is not None and desk.clock.monotonic() < deadline and not was_looked_at(state, since):
                return False
            why = "the folder takes no part any more" if state is None else why_it_waits(state)
            self._answer(project, restored, why or "it is not written here yet; see: convergencectl status")
            return True

        self._engine.wait([project], since, SETTLE_S, is_written)

    def _answer(self, project: ProjectId, restored: Restored, waits: str | None) -> None:
        machine = self._engine.desk.parts.machine
        self._done(
            {
                "project": project,
                "session": restored.session,
                "origin": restored.origin,
                "root": restored.replica.root,
                "path": join(restored.replica.context_dir(machine), f"{restored.session}{TRANSCRIPT_SUFFIX}"),
                "there": restored.is_here,
                "waits": waits,
            }
        )
