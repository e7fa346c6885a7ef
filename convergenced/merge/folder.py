"""A session's folder: subagents, tool results, the title.

Owns the merge of these files. Promise: nothing goes away. Subagents' transcripts merge as records
do; of files that went apart one keeps the name and the other is kept beside it, the same everywhere.
Deleting a file on one machine does not delete it for the others.
"""

from __future__ import annotations

from collections.abc import Mapping

from convergenced.merge.lineage import TwoLineages, merge_tails
from convergenced.merge.names import beside, settle_names
from convergenced.model import Oid
from convergenced.ports import Objects

Files = Mapping[str, Oid]

RECORD_LIMIT = 64 * 1024 * 1024
"""Bytes of both versions of a subagent's transcript that are merged as records, at most."""


def merge_folders(objects: Objects, ours: Files, theirs: Files, base: Files) -> dict[str, Oid]:
    """The files of both folders by relative path."""
    merged: dict[str, Oid] = {}
    for path in sorted({*ours, *theirs}):
        one, other = ours.get(path), theirs.get(path)
        if one is None or other is None or one == other:
            merged[path] = one or other or base[path]
        else:
            merged |= _merge_file(objects, path, one, other, base.get(path))
    return settle_names(merged)


def _merge_file(objects: Objects, path: str, one: Oid, other: Oid, base: Oid | None) -> Files:
    if path.endswith(".jsonl") and objects.blob_size(one) + objects.blob_size(other) <= RECORD_LIMIT:
        return _merge_records(objects, path, one, other)
    if base in (one, other):
        return {path: other if base == one else one}
    first, second = sorted((one, other))
    return {path: first, beside(path, second): second}


def _merge_records(objects: Objects, path: str, one: Oid, other: Oid) -> Files:
    sides = {oid: _read_records(objects, oid) for oid in sorted((one, other))}
    merged = merge_tails(*sides.values())
    if isinstance(merged, TwoLineages):
        kept, forked = (_write_records(objects, one.records) for one in (merged.elder, merged.younger))
        return {path: kept, beside(path, forked): forked}
    known = next((oid for oid, records in sides.items() if records == merged.records), None)
    return {path: known or _write_records(objects, merged.records)}


def _read_records(objects: Objects, oid: Oid) -> list[bytes]:
    data = objects.read_blob(oid)
    return data.removesuffix(b"\n").split(b"\n") if data else []


def _write_records(objects: Objects, records: list[bytes]) -> Oid:
    return objects.write_blob(b"".join(record + b"\n" for record in records))
