"""Transcripts to measure with: deterministic, with the record sizes and the anchors of real ones.

Owns the generator. Records have 0.3 to 30 KB (log-normal, as the client's have), with 1.7 anchors per KB:
the working folder of every record, and paths in what is said and in what tools answer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from convergenced.canon.folder import encode_folder_name
from convergenced.model import Anchors

ANCHOR_SHARE = 0.0082
"""Share of words that are a path below an anchor, so that there are 1.7 anchors per KB."""

SMALLEST, LARGEST = 300, 30_000
"""Bytes of text in a record."""

POOL = 4_000_000
"""Bytes of different text that a `Scribe` draws from: far more than any compressor's window."""

WORDS = """
the a of and to in is it that for as with on be this are was not by from at or an if else return value error
import module def class self path test assert line number list dict str int bytes None True false null const
let var function async await => {} [] () 0x7f 1234 std::vector http json src main index
""".split()  # noqa: SIM905 - a list of words is read more easily so


@dataclass(frozen=True, slots=True)
class Place:
    """Where a user works on one machine."""

    home: str
    root: str

    @property
    def encoded(self) -> str:
        """The name of the context folder."""
        return encode_folder_name(self.root)

    @property
    def anchors(self) -> Anchors:
        """The anchors of a participant there."""
        return Anchors(
            os="linux",
            project_root=self.root,
            context_dir=f"{self.home}/.claude/projects/{self.encoded}",
            encoded_dir=self.encoded,
            home=self.home,
        )


DESKTOP = Place("/home/ann", "/home/ann/src/proj")
LAPTOP = Place("/Users/bob", "/Users/bob/code/proj")


class Author:
    """Writes records without end. The same seed writes the same."""

    def __init__(self, place: Place, session: str, seed: int = 1) -> None:
        self._place = place
        self._session = session
        self._random = random.Random(seed)
        self._number = 0

    def record(self, size: int | None = None) -> bytes:
        """One record with its LF, of about `size` bytes of text, else of a size as real ones have."""
        self._number += 1
        fields = {
            "parentUuid": self._id(),
            "isSidechain": False,
            "userType": "external",
            "cwd": self._place.root,
            "sessionId": self._session,
            "version": "2.1.0",
            "gitBranch": "main",
            "type": "assistant" if self._number % 2 else "user",
            "message": {
                "role": "user",
                "content": [{"type": "text", "text": self._text(size or self._size())}],
            },
            "uuid": self._id(),
            "timestamp": f"2026-01-{1 + self._number // 86_400 % 28:02d}T{self._number // 3_600 % 24:02d}:"
            f"{self._number // 60 % 60:02d}:{self._number % 60:02d}.000Z",
        }
        return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"

    def records(self, size: int) -> Iterator[bytes]:
        """Records until they have `size` bytes together."""
        while size > 0:
            record = self.record()
            size -= len(record)
            yield record

    def transcript(self, size: int) -> bytes:
        """A transcript of at least `size` bytes."""
        return b"".join(self.records(size))

    def _size(self) -> int:
        return int(min(LARGEST, max(SMALLEST, self._random.lognormvariate(7.2, 1.1))))

    def _id(self) -> str:
        return str(self._random.getrandbits(128))

    def _text(self, size: int) -> str:
        words: list[str] = []
        length = 0
        while length < size:
            word = self._path() if self._random.random() < ANCHOR_SHARE else self._random.choice(WORDS)
            if self._random.random() < 0.1:
                word += "\n"
            words.append(word)
            length += len(word) + 1
        return " ".join(words)

    def _path(self) -> str:
        place, number = self._place, self._random.randrange(1000)
        return self._random.choice(
            (
                f"{place.root}/src/module_{number}.py",
                f"{place.root}/tests/test_{number}.py:{number}",
                place.root,
                f"{place.home}/.config/tool/{number}.toml",
                f"{place.home}/.claude/projects/{place.encoded}/memory/note.md",
            )
        )


class Scribe(Author):
    """An author for gigabytes: says again, cut elsewhere, what an author at that place said."""

    def _text(self, size: int) -> str:
        said = _said(self._place)
        start = self._random.randrange(len(said) - size)
        return said[start : start + size]


@cache
def _said(place: Place) -> str:
    said = _pool()
    for theirs, ours in (
        (DESKTOP.encoded, place.encoded),
        (DESKTOP.root, place.root),
        (DESKTOP.home, place.home),
    ):
        said = said.replace(theirs, ours)
    return said


@cache
def _pool() -> str:
    return Author(DESKTOP, "what is said")._text(POOL)
