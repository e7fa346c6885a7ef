"""`session show`, `history`, `backups`, `restore`: one session, read, looked back at, and brought back."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from convergenced.errors import NoDaemonError
from convergenced.wording import plural

from ..arguments import Parser, example
from ..here import connect, locations
from ..pager import page, readable
from ..render import Column, Terminal, clean, iso, size, table, tilde, when

if TYPE_CHECKING:
    from convergenced.control.answers import Backup, Backups, Restored, SessionChange, SessionHistory
    from convergenced.control.sessions import Conversation

TIMEOUT = 120.0
"""Seconds that looking back through a long history, or bringing back a long session, may take."""
SHORTEST = 8
"""Digits of a session's id that are shown beside others."""
COMMIT = 10
"""Digits of a commit's id that are shown."""


def configure(parser: Parser) -> None:
    """Arguments and help."""
    parser.description = (
        "Reads a session, tells its history, and brings back what was removed or replaced here. SID is a\n"
        "session's id or the beginning of it, as `sessions` shows it, or PROJECT:SID."
    )
    parser.epilog = example(
        "convergencectl session show 2af1d7f8",
        "convergencectl session history 2af1d7f8",
        "convergencectl session restore 2af1d7f8",
        "convergencectl session restore -h",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _configure_show(actions.add_parser("show", help="the conversation, for reading"))
    _configure_history(actions.add_parser("history", help="who added what when"))
    _configure_backups(actions.add_parser("backups", help="what was replaced here and is kept"))
    _configure_restore(actions.add_parser("restore", help="bring it back, or an older state of it"))


def _configure_show(show: argparse.ArgumentParser) -> None:
    show.description = (
        "Shows the conversation: who said what when, with this machine's paths. Tool calls take one\n"
        "line, their results a few, thinking is only counted; --full shows all of it. On a terminal\n"
        "through $PAGER, or less. It is what the store has, with a daemon or without."
    )
    show.add_argument("sid", metavar="SID", help="the session")
    show.add_argument("--full", action="store_true", help="results and thinking as a whole")
    show.add_argument("--json", action="store_true", help="one JSON object a line, nothing shortened")
    show.epilog = example(
        "convergencectl session show 2af1d7f8",
        "convergencectl session show 2af1d7f8 --json | jq -r 'select(.who == \"user\") | .text'",
    )


def _configure_history(history: argparse.ArgumentParser) -> None:
    history.description = (
        "Tells who added what when, the newest last. COMMIT is what `session restore --at` takes."
    )
    history.add_argument("sid", metavar="SID", help="the session")
    history.add_argument("--json", action="store_true", help="machine-readable, schema 1")
    history.epilog = example("convergencectl session history 2af1d7f8")


def _configure_backups(backups: argparse.ArgumentParser) -> None:
    backups.description = (
        "Lists the files of sessions and of memory that were replaced on this machine, as they were\n"
        "before, the newest first. STAMP is what `session restore --backup` takes; a note is copied\n"
        "back by hand."
    )
    backups.add_argument("sid", metavar="SID", nargs="?", help="only this session's")
    backups.add_argument("--json", action="store_true", help="machine-readable, schema 1")
    backups.epilog = example("convergencectl session backups", "convergencectl session backups 2af1d7f8")


def _configure_restore(restore: argparse.ArgumentParser) -> None:
    restore.description = (
        "Brings back a session that Claude Code's cleanup or you removed here, so that it can be\n"
        "resumed, and looks young enough for the next cleanup to leave it alone. With --at or --backup\n"
        "an older state comes back as a session of its own, beside what there is, on all machines.\n"
        "What is there is never changed. While Claude Code runs in the project it waits, and comes by\n"
        "itself after that.\n"
        "Exits 0 when it is there or will be, 3 without a daemon."
    )
    restore.add_argument("sid", metavar="SID", help="the session")
    state = restore.add_mutually_exclusive_group()
    state.add_argument("--at", metavar="COMMIT", help="as of this commit: see `session history`")
    state.add_argument("--backup", metavar="STAMP", help="as this backup has it: see `session backups`")
    restore.add_argument("--json", action="store_true", help="machine-readable")
    restore.epilog = example(
        "convergencectl session restore 2af1d7f8",
        "convergencectl session restore 2af1d7f8 --at 52a0fb1c9e",
        "convergencectl session restore 2af1d7f8 --backup 20310504T120000",
    )


def run(args: argparse.Namespace) -> int:
    """Does what was asked for."""
    actions = {"show": _show, "history": _history, "backups": _backups, "restore": _restore}
    actions[args.action](args)
    return 0


# -- show


def _show(args: argparse.Namespace) -> None:
    from convergenced.control.offline import open_conversation  # opens the store with pygit2

    from ..conversation import lines

    terminal = readable(Terminal.of(sys.stdout, os.environ), os.environ)
    width = terminal.width if terminal.interactive or "COLUMNS" in os.environ else None
    with open_conversation(locations(), os.environ, args.sid) as found:
        if args.json:
            _print_entries(found)
            return
        page(
            _with_title(
                found, terminal, lines(found.entries, terminal, time.time(), width=width, full=args.full)
            ),
            terminal,
            os.environ,
        )


def _print_entries(found: Conversation) -> None:
    for one in found.entries:
        at = None if one.at is None else iso(one.at)
        value = {"at": at, "who": one.who, "kind": one.kind, "text": one.text, "error": one.is_error}
        print(json.dumps(value))


def _with_title(found: Conversation, terminal: Terminal, said: Iterator[str]) -> Iterator[str]:
    if found.title:
        yield from (terminal.style(line, "bold") for line in terminal.paragraph(clean(found.title)))
    yield terminal.style(f"{clean(found.project)} · {clean(found.session)}", "dim")
    yield ""
    is_empty = True
    for line in said:
        is_empty = False
        yield line
    if is_empty:
        yield "nothing was said"


# -- history


def _history(args: argparse.Namespace) -> None:
    try:
        with connect() as daemon:
            answer = daemon.call("session_history", {"session": args.sid}, timeout=TIMEOUT)
            found = cast("SessionHistory", answer)
    except NoDaemonError as error:
        _say_offline(error)
        from convergenced.control.offline import offline_history

        found = offline_history(locations(), os.environ, args.sid)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(history_lines(found, Terminal.of(sys.stdout, os.environ), time.time())))


