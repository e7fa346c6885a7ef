"""Short stories told twice: on fakes, and on real stores, files and a bare repository as hub.

The fakes are held to the truth: the same story must end with the same sessions and notes, byte for byte
but for where each machine's home is.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from convergenced import steps
from convergenced.machine.state import State
from convergenced.model import LocalPath, SessionId
from convergenced.store.repo import open_store
from tests.unit.sync.test_on_disk import DiskMachine
from tests.unit.sync.world import FakeMachine, World, sid

SEEDS = range(12)
NAMES = ("ann", "bob", "cyd")
LENGTH = 40
ROUNDS = 6


class CrashError(BaseException):
    """The daemon is killed here."""


class Twins:
    """One machine, once on fakes and once on the disk; everything happens to both."""

    def __init__(self, fake: FakeMachine, disk: DiskMachine) -> None:
        self.fake = fake
        self.disk = disk

    def append(self, session: SessionId, number: int, cut: slice, *, is_book: bool) -> None:
        """A piece of a record is written."""
        for home, root, context in self._places():
            when = f"2025-12-31T10:{number // 60:02}:{number % 60:02}.000Z"
            said = {"type": "user", "uuid": f"u{number}", "sessionId": session, "timestamp": when}
            said |= {"cwd": root, "message": f"see {home}/x and {context}/y"}
            record = {"type": "last-prompt", "text": f"b{number}"} if is_book else said
            data = (json.dumps(record, separators=(",", ":")) + "\n").encode()[cut]
            self._append(context, f"{context}/{session}.jsonl", data)

    def _places(self) -> list[tuple[str, str, str]]:
        disk = (str(self.disk.home), str(self.disk.root), str(self.disk.context))
        return [(self.fake.home, self.fake.root, self.fake.context()), disk]

    def _append(self, context: str, path: str, data: bytes) -> None:
        if context == self.fake.context():
            self.fake.files.append(path, data)
        else:
            with Path(path).open("ab") as file:
                file.write(data)

    def note(self, name: str, lines: list[str]) -> None:
        """A note is written anew, or deleted."""
        text = "".join(f"{line}\n" for line in lines)
        real = self.disk.context / "memory" / name
        real.parent.mkdir(exist_ok=True)
        if lines:
            self.fake.remember(name, text)
            real.write_text(text)
        elif name in self.fake.notes():
            self.fake.files.unlink(self.fake.memory(name))
            real.unlink()

    def delete(self, session: SessionId) -> None:
        """A session is deleted here."""
        if session in self.fake.sessions() and len(self.fake.sessions()) > 1:
            self.fake.files.unlink(self.fake.transcript(session))
            self.disk.transcript(session).unlink()

    def hold(self) -> None:
        """A client starts, or ends."""
        for processes, root in ((self.fake.processes, self.fake.root), (self.disk.processes, self.disk.root)):
            running = processes.claude()
            if running:
                processes.end(running[0].pid)
            else:
                processes.begin(root)

    def converge(self, crash_at: str | None = None) -> None:
        """A pass, which may end in the middle."""
        for one in (self.fake, self.disk):
            steps.hook = lambda step: _crash(step, crash_at)
            with suppress(CrashError):
                one.converge()
            steps.hook = None

    def exchange(self) -> None:
        """A round with the hub."""
        self.fake.exchange()
        self.disk.exchange()

    def lose_state(self) -> None:
        """The state is only a cache."""
        self.fake.lose_state()
        self.disk.state.close()
        self.disk.state = State(":memory:")

    def outcome(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """The files of both, as if both had the same home."""
        fake, disk = self._places()
        context = self.fake.context()
        files = self.fake.files
        told = {path.removeprefix(context): files.content(path) for path in files.paths(context)}
        real = {}
        for path in self.disk.context.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                for theirs, ours in ((disk[2], fake[2]), (disk[1], fake[1]), (disk[0], fake[0])):
                    data = data.replace(theirs.encode(), ours.encode())
                real[str(path).removeprefix(disk[2])] = data
        return told, real


def _crash(step: str, wanted: str | None) -> None:
    if step == wanted:
        raise CrashError


@pytest.mark.parametrize("seed", SEEDS)
def test_fakes_and_the_disk_end_the_same_story_alike(tmp_path: Path, seed: int) -> None:
    rng, world, hub = Random(seed), World(), tmp_path / "hub.git"
    open_store(LocalPath(str(hub)))
    twins = []
    for name in NAMES[: rng.choice((2, 2, 3))]:
        (tmp_path / name).mkdir()
        twins.append(Twins(world.machine(name), DiskMachine(tmp_path / name, hub, world.clock)))
    whole, torn = slice(None), dict[tuple[int, SessionId], int]()
    for number, one in enumerate(twins):
        one.append(sid(10 + number), number, whole, is_book=False)
    for number in range(10, 10 + LENGTH):
        world.clock.advance(1)
        who, session = rng.randrange(len(twins)), sid(rng.randint(1, 3))
        one = twins[who]
        what = rng.choice(
            ("say",) * 5 + ("tear", "book", "note", "delete", "hold", "state") + ("pass", "round") * 4
        )
        if what in ("say", "tear", "book", "delete") and (who, session) in torn:
            one.append(session, torn.pop((who, session)), slice(30, None), is_book=False)
        elif what == "say":
            one.append(session, number, whole, is_book=False)
        elif what == "book":
            one.append(session, number, whole, is_book=True)
        elif what == "tear":
            one.append(session, number, slice(30), is_book=False)
            torn[who, session] = number
        elif what == "note":
            one.note(
                rng.choice(("MEMORY.md", "a.md")), rng.choices(("x", f"y{number}", "z"), k=rng.randint(0, 3))
            )
        elif what == "delete":
            one.delete(session)
        elif what == "hold":
            one.hold()
        elif what == "state":
            one.lose_state()
        elif what == "pass":
            one.converge(rng.choice((None, None, *steps.STEPS)))
        else:
            one.exchange()
    for (who, session), number in torn.items():
        twins[who].append(session, number, slice(30, None), is_book=False)
    for one in twins:
        if one.fake.processes.claude():
            one.hold()
    for _ in range(ROUNDS):
        for one in twins:
            one.converge()
            one.exchange()
            one.converge()
    assert len({one.disk.tip() for one in twins}) == 1
    for one in twins:
        fake, real = one.outcome()
        assert real == fake
