"""Owns the way to a folder: from a trusted root down, one descriptor per step.

Promise: below a root no symlink is ever followed, and a folder that is swapped for a symlink while it
is in use cannot lead a read or write anywhere else.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Iterator, Sequence

from convergenced.errors import ConvergenceError, FileChangedError, RefusedInputError
from convergenced.machine.durable import TEMPORARY_PREFIX, explained, make_private_folders, sync
from convergenced.model import LocalPath

NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK, errno.ENAMETOOLONG)
"""What an open says where the path leads through nothing, a file or a symlink."""

MAX_SWEEP_DEPTH = 16
"""How deep `sweep_temporaries` descends; a context folder is 3 deep, memory a little more."""

MAX_NAMED = 3
"""Roots that a refusal names, at most."""

_ROOT = os.O_RDONLY | os.O_DIRECTORY
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Folders:
    """Opens folders below trusted `roots`.

    A symlink in a root or above it is the user's own choice and is followed. Below a root, and
    everywhere outside all roots, none is. Where there are roots, only folders below them are `held`.
    """

    def __init__(self, roots: Sequence[LocalPath]) -> None:
        self._roots = {os.path.normpath(root) for root in roots}

    def _split(self, folder: str) -> tuple[str, list[str]]:
        """The trusted part of `folder`, and the names below it that must not be symlinks."""
        root, names = os.path.normpath(folder), list[str]()
        while root not in self._roots:
            root, _, name = root.rpartition(os.sep)
            if not root:
                return os.sep, [name, *reversed(names)] if name else []
            names.append(name)
        return root, names[::-1]

    def open(self, folder: str) -> int | None:
        """A descriptor of `folder` to be closed; None where there is none or a symlink is on the way.

        Raises `OSError` where it may not be read.
        """
        root, names = self._split(folder)
        try:
            descriptor = os.open(root, _ROOT)
        except OSError as error:
            if error.errno in NOT_THERE:
                return None
            raise
        for name in names:
            try:
                below = os.open(name, _FOLDER, dir_fd=descriptor)
            except OSError as error:
                if error.errno in NOT_THERE:
                    return None
                raise
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    @contextlib.contextmanager
    def held(self, folder: str, *, make: bool) -> Iterator[int]:
        """A descriptor of `folder` for the length of the block.

        With `make`, missing folders are made; where the block fails, the ones made are taken away again.
        """
        made: list[tuple[int, str]] = []
        descriptor = -1
        try:
            with explained(f"cannot open {folder}"):
                descriptor = self._open_or_make(folder, make, made)
            yield descriptor
            made_here, made = made, []
            for parent, _ in made_here:
                os.close(parent)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
            for parent, name in reversed(made):
                with contextlib.suppress(OSError):  # somebody else put something in it meanwhile
                    os.rmdir(name, dir_fd=parent)
                os.close(parent)

    def _open_or_make(self, folder: str, make: bool, made: list[tuple[int, str]]) -> int:
        root, names = self._split(folder)
        if self._roots and root not in self._roots:
            named = sorted(self._roots, key=len)[:MAX_NAMED]
            raise RefusedInputError(f"{folder} is outside {' and '.join(named)}", "it is not written to")
        if make and not os.path.isdir(root):
            make_private_folders(root)
        descriptor = os.open(root, _ROOT)
        for name in names:
            try:
                below = self._step(descriptor, name, make, made)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EMLINK):
                    raise RefusedInputError(
                        f"{name!r} on the way to {folder} is no folder",
                        "nothing is written through a symbolic link; move it away",
                    ) from error
                if error.errno == errno.ENOENT:
                    raise FileChangedError(
                        f"{folder} is gone", "nothing was written; it is planned again"
                    ) from error
                raise
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    @staticmethod
    def _step(parent: int, name: str, make: bool, made: list[tuple[int, str]]) -> int:
        try:
            return os.open(name, _FOLDER, dir_fd=parent)
        except FileNotFoundError:
            if not make:
                raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
            made.append((os.dup(parent), name))
            sync(parent)
        return os.open(name, _FOLDER, dir_fd=parent)


def sweep_temporaries(folder: LocalPath, *, depth: int | None = None, before: float = math.inf) -> int:
    """Removes the temporary files that a crash left below `folder`; the answer is their number.

    To be called only while nothing is being replaced there, or with `before`, Unix seconds: what is newer
    stays then. Follows no symlink below `folder`, and goes down `depth` folders.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in NOT_THERE:
            return 0
        raise ConvergenceError(f"cannot tidy {folder}: {error.strerror}") from error
    try:
        with explained(f"cannot tidy {folder}"):
            return _sweep(descriptor, MAX_SWEEP_DEPTH if depth is None else depth, before)
    finally:
        os.close(descriptor)


def _sweep(folder: int, depth: int, before: float) -> int:
    swept = 0
    with os.scandir(folder) as found:
        names = [(item.name, item.is_dir(follow_symlinks=False)) for item in found]
    for name, is_folder in names:
        if is_folder and depth > 0:
            try:
                below = os.open(name, _FOLDER, dir_fd=folder)
            except OSError as error:
                if error.errno in (*NOT_THERE, errno.EACCES):
                    continue
                raise
            try:
                swept += _sweep(below, depth - 1, before)
            finally:
                os.close(below)
        elif not is_folder and name.startswith(TEMPORARY_PREFIX):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime < before:
                    os.unlink(name, dir_fd=folder)
                    swept += 1
    return swept
