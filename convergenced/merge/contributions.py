"""What each machine has to say that the consolidated documents do not hold yet.

Owns the decision whether a scope is due, and how an attempt to synthesize it is recorded. Pure: documents
are compared by their ids and never opened. Whoever reads a base must take one that the store lacks (a hub
that was set back, a shallow copy) for none at all: it only means that less is known to be removed on
purpose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from convergenced.merge.knowledge import (
    DocumentPath,
    Input,
    Inputs,
    Knowledge,
    LogEntry,
    Rejection,
    Scope,
    ScopeRecord,
    Synthesis,
)
from convergenced.merge.knowledge_log import merge_logs
from convergenced.model import MachineId, Oid
from convergenced.wording import plural

MAX_TEXTS = 200
"""Marks or claims that are recorded of one synthesis, at most."""

MAX_TEXT = 1_000
"""Characters of each, at most."""

MAX_FORMER = 20
"""Versions of a consolidated document that are remembered, at most. A machine that applied an older one has
been heard since."""

MAX_LOG_TEXT = 200
"""Characters that an entry of the log says of what happened, at most."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """A machine's document that differs from what that machine is known to have started from.

    `base` is the blob it started from, None where it started from nothing.
    """

    machine: MachineId
    path: DocumentPath
    document: Oid
    base: Oid | None


def contributions(knowledge: Knowledge, scope: Scope) -> tuple[Contribution, ...]:
    """What a synthesis of the scope has to take in, sorted by path and machine.

    A machine's document started from what the last synthesis had of it, as long as the machine applied
    nothing else since; else from what it applied. But where that is nothing the consolidated document was
    made from (of two syntheses at once, the one that gave way), all that is new since the last synthesis
    is still to be taken in. A document that a machine went back to (`MachineKnowledge.anew`) started from
    nothing. A document that is the consolidated one says nothing.
    """
    record = knowledge.records.get(scope, ScopeRecord())
    written, current = record.written, knowledge.consolidated.get(scope, {})
    found: list[Contribution] = []
    for machine, known in knowledge.machines.items():
        used = {} if written is None else written.inputs.get(machine, {})
        applied = known.applied.get(scope, {})
        for path, document in known.documents.get(scope, {}).items():
            base, before = applied.get(path), used.get(path)
            has_given_way = base not in (None, current.get(path), *record.former.get(path, ()))
            if known.anew.get(scope, {}).get(path) == document:
                base = document if before is not None and before.document == document else None
            elif before is not None and (before.applied == base or has_given_way):
                base = before.document
            elif written is not None and has_given_way:
                base = None
            if document not in (base, current.get(path)):
                found.append(Contribution(machine, path, document, base))
    return tuple(sorted(found, key=lambda one: (one.path, one.machine)))


def inputs_of(knowledge: Knowledge, scope: Scope) -> Inputs:
    """All that goes into a synthesis of the scope now: what every machine has, contributions or not."""
    inputs: dict[MachineId, Mapping[DocumentPath, Input]] = {}
    for machine, known in sorted(knowledge.machines.items()):
        applied = known.applied.get(scope, {})
        if documents := known.documents.get(scope):
            inputs[machine] = {
                path: Input(document, applied.get(path)) for path, document in sorted(documents.items())
            }
    return inputs


def digest_of_inputs(inputs: Inputs) -> str:
    """SHA-256 of who has which document, in hex. What was applied by then does not count."""
    lines = [
        f"{machine} {one.document} {path}\n"
        for machine, documents in inputs.items()
        for path, one in documents.items()
    ]
    return hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogatepass")).hexdigest()


def due_scopes(knowledge: Knowledge, *, again: bool = False) -> list[Scope]:
    """The scopes that have a contribution, the global one first.

    Those whose synthesis was rejected with these very inputs are left out, except where `again`.
    """
    known = {scope for machine in knowledge.machines.values() for scope in machine.documents}
    return [
        scope
        for scope in sorted(known)
        if contributions(knowledge, scope) and (again or not _is_rejected(knowledge, scope))
    ]


def with_synthesis(
    knowledge: Knowledge, scope: Scope, documents: Mapping[DocumentPath, Oid], synthesis: Synthesis
) -> Knowledge:
    """The knowledge after a synthesis: its documents (others of the scope stay), its record, its log entry.

    A rejection of the scope is forgotten.
    """
    current = knowledge.consolidated.get(scope, {})
    merged = {**current, **documents}
    record = knowledge.records.get(scope, ScopeRecord())
    former = dict(record.former)
    for path, oid in current.items():
        if merged[path] != oid:
            former[path] = (oid, *former.get(path, ()))[:MAX_FORMER]
    kept = replace(synthesis, marks=_bounded(synthesis.marks))
    known = replace(
        knowledge,
        consolidated={**knowledge.consolidated, scope: merged} if merged else knowledge.consolidated,
        records={**knowledge.records, scope: replace(record, written=kept, rejected=None, former=former)},
    )
    text = plural(len(synthesis.inputs), "machine")
    if synthesis.marks:
        text += f", {plural(len(synthesis.marks), 'mark')}"
    return _logged(known, scope, synthesis, synthesis.outcome, text)


def with_rejection(knowledge: Knowledge, scope: Scope, rejection: Rejection) -> Knowledge:
    """The knowledge after a synthesis that was not believed: its documents stay as they are."""
    former = knowledge.records.get(scope, ScopeRecord())
    kept = replace(rejection, claims=_bounded(rejection.claims))
    known = replace(knowledge, records={**knowledge.records, scope: replace(former, rejected=kept)})
    text = f"{plural(len(rejection.claims), 'claim')} found nowhere: {'; '.join(rejection.claims)}"
    return _logged(known, scope, rejection, "rejected", text)


def _is_rejected(knowledge: Knowledge, scope: Scope) -> bool:
    rejected = knowledge.records.get(scope, ScopeRecord()).rejected
    return rejected is not None and rejected.inputs == digest_of_inputs(inputs_of(knowledge, scope))


def _logged(
    knowledge: Knowledge, scope: Scope, made: Synthesis | Rejection, outcome: str, text: str
) -> Knowledge:
    entry = LogEntry(
        at=made.at,
        machine=made.machine,
        scope=scope,
        outcome=outcome,
        provider=made.provider,
        model=made.model,
        usd=made.usd,
        text=text[:MAX_LOG_TEXT],
    )
    return replace(knowledge, log=merge_logs(knowledge.log, (entry,)))


def _bounded(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text[:MAX_TEXT] for text in texts[:MAX_TEXTS])
