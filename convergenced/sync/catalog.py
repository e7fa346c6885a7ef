"""What a listing tells of each session: its name, times, size, who wrote last, and what it came from.

Promises: no transcript is read as a whole, only its first and last segments; the history is looked back
into a bounded way, and only as far as it was not looked at before; what was found out is remembered, and
a session that did not change costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from convergenced.canon.conversation import first_prompt, name_in, name_of, sound_time
from convergenced.canon.rewrite import Rewriter
from convergenced.canon.transcript import facts, last_time, split_records
from convergenced.errors import MissingObjectError, RefusedInputError
from convergenced.machine.state import CatalogNote
from convergenced.merge.layout import CONTEXT, SEGMENTS
from convergenced.merge.names import is_session_id
from convergenced.merge.segments import list_segments
from convergenced.merge.sessions import ID_DIGITS, SessionTree
from convergenced.model import EMPTY_TREE, Commit, Content, Oid, ProjectId, SessionId
from convergenced.ports import Objects, Store
from convergenced.store.branch import MERGER, forks_named_in, project_at, walk_back
from convergenced.sync.replica import Parts
from convergenced.sync.scan import TITLE, TRANSCRIPT_SUFFIX

LOOK_BACK = 5_000
"""Commits in which the writers of sessions are looked for at once, at most."""
FIRST, LAST = 3, 2
"""Segments that are read at a transcript's beginning and at its end, at most."""
MAX_VERSIONS = 8
"""Versions of a session that are compared to find who wrote it as it is, at most: the newest."""
MAX_TITLE_FILE = 64 * 1024
MAX_KEPT = 256
"""Folders that are kept while the history is looked back into: most are the same in the next commit."""

RESTORED = re.compile(r"^Restored: (\S+) (\S+)$", re.MULTILINE)
"""The line in a commit's message that names a session and the older state of it that was brought back."""


def read_catalog(parts: Parts, project: ProjectId, tip: Oid) -> Mapping[SessionId, CatalogNote]:
    """What is to be told of the sessions at `tip` that have a transcript."""
    tree, _ = project_at(parts.store, tip)
    known = parts.state.catalog(project)
    found: dict[SessionId, CatalogNote] = {}
    fresh: dict[SessionId, CatalogNote] = {}
    for sid, session in tree.sessions.items():
        transcript = session.transcript or session.flat
        if transcript is None:
            continue
        note = known.get(sid)
        if note is None or (note.transcript, note.folder) != (transcript, session.folder or ""):
            note = fresh[sid] = _read_note(parts.store, session, transcript, note)
        found[sid] = note
    if fresh or parts.state.cataloged(project) is None:
        past = _look_back(parts.store, tip, parts.state.cataloged(project))
        if any(sid not in known and past.writer_of(sid, found) is None for sid in fresh):
            past = _look_back(parts.store, tip, None)  # it was made from what was written earlier
        for sid, note in fresh.items():
            former = known.get(sid)
            is_same = former is not None and former.transcript == note.transcript
            machine = note.machine if is_same else past.writer_of(sid, found)
            fresh[sid] = found[sid] = replace(
                note, machine=machine, origin=note.origin or past.origins.get(sid)
            )
        parts.state.note_catalog(project, tip, fresh)
    return found


def title_of(note: CatalogNote | None, rewriter: Rewriter | None) -> str:
    """What a person calls a session: its title, or how it begins; with paths as `rewriter` spells them."""
    if note is None:
        return ""
    text = note.title or note.prompt
    if rewriter is None or "{{" not in text:
        return text
    return rewriter.localize(text.encode(), Content.TEXT).decode("utf-8", "replace")


def origins_in(commit: Commit) -> Iterator[tuple[SessionId, SessionId]]:
    """The sessions that a commit made from others: pairs of the new one and what it came from."""
    for fork in forks_named_in(commit):
        yield fork.fork, fork.session
    for old, new in RESTORED.findall(commit.message):
        if is_session_id(old) and is_session_id(new):
            yield SessionId(new), SessionId(old)


# -- one session


@dataclass(slots=True)
class _Sample:
    """What was read of a transcript."""

    first: list[bytes] = field(default_factory=list)
    last: list[bytes] = field(default_factory=list)
    size: int = 0

    @property
    def parts(self) -> list[bytes]:
        return [*self.first, *self.last]


def _read_note(
    objects: Objects, session: SessionTree, transcript: Oid, former: CatalogNote | None
) -> CatalogNote:
    title = _read_title(objects, session.folder)
    if former is not None and former.transcript == transcript:
        return replace(former, folder=session.folder or "", title=title or former.title)
    try:
        sample = _sample(objects, session)
    except RefusedInputError:
        sample = _Sample()
    first = split_records(b"".join(sample.first))[0]
    last = split_records(b"".join(sample.last))[0]
    read = sum(map(len, sample.parts))
    lines = len(first) + len(last)
    times = (time for record in first if (time := facts(record).timestamp) is not None)
    began = next(times, None)
    return CatalogNote(
        transcript=transcript,
        folder=session.folder or "",
        title=title or name_of([*first, *last]),
        prompt=first_prompt(first),
        began=sound_time(began),
        ended=sound_time(last_time(b"".join(sample.parts))),
        size=sample.size,
        records=lines if read == sample.size else max(lines, round(lines * sample.size / max(1, read))),
        is_exact=read == sample.size,
        origin=former.origin if former is not None else None,
    )


