"""What a person said of changes that wait for a person, in a small file of the state folder.

Promises: an id is accepted or declined, never both, the last word counts; a file that is damaged says
nothing, so that the person is asked again, and nothing is taken for agreed that was not.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence

from convergenced.errors import RefusedInputError
from convergenced.machine.durable import read_bounded, write_durably
from convergenced.model import LocalPath

MAX_DECISIONS = 1000
"""Ids of each kind; the oldest go first."""

MAX_ID = 128
"""Characters of an id."""

_ID = re.compile(rf"[A-Za-z0-9_.:-]{{1,{MAX_ID}}}")
_MAX_FILE = 2 * MAX_DECISIONS * (MAX_ID + 16)
_ACCEPTED, _DECLINED = "accepted", "declined"


class Decisions:
    """The ids of changes that a person agreed to or refused. May be used from any thread."""

    def __init__(self, path: LocalPath) -> None:
        self._path = path
        self._lock = threading.Lock()

    def accepted(self) -> frozenset[str]:
        """The ids that were agreed to."""
        return frozenset(self._read()[_ACCEPTED])

    def declined(self) -> frozenset[str]:
        """The ids that were refused."""
        return frozenset(self._read()[_DECLINED])

    def accept(self, ids: Iterable[str]) -> None:
        """Notes a yes to each. Raises `ConvergenceError` where it cannot be written."""
        self._decide(ids, _ACCEPTED, _DECLINED)

    def decline(self, ids: Iterable[str]) -> None:
        """Notes a no to each. Raises `ConvergenceError` where it cannot be written."""
        self._decide(ids, _DECLINED, _ACCEPTED)

    def forget(self, keep: Iterable[str]) -> None:
        """Drops what was said of all changes but those in `keep`. Raises `ConvergenceError`."""
        kept = frozenset(keep)
        with self._lock:
            known = self._read()
            self._write(known, {kind: [one for one in ids if one in kept] for kind, ids in known.items()})

    def _decide(self, ids: Iterable[str], said: str, unsaid: str) -> None:
        new = _ids(list(ids))
        said_now = frozenset(new)
        with self._lock:
            known = self._read()
            others = {kind: [one for one in former if one not in said_now] for kind, former in known.items()}
            self._write(known, {said: (others[said] + new)[-MAX_DECISIONS:], unsaid: others[unsaid]})

    def _read(self) -> dict[str, list[str]]:
        try:
            told = json.loads(read_bounded(self._path, _MAX_FILE) or b"{}")
        except (RefusedInputError, ValueError, RecursionError):
            told = {}
        fields = told if isinstance(told, dict) else {}
        read = {kind: _ids(fields.get(kind)) for kind in (_ACCEPTED, _DECLINED)}
        both = set(read[_ACCEPTED]) & set(read[_DECLINED])
        return {kind: [one for one in ids if one not in both] for kind, ids in read.items()}

    def _write(self, known: Mapping[str, Sequence[str]], new: Mapping[str, Sequence[str]]) -> None:
        if dict(known) != dict(new):
            write_durably(self._path, json.dumps(new, indent=1, sort_keys=True).encode("ascii") + b"\n")


def _ids(value: object) -> list[str]:
    listed = value if isinstance(value, list) else []
    known = dict.fromkeys(one for one in listed if isinstance(one, str) and _ID.fullmatch(one))
    return list(known)[-MAX_DECISIONS:]
