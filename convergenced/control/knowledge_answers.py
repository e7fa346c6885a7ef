"""The shapes of what the daemon answers about shared knowledge, as they stand in JSON.

Times are ISO 8601 in UTC or None. A document is named by its scope (`global`, `projects/<id>`) and its
path within that (`CLAUDE.md`, `.claude/CLAUDE.md`, `settings.json`, `memory/…`).
"""

from __future__ import annotations

from typing import Literal, TypedDict

from convergenced.merge.documents import Json

DocumentState = Literal["same", "waits", "held", "person", "edited", "removed", "declined", "elsewhere"]
"""How this machine's document stands to the consolidated one: the same; not synthesized or applied yet;
held while Claude Code runs; waits for a person's yes; edited here since (a synthesis takes that in first);
removed here, and waits for a person too; not wanted here, as a person said; or not on this machine at all."""


class Document(TypedDict):
    """One consolidated document, or one of this machine's that is not consolidated yet."""

    scope: str
    path: str
    local: str | None
    """Where it is on this machine; None where its project is not here."""
    state: DocumentState
    text: str
    """Why it is in that state, in words; empty for `same`."""
    marks: list[str]
    """What stands in it as CONFLICT or UNVERIFIED, with its line: `line 12: CONFLICT: …`."""


class Scope(TypedDict):
    """One scope: who has something to say in it, and its last synthesis."""

    scope: str
    machines: list[str]
    """Names of the machines that have documents of it."""
    due: bool
    """Whether something changed since the last synthesis."""
    synthesized: str | None
    by: str | None
    provider: str
    model: str
    usd: float
    rejected: list[str]
    """Claims for which the newest attempt was rejected; empty where it was not."""
    documents: list[Document]


class Trouble(TypedDict):
    """What is not as it should be: a provider that fails, a file that can take no part."""

    text: str
    hint: str
    """What a person can do about it."""


class KnowledgeStatus(TypedDict):
    """The answer to `knowledge_status`, parameters: `scope` (None: all)."""

    enabled: bool
    provider: str
    model: str
    synthesizer: str
    machine: str
    scopes: list[Scope]
    waiting: list[str]
    """Why nothing happens just now, or what does, in words (Claude Code runs, a synthesis is under way …)."""
    trouble: list[Trouble]
    secrets: list[str]
    """Documents with apparent secrets, in words: what goes to no model, or is not shared at all."""


class Change(TypedDict):
    """One change that `knowledge apply` would make. `id` names this very change."""

    id: str
    scope: str
    path: str
    local: str
    kind: Literal["text", "setting"]
    setting: str
    """The key that changes, such as `permissions.allow`; empty for a text."""
    before: Json
    after: Json
    """Values of the setting; None where it is absent. For texts None."""
    diff: str
    """Unified diff of a text or of the setting's value."""
    added: int
    removed: int
    consent: Literal["no", "large", "reads", "runs", "removed"]
    """Why a person is asked: not at all, more than half of a text changes, the text has further files read,
    the setting can run a command or widen a permission, or the document was removed here."""
    text: str
    """That, in words."""
    held: str
    """Why it cannot be written just now (Claude Code runs …); empty where it can."""
    marks: list[str]


class KnowledgeDiff(TypedDict):
    """The answer to `knowledge_diff`, parameters: `scope`."""

    changes: list[Change]
    declined: list[Change]
    """What somebody declined and would still be a change: accepting it takes that back."""


class KnowledgeApplied(TypedDict):
    """The answer to `knowledge_apply`, parameters: `scope`, `accept`, `decline` (ids of changes).

    Without `accept` what needs nobody's yes is applied. `left` are the changes that remain.
    """

    applied: list[str]
    """The files that were written."""
    backups: list[str]
    declined: list[str]
    left: list[Change]
    trouble: list[Trouble]
    """What can take no part, or could not be written."""


class KnowledgePushed(TypedDict):
    """The answer to `knowledge_push`, parameters: `scope`."""

    documents: list[str]
    """What was new in this machine's snapshot, as `scope/path`."""
    peers: list[str]
    """Peers that have it now."""
    left_out: list[str]
    """What is not shared, and why, in words."""


class Planned(TypedDict):
    """One scope of a synthesis that would be made."""

    scope: str
    documents: list[str]
    machines: list[str]
    calls: int
    """Calls of a model, at most."""
    usd: float
    """Dollars, at most."""
    text: str
    """What would be done, in words: copied, merged by a model, merged by section …"""


class Synthesized(TypedDict):
    """One scope of a synthesis that was made."""

    scope: str
    outcome: Literal["copied", "merged", "rejected", "failed"]
    text: str
    marks: list[str]
    usd: float


class KnowledgeSynthesis(TypedDict):
    """The answer to `knowledge_synthesize`, parameters: `scope`, `dry_run`, `wait`, `force`, `timeout`.

    `planned` where `dry_run`; `done` where it was waited for; else both are empty and it goes on by itself.
    """

    provider: str
    planned: list[Planned]
    done: list[Synthesized]


class KnowledgeBootstrap(TypedDict):
    """One file that `knowledge bootstrap` would write or wrote.

    The answer to `knowledge_bootstrap` is a list of these; parameters: `scope`, `write` (ids). Without
    `write` they are composed, and kept for an hour; with it those are written, word for word as they were
    answered. What a file is written over is what stood there then, or nothing is written.
    """

    id: str
    scope: str
    local: str
    text: str
    diff: str
    exists: bool
    sources: list[str]
    """What it was made from, in words: `12 notes`, `40 sessions`."""
    usd: float
    trouble: str
    """Why there is no text (then `id` is empty), or it was not written, in words; else empty."""
    written: bool


class KnowledgeScaffold(TypedDict):
    """The answer to `knowledge_scaffold`, parameters: `kind` (github, gitlab), `force`.

    A file that is there and differs is left alone without `force`: then `written` is false and `existing`
    its text. Where it is there and the same, `written` is false and `existing` None.
    """

    peer: str
    file: str
    """Its path in the peer's repository."""
    written: bool
    commit: str | None
    next: list[str]
    """What a person still has to do, a line each."""
    existing: str | None
    text: str
    """What is, or would be, in the file."""
