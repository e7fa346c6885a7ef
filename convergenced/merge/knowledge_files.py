"""What machines say of themselves on the branch `knowledge`, and how its scopes came to be what they are.

Owns `machines/<machine>/machine.json` and `meta/last-synthesis.json`. Promises: what is malformed is left
out and reported, the rest counts; fields of a newer version are kept; a newer schema is left alone; the
same content gives the same bytes on every machine, a line for each document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from convergenced.errors import RefusedInputError
from convergenced.merge.documents import Fields, Json, format_document, others_of, text_of
from convergenced.merge.knowledge import (
    Documents,
    Input,
    Inputs,
    MachineKnowledge,
    Outcome,
    Rejection,
    Scope,
    ScopeRecord,
    Synthesis,
    is_scope,
)
from convergenced.merge.knowledge_fields import (
    Sieve,
    dollars_of,
    fields_of,
    machine_of,
    number_of,
    read_fields,
    texts_of,
    words_of,
)
from convergenced.merge.reading import Reading
from convergenced.model import SCHEMA, Oid

MAX_RECORDS = 8 << 20
"""Bytes of `last-synthesis.json`, at most: each document that went in takes about 160."""

_OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_MACHINE = ("schema", "name", "applied", "anew", "revision")
_RECORDS = ("schema", "scopes")
_RECORD = ("written", "rejected", "revision", "former")
_MADE = ("at", "machine", "provider", "model", "prompt", "usd", "inputs")
_SYNTHESIS = (*_MADE, "outcome", "applied", "marks")
_REJECTION = (*_MADE, "claims")


def read_machine_file(reading: Reading, oid: Oid | None, where: str) -> MachineKnowledge:
    """What a machine says of itself, without its documents. Raises `NewerSchemaError`."""
    fields = read_fields(reading, oid, where)
    sieve = Sieve()
    known = MachineKnowledge(
        name=text_of(fields, "name") or "",
        applied=sieve.by_scope(fields.get("applied", {})),
        anew=sieve.by_scope(fields.get("anew", {})),
        revision=sieve.revision(fields),
        other=others_of(fields, _MACHINE),
    )
    sieve.report(reading, where)
    return known


def format_machine_file(known: MachineKnowledge) -> bytes:
    """The bytes of `machine.json`."""
    fields: dict[str, Json] = {
        "name": known.name,
        "applied": _by_scope(known.applied),
        "revision": known.revision,
    }
    if anew := _by_scope(known.anew):
        fields["anew"] = anew
    return format_document({**known.other, **fields, "schema": SCHEMA})


def _by_scope(scopes: Mapping[Scope, Documents]) -> dict[str, Json]:
    return {scope: dict(paths.items()) for scope, paths in scopes.items() if paths}


def read_records(reading: Reading, oid: Oid | None, where: str) -> tuple[dict[Scope, ScopeRecord], Fields]:
    """The records by scope, and the file's fields that are not known here. Raises `NewerSchemaError`."""
    fields = read_fields(reading, oid, where, MAX_RECORDS)
    sieve = Sieve()
    records: dict[Scope, ScopeRecord] = {}
    for text, value in sieve.fields(fields.get("scopes", {})).items():
        if is_scope(text):
            records[Scope(text)] = _parse_record(sieve, Scope(text), value)
        else:
            sieve.drop(f"{text[:100]!r} is no scope")
    sieve.report(reading, where)
    known = {scope: record for scope, record in records.items() if record != ScopeRecord()}
    return known, others_of(fields, _RECORDS)


def format_records(records: Mapping[Scope, ScopeRecord], other: Fields) -> bytes | None:
    """The bytes of `last-synthesis.json`; None where there is nothing to say.

    Where it would be too large for anyone to read, what was synthesized longest ago is left out: nothing is
    due for that, as long as machines have what is consolidated.
    """
    scopes = {scope: record_fields(record) for scope, record in records.items() if record != ScopeRecord()}
    if not scopes and not other:
        return None
    data = _format_scopes(scopes, other)
    if len(data) <= MAX_RECORDS:
        return data
    room = MAX_RECORDS - len(_format_scopes({}, other))
    kept: dict[Scope, dict[str, Json]] = {}
    for scope in sorted(scopes, key=lambda scope: (_latest(records[scope]), scope), reverse=True):
        room -= len(_format_scopes({scope: scopes[scope]}, {}))
        if room < 0:
            break
        kept[scope] = scopes[scope]
    return _format_scopes(kept, other)


