"""The words of the project as types: ids, paths of the two worlds, and plain values.

Everything here is immutable and knows no clock, file or process. A `LocalPath` is a path on this
machine; a `CanonicalPath` is a path inside a project's tree in the store. They are different types
so that mixing them up is a type error.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NewType

MachineId = NewType("MachineId", str)
ProjectId = NewType("ProjectId", str)
SessionId = NewType("SessionId", str)
"""A lower-case UUID in its 36 character form: the stem of `<sid>.jsonl`."""

Oid = NewType("Oid", str)
"""A git object id: 40 lower-case hex digits."""

LocalPath = NewType("LocalPath", str)
"""An absolute path on this machine. Undecodable bytes ride along as surrogate escapes."""

CanonicalPath = NewType("CanonicalPath", str)
"""A `/`-separated path relative to the root of a project's tree, such as `context/memory/a.md`."""

Os = Literal["linux", "darwin", "windows"]

SCHEMA = 1
"""Schema number in everything this version writes. A higher one met elsewhere is left alone."""

EMPTY_TREE = Oid("4b825dc642cb6eb9a060e54bf8d69288fbee4904")


class Content(enum.Enum):
    """How the bytes of a file are spelled, which decides how anchors are found in it."""

    JSON = "json"
    """Records or one JSON value: anchors are found through JSON escapes."""
    TEXT = "text"
    """Plain text (memory, tool results): anchors are found as they stand."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """The machine-local path prefixes of one participant, as they stand in its transcripts.

    `home` is None where the project's policy says `rewrite_home = false`.
    """

    os: Os
    project_root: str
    context_dir: str
    encoded_dir: str
    home: str | None


@dataclass(frozen=True, slots=True, order=True)
class TreeEntry:
    """One entry of a git tree. `mode` is git's: 0o100644 a file, 0o040000 a folder."""

    name: str
    mode: int
    oid: Oid

    @property
    def is_tree(self) -> bool:
        """Whether the entry is a folder."""
        return self.mode == MODE_TREE


MODE_BLOB = 0o100644
MODE_TREE = 0o040000


@dataclass(frozen=True, slots=True)
class Author:
    """Who a commit names. `email` need not be an address that receives mail."""

    name: str
    email: str


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit without its id. `time` is whole Unix seconds, always written as UTC (+0000)."""

    tree: Oid
    parents: tuple[Oid, ...]
    author: Author
    time: int
    message: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What `stat` says of a regular file at one moment. Equal snapshots mean: not touched since."""

    device: int
    inode: int
    size: int
    mtime_ns: int


class Kind(enum.Enum):
    """What stands under a name in a local folder."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"
    """A FIFO, socket or device: never opened."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a local folder. `snapshot` is None where `kind` is not FILE."""

    name: str
    kind: Kind
    snapshot: Snapshot | None


@dataclass(frozen=True, slots=True)
class ClaudeProcess:
    """A running Claude Code of this user.

    `cwd` is None where it cannot be known: such a process counts as running everywhere.
    `session` is known where the client's own `sessions/<pid>.json` names it.
    """

    pid: int
    cwd: LocalPath | None
    session: SessionId | None = None


@dataclass(frozen=True, slots=True)
class Checkout:
    """The code a project folder belongs to, as its git repository tells it.

    `git_url` is normalized (no user, no password, no scheme, no `.git`), None without a remote.
    `first_commit` is the id of a root commit, None in an empty repository.
    `main_root` is the root of the main worktree; it differs from `root` in a linked worktree.
    """

    root: LocalPath
    main_root: LocalPath
    git_url: str | None
    first_commit: str | None

    @property
    def is_worktree(self) -> bool:
        """Whether this is a linked worktree of a repository that lives elsewhere."""
        return self.root != self.main_root


@dataclass(frozen=True, slots=True)
class Refusal:
    """Input that was set aside alone: what, where, and what a person can do about it."""

    where: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check of `doctor` found, in words, and what to do about it.

    `repair` mends it without losing anything and says what it did; None where there is nothing to mend
    or a person has to. Findings that one act mends together share it.
    """

    check: str
    state: Literal["ok", "warning", "problem"]
    text: str
    project: ProjectId | None = None
    fix: str = ""
    repair: Callable[[], str] | None = field(default=None, compare=False, repr=False)
