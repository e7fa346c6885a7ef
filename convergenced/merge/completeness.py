"""Whether a text that somebody else wrote of a document still holds what that says.

Words are what is looked for: a text may say the same otherwise, but not with none of the words.
"""

from __future__ import annotations

import re

from convergenced.merge.marks import is_mark
from convergenced.merge.sections import Section, parse, title_of

KEPT = 3
"""Of so many words of a section more than one must be left: a third."""

_WORD = re.compile(r"\w{3,}")


def lost_sections(document: bytes, text: bytes) -> tuple[str, ...]:
    """The titles of the sections of `document` of which next to nothing stands in `text`."""
    there = _words(text)
    lost = []
    for key, section in parse(document).sections.items():
        wanted = _words(_text_of(section))
        if wanted and KEPT * len(wanted & there) <= len(wanted):
            lost.append(title_of(key))
    return tuple(lost)


def _text_of(section: Section) -> bytes:
    return b"\n".join(line for line in (*section.heading, *section.body) if not is_mark(line))


def _words(data: bytes) -> set[str]:
    return set(_WORD.findall(data.decode("utf-8", "replace").casefold()))
