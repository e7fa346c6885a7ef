"""A small deterministic world: machines in memory that share a clock and a hub.

Owns what the tests of `convergenced.sync` (and a simulator) need to set machines up, to do what a client,
a user or a bad day would do, and to drive the real code step by step: `ingest`, `localize`, `converge`,
`exchange`, `survey`, or the whole `Engine` turn by turn. No thread, no sleep, no disk: time passes when it
is told to, and jobs run when they are told to, in an order that can be chosen.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from uuid import NAMESPACE_OID, uuid5

from convergenced.canon.folder import encode_folder_name
from convergenced.errors import PeerUnreachableError
from convergenced.machine.activity import Activity, ActivityLog, Event
from convergenced.machine.settings_schema import PeerSettings, Settings
from convergenced.machine.state import ReplicaNote, State
from convergenced.merge.layout import ProjectTree, read_folder, read_project
from convergenced.merge.segments import read_transcript
from convergenced.model import LocalPath, MachineId, Oid, ProjectId, SessionId
from convergenced.store.branch import project_ref
from convergenced.sync.converge import Pass, converge
from convergenced.sync.desk import Surroundings
from convergenced.sync.engine import Engine
from convergenced.sync.exchange import RoundReport, exchange
from convergenced.sync.identity import Identity, identity_of_checkout
from convergenced.sync.ingest import IngestReport, ingest, policy_of
from convergenced.sync.localize import LocalizeReport, localize
from convergenced.sync.replica import Machine, Parts, Replica, replica_ref
from convergenced.sync.screening import Screen
from convergenced.sync.survey import Scope, Survey, survey
from convergenced.sync.tips import ref_of, tip_of
from tests.fakes.checkouts import FakeCheckouts
from tests.fakes.clock import FakeClock
from tests.fakes.files import MemoryFiles
from tests.fakes.peer import MemoryPeer
from tests.fakes.processes import FakeProcesses
from tests.fakes.store import MemoryStore
from tests.fakes.watcher import ManualWatcher

APP = ProjectId("app")
APP_URL = "example.org/ann/app"
HUB = "hub"
MAX_STEPS = 5_000
"""Turns and jobs until everything must have come to rest; more is a machine that spins."""


def sid(number: int) -> SessionId:
    """The session of this number."""
    return SessionId(str(uuid5(NAMESPACE_OID, f"session {number}")))


class QueuedWorkers:
    """`sync.engine.Workers` by hand: a job waits until `run_one`; jobs of one lane keep their order.

    `choose` picks among the lanes that have a job waiting; a simulator gives its own.
    """

    def __init__(self) -> None:
        self._lanes: dict[str, deque[Callable[[], None]]] = {}
        self.choose: Callable[[list[str]], str] = lambda lanes: lanes[0]

    def submit(self, lane: str, job: Callable[[], None]) -> None:
        self._lanes.setdefault(lane, deque()).append(job)

    def drain(self, seconds: float) -> bool:
        return seconds > 0 and all(self.run_one() or not self.waiting() for _ in range(MAX_STEPS))

    def waiting(self) -> list[str]:
        """The lanes that have a job waiting."""
        return [lane for lane, jobs in self._lanes.items() if jobs]

    def run_one(self, lane: str | None = None) -> bool:
        """Runs the next job of `lane`, or of the one that is chosen; tells whether there was one."""
        lanes = self.waiting() if lane is None else [lane]
        if not lanes:
            return False
        self._lanes[self.choose(lanes)].popleft()()
        return True


class Connection:
    """One connection to a `MemoryPeer`, whose switches outlive it."""

    def __init__(self, peer: MemoryPeer) -> None:
        self._peer = peer
        self.closed = False

    def list(self) -> dict[str, Oid]:
        self._check()
        return self._peer.list()

    def fetch(self, wanted: Mapping[str, str]) -> None:
        self._check()
        self._peer.fetch(wanted)

    def push(self, refs: Sequence[str]) -> dict[str, str | None]:
        self._check()
        return self._peer.push(refs)

    def close(self) -> None:
        self.closed = True

    def _check(self) -> None:
        if self.closed:
            raise PeerUnreachableError(f"peer {self._peer.name}: the connection was closed")


class MemoryLog(ActivityLog):
    """The activity log as a list."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(LocalPath("/nowhere/activity.log"), clock)
        self.events: list[Event] = []
        self.heard: Callable[[Event], None] = lambda _event: None

    def append(self, event: Event) -> Activity:
        self.events.append(event)
        self.heard(event)
        return Activity("", event)

    def texts(self, kind: str) -> list[str]:
        """What was said of one kind, oldest first."""
        return [event.text for event in self.events if event.kind == kind]


