"""Machines to measure in this process: real store, files and state, without a daemon around them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

import pygit2
from pygit2.enums import Option

from convergenced.machine.clock import SystemClock
from convergenced.machine.files import RealFiles
from convergenced.machine.state import State
from convergenced.model import LocalPath, MachineId, ProjectId
from convergenced.ports import Clock
from convergenced.store.peers import open_peer
from convergenced.store.repo import open_store
from convergenced.sync.converge import converge
from convergenced.sync.exchange import exchange
from convergenced.sync.identity import Identity
from convergenced.sync.replica import Machine, Parts, Replica
from convergenced.sync.scan import Glance, Scan
from tests.bench.corpus import Place, Scribe
from tests.fakes.processes import FakeProcesses

APPEND = 2_000
"""Bytes of a small append."""

APPENDS_A_SEGMENT = 27
"""Small appends that fill a segment: what they cost on average depends on no segment's fill."""

MEMORY_DISK = Path("/dev/shm")


@dataclass
class Desk:
    """One project on one machine. Everything of the machine lies below `top`."""

    top: Path
    parts: Parts
    replica: Replica
    place: Place
    scan: Scan | None = None
    """What the last pass saw, as the engine keeps it."""
    hints: set[str] = field(default_factory=set)
    """What a watcher would have said since."""

    @property
    def context(self) -> Path:
        """The context folder."""
        return Path(self.parts.machine.projects_dir) / self.place.encoded

    @property
    def store(self) -> LocalPath:
        """The store's folder."""
        return LocalPath(str(self.top / "store.git"))

    def session(self, number: int) -> str:
        """The id of a session."""
        return str(uuid5(NAMESPACE_OID, f"{self.replica.project} {number}"))

    def transcript(self, number: int) -> Path:
        """The file of a session."""
        return self.context / f"{self.session(number)}.jsonl"

    def fill(self, number: int, size: float) -> None:
        """Writes a session of `size` bytes."""
        author = Scribe(self.place, self.session(number), number)
        with self.transcript(number).open("wb") as stream:
            stream.writelines(author.records(int(size)))

    def append(self, number: int, turn: int, size: int = APPEND) -> bytes:
        """What a client does in a moment; returns what it wrote."""
        record = Scribe(self.place, self.session(number), 1_000_000 + turn).record(size)
        with self.transcript(number).open("ab") as stream:
            stream.write(record)
        self.hints.add(self.transcript(number).name)
        return record

    def converge(self) -> None:
        """One pass, as the engine has it done: by what the one before saw, and noted as told."""
        since = None if self.scan is None else Glance(self.scan, frozenset(self.hints))
        self.scan, self.hints = None, set()
        result = converge(self.parts, self.replica, whole_machine=False, since=since)
        assert not result.refusals, result.refusals
        if result.localize is not None:
            self.hints.update(result.localize.written, result.localize.removed)
        if result.is_clean:
            self.scan = result.ingest.scan
        if result.news is not None:
            self.parts.state.note_told(self.replica.project, result.news.upto)

    def exchange(
        self, url: str, environ: Mapping[str, str] = os.environ, beside: Sequence[Desk] = ()
    ) -> None:
        """One round with a hub, about this project and those `beside` it."""
        projects = {desk.replica.project: Identity() for desk in (self, *beside)}
        peer = open_peer(url, self.store, name="hub", environ=environ)
        try:
            report = exchange(self.parts.store, peer, "hub", projects, projects)
        finally:
            peer.close()
        assert not report.refusals, report.refusals
        assert not report.rejected, report.rejected

    def beside(self, name: str) -> Desk:
        """Another project on the same machine."""
        place = replace(self.place, root=f"{self.place.home}/src/{name}")
        return _at(self.top, self.parts, place, name)


@contextmanager
def folder(*, lasting: bool = True) -> Iterator[Path]:
    """A temporary folder: on a disk, or in memory where nothing has to last."""
    where = None if lasting or not MEMORY_DISK.is_dir() else MEMORY_DISK
    top = Path(tempfile.mkdtemp(prefix="convergence-bench-", dir=where))
    try:
        yield top
    finally:
        shutil.rmtree(top, ignore_errors=True)


@contextmanager
def desk_at(top: Path, clock: Clock | None = None) -> Iterator[Desk]:
    """A machine below `top`, with one project."""
    home = top / "home"
    projects = home / ".claude" / "projects"
    projects.mkdir(parents=True, exist_ok=True)
    machine = Machine(
        id=MachineId(f"bench-{top.name}"),
        name="bench",
        os="linux",
        home=LocalPath(str(home)),
        projects_dir=LocalPath(str(projects)),
        backups_dir=LocalPath(str(top / "backups")),
        cleanup_days=30.0,
        version="1",
    )
    parts = Parts(
        store=open_store(LocalPath(str(top / "store.git"))),
        files=RealFiles([machine.projects_dir, machine.backups_dir]),
        state=State(str(top / "state.sqlite")),
        processes=FakeProcesses(),
        clock=clock or SystemClock(),
        machine=machine,
    )
    try:
        yield _at(top, parts, Place(str(home), f"{home}/src/proj"), "proj")
    finally:
        parts.state.close()


@contextmanager
def desk(*, lasting: bool = True) -> Iterator[Desk]:
    """A machine in a temporary folder."""
    with folder(lasting=lasting) as top, desk_at(top) as one:
        yield one


@contextmanager
def in_haste() -> Iterator[None]:
    """Has libgit2 wait for no disk, while what is to be measured is built."""
    pygit2.option(Option.ENABLE_FSYNC_GITDIR, 0)
    try:
        yield
    finally:
        pygit2.option(Option.ENABLE_FSYNC_GITDIR, 1)


def _at(top: Path, parts: Parts, place: Place, name: str) -> Desk:
    Path(place.root).mkdir(parents=True, exist_ok=True)
    replica = Replica(ProjectId(name), place.encoded, LocalPath(place.root), primary=True)
    one = Desk(top, parts, replica, place)
    one.context.mkdir(exist_ok=True)
    return one
