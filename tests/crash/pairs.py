"""Two machines and a hub that can be set back to the same moment again and again, inodes included.

The moment: both were in step, then both went on with one session, wrote and removed other things; the
laptop has told the hub of it, the desktop has not looked yet. So one pass of the desktop takes every
step there is: it commits, merges a divergence, exchanges, writes, replaces and removes files.
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from convergenced.machine.durable import TEMPORARY_PREFIX
from tests.e2e.machines import Machine, git, make_hub, record

"""Whether all combinations are wanted rather than a selection."""

REMOTE = "git@example.org:team/proj.git"
Files = dict[str, dict[str, bytes]]
"""The local files of machines: by name of the machine, then by path."""

TORN = b'{"type":"user","uuid":"'


def session(name: str) -> str:
    """A session id, the same in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


SHARED, OURS, THEIRS, NEW_HERE, NEW_THERE = map(session, ("shared", "ours", "theirs", "here", "there"))


@dataclass
class Pair:
    """The machines below `top/now`, and the moment below `top/then`."""

    top: Path
    desktop: Machine
    laptop: Machine
    hub: Path

    @property
    def machines(self) -> tuple[Machine, Machine]:
        return self.desktop, self.laptop

    @property
    def repositories(self) -> tuple[Path, Path, Path]:
        return self.desktop.store, self.laptop.store, self.hub

    def keep(self) -> None:
        """Makes this moment the one that `restore` goes back to."""
        (self.top / "now").rename(self.top / "then")

    def restore(self) -> None:
        """Sets everything back. Nearly all files keep their inodes, so that the state still knows them."""
        now = self.top / "now"
        if now.exists():
            shutil.rmtree(now)
        shutil.copytree(self.top / "then", now, symlinks=True, copy_function=_link)

    def settle(self) -> None:
        """Runs both machines until both must have everything; each run must say that all is in step."""
        for machine in (self.desktop, self.laptop, self.desktop):
            once(machine)

    def files(self) -> Files:
        """All local files of both machines."""
        return {machine.name: machine.files() for machine in self.machines}

    def check_whole(self) -> None:
        """Stores and hub have nothing that git complains about, and no machine a left-over."""
        for repository in self.repositories:
            if repository.exists():
                assert git("-C", repository, "fsck", "--strict", "--full", "--no-dangling") == "", repository
        for machine in self.machines:
            assert list(machine.projects.rglob(f"{TEMPORARY_PREFIX}*")) == []

    def check_equal(self, expected: Files) -> None:
        """Both machines hold `expected`, and both stores and the hub stand at one commit."""
        for name, files in self.files().items():
            assert files.keys() == expected[name].keys(), name
            for path, data in files.items():
                assert data == expected[name][path], (name, path)
        assert len({git("-C", one, "rev-parse", "refs/heads/project/proj") for one in self.repositories}) == 1
        self.check_whole()


def make_pair(top: Path) -> Pair:
    """The two machines at the moment that the module's docstring tells of."""
    now = top / "now"
    hub = make_hub(now / "hub.git")
    desktop = Machine(now / "desktop", "desktop", (hub,))
    laptop = Machine(now / "laptop", "laptop", (hub,), project_name="code/proj")
    pair = Pair(top, desktop, laptop, hub)
    for machine in pair.machines:
        git("init", "-q", machine.project)
        git("-C", machine.project, "remote", "add", "origin", REMOTE)
    for number, sid in enumerate((SHARED, OURS)):
        desktop.append(sid, record(sid, desktop.project, number) + record(sid, desktop.project, number + 1))
    desktop.write("memory/MEMORY.md", b"- index\n")
    desktop.write("memory/edited.md", b"first\n\nmiddle\n\nlast\n")
    desktop.write("memory/gone.md", b"for a while\n")
    laptop.append(THEIRS, record(THEIRS, laptop.project, 0))
    once(laptop)
    pair.settle()
    laptop.append(SHARED, record(SHARED, laptop.project, 20, "went on at the laptop"))
    laptop.append(THEIRS, record(THEIRS, laptop.project, 21))
    laptop.append(NEW_THERE, record(NEW_THERE, laptop.project, 22))
    laptop.write(f"{NEW_THERE}/subagents/agent-1.jsonl", record(NEW_THERE, laptop.project, 23))
    laptop.write("memory/edited.md", b"FIRST\n\nmiddle\n\nlast\n")
    (laptop.context / "memory/gone.md").unlink()
    once(laptop)
    desktop.append(SHARED, record(SHARED, desktop.project, 30, "went on at the desktop"))
    desktop.append(OURS, record(OURS, desktop.project, 31) + TORN)
    desktop.append(NEW_HERE, record(NEW_HERE, desktop.project, 32))
    desktop.write(f"{NEW_HERE}/tool-results/big.txt", f"output of {desktop.project}/x\n".encode())
    desktop.write("memory/edited.md", b"first\n\nmiddle\n\nLAST\n")
    desktop.write("memory/new.md", b"something new\n")
    return pair


def once(machine: Machine) -> None:
    """One pass of everything, which must find everything in step in the end."""
    done = machine.run_daemon("--once")
    assert done.returncode == 0, (machine.name, done.returncode, done.stderr)


def lose_all_but_files(machine: Machine) -> None:
    """Takes the store and the state away; the local files stay."""
    shutil.rmtree(machine.store)
    for path in machine.conv.glob("state.sqlite*"):
        path.unlink()


def _link(source: str, target: str) -> None:
    # A link where files are only ever renamed into place, a copy of what is written in place. A transcript
    # with a second name does not grow in place either, so one has none.
    path = Path(source)
    shared = "projects" in path.parts or any(part.endswith(".git") for part in path.parts)
    if shared and not path.name.endswith(".lock") and path.stem != THEIRS:
        os.link(source, target, follow_symlinks=False)
    else:
        shutil.copy2(source, target, follow_symlinks=False)
