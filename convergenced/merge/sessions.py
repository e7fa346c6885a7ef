"""The sessions of a project as one mapping, of which only what changed is read, compared and written.

Owns where transcripts lie below `segments/`: in one folder, or, where there are more than
`MAX_SESSIONS`, in folders named by the next hexadecimal digit of their ids, and so on. Promises: the
trees are a pure function of what is in them, however it came; a change touches the folders on the way
to it only, so that a commit does not cost more with each session; a folder that was read from a store
once is not read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from convergenced.model import EMPTY_TREE, MODE_TREE, Oid, SessionId, TreeEntry
from convergenced.ports import Objects

MAX_SESSIONS = 64
"""Transcripts that lie in one folder, at most."""

ID_DIGITS = 32


@dataclass(frozen=True, slots=True)
class SessionTree:
    """One session: its transcript as a tree of segments, and its folder as a tree.

    `flat` is the transcript as one blob, where the policy or a peer says so. A session that has both
    belongs together: `merge.session.transcripts_of` gives the whole.
    """

    transcript: Oid | None = None
    flat: Oid | None = None
    folder: Oid | None = None


class Beside(NamedTuple):
    """What a session has below `context/`."""

    flat: Oid | None = None
    folder: Oid | None = None


class Division:
    """One folder of transcripts: either sessions, or one division for each digit. Never changed.

    `oid` names it in the store `home`, where it is known to lie there.
    """

    __slots__ = ("__weakref__", "children", "count", "home", "oid", "sessions")

    def __init__(self, sessions: Mapping[SessionId, Oid], children: Mapping[str, Division]) -> None:
        self.sessions = sessions
        self.children = children
        self.count: int = len(sessions) + sum(child.count for child in children.values())
        self.oid: Oid | None = None
        self.home: Objects | None = None

    @classmethod
    def of(cls, sessions: Mapping[SessionId, Oid], depth: int = 0) -> Division:
        """The division of these sessions, whose ids agree in `depth` digits."""
        if len(sessions) <= MAX_SESSIONS:
            return cls(sessions, {})
        groups: dict[str, dict[SessionId, Oid]] = {}
        for sid, oid in sessions.items():
            groups.setdefault(digits_of(sid)[depth], {})[sid] = oid
        return cls({}, {digit: cls.of(group, depth + 1) for digit, group in groups.items()})

    def get(self, sid: SessionId) -> Oid | None:
        """The session's transcript."""
        here = self
        for digit in digits_of(sid):
            if not here.children:
                break
            child = here.children.get(digit)
            if child is None:
                return None
            here = child
        return here.sessions.get(sid)

    def items(self) -> Iterator[tuple[SessionId, Oid]]:
        """All sessions below."""
        yield from self.sessions.items()
        for child in self.children.values():
            yield from child.items()

    def updated(self, changes: Mapping[SessionId, Oid | None], depth: int = 0) -> Division:
        """With these transcripts added or replaced, or, for None, left out."""
        if not changes:
            return self
        if not self.children:
            merged = {**self.sessions, **changes}
            return Division.of({sid: oid for sid, oid in merged.items() if oid is not None}, depth)
        groups: dict[str, dict[SessionId, Oid | None]] = {}
        for sid, oid in changes.items():
            groups.setdefault(digits_of(sid)[depth], {})[sid] = oid
        children = dict(self.children)
        for digit, group in groups.items():
            child = children.get(digit, _NOTHING).updated(group, depth + 1)
            if child.count:
                children[digit] = child
            else:
                children.pop(digit, None)
        whole = Division({}, children)
        return whole if whole.count > MAX_SESSIONS else Division.of(dict(whole.items()), depth)

    def write(self, objects: Objects) -> Oid:
        """Keeps the folder as a tree, as far as it is not known to be there."""
        if self.oid is None or self.home is not objects:
            entries = [TreeEntry(sid, MODE_TREE, oid) for sid, oid in self.sessions.items()]
            entries += [
                TreeEntry(digit, MODE_TREE, child.write(objects)) for digit, child in self.children.items()
            ]
            self.oid = objects.write_tree(entries)
            self.home = objects
        return self.oid


_NOTHING = Division({}, {})


def differing(one: Division, other: Division) -> Iterator[SessionId]:
    """The sessions whose transcripts are not the same in both; folders that are the same are not opened."""
    if one is other or (one.oid is not None and one.oid == other.oid):
        return
    if one.children and other.children:
        for digit in one.children.keys() | other.children.keys():
            yield from differing(one.children.get(digit, _NOTHING), other.children.get(digit, _NOTHING))
        return
    left, right = dict(one.items()), dict(other.items())
    yield from (sid for sid in left.keys() | right.keys() if left.get(sid) != right.get(sid))


class Sessions(Mapping[SessionId, SessionTree]):
    """The sessions of a project. Never changed; `updated` gives another one."""

    def __init__(
        self, transcripts: Division = _NOTHING, beside: Mapping[SessionId, Beside] | None = None
    ) -> None:
        self.transcripts = transcripts
        self.beside = beside or {}

    @classmethod
    def of(cls, sessions: Mapping[SessionId, SessionTree]) -> Sessions:
        """These sessions."""
        return sessions if isinstance(sessions, cls) else cls().updated(sessions)

    def __getitem__(self, sid: SessionId) -> SessionTree:
        transcript, beside = self.transcripts.get(sid), self.beside.get(sid)
        if transcript is None and beside is None:
            raise KeyError(sid)
        return SessionTree(transcript, *(beside or Beside()))

    def __iter__(self) -> Iterator[SessionId]:
        transcripts = (sid for sid, _ in self.transcripts.items())
        return chain(transcripts, (sid for sid in self.beside if self.transcripts.get(sid) is None))

    def __len__(self) -> int:
        return self.transcripts.count + sum(1 for sid in self.beside if self.transcripts.get(sid) is None)

    def __repr__(self) -> str:
        return f"Sessions({dict(self)})"

    def updated(self, changes: Mapping[SessionId, SessionTree]) -> Sessions:
        """With these sessions as they are given."""
        transcripts = {sid: _unless_empty(session.transcript) for sid, session in changes.items()}
        transcripts = {sid: oid for sid, oid in transcripts.items() if oid != self.transcripts.get(sid)}
        beside = {
            sid: Beside(session.flat, _unless_empty(session.folder)) for sid, session in changes.items()
        }
        beside = {sid: new for sid, new in beside.items() if new != self.beside.get(sid, Beside())}
        if not beside:
            return Sessions(self.transcripts.updated(transcripts), self.beside)
        merged = {**self.beside, **beside}
        return Sessions(
            self.transcripts.updated(transcripts),
            {sid: new for sid, new in merged.items() if new != Beside()},
        )

    def differing(self, other: Sessions) -> set[SessionId]:
        """The sessions that are not the same in both."""
        found = set(differing(self.transcripts, other.transcripts))
        if self.beside is not other.beside:
            found |= {sid for sid, _ in self.beside.items() ^ other.beside.items()}
        return found

    def in_both_layouts(self) -> set[SessionId]:
        """The sessions that have a transcript twice."""
        return {sid for sid, one in self.beside.items() if one.flat is not None and self.transcripts.get(sid)}


def digits_of(sid: str) -> str:
    """The hexadecimal digits of a session's id."""
    return sid.replace("-", "")


def _unless_empty(tree: Oid | None) -> Oid | None:
    """A tree that git would not keep an entry for is none."""
    return None if tree == EMPTY_TREE else tree
