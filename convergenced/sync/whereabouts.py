"""Where a project holds the records of a transcript: in the session itself, or in a fork of it."""

from __future__ import annotations

from convergenced.merge.layout import ProjectTree, SessionTree
from convergenced.merge.session import merge_session
from convergenced.merge.tree import MAX_FORKS
from convergenced.model import EMPTY_TREE, Oid, SessionId
from convergenced.ports import Objects
from convergenced.sync.replica import lineage_of


class Whereabouts:
    """Looks transcripts up in one tree of a project."""

    def __init__(self, objects: Objects, tree: ProjectTree) -> None:
        self._objects = objects
        self._tree = tree
        self._lineages: dict[SessionId, Oid | None] = {}

    def find(self, sid: SessionId, transcript: Oid) -> SessionId | None:
        """The session that holds every record of `sid`'s transcript in order; None where none does.

        One does exactly where merging the records in once more would change nothing. Raises
        `RefusedInputError` where that cannot be told.
        """
        if transcript == EMPTY_TREE:
            return sid
        for _ in range(MAX_FORKS):
            held = self._lineage(sid)
            if held is None:
                return None
            merged = merge_session(self._objects, sid, held, transcript)
            if merged.pop(sid) != held:
                return None
            if not merged:
                return sid
            ((sid, transcript),) = merged.items()
        return None

    def _lineage(self, sid: SessionId) -> Oid | None:
        if sid not in self._lineages:
            self._lineages[sid] = lineage_of(self._objects, sid, self._tree.sessions.get(sid, SessionTree()))
        return self._lineages[sid]
