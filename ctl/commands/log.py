"""`log`: what was done, read from the activity log on disk, with or without a daemon."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from convergenced.machine.activity import Activity

from ..activity import Follower, describe, read
from ..arguments import Parser, example
from ..render import Terminal

LOOK_EVERY = 0.5
"""Seconds between two looks at the log with --follow."""
MOST = 10_000
"""Lines that -n may ask for."""


def configure(parser: Parser) -> None:
    """Arguments and help."""
    parser.description = "What was done, newest last."
    parser.epilog = example("convergencectl log -n 50", "convergencectl log -f --json | jq -r .text")
    parser.add_argument("-n", dest="count", metavar="N", type=_count, default=20, help="lines to show (20)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on showing what is done")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, as it stands in the log")


def run(args: argparse.Namespace) -> int:
    """Prints the newest lines; with --follow until interrupted."""
    follower = Follower()
    _print(read(args.count), args.json)
    while args.follow:
        time.sleep(LOOK_EVERY)
        _print(follower.fresh(), args.json)
    return 0


def _print(activities: list[Activity], as_json: bool) -> None:
    terminal = Terminal.of(sys.stdout, os.environ)
    for one in activities:
        if as_json:
            event = one.event
            value = {"time": one.time, "kind": event.kind, "project": event.project, "text": event.text}
            print(json.dumps(dict(event.details) | value))
        else:
            print("\n".join(describe(one, terminal, time.time())))
    sys.stdout.flush()


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number up to {MOST}")
    return int(text)
