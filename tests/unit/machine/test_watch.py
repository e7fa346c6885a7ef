"""What can go wrong with watching, on a real system: each is noticed and said with its remedy."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watchdog.observers.api import BaseObserver

from convergenced.errors import ConvergenceError
from convergenced.machine import watch
from convergenced.machine.watch import OVERFLOW_SHOWN_S, FolderWatcher, watches_missing
from convergenced.model import LocalPath
from tests.fakes.clock import FakeClock

linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify")


class Heard:
    """The hints that came, from whatever thread."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def __call__(self, path: LocalPath) -> None:
        self.paths.append(path)


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits, 20 seconds at most, until the condition holds."""
    pause = threading.Event()
    assert any(condition() or pause.wait(0.01) for _ in range(2000))


@pytest.fixture
def folder(tmp_path: Path) -> LocalPath:
    (tmp_path / "projects").mkdir()
    return LocalPath(str(tmp_path / "projects"))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def watcher(clock: FakeClock) -> Iterator[FolderWatcher]:
    watcher = FolderWatcher(clock)
    yield watcher
    watcher.stop()


def test_reading_and_listing_is_no_change(watcher: FolderWatcher, folder: LocalPath) -> None:
    Path(folder, "a").write_bytes(b"1")
    heard = Heard()
    watcher.start(folder, heard)
    for _ in range(20):
        Path(folder, "a").read_bytes()
        os.listdir(folder)
    Path(folder, "b").write_bytes(b"")
    wait_until(lambda: f"{folder}/b" in heard.paths)
    assert set(heard.paths) == {f"{folder}/b"}


def test_paths_are_told_as_the_folder_was_named(
    watcher: FolderWatcher, folder: LocalPath, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(folder)
    heard = Heard()
    watcher.start(LocalPath(str(tmp_path / "link")), heard)
    Path(folder, "a").write_bytes(b"1")
    wait_until(lambda: f"{tmp_path}/link/a" in heard.paths)


def test_an_undecodable_name_is_heard(watcher: FolderWatcher, folder: LocalPath) -> None:
    name = os.fsdecode(b"\xff.jsonl")
    heard = Heard()
    watcher.start(folder, heard)
    Path(folder, name).write_bytes(b"")
    wait_until(lambda: f"{folder}/{name}" in heard.paths)


def test_what_lies_behind_a_symlink_below_is_not_watched(
    watcher: FolderWatcher, folder: LocalPath, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    Path(folder, "link").symlink_to(tmp_path / "elsewhere")
    heard = Heard()
    watcher.start(folder, heard)
    (tmp_path / "elsewhere" / "a").write_bytes(b"")
    Path(folder, "last").write_bytes(b"")
    wait_until(lambda: f"{folder}/last" in heard.paths)
    assert set(heard.paths) == {f"{folder}/last"}
    assert watcher.trouble() is None


def test_many_folders_are_all_watched(watcher: FolderWatcher, folder: LocalPath) -> None:
    for number in range(60):
        Path(folder, str(number)).mkdir()
    heard = Heard()
    watcher.start(folder, heard)
    assert watcher.trouble() is None
    for number in range(60):
        Path(folder, str(number), "a").write_bytes(b"")
    wait_until(lambda: {f"{folder}/{number}/a" for number in range(60)} <= set(heard.paths))


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_folder_that_is_not_the_same_any_more_is_told(
    watcher: FolderWatcher, folder: LocalPath, how: str
) -> None:
    watcher.start(folder, Heard())
    if how == "removed":
        Path(folder).rmdir()
    else:
        os.rename(folder, f"{folder}.old")
    if how == "replaced":
        os.mkdir(folder)
    assert "moved or replaced" in (watcher.trouble() or "")
    watcher.stop()
    if how == "replaced":
        heard = Heard()
        watcher.start(folder, heard)
        Path(folder, "a").write_bytes(b"")
        wait_until(lambda: f"{folder}/a" in heard.paths)
        assert watcher.trouble() is None


def test_a_change_handler_that_fails_is_told_as_the_end_of_watching(
    watcher: FolderWatcher, folder: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _args: died.set())

    def broken(_path: LocalPath) -> None:
        raise RuntimeError("no")

    watcher.start(folder, broken)
    Path(folder, "a").write_bytes(b"")
    assert died.wait(20)
    wait_until(lambda: "ended by itself" in (watcher.trouble() or ""))


def test_a_handler_may_itself_end_the_watching(watcher: FolderWatcher, folder: LocalPath) -> None:
    ended = threading.Event()

    def end(_path: LocalPath) -> None:
        watcher.stop()
        ended.set()

    watcher.start(folder, end)
    Path(folder, "a").write_bytes(b"")
    assert ended.wait(20)


def test_an_overflow_is_told_for_a_while_and_hints_at_everything(
    watcher: FolderWatcher, folder: LocalPath, clock: FakeClock
) -> None:
    heard = Heard()
    watcher.start(folder, heard)
    logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed")
    assert heard.paths == [folder]
    assert "max_queued_events" in (watcher.trouble() or "")
    clock.advance(OVERFLOW_SHOWN_S)
    assert watcher.trouble() is None


def test_after_the_end_no_log_record_is_heard(watcher: FolderWatcher, folder: LocalPath) -> None:
    heard = Heard()
    watcher.start(folder, heard)
    watcher.stop()
    logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed")
    assert heard.paths == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "max_user_watches"), (errno.EMFILE, "max_user_instances"), (errno.EACCES, "permission")],
)
def test_a_system_that_refuses_is_told_with_a_remedy(
    watcher: FolderWatcher, folder: LocalPath, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def refuse(_observer: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(BaseObserver, "on_thread_start", refuse)
        with pytest.raises(ConvergenceError) as caught:
            watcher.start(folder, Heard())
    assert remedy in caught.value.hint
    heard = Heard()
    watcher.start(folder, heard)
    Path(folder, "a").write_bytes(b"")
    wait_until(lambda: f"{folder}/a" in heard.paths)


@linux
def test_missing_watches_are_counted_and_told_once_they_are_sure(
    watcher: FolderWatcher, folder: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        Path(folder, str(number)).mkdir()
    monkeypatch.setattr(watch, "_watches", lambda _descriptors: 2)
    watcher.start(folder, Heard())
    told = watcher.trouble() or ""
    assert told.startswith("4 folders are not watched")
    assert "fs.inotify.max_user_watches" in told
    monkeypatch.undo()
    assert watcher.trouble() is None


@linux
def test_the_limit_of_watches_is_noticed_on_a_real_kernel(tmp_path: Path) -> None:
    """In a user namespace of its own, where the limit can be lowered for one process."""
    script = """
