"""What is done about apparent secrets in what is about to be committed.

Owns the policy (off, warn, block), and for one look at a folder the question whether a file's new bytes may
go. Promises: only bytes that were never committed are searched, and those bytes themselves, so nothing goes
unseen; with `block` nothing of a file is committed while one of its new records holds a secret that nobody
allowed, and everything once it does not; what is withheld is not read again and again; no secret is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from convergenced.canon.secrets import WHAT, Secret, find_secrets
from convergenced.errors import RefusedInputError
from convergenced.machine.state import SecretNote, State
from convergenced.model import LocalPath, MachineId
from convergenced.ports import Files
from convergenced.sync.searcher import Searcher

Policy = Literal["off", "warn", "block"]

MAX_NOTES = 50
"""Apparent secrets of one file that are remembered, at most: `scan` lists all."""


@dataclass(slots=True)
class Screen:
    """The policy in force, for all folders; may be changed at any time."""

    policy: Policy = "off"


def salt_of(machine: MachineId) -> bytes:
    """What goes into the fingerprints of a machine."""
    return machine.encode()


def in_words(one: SecretNote | Secret) -> str:
    """What it is, and how it begins."""
    return f"{WHAT.get(one.rule, one.rule)} {one.shown}"


class Screening:
    """One look at one folder. Everything is a no-op where the policy is `off`."""

    def __init__(
        self,
        screen: Screen,
        state: State,
        files: Files,
        machine: MachineId,
        folder: str,
        local_path: Callable[[str], LocalPath],
        searcher: Searcher | None = None,
    ) -> None:
        self._policy = screen.policy
        self._searcher = searcher if screen.policy == "warn" else None
        """Who searches where nothing waits for what is found."""
        self._state = state
        self._files = files
        self._salt = salt_of(machine)
        self._folder = folder
        self._local_path = local_path
        self._notes: dict[str, dict[str, SecretNote]] = {}
        self._changed: set[str] = set()
        self._allowed: Mapping[str, float] | None = None
        self.found: list[SecretNote] = []
        """What was met now and was not known."""
        if self._policy != "off":
            for one in state.secrets(folder):
                self._notes.setdefault(one.path, {})[one.fingerprint] = one

    def admit(self, path: str, start: int) -> None:
        """Raises `RefusedInputError` where what follows byte `start` is known to hold a secret.

        What does not stand any more where it was met is forgotten.
        """
        known = self._notes.get(path)
        if not known:
            return
        for one in [one for one in known.values() if not self._stands(one)]:
            del known[one.fingerprint]
            self._changed.add(path)
        self._refuse([one for one in known.values() if one.start >= start])

    def look(self, path: str, data: bytes, start: int) -> None:
        """Searches whole records, or a whole note, that stand at byte `start` and were never committed.

        Raises `RefusedInputError` where they may not go.
        """
        if self._searcher is not None:
            self._searcher.ask(data, lambda found: self._meet(path, data, start, found))
        elif self._policy != "off":
            self._refuse(self._meet(path, data, start, find_secrets(data, self._salt)))

    def settle(self) -> None:
        """Returns once all is searched that was looked at."""
        if self._searcher is not None:
            self._searcher.settle()

    def _meet(self, path: str, data: bytes, start: int, secrets: list[Secret]) -> list[SecretNote]:
        found = []
        for secret in secrets:
            begin = data.rfind(b"\n", 0, secret.start) + 1
            end = data.find(b"\n", secret.end - 1) + 1 or len(data)
            note = SecretNote(
                *(path, secret.fingerprint, secret.rule, secret.shown),
                *(start + begin, end - begin, _digest(data[begin:end])),
            )
            found.append(note)
            self._note(note)
        return found

    def save(self, holds: Callable[[str], bool]) -> None:
        """Writes down what was met; what was in files that are gone is forgotten."""
        for path in [path for path in self._notes if not holds(path)]:
            del self._notes[path]
            self._changed.add(path)
        for path in self._changed:
            self._state.note_secrets(self._folder, path, self._notes.get(path, {}).values())

    @property
    def paths(self) -> list[str]:
        """The files in which something was met."""
        return list(self._notes)

    @property
    def is_changed(self) -> bool:
        """Whether there is anything to write down."""
        return bool(self._changed)

    def standing(self) -> list[SecretNote]:
        """All that was met and nobody allowed."""
        every = [one for notes in self._notes.values() for one in notes.values()]
        return [one for one in every if not self._is_allowed(one)]

    def _note(self, note: SecretNote) -> None:
        known = self._notes.setdefault(note.path, {})
        if note.fingerprint in known or len(known) < MAX_NOTES:
            if note.fingerprint not in known and not self._is_allowed(note):
                self.found.append(note)
            known[note.fingerprint] = note
            self._changed.add(note.path)

    def _refuse(self, notes: list[SecretNote]) -> None:
        held = [one for one in notes if not self._is_allowed(one)]
        if self._policy != "block" or not held:
            return
        fingerprints = " ".join(dict.fromkeys(one.fingerprint for one in held[:3]))
        raise RefusedInputError(
            f"stays on this machine: it holds {_counted(held)}",
            f"see: convergencectl scan; if it is fine: convergencectl scan --allow {fingerprints}",
        )

    def _is_allowed(self, one: SecretNote) -> bool:
        if self._allowed is None:
            self._allowed = self._state.allowed()
        return one.fingerprint in self._allowed

    def _stands(self, one: SecretNote) -> bool:
        return _digest(self._files.read(self._local_path(one.path), one.start, one.size)) == one.digest


def describe(notes: Sequence[SecretNote | Secret]) -> str:
    """What a file holds, in words that follow its path."""
    return f"holds {_counted(notes)}"


def _counted(notes: Sequence[SecretNote | Secret]) -> str:
    different = list({one.fingerprint: one for one in notes}.values())
    more = f" and {len(different) - 1} more" if len(different) > 1 else ""
    return f"an apparent secret: {in_words(different[0])}{more}"


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
