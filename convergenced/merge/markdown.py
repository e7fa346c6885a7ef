"""Markdown of several machines becomes one text, section by section, without a model.

Owns the deterministic merge of CLAUDE.md files and notes. Promises: it does not depend on the order in
which versions are given; no line that anybody added is lost; what nobody touched stays byte for byte;
merging again what went in changes nothing. Sections that somebody removed are gone unless somebody else
changed them; where two say different things in one place both are kept, with a mark behind them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from convergenced.merge.marks import conflict_mark, is_mark
from convergenced.merge.passages import Dispute, Units, merge_passages
from convergenced.merge.sections import (
    FRONT,
    PREAMBLE,
    Document,
    Key,
    Section,
    end_of_text,
    find_blocks,
    is_text,
    parse,
    title_of,
)

BOM = b"\xef\xbb\xbf"
DEEPEST = 6
"""The level of the lowest heading."""

_LINE_END = re.compile(rb"\r++\n")
_NOTHING = Document({}, ())

_Groups = Mapping[tuple[Key, int], list[Key]]
"""The sections directly below a section, by their level: the deeper ones stand first."""


@dataclass(frozen=True, slots=True)
class Version:
    """What one machine has of a document, and what it had made that from (None: nothing is known).

    `machine` is its name, for people.
    """

    machine: str
    data: bytes
    base: bytes | None


@dataclass(frozen=True, slots=True)
class MergedDocument:
    """One document made of several; what of it contradicts itself, in words."""

    data: bytes
    contradictions: tuple[str, ...]


def merge_markdown(current: bytes | None, versions: Sequence[Version]) -> MergedDocument:
    """Merges into `current`, the text that all had agreed on, what each version says that is new.

    Without a `current` nobody removed anything: what a version lacks of its base was never agreed on.
    """
    said = sorted(
        set(versions), key=lambda one: (one.machine, one.data, one.base is not None, one.base or b"")
    )
    if current is not None:
        said = [one for one in said if one.data not in (one.base, current)]
    if not said:
        return MergedDocument(current or b"", ())
    texts = {one.data for one in said}
    if len(texts) == 1 and (current is None or any(one.base == current for one in said)):
        return MergedDocument(said[0].data, ())
    model = next(filter(None, (current, *(one.data for one in said))), b"")
    read = cache(_reader(model))
    statements = [
        _Statement(
            one.machine,
            read(one.data),
            _NOTHING if current is None or one.base is None else read(one.base),
        )
        for one in said
    ]
    merge = _Merge(_NOTHING if current is None else read(current), statements)
    data = merge.render()
    return MergedDocument(_spelled_like(model, data), merge.contradictions(data))


def removed_sections(base: bytes | None, data: bytes) -> tuple[str, ...]:
    """The titles of the sections that `data` lacks of its base, each with those it stood below.

    What stands below one that is named is not named itself, nor what is elsewhere now.
    """
    if base is None:
        return ()
    former, now = parse(base).sections, parse(data).sections
    titles = {key[-1][1] for key in now if key}
    gone = {key for key in former if key and key not in now and (key == FRONT or key[-1][1] not in titles)}
    topmost = [key for key in former if key in gone and key[:-1] not in gone]
    return tuple(" / ".join(title_of(key[: end + 1]) for end in range(len(key))) for key in topmost)


def _reader(model: bytes) -> Callable[[bytes], Document]:
    """Reads documents with the line ends that the model has."""
    is_mixed = (b"\r\n" in model or model.endswith(b"\r")) and not _has_crlf(model)

    def read(data: bytes) -> Document:
        text = data.removeprefix(BOM)
        return parse(text if is_mixed else _LINE_END.sub(b"\n", text).rstrip(b"\r"))

    return read


def _spelled_like(model: bytes, data: bytes) -> bytes:
    spelled = data.replace(b"\n", b"\r\n") if _has_crlf(model) else data
    return BOM + spelled if model.startswith(BOM) else spelled


def _has_crlf(data: bytes) -> bool:
    """Whether all lines end in CR LF."""
    return 0 < data.count(b"\n") == data.count(b"\r\n")


@dataclass(frozen=True, slots=True)
class _Statement:
    """A version and its base, read."""

    machine: str
    data: Document
    base: Document


@dataclass(slots=True)
class _Merge:
    """One merge under way."""

    current: Document
    statements: Sequence[_Statement]
    _made: dict[bytes, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    """The marks that were made here: what they say, and the machines that they name."""

    def render(self) -> bytes:
        """The merged text."""
        kept = self._sections()
        order = [key for key in self._order() if key in kept]
        lines: list[bytes] = []
        for key in order:
            section = kept[key]
            if len(section.heading) > 1 and lines and is_text(lines[-1]):
                lines.append(b"")
            lines += (*section.heading, *section.body)
            if key != order[-1]:
                lines += (b"",) * is_text(b"".join(lines[-1:])) if section.tail is None else section.tail
        data = b"\n".join([*lines, *self._end()])
        is_taken_for_front = FRONT not in kept and data[:3] == b"---" and FRONT in parse(data).sections
        return b"\n" + data if is_taken_for_front else data

    def contradictions(self, rendered: bytes) -> tuple[str, ...]:
        """What the marks say that were made here and stand in the text."""
        lines = set(rendered.split(b"\n")) if self._made else ()
        return tuple(text for mark, (text, _) in self._made.items() if mark in lines)

    def _end(self) -> Units:
        end = self.current.end
        for one in self.statements:
            is_unsaid = not end and not self.current.sections
            if is_unsaid or (one.base.sections and end == one.base.end):
                end = one.data.end
        return end

    def _sections(self) -> dict[Key, Section]:
        """What each section becomes; those that others stand below stay for their sake."""
        documents = [self.current, *(one.data for one in self.statements)]
        kept: dict[Key, Section] = {}
        for key in dict.fromkeys(key for document in documents for key in document.sections):
            section = self._section(key)
            if section is not None:
                kept[key] = section
        for key in list(kept):
            for end in range(len(key)):
                if key[:end] not in kept:
                    kept[key[:end]] = next(
                        document.sections[key[:end]]
                        for document in documents
                        if key[:end] in document.sections
                    )
        return kept

    def _section(self, key: Key) -> Section | None:
        merged = self.current.sections.get(key)
        pairs = [(one, one.base.sections.get(key), one.data.sections.get(key)) for one in self.statements]
        said = [(one, base, new) for one, base, new in pairs if new and _says(new) != _says(base)]
        if merged is None and not said:
            return None
        if not said and any(base and not new and _says(base) == _says(merged) for _, base, new in pairs):
            return None
        for one, base, new in pairs:
            if new is None or new == base:
                continue
            if merged is None:
                merged = new
                continue
            heading = new.heading if base and base.heading == merged.heading else merged.heading
            body = self._body(key, one, base, merged.body, new.body)
            merged = Section(heading, body, _tail(base, merged, new, body))
        return merged

    def _body(self, key: Key, one: _Statement, base: Section | None, ours: Units, theirs: Units) -> Units:
        former = None if base is None else base.body
        if theirs in (ours, former):
            return ours
        if ours == former or (former is None and not ours):
            return theirs
        lines: list[bytes] = []
        for piece in merge_passages(former, ours, theirs):
            lines += self._written(key, one, piece) if isinstance(piece, Dispute) else [piece]
        return tuple(lines if key == FRONT else _without_headings(lines[: end_of_text(lines)]))

    def _written(self, key: Key, one: _Statement, dispute: Dispute) -> Iterator[bytes]:
        """Both texts and a mark: the one that stands there already, or one that names all who differ."""
        marks = [line for line in dispute.ours if _is_conflict(line.removeprefix(b"# "))]
        made = [line for line in marks if line in self._made]
        former = [line for line in marks if line not in self._made]
        ours = [line for line in dispute.ours if line not in made and line not in former[-1:]]
        yield from ours
        for line in dispute.theirs:
            yield b"# " + line if key == FRONT and is_text(line) else line
        if former:
            yield former[-1]
            return
        known = [name for line in made for name in self._made[line][1]]
        names = dict.fromkeys([*(known or self._authors(key, one, ours)), one.machine])
        yield self._mark(key, tuple(names))

    def _authors(self, key: Key, one: _Statement, lines: Sequence[bytes]) -> Iterator[str]:
        """The machines before this one that wrote some of these lines."""
        former = one.base.sections.get(key)
        texts = set(filter(is_text, lines)).difference(former.body if former else ())
        for other in self.statements:
            section = other.data.sections.get(key)
            if other is one:
                return
            if section is not None and not texts.isdisjoint(section.body):
                yield other.machine

    def _mark(self, key: Key, names: tuple[str, ...]) -> bytes:
        if len(names) > 1:
            text = f"{title_of(key)}: {', '.join(names[:-1])} and {names[-1]} say different things"
        else:
            text = f"{title_of(key)}: {names[0]} says something else than what stood here"
        mark = (b"# " if key == FRONT else b"") + conflict_mark(text)
        self._made[mark] = text, names
        return mark

    def _order(self) -> Iterator[Key]:
        """All sections in the order in which they stand."""
        merged = dict(_groups(self.current))
        for one in self.statements:
            base = _groups(one.base)
            for group, keys in _groups(one.data).items():
                merged[group] = _weave(base.get(group, []), merged.get(group, []), keys)
        yield FRONT
        yield from _walk(merged, PREAMBLE)


def _says(section: Section | None) -> Units | None:
    """What a section says, whatever was remarked on it."""
    return None if section is None else tuple(unit for unit in section.body if not is_mark(unit))


def _is_conflict(line: bytes) -> bool:
    return is_mark(line) and b"CONFLICT" in line[:16]


def _tail(base: Section | None, ours: Section, theirs: Section, body: Units) -> Units | None:
    """The blank lines behind a section that became `body`."""
    if not body and not ours.heading:
        return ours.tail if not ours.body else ()
    if not theirs.body and not theirs.heading:
        return ours.tail
    is_untouched = base is not None and ours.tail == base.tail and theirs.tail is not None
    is_first = not ours.body and not ours.heading
    return theirs.tail if is_untouched or is_first or ours.tail is None else ours.tail


def _without_headings(units: Sequence[bytes]) -> Iterator[bytes]:
    """The units, with what would make a heading of a line that was none kept apart from it."""
    lines = b"\n".join([b"", *units]).split(b"\n")
    for block in find_blocks(lines):
        if block.kind == "heading":
            yield from (lines[block.start], b"", *lines[block.start + 1 : block.end], b"")
        elif block.start:
            yield b"\n".join(lines[block.start : block.end])


def _groups(document: Document) -> _Groups:
    groups: dict[tuple[Key, int], list[Key]] = {}
    for key in document.sections:
        if key not in (PREAMBLE, FRONT):
            groups.setdefault((key[:-1], key[-1][0]), []).append(key)
    return groups


def _walk(groups: _Groups, key: Key) -> Iterator[Key]:
    yield key
    for level in range(DEEPEST, 0, -1):
        for below in groups.get((key, level), ()):
            yield from _walk(groups, below)


def _weave(base: Sequence[Key], ours: Sequence[Key], theirs: Sequence[Key]) -> list[Key]:
    """One order for the sections of both: ours, or theirs where only they changed it.

    What only the other side has follows what it follows there, or precedes what it precedes.
    """
    in_both = set(ours) & set(theirs)
    in_base = [key for key in base if key in in_both]
    common = set(in_base)
    moved = [[key for key in side if key in common] != in_base for side in (ours, theirs)]
    lead, other = (theirs, ours) if moved == [False, True] else (ours, theirs)
    behind: dict[Key | None, list[Key]] = {}
    known = None
    for key in other:
        if key in in_both:
            known = key
        else:
            behind.setdefault(known, []).append(key)
    last = behind.pop(known, [])
    first = next((key for key in other if key in in_both), None)
    woven: list[Key] = []
    for key in lead:
        woven += behind.pop(None, []) if key == first else []
        woven.append(key)
        woven += behind.get(key, [])
    return woven + last
