"""Finding a session in the store, and what its history tells of it.

Promises: nothing is guessed: what is named must be one session; a walk through the history is bounded, and
what was added is counted without reading what was there before.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from convergenced.errors import RefusedInputError, UsageError
from convergenced.merge.layout import CONTEXT, SEGMENTS
from convergenced.merge.segments import common_segments, list_segments
from convergenced.merge.sessions import SessionTree, digits_of
from convergenced.model import EMPTY_TREE, MODE_TREE, Oid, ProjectId, SessionId, TreeEntry
from convergenced.ports import Objects, Store
from convergenced.store.branch import MERGER, WALK_LIMIT, project_at, walk_back
from convergenced.sync.catalog import origins_in
from convergenced.sync.tips import tip_of

MAX_NAMED = 20
"""Sessions that an error names, at most."""
CLOSE = 5
"""Ids that are offered where none was meant."""
MAX_CHANGES = 1_000
"""Changes of one session that are told, at most: the newest."""
MAX_COUNTED = 64
"""Segments whose records are counted for one change, at most: 4 MiB."""


# -- which one


def find_session(
    store: Store, projects: Iterable[ProjectId], text: str, titles: Callable[[], Mapping[SessionId, str]]
) -> tuple[ProjectId, SessionId]:
    """The session that a person means by its id, the beginning of it, or `PROJECT:` and either.

    `titles` are shown where one has to be chosen. Raises `UsageError` where none or more than one is meant.
    """
    named, colon, rest = text.rpartition(":")
    wanted = (rest if colon else text).strip().lower()
    ids = {project: _sessions_at(store, project) for project in projects if not colon or project == named}
    everything = {sid for sids in ids.values() for sid in sids}
    exact = [(project, SessionId(wanted)) for project, sids in ids.items() if wanted in sids]
    begin = [(project, sid) for project, sids in ids.items() for sid in sids if sid.startswith(wanted)]
    meant = sorted(exact or begin) if wanted else []
    if len(meant) == 1:
        return meant[0]
    if meant:
        is_shared = len({sid for _, sid in meant}) < len(meant)
        raise UsageError(
            f"{text} can be any of {len(meant)} sessions",
            _listed(meant, titles(), "say more of the id" + (", or PROJECT:ID" if is_shared else "")),
        )
    beginnings: dict[str, SessionId] = {sid[: max(4, len(wanted))]: sid for sid in everything}
    near = [beginnings[one] for one in difflib.get_close_matches(wanted, beginnings, n=CLOSE)]
    close = sorted((project, sid) for project, sids in ids.items() for sid in sids if sid in near)
    hint = "see: convergencectl sessions"
    raise UsageError(
        f"there is no session {text}", _listed(close, titles(), "close to it") if close else hint
    )


def _sessions_at(store: Store, project: ProjectId) -> set[SessionId]:
    tree, _ = project_at(store, tip_of(store, project))
    return {sid for sid, session in tree.sessions.items() if session.transcript or session.flat}


def _listed(found: Sequence[tuple[ProjectId, SessionId]], titles: Mapping[SessionId, str], what: str) -> str:
    lines = [f"  {project}:{sid}  {titles.get(sid, '')}".rstrip() for project, sid in found[:MAX_NAMED]]
    more = [f"  and {len(found) - MAX_NAMED} more"] if len(found) > MAX_NAMED else []
    return "\n".join([f"{what}:", *lines, *more])


def find_commit(store: Store, project: ProjectId, text: str) -> Oid:
    """The commit in a project's history whose id begins with `text`. Raises `UsageError`."""
    wanted, tip = text.lower(), tip_of(store, project)
    history = [] if tip is None else walk_back(store, tip)
    found = [oid for oid, _ in history if oid.startswith(wanted)] if len(wanted) >= 4 else []
    if len(found) == 1:
        return found[0]
    which = f"{text} can be any of {len(found)} commits" if found else f"{text} is no commit of {project}"
    raise UsageError(which, "see: convergencectl session history SID")


def session_in(objects: Objects, tree: Oid, sid: SessionId) -> SessionTree:
    """One session in a project's tree, without looking at the others."""
    root = {entry.name: entry for entry in objects.read_tree(tree)}
    context = _below(objects, root.get(CONTEXT))
    flat, folder = context.get(f"{sid}.jsonl"), context.get(sid)
    return SessionTree(
        _transcript_in(objects, root.get(SEGMENTS), sid),
        None if flat is None or flat.is_tree else flat.oid,
        None if folder is None or not folder.is_tree or folder.oid == EMPTY_TREE else folder.oid,
    )


