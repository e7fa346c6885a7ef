"""Spans of time as people write them: `90`, `45s`, `1h30m`, `2d`."""

from __future__ import annotations

import re

from convergenced.errors import UsageError

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|m(?:in)?|s|)", re.ASCII)
LONGEST = 366 * 86400.0


def seconds(text: str) -> float:
    """The span in seconds. Raises `UsageError` for anything that is not a positive span up to a year."""
    total, position = 0.0, 0
    spelled = text.strip().lower()
    while match := _PART.match(spelled, position):
        total += float(match[1]) * _UNITS[match[2][:1]]
        position = match.end()
    if not spelled or position != len(spelled) or not 0 < total <= LONGEST:
        raise UsageError(f"{text!r} is not a span of time", "write it as 90, 45s, 30m, 2h or 1h30m")
    return total
