"""`knowledge push` and `synthesize`: what was shared, what merging would cost, and what came of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from convergenced.errors import AttentionError, DegradedError
from convergenced.wording import plural

from ..client import CALL_TIMEOUT, GRACE
from ..here import connect
from ..render import Terminal
from .calls import as_options, call_at_length, meant
from .words import dollars, scope_name, visible

if TYPE_CHECKING:
    from convergenced.control.knowledge_answers import (
        KnowledgePushed,
        KnowledgeSynthesis,
        Planned,
        Synthesized,
    )
    from convergenced.control.protocol import Json

_MARKS: Mapping[str, tuple[str, str]] = {
    "copied": ("✓", "green"),
    "merged": ("✓", "green"),
    "rejected": ("!", "yellow"),
    "failed": ("✗", "red"),
}
"""How an outcome is marked, and in what colour."""


def push(args: argparse.Namespace) -> int:
    """Shares what is new here now."""
    with connect() as daemon:
        answer = call_at_length(daemon, "knowledge_push", meant(args), "sharing")
    pushed = cast("KnowledgePushed", answer)
    if args.json:
        print(json.dumps({"schema": 1, **pushed}, indent=2))
    else:
        print("\n".join(pushed_lines(pushed, Terminal.of(sys.stdout, os.environ))))
    return 0


def pushed_lines(pushed: KnowledgePushed, terminal: Terminal) -> list[str]:
    """What was shared with whom, and what was not."""
    out = [f"shared {visible(one)}" for one in pushed["documents"]] or ["nothing was new here"]
    if pushed["peers"]:
        out += terminal.paragraph(f"all of it is with {', '.join(map(visible, pushed['peers']))}")
    else:
        out.append("no peer has it yet; see: convergencectl peers")
    for one in pushed["left_out"]:
        out += terminal.paragraph(f"not shared: {visible(one)}", first="· ", indent="  ")
    return out


def synthesize(args: argparse.Namespace) -> int:
    """Merges, or says what that would cost; 5 where something needs a person, 6 where something failed."""
    params: dict[str, Json] = {
        **meant(args),
        "dry_run": args.dry_run,
        "wait": args.wait,
        "force": args.force,
        "timeout": args.timeout,
    }
    slow = args.wait or args.dry_run
    limit = None if slow and args.timeout is None else (args.timeout or CALL_TIMEOUT) + GRACE
    with connect() as daemon:
        what = "looking" if args.dry_run else "synthesizing"
        try:
            answer = call_at_length(daemon, "knowledge_synthesize", params, what, limit)
        except KeyboardInterrupt:
            if not args.dry_run:
                print("\nit goes on by itself; see: convergencectl knowledge status", file=sys.stderr)
            raise
    found = cast("KnowledgeSynthesis", answer)
    if args.json:
        print(json.dumps({"schema": 1, **found}, indent=2))
    elif args.dry_run:
        print("\n".join(plan_lines(found, Terminal.of(sys.stdout, os.environ))))
    elif args.wait:
        print("\n".join(outcome_lines(found["done"], Terminal.of(sys.stdout, os.environ), as_options(args))))
    else:
        print("synthesis started; see: convergencectl knowledge status", file=sys.stderr)
    return exit_code(found["done"])


def exit_code(done: Sequence[Synthesized]) -> int:
    """The gravest of what became of the scopes."""
    if any(one["outcome"] == "failed" for one in done):
        return DegradedError.exit_code
    return (
        AttentionError.exit_code if any(one["outcome"] == "rejected" or one["marks"] for one in done) else 0
    )


def plan_lines(found: KnowledgeSynthesis, terminal: Terminal) -> list[str]:
    """What would be done, and for how much at most."""
    planned = found["planned"]
    if not planned:
        return ["nothing to synthesize: nothing changed since the last time"]
    out = [line for one in planned for line in _plan(one, terminal)]
    calls, most = sum(one["calls"] for one in planned), sum(one["usd"] for one in planned)
    cost = f"{plural(calls, 'call')}, ${most:.2f} at most" if calls else "no model is asked"
    total = f"{plural(len(planned), 'scope')} by {visible(found['provider'])}: {cost}; nothing was changed"
    return [*out, *terminal.paragraph(total)]


def _plan(one: Planned, terminal: Terminal) -> Iterator[str]:
    machines = ", ".join(map(visible, one["machines"]))
    cost = f" ({plural(one['calls'], 'call')}, {dollars(one['usd'])} at most)" if one["calls"] else ""
    text = f"{scope_name(one['scope'])}: {visible(one['text'])}{cost}"
    yield from (terminal.style(line, "bold") for line in terminal.paragraph(text, first="", indent="  "))
    documents = ", ".join(map(visible, one["documents"]))
    yield from terminal.paragraph(f"{documents} of {machines}", first="  ", indent="    ")


def outcome_lines(done: Sequence[Synthesized], terminal: Terminal, options: str = "") -> list[str]:
    """What became of each scope. `options` say which scopes were meant, for the commands that follow."""
    if not done:
        return ["nothing to synthesize: nothing changed since the last time"]
    out = [line for one in done for line in _outcome(one, terminal)]
    if cost := sum(one["usd"] for one in done):
        out.append(f"{dollars(cost)} in all")
    if any(one["outcome"] in {"copied", "merged"} for one in done):
        out += terminal.paragraph("it is applied here while no Claude Code runs; what changes:")
        out.append(f"  → convergencectl knowledge diff{options}")
    if any(one["outcome"] == "rejected" for one in done):
        out += terminal.paragraph("what was rejected is tried again when something changes, or with:")
        out.append(f"  → convergencectl knowledge synthesize --wait --force{options}")
    return out


def _outcome(one: Synthesized, terminal: Terminal) -> Iterator[str]:
    cost = f" ({dollars(one['usd'])})" if one["usd"] else ""
    said = visible(one["text"])
    is_said = one["outcome"] in said  # `2 documents copied` says it already
    became = said if is_said else f"{one['outcome']}{f': {said}' if said else ''}"
    text = f"{scope_name(one['scope'])}{':' if is_said else ''} {became}{cost}"
    mark, colour = _MARKS[one["outcome"]]
    first, *more = terminal.paragraph(text, first="  ", indent="    ")
    yield terminal.style(mark, colour) + first[1:]
    yield from more
    is_rejected = one["outcome"] == "rejected"
    for line in one["marks"]:
        if is_rejected:
            yield from terminal.paragraph(visible(line), first="    - ", indent="      ")
        else:
            yield from terminal.paragraph(f"to settle: {visible(line)}", first="    ", indent="      ")
