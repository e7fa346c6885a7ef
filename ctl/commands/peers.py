"""`peers` and `peer add|remove`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from convergenced.urls import classify_url, redact_url

from .. import verdict
from ..arguments import Parser, example, url_argument
from ..here import connect, locations, read_status
from ..peering import ANYWAY, refuse_public, warn_where_unwritable
from ..render import Terminal, clean, when


def configure(parser: Parser) -> None:
    """Arguments and help of the one that was asked for."""
    if parser.get_default("command") == "peers":
        parser.description = "Lists the peers and how the exchange with each goes."
        parser.epilog = example("convergencectl peers")
        parser.add_argument("--json", action="store_true", help="machine-readable")
        return
    parser.description = "Adds or removes a peer: any git repository that you can push to."
    parser.epilog = example(
        "convergencectl peer add hub git@github.com:you/context.git", "convergencectl peer remove hub"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser("add", help="exchange with one more repository")
    add.description = (
        "Exchanges with one more repository from now on. Everything that is tracked is pushed there, so it\n"
        "should be private: one that answers a clone without credentials is refused."
    )
    add.add_argument("name", metavar="NAME", help="what you call it")
    add.add_argument("url", metavar="URL", type=url_argument, help="a path, or an ssh or https URL")
    add.add_argument(ANYWAY, action="store_true", help="also a repository that anybody can read")
    add.epilog = example("convergencectl peer add nas ssh://you@nas.local/~/context.git")
    remove = actions.add_parser("remove", help="exchange with it no more; nothing is deleted there")
    remove.description = (
        "Exchanges with it no more. What it holds stays there, and what came from it stays here."
    )
    remove.add_argument("name", metavar="PEER", help="its name, as `peers` lists it")
    remove.epilog = example("convergencectl peer remove nas")


def run(args: argparse.Namespace) -> int:
    """Lists, adds or removes."""
    if args.command == "peers":
        return _list(args.json)
    if args.action == "add":
        classify_url(args.url)
        with connect() as daemon:
            if not args.yes_public:
                refuse_public(args.url)
            daemon.call("peer_add", {"name": args.name, "url": args.url})
        warn_where_unwritable(locations(), args.url)
        print(f"added {clean(args.name)} ({clean(redact_url(args.url))})")
    else:
        with connect() as daemon:
            daemon.call("peer_remove", {"name": args.name})
        print(f"removed {clean(args.name)}")
    return 0


def _list(as_json: bool) -> int:
    status, _ = read_status()
    peers = status["peers"]
    if as_json:
        print(json.dumps(peers, indent=2))
        return 0
    terminal, now = Terminal.of(sys.stdout, os.environ), time.time()
    lines = verdict.peer_table(peers, terminal, now)
    for peer in peers:
        if peer["error"]:
            again = f"; next try {when(peer['next_try'], now, short=True)}" if peer["next_try"] else ""
            lines += terminal.paragraph(f"{clean(peer['name'])}: {clean(peer['error'])}{again}", indent="  ")
    print("\n".join(lines or ["no peer yet; add one: convergencectl peer add hub URL"]))
    return 0
