"""`sync`: now instead of at the next interval."""

from __future__ import annotations

import argparse
import os
import sys
from typing import cast

from convergenced.control.answers import ProjectText, Synced
from convergenced.control.protocol import Json
from convergenced.errors import DegradedError
from convergenced.wording import plural

from ..arguments import Parser, example, project_argument
from ..client import CALL_TIMEOUT, GRACE
from ..durations import seconds
from ..here import connect, locations
from ..progress import Progress
from ..render import Terminal, clean


def configure(parser: Parser) -> None:
    """Arguments and help."""
    parser.description = (
        "Commits, exchanges and localizes now instead of at the next interval. Without --wait it returns at\n"
        "once. --full also reads files again that seem unchanged; --dry-run says what would happen."
    )
    parser.epilog = (
        example("convergencectl sync --wait --timeout 2m", "convergencectl sync --dry-run")
        + "\n\nexit codes: 0 synced, or begun without --wait, 3 no daemon runs, "
        "6 something could not be synced, 7 not in time"
    )
    parser.add_argument(
        "projects",
        nargs="*",
        metavar="PROJECT",
        type=project_argument,
        help="ids or paths; none: all of them",
    )
    parser.add_argument("--wait", action="store_true", help="return when it is done")
    parser.add_argument("--timeout", metavar="S", type=seconds, help="with --wait: exit 7 after this long")
    parser.add_argument("--full", action="store_true", help="read every file again")
    parser.add_argument("--dry-run", action="store_true", help="say what would happen and change nothing")


def run(args: argparse.Namespace) -> int:
    """Asks for it; with --wait, 6 where something could not be synced."""
    params: dict[str, Json] = {
        "projects": args.projects,
        "wait": args.wait,
        "full": args.full,
        "dry_run": args.dry_run,
        "timeout": args.timeout,
    }
    slow = args.wait or args.dry_run or args.full
    limit = None if slow and args.timeout is None else (args.timeout or CALL_TIMEOUT) + GRACE
    progress = Progress(locations().socket, "syncing", Terminal.of(sys.stderr, os.environ))
    with connect() as daemon:
        try:
            answer = daemon.call(
                "sync", params, timeout=limit, each_tick=progress.tick if args.wait else None
            )
        finally:
            progress.done()
    synced = cast("Synced", answer)
    for action in synced["actions"]:
        print(_line(action))
    if args.dry_run:
        if not synced["actions"]:
            print("nothing to do")
        return 0
    if not args.wait:
        print("sync started; see: convergencectl watch", file=sys.stderr)
        return 0
    if not synced["unsynced"]:
        print("all synced")
        return 0
    for one in synced["unsynced"]:
        print(f"not synced: {_line(one)}", file=sys.stderr)
    raise DegradedError(
        f"{plural(len(synced['unsynced']), 'thing')} could not be synced", "see: convergencectl status"
    )


def _line(one: ProjectText) -> str:
    return f"{clean(one['project'])}: {clean(one['text'])}" if one["project"] else clean(one["text"])
