"""Markdown as sections: what a heading stands over, found without rendering anything.

Owns where a document is cut. A section is known by the headings that lead to it, each with its level, its
title and how many of the same name stand before it; so it is found again wherever it was moved to or
however much of it changed. Fenced code and comments of several lines are one unit each, so that nothing
that is put together of units can leave one open. Bytes are lines between LF; invalid UTF-8 passes unharmed.
The work is linear in the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Key = tuple[tuple[int, bytes, int], ...]
"""The headings that lead to a section: level, title, and how many of the same stand before it."""

PREAMBLE: Key = ()
"""What stands before the first heading."""

FRONT: Key = ((0, b"", 0),)
"""What stands between two lines `---` at the very beginning: the first is its heading, the last its tail."""

_RULES = (b"---", b"---\r")

_FENCE = re.compile(rb" {0,3}(?:(`{3,})[^`]*|(~{3,}).*)", re.DOTALL)
_COMMENT = re.compile(rb" {0,3}<!--")
_HEADING = re.compile(rb" {0,3}(#{1,6})(?=[ \t\r]|\Z)")
_UNDERLINE = re.compile(rb" {0,3}(?:(=+)|-+)[ \t\r]*")
_NO_TITLE = re.compile(rb" {4}|\t| {0,3}(?:[-+*][ \t]|[0-9]{1,9}[.)][ \t]|[>|<]|(?:[-*_][ \t]*){3,}\Z)")
"""What a line begins with that is no paragraph: under it a row of dashes is a rule."""


class Block(NamedTuple):
    """Lines `start` to `end` that belong together; `level` and `title` are those of a heading.

    `closing` is the line that is missing to a block which is open at the end of the document.
    """

    kind: Literal["line", "code", "comment", "heading", "front"]
    start: int
    end: int
    level: int = 0
    title: bytes = b""
    closing: bytes = b""


@dataclass(frozen=True, slots=True)
class Section:
    """The lines of a heading, the units of what stands under it, and the blank lines behind that.

    `tail` is None for the last section of a document; that of a front matter begins with its last line.
    """

    heading: tuple[bytes, ...]
    body: tuple[bytes, ...]
    tail: tuple[bytes, ...] | None


@dataclass(frozen=True, slots=True)
class Document:
    """The sections in their order, and the blank lines at the end: none where the last line has no LF."""

    sections: Mapping[Key, Section]
    end: tuple[bytes, ...]


def find_blocks(lines: Sequence[bytes]) -> Iterator[Block]:
    """Cuts lines into blocks, in order and without a gap."""
    at = 0
    is_fresh = True
    if lines and lines[0] in _RULES:
        at = next((index + 1 for index in range(1, len(lines)) if lines[index] in _RULES), 0)
        if at:
            yield Block("front", 0, at)
    while at < len(lines):
        line = lines[at]
        block = _parse_block(lines, at)
        if block is not None:
            yield block
            at = block.end
            is_fresh = True
            continue
        is_blank = not is_text(line)
        underline = _underline(lines, at) if is_fresh and not is_blank else None
        if underline is not None:
            yield Block("heading", at, at + 2, 1 if underline[1] else 2, _title(line))
            at += 2
            continue
        yield Block("line", at, at + 1)
        is_fresh = is_blank
        at += 1


def parse(data: bytes) -> Document:
    """The sections of a document."""
    lines = data.split(b"\n")
    sections: dict[Key, Section] = {}
    seen: dict[Key, int] = {}
    key: Key = PREAMBLE
    heading: tuple[bytes, ...] = ()
    body: list[bytes] = []
    behind = 0
    for block in find_blocks(lines):
        if block.kind == "front":
            behind = next((at for at in range(block.end, len(lines)) if is_text(lines[at])), len(lines))
            body_end = block.end - 1
            sections[FRONT] = Section(
                tuple(lines[:1]), tuple(lines[1:body_end]), tuple(lines[body_end:behind])
            )
        elif block.kind == "heading":
            sections[key] = _section(heading, body)
            above = tuple(step for step in key if step[0] < block.level)
            named = (*above, (block.level, block.title, 0))
            count = seen.get(named, 0)
            seen[named] = count + 1
            key = (*above, (block.level, block.title, count))
            heading, body = tuple(lines[block.start : block.end]), []
        elif block.closing:
            whole = lines[block.start : block.end]
            end = end_of_text(whole)
            body += [b"\n".join([*whole[:end], block.closing]), *whole[end:]]
        elif body or block.start >= behind:
            body.append(b"\n".join(lines[block.start : block.end]))
    last = _section(heading, body)
    sections[key] = Section(last.heading, last.body, None)
    return Document(sections, last.tail or ())


def is_text(unit: bytes) -> bool:
    """Whether a unit is more than a blank line."""
    return bool(unit.strip())


def end_of_text(units: Sequence[bytes]) -> int:
    """Behind which unit there are only blank lines."""
    end = len(units)
    while end and not is_text(units[end - 1]):
        end -= 1
    return end


def title_of(key: Key) -> str:
    """What a section is called, for people."""
    if key == FRONT:
        return "front matter"
    return key[-1][1].decode("utf-8", "replace") or "(untitled)" if key else "text before the first heading"


def _section(heading: tuple[bytes, ...], body: Sequence[bytes]) -> Section:
    end = end_of_text(body)
    return Section(heading, tuple(body[:end]), tuple(body[end:]))


def _underline(lines: Sequence[bytes], at: int) -> re.Match[bytes] | None:
    """The line that makes a heading of the one before it, which begins a paragraph."""
    if at + 1 == len(lines) or _NO_TITLE.match(lines[at]) is not None:
        return None
    return _UNDERLINE.fullmatch(lines[at + 1])


def _parse_block(lines: Sequence[bytes], at: int) -> Block | None:
    """The heading, code or comment that begins at this line; None for a line of text."""
    line = lines[at]
    first = line.lstrip(b" ")[:1]
    if first == b"#":
        hashes = _HEADING.match(line)
        if hashes is not None:
            return Block("heading", at, at + 1, len(hashes[1]), _title(line[hashes.end() :]))
    elif first in (b"`", b"~"):
        fence = _FENCE.fullmatch(line)
        if fence is not None:
            return _parse_code(lines, at, fence[1] or fence[2])
    elif first == b"<":
        opening = _COMMENT.match(line)
        if opening is not None and b"-->" not in line[opening.end() :]:
            return _parse_comment(lines, at)
    return None


def _parse_code(lines: Sequence[bytes], at: int, fence: bytes) -> Block:
    for end in range(at + 1, len(lines)):
        closing = lines[end].strip(b" \t\r")
        is_closing = closing.startswith(fence) and not closing.strip(fence[:1])
        if is_closing and len(lines[end]) - len(lines[end].lstrip(b" ")) < 4:
            return Block("code", at, end + 1)
    return Block("code", at, len(lines), closing=fence)


def _parse_comment(lines: Sequence[bytes], at: int) -> Block:
    for end in range(at + 1, len(lines)):
        if b"-->" in lines[end]:
            return Block("comment", at, end + 1)
    return Block("comment", at, len(lines), closing=b"-->")


def _title(text: bytes) -> bytes:
    title = text.strip()
    without = title.rstrip(b"#")
    if without != title and (not without or without[-1:] in b" \t"):
        title = without
    return b" ".join(title.split())
