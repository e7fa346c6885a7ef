"""`sessions`: what was talked about, where, and when."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from convergenced.errors import ConvergenceError, NoDaemonError

from ..arguments import Parser, example, project_argument
from ..here import connect, locations
from ..render import Column, Terminal, clean, day, parse_time, size, table

if TYPE_CHECKING:
    from convergenced.control.answers import ProjectText, Session, Sessions

TIMEOUT = 300.0
"""Seconds that a first look at a large store may take; later ones go by what it found."""
PAGE = 2_000
SHOWN = 40
"""Sessions that are shown on a terminal, where not all are asked for."""
SHORTEST = 8
"""Digits of an id that are shown, at least."""


def configure(parser: Parser) -> None:
    """Arguments and help."""
    parser.description = (
        "Lists the sessions of all projects, or of one, the newest first: what each is called or what\n"
        "was asked first, its project, the machine that wrote last, when that was, its size and records\n"
        "(~: an estimate), whether it lies here, was removed here, or is only in the store, and where it\n"
        "is open just now. FROM is the session that a fork or an older state was made from. The\n"
        "beginning of an id is enough for `session show` and the like. On a terminal the newest\n"
        f"{SHOWN} are shown, elsewhere all."
    )
    parser.epilog = example(
        "convergencectl sessions",
        "convergencectl sessions proj --all",
        "convergencectl sessions | grep login",
        "convergencectl sessions --json | jq -r '.sessions[] | select(.state == \"removed\") | .id'",
    )
    parser.add_argument("project", metavar="PROJECT", nargs="?", help="only this one: its id or its folder")
    parser.add_argument("--all", action="store_true", help="all of them, however many there are")
    parser.add_argument("--json", action="store_true", help="machine-readable, schema 1")


def run(args: argparse.Namespace) -> int:
    """Prints the list; exits 1 where a project cannot be read."""
    terminal = Terminal.of(sys.stdout, os.environ)
    most = SHOWN if terminal.interactive and not args.all and not args.json else None
    found, total, unreadable = _read(None if args.project is None else project_argument(args.project), most)
    if args.json:
        print(json.dumps({"schema": 1, "sessions": found, "unreadable": unreadable}, indent=2))
    else:
        print("\n".join(lines(found, total, terminal, time.time())))
    for one in unreadable:
        print(f"project {clean(one['project'])} cannot be read: {clean(one['text'])}", file=sys.stderr)
    return ConvergenceError.exit_code if unreadable else 0


def _read(project: str | None, most: int | None) -> tuple[list[Session], int, list[ProjectText]]:
    """The sessions (the newest `most`), how many there are, and what cannot be read."""
    try:
        with connect() as daemon:
            return _pages(
                lambda offset, limit: cast(
                    "Sessions",
                    daemon.call(
                        "sessions", {"project": project, "offset": offset, "limit": limit}, timeout=TIMEOUT
                    ),
                ),
                most,
            )
    except NoDaemonError as error:
        print(f"{error.summary}; this is what the store holds\n  {error.hint}", file=sys.stderr)
    from convergenced.control.offline import offline_sessions  # opens the store with pygit2

    found = offline_sessions(locations(), os.environ, project)
    return found["sessions"][:most], found["total"], found["unreadable"]


def _pages(
    ask: Callable[[int, int], Sessions], most: int | None
) -> tuple[list[Session], int, list[ProjectText]]:
    found: dict[tuple[str, str], Session] = {}
    offset = 0
    while True:
        answer = ask(offset, PAGE if most is None else most)
        found |= {(one["project"], one["id"]): one for one in answer["sessions"]}
        offset += len(answer["sessions"])
        if not answer["sessions"] or most is not None or offset >= answer["total"]:
            return list(found.values()), answer["total"], answer["unreadable"]


def lines(found: Sequence[Session], total: int, terminal: Terminal, now: float) -> list[str]:
    """All of it for people."""
    if not found:
        return ["no session is in the store yet; see: convergencectl status"]
    digits = shown_digits([one["id"] for one in found])
    columns = [
        Column("SESSION"),
        Column("TITLE", least=14),
        Column("PROJECT", least=7, drop=4),
        Column("ON", least=6, drop=2),
        Column("LAST"),
        Column("SIZE", right=True, drop=5),
        Column("RECORDS", right=True, drop=6),
        Column("WHERE", drop=1),
    ]
    rows = [_row(one, digits, now) for one in found]
    if any(one["origin"] for one in found):
        columns.append(Column("FROM", drop=3))
    else:
        rows = [row[:-1] for row in rows]
    out = table(columns, rows, terminal.width)
    out[0] = terminal.style(out[0], "dim")
    if len(found) < total:
        out.append(terminal.style(f"the newest {len(found)} of {total:,}; --all shows all", "dim"))
    if removed := next((one["id"] for one in found if one["state"] == "removed"), None):
        out.append(terminal.style("what was removed here can be brought back:", "dim"))
        out.append(f"  → convergencectl session restore {clean(removed[:digits])}")
    return out


def _row(one: Session, digits: int, now: float) -> list[str]:
    at = parse_time(one["at"]) if one["at"] else None
    return [
        clean(one["id"][:digits]),
        clean(one["title"]) or "(nothing was asked)",
        clean(one["project"]),
        clean(one["machine"] or "?"),
        "?" if at is None else day(at, now),
        size(one["bytes"]),
        f"{'' if one['exact'] else '~'}{one['records']:,}",
        clean(", ".join([one["state"], *(f"open on {name}" for name in one["open_on"])])),
        clean((one["origin"] or "")[:digits]),
    ]


def shown_digits(ids: Sequence[str]) -> int:
    """How much of each id has to be shown to tell them apart."""
    digits = SHORTEST
    while len({one[:digits] for one in ids}) < len(set(ids)):
        digits += 1
    return digits
