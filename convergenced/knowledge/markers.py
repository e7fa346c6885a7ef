"""What the pipeline says in a CI's log, so that whoever started it from afar need not guess.

Owns these lines: one for each failure that a person can mend, and one for a good end. A line is only a
marker at its beginning, and everything else that the pipeline prints goes through `harmless`, so that no
document can speak in its name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

Trouble = Literal["no-key", "provider", "fetch-denied", "push-denied", "raced", "newer", "scopes", "other"]
"""No key for the model; the model's provider refuses; the hub cannot be read; it takes no push; others kept
pushing; the branch is of a newer version; some scopes failed, the others are done; anything else."""

MAX_TEXT = 400
"""Characters of one line, at most."""

_FAILED = "convergence: failed: "
_DONE = "convergence: done: "
_LEFT = "(?:[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,20}Z )?(?:[0-9]{2}[OE][+ ]?)? ?"
"""What a CI puts before a line: GitHub and newer GitLabs the time, the latter also a stream's number."""
_MARKER = re.compile(
    rf"^{_LEFT}(?:{_FAILED}(?P<trouble>{'|'.join(get_args(Trouble))}): (?P<why>.*)|{_DONE}(?P<done>.*))$"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Ending:
    """How the pipeline said that it ended. `trouble` is None for a good end."""

    trouble: Trouble | None
    text: str


def harmless(text: str) -> str:
    """`text` as one bounded line that no CI takes for a command of its own."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * MAX_TEXT]).split())
    line = line.replace("##[", "## [").replace("::", ": :")
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"


def failed(trouble: Trouble, text: str) -> str:
    """The line for a failure."""
    return f"{_FAILED}{trouble}: {harmless(text)}"


def done(text: str) -> str:
    """The line for a good end."""
    return f"{_DONE}{harmless(text)}"


def read_ending(log: str) -> Ending | None:
    """The last marker in a log; None where there is none."""
    ending = None
    for line in re.split(r"[\r\n]+", log.removeprefix("\ufeff")):
        found = _MARKER.match(_COLOUR.sub("", line))
        if found is not None:
            ending = Ending(_trouble(found["trouble"]), harmless(found["why"] or found["done"] or ""))
    return ending


def _trouble(word: str | None) -> Trouble | None:
    return next((one for one in get_args(Trouble) if one == word), None)