def record_fields(record: ScopeRecord) -> dict[str, Json]:
    """The record as it is written."""
    fields: dict[str, Json] = {**record.other, "revision": record.revision}
    if record.written is not None:
        fields["written"] = _synthesis_fields(record.written)
    if record.rejected is not None:
        fields["rejected"] = _rejection_fields(record.rejected)
    if former := {path: list(oids) for path, oids in record.former.items() if oids}:
        fields["former"] = {path: list[Json](oids) for path, oids in former.items()}
    return fields


def _format_scopes(scopes: Mapping[Scope, dict[str, Json]], other: Fields) -> bytes:
    return format_document({**other, "schema": SCHEMA, "scopes": dict(scopes.items())})


def _latest(record: ScopeRecord) -> int:
    return max((made.at for made in (record.written, record.rejected) if made is not None), default=-1)


def _parse_record(sieve: Sieve, scope: Scope, value: Json) -> ScopeRecord:
    fields = sieve.fields(value)
    written: Synthesis | None = None
    rejected: Rejection | None = None
    try:
        if "written" in fields:
            written = _parse_synthesis(sieve, scope, fields_of(fields["written"]))
        if "rejected" in fields:
            rejected = _parse_rejection(fields_of(fields["rejected"]))
    except RefusedInputError as error:
        sieve.drop(f"{scope}: {error.summary}")
    return ScopeRecord(
        written=written,
        rejected=rejected,
        revision=sieve.revision(fields),
        former=sieve.series(scope, fields.get("former", {})),
        other=others_of(fields, _RECORD),
    )


def _parse_synthesis(sieve: Sieve, scope: Scope, fields: Fields) -> Synthesis:
    return Synthesis(
        at=number_of(fields, "at"),
        machine=machine_of(fields),
        provider=words_of(fields, "provider"),
        outcome=_outcome_of(fields),
        inputs=_parse_inputs(sieve, scope, fields),
        model=words_of(fields, "model"),
        prompt=words_of(fields, "prompt"),
        usd=dollars_of(fields),
        marks=texts_of(fields, "marks"),
        other=others_of(fields, _SYNTHESIS),
    )


def _parse_inputs(sieve: Sieve, scope: Scope, fields: Fields) -> Inputs:
    applied = sieve.by_machine(scope, fields.get("applied", {}))
    return {
        machine: {path: Input(oid, applied.get(machine, {}).get(path)) for path, oid in documents.items()}
        for machine, documents in sieve.by_machine(scope, fields.get("inputs", {})).items()
    }


def _parse_rejection(fields: Fields) -> Rejection:
    return Rejection(
        at=number_of(fields, "at"),
        machine=machine_of(fields),
        provider=words_of(fields, "provider"),
        inputs=words_of(fields, "inputs"),
        claims=texts_of(fields, "claims"),
        model=words_of(fields, "model"),
        prompt=words_of(fields, "prompt"),
        usd=dollars_of(fields),
        other=others_of(fields, _REJECTION),
    )


def _outcome_of(fields: Fields) -> Outcome:
    text = words_of(fields, "outcome")
    for outcome in _OUTCOMES:
        if text == outcome:
            return outcome
    raise RefusedInputError(f"{text[:100]!r} is no outcome")


def _synthesis_fields(written: Synthesis) -> dict[str, Json]:
    inputs: dict[str, Json] = {}
    applied: dict[str, Json] = {}
    for machine, documents in written.inputs.items():
        if documents:
            inputs[machine] = {path: one.document for path, one in documents.items()}
        if held := {path: one.applied for path, one in documents.items() if one.applied is not None}:
            applied[machine] = dict(held.items())
    known: dict[str, Json] = {
        "outcome": written.outcome,
        "inputs": inputs,
        "applied": applied,
        "marks": [*written.marks],
    }
    return {**written.other, **_made_fields(written), **known}


def _rejection_fields(rejected: Rejection) -> dict[str, Json]:
    known: dict[str, Json] = {"inputs": rejected.inputs, "claims": [*rejected.claims]}
    return {**rejected.other, **_made_fields(rejected), **known}


def _made_fields(made: Synthesis | Rejection) -> dict[str, Json]:
    return {
        "at": made.at,
        "machine": made.machine,
        "provider": made.provider,
        "model": made.model,
        "prompt": made.prompt,
        "usd": float(made.usd),
    }
