"""JSON text that is edited in place: every byte but those of the edit stays as it is.

Owns where things stand in a JSON text and the two edits that undo each other: `append` puts an item at
the end of an object or array in the style of its surroundings, `cut` takes one out. Cutting what was
appended last gives the former text, whatever its spacing, line ends, duplicate keys or spelling.
`replace` puts another value in the place of one, in the same style.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from convergenced.errors import UsageError


@dataclass(frozen=True, slots=True)
class Item:
    """A member of an object, or an element of an array: where it stands in the text."""

    key: str | None
    start: int
    """Where its key begins; in an array, its value."""
    value: int
    end: int


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
_SPACE = re.compile(r"[ \t\n\r]*")


def check_object(text: str, where: str) -> None:
    """Raises `UsageError`, which calls the text `where`, unless it is one JSON object and nothing else."""
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        told = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise UsageError(
            f"{where}{line}: this is not JSON ({told}); nothing was changed",
            "correct the file, or move it away",
        ) from error
    if not isinstance(value, dict):
        raise UsageError(
            f"{where} holds no JSON object; nothing was changed", "correct the file, or move it away"
        )


def value_at(text: str, at: int) -> Any:
    """The value that begins at `at`, decoded."""
    return _DECODER.raw_decode(text, at)[0]


def first_value(text: str) -> int:
    """Where the text's one value begins."""
    return _skip(text, 0)


def items(text: str, at: int) -> list[Item]:
    """What the object or array holds that begins at `at` of a text that was checked."""
    closing = "}" if text[at] == "{" else "]"
    found: list[Item] = []
    here = _skip(text, at + 1)
    while text[here] != closing:
        if text[here] == ",":
            here = _skip(text, here + 1)
        start, key = here, None
        if closing == "}":
            key, here = _DECODER.raw_decode(text, here)
            here = _skip(text, _skip(text, here) + 1)
        value, (_, here) = here, _DECODER.raw_decode(text, here)
        found.append(Item(key, start, value, here))
        here = _skip(text, here)
    return found


def append(text: str, at: int, value: object, key: str | None = None) -> str:
    """`text` with one more item at the end of the object or array that begins at `at`."""
    return _add(text, at, [value], key)


def extend(text: str, at: int, values: Sequence[object]) -> str:
    """`text` with more elements at the end of the array that begins at `at`, as if each were appended."""
    return _add(text, at, values, None) if values else text


def cut(text: str, at: int, index: int) -> str:
    """`text` without that item of the object or array that begins at `at`."""
    return cut_all(text, at, [index])


def cut_all(text: str, at: int, indexes: Iterable[int]) -> str:
    """`text` without these items of the object or array that begins at `at`, as if each were cut."""
    found = items(text, at)
    gone = set(indexes)
    left = [index for index in range(len(found)) if index not in gone]
    if not gone:
        return text
    if not left:
        return text[: at + 1] + text[found[-1].end :]
    parts = [text[: found[0].start]]
    for before, index in zip([-1, *left], left, strict=False):
        # What stands before an item goes with it, but what stands before the first one stays.
        start = found[index].start if before < 0 else found[index - 1].end
        parts.append(text[start : found[index].end])
    return "".join(parts) + text[found[-1].end :]


def replace(text: str, item: Item, value: object) -> str:
    """`text` with another value in the place of the item's."""
    begin = text[text.rfind("\n", 0, item.start) + 1 : item.start]
    if "\n" not in text or begin.strip(" \t"):
        written = json.dumps(value, ensure_ascii=False)
    else:
        written = _in_lines(text, value, begin)
    return text[: item.value] + written + text[item.end :]


def _add(text: str, at: int, values: Sequence[object], key: str | None) -> str:
    found = items(text, at)
    begin = found[-2].end if len(found) > 1 else at + 1
    space = text[begin : found[-1].start if found else _skip(text, begin)]
    place = found[-1].end if found else at + 1
    if "\n" not in space:
        joint = ", "
        written = [json.dumps(value, ensure_ascii=False) for value in values]
        between = joint if found else ""
    else:
        indent = _blank(space.rpartition("\n")[2]) if found else _indent_of_line(text, at) + _unit(text)
        joint = f",{_newline(text)}{indent}"
        written = [_in_lines(text, value, indent) for value in values]
        between = joint if found else joint[1:]
    return f"{text[:place]}{between}{joint.join(_keyed(key) + one for one in written)}{text[place:]}"


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None  # it matches nothing, too
    return found.end()


def _keyed(key: str | None) -> str:
    return "" if key is None else f"{json.dumps(key, ensure_ascii=False)}: "


def _in_lines(text: str, value: object, indent: str) -> str:
    """The value over several lines, those behind the first indented."""
    written = json.dumps(value, ensure_ascii=False, indent=_unit(text))
    return written.replace("\n", _newline(text) + indent)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _unit(text: str) -> str:
    """One step of the text's indentation: that of the first line behind the opening bracket."""
    at = first_value(text)
    found = items(text, at)
    space = text[at + 1 : found[0].start] if found else ""
    return space.rpartition("\n")[2] if "\n" in space and space.rpartition("\n")[2] else "  "


def _indent_of_line(text: str, at: int) -> str:
    return _blank(text[text.rfind("\n", 0, at) + 1 : at])


def _blank(line: str) -> str:
    """The blanks that it begins with."""
    return line[: len(line) - len(line.lstrip(" \t"))]
