"""`knowledge`: CLAUDE.md files and settings of all machines, merged and applied with care."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from convergenced.errors import AttentionError

from ..arguments import Parser, example, project_argument
from ..durations import seconds
from ..pager import page, readable
from ..render import Terminal

PROVIDERS = ("none", "anthropic", "claude", "github", "gitlab")


def configure(parser: Parser) -> None:
    """Arguments and help of the ways to use it."""
    parser.description = (
        "Shares the CLAUDE.md files and the settings of your machines: each machine's are kept apart,\n"
        "merged into one, and the result is applied everywhere while no Claude Code runs. Off until\n"
        "`knowledge enable`."
    )
    parser.epilog = example(
        "convergencectl knowledge enable",
        "convergencectl knowledge status",
        "convergencectl knowledge diff --global-only",
        "convergencectl knowledge apply",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _configure_enable(actions)
    actions.add_parser(
        "disable",
        help="share them no more",
        description="Shares nothing from this machine any more. What was shared stays, and so do the files.",
        epilog=example("convergencectl knowledge disable"),
    )
    _configure_looking(actions)
    _configure_push(actions)
    _configure_synthesize(actions)
    _configure_apply(actions)
    _configure_drafts(actions)


def _which(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--project",
        metavar="PROJECT",
        type=project_argument,
        help="only this project's: its id or its folder",
    )
    which.add_argument("--global-only", action="store_true", help="only what belongs to no project")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable, schema 1")


def _configure_enable(actions: argparse._SubParsersAction[Parser]) -> None:
    enable = actions.add_parser("enable", help="share CLAUDE.md and settings")
    enable.description = (
        "Says what is found here and would be shared, with whom, and where the text goes that a model\n"
        "merges; asks, and writes [knowledge] in config.toml, which counts at once. Run again, it changes\n"
        "what is given and nothing else.\n\n"
        "--provider none merges by section and asks nobody. anthropic asks Anthropic's API, with\n"
        "ANTHROPIC_API_KEY or the keyring's key; claude asks through the Claude Code that is installed\n"
        "here; github and gitlab have a workflow in your repository do it: see `knowledge scaffold`.\n\n"
        "exit codes: 0 it is on, 1 you said no, 2 usage, 130 interrupted at the question"
    )
    enable.epilog = example(
        "convergencectl knowledge enable",
        "convergencectl knowledge enable --provider claude --max-usd 0.50",
        "convergencectl knowledge enable --provider github --yes",
    )
    enable.add_argument("--provider", choices=PROVIDERS, help="who merges; none if not set before")
    enable.add_argument("--model", metavar="MODEL", help="which model; the provider's own choice if not set")
    enable.add_argument("--max-usd", metavar="USD", help="what a run may cost at most")
    enable.add_argument(
        "--synthesizer", metavar="NAME", help="the machine that merges; whoever is first if not set"
    )
    enable.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _configure_looking(actions: argparse._SubParsersAction[Parser]) -> None:
    status = actions.add_parser("status", help="how it stands, and what needs you")
    status.description = (
        "One line that says how it stands, the scopes (`global` and the projects) with their last\n"
        "synthesis, and what needs you: changes that wait for a yes, lines marked CONFLICT or UNVERIFIED,\n"
        "what was rejected, and apparent secrets.\n\n"
        "exit codes: 0 nothing needs you, or it is off, 5 something does"
    )
    status.epilog = example(
        "convergencectl knowledge status",
        "convergencectl knowledge status --project proj --json | jq '.scopes[].usd'",
    )
    diff = actions.add_parser("diff", help="what would change here")
    diff.description = (
        "What `knowledge apply` would change here: texts as unified diffs, settings key by key, each with\n"
        "its id and, where a person is asked, why; then what you declined, with what takes that back. On a\n"
        "terminal through $PAGER, or less.\n\n"
        "exit codes: 0 nothing needs your yes, 5 something does"
    )
    diff.epilog = example(
        "convergencectl knowledge diff",
        "convergencectl knowledge diff --json | jq -r '.changes[] | select(.consent == \"runs\") | .id'",
    )
    for one in (status, diff):
        _which(one)
        _json(one)


def _configure_push(actions: argparse._SubParsersAction[Parser]) -> None:
    push = actions.add_parser("push", help="share what is new here, now")
    push.description = (
        "Takes a snapshot of this machine's documents and exchanges it now instead of at the next interval."
    )
    push.epilog = example(
        "convergencectl knowledge push", "convergencectl knowledge push --project proj --json"
    )
    _which(push)
    _json(push)


def _configure_synthesize(actions: argparse._SubParsersAction[Parser]) -> None:
    merge = actions.add_parser("synthesize", help="merge what the machines wrote, now")
    merge.description = (
        "Merges what changed since the last time. Without --wait it returns at once; with it, what became\n"
        "of each scope is told, which takes minutes where a workflow does it. --dry-run says what would be\n"
        "done and what it costs at most. --force also merges what was rejected as it stands.\n\n"
        "exit codes: 0 done, or begun without --wait, 3 no daemon runs, 4 the provider or a peer refuses\n"
        "us, 5 a scope was rejected or has lines to settle, 6 a scope failed, 7 not in time"
    )
    merge.epilog = example(
        "convergencectl knowledge synthesize --dry-run",
        "convergencectl knowledge synthesize --wait --timeout 10m",
        "convergencectl knowledge synthesize --project proj --wait --force",
    )
    _which(merge)
    merge.add_argument("--wait", action="store_true", help="return when it is done")
    merge.add_argument("--timeout", metavar="S", type=seconds, help="with --wait: exit 7 after this long")
    merge.add_argument("--dry-run", action="store_true", help="say what it would do and cost; change nothing")
    merge.add_argument("--force", action="store_true", help="also what was rejected as it stands")
    _json(merge)


def _configure_apply(actions: argparse._SubParsersAction[Parser]) -> None:
    apply = actions.add_parser("apply", help="write here what all machines know together")
    apply.description = (
        "Writes what was merged into the files here, each after a backup and while no Claude Code runs.\n"
        "What needs your yes is shown and asked for one by one: where more than half of a text changes,\n"
        "where you removed the file, where a text has Claude Code read further files (@path), and every\n"
        "setting that runs something or widens a permission. --yes agrees to texts, but to none of these\n"
        "last two: that takes an id. Without a terminal nothing is asked; what waits is listed.\n\n"
        "exit codes: 0 nothing waits for you, 3 no daemon runs, 5 a change does, or a file cannot be\n"
        "written, 130 interrupted at a question, and nothing of what was asked was changed"
    )
    apply.epilog = example(
        "convergencectl knowledge apply",
        "convergencectl knowledge apply --yes",
        "convergencectl knowledge apply --accept 3f9c0a12bd44 --decline 81b5c0de9f02",
    )
    _which(apply)
    apply.add_argument("-y", "--yes", action="store_true", help="agree to texts; ask nothing")
    apply.add_argument(
        "--accept",
        metavar="CHANGE",
        action="append",
        help="agree to this change, by its id, also to one that you declined; repeatable",
    )
    apply.add_argument(
        "--decline", metavar="CHANGE", action="append", help="offer this change no more; repeatable"
    )
    _json(apply)


def _configure_drafts(actions: argparse._SubParsersAction[Parser]) -> None:
    bootstrap = actions.add_parser("bootstrap", help="write a first CLAUDE.md from memory and sessions")
    bootstrap.description = (
        "Writes a first CLAUDE.md from the notes of memory and the titles of sessions, for the projects\n"
        "and for all of them. Shows it, or what it changes in one that is there, with what it was made\n"
        "from and the cost, and asks; what it replaces goes among the backups. Also while knowledge is\n"
        "off: the files stay on this machine then. Nothing is written while a Claude Code runs here.\n\n"
        "exit codes: 0 written, 1 you agreed to nothing, or not all could be written, 3 no daemon runs,\n"
        "4 the provider refuses us, 130 interrupted at the question, and nothing was written"
    )
    bootstrap.epilog = example(
        "convergencectl knowledge bootstrap --project ~/src/proj",
        "convergencectl knowledge bootstrap --global-only --force",
    )
    _which(bootstrap)
    bootstrap.add_argument("--force", action="store_true", help="write and overwrite without asking")
    scaffold = actions.add_parser("scaffold", help="write the workflow that merges into your repository")
    scaffold.description = (
        "Writes the workflow that merges (GitHub Actions or GitLab CI) into the repository of the peer\n"
        "there, and says what is left to you. A file of that name that differs is shown, and replaced only\n"
        "after a yes.\n\n"
        "exit codes: 0 it stands there, 1 you said no, 2 usage, or another file is there and nobody to\n"
        "ask, 3 no daemon runs, 4 the peer refuses us"
    )
    scaffold.epilog = example(
        "convergencectl knowledge scaffold github", "convergencectl knowledge scaffold gitlab --force"
    )
    scaffold.add_argument("kind", choices=("github", "gitlab"), help="where the repository is")
    scaffold.add_argument("--force", action="store_true", help="replace a file that differs without asking")


def run(args: argparse.Namespace) -> int:
    """Does what was asked for; the exit code says whether something needs a person."""
    match args.action:
        case "enable" | "disable":
            from ..knowledge import enabling

            return enabling.enable(args) if args.action == "enable" else enabling.disable(args)
        case "status":
            return _status(args)
        case "diff":
            return _diff(args)
        case "apply":
            from ..knowledge.applying import apply

            return apply(args)
        case "push" | "synthesize":
            from ..knowledge import synthesizing

            return synthesizing.push(args) if args.action == "push" else synthesizing.synthesize(args)
        case _:
            from ..knowledge import drafting

            return drafting.bootstrap(args) if args.action == "bootstrap" else drafting.scaffold(args)


def _status(args: argparse.Namespace) -> int:
    from ..knowledge import standing
    from ..knowledge.calls import meant, read_status

    found = read_status(meant(args))
    if args.json:
        print(json.dumps({"schema": 1, **found}, indent=2))
    else:
        print("\n".join(standing.lines(found, Terminal.of(sys.stdout, os.environ), time.time())))
    return standing.exit_code(found)


def _diff(args: argparse.Namespace) -> int:
    from ..knowledge import differences
    from ..knowledge.calls import meant, read_diff

    found = read_diff(meant(args))
    if args.json:
        print(json.dumps({"schema": 1, **found}, indent=2))
    else:
        terminal = readable(Terminal.of(sys.stdout, os.environ), os.environ)
        page(differences.lines(found, terminal), terminal, os.environ)
    return AttentionError.exit_code if any(map(differences.needs_person, found["changes"])) else 0
