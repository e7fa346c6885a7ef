"""Settings of several machines become one, key by key.

Owns the rule of it. Promises: it does not matter in which order the machines come; what was merged takes
the same versions again without a change; what belongs to one machine is not in the outcome, even where
somebody put it into the versions. No model is ever asked: a setting can run code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from convergenced.errors import RefusedInputError
from convergenced.merge.client_keys import Key
from convergenced.merge.client_shared import (
    ABSENT,
    Absent,
    format_settings,
    is_object,
    is_set,
    parse_settings,
    shared_part,
    spelling,
)
from convergenced.merge.documents import Json
from convergenced.merge.markdown import MergedDocument, Version

MAX_CONTRADICTIONS = 100
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class _Side:
    """What one machine has at a key, and what it had made that from."""

    machine: str
    base: Json | Absent
    value: Json | Absent

    @property
    def changed(self) -> bool:
        return spelling(self.base) != spelling(self.value)


def merge_settings(current: bytes | None, versions: Sequence[Version]) -> MergedDocument:
    """Takes into `current` what each version changed of its base; a base of None means: nothing was removed.

    Objects are merged key by key, lists as sets of their elements. A value that several changed: the one
    that stands already, else that of the machine whose name comes first, and a contradiction is told; a
    removal does not count against a change. What somebody sets who had nothing there takes the place of
    nothing that stands: who is new to the others does not change theirs. A version that is no JSON object
    counts for nothing, and that is told, too.
    """
    told: list[str] = []
    sides: list[_Side] = []
    for version in sorted(versions, key=lambda one: (one.machine, one.data, one.base or b"")):
        try:
            value = _shared(version.data)
        except RefusedInputError as error:
            told.append(f"settings.json of {_plain(version.machine)} is left out: {error.summary}")
        else:
            sides.append(_Side(version.machine, _readable(version.base), value))
    merged = _merge((), _readable(current), sides, told)
    return MergedDocument(format_settings(merged), tuple(dict.fromkeys(told))[:MAX_CONTRADICTIONS])


def _shared(data: bytes) -> Json | Absent:
    return shared_part(parse_settings(data), (), [])


def _readable(data: bytes | None) -> Json | Absent:
    try:
        return ABSENT if data is None else _shared(data)
    except RefusedInputError:
        return ABSENT


def _merge(key: Key, current: Json | Absent, sides: Sequence[_Side], told: list[str]) -> Json | Absent:
    wanted = [side.value for side in sides if side.changed and side.value is not ABSENT]
    kinds: list[Json | Absent] = [*wanted] or [current]
    if all(is_object(value, key) for value in kinds):
        return _merge_objects(key, current, sides, told)
    if all(is_set(value, key) for value in kinds):
        return _merge_sets(key, current, sides)
    if wanted:
        return _choose(key, current, sides, told)
    removed = any(side.changed and spelling(side.base) == spelling(current) for side in sides)
    return ABSENT if removed else current


def _merge_objects(
    key: Key, current: Json | Absent, sides: Sequence[_Side], told: list[str]
) -> Json | Absent:
    here = current if is_object(current, key) else {}
    looked = [(side.machine, _members(key, side.base), _members(key, side.value)) for side in sides]
    names = {*here, *(name for _, base, value in looked for name in (*base, *value))}
    merged: dict[str, Json] = {}
    for name in sorted(names):
        inner = [
            _Side(machine, base.get(name, ABSENT), value.get(name, ABSENT)) for machine, base, value in looked
        ]
        part = _merge((*key, name), here.get(name, ABSENT), inner, told)
        if part is not ABSENT:
            merged[name] = part
    return merged or ABSENT


def _merge_sets(key: Key, current: Json | Absent, sides: Sequence[_Side]) -> Json | Absent:
    united = _elements(key, current)
    added: dict[str, Json] = {}
    removed: set[str] = set()
    for side in sides:
        base, value = _elements(key, side.base), _elements(key, side.value)
        removed |= base.keys() - value.keys()
        added |= {spelled: value[spelled] for spelled in value.keys() - base.keys()}
    united = {spelled: one for spelled, one in united.items() if spelled not in removed} | added
    return [united[spelled] for spelled in sorted(united)] or ABSENT


def _choose(key: Key, current: Json | Absent, sides: Sequence[_Side], told: list[str]) -> Json:
    """One of the values that were changed to; which others there are is told."""
    by_value: dict[str, tuple[Json, list[str]]] = {}
    for side in sides:
        if side.changed and side.value is not ABSENT:
            by_value.setdefault(spelling(side.value), (side.value, []))[1].append(side.machine)
    standing = by_value.get(spelling(current))
    chosen = (standing or next(iter(by_value.values())))[0]
    wishes = [f"{_names(who)}: {_shown(value)}" for value, who in by_value.values()]
    if (
        standing is None
        and current is not ABSENT
        and all(side.base is ABSENT for side in sides if side.changed)
    ):
        chosen = current
        wishes.append(f"so far: {_shown(current)}")
    if len(wishes) > 1:
        told.append(
            f"{_plain('.'.join(key))} is set differently ({'; '.join(wishes)}); taken: {_shown(chosen)}"
        )
    return chosen


def _members(key: Key, value: Json | Absent) -> dict[str, Json]:
    return value if is_object(value, key) else {}


def _elements(key: Key, value: Json | Absent) -> dict[str, Json]:
    return {spelling(one): one for one in value} if is_set(value, key) else {}


def _names(machines: Iterable[str]) -> str:
    return ", ".join(_plain(machine) for machine in dict.fromkeys(machines))


def _plain(text: str) -> str:
    return _cut("".join(char if char.isprintable() else "?" for char in text))


def _shown(value: Json) -> str:
    return _cut(json.dumps(value, sort_keys=True))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
