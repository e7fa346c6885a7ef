"""JSON documents in a branch, read with suspicion and written the same way by everyone.

Owns the step from bytes to named fields and back. Fields that are not known here are kept: a newer
version or context-convergence may have put them there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TypeAlias, cast

from convergenced.canon.nesting import is_deeper
from convergenced.errors import NewerSchemaError, RefusedInputError
from convergenced.model import SCHEMA

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Fields: TypeAlias = Mapping[str, Json]

MAX_DOCUMENT = 4 * 1024 * 1024
"""Bytes in a document, at most."""

MAX_NESTING = 16
"""Values inside one another, at most: deeper ones would grow with the indent they are written with."""


def parse_document(data: bytes, name: str, largest: int = MAX_DOCUMENT) -> Json:
    """The JSON value. Raises `RefusedInputError` for what is none, or is out of all proportion.

    What passes can be written again, as JSON, by every machine: how deep a stack is has no say.
    """
    if len(data) > largest:
        raise RefusedInputError(f"{name} is larger than {largest} bytes", _REMEDY)
    try:
        value = cast("Json", json.loads(data.decode("utf-8"), parse_constant=_no_number, parse_float=_finite))
    except (ValueError, RecursionError) as error:
        raise RefusedInputError(f"{name} is not JSON: {error}", _REMEDY) from error
    if is_deeper(value, MAX_NESTING):
        raise RefusedInputError(f"{name} is nested more than {MAX_NESTING} deep", _REMEDY)
    return value


def parse_fields(data: bytes, name: str, largest: int = MAX_DOCUMENT) -> dict[str, Json]:
    """The fields of a JSON object. Raises `RefusedInputError` for anything else."""
    value = parse_document(data, name, largest)
    if not isinstance(value, dict):
        raise RefusedInputError(f"{name} is no JSON object", _REMEDY)
    return value


def format_document(fields: Fields) -> bytes:
    """Bytes that depend on the fields only, not on their order; lines that git can compare."""
    text = json.dumps(fields, ensure_ascii=True, indent=2, sort_keys=True)
    return text.encode("ascii") + b"\n"


def check_schema(fields: Fields, name: str) -> int:
    """The document's schema number, 1 where it has none. Raises `NewerSchemaError`."""
    schema = fields.get("schema", 1)
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise RefusedInputError(f"{name} has no usable schema number", _REMEDY)
    if schema > SCHEMA:
        raise NewerSchemaError(
            f"{name} was written by a newer version (schema {schema}, this one knows {SCHEMA})",
            "update convergence on this machine; until then this project is left alone",
        )
    return schema


def text_of(fields: Fields, key: str) -> str | None:
    """A field that should be text; None where it is absent or something else."""
    value = fields.get(key)
    return value if isinstance(value, str) else None


def others_of(fields: Fields, known: Iterable[str]) -> dict[str, Json]:
    """The fields that are not known here."""
    names = frozenset(known)
    return {key: value for key, value in fields.items() if key not in names}


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _no_number(digits)


_REMEDY = "it is ignored; a machine that has a good copy will write it again"
