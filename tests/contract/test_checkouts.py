"""What `ports.Checkouts` promises, of real repositories and from a table."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Protocol

import pytest

from convergenced.machine.checkouts import GitCheckouts
from convergenced.model import Checkout, LocalPath
from convergenced.ports import Checkouts
from tests.fakes.checkouts import FakeCheckouts


class World(Protocol):
    checkouts: Checkouts

    def path(self, name: str) -> LocalPath: ...
    def check_out(self, name: str) -> Checkout: ...


class RealWorld:
    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.checkouts: Checkouts = GitCheckouts(LocalPath(str(self.root)))

    def path(self, name: str) -> LocalPath:
        return LocalPath(str(self.root / name))

    def check_out(self, name: str) -> Checkout:
        folder = self.root / name
        (folder / "src").mkdir(parents=True)

        def git(*words: str) -> str:
            identity = (
                "-c",
                "user.name=Ann",
                "-c",
                "user.email=ann@example.org",
                "-c",
                "commit.gpgsign=false",
            )
            return subprocess.run(
                ["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True
            ).stdout.strip()

        git("init", "-q")
        git("commit", "-q", "--allow-empty", "-m", "first")
        git("remote", "add", "origin", f"git@example.org:ann/{Path(name).name}.git")
        first = git("rev-parse", "HEAD")
        return Checkout(self.path(name), self.path(name), f"example.org/ann/{Path(name).name}", first)


class TableWorld:
    def __init__(self) -> None:
        self.table = FakeCheckouts()
        self.checkouts: Checkouts = self.table

    def path(self, name: str) -> LocalPath:
        return LocalPath(f"/world/{name}")

    def check_out(self, name: str) -> Checkout:
        return self.table.add(f"/world/{name}", f"example.org/ann/{Path(name).name}", "f" * 40)


@pytest.fixture(params=["real", "table"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return RealWorld(tmp_path) if request.param == "real" else TableWorld()


def test_a_folder_inside_a_checkout_belongs_to_it(world: World) -> None:
    checkout = world.check_out("src/proj")
    assert world.checkouts.inspect(world.path("src/proj")) == checkout
    assert world.checkouts.inspect(world.path("src/proj/src")) == checkout
    assert not checkout.is_worktree


def test_a_folder_outside_every_checkout_belongs_to_none(world: World) -> None:
    world.check_out("src/proj")
    for name in ("src", "src/absent", "src/proj2"):
        assert world.checkouts.inspect(world.path(name)) is None


def test_checkouts_are_found_below_the_roots_and_nowhere_else(world: World) -> None:
    deep = world.check_out("src/group/deep")
    flat = world.check_out("src/flat")
    world.check_out("elsewhere/other")
    assert list(world.checkouts.find([world.path("src")])) == [flat, deep]


def test_each_checkout_is_found_once(world: World) -> None:
    checkout = world.check_out("src/proj")
    roots = [world.path("src"), world.path("src/proj"), world.path("src"), world.path("absent")]
    assert list(world.checkouts.find(roots)) == [checkout]


def test_without_roots_nothing_is_found(world: World) -> None:
    world.check_out("src/proj")
    assert list(world.checkouts.find([])) == []
