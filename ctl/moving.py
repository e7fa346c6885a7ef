"""`project move`: renames the checkout by request, has the daemon follow, and tells what became of it.

Promise: it can be broken off at any moment and asked for again; a checkout that is at its new place already
is not moved once more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import sys
from collections.abc import Iterator
from typing import cast

from convergenced.control.answers import Moved, Moves
from convergenced.errors import ConvergenceError, HeldError, UsageError
from convergenced.wording import plural

from .client import Connection
from .here import connect, locations
from .progress import Progress
from .render import Terminal, clean, tilde

TIMEOUT = 180.0
"""Seconds that it may take until the new folder is written and the old one is empty."""


def move(old: str, new: str, *, rename: bool) -> int:
    """Moves and follows. Raises `UsageError` where it makes no sense, `HeldError` where Claude Code runs."""
    if old == new or new.startswith(old.rstrip("/") + "/"):
        raise UsageError(f"{clean(new)} lies in {clean(old)}", "give another place")
    with connect() as daemon:
        if rename:
            _rename(daemon, old, new)
        elif not os.path.isdir(new):
            raise UsageError(
                f"{clean(tilde(new))} is not a folder",
                "give the place where the checkout is now, or have it moved: --rename-dir",
            )
        _put_back(daemon, old, new)
        progress = Progress(locations().socket, "moving", Terminal.of(sys.stderr, os.environ))
        try:
            answer = daemon.call(
                "project_move", {"old": old, "new": new}, timeout=TIMEOUT, each_tick=progress.tick
            )
        finally:
            progress.done()
    moves = cast("Moves", answer)
    for moved in moves["moves"]:
        _remove_empty_folders(moved)
    print("\n".join(lines(moves, Terminal.of(sys.stdout, os.environ))))
    if _has_worktrees(new):
        print(f"  → git -C {shlex.quote(new)} worktree repair")
    return 0


def lines(moves: Moves, terminal: Terminal) -> list[str]:
    """What became of each project. What is indented is a path, and stays whole however long it is."""
    out = []
    for text in (text for moved in moves["moves"] for text in _told(moved)):
        out += [text] if text.startswith("  ") else terminal.paragraph(text, indent="  ", first="")
    return out


def _rename(daemon: Connection, old: str, new: str) -> None:
    if not os.path.lexists(old) and os.path.isdir(new):
        print(f"the checkout is at {clean(tilde(new))} already", file=sys.stderr)
        return
    if not os.path.isdir(old):
        raise UsageError(f"{clean(tilde(old))} is not a folder", "give the place of the checkout")
    if os.path.lexists(new):
        raise UsageError(f"{clean(tilde(new))} is there already", "give a name that is free")
    if not os.path.isdir(os.path.dirname(new)):
        raise UsageError(f"{clean(tilde(os.path.dirname(new)))} is not a folder", "make it first")
    planned = cast("Moves", daemon.call("project_move", {"old": old, "new": new, "plan": True}))
    for moved in planned["moves"]:
        if moved["waits"] is not None:
            raise HeldError(moved["waits"], "end it first: it would go on writing to the old place")
    try:
        os.rename(old, new)
    except OSError as error:
        hint = "check permissions"
        if error.errno == errno.EXDEV:
            hint = (
                "it is on another file system: move it yourself, then\n"
                f"convergencectl project move {shlex.quote(old)} {shlex.quote(new)}"
            )
        raise ConvergenceError(f"cannot move {clean(old)}: {error.strerror}", hint) from error
    print(f"moved {clean(tilde(old))} to {clean(tilde(new))}", file=sys.stderr)


def _put_back(daemon: Connection, old: str, new: str) -> None:
    """Puts back a context folder that was moved along by hand: its files speak of the old place.

    The daemon then writes a folder for the new place from it, and puts it away.
    """
    planned = cast("Moves", daemon.call("project_move", {"old": old, "new": new, "plan": True}))
    for moved in planned["moves"]:
        if moved["misplaced"]:
            os.rename(moved["context_dir"], moved["old_context_dir"])


def _told(moved: Moved) -> Iterator[str]:
    project, new = clean(moved["project"]), clean(tilde(moved["new"]))
    old_folder = f"  {clean(tilde(moved['old_context_dir']))}"
    if moved["waits"] is not None:
        yield f"{project} is in {new} now; its sessions arrive there later: {clean(moved['waits'])}"
        yield "the old context folder stays:"
        yield old_folder
        return
    yield f"{project} is in {new} now, with {plural(moved['sessions'], 'session')} to resume there"
    if moved["files"] and moved["backups"] is not None:
        yield f"{plural(moved['files'], 'file')} of the old context folder went among the backups:"
        yield f"  {clean(tilde(moved['backups']))}"
    if moved["stays"] is not None:
        yield f"the old context folder stays, because {clean(moved['stays'])}:"
        yield old_folder


def _remove_empty_folders(moved: Moved) -> None:
    """What is left of the old context folder once its files are gone; a folder that holds anything stays."""
    if moved["stays"] is not None or moved["waits"] is not None:
        return
    for folder, _, _ in os.walk(moved["old_context_dir"], topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _has_worktrees(checkout: str) -> bool:
    """Whether git has to be told that the checkout moved: it is a linked worktree, or has some."""
    place = os.path.join(checkout, ".git")
    if os.path.isfile(place):
        return True
    try:
        return bool(os.listdir(os.path.join(place, "worktrees")))
    except OSError:
        return False
