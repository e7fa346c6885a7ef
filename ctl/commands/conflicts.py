"""`conflicts`: memory files that hold both sides, and sessions that became two."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from typing import TYPE_CHECKING, cast

from convergenced.errors import AttentionError, NoDaemonError
from convergenced.wording import plural

from ..arguments import Parser, example
from ..here import connect, locations
from ..render import Terminal, clean, tilde, when

if TYPE_CHECKING:
    from convergenced.control.answers import Conflicts, ConflictSide, Divergence

TIMEOUT = 60.0
"""Seconds that looking back through the histories may take."""


def configure(parser: Parser) -> None:
    """Arguments and help."""
    parser.description = (
        "Lists memory files that were edited in two places and hold both sides, with who wrote each side\n"
        "and the command that settles them. Sessions that went on in two places in the last 30 days are\n"
        "listed for your information: each became two, and both can be resumed everywhere.\n"
        "Exits 0 when there is no conflict, 5 when there is."
    )
    parser.epilog = example(
        "convergencectl conflicts", "convergencectl conflicts --json | jq -r '.conflicts[].name'"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable, schema 1")


def run(args: argparse.Namespace) -> int:
    """Prints them; the exit code says whether there is something to settle."""
    found = _ask()
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(lines(found, Terminal.of(sys.stdout, os.environ), time.time())))
    return AttentionError.exit_code if found["conflicts"] else 0


def _ask() -> Conflicts:
    try:
        with connect() as daemon:
            return cast("Conflicts", daemon.call("conflicts", timeout=TIMEOUT))
    except NoDaemonError as error:
        print(f"{error.summary}; this is what the store holds\n  {error.hint}", file=sys.stderr)
    from convergenced.control.offline import offline_conflicts  # opens the store with pygit2

    return offline_conflicts(locations(), os.environ)


def lines(found: Conflicts, terminal: Terminal, now: float) -> list[str]:
    """All of it for people."""
    files = found["conflicts"]
    first = f"{plural(len(files), 'memory file')} to settle" if files else "no conflict"
    out = [terminal.style(first, "bold", "yellow" if files else "green")]
    for file in files:
        out += ["", terminal.style(clean(file["name"]), "bold")]
        if file["local"] is not None:
            out += terminal.paragraph(clean(tilde(file["local"])), first="  ", indent="  ")
        for number, sides in enumerate(file["conflicts"], 1):
            if len(file["conflicts"]) > 1:
                out.append(terminal.style(f"  {number} of {len(file['conflicts'])}", "dim"))
            for side in sides:
                out += _side(side, terminal, now)
        # Whole, however long: a command with a line break in it cannot be copied.
        command = f"convergencectl conflict resolve {shlex.quote(file['name'])} --take ours|theirs|both"
        out.append(f"  → {clean(command)}")
    if found["divergences"]:
        count = plural(len(found["divergences"]), "session")
        title = f"{count} went on in two places and became two (nothing to do; both can be resumed)"
        out += ["", *(terminal.style(line, "dim") for line in terminal.paragraph(title))]
        for one in found["divergences"]:
            out += terminal.paragraph(_divergence(one, now), first="  ", indent="    ")
    return out


def _side(side: ConflictSide, terminal: Terminal, now: float) -> list[str]:
    by = clean(side["machine"]) if side["machine"] is not None else "unknown"
    at = f", {when(side['at'], now)}" if side["at"] is not None else ""
    whose = " (ours)" if side["ours"] else ""
    out = terminal.paragraph(f"{by}{whose}{at}", first="  ", indent="  ")
    text = side["text"].split("\n") if side["text"] else ["(nothing)"]
    out += [f"    │ {clean(line)}".rstrip() for line in text]
    return [*out, "    │ …"] if side["cut"] else out


def _divergence(one: Divergence, now: float) -> str:
    session, fork = one["session"], one["fork"]
    if one["session_by"] is not None and one["fork_by"] is not None:
        session, fork = f"{session} ({one['session_by']})", f"{fork} ({one['fork_by']})"
    at = "time unknown" if one["at"] is None else when(one["at"], now)
    return clean(f"{one['project']}: {session} and {fork}, {at}")
