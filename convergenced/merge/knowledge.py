"""The branch `knowledge`: CLAUDE.md files and settings of all machines, and what became of them together.

Owns the branch's layout and the merge of two of its trees. Every machine writes below its own folder
only; what was consolidated belongs to whoever synthesized last.

    machines/<machine>/machine.json                     its name, and what it applied last
    machines/<machine>/global/{CLAUDE.md,settings.json} canonical form, as all documents here
    machines/<machine>/projects/<project id>/{CLAUDE.md,.claude/CLAUDE.md,memory/…}
    consolidated/<scope>/…                              the same names
    meta/last-synthesis.json                            what went into each scope, and who made it of what
    meta/sync-log.json                                  what was synthesized when; only ever added to
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NewType

from convergenced.merge.documents import Fields
from convergenced.model import MachineId, Oid, ProjectId

Scope = NewType("Scope", str)
"""`global`, or `projects/<project id>`."""

DocumentPath = NewType("DocumentPath", str)
"""A document's path within its scope, such as `CLAUDE.md` or `memory/build.md`."""

GLOBAL = Scope("global")
SETTINGS = DocumentPath("settings.json")
"""The one document that is not Markdown; in the scope `global` only."""

Documents = Mapping[DocumentPath, Oid]
"""Blobs in canonical form."""

Outcome = Literal["copied", "merged"]


def project_scope(project: ProjectId) -> Scope:
    """The scope of one project."""
    return Scope(f"projects/{project}")


@dataclass(frozen=True, slots=True)
class MachineKnowledge:
    """What one machine knows: its documents, and what it was last seen to hold of the consolidated ones.

    `applied` names for a document the consolidated blob that the machine's own was equal to most recently;
    what it has now was made from that.
    """

    name: str = ""
    documents: Mapping[Scope, Documents] = field(default_factory=dict)
    applied: Mapping[Scope, Documents] = field(default_factory=dict)
    other: Fields = field(default_factory=dict)
    """Fields of `machine.json` that a newer version wrote, kept."""


@dataclass(frozen=True, slots=True)
class Input:
    """One machine's document when a scope was synthesized, and what it had applied by then."""

    document: Oid
    applied: Oid | None = None


Inputs = Mapping[MachineId, Mapping[DocumentPath, Input]]


@dataclass(frozen=True, slots=True)
class Synthesis:
    """How a scope came to be what it is. `at` is Unix seconds, `usd` what it cost, 0 for no model.

    `marks` are the descriptions of contradictions and unverified claims that stand in it.
    """

    at: int
    machine: MachineId
    provider: str
    outcome: Outcome
    inputs: Inputs
    model: str = ""
    prompt: str = ""
    """A digest of the prompts that were used."""
    usd: float = 0.0
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejection:
    """A synthesis that was not believed: the scope stays as it was until its inputs change.

    `inputs` is what `digest_of_inputs` said of what went in.
    """

    at: int
    machine: MachineId
    provider: str
    inputs: str
    claims: tuple[str, ...]
    model: str = ""
    prompt: str = ""
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class ScopeRecord:
    """What `meta/last-synthesis.json` says of one scope."""

    written: Synthesis | None = None
    rejected: Rejection | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of `meta/sync-log.json`."""

    at: int
    machine: MachineId
    scope: Scope
    outcome: str
    """An `Outcome`, or `rejected`."""
    provider: str
    model: str = ""
    usd: float = 0.0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The whole branch, read. Documents are named by their blobs."""

    machines: Mapping[MachineId, MachineKnowledge] = field(default_factory=dict)
    consolidated: Mapping[Scope, Documents] = field(default_factory=dict)
    records: Mapping[Scope, ScopeRecord] = field(default_factory=dict)
    log: tuple[LogEntry, ...] = ()
    other: Fields = field(default_factory=dict)
    """Fields of `meta/last-synthesis.json` that a newer version wrote, kept."""
