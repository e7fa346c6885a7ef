"""A session's conversation as lines for people.

Pure. Promises: nothing that was said can move the cursor or change a colour; lines are made one after the
other, however long the conversation is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from convergenced.canon.conversation import Entry
from convergenced.wording import plural

from .render import Terminal, clean, clip, clock, fold

RESULT_LINES = 3
"""Lines of a tool's result that are shown."""
RESULT_WIDTH = 160
"""Columns of such a line, where nothing else limits them."""
TAB = 4

_NAMES = {"user": "you", "assistant": "claude", "agent": "agent", "system": "system"}
_COLOURS = {"user": "green", "assistant": "yellow"}


def lines(
    entries: Iterable[Entry], terminal: Terminal, now: float, *, width: int | None, full: bool
) -> Iterator[str]:
    """The conversation. `width` None: lines are as long as they are. `full`: nothing is left out."""
    speaker, is_first = "", True
    for entry in entries:
        shown = list(_entry(entry, terminal, width, full))
        if not shown:
            continue
        if entry.kind != "result" and entry.who != speaker:
            if not is_first:
                yield ""
            speaker, is_first = entry.who, False
            at = "" if entry.at is None else f" · {clock(entry.at, now)}"
            name = terminal.style(_NAMES[entry.who], "bold", *filter(None, [_COLOURS.get(entry.who)]))
            yield name + terminal.style(at, "dim")
        yield from shown


def _entry(entry: Entry, terminal: Terminal, width: int | None, full: bool) -> Iterator[str]:
    match entry.kind:
        case "text":
            yield from _text(entry.text, "  ", width)
        case "call":
            line = clean(" ".join(entry.text.split()))
            yield "  " + terminal.style("●", "green") + " " + clip(line, (width or RESULT_WIDTH) - 4)
        case "result":
            yield from _result(entry, terminal, width, full)
        case "thinking" | "summary" if not full:
            what = "thinking" if entry.kind == "thinking" else "summary of what was said before"
            count = f", {plural(len(entry.text), 'character')}" if entry.text else ""
            yield terminal.style(f"  ({what}{count})", "dim")
        case _ if full or entry.who == "system":
            for line in _text(entry.text, "  ", width):
                yield terminal.style(line, "dim")


def _result(entry: Entry, terminal: Terminal, width: int | None, full: bool) -> Iterator[str]:
    text = entry.text.strip("\n")
    everything = text.split("\n") if text else ["(nothing)"]
    first = "    ⎿ "
    if full:
        for line in _text(text, " " * len(first), width):
            yield terminal.style(line, "dim")
        return
    room = (width or RESULT_WIDTH + len(first)) - len(first)
    for number, line in enumerate(everything[:RESULT_LINES]):
        lead = first if number == 0 else " " * len(first)
        styles = ("red",) if entry.is_error else ("dim",)
        yield (lead + terminal.style(clip(clean(line.expandtabs(TAB)), room), *styles)).rstrip()
    if len(everything) > RESULT_LINES:
        more = f"… {plural(len(everything) - RESULT_LINES, 'more line')}"
        yield " " * len(first) + terminal.style(more, "dim")


def _text(text: str, indent: str, width: int | None) -> Iterator[str]:
    for line in text.strip("\n").replace("\r\n", "\n").split("\n"):
        plain = clean(line.expandtabs(TAB)).rstrip()
        if not plain:
            yield ""
        elif width is None:
            yield indent + plain
        else:
            yield from (indent + part for part in fold(plain, width - len(indent)))
