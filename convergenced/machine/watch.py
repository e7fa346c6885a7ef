"""Owns hints that something changed below a folder (`ports.Watcher`), from watchdog.

Promise: what may make hints go missing (the limit of watches, an overflow, a folder that was replaced)
is noticed and said. A hint itself is never needed for correctness: the periodic scan is the guarantee.

Measured (DESIGN.md): watchdog's default set of events livelocks on 5,000 folders, since listing a folder
is an event too; past the watch limit and on overflow it says nothing, so the watches are counted here.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirModifiedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.utils import BaseThread

from convergenced.errors import ConvergenceError, UsageError
from convergenced.machine.clock import SystemClock
from convergenced.model import LocalPath
from convergenced.ports import Clock

STOP_S = 5.0
"""How long `stop` waits for watchdog's threads."""

OVERFLOW_SHOWN_S = 600.0
"""How long an overflow is reported. The hint for the whole folder that follows it repairs it."""

MAX_FOLDERS = 1_000_000
"""Folders counted at the most when looking for missing watches."""

_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]
if sys.platform == "darwin":
    _EVENTS.append(DirModifiedEvent)  # all that FSEvents says of a folder it lost track of

_LIMITS = "/proc/sys/fs/inotify"
starting = threading.Lock()
"""Held while a watcher finds out which inotify descriptors and threads are its own."""


class FolderWatcher:
    """`ports.Watcher` on inotify or FSEvents. Watches one folder; after `stop` it can be started again."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._watch: _Watch | None = None

    def start(self, folder: LocalPath, changed: Callable[[LocalPath], None]) -> None:
        """Watches `folder` and all below; `changed` is called from another thread.

        It gets the path of the file or folder that changed, for a move both, and after an overflow
        `folder` itself. Raises `UsageError` where there is no such folder (try again later) and
        `ConvergenceError` with a remedy where the system refuses.
        """
        if self._watch is not None:
            raise UsageError(f"already watching {self._watch.folder}", "stop first")
        if not os.path.isdir(folder):
            raise UsageError(f"{folder} cannot be watched: there is no such folder", "it is tried again")
        watch = _Watch(folder, changed, self._clock)
        watch.begin()
        self._watch = watch

    def stop(self) -> None:
        """Ends watching; `changed` is not called afterwards."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.end()

    def trouble(self) -> str | None:
        """Why hints may be missing, in words with the remedy; None where all is well."""
        return self._watch.trouble() if self._watch is not None else None


