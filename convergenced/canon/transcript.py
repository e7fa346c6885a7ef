"""Owns what a transcript's bytes mean: records, whose they are, when they were written.

A record is what stands between two LF bytes, and nothing else separates records (U+2028 and the
like stand raw inside them). A line that cannot be understood is an opaque record: it is kept, and
it says nothing. Nothing here raises on any bytes, and every scan is linear.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from convergenced.canon.folder import encode_folder_name
from convergenced.canon.nesting import is_deeper
from convergenced.model import SessionId

CONVERSATION = frozenset({"user", "assistant", "system"})
"""Types of chain records that are conversation; other records are bookkeeping."""

FORKS = uuid.uuid5(uuid.NAMESPACE_OID, "convergence fork")
"""The namespace of forks' ids."""

RESTORED = uuid.uuid5(uuid.NAMESPACE_OID, "convergence restored")
"""The namespace of the ids of older states that were brought back."""

NO_SESSION = SessionId(str(uuid.UUID(int=0)))

MAX_NESTING = 200
"""Values inside one another in a record that is understood, at most. Far below where Python gives up,
which depends on its version and on who calls: a merge must not."""

ANCESTORS = 64
"""How many ancestors of a cwd are looked at for the project root."""

_CWD = re.compile(rb'"cwd"(?<!\\"cwd")[ \t]*:[ \t]*("(?:[^"\\]|\\.)*")')
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(\.\d{1,9})?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


@dataclass(frozen=True, slots=True)
class RecordFacts:
    """What a record says of itself; None where it does not say, or not readably.

    `timestamp` is Unix seconds. `is_conversation` means: moves the conversation on.
    """

    type: str | None = None
    uuid: str | None = None
    session_id: str | None = None
    timestamp: float | None = None
    cwd: str | None = None
    is_conversation: bool = False


_OPAQUE = RecordFacts()


def split_records(data: bytes) -> tuple[list[bytes], bytes]:
    """The complete records, each without its LF, and the torn tail that is not yet a record."""
    records = data.split(b"\n")
    return records, records.pop()


def parse_record(record: bytes) -> dict[str, Any] | None:
    """A record's fields; None for a line that is none, or nested too deeply. Never raises."""
    if not record.lstrip().startswith(b"{"):
        return None
    try:
        value = json.loads(record.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    if record.count(b"[") + record.count(b"{") > MAX_NESTING and is_deeper(value, MAX_NESTING):
        return None
    return value if isinstance(value, dict) else None


def facts(record: bytes) -> RecordFacts:
    """What the record says of itself. Never raises: an opaque line says nothing."""
    value = parse_record(record)
    if value is None:
        return _OPAQUE
    kind, own_id = _string(value, "type"), _string(value, "uuid")
    return RecordFacts(
        type=kind,
        uuid=own_id,
        session_id=_string(value, "sessionId"),
        timestamp=unix_seconds(_string(value, "timestamp")),
        cwd=_string(value, "cwd"),
        is_conversation=own_id is not None and kind in CONVERSATION,
    )


def is_conversation(record: bytes) -> bool:
    """Whether this is a chain record of type user, assistant or system."""
    return b'"uuid"' in record and facts(record).is_conversation


def with_session_id(record: bytes, old: SessionId, new: SessionId) -> bytes:
    """The record with every `"sessionId":"<old>"` naming `new`; every other byte stays.

    The same words escaped inside a string are text and stay too.
    """
    if old.encode() not in record:
        return record
    key = rb'("sessionId"(?<!\\"sessionId")[ \t]*:[ \t]*")%s(?=")' % re.escape(old.encode())
    return re.sub(key, rb"\g<1>" + new.encode(), record)


def fork_id(session: SessionId, first_own_record: bytes) -> SessionId:
    """The id of the lineage that leaves `session` with this record (canonical bytes, without its LF).

    It is the UUID of version 5 in `FORKS` whose name is the SHA-256, in lower-case hex, of the record
    with no session's name in it. So it depends on the branch point only: whoever meets the same
    divergence again finds the same fork, also where the lineage went by a fork's id already.
    """
    nameless = with_session_id(first_own_record, session, NO_SESSION)
    return SessionId(str(uuid.uuid5(FORKS, hashlib.sha256(nameless).hexdigest())))


def restored_id(session: SessionId, transcript: str) -> SessionId:
    """The id under which an older state of `session` is a session of its own.

    `transcript` names that state by its content, so whoever brings it back gets the same id.
    """
    return SessionId(str(uuid.uuid5(RESTORED, f"{session} {transcript}")))


def last_time(records: bytes) -> float | None:
    """When the last record that tells its time was written, Unix seconds. The torn tail does not count."""
    end = records.rfind(b"\n")
    while end >= 0:
        start = records.rfind(b"\n", 0, end) + 1
        line = records[start:end]
        if b'"timestamp"' in line and (time := facts(line).timestamp) is not None:
            return time
        end = start - 1
    return None


def find_project_root(cwds: Iterable[str], folder_name: str) -> str | None:
    """The first cwd, or nearest ancestor of one, whose folder is `folder_name`; None where there is none."""
    for cwd in cwds:
        for path in _with_ancestors(cwd):
            if encode_folder_name(path) == folder_name:
                return path
    return None


def scan_cwds(data: bytes) -> Iterator[str]:
    """The distinct cwds of the records in `data`, in order of appearance.

    The first and last line may be cut off: of an incomplete last line the raw key counts.
    """
    seen: set[bytes] = set()
    records, tail = split_records(data)
    told: set[str] = set()
    for record in records:
        literals = {found[1] for found in _CWD.finditer(record)}
        if literals <= seen or (cwd := facts(record).cwd) is None:
            continue
        seen |= {literal for literal in literals if _decoded(literal) == cwd}
        if cwd not in told:
            told.add(cwd)
            yield cwd
    for found in _CWD.finditer(tail):
        if found[1] not in seen and (cwd := _decoded(found[1])) is not None and cwd not in told:
            told.add(cwd)
            yield cwd


def _string(value: dict[str, object], key: str) -> str | None:
    found = value.get(key)
    return found if isinstance(found, str) else None


def _decoded(literal: bytes) -> str | None:
    """The value of a JSON string with its quotes."""
    try:
        value = json.loads(literal.decode("utf-8", "surrogateescape"), strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _with_ancestors(path: str) -> Iterator[str]:
    """The path and its ancestors, nearest first, at most `ANCESTORS` of them."""
    separators = "\\/" if _WINDOWS.match(path) else "/"
    for _ in range(ANCESTORS):
        path = path.rstrip(separators)
        yield path
        cut = max(path.rfind(separator) for separator in separators)
        if cut <= 0:
            return
        path = path[:cut]


def unix_seconds(text: str | None) -> float | None:
    """ISO 8601 with a zone as Unix seconds, None for anything else."""
    match = _TIME.fullmatch(text) if text is not None else None
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60):
        return None
    offset = (int(match[9]) * 60 + int(match[10])) * 60 if match[8] else 0
    days = _days(year, month, day)
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + second
    return seconds + float(match[7] or 0) - (offset if match[8] == "+" else -offset)


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 in the Gregorian calendar, counted in years that start in March."""
    shifted = year - (month < 3)
    march_month = (month + 9) % 12
    day_of_year = (153 * march_month + 2) // 5 + day - 1
    return shifted * 365 + shifted // 4 - shifted // 100 + shifted // 400 + day_of_year - 719468
