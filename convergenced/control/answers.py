"""The shapes of what the daemon answers, as they stand in JSON.

`Status` is schema 1 of the command contract: keys may be added, never changed without a new
`schema`. Times are ISO 8601 in UTC (`2031-05-04T12:30:00Z`) or None. The keys that a class takes
with `total=False` may be missing: an older daemon does not send them.
"""

from __future__ import annotations

from typing import Literal, TypedDict

DaemonState = Literal["running", "paused", "degraded", "halted"]
PeerState = Literal["ok", "failing", "untried"]
WaitsFor = Literal["person", "look", "exchange", "claude", "peer"]
"""What has to happen until a project is in step: a person's word, a look at its folder, an exchange,
Claude Code's end, or a failing peer's return."""
ProjectState = Literal["synced", "pending", "ahead", "behind", "held", "paused", "quarantined", "conflict"]


class Ping(TypedDict):
    """The answer to `ping`. `ready` turns true once the store is open and the engine turns."""

    pid: int
    version: str
    ready: bool


class Machine(TypedDict):
    """The machine that answers, as rosters name it."""

    id: str
    name: str


class _DaemonMore(TypedDict, total=False):
    paused_until: str | None
    ready: bool


class Daemon(_DaemonMore):
    """The daemon itself. Without one, pid and version are None and the state is "halted".

    `ready` turns true once it is known what takes part.
    """

    pid: int | None
    version: str | None
    uptime_s: float
    state: DaemonState
    reasons: list[str]


class _PeerMore(TypedDict, total=False):
    failing_since: str | None
    away: bool
    busy: bool


class Peer(_PeerMore):
    """One peer. `error` is the last failure in words while `state` is "failing".

    `away`: it could not be reached, which may pass by itself. `busy`: an exchange is under way.
    """

    name: str
    url: str
    state: PeerState
    last_fetch: str | None
    last_push: str | None
    error: str | None
    next_try: str | None


class Held(TypedDict):
    """Incoming work that waits: how many sessions, for which process (None: unknown), and why."""

    sessions: int
    pid: int | None
    reason: str


class Progress(TypedDict):
    """While much is taken in: bytes of local files that were, and all of them."""

    done: int
    of: int


class _ProjectMore(TypedDict, total=False):
    waits_for: WaitsFor | None
    paused_until: str | None
    progress: Progress | None


class Project(_ProjectMore):
    """One project. `ahead` and `behind` count commits against the peers; `bytes` are local ones."""

    id: str
    root: str | None
    context_dir: str | None
    tip: str | None
    state: ProjectState
    sessions: int
    bytes: int
    ahead: int
    behind: int
    held: Held | None
    last_ingest: str | None
    last_exchange: str | None


class Available(TypedDict):
    """A project that peers have and this machine takes no part in."""

    id: str
    machines: list[str]


class Attention(TypedDict):
    """One thing that a person should look at, and the command that settles it."""

    kind: str
    project: str | None
    text: str
    fix: str


class Notice(TypedDict):
    """Something to know that needs nobody; shown for a day."""

    kind: str
    project: str | None
    text: str
    at: str | None


class Live(TypedDict):
    """A session that another machine has open, as far as that machine said lately."""

    project: str
    session: str
    machine: str
    machine_id: str
    since: str | None


class _StatusMore(TypedDict, total=False):
    notices: list[Notice]
    live: list[Live]


class Status(_StatusMore):
    """The answer to `status`."""

    schema: int
    machine: Machine
    daemon: Daemon
    peers: list[Peer]
    projects: list[Project]
    available: list[Available]
    attention: list[Attention]


class ProjectText(TypedDict):
    """A line about one project."""

    project: str
    text: str


class Synced(TypedDict):
    """The answer to `sync`: what was (or would be) done, and what is still missing."""

    actions: list[ProjectText]
    state: str
    unsynced: list[ProjectText]


class Projects(TypedDict):
    """The answer to `projects`; `available` is empty unless it was asked for."""

    projects: list[Project]
    available: list[Available]


class Tracked(TypedDict):
    """The answer to `init` and `join`."""

    id: str
    root: str
    context_dir: str


class Moved(TypedDict):
    """One project whose checkout moved. `sessions` stand in its folder at the new place.

    `waits`: why that was not written yet; when planned, why the checkout should not be moved now. `files` of
    the old folder went to `backups`; `stays`: why not. `misplaced`, when planned: somebody moved the old
    folder to where the new one is to be.
    """

    project: str
    old: str
    new: str
    old_context_dir: str
    context_dir: str
    sessions: int
    waits: str | None
    files: int
    backups: str | None
    stays: str | None
    misplaced: bool


class Moves(TypedDict):
    """The answer to `project_move`."""

    moves: list[Moved]


class Removal(TypedDict):
    """The answer to `project_remove`: what went, or would go, and what stays.

    `sessions` are those in the store; `archived` of them have no file here any more, and `only_here` of these
    are with no peer.
    """

    project: str
    roots: list[str]
    context_dirs: list[str]
    sessions: int
    archived: int
    only_here: int
    peers: list[str]
    backups: list[str]


