"""`project move|remove|discover`: where projects are on this machine."""

from __future__ import annotations

import argparse
import os

from ..arguments import Parser, example


def configure(parser: Parser) -> None:
    """Arguments and help of the three ways to use it."""
    parser.description = "Follows a checkout that moved, stops tracking a project, or finds checkouts."
    parser.epilog = example(
        "convergencectl project move ~/src/proj ~/code/proj",
        "convergencectl project remove ~/clients/secret",
        "convergencectl project discover ~/code",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    move = actions.add_parser("move", help="follow a checkout that moved")
    move.description = (
        "After a checkout moved from OLD to NEW: its sessions and memory arrive in the folder where Claude\n"
        "Code looks for them now, with their paths. What the old context folder holds goes among the\n"
        "backups once all of it is in the store and at the new place; until then it stays. Projects in\n"
        "folders below OLD move along. Where the same repository is found at a new path, the daemon\n"
        "follows by itself; then the old context folder just stays.\n"
        "Exits 0 also where the sessions wait for Claude Code to end; it says so."
    )
    move.add_argument("old", metavar="OLD", help="where the checkout was")
    move.add_argument("new", metavar="NEW", help="where it is now")
    move.add_argument("--rename-dir", action="store_true", help="move the checkout itself first")
    move.epilog = example(
        "mv ~/src/proj ~/code/proj && convergencectl project move ~/src/proj ~/code/proj",
        "convergencectl project move --rename-dir ~/src/proj ~/code/proj",
    )
    remove = actions.add_parser("remove", help="stop tracking a project on this machine")
    remove.description = (
        "Stops tracking a project on this machine: its folders are left out from now on (in\n"
        "projects.exclude). Claude Code's own files, the store and your peers keep what they have.\n"
        "--purge also takes this machine's copy out of its store, after you typed the project's id;\n"
        "--yes answers that beforehand, as long as a peer or Claude Code itself has every session.\n"
        "`init` or `join` brings the project back. Exits 5 where --yes is not enough."
    )
    remove.add_argument("project", metavar="PATH|ID", help="the project's folder, or its id")
    remove.add_argument("--purge", action="store_true", help="take the copy out of this machine's store")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    remove.epilog = example(
        "convergencectl project remove ~/clients/secret", "convergencectl project remove secret --purge"
    )
    discover = actions.add_parser("discover", help="find checkouts that could take part")
    discover.description = (
        "Looks for git repositories below each ROOT (default: projects.roots, and where your projects lie)\n"
        "that have sessions here or that your other machines share, and says how to take part. Goes a few\n"
        "folders deep, without hidden folders, node_modules and other file systems. Ctrl-C shows what was\n"
        "found so far."
    )
    discover.add_argument("roots", nargs="*", metavar="ROOT", help="a folder to look below")
    discover.add_argument("--json", action="store_true", help="machine-readable, schema 1")
    discover.epilog = example(
        "convergencectl project discover ~/code ~/work",
        "convergencectl project discover --json | jq -r '.checkouts[].command'",
    )


def run(args: argparse.Namespace) -> int:
    """Does one of the three."""
    match args.action:
        case "move":
            from ..moving import move

            return move(_absolute(args.old), _absolute(args.new), rename=args.rename_dir)
        case "remove":
            from ..leaving import remove

            return remove(args.project, _absolute(args.project), purge=args.purge, yes=args.yes)
        case _:
            from ..discovery import discover

            return discover([_absolute(root) for root in args.roots], as_json=args.json)


def _absolute(text: str) -> str:
    return os.path.realpath(os.path.expanduser(text))
