"""Claude Code's settings.json across machines: what is shared, how it merges, what taking it on changes.

Owns the changes: which ones there are, which of them need a person, and how they are written into the local
file as text. Promises: what belongs to this machine is neither touched nor shown; every byte but those of
the changes stays as it is; only a value of a short list of harmless ones is ever changed without a person.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from convergenced.canon import jsontext
from convergenced.errors import FileChangedError
from convergenced.merge.client_keys import Key, is_harmless, own_hooks, why_asked
from convergenced.merge.client_merge import merge_settings
from convergenced.merge.client_shared import (
    ABSENT,
    BOM,
    Absent,
    encode,
    is_object,
    is_set,
    parse_settings,
    shared_part,
    shared_settings,
    spelling,
)
from convergenced.merge.documents import Json

__all__ = [
    "ABSENT",
    "Absent",
    "SettingChange",
    "apply_settings",
    "merge_settings",
    "setting_changes",
    "shared_settings",
]

ID_DIGITS = 12

_FRESH = "{\n}\n"


@dataclass(frozen=True, slots=True)
class SettingChange:
    """One value that another takes the place of.

    Where `element` holds, `key` is that of a list, and the value an element of it which comes or goes.
    `consent` says that a person has to agree, `why` for what reason (empty where nobody has to). `id` names
    this very change: it is the same wherever and whenever it is met.
    """

    key: Key
    before: Json | Absent
    after: Json | Absent
    consent: bool
    why: str
    id: str
    element: bool = False


def setting_changes(local: bytes, wanted: bytes) -> list[SettingChange]:
    """What taking on the shared settings `wanted` would change in the whole local file.

    None where both share the same settings. What belongs to this machine is left alone, also where it
    stands in the way of something wanted. Raises `RefusedInputError` where one is no JSON object.
    """
    whole = parse_settings(local)
    mine = shared_part(whole, (), [])
    theirs = shared_part(parse_settings(wanted), (), [])
    return list(_differences((), whole, mine, theirs))


def apply_settings(local: bytes, changes: Sequence[SettingChange]) -> bytes:
    """The local file with these changes, each of which `setting_changes` told of that very file.

    An empty file, or none (`b""`), becomes a fresh one. Raises `RefusedInputError` where the file is no
    JSON object, `FileChangedError` where a change does not fit it.
    """
    parse_settings(local)
    mark = BOM if local.startswith(BOM) else b""
    text = local.removeprefix(BOM).decode("utf-8")
    text = text if text.strip() else _FRESH
    for (key, element), group in itertools.groupby(changes, lambda one: (one.key, one.element)):
        if element:
            text = _apply_elements(text, key, list(group))
        else:
            for change in group:
                text = _apply_value(text, change)
    return mark + encode(text)


def _differences(
    key: Key, whole: Json | Absent, mine: Json | Absent, theirs: Json | Absent
) -> Iterator[SettingChange]:
    """From the value at `key`, and the part of it that is shared, to what is wanted there."""
    if spelling(mine) == spelling(theirs):
        return
    here = ABSENT if _is_hollow(key, whole) else whole
    aim = mine if theirs is ABSENT else theirs
    if is_object(aim, key) and (here is ABSENT or is_object(here, key)):
        every, before, after = _members(here), _members(mine), _members(theirs)
        for name in sorted(before.keys() | after.keys()):
            inner = (side.get(name, ABSENT) for side in (every, before, after))
            yield from _differences((*key, name), *inner)
    elif is_set(aim, key) and (here is ABSENT or is_set(here, key)):
        had, has = _elements(mine), _elements(theirs)
        yield from (_change(key, had[gone], ABSENT, element=True) for gone in sorted(had.keys() - has.keys()))
        yield from (_change(key, ABSENT, has[new], element=True) for new in sorted(has.keys() - had.keys()))
    elif here is ABSENT or _is_all_shared(key, here):
        yield _change(key, mine, theirs)


def _change(key: Key, before: Json | Absent, after: Json | Absent, *, element: bool = False) -> SettingChange:
    consent = element or not all(value is ABSENT or is_harmless(key, value) for value in (before, after))
    told = before if after is ABSENT else after
    why = "" if not consent or told is ABSENT else why_asked(key, told, added=after is not ABSENT)
    return SettingChange(key, before, after, consent, why, _id_of(key, before, after, element), element)


def _id_of(key: Key, before: Json | Absent, after: Json | Absent, element: bool) -> str:
    sides = [[] if value is ABSENT else [value] for value in (before, after)]
    named = json.dumps([list(key), *sides, element], sort_keys=True)
    return hashlib.sha256(named.encode("ascii")).hexdigest()[:ID_DIGITS]


def _members(value: Json | Absent) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _elements(value: Json | Absent) -> dict[str, Json]:
    return {spelling(one): one for one in value} if isinstance(value, list) else {}


def _is_hollow(key: Key, value: Json | Absent) -> bool:
    """Whether a value says nothing, to nobody: it may be taken for absent."""
    return value is ABSENT or (shared_part(value, key, []) is ABSENT and _is_all_shared(key, value))


def _is_all_shared(key: Key, value: Json) -> bool:
    """Whether nothing in the value belongs to this machine."""
    left_out: list[str] = []
    shared_part(value, key, left_out)
    return not left_out and own_hooks(value)[0] == 0


def _apply_value(text: str, change: SettingChange) -> str:
    at, depth, named = _find(text, change.key)
    value = jsontext.value_at(text, named[-1].value) if named else None
    if not named or depth < len(change.key) - 1:
        if change.before is not ABSENT or change.after is ABSENT:
            raise _unfit(change.key)
        return _put(text, change.key, change.after)
    if spelling(shared_part(value, change.key, [])) != spelling(change.before):
        raise _unfit(change.key)
    if not _is_all_shared(change.key, value):
        raise _unfit(change.key)
    if change.after is not ABSENT:
        return jsontext.replace(text, named[-1], change.after)
    every = jsontext.items(text, at)  # an earlier one of that name would count else
    return jsontext.cut_all(text, at, [i for i, item in enumerate(every) if item.key == change.key[-1]])


def _apply_elements(text: str, key: Key, changes: Sequence[SettingChange]) -> str:
    _, depth, named = _find(text, key)
    added = [change.after for change in changes if change.after is not ABSENT]
    gone = {spelling(change.before) for change in changes if change.after is ABSENT}
    there = bool(named) and depth == len(key) - 1 and text[named[-1].value] == "["
    at = named[-1].value if there else 0
    spelled = [spelling(one) for one in jsontext.value_at(text, at)] if there else []
    if not gone <= set(spelled) or not {spelling(one) for one in added}.isdisjoint(spelled):
        raise _unfit(key)
    if not there:
        return _put(text, key, added)
    text = jsontext.cut_all(text, at, [index for index, one in enumerate(spelled) if one in gone])
    return jsontext.extend(text, at, added)


def _find(text: str, key: Key) -> tuple[int, int, list[jsontext.Item]]:
    """The object that holds the key's last name, or the innermost there is on the way to it.

    Where it begins, which of the names is looked for in it, and the items that have that name.
    """
    at = jsontext.first_value(text)
    for depth, name in enumerate(key):
        named = [item for item in jsontext.items(text, at) if item.key == name]
        if depth == len(key) - 1 or not named or text[named[-1].value] != "{":
            break
        at = named[-1].value
    return at, depth, named


def _put(text: str, key: Key, value: Json) -> str:
    """Puts a value where there is none, or one that is hollow, with the objects around it."""
    at, depth, named = _find(text, key)
    for name in reversed(key[depth + 1 :]):
        value = {name: value}
    if not named:
        return jsontext.append(text, at, value, key[depth])
    if not _is_hollow(key[: depth + 1], jsontext.value_at(text, named[-1].value)):
        raise _unfit(key)
    return jsontext.replace(text, named[-1], value)


def _unfit(key: Key) -> FileChangedError:
    return FileChangedError(
        f"settings.json is not what it was when the change of {'.'.join(key)} was found",
        "look at the changes again",
    )
