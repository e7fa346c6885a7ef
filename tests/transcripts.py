"""Records as the client writes them, for tests that care about lineages only."""

from __future__ import annotations

import json
from collections.abc import Iterable

from convergenced.merge.segments import read_transcript, write_transcript
from convergenced.merge.session import iterate_records
from convergenced.model import Oid, SessionId
from convergenced.ports import Objects

SID = SessionId("2af1d7f8-1206-438d-b660-8b22937b7f38")


def spoken(name: str, minute: int | None = None, sid: SessionId = SID) -> bytes:
    """A record of the conversation, without its LF; `minute` says when."""
    fields: dict[str, object] = {"type": "user", "uuid": name, "sessionId": sid}
    if minute is not None:
        fields["timestamp"] = f"2025-11-20T10:{minute:02d}:00.000Z"
    return json.dumps(fields, separators=(",", ":")).encode()


def noted(name: str, sid: SessionId = SID) -> bytes:
    """A bookkeeping record, without its LF."""
    return json.dumps({"type": "mode", "mode": name, "sessionId": sid}, separators=(",", ":")).encode()


def keep(objects: Objects, records: Iterable[bytes]) -> Oid:
    """A transcript of these records."""
    return write_transcript(objects, (record + b"\n" for record in records))


def records_of(objects: Objects, tree: Oid) -> list[bytes]:
    """The records of a transcript."""
    return list(iterate_records(read_transcript(objects, tree)))
