"""Owns every access to the files of the context folders (`ports.Files`).

Promise: nothing is read or written through a symlink, nothing but a regular file is ever opened for
its content, and a file is replaced whole or not at all, the old one kept as a backup.
The way to a folder is `folders`' business, durability is `durable`'s.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence

from convergenced import steps
from convergenced.errors import ConvergenceError
from convergenced.machine.durable import (
    TEMPORARY_PREFIX,
    explained,
    read_bounded,
    read_up_to,
    readable,
    sync,
    temporary_name,
    write_all,
    write_durably,
)
from convergenced.machine.folders import Folders, sweep_temporaries
from convergenced.machine.growth import gather, grow
from convergenced.machine.targets import Target, changed, lstat, open_regular, snapshot_of
from convergenced.model import Entry, Kind, LocalPath, Snapshot

__all__ = ["RealFiles", "read_bounded", "sweep_temporaries", "write_durably"]

COPY_CHUNK = 1 << 20
"""Bytes copied at a time where a backup cannot be a hard link."""

SHARE = 1 << 28
"""Bytes that the kernel copies in one call, at most."""

PRIVATE = 0o600
"""The permissions of a file where nobody says otherwise."""

MAX_BACKUPS_OF_ONE_NAME = 1000
"""How many free names are tried beside an older backup of the same name."""

_WRITE_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW

_NO_HARD_LINK = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EACCES)
"""What `link` says where another file system, or one without hard links, is behind the name."""

_NO_SHARING = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EPERM)
"""What `copy_file_range` says where the file system or the kernel cannot do it."""


class RealFiles:
    """`ports.Files` on the file system.

    `roots` are folders the user chose (Claude's `projects`, our backups): a symlink in them or above
    is the user's own and is followed. Below a root, and everywhere outside all roots, none is. Where
    roots are given, nothing outside them is written or removed.
    """

    def __init__(self, roots: Sequence[LocalPath] = ()) -> None:
        self._folders = Folders(roots)

    def list(self, folder: LocalPath) -> list[Entry] | None:
        """The names in a folder, sorted; None where there is no such folder.

        Our own temporary files are not shown. Raises `RefusedInputError` where it may not be read.
        """
        with readable(folder):
            descriptor = self._folders.open(folder)
            if descriptor is None:
                return None
            try:
                with os.scandir(descriptor) as found:
                    entries = [entry for item in found if (entry := _entry(item)) is not None]
            finally:
                os.close(descriptor)
        return sorted(entries, key=lambda entry: entry.name)

    def stat(self, path: LocalPath) -> Snapshot | None:
        """What stands there now; None for nothing or for what is not a regular file."""
        with readable(path):
            descriptor = self._folders.open(os.path.dirname(path))
            if descriptor is None:
                return None
            try:
                found = lstat(descriptor, os.path.basename(path))
            finally:
                os.close(descriptor)
        return snapshot_of(found) if found is not None and stat.S_ISREG(found.st_mode) else None

    def read(self, path: LocalPath, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`.

        Raises `FileChangedError` where it is no regular file, `RefusedInputError` where it may not be read.
        """
        with readable(path):
            folder = self._folders.open(os.path.dirname(path))
            if folder is None:
                raise changed(path, "its folder is gone")
            try:
                descriptor = open_regular(folder, os.path.basename(path))
            finally:
                os.close(folder)
            if descriptor is None:
                raise changed(path, "it is no regular file any more")
            try:
                return read_up_to(descriptor, offset, length)
            finally:
                os.close(descriptor)

    def replace(
        self,
        path: LocalPath,
        chunks: Iterator[bytes],
        *,
        expect: Snapshot | None,
        mtime_ns: int,
        backup: LocalPath | None,
        guard: Callable[[], None],
        kept: int = 0,
        mode: int | None = 0o600,
    ) -> Snapshot:
        """Puts a complete new file at `path`, or changes nothing (see `ports.Files`).

        The slow work (writing, copying the backup) comes first; then `guard`, the check against
        `expect`, and at once the rename. Where `expect` is None the new file takes its name only if the
        name is free at that very moment. A file that is kept whole grows in place (`growth`). Raises
        `RefusedInputError` where a symlink, folder or FIFO stands at `path` or on the way to it,
        `ConvergenceError` with a remedy where the disk refuses.
        """
        folder = os.path.dirname(path)
        with self._folders.held(folder, make=True) as place:
            name = os.path.basename(path)
            target = Target(path, folder, place, name)
            target.check(expect)
            if expect is not None and kept and kept == expect.size:
                added, chunks = gather(chunks)
                if added is not None and (grown := self._grow(target, added, expect, mtime_ns, guard)):
                    return grown
            temporary = temporary_name()
            try:
                written = _write_new(target, temporary, chunks, mtime_ns, expect, kept, mode)
                steps.reached("replace.written")
                with self._kept(target, expect, backup):
                    steps.reached("replace.kept")
                    guard()
                    self._check_place(target)
                    target.check(expect)
                    with explained(f"cannot write {path}"):
                        _publish(target, temporary, new=expect is None)
                    steps.reached("replace.published")
            finally:
                with contextlib.suppress(FileNotFoundError):  # gone when it was renamed
                    os.unlink(temporary, dir_fd=place)
            with explained(f"cannot write {path}"):
                sync(place)
        return written

    def remove(
        self, path: LocalPath, *, expect: Snapshot, backup: LocalPath | None, guard: Callable[[], None]
    ) -> None:
        """Takes a file away under the same conditions as `replace`."""
        folder = os.path.dirname(path)
        with self._folders.held(folder, make=False) as place:
            target = Target(path, folder, place, os.path.basename(path))
            target.check(expect)
            with self._kept(target, expect, backup):
                guard()
                self._check_place(target)
                target.check(expect)
                with explained(f"cannot remove {path}"):
                    os.unlink(target.name, dir_fd=place)
            with explained(f"cannot remove {path}"):
                sync(place)

    def _grow(
        self, target: Target, data: bytes, expect: Snapshot, mtime_ns: int, guard: Callable[[], None]
    ) -> Snapshot | None:
        def ready() -> None:
            guard()
            self._check_place(target)

        return grow(target, data, expect, mtime_ns, ready)

    def _check_place(self, target: Target) -> None:
        """The folder still stands where the plan knew it."""
        with readable(target.folder):
            now = self._folders.open(target.folder)
            if now is None:
                raise changed(target.path, "its folder is gone")
            try:
                same = os.path.samestat(os.fstat(now), os.fstat(target.place))
            finally:
                os.close(now)
        if not same:
            raise changed(target.path, "its folder was replaced")

    @contextlib.contextmanager
    def _kept(self, target: Target, expect: Snapshot | None, backup: LocalPath | None) -> Iterator[None]:
        """Has the old file at `backup` before the block; takes it away again where the block fails."""
        if backup is None or expect is None:
            yield
            return
        with self._folders.held(os.path.dirname(backup), make=True) as shelf:
            name = _keep(target, shelf, os.path.basename(backup), backup)
            done = False
            try:
                yield
                done = True
            finally:
                if not done:
                    os.unlink(name, dir_fd=shelf)


def _write_new(
    target: Target,
    name: str,
    chunks: Iterator[bytes],
    mtime_ns: int,
    former: Snapshot | None,
    kept: int,
    mode: int | None,
) -> Snapshot:
    """Writes and syncs the temporary file; the answer is what it will look like under its name."""
    what = f"cannot write {target.path}"
    mode = _mode_of(target) if mode is None else mode
    with explained(what):
        descriptor = os.open(name, _WRITE_NEW, PRIVATE, dir_fd=target.place)
    try:
        if kept:
            _take_beginning(target, descriptor, former, kept)
        for chunk in chunks:
            with explained(what):
                write_all(descriptor, chunk)
        with explained(what):
            os.fchmod(descriptor, mode)
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
            sync(descriptor)
            return snapshot_of(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _mode_of(target: Target) -> int:
    """The permissions of what stands there."""
    with readable(target.path):
        former = lstat(target.place, target.name)
    if former is None:
        raise changed(target.path, "it is gone")
    return former.st_mode & 0o777


def _take_beginning(target: Target, descriptor: int, former: Snapshot | None, length: int) -> None:
    """Copies the first bytes of the file that stands there now, which must be `former`.

    Within the kernel where that can be done: a file system that can share them copies nothing then.
    """
    with readable(target.path):
        source = open_regular(target.place, target.name)
    if source is None:
        raise changed(target.path, "it is no regular file any more")
    try:
        if snapshot_of(os.fstat(source)) != former:
            raise changed(target.path, "it was written to")
        with explained(f"cannot write {target.path}"):
            left = length - _shared(source, descriptor, length)
            os.lseek(source, length - left, os.SEEK_SET)
            while left and (chunk := os.read(source, min(left, COPY_CHUNK))):
                write_all(descriptor, chunk)
                left -= len(chunk)
    finally:
        os.close(source)
    if left:
        raise changed(target.path, "it became shorter")


def _shared(source: int, descriptor: int, length: int) -> int:
    """Has the kernel copy up to `length` bytes; the answer is how many it did, 0 where it cannot."""
    done = 0
    if sys.platform != "linux":
        return done
    try:
        while done < length and (count := os.copy_file_range(source, descriptor, min(SHARE, length - done))):
            done += count
    except OSError as error:
        if error.errno not in _NO_SHARING:
            raise
    return done


def _publish(target: Target, temporary: str, *, new: bool) -> None:
    """Gives the temporary file its name. A new name is taken only if it is free."""
    if new:
        try:
            os.link(
                temporary,
                target.name,
                src_dir_fd=target.place,
                dst_dir_fd=target.place,
                follow_symlinks=False,
            )
        except FileExistsError as error:
            raise changed(target.path, "a file has appeared there") from error
        except OSError as error:
            if error.errno not in _NO_HARD_LINK:
                raise
        else:
            return
    os.rename(temporary, target.name, src_dir_fd=target.place, dst_dir_fd=target.place)


def _keep(target: Target, shelf: int, name: str, backup: LocalPath) -> str:
    """Keeps the file under `name` in the folder `shelf`, durably; the answer is the name it got.

    A hard link where that is possible: should a client have the file open right now, what it appends
    is then in the backup and not lost. An older backup is never written over: `.1`, `.2` … is added.
    """
    with explained(f"cannot keep a backup at {backup}"):
        for number in range(MAX_BACKUPS_OF_ONE_NAME):
            free = f"{name}.{number}" if number else name
            try:
                _link_or_copy(target, shelf, free)
            except FileExistsError:
                continue
            sync(shelf)
            return free
    raise ConvergenceError(
        f"{backup} has {MAX_BACKUPS_OF_ONE_NAME} backups already", "move older backups away"
    )


def _link_or_copy(target: Target, shelf: int, name: str) -> None:
    try:
        os.link(target.name, name, src_dir_fd=target.place, dst_dir_fd=shelf, follow_symlinks=False)
    except FileNotFoundError as error:
        raise changed(target.path, "it is gone") from error
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINK:
            raise
    else:
        return
    source = open_regular(target.place, target.name)
    if source is None:
        raise changed(target.path, "it is no regular file any more")
    try:
        _copy(source, shelf, name)
    finally:
        os.close(source)


def _copy(source: int, shelf: int, name: str) -> None:
    copy = os.open(name, _WRITE_NEW, 0o600, dir_fd=shelf)
    done = False
    try:
        while chunk := os.read(source, COPY_CHUNK):
            write_all(copy, chunk)
        original = os.fstat(source)
        os.utime(copy, ns=(original.st_mtime_ns, original.st_mtime_ns))
        sync(copy)
        done = True
    finally:
        os.close(copy)
        if not done:
            os.unlink(name, dir_fd=shelf)


def _entry(item: os.DirEntry[str]) -> Entry | None:
    if item.name.startswith(TEMPORARY_PREFIX):
        return None
    try:
        found = item.stat(follow_symlinks=False)
    except FileNotFoundError:  # gone since the folder was read
        return None
    if stat.S_ISREG(found.st_mode):
        return Entry(item.name, Kind.FILE, snapshot_of(found))
    if stat.S_ISDIR(found.st_mode):
        return Entry(item.name, Kind.FOLDER, None)
    return Entry(item.name, Kind.LINK if stat.S_ISLNK(found.st_mode) else Kind.OTHER, None)
