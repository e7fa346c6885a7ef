"""`project remove`: says what goes and what stays, asks where something goes, and has the daemon do it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from typing import cast

from convergenced.control.answers import Removal
from convergenced.errors import ConvergenceError, UsageError

from .here import connect, locations
from .render import Terminal, clean, plural, tilde


def remove(name: str, path: str, *, purge: bool, yes: bool) -> int:
    """Removes it. Raises `UsageError` where nobody can be asked, `ConvergenceError` at a no."""
    params = {"project": name, "path": path}
    with connect() as daemon:
        is_named = False
        if purge:
            planned = cast("Removal", daemon.call("project_remove", {**params, "plan": True}))
            is_named = _confirm(planned, yes=yes)
        answer = daemon.call("project_remove", {**params, "purge": purge, "named": is_named}, timeout=None)
    removed = cast("Removal", answer)
    terminal = Terminal.of(sys.stdout, os.environ)
    told = _purged(removed) if purge else _removed(removed)
    print("\n".join(line for text in told for line in terminal.paragraph(text, indent="  ", first="")))
    for command in _ways_back(removed):
        print(f"  → {command}")
    return 0


def _confirm(planned: Removal, *, yes: bool) -> bool:
    """Whether a person agreed by the project's name; False where `--yes` did."""
    if yes:
        return False
    if not sys.stdin.isatty():
        raise UsageError(
            "there is no terminal to ask whether the copy may go", "say yes beforehand: add --yes"
        )
    terminal = Terminal.of(sys.stderr, os.environ)
    project = clean(planned["project"])
    for text in _plan(planned):
        print("\n".join(terminal.paragraph(text, indent="  ", first="")), file=sys.stderr)
    print(f"Type {project} to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != planned["project"]:
        raise ConvergenceError("that was not the project's id; nothing was changed")
    return True


def _plan(planned: Removal) -> Iterator[str]:
    project = clean(planned["project"])
    yield (
        f"What goes from this machine's store: {plural(planned['sessions'], 'session')} of {project}, "
        f"their history and memory; {_archived(planned)}."
    )
    if planned["only_here"]:
        yield f"! {plural(planned['only_here'], 'session')} of these would be nowhere else: no peer has them."
    yield f"What stays: {', '.join(_staying(planned))}."


def _archived(planned: Removal) -> str:
    if not planned["archived"]:
        return "all of them are among Claude Code's own files too"
    return f"{planned['archived']} of them are not among Claude Code's own files any more"


def _staying(removed: Removal) -> Iterator[str]:
    for folder in removed["context_dirs"]:
        yield f"Claude Code's own files in {clean(tilde(folder))}"
    if removed["peers"]:
        yield f"what peers have ({', '.join(map(clean, removed['peers']))})"
    for folder in removed["backups"]:
        yield f"backups in {clean(tilde(folder))}"
    yield "all that is in other projects"


def _removed(removed: Removal) -> Iterator[str]:
    roots = ", ".join(clean(tilde(root)) for root in removed["roots"]) or "it took part nowhere here"
    yield f"{clean(removed['project'])} takes part no more on this machine ({roots})"
    yield "Claude Code's own files, the store and your peers keep what they have. Back again:"


def _purged(removed: Removal) -> Iterator[str]:
    project = clean(removed["project"])
    yield f"{project} takes part no more, and this machine's copy is gone ({_count(removed)})"
    yield f"what stays: {', '.join(_staying(removed))}"
    store = shlex.quote(locations().store)
    yield (
        "the space is free again, and no tool can find what was there, after: convergencectl down && "
        f"git -C {store} gc --prune=now && convergencectl up"
    )
    yield "Back again:"


def _count(removed: Removal) -> str:
    return plural(removed["sessions"], "session")


def _ways_back(removed: Removal) -> list[str]:
    if not removed["roots"]:
        return [f"convergencectl join PATH --id {clean(removed['project'])}"]
    return [f"convergencectl init {shlex.quote(root)}" for root in removed["roots"]]
