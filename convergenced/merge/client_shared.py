"""What of a machine's settings.json is shared, in one spelling.

Owns the step from a file to its shared part. Promises: what belongs to one machine, our own hooks and what
looks like a secret are not in it; two files share the same bytes exactly where they share the same settings,
so lists, which are sets but for a few, are sorted, and what is empty is left out.
"""

from __future__ import annotations

import enum
import json
import re
from typing import Final, TypeGuard

from convergenced.errors import RefusedInputError
from convergenced.merge.client_keys import Key, holds_secret, is_unit, own_hooks, stays_home
from convergenced.merge.documents import Json, parse_fields

BOM = b"\xef\xbb\xbf"

MAX_SETTINGS = 512 * 1024
"""Bytes of a settings.json that takes part."""

MAX_KEYS = 500
"""Keys outside of lists; each may be a change of its own, and one is written after the other."""

_REMEDY = "correct the file; until then it takes no part"
_HALF = re.compile("[\ud800-\udfff]")


class Absent(enum.Enum):
    """No value, which is not `null`."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


def shared_settings(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The shared part of a settings.json as normalized JSON, and the keys that were left out.

    An element of a list is shared whole or not at all, and named by its place: `permissions.allow[2]`. Our
    own hooks are not named, but a group of hooks that others share with them is. Raises `RefusedInputError`
    for what is no JSON object.
    """
    left_out: list[str] = []
    return format_settings(shared_part(parse_settings(data), (), left_out)), tuple(left_out)


def parse_settings(data: bytes) -> dict[str, Json]:
    """The object that a settings.json holds; an empty file holds an empty one.

    The last of several equal keys counts. Raises `RefusedInputError`.
    """
    bare = data.removeprefix(BOM)
    if len(bare) > MAX_SETTINGS:
        raise RefusedInputError(f"settings.json is larger than {MAX_SETTINGS} bytes", _REMEDY)
    try:
        fields = parse_fields(bare, "settings.json") if bare.strip() else {}
    except RefusedInputError as error:
        raise RefusedInputError(error.summary, _REMEDY) from error
    if _count_keys(fields) > MAX_KEYS:
        raise RefusedInputError(f"settings.json has more than {MAX_KEYS} keys", _REMEDY)
    return fields


def _count_keys(value: Json) -> int:
    count, pending = 0, [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            count += len(one)
            pending += one.values()
    return count


def format_settings(value: Json | Absent) -> bytes:
    """The bytes that every machine writes for the same settings."""
    fields = {} if value is ABSENT else value
    return encode(json.dumps(fields, ensure_ascii=False, indent=2, sort_keys=True)) + b"\n"


def encode(text: str) -> bytes:
    """A JSON text as UTF-8. Half of a surrogate pair has no bytes of its own: it is written as an escape."""
    return _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", text).encode("utf-8")


def spelling(value: Json | Absent) -> str:
    """A text that is the same for the same values only: True is not 1, nor 1 the same as 1.0."""
    return "" if value is ABSENT else json.dumps(value, sort_keys=True)


def is_object(value: Json | Absent, key: Key) -> TypeGuard[dict[str, Json]]:
    """Whether the value is an object that is looked into, not taken whole."""
    return isinstance(value, dict) and not is_unit(key)


def is_set(value: Json | Absent, key: Key) -> TypeGuard[list[Json]]:
    """Whether the value is a list whose elements come and go one by one."""
    return isinstance(value, list) and not is_unit(key)


def shared_part(value: Json, key: Key, left_out: list[str]) -> Json | Absent:
    """What of the value at `key` is shared; absent where nothing is. Names in `left_out` what is not."""
    if stays_home(key, value):
        left_out.append(_dotted(key))
        return ABSENT
    if is_object(value, key):
        parts = {name: _shared_member(inner, (*key, name), left_out) for name, inner in value.items()}
        return {name: part for name, part in parts.items() if part is not ABSENT} or ABSENT
    if is_set(value, key):
        return _shared_elements(value, key, left_out) or ABSENT
    if value in ([], {}):
        return ABSENT
    if holds_secret(key[-1], value):
        left_out.append(_dotted(key))
        return ABSENT
    return value


def _shared_member(value: Json, key: Key, left_out: list[str]) -> Json | Absent:
    if holds_secret("", key[-1]):
        left_out.append(_dotted((*key[:-1], "(a name that looks like a secret)")))
        return ABSENT
    return shared_part(value, key, left_out)


def _shared_elements(elements: list[Json], key: Key, left_out: list[str]) -> list[Json]:
    kept: dict[str, Json] = {}
    for index, element in enumerate(elements):
        ours, others = own_hooks(element)
        if ours and not others:
            continue
        if ours or holds_secret(key[-1], element):
            left_out.append(f"{_dotted(key)}[{index}]")
        else:
            kept[spelling(element)] = element
    return [kept[spelled] for spelled in sorted(kept)]


def _dotted(key: Key) -> str:
    return ".".join(key)
