"""Claude Code's settings.json across machines: what is shared, how it merges, what taking it on changes.

Owns the changes: which ones there are, which of them need a person, and how they are written into the local
file as text. Promises: what belongs to this machine is neither touched nor shown; every byte but those of
the changes stays as it is; only a value of a short list of harmless ones is ever changed without a person.
"""

from __future__ import annotations

import hashlib
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
    for change in changes:
        text = _apply(text, change)
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


def _apply(text: str, change: SettingChange) -> str:
    at = jsontext.first_value(text)
    for depth, name in enumerate(change.key):
        named = [item for item in jsontext.items(text, at) if item.key == name]
        if not named:
            return jsontext.append(text, at, _made(change, depth), name)
        if depth == len(change.key) - 1:
            break
        at = named[-1].value
        if text[at] != "{":
            return _instead(text, named[-1], change, depth)
    value = jsontext.value_at(text, named[-1].value)
    if change.element and isinstance(value, list):
        return _come_or_go(text, named[-1].value, value, change)
    if change.element or spelling(_shared(change.key, value)) != spelling(change.before):
        return _instead(text, named[-1], change, depth)
    if not _is_all_shared(change.key, value):
        raise _unfit(change)
    if change.after is not ABSENT:
        return jsontext.replace(text, named[-1], change.after)
    every = jsontext.items(text, at)
    for index in reversed([i for i, item in enumerate(every) if item.key == name]):
        text = jsontext.cut(text, at, index)  # an earlier one would count else
    return text


def _instead(text: str, item: jsontext.Item, change: SettingChange, depth: int) -> str:
    """Puts what is added in the place of a value that is hollow."""
    if not _is_hollow(change.key[: depth + 1], jsontext.value_at(text, item.value)):
        raise _unfit(change)
    return jsontext.replace(text, item, _made(change, depth))


def _come_or_go(text: str, at: int, elements: list[Json], change: SettingChange) -> str:
    spelled = [spelling(one) for one in elements]
    if change.after is not ABSENT:
        if spelling(change.after) in spelled:
            raise _unfit(change)
        return jsontext.append(text, at, change.after)
    found = [index for index, one in enumerate(spelled) if one == spelling(change.before)]
    if not found:
        raise _unfit(change)
    for index in reversed(found):
        text = jsontext.cut(text, at, index)
    return text


def _made(change: SettingChange, depth: int) -> Json:
    """What has to stand at the key's first `depth` + 1 names so that the value is in the file."""
    if change.after is ABSENT or change.before is not ABSENT:
        raise _unfit(change)
    value: Json = [change.after] if change.element else change.after
    for name in reversed(change.key[depth + 1 :]):
        value = {name: value}
    return value


def _shared(key: Key, value: Json) -> Json | Absent:
    return shared_part(value, key, [])


def _unfit(change: SettingChange) -> FileChangedError:
    return FileChangedError(
        f"settings.json is not what it was when the change of {'.'.join(change.key)} was found",
        "look at the changes again",
    )