def history_lines(found: SessionHistory, terminal: Terminal, now: float) -> list[str]:
    """A session's history for people."""
    out = [terminal.style(line, "bold") for line in terminal.paragraph(clean(found["title"]))]
    out = out if found["title"] else []
    out += [terminal.style(f"{clean(found['project'])} · {clean(found['session'])}", "dim"), ""]
    if not found["whole"]:
        out.append(terminal.style("… what came before is not looked at", "dim"))
    columns = (Column("COMMIT"), Column("WHEN", least=12), Column("ON", least=6), Column("WHAT", least=14))
    rows = [
        [
            clean(one["commit"][:COMMIT]),
            when(one["at"], now),
            clean(one["machine"] or "(merged)"),
            clean(_what(one)),
        ]
        for one in found["changes"]
    ]
    head, *body = table(columns, rows, terminal.width)
    return [*out, terminal.style(head, "dim"), *body]


def _what(one: SessionChange) -> str:
    added = f"+{size(one['bytes'])}" if one["records"] is None else f"+{plural(one['records'], 'record')}"
    parts = [added] if one["bytes"] > 0 else []
    if one["origin"] is not None:
        parts.append(f"made from {one['origin'][:SHORTEST]}")
    parts += [f"became also {other[:SHORTEST]}" for other in one["became"]]
    return ", ".join(parts) or "rewritten"


# -- backups


def _backups(args: argparse.Namespace) -> None:
    try:
        with connect() as daemon:
            answer = daemon.call("session_backups", {"session": args.sid}, timeout=TIMEOUT)
            found = cast("Backups", answer)
    except NoDaemonError as error:
        _say_offline(error)
        from convergenced.control.offline import offline_backups

        found = offline_backups(locations(), os.environ, args.sid)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(backup_lines(found, Terminal.of(sys.stdout, os.environ), time.time())))


def backup_lines(found: Backups, terminal: Terminal, now: float) -> list[str]:
    """The backups for people."""
    backups = found["backups"]
    if not backups:
        return ["nothing of that was replaced here" if found["total"] else "no backup is kept here"]
    columns = (
        Column("STAMP"),
        Column("WHEN", least=12, drop=1),
        Column("PROJECT", least=7, drop=2),
        Column("FILE", least=16, path=True),
        Column("SIZE", right=True),
    )
    rows = [
        [
            clean(one["stamp"]),
            when(one["at"], now, short=True),
            clean(one["project"]),
            clean(one["name"]) + (" (written to since)" if one["late"] else ""),
            size(one["bytes"]),
        ]
        for one in backups
    ]
    head, *body = table(columns, rows, terminal.width)
    out = [terminal.style(head, "dim"), *body]
    if len(backups) < found["total"]:
        out.append(terminal.style(f"the newest {len(backups)} of {found['total']:,}", "dim"))
    return [*out, "", *_remedies(backups)]


def _remedies(backups: Sequence[Backup]) -> list[str]:
    """What brings them back: whole commands, however long, so that they can be copied."""
    out = []
    for one in backups:
        if one["name"] == f"{one['session']}.jsonl":
            command = f"convergencectl session restore {clean(one['session'] or '')} --backup {one['stamp']}"
            out.append(f"a session comes back as one of its own:\n  → {clean(command)}")
            break
    if (
        other := next((one for one in backups if one["name"] != f"{one['session']}.jsonl"), None)
    ) is not None:
        out.append(f"any other file lies there to be copied:\n  → {clean(shlex.quote(other['path']))}")
    return out


# -- restore


def _restore(args: argparse.Namespace) -> None:
    params = {"session": args.sid, "at": args.at, "backup": args.backup}
    with connect() as daemon:
        restored = cast("Restored", daemon.call("session_restore", params, timeout=TIMEOUT))
    if args.json:
        print(json.dumps(restored, indent=2))
        return
    for line in restored_lines(restored):
        print(line)


def restored_lines(restored: Restored) -> list[str]:
    """What became of it, for people."""
    session = clean(restored["session"])
    out = []
    if restored["origin"] is not None:
        out.append(f"that state of {clean(restored['origin'])} is session {session}")
    if restored["waits"] is not None:
        return [*out, f"{session} is wanted back; {clean(restored['waits'])}"]
    done = "is here already" if restored["there"] else "is back" if restored["origin"] is None else "is here"
    root = tilde(restored["root"])
    where = root if re.fullmatch(r"~?[\w/.+-]*", root) else shlex.quote(restored["root"])  # ~ unquoted
    return [
        *out,
        f"{session} {done}: {clean(tilde(restored['path']))}",
        f"  → cd {clean(where)} && claude --resume {session}",
    ]


def _say_offline(error: NoDaemonError) -> None:
    print(f"{error.summary}; this is what the store holds\n  {error.hint}", file=sys.stderr)
