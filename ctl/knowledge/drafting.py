"""`knowledge bootstrap` and `scaffold`: files that are written once, shown before they are."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from convergenced.control.protocol import Json
from convergenced.errors import UsageError

from ..here import connect
from ..pager import page, readable
from ..render import Terminal
from .asking import QUIT, agrees, ask, can_ask, require_answers
from .calls import TIMEOUT, call_at_length, meant
from .differences import diff_lines
from .words import dollars, file_name, scope_name, visible

if TYPE_CHECKING:
    from convergenced.control.knowledge_answers import KnowledgeBootstrap, KnowledgeScaffold

_ANSWERS = {"y": "yes", "n": "no", QUIT: "quit"}


def bootstrap(args: argparse.Namespace) -> int:
    """Writes first CLAUDE.md files; 1 where nothing was agreed to, or not all of that could be written."""
    if not args.force:  # before a model is paid for it
        require_answers("the files may be written", "say so beforehand: add --force")
    params = meant(args)
    drafts = _drafts({**params, "write": []}, "composing")
    composed = [one for one in drafts if one["id"]]
    is_all = _tell_trouble(drafts)
    if not composed:
        if is_all:
            print("nothing to write: memory and sessions say nothing that does not stand there")
        return 0 if is_all else 1
    wanted = [one["id"] for one in composed] if args.force else _agreed(composed)
    if not wanted:
        print("nothing was written", file=sys.stderr)
        return 1
    written = _drafts({**params, "write": list[Json](wanted)}, "writing")
    terminal = Terminal.of(sys.stdout, os.environ)
    for one in written:
        if one["written"]:
            about = f"wrote {file_name(one['local'])}, {_origin(one)}"
            print("\n".join(terminal.paragraph(about, first="", indent="  ")))
    return 0 if _tell_trouble(written) and is_all else 1


def _tell_trouble(drafts: list[KnowledgeBootstrap]) -> bool:
    """Says which files cannot be had, and why; True where there are none."""
    terminal = Terminal.of(sys.stderr, os.environ)
    failed = [one for one in drafts if one["trouble"]]
    for one in failed:
        about = f"{file_name(one['local'])}: {visible(one['trouble'])}"
        print("\n".join(terminal.paragraph(about, first="", indent="  ")), file=sys.stderr)
    return not failed


def _drafts(params: dict[str, Json], what: str) -> list[KnowledgeBootstrap]:
    with connect() as daemon:
        return cast("list[KnowledgeBootstrap]", call_at_length(daemon, "knowledge_bootstrap", params, what))


def _agreed(drafts: list[KnowledgeBootstrap]) -> list[str]:
    """The ids of what a person wants written."""
    terminal = readable(Terminal.of(sys.stdout, os.environ), os.environ)
    wanted = []
    for number, one in enumerate(drafts, 1):
        print()
        page(draft_lines(one, terminal), terminal, os.environ)
        question = "overwrite it? (the former goes among the backups)" if one["exists"] else "write this?"
        answer = ask(f"{number} of {len(drafts)}: {question}", _ANSWERS)
        if answer == QUIT:
            break
        if answer == "y":
            wanted.append(one["id"])
    return wanted


def draft_lines(draft: KnowledgeBootstrap, terminal: Terminal) -> Iterator[str]:
    """One file that would be written: the change to what is there, else the whole text."""
    about = f"{file_name(draft['local'])} ({scope_name(draft['scope'])})"
    yield from (terminal.style(line, "bold") for line in terminal.paragraph(about, first="", indent="  "))
    yield from terminal.paragraph(_origin(draft), first="  ", indent="    ")
    if draft["exists"]:
        yield from diff_lines(draft["diff"], terminal)
    else:
        yield from (visible(line) for line in draft["text"].removesuffix("\n").split("\n"))


def _origin(draft: KnowledgeBootstrap) -> str:
    cost = f", for {dollars(draft['usd'])}" if draft["usd"] else ", without a model"
    sources = ", ".join(map(visible, draft["sources"])) or "nothing"
    return f"made from {sources}{cost}"


def scaffold(args: argparse.Namespace) -> int:
    """Writes the workflow into the peer's repository; 1 where another file there is to stay."""
    terminal = Terminal.of(sys.stdout, os.environ)
    done = _scaffold(args.kind, force=args.force)
    if not done["written"] and done["existing"] is not None:
        print("\n".join(overwriting_lines(done, terminal)))
        if not can_ask():
            raise UsageError(
                f"another {visible(done['file'])} stands there; it was left alone", "replace it: add --force"
            )
        if not agrees("Replace it?"):
            print("nothing was changed", file=sys.stderr)
            return 1
        done = _scaffold(args.kind, force=True)
    print("\n".join(scaffold_lines(done, terminal)))
    return 0


def _scaffold(kind: str, *, force: bool) -> KnowledgeScaffold:
    with connect() as daemon:
        params: dict[str, Json] = {"kind": kind, "force": force}
        answer = call_at_length(daemon, "knowledge_scaffold", params, "writing", TIMEOUT)
    return cast("KnowledgeScaffold", answer)


def overwriting_lines(found: KnowledgeScaffold, terminal: Terminal) -> list[str]:
    """How another file that stands there would change."""
    before, after = (found["existing"] or "").splitlines(), found["text"].splitlines()
    diff = "\n".join(difflib.unified_diff(before, after, "there now", "would be written", lineterm=""))
    about = f"{visible(found['peer'])} has a {visible(found['file'])} of its own:"
    return [*terminal.paragraph(about), *diff_lines(diff, terminal)]


def scaffold_lines(done: KnowledgeScaffold, terminal: Terminal) -> list[str]:
    """What was written where, and what is left to a person."""
    file, peer = visible(done["file"]), visible(done["peer"])
    commit = f" (commit {visible(done['commit'])[:10]})" if done["commit"] else ""
    what = f"wrote {file} to {peer}{commit}" if done["written"] else f"{file} stands in {peer} already"
    out = terminal.paragraph(what)
    if done["next"]:
        out.append("what is left to you:")
        # Whole, however long: addresses and commands are to be copied.
        out += [f"  {number}. {visible(line)}" for number, line in enumerate(done["next"], 1)]
    return out
