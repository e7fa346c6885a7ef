"""A project of ours that goes on under another id: what we know of it goes along.

Promises: nothing of it stays behind where other code has the name; what other machines said of the old name
stays theirs; to do it again, or after half of it, gives the same.
"""

from __future__ import annotations

from dataclasses import replace

from convergenced.merge.knowledge import Documents, Knowledge, MachineKnowledge, Scope, ScopeRecord
from convergenced.model import MachineId


def with_scope_moved(knowledge: Knowledge, machine: MachineId, old: Scope, new: Scope) -> Knowledge:
    """The knowledge in which a machine's documents of the scope `old` are of the scope `new`.

    The consolidated ones go along where nobody else had a part in them; where the new scope has its own,
    ours are taken into those by the next synthesis.
    """
    me = knowledge.machines.get(machine, MachineKnowledge())
    others = {one for one, known in knowledge.machines.items() if old in known.documents} - {machine}
    record = knowledge.records.get(old, ScopeRecord())
    if record.written is not None:
        others |= record.written.inputs.keys() - {machine}
    documents, applied, anew = dict(me.documents), dict(me.applied), dict(me.anew)
    consolidated, records = dict(knowledge.consolidated), dict(knowledge.records)
    ours: Documents = documents.pop(old, {})
    known: Documents = applied.pop(old, {})
    fresh: Documents = anew.pop(old, {})
    if ours:
        documents[new] = {**documents.get(new, {}), **ours}
    if not others:
        shared = consolidated.pop(old, {})
        records.pop(old, None)
        if shared and new not in consolidated:
            consolidated[new], records[new] = shared, record
            applied[new], anew[new] = known, fresh
    moved = replace(
        me,
        documents=documents,
        applied={scope: those for scope, those in applied.items() if those},
        anew={scope: those for scope, those in anew.items() if those},
    )
    machines = knowledge.machines if moved == me else {**knowledge.machines, machine: moved}
    return replace(knowledge, machines=machines, consolidated=consolidated, records=records)
