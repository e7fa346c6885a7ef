"""One name in an open folder: what stands there, and whether that is still what was planned for.

Names are looked at through the open folder, so that a folder which is swapped meanwhile changes nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from convergenced.errors import FileChangedError, RefusedInputError
from convergenced.machine.durable import readable
from convergenced.machine.folders import NOT_THERE
from convergenced.model import LocalPath, Snapshot

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class Target:
    """The name that an act is about, and the open folder it stands in."""

    path: LocalPath
    folder: str
    place: int
    name: str

    def check(self, expect: Snapshot | None) -> None:
        """Raises unless what stands there is `expect`."""
        with readable(self.path):
            found = lstat(self.place, self.name)
        if found is None:
            if expect is not None:
                raise changed(self.path, "it is gone")
        elif not stat.S_ISREG(found.st_mode):
            raise RefusedInputError(
                f"{self.path} is no regular file", "nothing is written over it; move it away"
            )
        elif expect is None:
            raise changed(self.path, "a file has appeared there")
        elif snapshot_of(found) != expect:
            raise changed(self.path, "it was written to")


def open_regular(folder: int, name: str) -> int | None:
    """A descriptor for reading, None where the name is not (or no longer) a regular file."""
    found = lstat(folder, name)
    if found is None or not stat.S_ISREG(found.st_mode):
        return None  # a device must not even be opened
    try:
        descriptor = os.open(name, _READ, dir_fd=folder)
    except OSError as error:
        if error.errno in (*NOT_THERE, errno.ENXIO):
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def lstat(folder: int, name: str) -> os.stat_result | None:
    """What stands under a name itself; None for nothing."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno in NOT_THERE:
            return None
        raise


def snapshot_of(found: os.stat_result) -> Snapshot:
    """What is remembered of a file, to see later whether it is still the same."""
    return Snapshot(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def changed(path: str, how: str) -> FileChangedError:
    """The error for a file that is not what the plan saw."""
    return FileChangedError(f"{path} changed meanwhile: {how}", "nothing was written; it is planned again")