class World:
    """Machines that share a clock and a hub, or several hubs, which all of them know."""

    def __init__(self, hubs: Sequence[str] = (HUB,)) -> None:
        self.clock = FakeClock()
        self.hubs = {name: MemoryStore() for name in hubs}
        self.machines: dict[str, FakeMachine] = {}
        self._numbers = count(1)

    @property
    def hub(self) -> MemoryStore:
        """The hub that is always there."""
        return self.hubs[HUB]

    def machine(
        self,
        name: str,
        *,
        home: str | None = None,
        root: str | None = None,
        key: str | None = None,
        clock: FakeClock | None = None,
        files: MemoryFiles | None = None,
    ) -> FakeMachine:
        """A machine with a checkout of the code of `app`, in `~/src/app` where nothing else is said.

        `key` tells machines apart that have the same name; `clock` is its own where it goes wrong.
        """
        at = LocalPath(home or f"/home/{name}")
        made = FakeMachine(self, name, at, root=root, key=key, clock=clock, files=files)
        self.machines[key or name] = made
        return made

    def number(self) -> int:
        """A number that was not given yet."""
        return next(self._numbers)

    def settle(self) -> None:
        """Turns all engines and runs their jobs until nothing is due now."""
        for _ in range(MAX_STEPS):
            if not [one for one in self._running() if one.step()]:
                return
        raise AssertionError("the engines do not come to rest")

    def advance(self, seconds: float) -> None:
        """Lets time pass, and has all engines do what becomes due meanwhile."""
        end = self.clock.monotonic() + seconds
        self.settle()
        while (now := self.clock.monotonic()) < end:
            due = min((one.engine.next_due() for one in self._running()), default=end)
            self.clock.advance(max(min(due, end) - now, 1e-3))
            self.settle()

    def _running(self) -> list[FakeMachine]:
        return [one for one in self.machines.values() if one.is_running]


