"""What `knowledge status` shows: one true line, the scopes, and what needs a person.

Promise: nothing is called in step that is not; of other machines only what they said is told.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from convergenced.errors import AttentionError
from convergenced.wording import plural

from ..render import Column, Terminal, table, when
from .words import document_name, dollars, file_name, made_by, marks_in, scope_name, trouble_lines, visible

if TYPE_CHECKING:
    from convergenced.control.knowledge_answers import Document, KnowledgeStatus, Scope

MAX_CLAIMS = 10
"""Claims of a rejected synthesis that are shown."""
NARROW = 80
"""Columns below which times are shown without the time of day."""
_FOR_A_PERSON = {"person", "removed"}
_ON_THE_WAY = {"waits", "edited"}
_TOLD = {"held", "declined"} | _ON_THE_WAY
"""States that are told of, but need nobody."""
_COLUMNS = (
    Column("SCOPE", least=8, path=True),
    Column("STATE"),
    Column("MACHINES", least=8, drop=1),
    Column("SYNTHESIZED"),
    Column("BY", least=6, drop=2),
    Column("PROVIDER", least=9, drop=4),
    Column("COST", right=True, drop=3),
)


def exit_code(status: KnowledgeStatus) -> int:
    """5 where something needs a person, else 0."""
    if not status["enabled"]:
        return 0
    settled = not (status["secrets"] or status["trouble"] or any(one["rejected"] for one in status["scopes"]))
    well = settled and not any(one["state"] in _FOR_A_PERSON or one["marks"] for one in _documents(status))
    return 0 if well else AttentionError.exit_code


def lines(status: KnowledgeStatus, terminal: Terminal, now: float) -> list[str]:
    """All of it for people."""
    if not status["enabled"]:
        return [
            terminal.style("off: CLAUDE.md and settings are not shared from this machine", "bold"),
            "  → convergencectl knowledge enable",
        ]
    text = verdict(status)
    is_well = exit_code(status) == 0 and not status["waiting"]
    out = [
        terminal.style(line, "bold", "green" if is_well else "yellow") for line in terminal.paragraph(text)
    ]
    first = visible(status["synthesizer"]) or "whichever machine is first"
    provider = made_by(status["provider"], status["model"])
    about = f"provider {provider}, started by {first}; this machine is {visible(status['machine'])}"
    out += [terminal.style(line, "dim") for line in terminal.paragraph(about)]
    for part in (_table(status["scopes"], terminal, now), [*_needs(status, terminal)]):
        out += ["", *part] if part else []
    return out


def verdict(status: KnowledgeStatus) -> str:
    """How things are in one line, the gravest first."""
    documents = _documents(status)
    clauses = [_rejection(one) for one in status["scopes"] if one["rejected"]]
    if status["trouble"]:
        clauses.append(plural(len(status["trouble"]), "trouble"))
    clauses += [visible(one) for one in status["waiting"]]
    if count := sum(one["state"] in _FOR_A_PERSON for one in documents):
        clauses.append("1 document waits for you" if count == 1 else f"{count} documents wait for you")
    if count := sum(len(one["marks"]) for one in documents):
        clauses.append(f"{plural(count, 'marked line')} to settle")
    if status["secrets"]:
        clauses.append(f"apparent secrets in {plural(len(status['secrets']), 'document')}")
    if count := sum(one["state"] == "held" for one in documents):
        clauses.append(f"{plural(count, 'document')} held")
    if count := sum(one["state"] in _ON_THE_WAY for one in documents):
        clauses.append(f"{plural(count, 'document')} on the way")
    if not clauses and (due := [scope_name(one["scope"]) for one in status["scopes"] if one["due"]]):
        clauses.append(f"to be merged: {', '.join(due)}")
    return "; ".join(clauses) or _all_well(status)


def _all_well(status: KnowledgeStatus) -> str:
    documents = _documents(status)
    here = [one for one in documents if one["state"] == "same"]
    machines = {name for one in status["scopes"] for name in one["machines"]}
    if not documents:
        return "on; no CLAUDE.md and no settings.json was found yet"
    if not here and any(one["state"] == "declined" for one in documents):
        return "nothing of it is applied here, as you said"
    if not here:
        return f"nothing of it is on this machine; it comes from {', '.join(sorted(map(visible, machines)))}"
    if machines <= {status["machine"]}:
        return f"{plural(len(here), 'document')} shared; no other machine has any yet"
    what = "1 document here is" if len(here) == 1 else f"{len(here)} documents here are"
    return f"in step: {what} what {plural(len(machines), 'machine')} know together"


def _rejection(scope: Scope) -> str:
    claims = plural(len(scope["rejected"]), "claim")
    return f"{scope_name(scope['scope'])} rejected: {claims} that nobody made"


def _documents(status: KnowledgeStatus) -> list[Document]:
    return [document for scope in status["scopes"] for document in _applied(scope)]


def _applied(scope: Scope) -> list[Document]:
    """The documents that are applied from here: all but notes, which come with the sessions."""
    return [one for one in scope["documents"] if not one["path"].startswith("memory/")]


def _table(scopes: Sequence[Scope], terminal: Terminal, now: float) -> list[str]:
    if not scopes:
        return []
    short = terminal.width < NARROW
    rows = [
        [
            scope_name(one["scope"]),
            _state_of(one),
            visible(", ".join(one["machines"])),
            when(one["synthesized"], now, short=short),
            visible(one["by"] or "-"),
            made_by(one["provider"], one["model"]) or "-",
            dollars(one["usd"]),
        ]
        for one in scopes
    ]
    head, *body = table(_COLUMNS, rows, terminal.width)
    return [terminal.style(head, "dim"), *body]


_STATES: Mapping[str, str] = {
    "person": "waits for you",
    "removed": "waits for you",
    "held": "held",
    "edited": "to merge",
    "waits": "to apply",
    "same": "in step",
    "declined": "declined",
    "elsewhere": "not here",
}
"""What a scope's state is called, by the gravest of its documents' states."""


def _state_of(scope: Scope) -> str:
    if scope["rejected"]:
        return "rejected"
    states = {one["state"] for one in _applied(scope)}
    gravest = next((word for state, word in _STATES.items() if state in states), "notes only")
    return "to merge" if scope["due"] and gravest != _STATES["person"] else gravest


def _needs(status: KnowledgeStatus, terminal: Terminal) -> Iterator[str]:
    """What a person has to do, each with what settles it; then what comes right by itself."""
    yield from trouble_lines(status["trouble"], terminal)
    documents = _documents(status)
    persons = [one for one in documents if one["state"] in _FOR_A_PERSON]
    for one in persons:
        yield from terminal.paragraph(f"{_where(one)}: {visible(one['text'])}", first="! ", indent="  ")
    if persons:
        yield "  → convergencectl knowledge apply"
    for scope in status["scopes"]:
        if scope["rejected"]:
            yield from _rejected(scope, terminal)
    marked = [mark for one in documents for mark in _marks(one)]
    for mark in marked:
        yield from terminal.paragraph(mark, first="! ", indent="  ")
    if marked:
        yield "  → edit it, then: convergencectl knowledge push"
    for secret in status["secrets"]:
        yield from terminal.paragraph(visible(secret), first="! ", indent="  ")
    if status["secrets"]:
        yield "  → take it out, or: convergencectl scan --allow FINGERPRINT"
    for one in documents:
        if one["state"] in _TOLD:
            yield from terminal.paragraph(f"{_where(one)}: {visible(one['text'])}", first="· ", indent="  ")
    if any(one["state"] == "declined" for one in documents):
        yield "  what that is: convergencectl knowledge diff"


def _rejected(scope: Scope, terminal: Terminal) -> Iterator[str]:
    text = f"{_rejection(scope)}; what was there before stays:"
    yield from terminal.paragraph(text, first="! ", indent="  ")
    for claim in scope["rejected"][:MAX_CLAIMS]:
        yield from terminal.paragraph(visible(claim), first="    - ", indent="      ")
    if (more := len(scope["rejected"]) - MAX_CLAIMS) > 0:
        yield f"    … and {more} more"
    yield f"  → convergencectl knowledge synthesize --force{_option(scope)}"


def _option(scope: Scope) -> str:
    if scope["scope"] == "global":
        return " --global-only"
    return f" --project {visible(shlex.quote(scope['scope'].removeprefix('projects/')))}"


def _where(document: Document) -> str:
    if document["local"] is None:
        return document_name(document["scope"], document["path"])
    return file_name(document["local"])


def _marks(document: Document) -> Iterator[str]:
    """With the file's name only where these are the file's lines."""
    if document["local"] is not None and document["state"] == "same":
        yield from marks_in(document["local"], document["marks"])
    else:
        name = document_name(document["scope"], document["path"])
        yield from (f"{name}, not applied here, {visible(mark)}" for mark in document["marks"])
