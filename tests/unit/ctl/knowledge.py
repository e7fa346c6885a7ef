"""Answers about shared knowledge, as a daemon would give them, in a home folder that is not ASCII."""

from __future__ import annotations

from typing import cast

from convergenced.control.knowledge_answers import (
    Change,
    Document,
    KnowledgeApplied,
    KnowledgeBootstrap,
    KnowledgePushed,
    KnowledgeScaffold,
    KnowledgeStatus,
    KnowledgeSynthesis,
    Planned,
    Scope,
    Synthesized,
)
from convergenced.control.protocol import Json

HOME = "/home/änne"
GLOBAL_FILE = f"{HOME}/.claude/CLAUDE.md"
SETTINGS_FILE = f"{HOME}/.claude/settings.json"
PROJECT_FILE = f"{HOME}/src/größe/CLAUDE.md"
HOSTILE = "a\x1b[2Jb\x9b31m\u202e\u200b\U000e0041\U000e0100"


def json(answer: object) -> Json:
    return cast("Json", answer)


def document(state: str = "same", text: str = "", **more: object) -> Document:
    found: dict[str, object] = {
        "scope": "global",
        "path": "CLAUDE.md",
        "local": GLOBAL_FILE,
        "state": state,
        "text": text,
        "marks": [],
    }
    return cast("Document", found | more)


def scope(name: str, *documents: Document, **more: object) -> Scope:
    found: dict[str, object] = {
        "scope": name,
        "machines": ["desktop", "laptop", "büro"],
        "due": False,
        "synthesized": "2031-05-04T09:05:00Z",
        "by": "laptop",
        "provider": "anthropic",
        "model": "model-5",
        "usd": 0.042,
        "rejected": [],
        "documents": list(documents),
    }
    return cast("Scope", found | more)


def status(*scopes: Scope, **more: object) -> KnowledgeStatus:
    found: dict[str, object] = {
        "enabled": True,
        "provider": "anthropic",
        "model": "",
        "synthesizer": "",
        "machine": "desktop",
        "scopes": list(scopes),
        "waiting": [],
        "trouble": [],
        "secrets": [],
    }
    return cast("KnowledgeStatus", found | more)


def project(*documents: Document, **more: object) -> Scope:
    return scope("projects/größe", *documents, **more)


def in_project(state: str = "same", text: str = "", **more: object) -> Document:
    return document(state, text, **({"scope": "projects/größe", "local": PROJECT_FILE} | more))


def text_change(number: str = "3f9c0a12bd44", **more: object) -> Change:
    found: dict[str, object] = {
        "id": number,
        "scope": "global",
        "path": "CLAUDE.md",
        "local": GLOBAL_FILE,
        "kind": "text",
        "setting": "",
        "before": None,
        "after": None,
        "diff": "--- here\n+++ merged\n@@ -1,2 +1,2 @@\n # Build\n-make all\n+make größe -j4\n",
        "added": 1,
        "removed": 1,
        "consent": "no",
        "text": "",
        "held": "",
        "marks": [],
    }
    return cast("Change", found | more)


def large(number: str = "5d1200fe77a1", **more: object) -> Change:
    why = "more than half of the lines change (41 of 52)"
    return text_change(number, **({"consent": "large", "text": why, "added": 40, "removed": 38} | more))


def setting(number: str = "81b5c0de9f02", **more: object) -> Change:
    found: dict[str, object] = {
        "path": "settings.json",
        "local": SETTINGS_FILE,
        "kind": "setting",
        "setting": "hooks.Stop",
        "before": None,
        "after": [{"hooks": [{"type": "command", "command": "make check"}]}],
        "diff": '@@ -0,0 +1,5 @@\n+"hooks": {"Stop": [\n+  {"command": "make check"}\n+]}\n',
        "added": 3,
        "removed": 0,
        "consent": "runs",
        "text": "it runs a command on this machine: make check",
    }
    return text_change(number, **(found | more))


def applied(**more: object) -> KnowledgeApplied:
    found: dict[str, object] = {
        "applied": [],
        "backups": [],
        "declined": [],
        "left": [],
        "trouble": [],
    }
    return cast("KnowledgeApplied", found | more)


def pushed(**more: object) -> KnowledgePushed:
    found: dict[str, object] = {
        "documents": ["global/CLAUDE.md", "projects/größe/CLAUDE.md"],
        "peers": ["hub"],
        "left_out": [],
    }
    return cast("KnowledgePushed", found | more)


def planned(name: str = "global", **more: object) -> Planned:
    found: dict[str, object] = {
        "scope": name,
        "documents": ["CLAUDE.md", "settings.json"],
        "machines": ["desktop", "laptop"],
        "calls": 2,
        "usd": 0.12,
        "text": "CLAUDE.md is merged by a model, settings.json key by key",
    }
    return cast("Planned", found | more)


def synthesized(name: str = "global", outcome: str = "merged", **more: object) -> Synthesized:
    found: dict[str, object] = {
        "scope": name,
        "outcome": outcome,
        "text": "CLAUDE.md of 2 machines",
        "marks": [],
        "usd": 0.042,
    }
    return cast("Synthesized", found | more)


def synthesis(done: list[Synthesized], plan: list[Planned] | None = None) -> KnowledgeSynthesis:
    return {"provider": "anthropic", "planned": plan or [], "done": done}


def draft(number: str = "d1", **more: object) -> KnowledgeBootstrap:
    found: dict[str, object] = {
        "id": number,
        "scope": "projects/größe",
        "local": PROJECT_FILE,
        "text": "# größe\n\n- tests: make check\n",
        "diff": "",
        "exists": False,
        "sources": ["12 notes", "40 sessions"],
        "usd": 0.02,
        "trouble": "",
        "written": False,
    }
    return cast("KnowledgeBootstrap", found | more)


def scaffolded(**more: object) -> KnowledgeScaffold:
    found: dict[str, object] = {
        "peer": "hub",
        "file": ".github/workflows/knowledge.yml",
        "written": True,
        "commit": "52a0fb1c9e" + "0" * 30,
        "next": ["add the secret ANTHROPIC_API_KEY: https://github.com/you/context/settings/secrets/actions"],
        "existing": None,
        "text": "on: workflow_dispatch\n",
    }
    return cast("KnowledgeScaffold", found | more)
