"""`project remove`: says what goes and what stays, asks where something goes, and has the daemon do it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from typing import cast

from convergenced.control.answers import Removal
from convergenced.errors import ConvergenceError, UsageError
from convergenced.wording import plural

from .here import connect, locations
from .render import Terminal, clean, tilde


def remove(name: str, path: str, *, purge: bool, yes: bool) -> int:
    """Removes it. Raises `UsageError` where nobody can be asked, `ConvergenceError` at a no."""
    params = {"project": name, "path": path}
    with connect() as daemon:
        is_named = False
        if purge:
            planned = cast("Removal", daemon.call("project_remove", {**params, "plan": True}))
            is_named = _confirm(planned, yes=yes)
        answer = daemon.call("project_remove", {**params, "purge": purge, "named": is_named}, timeout=None)
    terminal = Terminal.of(sys.stdout, os.environ)
    print("\n".join(lines(cast("Removal", answer), terminal, purge=purge)))
    return 0


def lines(removed: Removal, terminal: Terminal, *, purge: bool) -> list[str]:
    """What went, what stays, and the way back."""
    texts = _purged(removed) if purge else _removed(removed)
    commands = [*([_off_the_disk()] if purge else []), *_ways_back(removed, purge=purge)]
    return [*_laid_out(texts, terminal), *(f"  → {command}" for command in commands)]


def question(planned: Removal, terminal: Terminal) -> list[str]:
    """What a person is to know before the copy goes."""
    return _laid_out(_plan(planned), terminal)


def _laid_out(texts: Iterable[str], terminal: Terminal) -> list[str]:
    """Paragraphs; what is indented holds a path, and stays whole however long that is."""
    out = []
    for text in texts:
        out += [text] if text.startswith("  ") else terminal.paragraph(text, indent="  ", first="")
    return out


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
    yield (
        f"What goes from this machine's store: {plural(planned['sessions'], 'session')} of "
        f"{clean(planned['project'])}, their history and memory; {_archived(planned)}."
    )
    if planned["only_here"]:
        yield f"! {plural(planned['only_here'], 'session')} of these would be nowhere else: no peer has them."
    yield from _staying(planned)


def _archived(planned: Removal) -> str:
    if not planned["archived"]:
        return "all of them are among Claude Code's own files too"
    return f"{planned['archived']} of them are not among Claude Code's own files any more"


def _staying(removed: Removal) -> Iterator[str]:
    kept = [f"  Claude Code's own files in {clean(tilde(folder))}" for folder in removed["context_dirs"]]
    if removed["peers"]:
        kept.append(f"  what peers have: {', '.join(map(clean, removed['peers']))}")
    kept += [f"  backups in {clean(tilde(folder))}" for folder in removed["backups"]]
    if kept:
        yield "What stays:"
        yield from kept


def _removed(removed: Removal) -> Iterator[str]:
    roots = ", ".join(clean(tilde(root)) for root in removed["roots"]) or "it took part nowhere here"
    yield f"{clean(removed['project'])} takes part no more on this machine ({roots})"
    yield "Claude Code's own files, the store and your peers keep what they have. Back again:"


def _purged(removed: Removal) -> Iterator[str]:
    project = clean(removed["project"])
    yield f"{project} takes part no more, and this machine's copy is gone ({_count(removed)})"
    yield from _staying(removed)
    yield "Nothing names it any more. To have it off the disk as well, or to have it back:"


def _count(removed: Removal) -> str:
    return plural(removed["sessions"], "session")


def _off_the_disk() -> str:
    store = shlex.quote(locations().store)
    return f"convergencectl down && git -C {store} gc --prune=now && convergencectl up"


def _ways_back(removed: Removal, *, purge: bool) -> list[str]:
    if not removed["roots"]:
        return [f"convergencectl join PATH --id {clean(removed['project'])}"]
    how = "join" if purge and removed["peers"] else "init"
    return [f"convergencectl {how} {shlex.quote(root)}" for root in removed["roots"]]
