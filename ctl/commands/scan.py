"""`scan`: apparent secrets in sessions and memory, and which of them are fine."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from convergenced.control.protocol import Json
from convergenced.errors import AttentionError, ConvergenceError, UsageError
from convergenced.wording import plural

from ..arguments import Parser, example, project_argument
from ..here import connect, locations
from ..render import Column, Terminal, clean, clip, day, portion, size, table

if TYPE_CHECKING:
    from convergenced.control.answers import Secret, Secrets

TELL_EVERY = 0.1
"""Seconds between two words about how far it is."""


def configure(parser: Parser) -> None:
    """Arguments and help."""
    parser.description = (
        "Looks for secrets in the sessions and the memory of all projects, or of one: keys, tokens and\n"
        "passwords, as they lie here and, where a session is not here, in the store. What is found is shown\n"
        "by its first characters only. What leaked should be revoked where it was made: taking it out of a\n"
        "file here takes it from nowhere else. What is fine can be allowed by its fingerprint, on this\n"
        'machine, for good; with `secrets.policy = "block"` its session is shared then.\n'
        "Exits 0 where nothing is found that is not allowed, 5 where something is."
    )
    parser.epilog = example(
        "convergencectl scan",
        "convergencectl scan my-project --json | jq -r '.secrets[] | select(.allowed | not) | .name'",
        "convergencectl scan --allow 3f9c0a12bd44",
        "convergencectl scan --allowed",
        "convergencectl config set secrets.policy block",
    )
    parser.add_argument(
        "project",
        metavar="PROJECT",
        nargs="?",
        type=project_argument,
        help="only this one: id or folder",
    )
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument(
        "--allow",
        metavar="FINGERPRINT",
        nargs="+",
        type=_fingerprint,
        help="these are no secrets, or may be shared",
    )
    doing.add_argument("--forget", metavar="FINGERPRINT", nargs="+", type=_fingerprint, help="take that back")
    doing.add_argument(
        "--allowed", action="store_true", help="list what was allowed, without looking for more"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable, schema 1")


def _fingerprint(text: str) -> str:
    from convergenced.canon.secrets import is_fingerprint

    if not is_fingerprint(text.lower()):
        raise argparse.ArgumentTypeError(f"{text!r} is no fingerprint; `convergencectl scan` shows them")
    return text.lower()


def run(args: argparse.Namespace) -> int:
    """Prints what is found; the exit code says whether there is something that nobody allowed."""
    terminal = Terminal.of(sys.stdout, os.environ)
    if args.project is not None and (args.allow or args.forget or args.allowed):
        raise UsageError("what is allowed counts for all projects", "leave the project out")
    if args.allow or args.forget:
        return _decide(args.allow or args.forget, is_forget=bool(args.forget), as_json=args.json)
    if args.allowed:
        return _list_allowed(terminal, as_json=args.json)
    from convergenced.control.offline import scan_for_secrets  # opens the store with pygit2

    meter = _Meter(Terminal.of(sys.stderr, os.environ))
    try:
        found = scan_for_secrets(locations(), os.environ, args.project, meter.tell)
    finally:
        meter.done()
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(lines(found, terminal)))
    for one in found["unreadable"]:
        print(f"cannot be read: {clean(one['text'])} ({clean(one['project'])})", file=sys.stderr)
    if any(not one["allowed"] for one in found["secrets"]):
        return AttentionError.exit_code
    return ConvergenceError.exit_code if found["unreadable"] else 0


def _decide(fingerprints: list[str], *, is_forget: bool, as_json: bool) -> int:
    params: dict[str, Json] = {"fingerprints": list[Json](fingerprints), "forget": is_forget}
    with connect() as daemon:
        answer = daemon.call("secrets_allow", params)
    if as_json:
        print(json.dumps({"schema": 1, **cast("dict[str, Json]", answer)}, indent=2))
    else:
        print(f"{'not allowed any more' if is_forget else 'allowed'}: {' '.join(fingerprints)}")
    return 0


def _list_allowed(terminal: Terminal, *, as_json: bool) -> int:
    from convergenced.control.offline import read_allowed  # opens the store with pygit2

    allowed = read_allowed(locations(), os.environ)
    if as_json:
        print(json.dumps({"schema": 1, "allowed": allowed}, indent=2))
    elif not allowed:
        print("nothing was allowed")
    else:
        now = time.time()
        columns = [Column("FINGERPRINT"), Column("ALLOWED")]
        rows = [[one, day(at, now)] for one, at in allowed.items()]
        out = table(columns, rows, terminal.width)
        note = f"taken back with: convergencectl scan --forget {next(iter(allowed))}"
        print("\n".join([terminal.style(out[0], "dim"), *out[1:], *terminal.paragraph(note)]))
    return 0


def lines(found: Secrets, terminal: Terminal) -> list[str]:
    """All of it for people."""
    open_ones = [one for one in found["secrets"] if not one["allowed"]]
    looked = f"in {plural(found['files'], 'file')}, {size(found['bytes'])}"
    allowed = len({one["fingerprint"] for one in found["secrets"] if one["allowed"]})
    apart = f"; {allowed} allowed" if allowed else ""
    if not open_ones:
        return terminal.paragraph(f"no apparent secret {looked}{apart}")
    number = len({one["fingerprint"] for one in open_ones})
    more = "" if found["whole"] else " at least"
    first = f"{plural(number, 'apparent secret')}{more} {looked}{apart}"
    out = [terminal.style(line, "bold", "yellow") for line in terminal.paragraph(first)]
    by_file: dict[tuple[str, str | None, str], list[Secret]] = {}
    for one in open_ones:
        by_file.setdefault((one["project"], one["path"], one["name"]), []).append(one)
    for ones in by_file.values():
        out += ["", *_file(ones, terminal)]
    example_of = open_ones[0]["fingerprint"]
    advice = terminal.paragraph("→ revoke what is real where it was made, and make a new one")
    return [*out, "", *advice, f"→ what is fine: convergencectl scan --allow {example_of}"]


def _file(ones: Sequence[Secret], terminal: Terminal) -> list[str]:
    """One file and what is in it."""
    first = ones[0]
    title = clean(first["title"]) or ("(nothing was asked)" if first["session"] else "memory")
    where = clean(first["name"]) + (", in the store only" if first["path"] is None else "")
    out = [terminal.style(clip(f"{clean(first['project'])}: {title}", terminal.width), "bold")]
    out += [terminal.style(line, "dim") for line in terminal.paragraph(where, indent="  ")]
    for one in ones:
        again = f", {one['count'] - 1} more" if one["count"] > 1 else ""
        text = f"{one['fingerprint']} line {one['line']}{again}: {one['what']} {clean(one['shown'])}"
        out += terminal.paragraph(text, first="  ", indent=" " * 16)
    return out


class _Meter:
    """Says on a terminal how far it is."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._said = time.monotonic()

    def tell(self, project: str, done: int, of: int) -> None:
        now = time.monotonic()
        if not self._terminal.interactive or now - self._said < TELL_EVERY:
            return
        self._said = now
        text = f"searching {clean(project)}, {portion(done, of)}"
        sys.stderr.write("\r" + clip(text, self._terminal.width - 1) + "\x1b[K")
        sys.stderr.flush()

    def done(self) -> None:
        """Takes the line away again."""
        if self._terminal.interactive:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
