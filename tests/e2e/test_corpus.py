"""What the real client wrote on one machine, taken over by a second one: byte for byte."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from convergenced.canon.folder import encode_folder_name
from convergenced.machine.state import State
from convergenced.model import LocalPath, MachineId, ProjectId
from convergenced.store.branch import project_ref
from convergenced.store.repo import open_store
from convergenced.sync.converge import converge
from convergenced.sync.replica import Machine, Parts, Replica
from convergenced.sync.tips import advance, tip_of
from tests.e2e.machines import git
from tests.fakes.clock import FakeClock
from tests.fakes.files import MemoryFiles
from tests.fakes.processes import FakeProcesses

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus" / "machineA" / ".claude" / "projects"
PROJECT = ProjectId("proj")
SIGNED = re.compile(rb'"type":"thinking","thinking":"(?:[^"\\]|\\.)*","signature":"[^"]+"')


class Side:
    """A machine with the paths of the corpus or of its twin: real store, files in memory."""

    def __init__(self, top: Path, name: str, home: str, root: str) -> None:
        self.files = MemoryFiles()
        self.store_path = LocalPath(str(top / f"{name}.git"))
        self.replica = Replica(PROJECT, encode_folder_name(root), LocalPath(root), primary=True)
        self.parts = Parts(
            store=open_store(self.store_path),
            files=self.files,
            state=State(":memory:"),
            processes=FakeProcesses(),
            clock=FakeClock(),
            machine=Machine(
                id=MachineId(f"{name}-00000000"),
                name=name,
                os="linux" if home.startswith("/home") else "darwin",
                home=LocalPath(home),
                projects_dir=LocalPath(f"{home}/.claude/projects"),
                backups_dir=LocalPath(f"{home}/backups"),
                cleanup_days=30,
                version="0",
            ),
        )

    @property
    def context(self) -> str:
        return self.replica.context_dir(self.parts.machine)

    def converge(self) -> str | None:
        """One pass; the commit it made."""
        result = converge(self.parts, self.replica, whole_machine=False)
        assert not result.ingest.refusals, result.ingest.refusals
        return result.ingest.commit

    def contents(self) -> dict[str, bytes]:
        below = (path for path in self.files.paths(self.context))
        return {path.removeprefix(self.context + "/"): self.files.content(path) for path in below}


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Side, Side]:
    if not CORPUS.is_dir():
        pytest.skip("the corpus is not beside the project")
    ann = Side(tmp_path, "ann", "/home/ann", "/home/ann/src/proj")
    twin = Side(tmp_path, "twin", "/Users/ann", "/Users/ann/code/proj")
    top = CORPUS / "-home-ann-src-proj"
    for path in sorted(path for path in top.rglob("*") if path.is_file()):
        ann.files.write(f"{ann.context}/{path.relative_to(top)}", path.read_bytes())
    return ann, twin


def mapped(data: bytes) -> bytes:
    """The bytes with the four anchors mapped, signed thinking left as it is."""
    pieces, end = [], 0
    for signed in SIGNED.finditer(data):
        pieces += [_rename(data[end : signed.start()]), signed[0]]
        end = signed.end()
    return b"".join([*pieces, _rename(data[end:])])


def _rename(data: bytes) -> bytes:
    anchors = (
        (rb"/home/ann/src/proj", b"/Users/ann/code/proj"),
        (rb"-home-ann-src-proj", b"-Users-ann-code-proj"),
        (rb"/home/ann", b"/Users/ann"),
    )
    for old, new in anchors:
        data = re.sub(old + rb"(?![A-Za-z0-9_-]|\.[A-Za-z0-9])", new, data)
    return data


def take_over(ann: Side, twin: Side) -> None:
    git("-C", twin.store_path, "fetch", "-q", ann.store_path, f"{project_ref(PROJECT)}:refs/incoming")
    incoming = twin.parts.store.refs("refs/incoming")["refs/incoming"]
    advance(twin.parts.store, PROJECT, incoming)


def test_every_file_is_taken_over_with_the_anchors_mapped_and_every_other_byte_kept(
    sides: tuple[Side, Side],
) -> None:
    ann, twin = sides
    assert ann.converge() is not None
    take_over(ann, twin)
    twin.converge()
    original, taken = ann.contents(), twin.contents()
    assert set(taken) == set(original)
    assert len(original) == 17
    for name, data in original.items():
        assert taken[name] == mapped(data), name
        assert b"/home/ann" not in SIGNED.sub(b"", taken[name]), name


def test_ingesting_again_makes_no_commit_on_either_machine(sides: tuple[Side, Side]) -> None:
    ann, twin = sides
    ann.converge()
    take_over(ann, twin)
    twin.converge()
    for side in sides:
        tip = tip_of(side.parts.store, PROJECT)
        assert side.converge() is None
        side.parts.state.forget_files(side.replica.folder)
        assert side.converge() is None
        assert tip_of(side.parts.store, PROJECT) == tip
    assert git("-C", ann.store_path, "fsck", "--strict", "--full") == ""
