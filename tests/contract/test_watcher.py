"""What `ports.Watcher` promises, of the system and in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from convergenced.errors import UsageError
from convergenced.machine.watch import FolderWatcher
from convergenced.model import LocalPath
from convergenced.ports import Watcher
from tests.fakes.files import MemoryFiles
from tests.fakes.watcher import ManualWatcher

PATIENCE_S = 20.0


class Heard:
    """The hints that came, from whatever thread."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._news = threading.Condition()

    def __call__(self, path: LocalPath) -> None:
        with self._news:
            self._paths.append(path)
            self._news.notify_all()

    def wait_for(self, path: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: path in self._paths, PATIENCE_S), (path, self._paths)

    def paths(self) -> list[str]:
        with self._news:
            return list(self._paths)


class World(Protocol):
    watcher: Watcher
    folder: LocalPath

    def write(self, path: str, data: bytes) -> None: ...
    def append(self, path: str, data: bytes) -> None: ...
    def unlink(self, path: str) -> None: ...
    def move(self, old: str, new: str) -> None: ...
    def make_folder(self, path: str) -> None: ...


class RealWorld:
    def __init__(self, root: Path) -> None:
        self.watcher: Watcher = FolderWatcher()
        self.folder = LocalPath(str(root / "projects"))
        os.mkdir(self.folder)

    def write(self, path: str, data: bytes) -> None:
        Path(path).write_bytes(data)

    def append(self, path: str, data: bytes) -> None:
        with open(path, "ab") as file:
            file.write(data)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def move(self, old: str, new: str) -> None:
        os.rename(old, new)

    def make_folder(self, path: str) -> None:
        Path(path).mkdir(parents=True)


class MemoryWorld:
    def __init__(self) -> None:
        files = MemoryFiles()
        self.watcher: Watcher = ManualWatcher(files)
        self.folder = LocalPath("/world/projects")
        self.write, self.append, self.unlink = files.write, files.append, files.unlink
        self.move, self.make_folder = files.move, files.make_folder
        self.make_folder(self.folder)


@pytest.fixture(params=["real", "memory"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    world: World = RealWorld(tmp_path) if request.param == "real" else MemoryWorld()
    yield world
    world.watcher.stop()


def test_every_change_below_the_folder_is_heard(world: World) -> None:
    heard = Heard()
    world.watcher.start(world.folder, heard)
    world.write(f"{world.folder}/a.jsonl", b"1")
    heard.wait_for(f"{world.folder}/a.jsonl")
    world.append(f"{world.folder}/a.jsonl", b"2")
    world.move(f"{world.folder}/a.jsonl", f"{world.folder}/b.jsonl")
    heard.wait_for(f"{world.folder}/b.jsonl")
    world.unlink(f"{world.folder}/b.jsonl")
    world.write(f"{world.folder}/last", b"")
    heard.wait_for(f"{world.folder}/last")
    assert set(heard.paths()) >= {f"{world.folder}/a.jsonl", f"{world.folder}/b.jsonl"}


def test_an_append_to_a_file_that_was_there_before_is_heard(world: World) -> None:
    world.write(f"{world.folder}/a.jsonl", b"1")
    heard = Heard()
    world.watcher.start(world.folder, heard)
    world.append(f"{world.folder}/a.jsonl", b"2")
    heard.wait_for(f"{world.folder}/a.jsonl")


def test_a_move_is_heard_under_both_names(world: World) -> None:
    world.write(f"{world.folder}/old", b"1")
    heard = Heard()
    world.watcher.start(world.folder, heard)
    world.move(f"{world.folder}/old", f"{world.folder}/new")
    heard.wait_for(f"{world.folder}/old")
    heard.wait_for(f"{world.folder}/new")


def test_folders_that_come_later_are_watched_too(world: World) -> None:
    heard = Heard()
    world.watcher.start(world.folder, heard)
    world.make_folder(f"{world.folder}/p/sid/subagents")
    heard.wait_for(f"{world.folder}/p")
    world.write(f"{world.folder}/p/sid/subagents/a.jsonl", b"1")
    heard.wait_for(f"{world.folder}/p/sid/subagents/a.jsonl")
    assert world.watcher.trouble() is None


def test_nothing_is_heard_after_the_end(world: World) -> None:
    heard = Heard()
    world.watcher.start(world.folder, heard)
    world.watcher.stop()
    before = heard.paths()
    again = Heard()
    world.watcher.start(world.folder, again)
    world.write(f"{world.folder}/a.jsonl", b"1")
    again.wait_for(f"{world.folder}/a.jsonl")
    assert heard.paths() == before


def test_a_folder_that_is_not_there_cannot_be_watched_yet(world: World) -> None:
    later = LocalPath(f"{world.folder}/later")
    with pytest.raises(UsageError, match="no such folder"):
        world.watcher.start(later, Heard())
    world.make_folder(later)
    heard = Heard()
    world.watcher.start(later, heard)
    world.write(f"{later}/a", b"")
    heard.wait_for(f"{later}/a")


def test_one_watcher_watches_one_folder(world: World) -> None:
    world.watcher.start(world.folder, Heard())
    with pytest.raises(UsageError, match="already"):
        world.watcher.start(world.folder, Heard())


def test_without_trouble_there_is_none_to_tell(world: World) -> None:
    assert world.watcher.trouble() is None
    world.watcher.start(world.folder, Heard())
    assert world.watcher.trouble() is None
    world.watcher.stop()
    world.watcher.stop()
    assert world.watcher.trouble() is None
