"""Owns the rule by which Claude Code names a project's folder.

The promise: the name is the one the client (2.1.329) gives, for all observed paths. The rule loses
information, so there is no way back and none is offered.
"""

from __future__ import annotations

import re

LIMIT = 200
"""UTF-16 units a folder name holds before the client cuts it and appends a hash."""

_OTHER = re.compile(r"[^A-Za-z0-9]")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_UNIT = 2  # bytes in a UTF-16 unit


def encode_folder_name(path: str) -> str:
    """The name of `path`'s folder below `projects/`. `path` must be resolved: links are followed first.

    Each UTF-16 unit outside `[A-Za-z0-9]` becomes `-`. A longer name than `LIMIT` units is cut there
    and gets `-` and a base 36 hash of the whole path.
    """
    name = _OTHER.sub(lambda match: "-" if match[0] <= "\uffff" else "--", path)
    if len(name) <= LIMIT:
        return name
    return f"{name[:LIMIT]}-{_base36(abs(_hash(path)))}"


def _hash(text: str) -> int:
    """The client's 32-bit string hash, `h * 31 + unit` with the overflow of a signed integer."""
    raw = text.encode("utf-16-le", "surrogatepass")
    value = 0
    for at in range(0, len(raw), _UNIT):
        value = (value * 31 + int.from_bytes(raw[at : at + _UNIT], "little")) & 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def _base36(number: int) -> str:
    """`number` as JavaScript's `toString(36)` writes it."""
    digits = ""
    while True:
        number, rest = divmod(number, len(_DIGITS))
        digits = _DIGITS[rest] + digits
        if not number:
            return digits