class _Watch(FileSystemEventHandler, logging.Handler):
    """One folder while it is watched."""

    def __init__(self, folder: LocalPath, changed: Callable[[LocalPath], None], clock: Clock) -> None:
        logging.Handler.__init__(self, logging.WARNING)
        self.folder = folder
        self._real = os.path.realpath(folder)  # watchdog would watch a symlink itself
        self._changed = changed
        self._clock = clock
        self._identity = os.stat(self._real)
        self._delivery = threading.RLock()
        self._active = True
        self._observer: BaseObserver | None = None
        self._descriptors: set[int] = set()
        self._threads: set[BaseThread] = set()
        self._overflow: float | None = None
        self._count_again = True
        self._missing_before = 0

    def begin(self) -> None:
        """Starts watchdog. Raises `ConvergenceError`."""
        with starting:
            before, threads = _inotify_descriptors(), _watchdog_threads()
            # A folder that is made while its parent's watch is added is found twice, which watchdog warns
            # of; where warnings are errors that would end its thread.
            warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
            try:
                self._observer = Observer()
                self._observer.schedule(self, self._real, recursive=True, event_filter=_EVENTS)
                self._observer.start()
            except OSError as error:
                if self._observer is not None:
                    self._observer.stop()
                raise refused(self.folder, error) from error
            self._descriptors = _inotify_descriptors() - before
            self._threads = _watchdog_threads() - threads
        # The only word about an overflow: watchdog logs it and goes on.
        logging.getLogger("watchdog").addHandler(self)
        self._count()

    def end(self) -> None:
        """Nothing is delivered once this returned, not even what was under way."""
        with self._delivery:
            self._active = False
        logging.getLogger("watchdog").removeHandler(self)
        if self._observer is not None:
            self._observer.stop()
            if threading.current_thread() is not self._observer:
                self._observer.join(STOP_S)

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Passes the event on (called by watchdog)."""
        if event.is_directory:
            self._count_again = True
        for raw in (event.src_path, event.dest_path):
            if raw:
                self._deliver(self._as_given(os.fsdecode(raw)))

    def emit(self, record: logging.LogRecord) -> None:
        """Hears what watchdog logs (called by `logging`)."""
        if "overflow" in record.getMessage().lower():
            self._overflow = self._clock.monotonic()
            self._count_again = True
            self._deliver(self.folder)

    def _deliver(self, path: LocalPath) -> None:
        with self._delivery:
            if self._active:
                self._changed(path)

    def _as_given(self, path: str) -> LocalPath:
        """The path below the folder as it was named to us, which may be a symlink."""
        if path == self._real or path.startswith(self._real + os.sep):
            return LocalPath(self.folder + path[len(self._real) :])
        return LocalPath(path)

    def trouble(self) -> str | None:
        """See `FolderWatcher.trouble`."""
        try:
            same = os.path.samestat(os.stat(self._real), self._identity)
        except OSError:
            same = False
        if not same:
            return f"{self.folder} was moved or replaced and is not watched; it is found by the rescan"
        if not all(thread.is_alive() for thread in self._threads):
            return f"watching {self.folder} ended by itself; changes are found by the rescan"
        if self._overflow is not None and self._clock.monotonic() - self._overflow < OVERFLOW_SHOWN_S:
            return (
                "so much changed at once that notices of changes were lost; everything is scanned again. "
                "If this repeats: sudo sysctl fs.inotify.max_queued_events=131072"
            )
        return self._missing_watches()

    def _missing_watches(self) -> str | None:
        missing = 0
        if self._count_again:
            before = self._missing_before
            # A folder made this moment has no watch yet: only what is missing twice counts.
            missing = min(before, self._count())
        return watches_missing(missing, _limit("max_user_watches")) if missing else None

    def _count(self) -> int:
        """How many folders have no watch. Looks again as long as some have none."""
        if not self._descriptors:  # not inotify
            self._count_again = False
            return 0
        self._count_again = False
        folders = sum(1 for _ in _folders(self._real))
        missing = max(0, folders - _watches(self._descriptors))
        self._count_again = self._count_again or missing > 0
        self._missing_before = missing
        return missing


def watches_missing(missing: int, limit: int | None) -> str:
    """What is said where `missing` folders could not be watched."""
    used_up = f" (the system allows {limit})" if limit is not None else ""
    return (
        f"{missing} folders are not watched, changes there are found by the rescan: the limit of watches is "
        f"used up{used_up}. Raise it: sudo sysctl fs.inotify.max_user_watches=524288"
    )


def count_watches(folder: LocalPath) -> tuple[int, int | None]:
    """How many watches `folder` takes, and how many the system allows this user; None: no such limit."""
    return sum(1 for _ in _folders(os.path.realpath(folder))), _limit("max_user_watches")


def refused(folder: str, error: OSError) -> ConvergenceError:
    """The error where the system does not let `folder` be watched."""
    remedy = {
        errno.ENOSPC: "raise the limit of watches: sudo sysctl fs.inotify.max_user_watches=524288",
        errno.EMFILE: "raise the limit of watchers: sudo sysctl fs.inotify.max_user_instances=512",
        errno.EACCES: "give your user permission to read it",
    }
    return ConvergenceError(
        f"{folder} cannot be watched: {error.strerror or error}", remedy.get(error.errno or 0, "")
    )


def _folders(root: str) -> Iterator[str]:
    """`root` and the folders below it, following no symlink."""
    waiting, seen = [root], 0
    while waiting and seen < MAX_FOLDERS:
        folder = waiting.pop()
        seen += 1
        yield folder
        try:
            with os.scandir(folder) as found:
                waiting.extend(item.path for item in found if item.is_dir(follow_symlinks=False))
        except OSError:
            continue  # gone meanwhile, or unreadable: then watchdog has no watch below it either


def _watchdog_threads() -> set[BaseThread]:
    return {thread for thread in threading.enumerate() if isinstance(thread, BaseThread)}


def _inotify_descriptors() -> set[int]:
    found: set[int] = set()
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for name in names:
        try:
            if "inotify" in os.readlink(f"/proc/self/fd/{name}"):
                found.add(int(name))
        except OSError:
            continue  # the descriptor of the listing itself
    return found


def _watches(descriptors: set[int]) -> int:
    """How many watches the kernel holds behind the descriptors: one line each (proc(5), fdinfo)."""
    total = 0
    for descriptor in descriptors:
        try:
            with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
                total += sum(1 for line in file if line.startswith(b"inotify "))
        except OSError:
            continue
    return total


def _limit(name: str) -> int | None:
    try:
        with open(f"{_LIMITS}/{name}", "rb") as file:
            return int(file.read(64))
    except (OSError, ValueError):
        return None
