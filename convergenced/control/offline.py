"""What commands that only read can say without a daemon: only files are read, nothing is changed.

Promise: nothing is called synced here, because nobody looked.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from posixpath import join

from convergenced.control import sessions
from convergenced.control.answers import (
    Attention,
    Backups,
    Conflicts,
    Peer,
    Project,
    Secrets,
    SessionHistory,
    Sessions,
    Status,
)
from convergenced.control.assembly import readable_parts
from convergenced.control.conflicts import list_conflicts
from convergenced.control.scanning import Tell, scan_secrets
from convergenced.control.sessions import Conversation
from convergenced.control.status import STATUS_SCHEMA
from convergenced.errors import ConfigError, ConvergenceError, NewerSchemaError
from convergenced.machine.files import RealFiles
from convergenced.machine.locations import ClaudeLocations, Locations, read_machine_id
from convergenced.machine.settings import Settings, load_settings
from convergenced.merge.layout import ProjectTree
from convergenced.merge.roster import Participant, parse_roster
from convergenced.model import LocalPath, MachineId, Oid, ProjectId
from convergenced.ports import Store
from convergenced.store.branch import PROJECTS, project_at
from convergenced.store.repo import open_store
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.scan import scan_folder
from convergenced.sync.tips import tip_of
from convergenced.urls import redact_url


def offline_status(locations: Locations, environ: Mapping[str, str]) -> Status:
    """The `status` answer as far as files tell it. Raises `StoreError` where the store is damaged."""
    attention: list[Attention] = []
    try:
        settings = load_settings(locations.config_file)
    except ConfigError as error:
        settings = Settings()
        attention.append({"kind": "config", "project": None, "text": error.summary, "fix": error.hint})
    machine = read_machine_id(locations.machine_id_file) or ""
    projects: list[Project] = []
    if os.path.isdir(locations.store):
        claude = ClaudeLocations.from_environment(environ, os.path.expanduser("~"))
        store = open_store(locations.store, recover=False)
        for ref, tip in sorted(store.refs(PROJECTS).items()):
            project = ProjectId(ref.removeprefix(PROJECTS))
            try:
                projects.append(_project(store, project, tip, machine, claude.projects))
            except ConvergenceError as error:
                text = f"cannot be read: {error.summary}"
                attention.append({"kind": "store", "project": project, "text": text, "fix": error.hint})
    return {
        "schema": STATUS_SCHEMA,
        "machine": {"id": machine, "name": settings.machine.name or machine},
        "daemon": {
            "pid": None,
            "version": None,
            "uptime_s": 0.0,
            "state": "halted",
            "reasons": ["the daemon does not run"],
        },
        "peers": list(_peers(settings)),
        "projects": projects,
        "available": [],
        "attention": attention,
    }


def offline_conflicts(locations: Locations, environ: Mapping[str, str]) -> Conflicts:
    """The `conflicts` answer as the store tells it. Raises `StoreError` where it is damaged."""
    with reading(locations, environ) as (parts, replicas):
        return list_conflicts(parts, sessions.projects_in(parts), replicas)


def offline_sessions(locations: Locations, environ: Mapping[str, str], project: str | None) -> Sessions:
    """The `sessions` answer as the store tells it. Raises `UsageError` for an unknown project."""
    with reading(locations, environ) as (parts, replicas):
        only = None if project is None else sessions.project_named(parts, replicas, project)
        return sessions.list_sessions(parts, replicas, only)


def offline_history(locations: Locations, environ: Mapping[str, str], text: str) -> SessionHistory:
    """The `session_history` answer. Raises `UsageError` for none or more than one session."""
    with reading(locations, environ) as (parts, replicas):
        return sessions.tell_history(parts, replicas, text)


def offline_backups(locations: Locations, environ: Mapping[str, str], text: str | None) -> Backups:
    """The `session_backups` answer. Raises `UsageError` for none or more than one session."""
    with reading(locations, environ) as (parts, replicas):
        return sessions.list_backups(parts, replicas, text)


def scan_for_secrets(
    locations: Locations, environ: Mapping[str, str], project: str | None, tell: Tell
) -> Secrets:
    """What `scan` finds, with a daemon or without. Raises `UsageError` for an unknown project."""
    with reading(locations, environ) as (parts, replicas):
        folders = {one.folder: one for one in replicas}
        for note in parts.state.replicas():
            folders.setdefault(note.folder, Replica(note.project, note.folder, note.root, False))
        found = list(folders.values())
        only = None if project is None else sessions.project_named(parts, found, project)
        return scan_secrets(parts, found, only, tell)


def read_allowed(locations: Locations, environ: Mapping[str, str]) -> dict[str, float]:
    """The fingerprints of the apparent secrets that are fine, and since when, Unix seconds."""
    with reading(locations, environ) as (parts, _):
        return parts.state.allowed()


@contextlib.contextmanager
def open_conversation(locations: Locations, environ: Mapping[str, str], text: str) -> Iterator[Conversation]:
    """A session for reading, with a daemon or without; however long it is, little of it is in memory.

    Raises `UsageError` for none or more than one session.
    """
    with reading(locations, environ) as (parts, replicas):
        yield sessions.read_conversation(parts, replicas, text)


@contextlib.contextmanager
def reading(locations: Locations, environ: Mapping[str, str]) -> Iterator[tuple[Parts, list[Replica]]]:
    """The parts for one who only looks, and the folders that take part here, as the rosters name them."""
    try:
        settings = load_settings(locations.config_file)
    except ConfigError:
        settings = Settings()
    with readable_parts(locations, settings, environ, os.path.expanduser("~")) as parts:
        replicas = []
        for project in sessions.projects_in(parts):
            with contextlib.suppress(NewerSchemaError):
                if (replica := _replica(parts, project)) is not None:
                    replicas.append(replica)
        yield parts, replicas


def _replica(parts: Parts, project: ProjectId) -> Replica | None:
    """The folder that takes part in a project here, as the roster names it."""
    tree, _ = project_at(parts.store, tip_of(parts.store, project))
    mine = _participant(parts.store, tree, parts.machine.id)
    return None if mine is None else Replica(project, mine.encoded_dir, LocalPath(mine.project_root), True)


def _participant(store: Store, tree: ProjectTree, machine: str) -> Participant | None:
    if tree.roster is None:
        return None
    return parse_roster(store.read_blob(tree.roster)).participants.get(MachineId(machine))


def _peers(settings: Settings) -> Iterator[Peer]:
    for peer in settings.peers:
        yield {
            "name": peer.name,
            "url": redact_url(peer.url),
            "state": "untried",
            "last_fetch": None,
            "last_push": None,
            "error": None,
            "next_try": None,
        }


def _project(store: Store, project: ProjectId, tip: Oid, machine: str, projects_dir: LocalPath) -> Project:
    tree, _ = project_at(store, tip)
    mine = _participant(store, tree, machine)
    context_dir = None if mine is None else LocalPath(join(projects_dir, mine.encoded_dir))
    scan = None if context_dir is None else scan_folder(RealFiles(), context_dir)
    return {
        "id": project,
        "root": None if mine is None else mine.project_root,
        "context_dir": context_dir,
        "tip": tip,
        "state": "pending",
        "sessions": len(tree.sessions),
        "bytes": 0 if scan is None else scan.size,
        "ahead": 0,
        "behind": 0,
        "held": None,
        "last_ingest": None,
        "last_exchange": None,
    }
