"""The seams: every effect the engine has on the world comes in through one of these.

Each Protocol has one real implementation, one fake in `tests/fakes`, and one contract test that
runs on both, so that the simulator can be trusted. Five methods at the most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from convergenced.model import Checkout, ClaudeProcess, Commit, Entry, LocalPath, Oid, Snapshot, TreeEntry


class Clock(Protocol):
    """Time as a thing that is passed in."""

    def now(self) -> float:
        """Wall clock, Unix seconds. May jump; never compared with another machine's."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow, for delays. A large step against `now` is a wake-up."""
        ...


class Objects(Protocol):
    """Content-addressed blobs and trees, named as git names them."""

    def read_blob(self, oid: Oid) -> bytes:
        """The blob's bytes. Raises `MissingObjectError`."""
        ...

    def write_blob(self, data: bytes) -> Oid:
        """Keeps the bytes; durable before the next `History.swap` returns."""
        ...

    def read_tree(self, oid: Oid) -> tuple[TreeEntry, ...]:
        """The entries in git's order. Names are the raw bytes, undecodable ones surrogate-escaped."""
        ...

    def write_tree(self, entries: Iterable[TreeEntry]) -> Oid:
        """Keeps a tree; the order of `entries` does not matter."""
        ...

    def blob_size(self, oid: Oid) -> int:
        """Bytes in the blob, without reading them all."""
        ...


class History(Protocol):
    """Commits and refs. A ref moves only by compare-and-swap."""

    def write_commit(self, commit: Commit) -> Oid:
        """Keeps a commit. Equal commits have equal ids."""
        ...

    def read_commit(self, oid: Oid) -> Commit:
        """The commit of that id. Raises `MissingObjectError`."""
        ...

    def refs(self, prefix: str) -> dict[str, Oid]:
        """All refs below a `prefix` such as `refs/heads/project/`; one without `/` at its end names a ref."""
        ...

    def swap(self, ref: str, old: Oid | None, new: Oid | None) -> None:
        """Moves `ref` from `old` to `new`; None means absent. Raises `RefMovedError`."""
        ...

    def merge_base(self, one: Oid, other: Oid) -> Oid | None:
        """The best common ancestor, None for unrelated histories."""
        ...


class Store(Objects, History, Protocol):
    """The store as the engine sees it: objects and history of one repository."""


class Peer(Protocol):
    """One git remote. Calls block, for seconds at worst, and raise `PeerError` only.

    `ref` names are full (`refs/heads/project/x`).
    """

    def list(self) -> dict[str, Oid]:
        """All branches of the peer and their tips: one round trip."""
        ...

    def fetch(self, wanted: Mapping[str, str]) -> None:
        """Brings remote refs (keys) into the store as tracking refs (values), which may be rewound.

        Raises `BranchesRefusedError` where single branches could not be had; the others arrived.
        """
        ...

    def push(self, refs: Sequence[str]) -> dict[str, str | None]:
        """Offers local refs under the same name, never forced.

        The answer holds for each ref None (the peer took it) or the peer's reason.
        """
        ...

    def close(self) -> None:
        """Breaks off what runs, for good, at once: later calls raise `PeerUnreachableError`."""
        ...


class Files(Protocol):
    """The files of the context folders. Follows no symlink and opens nothing but regular files."""

    def list(self, folder: LocalPath) -> list[Entry] | None:
        """The names in a folder, sorted; None where there is no such folder."""
        ...

    def stat(self, path: LocalPath) -> Snapshot | None:
        """What stands there now; None for nothing or for what is not a regular file."""
        ...

    def read(self, path: LocalPath, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`. Raises `FileChangedError` where it is no regular file."""
        ...

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
        """Puts a complete new file at `path`, or changes nothing.

        It has the first `kept` bytes of `expect`, then `chunks`. Where that is all of `expect`, not nothing,
        and not much follows, the file may grow in place, without a backup. Else writes beside it, syncs,
        calls `guard` (which raises `HeldError` to stop), checks that what stands there still is `expect`
        (raises `FileChangedError`), keeps the old file at `backup`, renames, syncs the folder. Missing
        folders are made, 0700. The file's permissions are `mode`; None: those of the old file, which there
        must be.
        """
        ...

    def remove(
        self, path: LocalPath, *, expect: Snapshot, backup: LocalPath | None, guard: Callable[[], None]
    ) -> None:
        """Takes a file away under the same conditions as `replace`."""
        ...


class Processes(Protocol):
    """Which Claude Code runs on this machine."""

    def claude(self) -> list[ClaudeProcess]:
        """Every running Claude Code of this user; what cannot be told apart counts as one."""
        ...


class Checkouts(Protocol):
    """Which code lies in a folder."""

    def inspect(self, path: LocalPath) -> Checkout | None:
        """The checkout that `path` lies in; None where there is none."""
        ...

    def find(self, roots: Sequence[LocalPath]) -> Iterator[Checkout]:
        """Checkouts below `roots`, bounded in depth and number."""
        ...


class Watcher(Protocol):
    """Hints that something changed below a folder. A lost hint only costs time."""

    def start(self, folder: LocalPath, changed: Callable[[LocalPath], None]) -> None:
        """Watches `folder` and all below; `changed` is called from another thread."""
        ...

    def stop(self) -> None:
        """Ends watching; `changed` is not called afterwards."""
        ...

    def trouble(self) -> str | None:
        """Why hints may be missing (watch limit, overflow), in words; None where all is well."""
        ...