class FakeMachine:
    """One machine: its files, store, state, running clients, and its way to the hub.

    What a client or a user does: `say`, `note`, `remember`, `files`, `processes`, `checkouts`. What
    convergence does, one piece at a time: `ingest`, `localize`, `converge`, `exchange`, `survey`; or all of
    it: `start`, then `World.settle` and `World.advance`. Nothing but memory: `lose_state` and `restart`
    are what bad days are made of.
    """

    def __init__(
        self,
        world: World,
        name: str,
        home: LocalPath,
        *,
        root: str | None = None,
        key: str | None = None,
        clock: FakeClock | None = None,
        files: MemoryFiles | None = None,
    ) -> None:
        self.world = world
        self.name = name
        self.key = key or name
        self.home = home
        self.clock = clock or world.clock
        self.files = files or MemoryFiles(self.clock)
        self.store = MemoryStore()
        self.processes = FakeProcesses()
        self.checkouts = FakeCheckouts()
        self.peers = {hub: MemoryPeer(self.store, there, name=hub) for hub, there in world.hubs.items()}
        self.peer = self.peers[HUB]
        """By name; another one is reached once the settings name it as well."""
        self.connections: list[Connection] = []
        self.shown: list[tuple[str, str]] = []
        """Titles and texts that the desktop showed."""
        self.machine = Machine(
            id=MachineId(f"id-of-{self.key}"),
            name=name,
            os="linux",
            home=home,
            projects_dir=LocalPath(f"{home}/.claude/projects"),
            backups_dir=LocalPath(f"{home}/.local/state/convergence/backups"),
            cleanup_days=30.0,
            version="1",
        )
        self.state = State(":memory:")
        self.screen = Screen()
        self.settings = Settings(peers=tuple(PeerSettings(hub, f"/srv/{hub}.git") for hub in self.peers))
        self.log = MemoryLog(self.clock)
        self.watcher = ManualWatcher(self.files)
        self.workers = QueuedWorkers()
        self._engine: Engine | None = None
        self.root = LocalPath(root or f"{home}/src/app")
        self.files.make_folder(self.machine.projects_dir)
        self.checkout(self.root, APP_URL)
        self.app = self.replica()

    # -- what is there

    @property
    def parts(self) -> Parts:
        """What the work on a replica needs."""
        parts = (self.store, self.files, self.state, self.processes, self.clock, self.machine)
        return Parts(*parts, self.screen)

    def checkout(self, root: str, git_url: str | None = None, *, main_root: str | None = None) -> None:
        """Code is checked out at `root`."""
        self.files.make_folder(root)
        self.checkouts.add(root, git_url, main_root=main_root)

    def replica(self, root: str | None = None, project: str = APP, *, primary: bool = True) -> Replica:
        """A folder that takes part, as a survey would give it."""
        at = LocalPath(root or self.root)
        identity = identity_of_checkout(self.checkouts.inspect(at), at, self.home)
        url = next(iter(identity.urls), None)
        return Replica(ProjectId(project), encode_folder_name(at), at, primary, git_url=url)

    def context(self, root: str | None = None) -> str:
        """The context folder of a project root."""
        return f"{self.machine.projects_dir}/{encode_folder_name(root or self.root)}"

    def transcript(self, session: SessionId, root: str | None = None) -> str:
        """Where a session's transcript lies."""
        return f"{self.context(root)}/{session}.jsonl"

    def memory(self, name: str, root: str | None = None) -> str:
        """Where a memory note lies."""
        return f"{self.context(root)}/memory/{name}"

    # -- what a client and its user do

    def say(self, session: SessionId, text: str, *, root: str | None = None, cwd: str | None = None) -> bytes:
        """The conversation goes on by one record, which is returned with its LF."""
        record = self.spoken(session, text, cwd=cwd or root)
        self.go_on(self.transcript(session, root), record)
        return record

    def go_on(self, path: str, data: bytes) -> None:
        """The client appends: where the last line has no end it gives it one, as the real client does."""
        with contextlib.suppress(FileNotFoundError):
            if self.files.content(path)[-1:] not in (b"", b"\n"):
                data = b"\n" + data
        self.files.append(path, data)

    def spoken(self, session: SessionId, text: str, *, cwd: str | None = None) -> bytes:
        """A record of the conversation, with its LF, that nobody wrote yet."""
        when = datetime.fromtimestamp(self.clock.now(), UTC).isoformat(timespec="milliseconds")
        fields = {
            "type": "user",
            "uuid": f"{self.key}-{self.world.number()}",
            "sessionId": session,
            "timestamp": when,
            "cwd": cwd or self.root,
            "message": {"role": "user", "content": text},
        }
        return _line(fields)

    def jot(self, session: SessionId, text: str) -> bytes:
        """The client keeps its books: a record that is not conversation."""
        record = _line({"type": "last-prompt", "sessionId": session, "text": text})
        self.go_on(self.transcript(session), record)
        return record

    def remember(self, name: str, text: str, root: str | None = None) -> None:
        """A memory note is written."""
        self.files.write(self.memory(name, root), text.encode())

    def texts(self, session: SessionId, root: str | None = None) -> list[str]:
        """What the conversation says here, oldest first."""
        records = self.local_bytes(session, root).split(b"\n")[:-1]
        values = [json.loads(record) for record in records]
        return [value["message"]["content"] for value in values if "message" in value]

    def local_bytes(self, session: SessionId, root: str | None = None) -> bytes:
        """The bytes of a transcript here."""
        return self.files.content(self.transcript(session, root))

    def sessions(self, root: str | None = None) -> set[str]:
        """The sessions that have a transcript here."""
        listing = self.files.list(LocalPath(self.context(root))) or []
        return {entry.name.removesuffix(".jsonl") for entry in listing if entry.name.endswith(".jsonl")}

    def notes(self, root: str | None = None) -> dict[str, str]:
        """The memory here, by name."""
        folder = f"{self.context(root)}/memory"
        paths = self.files.paths(folder)
        return {path.removeprefix(f"{folder}/"): self.files.content(path).decode() for path in paths}

    # -- what convergence does, a piece at a time

    def ingest(self, replica: Replica | None = None) -> IngestReport:
        """Local changes are committed."""
        one = replica or self.app
        return ingest(self.parts, one, policy_of(self.parts, one))

    def localize(self, replica: Replica | None = None, *, whole_machine: bool = False) -> LocalizeReport:
        """What arrived is written."""
        one = replica or self.app
        return localize(self.parts, one, policy_of(self.parts, one), whole_machine=whole_machine)

    def converge(self, replica: Replica | None = None, *, whole_machine: bool = False) -> Pass:
        """Both, as the engine does it."""
        return converge(self.parts, replica or self.app, whole_machine=whole_machine)

    def exchange(self, *projects: str, trusted: Iterable[ProjectId] = ()) -> RoundReport:
        """One round with the hub."""
        told = {ProjectId(project): self._identity_named(project) for project in projects or (APP,)}
        return exchange(self.store, self.peer, HUB, told, trusted)

    def _identity_named(self, project: str) -> Identity:
        beside = f"{self.home}/src/{project}"
        return self.identity(beside if self.files.list(LocalPath(beside)) is not None else None)

    def sync(self) -> None:
        """Everything once, in the order that brings the most."""
        self.converge()
        self.exchange()
        self.converge()

    def survey(self, scope: Scope | None = None) -> Survey:
        """The projects folder is looked at as a whole."""
        return survey(self.parts, self.checkouts, scope or Scope())

    def identity(self, root: str | None = None) -> Identity:
        """What code lies at a root."""
        at = LocalPath(root or self.root)
        return identity_of_checkout(self.checkouts.inspect(at), at, self.home)

    def lose_state(self) -> None:
        """The state database is gone; the store is not."""
        taking_part = self.state.replicas()
        self.state.close()
        self.state = State(":memory:")
        for note in taking_part:
            if note.by_hand:
                self.state.note_replica(note)

    def use_store(self, store: MemoryStore) -> None:
        """Another store stands where the store was. The engine must not run."""
        self.store = store
        for peer in self.peers.values():
            peer.here = store

    def take_part(self, root: str, project: str, *, by_hand: bool = True) -> None:
        """A folder takes part in a project from now on."""
        at = LocalPath(root)
        self.state.note_replica(ReplicaNote(encode_folder_name(at), ProjectId(project), at, by_hand))

    # -- what the store holds

    def tip(self, project: str = APP) -> Oid | None:
        """Where the project's branch is."""
        return tip_of(self.store, ProjectId(project))

    def head(self, replica: Replica | None = None) -> Oid | None:
        """Where the replica's own ref is."""
        return ref_of(self.store, replica_ref(replica or self.app))

    def tree(self, project: str = APP) -> ProjectTree:
        """What the project's branch holds."""
        return project_at(self.store, self.tip(project))

    def message(self, project: str = APP) -> str:
        """What the newest commit says."""
        tip = self.tip(project)
        assert tip is not None
        return self.store.read_commit(tip).message.rstrip("\n")

    def stored(self, session: SessionId, project: str = APP) -> bytes:
        """A transcript in canonical form."""
        oid = self.tree(project).sessions[session].transcript
        assert oid is not None
        return b"".join(read_transcript(self.store, oid))

    def stored_folder(self, session: SessionId, project: str = APP) -> dict[str, bytes]:
        """The files of a session's folder in canonical form."""
        found, _ = read_folder(self.store, self.tree(project).sessions[session].folder, "")
        return {name: self.store.read_blob(oid) for name, oid in found.items()}

    def stored_memory(self, project: str = APP) -> dict[str, bytes]:
        """The memory in canonical form."""
        return {name: self.store.read_blob(oid) for name, oid in self.tree(project).memory.items()}

    # -- the whole engine

    @property
    def engine(self) -> Engine:
        """The engine, which must run."""
        assert self._engine is not None, f"{self.name} does not run"
        return self._engine

    @property
    def is_running(self) -> bool:
        """Whether the engine runs."""
        return self._engine is not None

    def start(self, settings: Settings | None = None) -> Engine:
        """The daemon starts; what it does is done by `World.settle` and `World.advance`."""
        self.settings = settings or self.settings
        surroundings = Surroundings(
            parts=self.parts,
            checkouts=self.checkouts,
            watcher=self.watcher,
            workers=self.workers,
            activity=self.log,
            open_peer=self._connect,
            show=lambda title, text: self.shown.append((title, text)),
            chance=lambda: 0.5,
        )
        self._engine = Engine(surroundings, self.settings)
        self._engine.start()
        return self._engine

    def _connect(self, peer: PeerSettings) -> Connection:
        self.connections.append(Connection(self.peers[peer.name]))
        return self.connections[-1]

    def stop(self) -> None:
        """The daemon ends in order."""
        self.engine.close(1.0)
        self._engine = None

    def crash(self) -> None:
        """The daemon ends at once: jobs that wait and messages that were not read are lost."""
        self.watcher.stop()
        self.workers = QueuedWorkers()
        self._engine = None

    def step(self) -> bool:
        """One turn and one job; tells whether there was anything to do."""
        due = self.engine.next_due() <= self.clock.monotonic()
        self.engine.turn()
        ran = self.workers.run_one()
        if ran:
            self.engine.turn()
        return ran or due

    def with_settings(self, **sections: object) -> Settings:
        """The settings with some sections replaced."""
        return replace(self.settings, **sections)  # type: ignore[arg-type]


def project_at(store: MemoryStore, commit: Oid | None) -> ProjectTree:
    """The project as one commit has it."""
    return ProjectTree() if commit is None else read_project(store, store.read_commit(commit).tree)[0]


def branch(project: str) -> str:
    """The full name of a project's branch."""
    return project_ref(ProjectId(project))


def _line(fields: object) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
