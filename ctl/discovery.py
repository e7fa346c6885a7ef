"""`project discover`: checkouts below some folders that take part, or could, and how.

Only looks: nothing is changed, no peer is asked, and a daemon is not needed for it. Which code a project of a
peer is about is not known before it is joined, so here names have to do; `join` compares the code.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Literal, TypedDict, cast

from convergenced.canon.folder import encode_folder_name
from convergenced.control.answers import Project, Projects
from convergenced.errors import NoDaemonError, UsageError
from convergenced.machine.checkouts import GitCheckouts
from convergenced.machine.files import RealFiles
from convergenced.machine.locations import ClaudeLocations
from convergenced.machine.settings import expand_home
from convergenced.model import Checkout, LocalPath
from convergenced.sync.identity import may_be_named, name_for
from convergenced.sync.scan import scan_folder
from convergenced.sync.survey import Scope
from convergenced.wording import plural

from . import configuration
from .here import connect, locations, read_status
from .render import Column, Terminal, clean, table, tilde

SCHEMA = 1
INTERRUPTED = 130

State = Literal["tracked", "moved", "sessions", "available", "excluded"]

_WORDS: dict[State, str] = {
    "tracked": "tracked",
    "moved": "moved here?",
    "sessions": "sessions here",
    "available": "on your other machines",
    "excluded": "left out",
}


class Found(TypedDict):
    """A checkout. `command` has it take part; None where it does, or is not wanted."""

    root: str
    project: str
    state: State
    sessions: int
    command: str | None


class Discovery(TypedDict):
    """What `--json` prints. `complete` is false where it was broken off."""

    schema: int
    complete: bool
    roots: list[str]
    checkouts: list[Found]


def discover(roots: Sequence[str], *, as_json: bool) -> int:
    """Prints what is found below `roots`. Raises `UsageError` for one that is no folder."""
    for root in roots:
        if not os.path.isdir(root):
            raise UsageError(f"{clean(tilde(root))} is not a folder", "give folders that hold checkouts")
    home = LocalPath(os.path.realpath(os.path.expanduser("~")))
    known = _known()
    settings = configuration.settings(locations()).projects
    wanted = [LocalPath(root) for root in roots] or _default_roots(settings.roots, known, home)
    judge = _Judge(known, Scope(exclude=settings.exclude), home)
    terminal = Terminal.of(sys.stderr, os.environ)
    found: list[Found] = []
    complete = True
    try:
        for number, checkout in enumerate(GitCheckouts(home).find(wanted), start=1):
            if terminal.interactive:
                sys.stderr.write(f"\rlooking: {plural(number, 'checkout')}\x1b[K")
                sys.stderr.flush()
            if (one := judge.about(checkout)) is not None:
                found.append(one)
    except KeyboardInterrupt:
        complete = False
    if terminal.interactive:
        sys.stderr.write("\r\x1b[K")
    if as_json:
        answer: Discovery = {
            "schema": SCHEMA,
            "complete": complete,
            "roots": list(wanted),
            "checkouts": found,
        }
        print(json.dumps(answer, indent=2))
    else:
        print("\n".join(lines(found, wanted, Terminal.of(sys.stdout, os.environ))))
    if not complete:
        print("broken off; there may be more", file=sys.stderr)
        return INTERRUPTED
    return 0


def _known() -> Projects:
    try:
        with connect() as daemon:
            return cast("Projects", daemon.call("projects", {"available": True}))
    except NoDaemonError:
        status, _ = read_status()
        return {"projects": status["projects"], "available": status["available"]}


def _default_roots(configured: Sequence[str], known: Projects, home: LocalPath) -> list[LocalPath]:
    """The folders the daemon itself looks below: those of the settings, and where projects lie."""
    roots = {expand_home(root, home) for root in configured}
    roots |= {LocalPath(os.path.dirname(one["root"])) for one in known["projects"] if one["root"]}
    return sorted(root for root in roots - {home, LocalPath("/")} if os.path.isdir(root))


class _Judge:
    """What a checkout is to this machine."""

    def __init__(self, known: Projects, scope: Scope, home: LocalPath) -> None:
        self._scope = scope
        self._home = home
        self._tracked = {one["root"]: one["id"] for one in known["projects"] if one["root"]}
        self._lost = [one for one in known["projects"] if one["root"] and not os.path.isdir(one["root"])]
        self._available = [one["id"] for one in known["available"]]
        self._claude = ClaudeLocations.from_environment(os.environ, os.path.expanduser("~"))

    def about(self, checkout: Checkout) -> Found | None:
        """What can be said of it; None where it has no sessions and no peer has it."""
        root, name = checkout.root, name_for(checkout, checkout.root)
        sessions = self._sessions(root)
        if root in self._tracked:
            return self._found(checkout, self._tracked[root], "tracked", sessions, None)
        if self._scope.excludes_checkout(checkout, root, self._home):
            return self._found(checkout, name, "excluded", sessions, None) if sessions else None
        quoted = shlex.quote(root)
        lost = self._lost_one(name)
        if lost is not None and not checkout.is_worktree:
            command = f"convergencectl project move {shlex.quote(lost['root'] or '')} {quoted}"
            return self._found(checkout, lost["id"], "moved", sessions, command)
        offered = [one for one in self._available if may_be_named(one, (name,))]
        if len(offered) == 1:
            command = f"convergencectl join {quoted}"
            return self._found(checkout, offered[0], "available", sessions, command)
        if offered:
            command = f"convergencectl join {quoted} --id {'|'.join(offered)}"
            return self._found(checkout, name, "available", sessions, command)
        if sessions:
            return self._found(checkout, name, "sessions", sessions, f"convergencectl init {quoted}")
        return None

    def _lost_one(self, name: str) -> Project | None:
        return next((one for one in self._lost if may_be_named(one["id"], (name,))), None)

    def _sessions(self, root: LocalPath) -> int:
        folder = os.path.join(self._claude.projects, encode_folder_name(root))
        scan = scan_folder(RealFiles(), LocalPath(folder))
        return 0 if scan is None else len(scan.transcripts)

    def _found(
        self, checkout: Checkout, project: str, state: State, sessions: int, command: str | None
    ) -> Found:
        return {
            "root": checkout.root,
            "project": project,
            "state": state,
            "sessions": sessions,
            "command": command,
        }


def lines(found: Sequence[Found], roots: Sequence[str], terminal: Terminal) -> Iterator[str]:
    """A table of what was found, then the commands."""
    where = ", ".join(clean(tilde(root)) for root in roots)
    if not roots:
        yield "there is no folder to look below; give one: convergencectl project discover ~/code"
        return
    if not found:
        text = f"no checkout below {where} has sessions here or is shared by your other machines"
        yield from terminal.paragraph(text)
        return
    columns = (
        Column("CHECKOUT", least=16, path=True),
        Column("PROJECT", least=10),
        Column("SESSIONS", right=True, drop=1),
        Column("STATE"),
    )
    rows = [
        (clean(tilde(one["root"])), clean(one["project"]), str(one["sessions"]), _WORDS[one["state"]])
        for one in sorted(found, key=lambda one: (list(_WORDS).index(one["state"]), one["root"]))
    ]
    header, *others = table(columns, rows, terminal.width)
    yield terminal.style(header, "dim")
    yield from others
    commands = [one["command"] for one in found if one["command"] is not None]
    if commands:
        yield ""
        yield f"{plural(len(commands), 'checkout')} can take part:"
        yield from (f"  {clean(command)}" for command in commands)
