"""The branch `knowledge`: CLAUDE.md files and settings of all machines, and what became of them together.

Owns the words and the branch's layout; `knowledge_tree` reads and writes it, `knowledge_merge` brings two
of its trees together. Every machine writes below its own folder only; what was consolidated belongs to
whoever synthesized last.

    machines/<machine>/machine.json                     its name, and what it applied last
    machines/<machine>/global/{CLAUDE.md,settings.json} canonical form, as all documents here
    machines/<machine>/projects/<project id>/{CLAUDE.md,.claude/CLAUDE.md,memory/…}
    consolidated/<scope>/…                              the same names
    meta/last-synthesis.json                            what went into each scope, and who made it of what
    meta/sync-log.json                                  what was synthesized when; only ever added to

What a newer version puts beside these at the top or below `meta/` is carried along; for anything else it
raises the schema of the file that tells of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NewType

from convergenced.merge.documents import Fields
from convergenced.merge.names import MAX_DEPTH, find_fault, valid_project_id
from convergenced.model import MachineId, Oid, ProjectId, TreeEntry

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

PROJECTS = "projects"
MEMORY = "memory"
NOTE_SUFFIX = ".md"
FIXED_GLOBAL = frozenset({DocumentPath("CLAUDE.md"), SETTINGS})
FIXED_PROJECT = frozenset({DocumentPath("CLAUDE.md"), DocumentPath(".claude/CLAUDE.md")})
"""The documents of a scope that have one name each; a project has notes below `memory/` besides."""

MAX_MACHINES = 1_000
MAX_PROJECTS = 10_000
MAX_NOTES = 2_000
"""Machines, projects of one machine and notes of one project that are read, at most."""

MAX_DOCUMENT_BYTES = 1 << 20
"""Bytes in a document, at most: larger ones are left out."""

MAX_LOG = 1_000
"""Entries of the log that are kept, the newest; the others are in the branch's history."""


def project_scope(project: ProjectId) -> Scope:
    """The scope of one project."""
    return Scope(f"{PROJECTS}/{project}")


def is_scope(text: str) -> bool:
    """Whether `text` can be a scope."""
    folder, slash, project = text.partition("/")
    return text == GLOBAL or (folder == PROJECTS and bool(slash) and valid_project_id(project))


def is_document(scope: Scope, path: str) -> bool:
    """Whether a scope can have a document of that path."""
    if scope == GLOBAL:
        return path in FIXED_GLOBAL
    names = path.split("/")
    is_note = names[0] == MEMORY and 1 < len(names) <= MAX_DEPTH and path.endswith(NOTE_SUFFIX)
    return path in FIXED_PROJECT or (is_note and not any(map(find_fault, names)))


@dataclass(frozen=True, slots=True)
class MachineKnowledge:
    """What one machine knows: its documents, and what it was last seen to hold of the consolidated ones.

    `applied` names for a document the consolidated blob that the machine's own was equal to most recently;
    what it has now was made from that. `anew` names documents, by their blobs, for which that says nothing:
    the machine went back to an older state, so what they lack was not removed.
    """

    name: str = ""
    documents: Mapping[Scope, Documents] = field(default_factory=dict)
    applied: Mapping[Scope, Documents] = field(default_factory=dict)
    anew: Mapping[Scope, Documents] = field(default_factory=dict)
    revision: int = 0
    """Grows with every commit that changes this, so that of two versions the newer one is known. Whoever
    commits sees to it (`with_revisions`); nobody else needs to set it."""
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
    other: Fields = field(default_factory=dict)


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
    other: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScopeRecord:
    """What `meta/last-synthesis.json` says of one scope."""

    written: Synthesis | None = None
    rejected: Rejection | None = None
    revision: int = 0
    """As a machine's; grows where `written` or the consolidated documents of the scope change."""
    former: Mapping[DocumentPath, tuple[Oid, ...]] = field(default_factory=dict)
    """What the consolidated documents were made from, the latest first, a few of each: a machine that
    applied one of these holds nothing that was not considered."""
    other: Fields = field(default_factory=dict)


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
    other: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The whole branch, read. Documents are named by their blobs; scopes without any are not there.

    `log` has the oldest entry first.
    """

    machines: Mapping[MachineId, MachineKnowledge] = field(default_factory=dict)
    consolidated: Mapping[Scope, Documents] = field(default_factory=dict)
    records: Mapping[Scope, ScopeRecord] = field(default_factory=dict)
    log: tuple[LogEntry, ...] = ()
    other: Fields = field(default_factory=dict)
    """Fields of `meta/last-synthesis.json` that a newer version wrote, kept."""
    others: tuple[TreeEntry, ...] = ()
    """Entries of the root that are not ours (a newer version's, a hub's workflows), kept."""
    others_meta: tuple[TreeEntry, ...] = ()
    """The same below `meta/`."""
