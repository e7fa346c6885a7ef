"""`init` and `join`: a project begins to be synced here."""

from __future__ import annotations

import argparse
import os
from typing import cast

from convergenced.control.answers import Tracked
from convergenced.control.protocol import Json
from convergenced.errors import UsageError

from ..arguments import Parser, example
from ..here import connect
from ..render import clean, tilde


def configure(parser: Parser) -> None:
    """Arguments and help of the one that was asked for."""
    if parser.get_default("command") == "init":
        parser.description = "Starts tracking the project at PATH (default: here)."
        parser.epilog = example("convergencectl init ~/src/proj", "convergencectl init --id work-notes")
        parser.add_argument(
            "--no-rewrite-home",
            action="store_true",
            help="leave paths outside the project as they are on this machine",
        )
    else:
        parser.description = (
            "Takes part, with the checkout at PATH (default: here), in a project that peers have."
        )
        parser.epilog = example("convergencectl join ~/code/proj", "convergencectl join --id proj")
    parser.add_argument("path", nargs="?", default=".", metavar="PATH", help="the project's folder")
    parser.add_argument("--id", metavar="ID", help="the project's id; by default the daemon finds it")


def run(args: argparse.Namespace) -> int:
    """Asks the daemon and says where the project is now."""
    path = os.path.realpath(os.path.expanduser(args.path))
    if not os.path.isdir(path):
        raise UsageError(f"{args.path} is not a folder", "give the folder that Claude Code runs in")
    params: dict[str, Json] = {"path": path}
    if args.id is not None:
        params["id"] = args.id
    if args.command == "init":
        params["rewrite_home"] = not args.no_rewrite_home
    with connect() as daemon:
        tracked = cast("Tracked", daemon.call(args.command, params))
    did = "tracking" if args.command == "init" else "joined"
    print(f"{did} {clean(tracked['id'])} in {clean(tilde(tracked['root']))}")
    return 0
