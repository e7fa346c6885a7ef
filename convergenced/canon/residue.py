"""What of a machine is left in canonical form: paths outside home, and other projects' folder names.

Pure. Such residue comes back byte for byte, but means nothing on another machine, or the wrong thing.
Promise: what is shown of it is short, and nothing in it that could be a secret is shown. What counts as
a path in running text is a guess (a route of a web server looks alike), so only common places of
people's files count there; a field that is named after a path is taken at its word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["path", "folder name"]

TEXT = "text"
"""The field that plain text counts as."""

MAX_FIELDS = 200
"""Fields told apart, at most; the rest counts as one."""
MAX_DEPTH = 32
SHOWN_PARTS = 4
SHOWN_PART = 24
"""Names of a path that are shown, and characters of each, at most."""

_NAME = r"[^\s/\"'`<>|;:,*?(){}\[\]\\]+"
_PLACES = "home|Users|root|mnt|media|srv|opt|data|Volumes|work|workspaces?"
_IN_TEXT = re.compile(
    rf"(?<![\w/}}.:~-])/(?:{_PLACES})(?:/{_NAME})+|(?<![\w/])[A-Za-z]:[\\/]{_NAME}(?:[\\/]{_NAME})*"
)
_WHOLE = re.compile(r"(?:/[^\s]|[A-Za-z]:[\\/])[^\n]*")
_SYSTEM = re.compile(
    r"/(?:bin|dev|etc|lib\w*|proc|private|run|sbin|sys|tmp|usr|var|System|Library|Applications)(?:/|$)"
)
_PATH_FIELD = re.compile(r"(?:cwd|path|dir|directory|folder|root|filename)s?$", re.IGNORECASE)
_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]{0,40}", re.ASCII)
_GATE = re.compile(rb"/(?:%s)/|[A-Za-z]:[\\/]|(?i:cwd|path|dir|folder|root|filename)" % _PLACES.encode())
_SECRETIVE = re.compile(r"(?=[^\d]*\d)(?=[^A-Za-z]*[A-Za-z])[\w+=.-]{16,}", re.ASCII)


@dataclass(slots=True)
class Tally:
    """How often something was met, and the first example, fit to be shown."""

    count: int = 0
    example: str = ""

    def add(self, example: str) -> None:
        """Counts one more."""
        self.count += 1
        self.example = self.example or shorten(example)


@dataclass(slots=True)
class Residue:
    """What was found so far. `fields` are named as in `message.content[].text`."""

    fields: dict[tuple[str, Kind], Tally] = field(default_factory=dict)
    unparsable: Tally = field(default_factory=Tally)
    """Records that are no JSON object; the example is how long the first is."""

    def total(self, kind: Kind) -> int:
        """How often that kind was met."""
        return sum(tally.count for (_, one), tally in self.fields.items() if one == kind)

    def most(self, kind: Kind) -> tuple[str, Tally] | None:
        """The field in which that kind was met most."""
        found = [(name, tally) for (name, one), tally in self.fields.items() if one == kind]
        return max(found, key=lambda one: (one[1].count, one[0]), default=None)


class ResidueFinder:
    """Looks for residue in canonical bytes. `folders` are the encoded names of other projects."""

    def __init__(self, folders: Collection[str]) -> None:
        self.found = Residue()
        names = sorted((re.escape(name) for name in folders if len(name) > 2), key=len, reverse=True)
        self._folders = re.compile(rf"(?<![\w-])(?:{'|'.join(names)})(?![\w-])") if names else None
        self._raw_folders = [name.encode("utf-8", "surrogateescape") for name in folders if len(name) > 2]

    def look_at_records(self, records: Iterable[bytes]) -> None:
        """Looks at records without their LF."""
        for record in records:
            try:
                value = json.loads(record.decode("utf-8", "surrogateescape"))
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                self.found.unparsable.add(f"{len(record)} bytes")
            elif _GATE.search(record) or any(name in record for name in self._raw_folders):
                self._walk("", value, 0)

    def look_at_text(self, text: bytes) -> None:
        """Looks at plain text."""
        self._look(TEXT, text.decode("utf-8", "surrogateescape"))

    def _walk(self, name: str, value: object, depth: int) -> None:
        if depth > MAX_DEPTH:
            return
        if isinstance(value, str):
            self._look(name, value)
        elif isinstance(value, list):
            for one in value:
                self._walk(f"{name}[]", one, depth + 1)
        elif isinstance(value, dict):
            for key, one in value.items():
                plain = key if _PLAIN_KEY.fullmatch(key) else "*"
                below = f"{name}.{plain}" if name else plain
                if plain == "*":
                    self._look(below, key)
                self._walk(below, one, depth + 1)

    def _look(self, name: str, text: str) -> None:
        last = name.rpartition(".")[2].rstrip("[]")
        if _PATH_FIELD.search(last) and _WHOLE.fullmatch(text):
            if not _SYSTEM.match(text):
                self._count(name, "path", text)
        else:
            for match in _IN_TEXT.finditer(text):
                self._count(name, "path", match[0])
        if self._folders is not None:
            for match in self._folders.finditer(text):
                self._count(name, "folder name", match[0])

    def _count(self, name: str, kind: Kind, example: str) -> None:
        fields = self.found.fields
        if (name, kind) not in fields and len(fields) >= MAX_FIELDS:
            name = "*"
        fields.setdefault((name, kind), Tally()).add(example)


def shorten(path: str) -> str:
    """A path fit to be shown: its first few names, each short, what looks like a secret left out."""
    names = re.split(r"[/\\]", path)
    shown = ["…" if _SECRETIVE.search(name) else _clip(name) for name in names[: SHOWN_PARTS + 1]]
    more = "/…" if len(names) > SHOWN_PARTS + 1 else ""
    return "/".join(shown) + more


def _clip(name: str) -> str:
    return name if len(name) <= SHOWN_PART else name[: SHOWN_PART - 1] + "…"
