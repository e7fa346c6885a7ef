"""Changes that would be made here, for reading: what, why a person is asked, and the lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from convergenced.errors import UsageError
from convergenced.wording import plural

from .words import file_name, marks_in, scope_name, visible

if TYPE_CHECKING:
    from convergenced.control.knowledge_answers import Change, KnowledgeDiff

    from ..render import Terminal

NOTHING = ("nothing to apply; how it stands:", "  → convergencectl knowledge status")
SHORTEST = 8
"""Characters of a change's id that name it, at least."""


def needs_person(change: Change) -> bool:
    """Whether it is made only after somebody said yes to it."""
    return change["consent"] != "no"


def name_of(change: Change) -> str:
    """What would change."""
    if change["kind"] == "setting":
        return f"{visible(change['setting'])} in {file_name(change['local'])}"
    return f"{file_name(change['local'])}, +{change['added']} -{change['removed']}"


def lines(found: KnowledgeDiff, terminal: Terminal) -> Iterator[str]:
    """All changes, then those that somebody declined."""
    if not found["changes"]:
        yield from NOTHING
    for number, change in enumerate(found["changes"]):
        if number:
            yield ""
        yield from one_change(change, terminal)
    if found["declined"]:
        yield from ("", "you declined, and may still accept:")
    for change in found["declined"]:
        yield from terminal.paragraph(name_of(change), first="· ", indent="  ")
        yield f"  → {accepting(change)}"


def accepting(change: Change) -> str:
    """The command that agrees to a change. It is whole, however long: it may be copied."""
    return f"convergencectl knowledge apply --accept {visible(change['id'])}"


def one_change(change: Change, terminal: Terminal) -> Iterator[str]:
    """One change with its lines."""
    about = f"{name_of(change)} ({scope_name(change['scope'])})"
    yield from (terminal.style(line, "bold") for line in terminal.paragraph(about, indent="  ", first=""))
    yield f"  change {visible(change['id'])}"
    if needs_person(change):
        text = f"needs your yes: {visible(change['text'])}"
        wrapped = terminal.paragraph(text, first="  ", indent="    ")
        yield from (terminal.style(line, "yellow") for line in wrapped)
    if change["held"]:
        yield from terminal.paragraph(f"held: {visible(change['held'])}", first="  ", indent="    ")
    for mark in marks_in(change["local"], change["marks"]):
        yield from terminal.paragraph(f"to settle: {mark}", first="  ", indent="    ")
    yield from diff_lines(change["diff"], terminal)


def diff_lines(diff: str, terminal: Terminal) -> Iterator[str]:
    """A unified diff in colour. Lines are whole, however long: they may be what is agreed to."""
    is_head = True
    for line in diff.removesuffix("\n").split("\n"):
        shown = visible(line)
        is_head = is_head and line.startswith(("---", "+++"))
        if is_head:
            yield terminal.style(shown, "bold")
        elif line.startswith("@@"):
            yield terminal.style(shown, "dim")
        elif line.startswith("+"):
            yield terminal.style(shown, "green")
        elif line.startswith("-"):
            yield terminal.style(shown, "red")
        else:
            yield shown


def find(ids: Iterable[str], changes: Sequence[Change]) -> list[Change]:
    """The changes with these ids, or beginnings of ids. Raises `UsageError` where it is not exactly one."""
    found = []
    for one in ids:
        known = [change for change in changes if change["id"] == one] or [
            change for change in changes if len(one) >= SHORTEST and change["id"].startswith(one)
        ]
        if len(known) != 1:
            what = "no change" if not known else f"not one, but {plural(len(known), 'change')}"
            raise UsageError(
                f"{what} {one!r} waits here; nothing was changed", "see: convergencectl knowledge diff"
            )
        found += known
    return found