class Named(TypedDict):
    """The answer to `pause` and `resume`: the ids that it applied to."""

    projects: list[str]


class FindingAnswer(TypedDict):
    """What one check found. `fix` is a command or an action in words; `fixable`: --fix does it."""

    check: str
    state: Literal["ok", "warning", "problem"]
    project: str | None
    text: str
    fix: str
    fixable: bool


class Repaired(TypedDict):
    """What a repair did."""

    check: str
    project: str | None
    text: str


class Diagnosis(TypedDict):
    """The answer to `doctor`: how things are now, and what was repaired on the way."""

    schema: int
    findings: list[FindingAnswer]
    fixed: list[Repaired]


class ConflictSide(TypedDict):
    """One side of a conflict. `machine` and `at` are None where they cannot be told.

    `ours`: this machine wrote it. `cut`: the text is longer than what is shown.
    """

    machine: str | None
    ours: bool
    at: str | None
    text: str
    cut: bool


class ConflictFile(TypedDict):
    """A memory file that holds both sides of one or more conflicts.

    `name` is what `conflict resolve` takes, `local` where the file lies here, if anywhere.
    """

    project: str
    path: str
    name: str
    local: str | None
    conflicts: list[list[ConflictSide]]


class Divergence(TypedDict):
    """A session that went on in two places; `session_by` and `fork_by` name machines, where known."""

    project: str
    session: str
    fork: str
    at: str | None
    session_by: str | None
    fork_by: str | None


class Conflicts(TypedDict):
    """The answer to `conflicts`. Divergences are for information: they need nobody."""

    schema: int
    conflicts: list[ConflictFile]
    divergences: list[Divergence]


class Settled(TypedDict):
    """The answer to `conflict_resolve`.

    `edited`: an edit had settled it already. `waits`: why the file was not written here yet.
    """

    project: str
    path: str
    name: str
    edited: bool
    waits: str | None


class Session(TypedDict):
    """One session. `title` is what it is called, else what was asked first; empty where nothing tells.

    `machine` wrote last, as far as is known. `at` is the time of the last record, `began` of the first.
    `records` is an estimate where not `exact`. `origin`: the session that it was made from. `state`: it lies
    here, was removed here, or is only in the store. `path` is where it lies. `open_on`: the other machines
    that have it open.
    """

    id: str
    project: str
    title: str
    machine: str | None
    at: str | None
    began: str | None
    bytes: int
    records: int
    exact: bool
    origin: str | None
    state: Literal["here", "removed", "store"]
    path: str | None
    open_on: list[str]


class Sessions(TypedDict):
    """The answer to `sessions`: those from `offset` on of `total`, the newest first.

    `unreadable` are projects of which nothing can be told, and why.
    """

    schema: int
    total: int
    offset: int
    sessions: list[Session]
    unreadable: list[ProjectText]


class SessionChange(TypedDict):
    """A commit that changed a session.

    `machine` is None where two machines' work came together. `records` are those it added, None where they
    are too many to be counted; `bytes` likewise. `origin`: the session that it was made from there;
    `became`: those that were made from it.
    """

    commit: str
    at: str | None
    machine: str | None
    records: int | None
    bytes: int
    origin: str | None
    became: list[str]


class SessionHistory(TypedDict):
    """The answer to `session_history`, the newest change last; not `whole`: there are earlier ones."""

    schema: int
    project: str
    session: str
    title: str
    changes: list[SessionChange]
    whole: bool


class Backup(TypedDict):
    """A file as it was before it was replaced here; `stamp` names it for `session restore --backup`.

    `session` is None for memory. `late`: a program wrote to it after it was replaced.
    """

    stamp: str
    at: str | None
    project: str
    session: str | None
    name: str
    path: str
    bytes: int
    late: bool


class Backups(TypedDict):
    """The answer to `session_backups`: the newest of `total`."""

    schema: int
    total: int
    backups: list[Backup]


class Restored(TypedDict):
    """The answer to `session_restore`.

    `session` is its id, `origin` what it is an older state of, if it is. It is resumed in `root`. `there`: it
    was there already.
    `waits`: why it was not written here yet.
    """

    project: str
    session: str
    origin: str | None
    root: str
    path: str
    there: bool
    waits: str | None


class Secret(TypedDict):
    """An apparent secret, `shown` as far as it may be: its first place is in `line` (from 1) of `path`.

    It stands in `count` lines. `name` is the file's in the context folder; `path` is None where only the
    store has it, `session` for memory. `allowed`: somebody said here that it is fine.
    """

    project: str
    session: str | None
    title: str
    name: str
    path: str | None
    line: int
    count: int
    rule: str
    what: str
    shown: str
    fingerprint: str
    allowed: bool


class Secrets(TypedDict):
    """What `scan` found in so many files and bytes; not `whole`: there is more."""

    schema: int
    secrets: list[Secret]
    files: int
    bytes: int
    whole: bool
    unreadable: list[ProjectText]


class Allowed(TypedDict):
    """The answer to `secrets_allow`: what is allowed now, by fingerprint, and since when."""

    allowed: dict[str, str | None]
