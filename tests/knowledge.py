"""Shared knowledge from plain dictionaries, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from convergenced.knowledge.branch import KNOWLEDGE_REF, knowledge_at
from convergenced.merge.contributions import inputs_of
from convergenced.merge.knowledge import (
    DocumentPath,
    Documents,
    Inputs,
    Knowledge,
    MachineKnowledge,
    Scope,
    Synthesis,
)
from convergenced.merge.knowledge_tree import write_knowledge
from convergenced.model import Author, Commit, MachineId, Oid
from convergenced.ports import Objects, Store

ANN = MachineId("ann-00000001")
BOB = MachineId("bob-00000002")
CYD = MachineId("cyd-00000003")

Texts = Mapping[str, str]
"""Documents by path."""

PERSON = Author("Ann", "ann@convergence")


class Plain(TypedDict, total=False):
    """Knowledge as texts: `{"machines": {"ann-00000001": {"global": {"CLAUDE.md": "text"}}}}`."""

    machines: Mapping[str, Mapping[str, Texts]]
    applied: Mapping[str, Mapping[str, Texts]]
    consolidated: Mapping[str, Texts]


def build(objects: Objects, plain: Plain) -> Knowledge:
    """The knowledge with these texts, each a blob of the store."""
    machines = plain.get("machines", {})
    applied = plain.get("applied", {})
    return Knowledge(
        machines={
            MachineId(name): MachineKnowledge(
                name=name.rpartition("-")[0],
                documents=_scopes(objects, machines.get(name, {})),
                applied=_scopes(objects, applied.get(name, {})),
            )
            for name in {**machines, **applied}
        },
        consolidated=_scopes(objects, plain.get("consolidated", {})),
    )


def commit_plain(store: Store, plain: Plain, time: int = 1_700_000_000) -> Oid:
    """The branch, new or as one more commit, with exactly these texts."""
    tip = store.refs(KNOWLEDGE_REF).get(KNOWLEDGE_REF)
    tree = write_knowledge(store, build(store, plain))
    commit = store.write_commit(Commit(tree, () if tip is None else (tip,), PERSON, time, "as told"))
    store.swap(KNOWLEDGE_REF, tip, commit)
    return commit


def texts(store: Store, documents: Documents) -> dict[str, str]:
    """Documents as texts."""
    return {str(path): store.read_blob(oid).decode() for path, oid in documents.items()}


def consolidated_texts(store: Store, scope: str = "global") -> dict[str, str]:
    """What is consolidated of a scope on the branch."""
    known, _ = knowledge_at(store, store.refs(KNOWLEDGE_REF).get(KNOWLEDGE_REF))
    return texts(store, known.consolidated.get(Scope(scope), {}))


def documents(objects: Objects, plain: Texts) -> dict[DocumentPath, Oid]:
    """Texts as documents."""
    return {DocumentPath(path): objects.write_blob(text.encode()) for path, text in plain.items()}


def synthesis(
    knowledge: Knowledge, scope: str = "global", *, at: int = 1_700_000_000, machine: MachineId = ANN
) -> Synthesis:
    """A deterministic synthesis of all that is known of a scope."""
    inputs: Inputs = inputs_of(knowledge, Scope(scope))
    return Synthesis(at=at, machine=machine, provider="none", outcome="merged", inputs=inputs)


def _scopes(objects: Objects, plain: Mapping[str, Texts]) -> dict[Scope, Documents]:
    return {Scope(scope): documents(objects, paths) for scope, paths in plain.items()}
