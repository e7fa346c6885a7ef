"""Owns hints that one of a few files changed, wherever they lie, from inotify.

Promise: a file that is written, replaced, made or removed is told of, also where its folder appears later;
one thread does for all of them; what may make hints go missing is said. A hint itself is never needed for
correctness: who looks at the files now and then finds the same.

Measured: an observer of watchdog takes a thread for each folder that is not watched with all below it, so
its inotify descriptor is used without one.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterable

from convergenced.errors import UsageError
from convergenced.machine.watch import refused, starting, watches_missing
from convergenced.model import LocalPath

if sys.platform == "linux":
    from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyEvent, InotifyFD, Mask

    _MASK = Mask(
        InotifyConstants.IN_CLOSE_WRITE
        | InotifyConstants.IN_CREATE
        | InotifyConstants.IN_DELETE
        | InotifyConstants.IN_MOVE
        | InotifyConstants.IN_MOVE_SELF
        | InotifyConstants.IN_DELETE_SELF
        | InotifyConstants.IN_ONLYDIR
    )

STOP_S = 5.0
"""How long `stop` waits for the thread."""

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_TRIES = 8
"""How often a folder that comes and goes while it is to be watched is looked for."""


class FileHints:
    """Hints about single files. After `stop` it can be started again, with others."""

    def __init__(self) -> None:
        self._watch: _Watch | None = None

    def start(self, paths: Iterable[LocalPath], changed: Callable[[LocalPath], None]) -> None:
        """Watches the files, whether or not they are there; `changed` is called from another thread.

        It gets the path of the file that changed or may have changed. The paths are real
        paths: nothing on the way is a symlink. Raises `ConvergenceError` with a remedy where the system
        refuses.
        """
        if self._watch is not None:
            raise UsageError("these files are watched already", "stop first")
        if sys.platform == "linux":
            watch = _Watch(changed)
            watch.begin(sorted(set(paths)))
            self._watch = watch

    def stop(self) -> None:
        """Ends watching; `changed` is not called afterwards."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.end()

    def trouble(self) -> str | None:
        """Why hints may be missing, in words; None where all is well."""
        if sys.platform != "linux":
            return "this system tells of whole folders only; single files are looked at now and then"
        return self._watch.trouble() if self._watch is not None else None


if sys.platform == "linux":

    class _Watch:
        """Some files while they are watched: by the nearest folder of each that is there."""

        def __init__(self, changed: Callable[[LocalPath], None]) -> None:
            self._changed = changed
            self._lock = threading.RLock()
            self._active = True
            self._folders: dict[str, _Folder] = {}
            self._unwatched: dict[LocalPath, OSError] = {}
            with starting:
                try:
                    self._inotify = InotifyFD()
                except OSError as error:
                    raise refused("a project's CLAUDE.md", error) from error
                self._inotify.start()

        def begin(self, paths: list[LocalPath]) -> None:
            with self._lock:
                self._arrange(paths)

        def end(self) -> None:
            """Nothing is delivered once this returned, not even what was under way."""
            with self._lock:
                self._active = False
            self._inotify.stop()
            if threading.current_thread() is not self._inotify:
                self._inotify.join(STOP_S)

        def trouble(self) -> str | None:
            if not self._inotify.is_alive():
                return "watching single files ended by itself; they are looked at now and then"
            with self._lock:
                unwatched = {os.path.dirname(path): error for path, error in self._unwatched.items()}
            if not unwatched:
                return None
            folder, error = next(iter(unwatched.items()))
            if error.errno == errno.ENOSPC:
                return watches_missing(len(unwatched), None)
            return f"{folder} cannot be watched ({error.strerror}); it is looked at now and then"

        def happened(self, folder: _Folder, event: InotifyEvent) -> None:
            """Something changed in a folder (called by the thread)."""
            with self._lock:
                if not self._active or self._folders.get(folder.path) is not folder:
                    return
                if event.is_move_self:
                    self._lose(folder, is_watched=True)
                    return
                name = os.fsdecode(event.name)
                paths = sorted(folder.names.get(name, ()))
                if event.is_directory:
                    self._arrange(paths)
                for path in paths:
                    self._deliver(path)

        def gone(self, folder: _Folder) -> None:
            """A folder was removed (called by the thread)."""
            with self._lock:
                if self._active and self._folders.get(folder.path) is folder:
                    self._lose(folder, is_watched=False)

        def overflowed(self, folder: _Folder) -> None:
            """Something in a folder was not told (called by the thread)."""
            with self._lock:
                if self._active and self._folders.get(folder.path) is folder:
                    self._look_again(folder)

        def _lose(self, folder: _Folder, *, is_watched: bool) -> None:
            del self._folders[folder.path]
            if is_watched:
                folder.remove()
            self._look_again(folder)

        def _look_again(self, folder: _Folder) -> None:
            paths = sorted({path for paths in folder.names.values() for path in paths})
            self._arrange(paths)
            for path in paths:
                self._deliver(path)

        def _deliver(self, path: LocalPath) -> None:
            if self._active:
                self._changed(path)

        def _arrange(self, paths: Iterable[LocalPath]) -> None:
            for path in paths:
                self._unwatched.pop(path, None)
                try:
                    self._watch_nearest(path)
                except OSError as error:
                    self._unwatched[path] = error

        def _watch_nearest(self, path: LocalPath) -> None:
            """Watches the nearest folder of `path` that is there, and for what leads on to it."""
            for _ in range(_TRIES):
                folder, name = os.path.split(path)
                while folder != os.sep and not os.path.isdir(folder):
                    folder, name = os.path.split(folder)
                if folder not in self._folders:
                    try:
                        self._folders[folder] = _Folder(self, self._inotify, folder)
                    except OSError as error:
                        if error.errno in _NOT_THERE:
                            continue  # gone this moment
                        raise
                self._folders[folder].names.setdefault(name, set()).add(path)
                below = os.path.join(folder, name)
                if below == path or not os.path.isdir(below):
                    return
            raise FileNotFoundError(errno.ENOENT, "its folder comes and goes")

    class _Folder:
        """One folder that is watched; `names` are those in it that lead to files which are of interest."""

        def __init__(self, watch: _Watch, inotify: InotifyFD, path: str) -> None:
            self.path = path
            self.names: dict[str, set[LocalPath]] = {}
            self._watch = watch
            self._inotify = inotify
            self._id = CallbackId(id(self))
            self._descriptor = inotify.add_callback(os.fsencode(path), _MASK, self, self._id)
            if self._descriptor == -1:  # watchdog says nothing of this one
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        def remove(self) -> None:
            """Ends it."""
            self._inotify.remove_callbacks([(self._descriptor, self._id)])

        def on_event(self, event: InotifyEvent) -> None:
            """An event in the folder (called by watchdog)."""
            self._watch.happened(self, event)

        def on_watch_deleted(self, wd: int) -> None:
            """The folder was removed (called by watchdog)."""
            del wd
            self._watch.gone(self)

        def on_queue_overflow(self) -> None:
            """Events were lost (called by watchdog)."""
            self._watch.overflowed(self)
