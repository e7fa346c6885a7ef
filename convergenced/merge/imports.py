"""Which other files a CLAUDE.md has the client read: paths behind an at sign.

A file that is named so becomes part of every conversation there. The client leaves out what stands in code;
where code begins is a matter of reading, so a path that leads out of the document's folder counts in code,
too. What is none but looks like one (somebody's handle) counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from convergenced.merge.sections import find_blocks

_IMPORT = re.compile(r"(?<![\w.+-])@(?=[\w~/.\\$%-])(\S+)")
_SPAN = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)")
_LEADS_OUT = ("~", "/", ".", "\\", "$", "%")
_AROUND = ".,;:!?)]}>*_`'\""


LONGEST = 10_000
"""Characters of a line in which code is told from text, at most."""


def find_imports(document: bytes) -> tuple[str, ...]:
    """The paths as they are spelled, each once, in their order."""
    return tuple(dict.fromkeys(_imports(document)))


def _imports(document: bytes) -> Iterator[str]:
    if b"@" not in document:
        return
    lines = document.split(b"\n")
    for block in find_blocks(lines):
        for line in lines[block.start : block.end]:
            if b"@" not in line:
                continue
            text = line.decode("utf-8", "replace")
            shown = _SPAN.sub(_hidden, text) if len(text) <= LONGEST else text
            for found in _IMPORT.finditer(text):
                path = found[1].rstrip(_AROUND)
                is_code = block.kind == "code" or shown[found.start()] != "@"
                if path and (not is_code or path.startswith(_LEADS_OUT)):
                    yield path


def _hidden(span: re.Match[str]) -> str:
    return "`" * len(span[0])
