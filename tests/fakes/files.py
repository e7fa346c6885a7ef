"""Files in memory, with the semantics of `RealFiles` and hooks for what happens at a bad moment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from convergenced import steps
from convergenced.errors import FileChangedError, RefusedInputError
from convergenced.machine.growth import MOST
from convergenced.model import Entry, Kind, LocalPath, Snapshot
from convergenced.ports import Clock

DEVICE = 1


@dataclass(eq=False)
class _File:
    data: bytearray
    mtime_ns: int
    inode: int

    def snapshot(self) -> Snapshot:
        return Snapshot(DEVICE, self.inode, len(self.data), self.mtime_ns)


@dataclass(eq=False)
class _Folder:
    names: dict[str, _Node] = field(default_factory=dict)


@dataclass(eq=False)
class _Link:
    target: str


@dataclass(eq=False)
class _Fifo:
    pass


Made = list[str]
Copy = dict[LocalPath, tuple[bytes, int]]
"""Files by path: their bytes and times."""
_Node = _File | _Folder | _Link | _Fifo
_KINDS = {_File: Kind.FILE, _Folder: Kind.FOLDER, _Link: Kind.LINK, _Fifo: Kind.OTHER}


class MemoryFiles:
    """`ports.Files` in memory. The methods after `remove` are what a client or a user would do.

    `before` is called first in every method of the port with its name and path, and may raise.
    `between` is called after the guard, right before the last check and the rename.
    `observers` hear of every change, for a watcher.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock
        self._root = _Folder()
        self._ticks = 0
        self.before: Callable[[str, LocalPath], None] = lambda _verb, _path: None
        self.between: Callable[[LocalPath], None] = lambda _path: None
        self.observers: list[Callable[[LocalPath], None]] = []

    def use_clock(self, clock: Clock) -> None:
        """What is written from now on has the time of `clock`."""
        self._clock = clock

    # ------------------------------------------------------------------ ports.Files

    def list(self, folder: LocalPath) -> list[Entry] | None:
        """The names in a folder, sorted; None where there is no such folder."""
        self.before("list", folder)
        node = self._node(folder)
        if not isinstance(node, _Folder):
            return None
        return [
            Entry(name, _KINDS[type(below)], below.snapshot() if isinstance(below, _File) else None)
            for name, below in sorted(node.names.items())
        ]

    def stat(self, path: LocalPath) -> Snapshot | None:
        """What stands there now; None for nothing or for what is not a regular file."""
        self.before("stat", path)
        node = self._node(path)
        return node.snapshot() if isinstance(node, _File) else None

    def read(self, path: LocalPath, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`."""
        self.before("read", path)
        node = self._node(path)
        if not isinstance(node, _File):
            raise FileChangedError(f"{path} is no regular file any more")
        return bytes(node.data[offset : offset + length])

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
        """Puts a complete new file at `path`, or changes nothing."""
        del mode  # permissions are nobody's business here
        self.before("replace", path)
        with self._undone_on_failure() as made:
            made.extend(self._make_folders(os.path.dirname(path)))
            self._check(path, expect)
            node = self._node(path)
            former = node.data if isinstance(node, _File) else b""
            if len(former) < kept:
                raise FileChangedError(f"{path} is shorter than what was to be kept")
            added = b"".join(chunks)
            if isinstance(node, _File) and kept and kept == len(former) and len(added) <= MOST:
                return self._grow(path, node, added, expect, mtime_ns, guard)
            fresh = _File(bytearray(former[:kept]) + added, mtime_ns, self._tick())
            steps.reached("replace.written")
            self._settle(path, expect, backup, guard, made)
        written = fresh.snapshot()
        self._parent(path).names[os.path.basename(path)] = fresh
        steps.reached("replace.published")
        self._tell(path)
        return written

    def remove(
        self, path: LocalPath, *, expect: Snapshot, backup: LocalPath | None, guard: Callable[[], None]
    ) -> None:
        """Takes a file away under the same conditions as `replace`."""
        self.before("remove", path)
        with self._undone_on_failure() as made:
            self._check(path, expect)
            self._settle(path, expect, backup, guard, made)
        self._take(path)
        self._tell(path)

    # ------------------------------------------------------------------ the world

    def write(self, path: str, data: bytes, mtime_ns: int | None = None) -> None:
        """Writes a file in place, as an editor would; missing folders are made."""
        self._make_folders(os.path.dirname(path))
        node = self._node(path)
        moment = self._moment() if mtime_ns is None else mtime_ns
        if isinstance(node, _File):
            node.data[:], node.mtime_ns = data, moment
        else:
            self._put(path, _File(bytearray(data), moment, self._tick()))
        self._tell(path)

    def append(self, path: str, data: bytes) -> None:
        """Appends as the client does; a new file where there is none."""
        node = self._node(path)
        if isinstance(node, _File):
            node.data += data
            node.mtime_ns = self._moment()
            self._tell(path)
        else:
            self.write(path, data)

    def unlink(self, path: str) -> None:
        """Removes whatever stands there, a folder with all that is in it."""
        self._take(path)
        self._tell(path)

    def move(self, old: str, new: str) -> None:
        """Renames a file or folder; what stood at `new` is gone."""
        node = self._take(old)
        self._make_folders(os.path.dirname(new))
        self._put(new, node)
        self._tell(old)
        self._tell(new)

    def make_folder(self, path: str) -> None:
        """Makes a folder and its parents."""
        for made in self._make_folders(path):
            self._tell(made)

    def link(self, path: str, target: str) -> None:
        """Makes a symlink. Nothing follows it."""
        self._make_folders(os.path.dirname(path))
        self._put(path, _Link(target))
        self._tell(path)

    def fifo(self, path: str) -> None:
        """Makes a FIFO."""
        self._make_folders(os.path.dirname(path))
        self._put(path, _Fifo())
        self._tell(path)

    def content(self, path: str) -> bytes:
        """All bytes of a file."""
        node = self._node(path)
        if not isinstance(node, _File):
            raise FileNotFoundError(path)
        return bytes(node.data)

    def paths(self, folder: str = "/") -> tuple[LocalPath, ...]:
        """Every regular file below `folder`, sorted."""
        found: set[LocalPath] = set()
        waiting: list[tuple[str, _Node | None]] = [(folder.rstrip("/"), self._node(folder))]
        while waiting:
            path, node = waiting.pop()
            if isinstance(node, _File):
                found.add(LocalPath(path))
            elif isinstance(node, _Folder):
                waiting += [(f"{path}/{name}", below) for name, below in node.names.items()]
        return tuple(sorted(found))

    def copy_below(self, folder: str) -> Copy:
        """All regular files below `folder` as a backup keeps them, with their times."""
        return {path: (self.content(path), self._file(path).mtime_ns) for path in self.paths(folder)}

    def put_back(self, folder: str, copy: Copy) -> None:
        """What a backup kept replaces all that stands below `folder`."""
        if self._node(folder) is not None:
            self._take(folder)
        self._make_folders(folder)
        for path, (data, mtime_ns) in copy.items():
            self.write(path, data, mtime_ns)
        self._tell(folder)

    # ------------------------------------------------------------------ inside

    def _grow(
        self,
        path: LocalPath,
        node: _File,
        added: bytes,
        expect: Snapshot | None,
        mtime_ns: int,
        guard: Callable[[], None],
    ) -> Snapshot:
        guard()
        self.between(path)
        self._check(path, expect)
        try:
            steps.reached("grow.checked")
        except BaseException:  # a process that dies here may die in the middle of its write
            self.append(path, added[: len(added) // 2])
            raise
        node.data += added
        steps.reached("grow.written")
        node.mtime_ns = mtime_ns
        self._tell(path)
        if expect is None or len(node.data) != expect.size + len(added):
            raise FileChangedError(f"{path} was written to at the same time")
        return node.snapshot()

    def _file(self, path: str) -> _File:
        node = self._node(path)
        assert isinstance(node, _File), path
        return node

    def _tick(self) -> int:
        self._ticks += 1
        return self._ticks

    def _moment(self) -> int:
        """Nanoseconds that differ each time, as those of a fine-grained file system do."""
        seconds = self._clock.now() if self._clock is not None else 1_767_225_600.0
        return int(seconds * 1_000_000) * 1000 + self._tick()

    def _node(self, path: str) -> _Node | None:
        node: _Node | None = self._root
        for name in _names(path):
            if not isinstance(node, _Folder):
                return None
            node = node.names.get(name)
        return node

    def _parent(self, path: str) -> _Folder:
        node = self._node(os.path.dirname(path))
        if not isinstance(node, _Folder):
            raise FileChangedError(f"the folder of {path} is gone")
        return node

    def _put(self, path: str, node: _Node) -> None:
        self._parent(path).names[os.path.basename(path)] = node

    def _take(self, path: str) -> _Node:
        return self._parent(path).names.pop(os.path.basename(path))

    def _make_folders(self, folder: str) -> tuple[str, ...]:
        made: tuple[str, ...] = ()
        node, path = self._root, ""
        for name in _names(folder):
            path = f"{path}/{name}"
            below = node.names.get(name)
            if below is None:
                below = node.names[name] = _Folder()
                made += (path,)
            if not isinstance(below, _Folder):
                raise RefusedInputError(f"{path} is no folder")
            node = below
        return made

    def _check(self, path: LocalPath, expect: Snapshot | None) -> None:
        node = self._parent(path).names.get(os.path.basename(path))
        if node is None:
            if expect is not None:
                raise FileChangedError(f"{path} is gone")
        elif not isinstance(node, _File):
            raise RefusedInputError(f"{path} is no regular file")
        elif node.snapshot() != expect:
            raise FileChangedError(f"{path} was written to")

    def _settle(
        self,
        path: LocalPath,
        expect: Snapshot | None,
        backup: LocalPath | None,
        guard: Callable[[], None],
        made: Made,
    ) -> None:
        """Keeps the backup, a second name for the file as a hard link is, and checks all again."""
        node = self._node(path)
        if backup is not None and isinstance(node, _File):
            made.extend(self._make_folders(os.path.dirname(backup)))
            free, number = str(backup), 0
            while self._node(free) is not None:
                number += 1
                free = f"{backup}.{number}"
            self._put(free, node)
            made.append(free)
        steps.reached("replace.kept")
        guard()
        self.between(path)
        self._check(path, expect)

    @contextlib.contextmanager
    def _undone_on_failure(self) -> Iterator[Made]:
        """Takes away again what was made, unless somebody else put something into it meanwhile."""
        made: Made = []
        try:
            yield made
        except BaseException:
            for path in reversed(made):
                node = self._node(path)
                if node is not None and not (isinstance(node, _Folder) and node.names):
                    self._take(path)
            raise

    def _tell(self, path: str) -> None:
        for observer in list(self.observers):
            observer(LocalPath(path))


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]