def _transcript_in(objects: Objects, entry: TreeEntry | None, sid: SessionId) -> Oid | None:
    for digit in digits_of(sid):
        below = _below(objects, entry)
        found = below.get(sid)
        if found is not None and found.is_tree:
            return None if found.oid == EMPTY_TREE else found.oid
        entry = below.get(digit)
        if entry is None:
            break
    return None


def _below(objects: Objects, entry: TreeEntry | None) -> dict[str, TreeEntry]:
    if entry is None or not entry.is_tree:
        return {}
    return {child.name: child for child in objects.read_tree(entry.oid)}


# -- what became of it


@dataclass(frozen=True, slots=True)
class Change:
    """A commit that changed a session: `machine` is None where two machines' work came together.

    `records` are those that were added, None where they are too many to be counted; `size` are bytes.
    `origin`: the session that it was made from here. `became`: the sessions that were made from it.
    """

    commit: Oid
    at: int
    machine: str | None
    records: int | None
    size: int
    origin: SessionId | None = None
    became: tuple[SessionId, ...] = ()


@dataclass(slots=True)
class SessionHistory:
    """The changes of one session, the newest last. `is_whole`: there are no earlier ones."""

    changes: list[Change] = field(default_factory=list)
    is_whole: bool = True


def history_of(store: Store, project: ProjectId, sid: SessionId) -> SessionHistory:
    """Who added what when."""
    tip = tip_of(store, project)
    history = SessionHistory()
    if tip is None:
        return history
    found: list[Change] = []
    look = _Look(store, sid)
    seen = 0
    for oid, commit in walk_back(store, tip):
        seen += 1
        now = look.at(commit.tree)
        before = [look.at(store.read_commit(parent).tree) for parent in commit.parents]
        became = tuple(new for new, old in origins_in(commit) if old == sid)
        if now in (before or [None]) and not became:
            continue
        origin = next((old for new, old in origins_in(commit) if new == sid), None)
        records, size = look.added(now, before)
        machine = None if commit.author == MERGER else commit.author.name
        found.append(Change(oid, commit.time, machine, records, size, origin, became))
        if len(found) > MAX_CHANGES:
            break
    history.is_whole = seen < WALK_LIMIT and len(found) <= MAX_CHANGES
    history.changes = found[:MAX_CHANGES][::-1]
    return history


class _Look:
    """One session's transcript in many trees: a tree of segments, or a blob where it is flat."""

    def __init__(self, objects: Objects, sid: SessionId) -> None:
        self._objects = objects
        self._sid = sid
        self._known: dict[Oid, TreeEntry | None] = {}

    def at(self, tree: Oid) -> TreeEntry | None:
        """The transcript in a project's tree."""
        roots = {entry.name: entry for entry in self._objects.read_tree(tree)}
        return self._find(roots.get(SEGMENTS), self._in_segments) or self._find(
            roots.get(CONTEXT), self._in_context
        )

    def _find(self, top: TreeEntry | None, find: Callable[[TreeEntry], TreeEntry | None]) -> TreeEntry | None:
        if top is None or not top.is_tree:
            return None
        if top.oid not in self._known:
            self._known[top.oid] = find(top)
        return self._known[top.oid]

    def _in_segments(self, top: TreeEntry) -> TreeEntry | None:
        oid = _transcript_in(self._objects, top, self._sid)
        return None if oid is None else TreeEntry(self._sid, MODE_TREE, oid)

    def _in_context(self, top: TreeEntry) -> TreeEntry | None:
        flat = _below(self._objects, top).get(f"{self._sid}.jsonl")
        return None if flat is None or flat.is_tree else flat

    def added(self, now: TreeEntry | None, before: Iterable[TreeEntry | None]) -> tuple[int | None, int]:
        """Records and bytes that `now` has more than the fullest of `before`."""
        differences = [self._difference(now, one) for one in before] or [self._difference(now, None)]
        return min(differences, key=lambda one: one[1])

    def _difference(self, now: TreeEntry | None, before: TreeEntry | None) -> tuple[int | None, int]:
        try:
            same = 0
            if now is not None and before is not None and now.is_tree and before.is_tree:
                same = common_segments(self._objects, now.oid, before.oid)
            new, old = self._rest(now, same), self._rest(before, same)
        except RefusedInputError:
            return None, 0
        size = sum(map(self._objects.blob_size, new)) - sum(map(self._objects.blob_size, old))
        if len(new) + len(old) > MAX_COUNTED:
            return None, size
        return self._count(new) - self._count(old), size

    def _rest(self, transcript: TreeEntry | None, start: int) -> list[Oid]:
        if transcript is None:
            return []
        return (
            list(list_segments(self._objects, transcript.oid, start))
            if transcript.is_tree
            else [transcript.oid]
        )

    def _count(self, segments: Iterable[Oid]) -> int:
        return sum(self._objects.read_blob(oid).count(b"\n") for oid in segments)
