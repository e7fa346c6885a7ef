"""`pause` and `resume`."""

from __future__ import annotations

import argparse
import time
from typing import cast

from convergenced.control.answers import Named
from convergenced.control.protocol import Json

from ..arguments import Parser, example, project_argument
from ..durations import seconds
from ..here import connect
from ..render import clean, clock


def configure(parser: Parser) -> None:
    """Arguments and help of the one that was asked for."""
    pausing = parser.get_default("command") == "pause"
    if pausing:
        parser.description = (
            "Commits, exchanges and localizes nothing until `resume`, also after a restart.\n"
            "Nothing is missed."
        )
        parser.epilog = example("convergencectl pause --for 2h", "convergencectl pause my-project")
        parser.add_argument("--for", dest="span", metavar="SPAN", type=seconds, help="end by itself: 45m, 2h")
    else:
        parser.description = "Goes on with what `pause` stopped; what happened meanwhile is synced now."
        parser.epilog = example("convergencectl resume")
    parser.add_argument(
        "projects", nargs="*", metavar="PROJECT", type=project_argument, help="ids or paths; none: everything"
    )


def run(args: argparse.Namespace) -> int:
    """Asks the daemon and says what it applied to."""
    params: dict[str, Json] = {"projects": args.projects}
    if args.command == "pause":
        params["seconds"] = args.span
    with connect() as daemon:
        named = cast("Named", daemon.call(args.command, params))
    what = ", ".join(map(clean, named["projects"])) if args.projects else "everything"
    if args.command == "resume":
        print(f"resumed: {what}")
    elif args.span is None:
        print(f"paused until `convergencectl resume`: {what}")
    else:
        now = time.time()
        print(f"paused until {clock(now + args.span, now)}: {what}")
    return 0
