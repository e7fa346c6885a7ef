"""Hints about single files, on a real system: each way in which editors and people change them."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyFD

from convergenced.errors import ConvergenceError, UsageError
from convergenced.machine.watch import FolderWatcher
from convergenced.machine.watch_files import FileHints
from convergenced.model import LocalPath

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify")


class Heard:
    """The hints that came, from whatever thread."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def __call__(self, path: LocalPath) -> None:
        self.paths.append(path)

    def wait_for(self, path: Path) -> None:
        wait_until(lambda: str(path) in self.paths)
        self.paths.clear()


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits, 20 seconds at most, until the condition holds."""
    pause = threading.Event()
    assert any(condition() or pause.wait(0.01) for _ in range(2000))


@pytest.fixture
def hints() -> Iterator[FileHints]:
    made = FileHints()
    yield made
    made.stop()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = Path(os.path.realpath(tmp_path)) / "app"
    made.mkdir()
    return made


def start(hints: FileHints, *paths: Path) -> Heard:
    heard = Heard()
    hints.start([LocalPath(str(path)) for path in paths], heard)
    return heard


def test_each_change_of_a_file_is_heard(hints: FileHints, root: Path) -> None:
    path = root / "CLAUDE.md"
    heard = start(hints, path)
    path.write_text("made")
    heard.wait_for(path)
    path.write_text("written")
    heard.wait_for(path)
    (root / "beside").write_text("replaced")
    (root / "beside").replace(path)
    heard.wait_for(path)
    path.rename(root / "away")
    heard.wait_for(path)
    (root / "away").rename(path)
    heard.wait_for(path)
    path.unlink()
    heard.wait_for(path)


def test_other_files_and_reading_are_no_change(hints: FileHints, root: Path) -> None:
    path, last = root / "CLAUDE.md", root / "last.md"
    path.write_text("x")
    heard = start(hints, path, last)
    (root / "other").write_text("x")
    path.read_text()
    os.listdir(root)
    last.write_text("x")
    wait_until(lambda: str(last) in heard.paths)
    assert set(heard.paths) == {str(last)}


def test_a_folder_that_appears_later_is_watched(hints: FileHints, root: Path) -> None:
    path = root / ".claude" / "deep" / "CLAUDE.md"
    heard = start(hints, path)
    path.parent.mkdir(parents=True)
    heard.wait_for(path)
    path.write_text("x")
    heard.wait_for(path)


def test_a_folder_that_is_replaced_or_comes_back_is_watched(hints: FileHints, root: Path) -> None:
    path = root / ".claude" / "CLAUDE.md"
    path.parent.mkdir()
    heard = start(hints, path)
    shutil.rmtree(path.parent)
    heard.wait_for(path)
    path.parent.mkdir()
    heard.wait_for(path)
    path.write_text("x")
    heard.wait_for(path)
    path.parent.rename(root / "old")
    heard.wait_for(path)
    path.parent.mkdir()
    heard.wait_for(path)
    (root / "old" / "CLAUDE.md").write_text("nobody's business")
    path.write_text("x")
    heard.wait_for(path)
    assert hints.trouble() is None


def test_a_root_that_is_not_there_yet_is_found(hints: FileHints, root: Path) -> None:
    root.rmdir()
    heard = start(hints, root / "CLAUDE.md", root / ".claude" / "CLAUDE.md")
    (root / ".claude").mkdir(parents=True)
    heard.wait_for(root / ".claude" / "CLAUDE.md")
    (root / ".claude" / "CLAUDE.md").write_text("x")
    heard.wait_for(root / ".claude" / "CLAUDE.md")


def test_an_undecodable_name_is_heard(hints: FileHints, root: Path) -> None:
    path = root / os.fsdecode(b"\xff.md")
    heard = start(hints, path)
    path.write_text("x")
    heard.wait_for(path)


def test_one_thread_does_for_all(hints: FileHints, tmp_path: Path) -> None:
    paths = [tmp_path / f"app-{number}" / "CLAUDE.md" for number in range(100)]
    for path in paths:
        path.parent.mkdir()
    before = threading.active_count()
    heard = start(hints, *paths)
    assert threading.active_count() == before + 1
    paths[99].write_text("x")
    heard.wait_for(paths[99])
    hints.stop()
    assert threading.active_count() == before


def test_after_stop_nothing_is_told_and_others_can_be_watched(hints: FileHints, root: Path) -> None:
    first = start(hints, root / "a")
    hints.stop()
    second = start(hints, root / "a", root / "b")
    (root / "a").write_text("x")
    second.wait_for(root / "a")
    assert first.paths == []
    with pytest.raises(UsageError):
        start(hints, root / "a")


def test_a_folder_may_be_stopped_from_within_a_hint(hints: FileHints, root: Path) -> None:
    done = threading.Event()

    def changed(_path: LocalPath) -> None:
        hints.stop()
        done.set()

    hints.start([LocalPath(str(root / "a"))], changed)
    (root / "a").write_text("x")
    assert done.wait(20)


def test_beside_a_watched_folder_both_count_their_own(hints: FileHints, root: Path) -> None:
    heard = start(hints, root / "CLAUDE.md")
    watcher = FolderWatcher()
    below = Heard()
    watcher.start(LocalPath(str(root)), below)
    try:
        (root / "CLAUDE.md").write_text("x")
        heard.wait_for(root / "CLAUDE.md")
        below.wait_for(root / "CLAUDE.md")
        assert watcher.trouble() is None
    finally:
        watcher.stop()


def test_a_limit_of_watches_is_told_of(hints: FileHints, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_words: object) -> int:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(InotifyFD, "add_callback", full)
    start(hints, root / "CLAUDE.md")
    assert "fs.inotify.max_user_watches" in (hints.trouble() or "")


def test_a_folder_that_may_not_be_watched_is_named(
    hints: FileHints, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InotifyFD, "add_callback", lambda *_words: -1)
    start(hints, root / "CLAUDE.md")
    assert hints.trouble() == f"{root} cannot be watched (Permission denied); it is looked at now and then"


def test_a_system_that_refuses_is_told_with_a_remedy(
    hints: FileHints, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: object) -> int:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr(InotifyFD, "_create_inotify_fd", full)
    with pytest.raises(ConvergenceError) as caught:
        start(hints, root / "CLAUDE.md")
    assert "max_user_instances" in caught.value.hint


def test_lost_events_are_hints_about_everything(hints: FileHints, root: Path) -> None:
    heard = start(hints, root / "a", root / "b")
    watch = hints._watch
    assert watch is not None
    for folder in list(watch._folders.values()):
        folder.on_queue_overflow()
    assert heard.paths == [str(root / "a"), str(root / "b")]


def test_a_thread_that_ended_is_told_of(hints: FileHints, root: Path) -> None:
    start(hints, root / "a")
    watch = hints._watch
    assert watch is not None
    assert watch._inotify is not None
    watch._inotify.stop()
    watch._inotify.join(20)
    assert "ended by itself" in (hints.trouble() or "")
