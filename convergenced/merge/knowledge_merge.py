"""Two trees of the branch `knowledge` become one.

Promises: it does not depend on who merges, nor on which side is whose; what a machine wrote last about
itself is never given up for something older; documents are not opened.

Three things are chosen as a whole: a machine's folder, a scope's consolidated documents with their record,
and an entry that is not ours. The side that changed since the common ancestor wins; where both did, the one
with the higher revision, which any common ancestor leaves true: where histories cross, it may be an old one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from convergenced.merge.choosing import choose_entries
from convergenced.merge.documents import Fields, format_document
from convergenced.merge.knowledge import Documents, Knowledge, MachineKnowledge, Scope, ScopeRecord
from convergenced.merge.knowledge_fields import MAX_NUMBER
from convergenced.merge.knowledge_files import format_machine_file, record_fields
from convergenced.merge.knowledge_log import merge_logs
from convergenced.merge.knowledge_tree import read_knowledge, write_knowledge
from convergenced.model import Oid
from convergenced.ports import Objects

Name = TypeVar("Name", bound=str)
Whole = TypeVar("Whole")


def merge_knowledge(objects: Objects, ours: Oid, theirs: Oid, base: Oid | None) -> Oid:
    """The tree in which two trees come together; `base` is that of their common ancestor, if any.

    Raises `NewerSchemaError` where any was written by a newer version.
    """
    one, other = read_knowledge(objects, ours)[0], read_knowledge(objects, theirs)[0]
    former = Knowledge() if base is None else read_knowledge(objects, base)[0]
    scopes = _merge_all(_scopes_of(one), _scopes_of(other), _scopes_of(former), _scope_order)
    merged = Knowledge(
        machines=_merge_all(one.machines, other.machines, former.machines, _machine_order),
        consolidated={scope: known.documents for scope, known in scopes.items()},
        records={scope: known.record for scope, known in scopes.items()},
        log=merge_logs(one.log, other.log),
        other=_merge_fields(one.other, other.other),
        others=choose_entries(one.others, other.others, former.others),
        others_meta=choose_entries(one.others_meta, other.others_meta, former.others_meta),
    )
    return write_knowledge(objects, merged)


def with_revisions(knowledge: Knowledge, former: Knowledge) -> Knowledge:
    """The knowledge with the next revision on all that is not what it was in `former`."""
    machines = dict(knowledge.machines)
    for machine, known in machines.items():
        before = former.machines.get(machine, _NO_MACHINE)
        alike = replace(known, revision=before.revision)
        is_same = machine in former.machines and alike == before
        machines[machine] = alike if is_same else replace(known, revision=_next(before.revision))
    scopes, formerly = _scopes_of(knowledge), _scopes_of(former)
    records = dict(knowledge.records)
    for scope, here in scopes.items():
        there = formerly.get(scope, _NO_SCOPE)
        is_same = (here.documents, here.record.written) == (there.documents, there.record.written)
        former_revision = there.record.revision
        record = replace(here.record, revision=former_revision if is_same else _next(former_revision))
        if scope in records or record != ScopeRecord():
            records[scope] = record
    return replace(knowledge, machines=machines, records=records)


@dataclass(frozen=True, slots=True)
class _ScopeKnowledge:
    """What is known of one scope: its consolidated documents, and how they came to be."""

    documents: Documents
    record: ScopeRecord


_NO_MACHINE = MachineKnowledge()
_NO_SCOPE = _ScopeKnowledge({}, ScopeRecord())


def _scopes_of(knowledge: Knowledge) -> dict[Scope, _ScopeKnowledge]:
    return {
        scope: _ScopeKnowledge(
            knowledge.consolidated.get(scope, {}), knowledge.records.get(scope, ScopeRecord())
        )
        for scope in {*knowledge.consolidated, *knowledge.records}
    }


def _merge_all(
    ours: Mapping[Name, Whole],
    theirs: Mapping[Name, Whole],
    base: Mapping[Name, Whole],
    order: Callable[[Whole], Any],
) -> dict[Name, Whole]:
    merged: dict[Name, Whole] = {}
    for name in {*ours, *theirs}:
        one, other, former = ours.get(name), theirs.get(name), base.get(name)
        if other in (one, former):
            kept = one
        elif one == former:
            kept = other
        elif one is None or other is None:
            kept = one or other  # changed here, removed there
        else:
            kept = max(one, other, key=order)
        if kept is not None:
            merged[name] = kept
    return merged


def _machine_order(known: MachineKnowledge) -> tuple[Any, ...]:
    documents = sorted((scope, sorted(paths.items())) for scope, paths in known.documents.items())
    return known.revision, format_machine_file(known), documents


def _scope_order(known: _ScopeKnowledge) -> tuple[Any, ...]:
    """A synthesis stands against any number of rejections of what was there before."""
    written, rejected = known.record.written, known.record.rejected
    return (
        known.record.revision,
        -1 if written is None else written.at,
        bool(known.documents),
        -1 if rejected is None else rejected.at,
        format_document(record_fields(known.record)),
        sorted(known.documents.items()),
    )


def _merge_fields(ours: Fields, theirs: Fields) -> Fields:
    """All of them; of two values the greater."""
    return {
        name: max(
            (side[name] for side in (ours, theirs) if name in side),
            key=lambda value: format_document({"": value}),
        )
        for name in {*ours, *theirs}
    }


def _next(revision: int) -> int:
    return min(revision + 1, MAX_NUMBER - 1)
