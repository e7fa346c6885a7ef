"""Machines with real files and one branch in memory, for the tests of snapshots and of applying."""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path

from convergenced.canon.folder import encode_folder_name
from convergenced.knowledge.applying import AppliedReport, apply_changes
from convergenced.knowledge.branch import KNOWLEDGE_REF, commit_knowledge, knowledge_at
from convergenced.knowledge.places import Place, files_of, places
from convergenced.knowledge.snapshot import SnapshotReport, Snapshots
from convergenced.knowledge.standing import Plan, Said, Standing, plan_changes
from convergenced.machine.state import State
from convergenced.merge.contributions import inputs_of, with_synthesis
from convergenced.merge.knowledge import DocumentPath, Knowledge, MachineKnowledge, Scope, Synthesis
from convergenced.model import LocalPath, MachineId, Oid, ProjectId, Refusal
from convergenced.ports import Files
from convergenced.sync.replica import Machine, Parts, Replica
from convergenced.sync.screening import Screen
from convergenced.sync.tips import ref_of
from tests.fakes.clock import FakeClock
from tests.fakes.processes import FakeProcesses
from tests.fakes.store import MemoryStore

APP = Scope("projects/app")
CLAUDE = DocumentPath("CLAUDE.md")
NESTED = DocumentPath(".claude/CLAUDE.md")


class KnowingMachine:
    """One machine: its home with `.claude`, and the checkout of one project. All machines share the store."""

    def __init__(self, top: Path, store: MemoryStore | None = None) -> None:
        self.home = Path(os.path.realpath(top))
        self.config = self.home / ".claude"
        self.root = self.home / "src" / "app"
        self.config.mkdir(parents=True, exist_ok=True)
        self.root.mkdir(parents=True, exist_ok=True)
        self.clock = FakeClock()
        self.processes = FakeProcesses()
        self.store = store or MemoryStore()
        self.screen = Screen()
        self.tracked_files = False
        self.machine = Machine(
            id=MachineId(f"{top.name}-00000001"),
            name=top.name,
            os="linux",
            home=LocalPath(str(self.home)),
            projects_dir=LocalPath(str(self.config / "projects")),
            backups_dir=LocalPath(str(self.home / "backups")),
            cleanup_days=30.0,
            version="1",
        )
        self.replicas = [self.replica("app", self.root)]
        self.files: Files = self.own_files()
        self.parts = Parts(
            store=self.store,
            files=self.files,
            state=State(":memory:"),
            processes=self.processes,
            clock=self.clock,
            machine=self.machine,
            screen=self.screen,
        )
        self.snapshots = Snapshots(self.parts)

    def replica(self, project: str, root: Path, *, primary: bool = True) -> Replica:
        folder = encode_folder_name(str(root))
        return Replica(ProjectId(project), folder, LocalPath(str(root)), primary)

    def own_files(self) -> Files:
        return files_of(self.machine, LocalPath(str(self.config)), self.replicas)

    @property
    def memory(self) -> Path:
        return Path(self.replicas[0].path(self.machine, "memory"))

    # -- what convergence does

    def look(self) -> tuple[list[Place], list[Refusal]]:
        config = LocalPath(str(self.config))
        return places(self.machine, config, self.replicas, tracked_files=self.tracked_files)

    def take(self) -> SnapshotReport:
        return self.snapshots.take(self.files, self.look()[0])

    def plan(self, accepted: Container[str] = (), declined: Container[str] = ()) -> Plan:
        said = Said(accepted, declined)
        return plan_changes(self.parts, self.files, self.look()[0], said)

    def standing(self, path: DocumentPath = CLAUDE, scope: Scope = APP) -> Standing:
        """How one document stands after a look."""
        self.take()
        return next(one for one in self.plan().documents if (one.scope, one.path) == (scope, path))

    def apply(self, accepted: Container[str] = (), declined: Container[str] = ()) -> AppliedReport:
        """A look, and whatever may be written."""
        self.take()
        said = Said(accepted, declined)
        return apply_changes(self.parts, self.files, self.plan(accepted, declined), said)

    # -- the branch

    @property
    def knowledge(self) -> Knowledge:
        return knowledge_at(self.store, self.tip)[0]

    @property
    def tip(self) -> Oid | None:
        return ref_of(self.store, KNOWLEDGE_REF)

    @property
    def mine(self) -> MachineKnowledge:
        return self.knowledge.machines.get(self.machine.id, MachineKnowledge())

    def shared(self, path: DocumentPath = CLAUDE, scope: Scope = APP) -> bytes | None:
        """What the branch has of this machine's document."""
        oid = self.mine.documents.get(scope, {}).get(path)
        return None if oid is None else self.store.read_blob(oid)

    def consolidate(self, data: bytes, path: DocumentPath = CLAUDE, scope: Scope = APP) -> None:
        """A synthesis that took all in gives one document, in canonical form."""
        oid = self.store.write_blob(data)

        def change(knowledge: Knowledge) -> Knowledge:
            made = Synthesis(1, self.machine.id, "none", "merged", inputs_of(knowledge, scope))
            return with_synthesis(knowledge, scope, {path: oid}, made)

        commit_knowledge(self.store, change, self.machine.author, 1, "synthesis")
