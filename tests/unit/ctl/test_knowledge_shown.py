"""The whole of what `knowledge` prints, at 100 and at 60 columns, as it stands in `knowledge_shown.txt`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctl.render import width
from tests.unit.ctl import knowledge as answers
from tests.unit.ctl.knowledge_stage import Stage, stage

__all__ = ["stage"]

GOLDEN = Path(__file__).with_name("knowledge_shown.txt")
CLAIMS = ["tests need Docker", "deploys on Fridays", "Ann owns it", "port 81"]
WHOLE = ("  → ", "  1. ", "  as it was before: ")
"""How lines begin that are never broken: what holds commands, addresses and paths to copy."""


def _well(on: Stage) -> list[str]:
    on.answer(
        "status",
        answers.json(
            answers.status(
                answers.scope(
                    "global",
                    answers.document(),
                    answers.document(path="settings.json", local=answers.SETTINGS_FILE),
                ),
                answers.project(answers.in_project(), provider="none", model="", usd=0.0),
            )
        ),
    )
    return ["status"]


def _needing(on: Stage) -> list[str]:
    on.answer(
        "status",
        answers.json(
            answers.status(
                answers.scope(
                    "global",
                    answers.document(
                        marks=["line 12: CONFLICT: tabs or 4 spaces", "line 31: UNVERIFIED: uses pnpm 9"]
                    ),
                    answers.document(
                        "person",
                        "hooks.Stop runs a command on this machine",
                        path="settings.json",
                        local=answers.SETTINGS_FILE,
                    ),
                ),
                answers.project(
                    answers.in_project(
                        "held", "Claude Code runs (pid 4242)", marks=["line 3: CONFLICT: port 80 or 8080"]
                    ),
                    due=True,
                    rejected=CLAIMS,
                ),
                answers.scope(
                    "projects/web",
                    answers.document("elsewhere", local=None, scope="projects/web"),
                    machines=["laptop"],
                    provider="",
                    model="",
                    usd=0.0,
                    synthesized=None,
                    by=None,
                ),
                waiting=["Claude Code runs in /src (pid 4242)"],
                trouble=[
                    {"text": "the Messages API refused the key", "hint": "set ANTHROPIC_API_KEY"},
                    {"text": "global/CLAUDE.md is a symbolic link to x, where nothing is", "hint": ""},
                ],
                secrets=["größe: CLAUDE.md line 8: an AWS key (3f9c0a12bd44) goes to no model"],
                provider="claude",
                model="model-5",
                synthesizer="laptop",
            )
        ),
    )
    return ["status"]


def _moving(on: Stage) -> list[str]:
    on.answer(
        "status",
        answers.json(
            answers.status(
                answers.scope("global", answers.document("edited", "edited here since"), due=True),
                answers.project(answers.in_project("waits", "not applied yet")),
                answers.scope(
                    "projects/old",
                    answers.document("declined", "you declined what is left", scope="projects/old"),
                ),
            )
        ),
    )
    return ["status"]


def _alone(on: Stage) -> list[str]:
    on.answer(
        "status",
        answers.json(answers.status(answers.scope("global", answers.document(), machines=["desktop"]))),
    )
    return ["status", "--global-only"]


def _nothing(on: Stage) -> list[str]:
    on.answer("status", answers.json(answers.status(provider="none")))
    return ["status"]


def _off(on: Stage) -> list[str]:
    on.answer("status", answers.json(answers.status(enabled=False)))
    return ["status"]


def _diff(on: Stage) -> list[str]:
    change = answers.large(held="Claude Code runs (pid 4242)", marks=["line 12: CONFLICT: tabs or 4 spaces"])
    on.answer(
        "diff", answers.json({"changes": [answers.text_change(), change, answers.setting()], "declined": []})
    )
    return ["diff"]


def _no_diff(on: Stage) -> list[str]:
    on.answer("diff", answers.json({"changes": [], "declined": []}))
    return ["diff"]


def _apply(on: Stage) -> list[str]:
    changes = [
        answers.text_change(marks=["line 12: CONFLICT: tabs or 4 spaces"]),
        answers.large(local=answers.PROJECT_FILE),
        answers.setting(),
    ]
    held = answers.text_change(
        "77", local=f"{answers.HOME}/src/web/CLAUDE.md", held="Claude Code runs (pid 4242)"
    )
    on.answer("diff", answers.json({"changes": [*changes, held], "declined": []}))
    backup = f"{answers.HOME}/.local/state/convergence/backups/knowledge/20310504T120500.000000Z/CLAUDE.md"
    on.answer(
        "apply",
        answers.json(
            answers.applied(applied=[answers.GLOBAL_FILE], backups=[backup], left=[*changes[1:], held])
        ),
    )
    return ["apply"]


def _push(on: Stage) -> list[str]:
    left_out = "größe: CLAUDE.md is left to the project's own git"
    on.answer("push", answers.json(answers.pushed(left_out=[left_out])))
    return ["push"]


def _plan(on: Stage) -> list[str]:
    copied = answers.planned(
        "projects/größe", calls=0, usd=0.0, machines=["laptop"], documents=["CLAUDE.md"], text="copied"
    )
    on.answer("synthesize", answers.json(answers.synthesis([], [answers.planned(), copied])))
    return ["synthesize", "--dry-run"]


def _outcomes(on: Stage) -> list[str]:
    marks = ["CLAUDE.md line 12: CONFLICT: tabs or 4 spaces"]
    rejected = answers.synthesized(
        "projects/größe",
        "rejected",
        text="4 claims that no machine made, and no more than 3 are taken",
        marks=[f"CLAUDE.md: {claim}" for claim in CLAIMS],
    )
    on.answer(
        "synthesize",
        answers.json(
            answers.synthesis(
                [
                    answers.synthesized(marks=marks),
                    rejected,
                    answers.synthesized("projects/web", "copied", text="", usd=0.0),
                ]
            )
        ),
    )
    return ["synthesize", "--wait"]


def _bootstrap(on: Stage) -> list[str]:
    on.answer("bootstrap", answers.json([answers.draft()]), answers.json([answers.draft(written=True)]))
    return ["bootstrap", "--force"]


def _scaffold(on: Stage) -> list[str]:
    on.answer("scaffold", answers.json(answers.scaffolded()))
    return ["scaffold", "github"]


def _scaffold_differs(on: Stage) -> list[str]:
    on.answer(
        "scaffold",
        answers.json(
            answers.scaffolded(
                written=False,
                commit=None,
                existing="on: push\n\nname: mine\n",
                text="on: workflow_dispatch\n\nname: mine\n",
            )
        ),
    )
    return ["scaffold", "github"]


SHOWN: dict[str, Callable[[Stage], list[str]]] = {
    "all in step": _well,
    "much to do": _needing,
    "on the way": _moving,
    "one machine": _alone,
    "nothing to share": _nothing,
    "off": _off,
    "differences": _diff,
    "no difference": _no_diff,
    "applied what needs nobody": _apply,
    "pushed": _push,
    "a plan": _plan,
    "outcomes": _outcomes,
    "a first CLAUDE.md": _bootstrap,
    "a workflow": _scaffold,
    "another workflow is there": _scaffold_differs,
}


def shown(on: Stage, name: str, columns: int) -> str:
    ran = on.run(*SHOWN[name](on), columns=columns)
    assert all(width(line) <= columns or line.startswith(WHOLE) for line in ran.out.splitlines()), ran.out
    return f"=== {name}, {columns} columns, exit code {ran.code}\n{ran.out}{ran.err}"


@pytest.mark.parametrize("columns", [100, 60])
@pytest.mark.parametrize("name", SHOWN)
def test_it_reads_as_it_is_written_down(stage: Stage, name: str, columns: int) -> None:
    wanted = shown(stage, name, columns)
    golden = GOLDEN.read_text(encoding="utf-8")
    found = golden[golden.index(wanted.partition("\n")[0]) :]
    following = found.find("\n=== ")
    assert wanted == (found if following < 0 else found[: following + 1])


def test_nothing_else_is_written_down() -> None:
    assert GOLDEN.read_text(encoding="utf-8").count("=== ") == 2 * len(SHOWN)
