"""What must hold: after every step, and when everything has come to rest.

Owns the ledger of what was ever written and taken up. Whatever does not hold is added to `findings`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convergenced.merge.sequences import is_contained
from convergenced.model import Content, Oid, ProjectId, SessionId
from convergenced.store.branch import LOCAL, PROJECTS, project_ref
from convergenced.sync.converge import Pass
from convergenced.sync.replica import Replica, replica_ref
from tests.fakes.store import MemoryStore
from tests.simulation.watched import (
    Findings,
    Holdings,
    StoreWatch,
    WatchedFiles,
    ancestors,
    conversation_in,
    marks_in,
)
from tests.unit.sync.world import APP, project_at

if TYPE_CHECKING:
    from tests.simulation.scenario import Machine, Scenario

Transcripts = dict[str, bytes]
"""The transcripts of a machine, by path."""
Lineage = tuple[bytes, ...]


class Invariants:
    """Watches the machines of one story."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self.findings = Findings()
        self.holdings = Holdings()
        self._stores: dict[str, StoreWatch] = {}
        self._begun: dict[str, Transcripts] = {}
        self._results: dict[tuple[str, str], Pass] = {}
        self.taken_up: set[str] = set()
        """Every record that was committed, or that a pass which went well must have committed."""
        self.noted: set[Oid] = set()
        self.lineages: set[Lineage] = set()
        self._branches: set[Lineage] = set()
        """Every lineage that was ever read, also those that a backup undid."""
        self.additive: dict[str, set[str]] = {}
        """The lines that were added to each note."""
        self._revised: set[str] = set()
        self.is_muddled = False
        """Whether some machine's files went away as a whole, or it went back in time."""

    def watch(self, machine: Machine) -> None:
        """A machine, or its new store, is looked at from now on."""
        files = machine.files
        assert isinstance(files, WatchedFiles)
        files.who = machine.key
        files.projects_dir, files.backups_dir = machine.machine.projects_dir, machine.machine.backups_dir
        files.runs_at = lambda path: self._runs_at(machine, path)
        files.is_held = lambda path, data: self._is_held(machine, path, data)
        self._stores[machine.key] = StoreWatch(machine.key, machine.store, self.holdings, self.findings)

    def restored(self, machine: Machine) -> None:
        """A machine went back in time: what only it held may be gone. What others hold is not."""
        self._collect()
        self.watch(machine)
        self.died(machine)
        held = [self._held_by(one) for one in (*self._scenario.world.hubs.values(), *self._all_stores())]
        alive = set[str]().union(*(marks for marks, _ in held))
        self.taken_up = alive
        self.noted = set[Oid]().union(*(notes for _, notes in held))
        self.lineages = {one for one in self.lineages if alive.issuperset(uuid.decode() for uuid in one)}
        self.additive = {}
        self.is_muddled = True

    def added(self, name: str, line: str) -> None:
        """Somebody added a line to a note."""
        self.additive.setdefault(name, set()).add(line)

    def revised(self, name: str) -> None:
        """Somebody took something from a note: from now on all may be gone that it says."""
        self._revised.add(name)

    def _all_stores(self) -> list[MemoryStore]:
        return [machine.store for machine in self._scenario.machines]

    def _held_by(self, store: MemoryStore) -> tuple[set[str], set[Oid]]:
        marks: set[str] = set()
        notes: set[Oid] = set()
        tips = [oid for prefix in (PROJECTS, LOCAL) for oid in store.refs(prefix).values()]
        for tip in tips:
            marks |= self.holdings.of_commit(store, tip)
        for commit in ancestors(store, tips):
            notes.update(project_at(store, commit).memory.values())
        return marks, notes

    def _collect(self) -> None:
        for watch in self._stores.values():
            self.taken_up |= watch.committed
            self.noted |= watch.notes

    # -- files

    def _runs_at(self, machine: Machine, path: str) -> bool:
        roots = [one for one in (machine.root, machine.worktree) if one is not None]
        here = [root for root in roots if path.startswith(machine.context(root) + "/")]
        return any(one.cwd is None or one.cwd in here for one in machine.processes.claude())

    def _is_held(self, machine: Machine, path: str, data: bytes) -> bool:
        if path.endswith(".md"):
            return True
        complete = data[: data.rfind(b"\n") + 1]
        store = machine.store
        held = self.holdings.of_commit(store, store.refs(PROJECTS).get(project_ref(APP)))
        return held.issuperset(marks_in(complete))

    # -- passes

    def pass_begins(self, machine: Machine) -> None:
        """What stands in the files right before a job."""
        self._begun.setdefault(machine.key, self._transcripts(machine))

    def _transcripts(self, machine: Machine) -> Transcripts:
        files = machine.files
        found: Transcripts = {}
        for path in files.paths(machine.machine.projects_dir):
            if path.endswith(".jsonl") and "/subagents/" not in path:
                found[path] = files.content(path)
        return found

    def passed(self, machine: Machine) -> None:
        """Looks at the passes that ended since: what they read is committed."""
        begun = self._begun.pop(machine.key, {})
        board = machine.engine.board
        for folder, state in board.replicas.items():
            result, key = state.result, (machine.key, folder)
            if result is None or self._results.get(key) is result:
                continue
            self._results[key] = result
            report = result.ingest
            if report.halted is not None or report.gone or report.retry or report.refusals:
                continue
            context = f"{state.replica.context_dir(machine.machine)}/"
            now = self._transcripts(machine)
            held = self.holdings.of_commit(machine.store, result.tip)
            for path, data in begun.items():
                if report.looked_at is not None and path.removeprefix(context) not in report.looked_at:
                    continue  # nobody said that it changed: the next whole look finds it
                if path.startswith(context) and now.get(path, b"").startswith(data):
                    self._read(machine, path, data[: data.rfind(b"\n") + 1], held)

    def _read(self, machine: Machine, path: str, data: bytes, held: frozenset[str]) -> None:
        marks = marks_in(data)
        lost = [mark for mark in marks if mark not in held]
        if lost:
            self.findings.add(f"{machine.key}: a pass over {path} left out {lost}")
        self.taken_up.update(marks)
        lineage = conversation_in(data)
        if lineage:
            self.lineages.add(lineage)
            self._branches.add(lineage)

    def died(self, machine: Machine) -> None:
        """The engine is gone, and what it knew."""
        self._begun.pop(machine.key, None)
        self._results = {key: one for key, one in self._results.items() if key[0] != machine.key}

    # -- at any moment

    def check_safety(self) -> None:
        """What must hold at any moment, beyond what is checked where it happens."""
        for machine in self._scenario.machines:
            if machine.is_running:
                self._check_status(machine)
            watch, store = self._stores[machine.key], machine.store
            held, _ = self._tips_hold(store)
            lost = watch.committed - held
            if lost:
                self.findings.add(f"store of {machine.key} lost {sorted(lost)}")

    def _tips_hold(self, store: MemoryStore) -> tuple[set[str], None]:
        marks: set[str] = set()
        for prefix in (PROJECTS, LOCAL):
            for tip in store.refs(prefix).values():
                marks |= self.holdings.of_commit(store, tip)
        return marks, None

    def _check_status(self, machine: Machine) -> None:
        engine, store = machine.engine, machine.store
        board = engine.board
        if APP not in board.projects() or board.state_of(APP, engine.distance(APP)) != "synced":
            return
        for name, peer in board.peers.items():
            if peer.error is not None or peer.report is None or APP in peer.report.refusals:
                self.findings.add(f"{machine.key} says synced, and {name} fails")
        if machine.workers.waiting() or not board.of_project(APP):
            return
        tip = store.refs(PROJECTS).get(project_ref(APP))
        for state in board.of_project(APP):
            head = store.refs(LOCAL).get(replica_ref(state.replica))
            halted = state.result is not None and state.result.ingest.halted
            if head != tip and halted is None:
                self.findings.add(f"{machine.key} says synced, and {state.replica.root} is not in step")
        if any(board.tracked.get((name, APP)) != tip for name in board.peers):
            self.findings.add(f"{machine.key} says synced, and a peer lacks something")

    # -- at rest

    def revive(self, machine: Machine) -> None:
        """Does what a person is asked to do where a folder is empty though it held something."""
        board = machine.engine.board
        halted = [state for state in board.of_project(APP) if state.result and state.result.ingest.halted]
        roots: list[str] = [state.replica.root for state in halted]
        if board.halted is not None:
            roots.append(machine.root)
        for root in roots:
            self._scenario.note(f"{machine.key}: begins anew at {root}")
            machine.say(self._scenario.hire(), "begun anew", root=root)
            machine.muddled = True

    def writings(self) -> object:
        """Everything that may not change once all is at rest."""
        scenario = self._scenario
        stores = [*self._all_stores(), *scenario.world.hubs.values()]
        local = [(one.files.writes, one.files.copy_below("/")) for one in scenario.machines]  # type: ignore[attr-defined]
        return [(len(store.objects), dict(store.ref_targets)) for store in stores], local

    def check_agreement(self) -> None:
        """All machines and hubs are equal, have everything, and their folders say so."""
        scenario, add = self._scenario, self.findings.add
        self._collect()
        for machine in scenario.machines:
            for data in self._transcripts(machine).values():
                if APP in machine.engine.board.projects():
                    self.taken_up.update(marks_in(data[: data.rfind(b"\n") + 1]))
        joined = [one for one in scenario.machines if APP in one.engine.board.projects()]
        tips = {one.key: one.tip() for one in joined}
        hubs = {name: hub.refs(PROJECTS).get(project_ref(APP)) for name, hub in scenario.world.hubs.items()}
        if len({*tips.values(), *hubs.values()}) != 1:
            for one in joined:
                scenario.note(f"{one.key}: {one.engine.unsynced(None, -1.0)}")
            add(f"the tips are not equal: {tips}, {hubs}")
            return
        if not joined:
            return
        first = joined[0]
        # Where nothing tells any more what a folder is about, it takes no part, and keeps what it has.
        for machine in scenario.machines:
            if machine not in joined:
                self.taken_up -= self._held_by(machine.store)[0]
        self.lineages = {one for one in self.lineages if self.taken_up.issuperset(map(bytes.decode, one))}
        self._check_contents(first)
        for machine in joined:
            self._check_local(machine)

    def _check_contents(self, machine: Machine) -> None:
        add, store, tip = self.findings.add, machine.store, machine.tip()
        assert tip is not None
        lost = self.taken_up - self.holdings.of_commit(store, tip)
        if lost:
            add(f"lost for good: {sorted(lost)}")
        notes = {oid for one in ancestors(store, [tip]) for oid in project_at(store, one).memory.values()}
        if self.noted - notes:
            add(f"versions of notes are not in the history: {sorted(self.noted - notes)}")
        memory = machine.stored_memory()
        noted = {line for oid in sorted(notes) for line in marks_in(store.read_blob(oid))}
        for name in sorted(self.additive.keys() - self._revised if not self.is_muddled else ()):
            lines = self.additive[name] & noted
            gone = lines.difference(marks_in(memory.get(name, b"")))
            if gone:
                add(f"note {name} lost {sorted(gone)}")
        self._check_lineages(machine)

    def _check_lineages(self, machine: Machine) -> None:
        sessions = machine.tree().sessions
        told = [one for one in sessions if sessions[one].transcript is not None]
        stored = [conversation_in(machine.stored(one)) for one in told]
        for lineage in sorted(self.lineages):
            # What stands twice may have come to stand together: no reader can tell.
            if not any(is_contained(dict.fromkeys(lineage), one) for one in stored):
                self.findings.add(f"no session holds the lineage {lineage}")
        if len(told) > len(self._branches) + len(self._scenario.sessions):
            self.findings.add(f"{len(told)} sessions out of {len(self._branches)} lineages")

    def _check_local(self, machine: Machine) -> None:
        board, tip = machine.engine.board, machine.tip()
        for state in board.of_project(APP):
            replica = state.replica
            if state.result is None or state.result.ingest.gone:
                continue
            if machine.head(replica) != tip:
                self.findings.add(f"{machine.key}: {replica.root} is not in step")
            self._check_folder(machine, replica)
        word = board.state_of(ProjectId(APP), machine.engine.distance(ProjectId(APP)))
        if word not in ("synced", "conflict"):
            self.findings.add(f"{machine.key} is {word}: {machine.engine.unsynced(None, -1.0)}")

    def _check_folder(self, machine: Machine, replica: Replica) -> None:
        add = self.findings.add
        rewriter = replica.rewriter(machine.machine, True)
        sessions = machine.tree().sessions
        told = {one for one in sessions if sessions[one].transcript is not None}
        here = {SessionId(one) for one in machine.sessions(replica.root)}
        if {one for one in here if machine.local_bytes(one, replica.root)} - told:
            add(f"{machine.key}: {sorted(here - told)} are not in the store")
        for session in sorted(told & here):
            local = machine.local_bytes(session, replica.root)
            whole = rewriter.localize(machine.stored(session), Content.JSON)
            is_part = set(whole.split(b"\n")).issuperset(local.split(b"\n"))
            was_cut = machine.transcript(session, replica.root) in machine.rewritten and local and is_part
            if local != whole and not was_cut:
                add(f"{machine.key}: {replica.root} has another {session} than the store")
        missing = told - here - machine.deleted
        if replica.primary and missing and not machine.muddled:
            add(f"{machine.key}: {sorted(missing)} are missing in {replica.root}")
        notes = {
            name: rewriter.localize(data, Content.TEXT).decode()
            for name, data in machine.stored_memory().items()
        }
        if machine.notes(replica.root) != notes:
            add(f"{machine.key}: the memory in {replica.root} is not the store's")
