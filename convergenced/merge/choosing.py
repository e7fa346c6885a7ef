"""One of two versions of what cannot be merged, chosen alike on every machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from convergenced.merge.names import collision_key
from convergenced.model import Oid, TreeEntry

Chosen = TypeVar("Chosen", Oid, TreeEntry)


def choose(ours: Chosen | None, theirs: Chosen | None, base: Chosen | None) -> Chosen | None:
    """The changed one, else the greater. Never none where either is there."""
    if ours is None or theirs is None:
        return ours or theirs
    if base in (ours, theirs):
        return theirs if base == ours else ours
    return max(ours, theirs)


def choose_all(ours: Mapping[str, Oid], theirs: Mapping[str, Oid], base: Mapping[str, Oid]) -> dict[str, Oid]:
    """The same for each name."""
    names = sorted({*ours, *theirs})
    chosen = {name: choose(ours.get(name), theirs.get(name), base.get(name)) for name in names}
    return {name: oid for name, oid in chosen.items() if oid is not None}


def choose_entries(
    ours: Iterable[TreeEntry], theirs: Iterable[TreeEntry], base: Iterable[TreeEntry]
) -> tuple[TreeEntry, ...]:
    """The same for each entry of a folder, where names that collide are one."""
    sides = [{collision_key(entry.name): entry for entry in side} for side in (ours, theirs, base)]
    keys = sorted({*sides[0], *sides[1]})
    chosen = (choose(*(side.get(key) for side in sides)) for key in keys)
    return tuple(entry for entry in chosen if entry is not None)
