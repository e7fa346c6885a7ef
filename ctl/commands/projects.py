"""`projects`: what is tracked here, and what could be."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import cast

from convergenced.control.answers import Projects
from convergenced.errors import NoDaemonError

from .. import verdict
from ..arguments import Parser, example
from ..here import connect, read_status
from ..render import Column, Terminal, clean, table


def configure(parser: Parser) -> None:
    """Arguments and help."""
    parser.description = "Lists the projects that are tracked here; --available those of your other machines."
    parser.epilog = example("convergencectl projects", "convergencectl projects --available")
    parser.add_argument("--available", action="store_true", help="what peers have and can be joined")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(args: argparse.Namespace) -> int:
    """Prints the list."""
    found = _read(args.available)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    terminal = Terminal.of(sys.stdout, os.environ)
    if args.available:
        rows = [(clean(one["id"]), clean(", ".join(one["machines"]))) for one in found["available"]]
        columns = (Column("PROJECT", least=12), Column("ON", least=12))
        lines = table(columns, rows, terminal.width) if rows else ["peers have no project that is not here"]
    else:
        lines = verdict.project_table(found["projects"], terminal, time.time())
    print("\n".join(lines or ["no project is tracked yet; see: convergencectl init -h"]))
    return 0


def _read(available: bool) -> Projects:
    try:
        with connect() as daemon:
            return cast("Projects", daemon.call("projects", {"available": available}))
    except NoDaemonError:
        status, _ = read_status()
        return {"projects": status["projects"], "available": status["available"] if available else []}
