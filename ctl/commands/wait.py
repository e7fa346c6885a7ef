"""`wait`: until all is committed, exchanged and localized."""

from __future__ import annotations

import argparse
import os
import sys

from ..arguments import Parser, example
from ..client import GRACE
from ..durations import seconds
from ..here import connect, locations
from ..progress import Progress
from ..render import Terminal


def configure(parser: Parser) -> None:
    """Arguments and help."""
    parser.description = (
        "Returns when all is committed, exchanged and localized, also what waits for Claude Code to end."
    )
    parser.epilog = (
        example("convergencectl wait --timeout 60 && ssh laptop claude --continue")
        + "\n\nexit codes: 0 all is synced, 3 no daemon runs, 7 not in time"
    )
    parser.add_argument("--for", dest="state", choices=["synced"], default="synced", help="what to wait for")
    parser.add_argument("--timeout", metavar="S", type=seconds, help="give up after this long: 60, 2m")


def run(args: argparse.Namespace) -> int:
    """Waits, saying on stderr what is missing."""
    limit = None if args.timeout is None else args.timeout + GRACE
    progress = Progress(locations().socket, "waiting", Terminal.of(sys.stderr, os.environ))
    with connect() as daemon:
        try:
            daemon.call(
                "wait",
                {"for": args.state, "timeout": args.timeout},
                timeout=limit,
                each_tick=progress.tick,
            )
        finally:
            progress.done()
    print("all synced")
    return 0
