"""One scope's documents out of those of several machines: copied, merged by rule, or merged by a model.

Promises: a scope is taken whole or not at all; what a model answers is checked before it counts, and can
change nothing but the document it was asked for; a secret never stands in what is asked; no call is made
that could cost more than what is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from convergenced.merge.markdown import Version


@dataclass(frozen=True, slots=True)
class DocumentTask:
    """One document to make: what is consolidated now, and what machines made of it. Canonical bytes."""

    path: str
    current: bytes | None
    versions: tuple[Version, ...]


@dataclass(frozen=True, slots=True)
class ScopeTask:
    """The documents of one scope that somebody changed."""

    scope: str
    documents: tuple[DocumentTask, ...]


@dataclass(frozen=True, slots=True)
class ScopeResult:
    """What became of a task. `documents` is empty where it was rejected or failed.

    `marks` describe the contradictions and unverified claims that stand in the documents, `claims` what a
    rejected one claimed; `prompt` is a digest of the prompts, `usd` what was spent, also in vain.
    """

    scope: str
    outcome: Literal["copied", "merged", "rejected", "failed"]
    documents: Mapping[str, bytes] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    model: str = ""
    prompt: str = ""
    usd: float = 0.0
    text: str = ""
