"""The log of the branch `knowledge`: what was synthesized when, by whom, at what price.

Owns `meta/sync-log.json`. Entries are only ever added; merging is their union. Promise: it stays bounded,
and the same entries give the same bytes on every machine, a line for each, so that git keeps what is new.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from convergenced.errors import RefusedInputError
from convergenced.merge.documents import Fields, Json, others_of, parse_document
from convergenced.merge.knowledge import MAX_LOG, LogEntry
from convergenced.merge.knowledge_fields import (
    Sieve,
    dollars_of,
    fields_of,
    machine_of,
    number_of,
    scope_of,
    words_of,
)
from convergenced.merge.reading import Reading
from convergenced.model import Oid

MAX_ENTRY = 4_000
"""Bytes of one entry, at most, so that a full log is a document still."""

_ENTRY = ("at", "machine", "scope", "outcome", "provider", "model", "usd", "text")


def read_log(reading: Reading, oid: Oid | None, where: str) -> tuple[LogEntry, ...]:
    """The log's entries, the oldest first."""
    if oid is None:
        return ()
    try:
        values = parse_document(reading.objects.read_blob(oid), where)
    except RefusedInputError as error:
        reading.refuse(where, error.summary, error.hint)
        return ()
    if not isinstance(values, list):
        reading.refuse(where, "it is no JSON array")
        return ()
    sieve = Sieve()
    entries: list[LogEntry] = []
    for value in values:
        try:
            entries.append(_parse_entry(fields_of(value)))
        except RefusedInputError as error:
            sieve.drop(error.summary)
    sieve.report(reading, where)
    return merge_logs(entries)


def format_log(log: Iterable[LogEntry]) -> bytes | None:
    """The bytes of the log, an array; None for an empty one."""
    lines = [_line_of(entry) for entry in merge_logs(log)]
    return "[\n{}\n]\n".format(",\n".join(lines)).encode("ascii") if lines else None


def merge_logs(*logs: Iterable[LogEntry]) -> tuple[LogEntry, ...]:
    """All entries of these logs, each once, the oldest first; of too many the newest."""
    entries = {_line_of(entry): entry for log in logs for entry in log}
    ordered = sorted(entries.items(), key=lambda item: (item[1].at, item[1].machine, item[1].scope, item[0]))
    return tuple(entry for _, entry in ordered[-MAX_LOG:])


def _parse_entry(fields: Fields) -> LogEntry:
    entry = LogEntry(
        at=number_of(fields, "at"),
        machine=machine_of(fields),
        scope=scope_of(fields),
        outcome=words_of(fields, "outcome"),
        provider=words_of(fields, "provider"),
        model=words_of(fields, "model"),
        usd=dollars_of(fields),
        text=words_of(fields, "text"),
        other=others_of(fields, _ENTRY),
    )
    if len(_line_of(entry)) > MAX_ENTRY:
        raise RefusedInputError(f"an entry has more than {MAX_ENTRY} bytes")
    return entry


def _line_of(entry: LogEntry) -> str:
    known: dict[str, Json] = {key: getattr(entry, key) for key in _ENTRY}
    fields = {**entry.other, **known, "usd": float(entry.usd)}
    return json.dumps(fields, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
