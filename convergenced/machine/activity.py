"""Owns the activity log: what was done, one JSON object a line, newest last.

Promise: the log stays below two times `MAX_BYTES`, a torn line costs only itself, and a full disk never
stops the one who reports.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from convergenced.machine.durable import make_private_folders, read_bounded, write_all
from convergenced.model import LocalPath, ProjectId
from convergenced.ports import Clock

MAX_BYTES = 1 << 20
"""Where the log is put aside as the older one and a new one begun."""

MAX_TEXT = 4096
"""Characters of one text or detail; longer ones are cut."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done. `details` are further names and values for programs."""

    kind: str
    text: str
    project: ProjectId | None = None
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Activity:
    """An event with its time, ISO 8601 in UTC, as it stands in the log."""

    time: str
    event: Event


class ActivityLog:
    """Appends events to a file; may be called from any thread."""

    def __init__(self, path: LocalPath, clock: Clock, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._clock = clock
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why the last event could not be written, in words; None where it was."""
        return self._trouble

    def append(self, event: Event) -> Activity:
        """Writes the event with the time it has now; never raises for a disk's sake."""
        activity = Activity(_iso(self._clock.now()), event)
        line = _line(activity)
        with self._lock:
            try:
                self._write(line)
            except OSError as error:
                self._trouble = f"the activity log cannot be written: {error.strerror or error}"
            else:
                self._trouble = None
        return activity

    def _write(self, line: bytes) -> None:
        make_private_folders(os.path.dirname(self._path))
        descriptor = self._open()
        try:
            size = os.fstat(descriptor).st_size
            if size and size + len(line) > self._max_bytes:
                os.replace(self._path, older(self._path))
                os.close(descriptor)
                descriptor = self._open()
                size = 0
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            write_all(descriptor, b"\n" + line if torn else line)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def read_activity(path: LocalPath, n: int) -> list[Activity]:
    """The newest `n` activities, newest last, from the log and the older one beside it.

    What is torn or not one of ours is skipped. Raises `RefusedInputError` where a log may not be read.
    """
    newest: list[Activity] = []
    for log in (path, older(path)):
        if len(newest) >= n:
            break
        raw = read_bounded(log, 2 * MAX_BYTES) or b""
        newest = [*_parse(raw.split(b"\n")), *newest]
    return newest[-n:] if n > 0 else []


def older(path: LocalPath) -> LocalPath:
    """Where the log goes when it is full."""
    return LocalPath(f"{path}.1")


def _parse(lines: Iterable[bytes]) -> list[Activity]:
    found = (_activity(line) for line in lines if line)
    return [activity for activity in found if activity is not None]


def _activity(line: bytes) -> Activity | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    time, kind, text = value.pop("time", None), value.pop("kind", None), value.pop("text", None)
    project = value.pop("project", None)
    if not (isinstance(time, str) and isinstance(kind, str) and isinstance(text, str)):
        return None
    details = tuple((name, detail) for name, detail in value.items() if isinstance(detail, str))
    return Activity(
        time, Event(kind, text, ProjectId(project) if isinstance(project, str) else None, details)
    )


def _line(activity: Activity) -> bytes:
    event = activity.event
    value: dict[str, str | None] = {name: detail[:MAX_TEXT] for name, detail in event.details}
    # Ours last: a detail can never take the place of a field.
    value |= {
        "time": activity.time,
        "kind": event.kind,
        "project": event.project,
        "text": event.text[:MAX_TEXT],
    }
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
