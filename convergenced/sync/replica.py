"""One context folder of this machine, seen as a replica of its project.

A project can have several folders on a machine: the main checkout, linked git worktrees, the place
it was moved from. Each is a replica with anchors of its own. Only the primary one takes sessions it
never had; the others keep up to date what they hold.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from posixpath import join

from convergenced.canon.rewrite import Rewriter
from convergenced.machine.state import State
from convergenced.merge.layout import SessionTree
from convergenced.merge.session import transcripts_of
from convergenced.model import Anchors, Author, LocalPath, MachineId, Oid, Os, ProjectId, SessionId
from convergenced.ports import Clock, Files, Objects, Processes, Store
from convergenced.store.branch import local_ref
from convergenced.sync.screening import Screen


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine we run on, as it signs commits and rosters."""

    id: MachineId
    name: str
    os: Os
    home: LocalPath
    projects_dir: LocalPath
    backups_dir: LocalPath
    cleanup_days: float
    version: str

    @property
    def author(self) -> Author:
        """Who this machine's commits name."""
        return Author(self.name, f"{self.id}@convergence")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the work on a replica needs of the world."""

    store: Store
    files: Files
    state: State
    processes: Processes
    clock: Clock
    machine: Machine
    screen: Screen = field(default_factory=Screen)
    """What is done about apparent secrets."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A context folder that takes part in a project."""

    project: ProjectId
    folder: str
    """The folder's encoded name below the client's projects folder."""
    root: LocalPath
    """The project root its transcripts speak of."""
    primary: bool
    git_url: str | None = None
    first_commit: str | None = None
    by_hand: bool = False

    def context_dir(self, machine: Machine) -> LocalPath:
        """Where its files are."""
        return LocalPath(join(machine.projects_dir, self.folder))

    def path(self, machine: Machine, relative: str) -> LocalPath:
        """A file of the context folder."""
        return LocalPath(join(machine.projects_dir, self.folder, relative))

    def rewriter(self, machine: Machine, rewrite_home: bool) -> Rewriter:
        """What turns its local form into canonical form and back."""
        return Rewriter(
            Anchors(
                os=machine.os,
                project_root=self.root,
                context_dir=self.context_dir(machine),
                encoded_dir=self.folder,
                home=machine.home if rewrite_home else None,
            )
        )


def replica_ref(replica: Replica) -> str:
    """The ref that tells what a replica's folder held when it was last in step.

    Folder names are long and may begin with `-`, so the ref is named by a digest.
    """
    digest = hashlib.sha256(replica.folder.encode("utf-8", "surrogateescape")).hexdigest()
    return local_ref(replica.project, digest[:16])


def lineage_of(objects: Objects, sid: SessionId, session: SessionTree) -> Oid | None:
    """The session's transcript as a tree of segments, whatever layout it has on the branch."""
    if session.flat is None:
        return session.transcript
    return transcripts_of(objects, sid, session).get(sid)
