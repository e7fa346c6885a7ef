"""The branch of shared knowledge in the store: read, committed on, merged.

Promises: it moves by compare-and-swap only, and only to descendants; nothing is committed that says nothing
new; a merge commit is a pure function of its two parents, so that all machines make the same one and
merging ends; what is written is what every reader accepts.
"""

from __future__ import annotations

from collections.abc import Callable

from convergenced.errors import RefMovedError
from convergenced.knowledge import KNOWLEDGE_REF
from convergenced.merge.knowledge import Knowledge
from convergenced.merge.knowledge_merge import merge_knowledge, with_revisions
from convergenced.merge.knowledge_tree import read_knowledge, write_knowledge
from convergenced.model import Author, Commit, Oid, Refusal
from convergenced.ports import Store
from convergenced.store.branch import MERGER, MergeOutcome, commit_tree
from convergenced.sync.tips import MAX_TRIES, advance_ref, ref_of

__all__ = ["KNOWLEDGE_REF", "advance_knowledge", "commit_knowledge", "join", "knowledge_at"]


def knowledge_at(store: Store, commit: Oid | None) -> tuple[Knowledge, list[Refusal]]:
    """The knowledge as a commit has it, and a word on what had to be left out; empty for no commit.

    Raises `NewerSchemaError` and `MissingObjectError`, as `read_knowledge` does.
    """
    if commit is None:
        return Knowledge(), []
    return read_knowledge(store, store.read_commit(commit).tree)


def commit_knowledge(
    store: Store, change: Callable[[Knowledge], Knowledge], author: Author, time: int, message: str
) -> Oid | None:
    """Commits what `change` makes of the branch's knowledge; None where that is nothing new.

    Where the branch moved meanwhile, `change` is asked again with what it holds now. Revisions are seen to
    here. Raises `RefMovedError` where others kept moving it, `NewerSchemaError` for a newer format.
    """
    for _ in range(MAX_TRIES):
        tip = ref_of(store, KNOWLEDGE_REF)
        former, _ = knowledge_at(store, tip)
        changed = with_revisions(change(former), former)
        if changed == former:
            return None
        tree = write_knowledge(store, changed)
        accepted = with_revisions(read_knowledge(store, tree)[0], former)
        if accepted == former:
            return None
        if accepted != changed:
            tree = write_knowledge(store, accepted)
        try:
            return commit_tree(
                store, KNOWLEDGE_REF, tree, () if tip is None else (tip,), author, time, message
            )
        except RefMovedError:
            continue
    raise RefMovedError(f"{KNOWLEDGE_REF} kept moving", _AGAIN)


def join(store: Store, one: Oid, other: Oid) -> Oid:
    """The commit in which two tips of the branch come together; no ref is moved.

    Where one tip descends from the other, that is the descendant itself. Unrelated histories merge
    without a base. Raises `NewerSchemaError` where either was written by a newer version.
    """
    base = store.merge_base(one, other)
    if base in (one, other):
        return other if base == one else one
    first, second = sorted((one, other))
    tips = store.read_commit(first), store.read_commit(second)
    ancestor = None if base is None else store.read_commit(base).tree
    tree = merge_knowledge(store, tips[0].tree, tips[1].tree, ancestor)
    return store.write_commit(
        Commit(tree, (first, second), MERGER, max(tip.time for tip in tips), "merge knowledge")
    )


def advance_knowledge(store: Store, commit: Oid) -> Oid:
    """Moves the branch to include `commit`, by merging where both sides went on; returns its tip.

    Raises `RefMovedError` where others kept moving it, `NewerSchemaError` for a newer format.
    """
    knowledge_at(store, commit)  # nobody follows to a newer format either where it only goes on from ours

    def merge(store: Store, one: Oid, other: Oid) -> MergeOutcome:
        return MergeOutcome(join(store, one, other))

    return advance_ref(store, KNOWLEDGE_REF, commit, merge).commit


_AGAIN = "it is tried again by itself"
