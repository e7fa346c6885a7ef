"""The same work on the real store and real files, in small number."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convergenced.canon.folder import encode_folder_name
from convergenced.machine.files import RealFiles
from convergenced.machine.state import State
from convergenced.model import LocalPath, MachineId, Oid, ProjectId, SessionId
from convergenced.store.peers import open_peer
from convergenced.store.repo import open_store
from convergenced.sync.converge import Pass, converge
from convergenced.sync.exchange import RoundReport, exchange
from convergenced.sync.identity import Identity
from convergenced.sync.replica import Machine, Parts, Replica
from convergenced.sync.tips import tip_of
from tests.fakes.clock import FakeClock
from tests.fakes.processes import FakeProcesses
from tests.unit.sync.world import APP, APP_URL, sid

S = sid(1)
IDENTITY = Identity(urls=frozenset({APP_URL}))


class DiskMachine:
    """A machine with a real home, store and state below `top`."""

    def __init__(self, top: Path, hub: Path, clock: FakeClock) -> None:
        self.top, self.hub, self.clock = top, hub, clock
        self.home = top / "home"
        self.root = LocalPath(str(self.home / "src" / "app"))
        self.projects = self.home / ".claude" / "projects"
        self.context = self.projects / encode_folder_name(self.root)
        self.context.mkdir(parents=True)
        Path(self.root).mkdir(parents=True)
        (top / "conv").mkdir()
        self.store_path = LocalPath(str(top / "conv" / "store.git"))
        self.store = open_store(self.store_path)
        self.state = State(str(top / "conv" / "state.sqlite"))
        self.processes = FakeProcesses()
        self.replica = Replica(APP, self.context.name, self.root, primary=True, git_url=APP_URL)
        self.machine = Machine(
            id=MachineId(top.name),
            name=top.name,
            os="linux",
            home=LocalPath(str(self.home)),
            projects_dir=LocalPath(str(self.projects)),
            backups_dir=LocalPath(str(top / "conv" / "backups")),
            cleanup_days=30.0,
            version="1",
        )

    def transcript(self, session: SessionId = S) -> Path:
        return self.context / f"{session}.jsonl"

    def say(self, text: str, session: SessionId = S) -> None:
        record = (
            f'{{"type":"user","uuid":"{text}-{self.top.name}","sessionId":"{session}","cwd":"{self.root}",'
            f'"timestamp":"2025-12-31T10:00:00.000Z","message":"{text} in {self.root}"}}\n'
        )
        descriptor = os.open(self.transcript(session), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, record.encode())
        os.close(descriptor)

    def converge(self) -> Pass:
        files = RealFiles([self.machine.projects_dir, self.machine.backups_dir])
        parts = Parts(self.store, files, self.state, self.processes, self.clock, self.machine)
        return converge(parts, self.replica, whole_machine=False)

    def exchange(self) -> RoundReport:
        peer = open_peer(str(self.hub), self.store_path, name="hub", environ=dict(os.environ))
        try:
            return exchange(self.store, peer, "hub", {ProjectId(APP): IDENTITY}, ())
        finally:
            peer.close()

    def sync(self) -> Pass:
        self.converge()
        self.exchange()
        return self.converge()

    def tip(self) -> Oid | None:
        return tip_of(self.store, APP)


@pytest.fixture
def machines(tmp_path: Path) -> tuple[DiskMachine, DiskMachine]:
    hub, clock = tmp_path / "hub.git", FakeClock()
    open_store(LocalPath(str(hub)))
    made = []
    for name in ("ann", "bob"):
        (tmp_path / name).mkdir()
        made.append(DiskMachine(tmp_path / name, hub, clock))
    return made[0], made[1]


def test_a_session_arrives_whole_private_and_with_its_time(machines: tuple[DiskMachine, DiskMachine]) -> None:
    ann, bob = machines
    ann.say("one")
    (ann.context / str(S) / "tool-results").mkdir(parents=True)
    (ann.context / str(S) / "tool-results" / "1.txt").write_text(f"see {ann.root}")
    ann.sync()
    passed = bob.sync()
    assert passed.localize is not None
    assert passed.localize.settled
    assert f"one in {bob.root}" in bob.transcript().read_text()
    assert str(ann.home) not in bob.transcript().read_text()
    assert (bob.context / str(S) / "tool-results" / "1.txt").read_text() == f"see {bob.root}"
    found = bob.transcript().stat()
    assert found.st_mode & 0o777 == 0o600
    assert found.st_mtime == pytest.approx(1767175200.0)


def test_a_second_pass_and_a_lost_state_change_nothing(machines: tuple[DiskMachine, DiskMachine]) -> None:
    ann, bob = machines
    ann.say("one")
    (ann.context / "memory").mkdir()
    (ann.context / "memory" / "a.md").write_text("x")
    ann.sync()
    bob.sync()
    before = {path: path.stat().st_mtime_ns for path in bob.context.rglob("*.*")}
    tip = bob.tip()
    bob.converge()
    bob.state.close()
    for path in bob.top.glob("conv/state.sqlite*"):
        path.unlink()
    bob.state = State(str(bob.top / "conv" / "state.sqlite"))
    bob.sync()
    assert bob.tip() == tip
    assert {path: path.stat().st_mtime_ns for path in bob.context.rglob("*.*")} == before


def test_two_ways_become_two_sessions_on_both_and_the_old_bytes_are_kept(
    machines: tuple[DiskMachine, DiskMachine],
) -> None:
    ann, bob = machines
    ann.say("begin")
    ann.sync()
    bob.sync()
    ann.say("ann goes on")
    bob.say("bob goes on")
    old = {machine: machine.transcript().read_bytes() for machine in machines}
    for machine in (ann, bob, ann):
        machine.sync()
    assert ann.tip() == bob.tip()
    for machine in machines:
        told = sorted(path.read_text().count("\n") for path in machine.context.glob("*.jsonl"))
        assert told == [2, 2]
    backups = [path.read_bytes() for machine in machines for path in machine.top.rglob("backups/**/*.jsonl")]
    assert len(backups) == 1
    assert backups[0] in old.values()


def test_a_client_in_the_project_is_waited_for(machines: tuple[DiskMachine, DiskMachine]) -> None:
    ann, bob = machines
    ann.say("one")
    ann.sync()
    pid = bob.processes.begin(bob.root)
    held = bob.sync().localize
    assert held is not None
    assert held.held == 1
    assert not bob.transcript().exists()
    bob.processes.end(pid)
    bob.converge()
    assert bob.transcript().exists()


def test_files_that_are_none_are_refused_and_the_rest_goes(machines: tuple[DiskMachine, DiskMachine]) -> None:
    ann, bob = machines
    ann.say("one")
    os.mkfifo(ann.transcript(sid(2)))
    ann.transcript(sid(3)).symlink_to("/etc/passwd")
    ann.transcript(sid(4)).mkdir()
    passed = ann.sync()
    assert {refusal.where for refusal in passed.ingest.refusals} == {f"{sid(n)}.jsonl" for n in (2, 3, 4)}
    bob.sync()
    assert [path.name for path in bob.context.glob("*.jsonl")] == [f"{S}.jsonl"]
