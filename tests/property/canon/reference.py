"""The canonical form by its definition: decode every string, rewrite what it says, character by character.

Slow, and written without a look at how the package does it. It knows neither bytes nor escapes.
"""

from __future__ import annotations

import json
from typing import TypeAlias, cast

from convergenced.model import Anchors

Json: TypeAlias = "bool | int | float | str | list[Json] | Pairs | None"

_NAMES = ("PROJECT_ROOT", "PROJECT_CONTEXT_DIR", "ENCODED_DIR", "HOME")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ALNUM = frozenset(_LETTERS + "0123456789")


class Pairs(list[tuple[str, "Json"]]):
    """An object as its pairs: a rewrite may make two keys alike."""


def parse(line: bytes) -> Json:
    """The value of a line of JSON."""
    value: Json = json.loads(line, object_pairs_hook=Pairs)
    return value


def canonical_value(value: Json, anchors: Anchors) -> Json:
    """The value with every string and key in canonical form, but for signed thinking."""
    match value:
        case str():
            return canonical_string(value, anchors)
        case Pairs():
            keep = _protected_keys(value)
            return Pairs(
                (
                    canonical_string(key, anchors),
                    item if key in keep and isinstance(item, str) else canonical_value(item, anchors),
                )
                for key, item in value
            )
        case list():
            return [canonical_value(item, anchors) for item in cast("list[Json]", value)]
        case _:
            return value


def _protected_keys(pairs: Pairs) -> set[str]:
    last = dict(pairs)
    if last.get("type") == "thinking" and isinstance(last.get("signature"), str) and last["signature"]:
        return {"thinking", "signature"}
    return {"data", "signature"} if last.get("type") == "redacted_thinking" else set()


def canonical_string(text: str, anchors: Anchors) -> str:
    """One string in canonical form."""
    paths = {
        "PROJECT_CONTEXT_DIR": anchors.context_dir,
        "PROJECT_ROOT": anchors.project_root,
        "ENCODED_DIR": anchors.encoded_dir,
        "HOME": anchors.home or "",
    }
    longest_first = sorted(
        ((path, name) for name, path in paths.items() if path), key=lambda pair: -len(pair[0])
    )
    out = ""
    at = 0
    behind_anchor = False
    while at < len(text):
        literal = _literal_at(text, at, tuple(name for _, name in longest_first))
        if literal:
            out += literal[:-2] + "_LIT}}"
            at += len(literal)
            behind_anchor = False
            continue
        found = None
        if not behind_anchor and not (at and text[at - 1] in _ALNUM):
            found = next(
                ((p, n) for p, n in longest_first if text.startswith(p, at) and _ends(text, at + len(p))),
                None,
            )
        if found:
            out += "{{CC_" + found[1] + "}}"
            at += len(found[0])
            behind_anchor = True
        else:
            out += text[at]
            at += 1
            behind_anchor = False
    return out


def _ends(text: str, at: int) -> bool:
    following = text[at : at + 2] + "  "
    if following[0] in _ALNUM or following[0] in "-_":
        return False
    return not (following[0] == "." and following[1] in _ALNUM)


def _literal_at(text: str, at: int, names: tuple[str, ...]) -> str:
    for name in names:
        head = "{{CC_" + name
        if not text.startswith(head, at):
            continue
        end = at + len(head)
        while text.startswith("_LIT", end):
            end += len("_LIT")
        if text.startswith("}}", end):
            return text[at : end + 2]
    return ""
