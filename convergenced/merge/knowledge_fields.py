"""Values in the JSON files of the branch `knowledge`, taken with suspicion.

Owns what a well-formed machine, scope, document or number is there. Promise: what is malformed is left out
alone and reported once for each file.
"""

from __future__ import annotations

import re
from typing import TypeGuard

from convergenced.errors import RefusedInputError
from convergenced.merge.documents import MAX_DOCUMENT, Fields, Json, check_schema, parse_fields
from convergenced.merge.knowledge import DocumentPath, Documents, Scope, is_document, is_scope
from convergenced.merge.names import is_machine_id
from convergenced.merge.reading import Reading
from convergenced.model import MachineId, Oid

MAX_NUMBER = 1 << 53
"""Numbers are below this: beyond, not every JSON reader tells one from the next."""

_OID = re.compile(r"[0-9a-f]{40}")
_SHOWN = 100


class Sieve:
    """Takes what is well formed out of what somebody wrote, and counts what is not."""

    def __init__(self) -> None:
        self._dropped = 0
        self._first = ""

    def drop(self, reason: str) -> None:
        """Something is left out."""
        self._dropped += 1
        self._first = self._first or reason

    def report(self, reading: Reading, where: str) -> None:
        """One word on all that was left out."""
        if self._dropped:
            more = f", and {self._dropped - 1} more like that" if self._dropped > 1 else ""
            reading.refuse(where, f"not all of it can be read: {self._first}{more}")

    def fields(self, value: Json) -> Fields:
        """An object's fields, none for anything else."""
        try:
            return fields_of(value)
        except RefusedInputError as error:
            self.drop(error.summary)
            return {}

    def revision(self, fields: Fields) -> int:
        """How often it was changed, 0 where that is not told."""
        try:
            return number_of(fields, "revision", 0)
        except RefusedInputError as error:
            self.drop(error.summary)
            return 0

    def documents(self, scope: Scope, value: Json) -> dict[DocumentPath, Oid]:
        """Blobs by path, of documents that the scope can have."""
        found: dict[DocumentPath, Oid] = {}
        for path, oid in self.fields(value).items():
            if is_document(scope, path) and _is_oid(oid):
                found[DocumentPath(path)] = oid
            else:
                self.drop(f"{path[:_SHOWN]!r} names no document")
        return found

    def series(self, scope: Scope, value: Json) -> dict[DocumentPath, tuple[Oid, ...]]:
        """Lists of blobs by path."""
        found: dict[DocumentPath, tuple[Oid, ...]] = {}
        for path, oids in self.fields(value).items():
            known = [oid for oid in oids if _is_oid(oid)] if isinstance(oids, list) else []
            if is_document(scope, path) and isinstance(oids, list) and len(known) == len(oids) > 0:
                found[DocumentPath(path)] = tuple(known)
            else:
                self.drop(f"{path[:_SHOWN]!r} names no document")
        return found

    def by_scope(self, value: Json) -> dict[Scope, Documents]:
        """Blobs by scope and path."""
        found: dict[Scope, Documents] = {}
        for scope, documents in self.fields(value).items():
            if not is_scope(scope):
                self.drop(f"{scope[:_SHOWN]!r} is no scope")
            elif kept := self.documents(Scope(scope), documents):
                found[Scope(scope)] = kept
        return found

    def by_machine(self, scope: Scope, value: Json) -> dict[MachineId, Documents]:
        """Blobs of one scope by machine and path."""
        found: dict[MachineId, Documents] = {}
        for machine, documents in self.fields(value).items():
            if not is_machine_id(machine):
                self.drop(f"{machine[:_SHOWN]!r} is no machine")
            elif kept := self.documents(scope, documents):
                found[MachineId(machine)] = kept
        return found


def _is_oid(value: Json) -> TypeGuard[Oid]:
    return isinstance(value, str) and _OID.fullmatch(value) is not None


def read_fields(reading: Reading, oid: Oid | None, where: str, largest: int = MAX_DOCUMENT) -> Fields:
    """A file's fields; none where it is not there or cannot be read. Raises `NewerSchemaError`."""
    if oid is None:
        return {}
    data = reading.objects.read_blob(oid)
    try:
        fields = parse_fields(data, where, largest)
        check_schema(fields, where)
    except RefusedInputError as error:
        reading.refuse(where, error.summary, error.hint)
        return {}
    return fields


def fields_of(value: Json) -> Fields:
    """An object's fields. This and what follows raise `RefusedInputError` for anything else."""
    if not isinstance(value, dict):
        raise RefusedInputError("something else stands where an object should")
    return value


def number_of(fields: Fields, key: str, default: int | None = None) -> int:
    """A whole number, not negative."""
    value = fields.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_NUMBER:
        raise RefusedInputError(f"{key!r} is no whole number")
    return value


def dollars_of(fields: Fields) -> float:
    """What it cost."""
    value = fields.get("usd", 0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < MAX_NUMBER:
        raise RefusedInputError("'usd' is no amount")
    return float(value)


def words_of(fields: Fields, key: str) -> str:
    """A text, empty where there is none."""
    value = fields.get(key, "")
    if not isinstance(value, str):
        raise RefusedInputError(f"{key!r} is no text")
    return value


def texts_of(fields: Fields, key: str) -> tuple[str, ...]:
    """A list of texts, empty where there is none."""
    value = fields.get(key, [])
    texts = tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()
    if not isinstance(value, list) or len(texts) != len(value):
        raise RefusedInputError(f"{key!r} is no list of texts")
    return texts


def machine_of(fields: Fields) -> MachineId:
    """Whose doing it was."""
    text = words_of(fields, "machine")
    if not is_machine_id(text):
        raise RefusedInputError(f"{text[:_SHOWN]!r} is no machine")
    return MachineId(text)


def scope_of(fields: Fields) -> Scope:
    """What it was done to."""
    text = words_of(fields, "scope")
    if not is_scope(text):
        raise RefusedInputError(f"{text[:_SHOWN]!r} is no scope")
    return Scope(text)