def _sample(objects: Objects, session: SessionTree) -> _Sample:
    if session.transcript is None:
        assert session.flat is not None
        data = objects.read_blob(session.flat)
        return _Sample([data], [], len(data))
    segments = list(list_segments(objects, session.transcript))
    sample = _Sample(size=sum(map(objects.blob_size, segments)))
    middle = max(FIRST, len(segments) - LAST)
    for oid in islice(segments, FIRST):
        sample.first.append(objects.read_blob(oid))
        if len(segments) > FIRST + LAST and first_prompt(split_records(sample.first[-1])[0]):
            break
    sample.last = [objects.read_blob(oid) for oid in segments[middle:]]
    return sample


def _read_title(objects: Objects, folder: Oid | None) -> str:
    if folder is None:
        return ""
    for entry in objects.read_tree(folder):
        if entry.name == TITLE and not entry.is_tree and objects.blob_size(entry.oid) <= MAX_TITLE_FILE:
            return name_in(objects.read_blob(entry.oid))
    return ""


# -- the history


@dataclass(slots=True)
class _Past:
    """What the history tells: who wrote which version of a session, the newest first, and what made it."""

    written: dict[SessionId, list[tuple[str, Oid | None]]] = field(default_factory=dict)
    origins: dict[SessionId, SessionId] = field(default_factory=dict)

    def writer_of(self, sid: SessionId, notes: Mapping[SessionId, CatalogNote]) -> str | None:
        """Who wrote a session as it is now; else who wrote it last; of a fork, who went on with the other."""
        versions = self.written.get(sid, [])
        exact = [machine for machine, oid in versions if oid == notes[sid].transcript]
        if exact or versions:
            return [*exact, versions[0][0]][0]
        origin = self.origins.get(sid)
        kept = None if origin is None or origin not in notes else notes[origin].transcript
        return next(
            (one for one, oid in self.written.get(origin or sid, []) if kept is not None and oid != kept),
            None,
        )


def _look_back(store: Store, tip: Oid, beyond: Oid | None) -> _Past:
    """What `tip` has and `beyond` lacks; a damaged past is told as far as it can be read."""
    past = _Past()
    try:
        _walk(store, tip, beyond, past)
    except MissingObjectError:
        if beyond is None:
            return past
        try:  # the store was set back or begun anew since
            _walk(store, tip, None, past)
        except MissingObjectError:
            return past
    return past


def _walk(store: Store, tip: Oid, beyond: Oid | None, past: _Past) -> None:
    trees = _Trees(store)
    for _, commit in walk_back(store, tip, beyond, limit=LOOK_BACK):
        for new, old in origins_in(commit):
            past.origins.setdefault(new, old)
        if commit.author == MERGER:
            continue
        before = store.read_commit(commit.parents[0]).tree if commit.parents else EMPTY_TREE
        for sid, transcript in trees.changed(before, commit.tree).items():
            versions = past.written.setdefault(sid, [])
            if len(versions) < MAX_VERSIONS:
                versions.append((commit.author.name, transcript))


class _Trees:
    """Trees of a project, next to each other in its history: folders that are the same are not opened."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._known: dict[Oid, dict[str, Oid]] = {}

    def changed(self, before: Oid, after: Oid) -> dict[SessionId, Oid | None]:
        """The sessions whose transcripts are not the same in two trees, with what they are then.

        What is in `context/` is looked at only where transcripts may be flat: where there are no segments.
        """
        old, new = self._folders(before), self._folders(after)
        found: dict[SessionId, Oid | None] = {}
        self._differ(old.get(SEGMENTS, EMPTY_TREE), new.get(SEGMENTS, EMPTY_TREE), found, 0)
        if SEGMENTS not in new and old.get(CONTEXT) != new.get(CONTEXT):
            flat = [self._flat(tree.get(CONTEXT, EMPTY_TREE)) for tree in (old, new)]
            found |= _compare(flat[0], flat[1])
        return found

    def _differ(self, before: Oid, after: Oid, found: dict[SessionId, Oid | None], depth: int) -> None:
        if before == after or depth > ID_DIGITS:
            return
        old, new = self._folders(before), self._folders(after)
        if any(map(is_session_id, old)) or any(map(is_session_id, new)):  # perhaps divided on one side
            both = [dict(self._all_below(tree, depth)) for tree in (before, after)]
            found |= _compare(both[0], both[1])
            return
        for name in {name for name, _ in old.items() ^ new.items()}:
            self._differ(old.get(name, EMPTY_TREE), new.get(name, EMPTY_TREE), found, depth + 1)

    def _all_below(self, tree: Oid, depth: int) -> Iterator[tuple[SessionId, Oid]]:
        for name, oid in self._folders(tree).items():
            if is_session_id(name):
                yield SessionId(name), oid
            elif depth < ID_DIGITS:
                yield from self._all_below(oid, depth + 1)

    def _folders(self, tree: Oid) -> dict[str, Oid]:
        found = self._known.get(tree)
        if found is None:
            if len(self._known) >= MAX_KEPT:
                self._known.clear()
            found = {entry.name: entry.oid for entry in self._objects.read_tree(tree) if entry.is_tree}
            self._known[tree] = found
        return found

    def _flat(self, context: Oid) -> dict[SessionId, Oid]:
        entries = [entry for entry in self._objects.read_tree(context) if not entry.is_tree]
        stems = ((entry.name.removesuffix(TRANSCRIPT_SUFFIX), entry.oid) for entry in entries)
        return {SessionId(stem): oid for stem, oid in stems if is_session_id(stem)}


def _compare(old: Mapping[SessionId, Oid], new: Mapping[SessionId, Oid]) -> dict[SessionId, Oid | None]:
    return {sid: new.get(sid) for sid, _ in old.items() ^ new.items()}
