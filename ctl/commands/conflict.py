"""`conflict resolve`: settles a memory file that holds both sides, on all machines."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, cast

from ..arguments import Parser, example
from ..here import connect
from ..render import clean

if TYPE_CHECKING:
    from convergenced.control.answers import Settled

TIMEOUT = 90.0
"""Seconds that it may take until it is committed and written here."""


def configure(parser: Parser) -> None:
    """Arguments and help."""
    parser.description = "Settles a memory file that holds both sides, on all machines."
    parser.epilog = example(
        "convergencectl conflict resolve proj:memory/notes.md --take ours",
        "convergencectl conflict resolve -h",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    resolve = actions.add_parser("resolve", help="take one side, or both")
    resolve.description = (
        "Takes one side of every conflict in a memory file: ours is what this machine wrote, theirs what\n"
        "the other one wrote, both are the lines of all sides one after the other. It is one more edit,\n"
        "so it settles the file everywhere. Removing the markers with an editor does the same.\n"
        "Exits 0 when it is settled, 1 when it cannot be told whose side is whose."
    )
    resolve.add_argument(
        "path", metavar="PATH", help="the file, or [PROJECT:]memory/NAME.md as `conflicts` says it"
    )
    resolve.add_argument("--take", choices=("ours", "theirs", "both"), required=True, help="what is kept")
    resolve.epilog = example(
        "convergencectl conflict resolve proj:memory/notes.md --take both",
        "convergencectl conflict resolve ~/.claude/projects/-home-you-proj/memory/notes.md --take ours",
    )


def run(args: argparse.Namespace) -> int:
    """Settles it and says what became of it."""
    local = os.path.abspath(os.path.expanduser(args.path))
    with connect() as daemon:
        params = {"path": args.path, "local": local, "take": args.take}
        settled = cast("Settled", daemon.call("conflict_resolve", params, timeout=TIMEOUT))
    name = clean(settled["name"])
    text = (
        f"{name} holds no conflict any more: an edit settled it" if settled["edited"] else f"settled {name}"
    )
    print(text if settled["waits"] is None else f"{text}; {clean(settled['waits'])}")
    return 0
