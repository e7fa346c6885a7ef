"""`status`: one verdict line, tables, then what needs a person."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from .. import verdict
from ..arguments import Parser, example, project_argument
from ..here import read_status
from ..render import Terminal
from ..versions import mismatch


def configure(parser: Parser) -> None:
    """Arguments and help."""
    parser.description = (
        "How things are in one line, then projects, peers, and what needs you with the command that\n"
        "settles it. Exits 0 when all is well, 5 when something needs you, 6 when the daemon is degraded."
    )
    parser.epilog = example("convergencectl status", "convergencectl status --json | jq .daemon.state")
    parser.add_argument("project", nargs="?", metavar="PROJECT", type=project_argument, help="id or path")
    parser.add_argument("--json", action="store_true", help="machine-readable, schema 1")


def run(args: argparse.Namespace) -> int:
    """Prints the status; the exit code says how grave it is."""
    status, _ = read_status(args.project)
    if args.json:
        print(json.dumps(status, indent=2))
    else:
        terminal = Terminal.of(sys.stdout, os.environ)
        print("\n".join(verdict.lines(status, terminal, time.time())))
        version = status["daemon"]["version"]
        if version is not None and (different := mismatch(version)) is not None:
            print(different, file=sys.stderr)
    return verdict.exit_code(status)
