"""A first CLAUDE.md, out of what was noted and worked on already.

Promises: what stands in the file stays; the document is short whatever there is to say, and says what it
left out; no apparent secret goes into it or to a model. Without a model the notes themselves make it up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from convergenced.knowledge.prompts import Material, first_question
from convergenced.knowledge.provider import Model, PartialAnswerError
from convergenced.knowledge.withholding import Withholding
from convergenced.merge.markdown import Version, merge_markdown
from convergenced.merge.memory import INDEX
from convergenced.merge.sections import PREAMBLE, find_blocks, is_text, parse
from convergenced.wording import plural

MOST_LINES = 200
MOST_BYTES = 32 * 1024
"""What is taken of the notes without a model, at most."""

MOST_ASKED = 192 * 1024
"""Bytes of notes that a model is given, at most."""

MOST_TITLES = 15
MOST_TITLES_ASKED = 100
LONGEST_TITLE = 120
MOST_NAMED = 10
"""Notes that are named where they were left out."""

_LOWEST = 6


@dataclass(frozen=True, slots=True)
class Source:
    """What a document is made from: notes by their names, titles of sessions, the latest first.

    `existing` is what stands in the file, None where there is none.
    """

    notes: Mapping[str, bytes]
    sessions: Sequence[str]
    existing: bytes | None


def compose(title: str, source: Source, model: Model | None) -> tuple[bytes, float]:
    """The document and the dollars it cost. Raises `ProviderError` where the model does not answer.

    Where there is nothing to write from, no model is asked and an existing document stays as it is.
    """
    titles = _titles(source.sessions)
    notes = {name: data for name, data in sorted(source.notes.items(), key=_index_first) if is_text(data)}
    if not notes and not titles:
        return source.existing or f"# {_line(title)}\n".encode(), 0.0
    withheld = Withholding([*notes.values(), *titles, source.existing or b""], (), b"")
    hidden = {name: withheld.hide(data) for name, data in notes.items()}
    shown = [withheld.hide(each) for each in titles]
    usd = 0.0
    if model is None:
        body = _from_notes(hidden, shown, withheld)
    else:
        existing = withheld.hide(source.existing or b"")
        body, usd = _from_model(title, hidden, shown, existing, model)
        body = withheld.for_people(body.decode()).encode()
    return _joined(title, source.existing, body), usd


def _index_first(note: tuple[str, bytes]) -> tuple[bool, str]:
    return note[0] != INDEX, note[0]


def _titles(sessions: Sequence[str]) -> list[bytes]:
    return list(dict.fromkeys(line.encode() for line in map(_line, sessions) if line))


def _line(text: str) -> str:
    """The text as one short line."""
    line = " ".join(text[: 8 * LONGEST_TITLE].encode("utf-8", "replace").decode().split())
    return line if len(line) <= LONGEST_TITLE else line[: LONGEST_TITLE - 1].rstrip() + "…"


def _joined(title: str, existing: bytes | None, body: bytes) -> bytes:
    """The body below the first heading of what stands there, or below one of its own.

    What it says before its first heading gets one, so that it does not mix with what is said there.
    """
    if existing is None or not is_text(existing):
        return b"# %s\n\n%s" % (_line(title).encode(), body)
    lines = existing.split(b"\n")
    heading = next((block for block in find_blocks(lines) if block.level == 1), None)
    below = b"" if heading is None else b"\n".join(lines[heading.start : heading.end]) + b"\n\n"
    if parse(body).sections[PREAMBLE].body:
        body = b"## From memory\n\n" + body
    return merge_markdown(existing, [Version("memory", below + body, None)]).data


def _from_model(
    title: str, notes: Mapping[str, bytes], titles: Sequence[bytes], existing: bytes, model: Model
) -> tuple[bytes, float]:
    materials: list[Material] = []
    room = MOST_ASKED
    for name, data in notes.items():
        materials.append(Material(f"note {name}", _text(data[:room])))
        room -= len(data[:room])
    asked = b"\n".join(titles[:MOST_TITLES_ASKED])
    materials.append(Material("titles of sessions", _text(asked)))
    materials.append(Material("what stands in the file already", _text(existing[:MOST_ASKED])))
    answer = model.ask(
        first_question(title, [material for material in materials if material.text.strip()], b"")
    )
    document = answer.value.get("document")
    if not isinstance(document, str) or not document.strip():
        raise PartialAnswerError("the model answered without a document", "ask again, or set another model")
    written = document.encode("utf-8", "replace")
    return b"\n".join(_lowered(written.strip().split(b"\n"), 2)) + b"\n", answer.usd


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _from_notes(notes: Mapping[str, bytes], titles: Sequence[bytes], withheld: Withholding) -> bytes:
    lines: list[bytes] = []
    left_out: list[str] = []
    secrets = 0
    room = _Room()
    for name, data in notes.items():
        text, found = _without_secrets(data, withheld)
        secrets += found
        taken, is_all = room.take(_note(name, text, notes))
        lines += taken
        if not is_all:
            left_out.append(f"the rest of `{_line(name)}`" if taken else f"`{_line(name)}`")
    worked_on = [title for title in titles if not _is_withheld(title, withheld)]
    if worked_on:
        lines += [b"## Lately worked on", b"", *(b"- " + each for each in worked_on[:MOST_TITLES]), b""]
    if left_out:
        named = ", ".join(left_out[:MOST_NAMED]) + _and_others(len(left_out) - MOST_NAMED)
        lines += [f"Left out for its length: {named}.".encode("utf-8", "replace"), b""]
    if secrets:
        said = f"Left out: {plural(secrets, 'line')} with an apparent secret."
        lines += [said.encode(), b""]
    return b"\n".join(lines)


def _and_others(count: int) -> str:
    return f" and {plural(count, 'other note')}" if count > 0 else ""


def _without_secrets(data: bytes, withheld: Withholding) -> tuple[bytes, int]:
    """A text without the lines that something was withheld of, and how many these are."""
    lines = data.split(b"\n")
    kept = [line for line in lines if not _is_withheld(line, withheld)]
    return b"\n".join(kept), len(lines) - len(kept)


def _is_withheld(line: bytes, withheld: Withholding) -> bool:
    text = line.decode("utf-8", "surrogateescape")
    return withheld.for_people(text) != text


def _note(name: str, data: bytes, notes: Mapping[str, bytes]) -> Iterator[list[bytes]]:
    """A note as a section, in blocks that are taken or left whole; its front matter is dropped."""
    lines = [line.rstrip(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    blocks = list(find_blocks(lines))
    if blocks and blocks[0].kind == "front":
        lines = lines[blocks[0].end :]
    heading = "What is known" if name == INDEX else _line(name.removesuffix(".md"))
    yield [b"## " + heading.encode("utf-8", "replace"), b""]
    if name == INDEX:
        lines = [line for line in lines if not _leads_to(line, notes)]
    text = b"\n".join(lines).strip(b"\n")
    if not is_text(text):
        return
    lowered = _lowered(text.split(b"\n"), 3)
    for block in find_blocks([b"", *lowered]):
        if block.start:
            end = [block.closing] if block.closing else []
            yield [*lowered[block.start - 1 : block.end - 1], *end]
    yield [b""]


def _leads_to(line: bytes, notes: Mapping[str, bytes]) -> bool:
    """Whether a line of the index leads to a note, which stands below itself."""
    target = line.partition(b"](")[2].partition(b")")[0].removeprefix(b"./")
    return target.decode("utf-8", "replace") in notes


def _lowered(lines: Sequence[bytes], level: int) -> list[bytes]:
    """The lines with all headings as far down as it takes for the highest to have this level."""
    blocks = [block for block in find_blocks([b"", *lines]) if block.start]
    by = level - min((block.level for block in blocks if block.kind == "heading"), default=level)
    lowered: list[bytes] = []
    for block in blocks:
        if block.kind == "heading":
            lowered.append(b"#" * min(block.level + by, _LOWEST) + b" " + block.title)
        else:
            lowered += lines[block.start - 1 : block.end - 1]
            lowered += [block.closing] if block.closing else []
    return lowered


class _Room:
    """How much may still be taken."""

    def __init__(self) -> None:
        self._lines, self._bytes = MOST_LINES, MOST_BYTES

    def take(self, blocks: Iterator[list[bytes]]) -> tuple[list[bytes], bool]:
        """The first of the blocks, as many as there is room for, and whether these are all."""
        taken: list[bytes] = []
        heading = next(blocks)
        for block in blocks:
            wanted = [*([] if taken else heading), *block]
            size = sum(len(line) + 1 for line in wanted)
            if len(wanted) > self._lines or size > self._bytes:
                return [*taken, *([b""] if taken and is_text(taken[-1]) else [])], False
            self._lines -= len(wanted)
            self._bytes -= size
            taken += wanted
        return taken, True
