"""Text for a terminal: widths, colours, tables, sizes and ages.

Pure but for `Terminal.of`, which looks at a stream once. Promises that no line it lays out is wider
than the terminal (wide characters counted as two), and that nothing from outside can move the cursor.
"""

from __future__ import annotations

import os
import re
import shutil
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

NARROWEST = 40
"""Columns below which lines are laid out as if there were this many."""
PIPE_WIDTH = 100
"""Columns assumed where the output is no terminal."""

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Terminal:
    """What is known of the place that text goes to."""

    width: int
    colour: bool
    interactive: bool

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str]) -> Terminal:
        """The terminal behind `stream`; honours NO_COLOR, TERM=dumb, COLUMNS and pipes."""
        tty = stream.isatty()
        dumb = environ.get("TERM") == "dumb"
        width = (
            shutil.get_terminal_size((PIPE_WIDTH, 24)).columns if tty or "COLUMNS" in environ else PIPE_WIDTH
        )
        return cls(max(width, NARROWEST), tty and not dumb and not environ.get("NO_COLOR"), tty and not dumb)

    def style(self, text: str, *styles: str) -> str:
        """`text` in colour, where the terminal has any."""
        if not self.colour or not styles or not text:
            return text
        return f"\x1b[{';'.join(_STYLES[one] for one in styles)}m{text}\x1b[0m"

    def paragraph(self, text: str, *, indent: str = "", first: str | None = None) -> list[str]:
        """`text` broken to the width, each line after the first one (`first`) behind `indent`."""
        return wrap(text, self.width, indent, indent if first is None else first)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    With too little room, columns are shortened down to `least` (None: never), the path-like in
    their middle; then those with the highest `drop` go (0: never).
    """

    title: str
    right: bool = False
    least: int | None = None
    path: bool = False
    drop: int = 0


def clean(text: str) -> str:
    """`text` without anything that a terminal would obey."""
    return _CONTROL.sub(lambda found: " " if found[0] in "\t\n\r" else "\N{REPLACEMENT CHARACTER}", text)


def width(text: str) -> int:
    """Terminal columns that `text` takes."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in {"Cf", "Me", "Mn"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clip(text: str, room: int, *, middle: bool = False) -> str:
    """`text` shortened to `room` columns, an ellipsis standing for what is missing."""
    if width(text) <= room:
        return text
    if room <= 1:
        return "…" if room == 1 else ""
    if middle:
        head = _head(text, (room - 1) // 3)
        return head + "…" + _head(text[::-1], room - 1 - width(head))[::-1]
    return _head(text, room - 1) + "…"


def _head(text: str, room: int) -> str:
    taken = 0
    for index, character in enumerate(text):
        taken += _columns(character)
        if taken > room:
            return text[:index]
    return text


def wrap(text: str, room: int, indent: str = "", first: str = "") -> list[str]:
    """Lines of at most `room` columns. A word that is longer is broken."""
    if text.isascii():
        wrapped = textwrap.wrap(
            text, room, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False
        )
        return wrapped or [first.rstrip()]
    lines, line, empty = [], first, True
    for word in text.split():
        rest = word
        while rest:
            candidate = rest if empty else " " + rest
            if width(line) + width(candidate) <= room:
                line, empty, rest = line + candidate, False, ""
            elif not empty:
                lines.append(line)
                line, empty = indent, True
            else:
                head = _head(rest, max(room - width(line), 2))
                lines.append(line + head)
                line, rest = indent, rest[len(head) :]
    return [*lines, line] if not empty or not lines else lines


def fold(text: str, room: int) -> list[str]:
    """`text` in lines of at most `room` columns, broken at spaces where there are any; others are kept."""
    out = []
    while width(text) > room:
        head = _head(text, room)
        cut = head.rfind(" ") + 1
        if head[:cut].strip():
            out.append(text[:cut].rstrip())
            text = text[cut:].lstrip()
        else:
            out.append(head)
            text = text[len(head) :]
    return [*out, text]


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> list[str]:
    """Header and rows, aligned, never wider than `room`."""
    kept = list(range(len(columns)))
    while True:
        widths = {i: max(width(columns[i].title), *(width(row[i]) for row in rows), 1) for i in kept}
        excess = sum(widths.values()) + 2 * (len(kept) - 1) - room
        for i in sorted(kept, key=lambda i: -widths[i]):
            least = columns[i].least
            if excess > 0 and least is not None:
                cut = min(excess, max(0, widths[i] - least))
                widths[i] -= cut
                excess -= cut
        droppable = [i for i in kept if columns[i].drop]
        if excess <= 0 or not droppable:
            break
        kept.remove(max(droppable, key=lambda i: columns[i].drop))
    lines = []
    for row in [[column.title for column in columns], *rows]:
        cells = [_cell(columns[i], row[i], widths[i]) for i in kept]
        lines.append(clip("  ".join(cells).rstrip(), room))
    return lines


def _cell(column: Column, text: str, room: int) -> str:
    shown = clip(text, room, middle=column.path)
    padding = " " * (room - width(shown))
    return padding + shown if column.right else shown + padding


def size(count: int) -> str:
    """A number of bytes in decimal units: `0 B`, `812 B`, `1.4 MB`, `23 GB`."""
    if count < 1000:
        return f"{count} B"
    amount = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        amount /= 1000
        if amount < 999.5:
            return f"{amount:.1f} {unit}" if amount < 9.95 else f"{amount:.0f} {unit}"
    return f"{amount:.0f} TB"


def portion(done: int, of: int) -> str:
    """How far something is, in megabytes: `310 of 1,024 MB`."""
    return f"{min(done, of) / 1e6:,.0f} of {of / 1e6:,.0f} MB"


def span(seconds: float) -> str:
    """A length of time in its one largest unit: `8 s`, `3 min`, `2 h`, `5 d`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def parse_time(text: str) -> float | None:
    """Unix seconds of an ISO 8601 time; None for what is not one."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def iso(moment: float) -> str:
    """Unix seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock(moment: float, now: float) -> str:
    """The local time of day, with the date where it is not today's: `14:02`, `May 4 14:02`."""
    then, today = datetime.fromtimestamp(moment).astimezone(), datetime.fromtimestamp(now).astimezone()
    if then.date() == today.date():
        return f"{then:%H:%M}"
    if then.year == today.year:
        return f"{then:%b} {then.day} {then:%H:%M}"
    return f"{then:%Y-%m-%d %H:%M}"


def day(moment: float, now: float) -> str:
    """A time for a table as one remembers it: `14:02`, `Tue 14:02`, `May 4`, `2030-05-04`."""
    then, today = datetime.fromtimestamp(moment).astimezone(), datetime.fromtimestamp(now).astimezone()
    if then.date() == today.date():
        return f"{then:%H:%M}"
    if 0 <= (today.date() - then.date()).days < 7:
        return f"{then:%a %H:%M}"
    return f"{then:%b} {then.day}" if then.year == today.year else f"{then:%Y-%m-%d}"


def when(text: str | None, now: float, *, short: bool = False) -> str:
    """A time for a table, local and relative: `14:02, 3 min ago`; `short` leaves out the first."""
    moment = parse_time(text) if text else None
    if moment is None:
        return "never" if text is None else clean(text)
    gone = now - moment
    relative = "just now" if abs(gone) < 2 else f"{span(gone)} ago" if gone > 0 else f"in {span(-gone)}"
    return relative if short else f"{clock(moment, now)}, {relative}"


def tilde(path: str, home: str | None = None) -> str:
    """A path for people: the home directory as `~`."""
    top = os.path.expanduser("~") if home is None else home
    if path == top:
        return "~"
    return "~" + path[len(top) :] if top != "/" and path.startswith(top + "/") else path
