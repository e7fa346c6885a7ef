"""Marks: what a merge was not sure of, said within the Markdown itself; and how much of a text changed.

A mark is an HTML comment on a line of its own, which no page shows and every model reads. Promises: a mark
can be read back whatever its text was; it is never put into code, a comment or a front matter; the work is
linear in the document.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from convergenced.merge.sections import Block, find_blocks
from convergenced.merge.sequences import COMPARE_LIMIT, compare_three

LONGEST = 300
"""Characters of a mark's text, at most."""

_KIND = Literal["CONFLICT", "UNVERIFIED"]
_RESOLVE = " — resolve manually"
_OPENING = re.compile(rb"<!--[ \t]{0,8}(CONFLICT|UNVERIFIED):")
_CLOSING = b"-->"


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark as it stands in a document; `line` counts from 1, `text` is what it says."""

    kind: _KIND
    line: int
    text: str


def conflict_mark(text: str) -> bytes:
    """What says that a text contradicts itself, without a line end."""
    return f"<!-- CONFLICT: {_harmless(text)}{_RESOLVE} -->".encode()


def unverified_mark(text: str) -> bytes:
    """What says that nobody wrote this, without a line end."""
    return f"<!-- UNVERIFIED: {_harmless(text)} -->".encode()


def is_mark(line: bytes) -> bool:
    """Whether a line is a mark and nothing else."""
    return _OPENING.match(line) is not None and line.rstrip().endswith(_CLOSING)


def find_marks(document: bytes) -> list[Mark]:
    """The marks of a document in their order; what stands in code is none."""
    if _OPENING.search(document) is None:
        return []
    found: list[Mark] = []
    code = [block for block in find_blocks(document.split(b"\n")) if block.kind == "code"]
    starts = [block.start for block in code]
    line, counted = 0, 0
    for start, kind, text in _openings(document):
        line += document.count(b"\n", counted, start)
        counted = start
        within = bisect_right(starts, line) - 1
        if within < 0 or line >= code[within].end:
            found.append(Mark(cast("_KIND", kind.decode()), line + 1, _read(text)))
    return found


def add_mark(document: bytes, quote: str, mark: bytes) -> bytes:
    """Puts a mark behind the line that `quote` ends on, or at the end where it is not found.

    A mark that stands in the document already is not put there again.
    """
    if mark in document:
        return document
    lines = document.split(b"\n")
    end = b"\r" if lines[0].endswith(b"\r") else b""
    at = _place(lines, _line_of(document, quote))
    if at == len(lines):
        has_end = lines[-1] == b""
        lines = lines[:-1] if has_end else [*lines[:-1], lines[-1] + end]
        return b"\n".join([*lines, mark + end, b""] if has_end else [*lines, mark])
    return b"\n".join([*lines[:at], mark + end, *lines[at:]])


def changed_share(former: bytes, new: bytes) -> float:
    """The share of lines that differ, of the longer text: 0 to 1. Blank lines and line ends do not count."""
    one, other = _text_lines(former), _text_lines(new)
    longer = max(len(one), len(other))
    if len(one) * len(other) > COMPARE_LIMIT:
        same = sum((Counter(one) & Counter(other)).values())
    else:
        same = sum(
            len(region.base) for region in compare_three(one, one, other) if region.ours == region.theirs
        )
    return 1 - same / longer if longer else 0.0


def _text_lines(data: bytes) -> list[bytes]:
    return [line for line in map(bytes.rstrip, data.split(b"\n")) if line]


def _harmless(text: str) -> str:
    """The text as one short line that cannot end the comment."""
    words = "".join(char if char.isprintable() else " " for char in text[: 4 * LONGEST]).split()
    line = " ".join(words).replace("--", "- -").replace("--", "- -").rstrip("-")
    return line if len(line) <= LONGEST else line[: LONGEST - 1].rstrip(" -") + "…"


def _read(raw: bytes) -> str:
    text = " ".join(raw[: 8 * LONGEST].decode("utf-8", "replace").split()).removesuffix(_RESOLVE.strip())
    return text.strip()[:LONGEST]


def _openings(document: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Where a mark opens, its kind and its text."""
    closing = -1
    for opening in _OPENING.finditer(document):
        if opening.start() < closing:
            continue
        closing = document.find(_CLOSING, opening.end())
        if closing < 0:
            return
        yield opening.start(), opening[1], document[opening.end() : closing]


def _line_of(document: bytes, quote: str) -> int | None:
    """The number of the line that the quote ends on, from 0; else of the one that holds its first line."""
    wanted = quote.strip().encode("utf-8", "replace")
    if not wanted:
        return None
    start = document.find(wanted)
    if start >= 0:
        return document.count(b"\n", 0, start + len(wanted))
    first = b" ".join(wanted.split(b"\n", 1)[0].split())
    for number, line in enumerate(document.split(b"\n")):
        if first in b" ".join(line.split()):
            return number
    return None


def _place(lines: Sequence[bytes], quoted: int | None) -> int:
    """Before which line a mark goes that belongs to a line; where it is None, to the end.

    Behind the block that the line is in; before one that nothing ends.
    """
    last = len(lines) - 1 if quoted is None else quoted
    for block in find_blocks(lines):
        if block.start <= last < block.end:
            if block.closing:
                return block.start
            return len(lines) if quoted is None else _behind(lines, block)
    return len(lines)


def _behind(lines: Sequence[bytes], block: Block) -> int:
    """Where the block ends; a table, which a mark would cut in two, counts as one."""
    end = block.end
    while lines[block.start].startswith(b"|") and end < len(lines) and lines[end].startswith(b"|"):
        end += 1
    return end
