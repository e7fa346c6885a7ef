"""Shared knowledge as it stands in requests and answers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from convergenced.control import knowledge_answers as answers
from convergenced.control.params import text_in, truth_in
from convergenced.control.protocol import Json
from convergenced.control.status import iso
from convergenced.errors import UsageError
from convergenced.knowledge.librarian import Librarian
from convergenced.knowledge.look import Look
from convergenced.knowledge.standing import PlannedChange, Standing
from convergenced.knowledge.synthesis import ScopeResult
from convergenced.knowledge.worker import ScopePlan
from convergenced.machine.settings_schema import Settings
from convergenced.merge.contributions import contributions
from convergenced.merge.knowledge import GLOBAL, Knowledge, Scope, ScopeRecord, project_scope
from convergenced.merge.marks import Mark
from convergenced.model import MachineId, ProjectId
from convergenced.sync.board import Attention
from convergenced.sync.replica import Machine, Replica

Only = frozenset[Scope] | None
"""The scopes that are meant; None for all."""


def meant_in(
    params: dict[str, Json], replicas: Iterable[Replica], machine: Machine, knowledge: Knowledge
) -> Only:
    """The scopes that a request is about: `global_only`, or `project`, an id or a folder seen from `path`.

    Raises `UsageError` for a project that neither is here nor has anything consolidated.
    """
    if truth_in(params, "global_only"):
        return frozenset({GLOBAL})
    project = text_in(params, "project", None)
    if project is None:
        return None
    place = os.path.realpath(os.path.join(text_in(params, "path", None) or os.sep, project))
    here = set()
    for replica in replicas:
        if replica.project == project or place in (replica.root, replica.context_dir(machine)):
            return frozenset({project_scope(replica.project)})
        here.add(replica.project)
    if (scope := project_scope(ProjectId(project))) in knowledge.consolidated:
        return frozenset({scope})  # of another machine's project
    mine = ", ".join(sorted(here)) or "none yet"
    raise UsageError(f"there is no project {project!r} here", f"the projects here: {mine}")


def is_meant(name: str, only: Only) -> bool:
    """Whether a document, as `scope/path`, is among those that are meant."""
    return only is None or any(name.startswith(f"{scope}/") for scope in only)


def format_status(
    look: Look | None,
    settings: Settings,
    machine: Machine,
    only: Only,
    waiting: Iterable[str],
    trouble: Iterable[Attention] = (),
) -> answers.KnowledgeStatus:
    """The answer to `knowledge_status`; `look` is None while nothing is shared.

    `trouble` is what keeps it from going on, beside what the look set aside.
    """
    shared = settings.knowledge
    scopes = [] if look is None else [_scope(look, scope) for scope in _scopes(look, only)]
    secrets = () if look is None else look.secrets
    troubles = [_trouble(one.text, one.fix) for one in trouble]
    if look is not None:
        troubles += format_refusals(look, only)
    return {
        "enabled": shared.enabled,
        "provider": shared.provider,
        "model": shared.model,
        "synthesizer": shared.synthesizer,
        "machine": machine.name,
        "scopes": scopes,
        "waiting": list(waiting),
        "trouble": troubles,
        "secrets": [text for text in secrets if is_meant(text, only)],
    }


def format_refusals(look: Look, only: Only) -> list[answers.Trouble]:
    """What can take no part, or could not be written."""
    return [
        _trouble(f"{one.where} {one.reason}", one.remedy)
        for one in look.refusals
        if is_meant(one.where, only)
    ]


def _trouble(text: str, hint: str) -> answers.Trouble:
    return {"text": text, "hint": hint}


def waiting_of(librarian: Librarian) -> list[str]:
    """Why nothing happens just now, or what does, in words."""
    found = []
    if librarian.synthesizing is not None:
        found.append(f"a synthesis is under way: {librarian.synthesizing}")
    if librarian.composing is not None:
        found.append(f"first documents are composed: {librarian.composing}")
    last = librarian.last
    if last is not None and last.held:
        found.append(last.held)
    return found


def format_changes(look: Look, only: Only, *, declined: bool = False) -> list[answers.Change]:
    """What applying would change and nobody declined, or what somebody did."""
    return [
        _change(change, look.plan.held)
        for change in look.plan.changes
        if is_meant(change.place.name, only) and (change.id in look.declined) == declined
    ]


def format_diff(look: Look, only: Only) -> answers.KnowledgeDiff:
    """The answer to `knowledge_diff`."""
    return {
        "changes": format_changes(look, only),
        "declined": format_changes(look, only, declined=True),
    }


def format_planned(plan: ScopePlan, documents: list[str], machines: list[str]) -> answers.Planned:
    """One scope of a synthesis that would be made."""
    return {
        "scope": plan.scope,
        "documents": documents,
        "machines": machines,
        "calls": plan.calls,
        "usd": plan.usd,
        "text": plan.text,
    }


def format_result(result: ScopeResult) -> answers.Synthesized:
    """One scope of a synthesis that was made."""
    listed = result.claims if result.outcome == "rejected" else result.marks
    return {
        "scope": result.scope,
        "outcome": result.outcome,
        "text": result.text,
        "marks": list(listed),
        "usd": result.usd,
    }


def _scopes(look: Look, only: Only) -> Iterator[Scope]:
    known = look.knowledge
    found = set(known.consolidated) | {scope for one in known.machines.values() for scope in one.documents}
    for scope in sorted(found, key=lambda one: (one != GLOBAL, one)):
        if only is None or scope in only:
            yield scope


def _scope(look: Look, scope: Scope) -> answers.Scope:
    knowledge = look.knowledge
    known = knowledge.records.get(scope, ScopeRecord())
    written, rejected = known.written, known.rejected
    return {
        "scope": scope,
        "machines": [
            one.name or str(oid) for oid, one in sorted(knowledge.machines.items()) if scope in one.documents
        ],
        "due": bool(contributions(knowledge, scope)),
        "synthesized": iso(written.at) if written is not None else None,
        "by": name_of(knowledge, written.machine) if written is not None else None,
        "provider": written.provider if written is not None else "",
        "model": written.model if written is not None else "",
        "usd": written.usd if written is not None else 0.0,
        "rejected": list(rejected.claims) if rejected is not None else [],
        "documents": [_document(one) for one in look.plan.documents if one.scope == scope],
    }


def _document(one: Standing) -> answers.Document:
    return {
        "scope": one.scope,
        "path": one.path,
        "local": one.local,
        "state": one.state,
        "text": one.text,
        "marks": [_mark(mark) for mark in one.marks],
    }


def _change(change: PlannedChange, held: str) -> answers.Change:
    diff, added, removed = change.diff()
    return {
        "id": change.id,
        "scope": change.place.scope,
        "path": change.place.path,
        "local": change.place.local,
        "kind": change.kind,
        "setting": change.key,
        "before": change.before,
        "after": change.after,
        "diff": diff,
        "added": added,
        "removed": removed,
        "consent": change.consent,
        "text": change.reason,
        "held": held,
        "marks": [_mark(mark) for mark in change.marks],
    }


def _mark(mark: Mark) -> str:
    return f"line {mark.line}: {mark.kind}: {mark.text}"


def name_of(knowledge: Knowledge, machine: MachineId) -> str:
    """A machine's name for people."""
    known = knowledge.machines.get(machine)
    return (known.name if known is not None else "") or machine
