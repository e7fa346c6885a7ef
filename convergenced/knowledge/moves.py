"""What the branch knows of a project follows where that goes on under another id."""

from __future__ import annotations

from convergenced.errors import NewerSchemaError
from convergenced.knowledge.branch import KNOWLEDGE_REF, commit_knowledge
from convergenced.merge.knowledge import Knowledge, project_scope
from convergenced.merge.knowledge_moves import with_scope_moved
from convergenced.model import ProjectId
from convergenced.sync.replica import Parts


def move_scope(parts: Parts, old: ProjectId, new: ProjectId) -> None:
    """Has what this machine shared of the project `old` be of `new`. Raises `RefMovedError`, `StoreError`.

    A branch of a newer version is left alone: nothing is merged into that either.
    """

    def change(knowledge: Knowledge) -> Knowledge:
        return with_scope_moved(knowledge, parts.machine.id, project_scope(old), project_scope(new))

    message = f"knowledge: {old} is {new} from now on"
    try:
        made = commit_knowledge(parts.store, change, parts.machine.author, int(parts.clock.now()), message)
    except NewerSchemaError:
        return
    if made is not None:
        parts.state.note_said(KNOWLEDGE_REF, made)