import os, sys
from convergenced.machine.watch import FolderWatcher
try:
    with open("/proc/sys/user/max_inotify_watches", "w") as limit:
        limit.write("20")
except OSError:
    sys.exit(77)
folder = sys.argv[1]
for number in range(60):
    os.mkdir(f"{folder}/{number}")
watcher = FolderWatcher()
watcher.start(folder, lambda path: None)
print(watcher.trouble())
"""
    try:
        answer = subprocess.run(
            ["unshare", "--user", "--map-root-user", sys.executable, "-c", script, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if answer.returncode == 77 or "unshare" in answer.stderr:
        pytest.skip("no user namespace of our own can be had")
    assert answer.stdout.startswith("41 folders are not watched"), answer


def test_the_number_of_missing_watches_is_told_with_the_limit() -> None:
    assert "the system allows 8192" in watches_missing(3, 8192)
    assert "allows" not in watches_missing(3, None)


@linux
def test_a_real_overflow_is_noticed(folder: LocalPath) -> None:
    """A watching process is stopped while more happens than the kernel's queue holds."""
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if queue > 100_000:
        pytest.skip(f"the queue holds {queue} events")
    script = """
import sys
from convergenced.machine.watch import FolderWatcher
watcher = FolderWatcher()
watcher.start(sys.argv[1], lambda path: path == sys.argv[1] and print(watcher.trouble(), flush=True))
print("ready", flush=True)
sys.stdin.read()
"""
    Path(folder, "a").write_bytes(b"")
    Path(folder, "b").write_bytes(b"")
    with subprocess.Popen(
        [sys.executable, "-c", script, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "ready\n"
        watching.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, watching.pid, os.WSTOPPED | os.WNOWAIT)
        for _ in range(queue // 2 + 10):
            os.utime(f"{folder}/a")  # taking turns: equal events in a row would be merged
            os.utime(f"{folder}/b")
        watching.send_signal(signal.SIGCONT)
        assert "max_queued_events" in watching.stdout.readline()
        watching.kill()
