"""How each consolidated document stands to the one on this machine, and what taking it on would change.

Owns the plan; nothing is written here. Promises: a document that was edited here is never in the plan before
a synthesis took the edit in; what may run a command or widen a permission, changes most of a text, or was
removed here needs a person; a change has the same id as long as it is the same change.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from posixpath import basename, dirname
from typing import Literal

from convergenced.errors import ConvergenceError, MissingObjectError
from convergenced.knowledge.branch import KNOWLEDGE_REF, knowledge_at
from convergenced.knowledge.local import LocalDocument, is_same_here, localized, read_local
from convergenced.knowledge.places import Place
from convergenced.knowledge.provider import ASKING_PREFIX
from convergenced.merge.client_settings import (
    ABSENT,
    Absent,
    SettingChange,
    apply_settings,
    merge_settings,
    setting_changes,
)
from convergenced.merge.contributions import Contribution, contributions
from convergenced.merge.documents import Json
from convergenced.merge.imports import find_imports
from convergenced.merge.knowledge import (
    SETTINGS,
    DocumentPath,
    Knowledge,
    MachineKnowledge,
    Scope,
    ScopeRecord,
)
from convergenced.merge.markdown import Version
from convergenced.merge.marks import Mark, changed_share, find_marks
from convergenced.model import ClaudeProcess, LocalPath, Oid
from convergenced.ports import Files, Objects
from convergenced.sync.replica import Parts
from convergenced.sync.scan import MEMORY
from convergenced.sync.tips import ref_of

State = Literal["same", "waits", "held", "person", "edited", "removed", "declined", "elsewhere"]
"""See `control.knowledge_answers.DocumentState`."""

Consent = Literal["no", "large", "reads", "runs", "removed"]

LARGE = 0.5
"""The share of a file's lines beyond which a change waits for a person."""

ID_DIGITS = 12

COMMENT = b"<!--"
"""Where a text has none, it has no marks."""

REMOVED = "it was removed here"
MAX_NAMED = 3
"""Files that a reason names, at most."""
LONGEST_NAME = 100
"""Characters of each."""
EDITED = "edited here since; a synthesis takes that in first"


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """One change that would be made here. `id` names this very change.

    `kind` is `text` where the whole file is replaced: then `wanted` is what it is to hold. Else `setting` is
    the one change of a settings.json. `former` are the bytes that stand there (None: no file). `reason` says
    in words why a person is asked, empty where none is.
    """

    id: str
    place: Place
    kind: Literal["text", "setting"]
    former: bytes | None
    wanted: bytes
    consent: Consent
    reason: str
    setting: SettingChange | None = None
    marks: tuple[Mark, ...] = ()

    @property
    def key(self) -> str:
        """The setting that changes, such as `permissions.allow`; empty for a text."""
        return "" if self.setting is None else ".".join(self.setting.key)

    @property
    def before(self) -> Json:
        """The setting's value; None where it is absent."""
        return None if self.setting is None else _json(self.setting.before)

    @property
    def after(self) -> Json:
        """The setting's value afterwards; None where it is absent."""
        return None if self.setting is None else _json(self.setting.after)

    def diff(self) -> tuple[str, int, int]:
        """A unified diff of the text or of the setting's value, and how many lines it adds and removes."""
        lines = list(self._diff())
        added = sum(1 for line in lines[2:] if line.startswith("+"))
        removed = sum(1 for line in lines[2:] if line.startswith("-"))
        return "".join(lines), added, removed

    def _diff(self) -> Iterator[str]:
        if self.setting is None:
            name, before, after = str(self.place.local), _lines(self.former or b""), _lines(self.wanted)
        else:  # without what stands around it: that may be what is to stay on this machine
            name = self.key
            before, after = _spelled(self.setting.before), _spelled(self.setting.after)
        for line in difflib.unified_diff(before, after, name, name):
            yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


@dataclass(frozen=True, slots=True)
class Standing:
    """How one document stands here. `text` says why, in words; empty for `same`.

    `local` is None where it has no place on this machine. `marks` are those that stand in the consolidated
    document as it looks here.
    """

    scope: Scope
    path: DocumentPath
    local: LocalPath | None
    state: State
    text: str = ""
    marks: tuple[Mark, ...] = ()
    changes: tuple[PlannedChange, ...] = ()
    document: LocalDocument | None = None
    """What stood there when the changes were planned."""
    is_held: bool = False
    """Whether something of it would be written if no Claude Code ran."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All documents, and what would be changed. `held` says why nothing can be written just now."""

    documents: tuple[Standing, ...]
    held: str = ""

    @property
    def changes(self) -> list[PlannedChange]:
        """Every change, in the order of the documents."""
        return [change for one in self.documents for change in one.changes]


@dataclass(frozen=True, slots=True)
class Said:
    """What a person said of changes, by id."""

    accepted: Container[str] = field(default_factory=frozenset)
    declined: Container[str] = field(default_factory=frozenset)

    def allows(self, change: PlannedChange) -> bool:
        """Whether a change may be made."""
        if change.id in self.declined:
            return False
        return change.consent == "no" or change.id in self.accepted


def holder(parts: Parts) -> ClaudeProcess | None:
    """A running Claude Code, wherever on the machine it runs: each reads these files.

    But one that we ask ourselves: it was begun so that it reads none of them.
    """
    return next((process for process in parts.processes.claude() if not _is_asked_by_us(process)), None)


def _is_asked_by_us(process: ClaudeProcess) -> bool:
    return process.cwd is not None and basename(dirname(process.cwd)).startswith(ASKING_PREFIX)


def held_by(process: ClaudeProcess | None) -> str:
    """Why nothing is written while a client runs, in words; empty where none does."""
    if process is None:
        return ""
    return f"Claude Code runs in {process.cwd or 'a folder that cannot be seen'} (pid {process.pid})"


def plan_changes(parts: Parts, files: Files, places: Sequence[Place], said: Said) -> Plan:
    """How all documents stand, and what would be changed. Expects that a snapshot was just taken.

    Raises `NewerSchemaError` where the branch was written by a newer version.
    """
    knowledge, _ = knowledge_at(parts.store, ref_of(parts.store, KNOWLEDGE_REF))
    held = held_by(holder(parts))
    return Plan(tuple(_Planning(parts, files, places, said, knowledge, held).documents()), held)


class _Planning:
    def __init__(
        self,
        parts: Parts,
        files: Files,
        places: Sequence[Place],
        said: Said,
        knowledge: Knowledge,
        held: str,
    ) -> None:
        self._parts = parts
        self._store: Objects = parts.store
        self._files = files
        self._said = said
        self._knowledge = knowledge
        self._places = {(place.scope, place.path): place for place in places}
        self._scopes = {place.scope for place in places}
        self._held = held
        self._me = knowledge.machines.get(parts.machine.id, MachineKnowledge())

    def documents(self) -> Iterator[Standing]:
        consolidated = self._knowledge.consolidated
        for scope in sorted(consolidated.keys() | self._me.documents.keys()):
            mine = {
                one.path: one
                for one in contributions(self._knowledge, scope)
                if one.machine == self._parts.machine.id
            }
            current = consolidated.get(scope, {})
            for path in sorted(current.keys() | self._me.documents.get(scope, {}).keys()):
                yield self._document(scope, path, current.get(path), mine.get(path))

    def _document(
        self, scope: Scope, path: DocumentPath, current: Oid | None, mine: Contribution | None
    ) -> Standing:
        place = self._places.get((scope, path))
        if path.startswith(f"{MEMORY}/"):
            if place is not None:
                return Standing(scope, path, place.local, "same")
            return Standing(scope, path, None, "elsewhere", "notes go with their project's sessions")
        if place is None:
            here = "its own git carries it here, or it is set aside"
            text = here if scope in self._scopes else "its project is not on this machine"
            return Standing(scope, path, None, "elsewhere", text)
        if current is None:
            return Standing(scope, path, place.local, "waits", "not merged yet")
        try:
            return self._here(place, current, mine)
        except MissingObjectError:
            return Standing(scope, path, place.local, "waits", "its content has not arrived yet")
        except ConvergenceError as error:
            return Standing(scope, path, place.local, "waits", str(error))

    def _here(self, place: Place, current: Oid, mine: Contribution | None) -> Standing:
        known = self._me.documents.get(place.scope, {}).get(place.path)
        if known == current and COMMENT not in self._store.read_blob(current):
            return Standing(place.scope, place.path, place.local, "same")
        wanted = localized(self._store, place, current)
        marks = () if place.path == SETTINGS else tuple(find_marks(wanted))
        standing = Standing(place.scope, place.path, place.local, "same", "", marks)
        if known == current:
            return standing
        local = read_local(self._files, place)
        if local is not None and is_same_here(self._store, place, local, current):
            return standing
        if self._is_edited(place, local, current, known, mine):
            return replace(standing, state="edited", text=EDITED)
        is_removed = local is None and (known is not None or self._was_here(place))
        if place.path == SETTINGS:
            changes = tuple(self._settings(place, local, wanted, is_removed))
        else:
            changes = (self._text(place, local, current, wanted, marks, is_removed),)
        return self._planned(standing, changes, local, is_removed)

    def _was_here(self, place: Place) -> bool:
        written = self._knowledge.records.get(place.scope, ScopeRecord()).written
        used = {} if written is None else written.inputs.get(self._parts.machine.id, {})
        return place.path in used or place.path in self._me.applied.get(place.scope, {})

    def _is_edited(
        self,
        place: Place,
        local: LocalDocument | None,
        current: Oid,
        known: Oid | None,
        mine: Contribution | None,
    ) -> bool:
        """Whether what stands here says something that no synthesis took in yet."""
        if local is None:
            return False
        if known is None or not is_same_here(self._store, place, local, known):
            return True
        return mine is not None and not (place.path == SETTINGS and self._is_taken_in(mine, current))

    def _is_taken_in(self, mine: Contribution, current: Oid) -> bool:
        """Whether our settings say nothing that the consolidated ones lack: part of those was applied."""
        consolidated = self._store.read_blob(current)
        try:
            base = None if mine.base is None else self._store.read_blob(mine.base)
        except MissingObjectError:
            base = None
        version = Version(self._parts.machine.name, self._store.read_blob(mine.document), base)
        merged = merge_settings(consolidated, [version])
        return merged.data == consolidated and not merged.contradictions

    def _text(
        self,
        place: Place,
        local: LocalDocument | None,
        current: Oid,
        wanted: bytes,
        marks: tuple[Mark, ...],
        is_removed: bool,
    ) -> PlannedChange:
        named = "\0".join((place.scope, place.path, local.oid if local else "", current))
        identity = hashlib.sha256(named.encode("utf-8", "surrogateescape")).hexdigest()[:ID_DIGITS]
        consent: Consent = "no"
        reason = ""
        if is_removed:
            consent, reason = "removed", REMOVED
        elif local is not None and local.data and changed_share(local.data, wanted) > LARGE:
            consent, reason = "large", "more than half of its lines change"
        former = None if local is None else local.data
        if read := _newly_read(former or b"", wanted):
            consent, reason = "reads", "; ".join(filter(None, (read, reason)))
        return PlannedChange(identity, place, "text", former, wanted, consent, reason, None, marks)

    def _settings(
        self, place: Place, local: LocalDocument | None, wanted: bytes, is_removed: bool
    ) -> Iterator[PlannedChange]:
        former = None if local is None else local.data
        for change in setting_changes(former or b"", wanted):
            consent: Consent = "no"
            reason = ""
            if change.consent:
                consent, reason = "runs", change.why
            elif is_removed:
                consent, reason = "removed", REMOVED
            after = apply_settings(former or b"", [change])
            yield PlannedChange(change.id, place, "setting", former, after, consent, reason, change)

    def _planned(
        self,
        standing: Standing,
        changes: tuple[PlannedChange, ...],
        local: LocalDocument | None,
        is_removed: bool,
    ) -> Standing:
        if not changes:
            return standing
        said = self._said
        asked = [change for change in changes if not said.allows(change) and change.id not in said.declined]
        is_wanted = any(said.allows(change) for change in changes)
        is_held = bool(self._held) and is_wanted
        state: State
        if asked:
            state = "removed" if is_removed else "person"
            text = "; ".join(dict.fromkeys(change.reason for change in asked))
        elif is_held:
            state, text = "held", self._held
        elif is_wanted:
            state, text = "waits", "written soon"
        else:
            state, text = "declined", "you declined what is left"
        return replace(standing, state=state, text=text, changes=changes, document=local, is_held=is_held)


def _newly_read(former: bytes, wanted: bytes) -> str:
    """Which files a text has the client read that it did not before, in words; empty for none."""
    known = set(find_imports(former))
    new = [path for path in find_imports(wanted) if path not in known]
    if not new:
        return ""
    more = f" and {len(new) - MAX_NAMED} more" if len(new) > MAX_NAMED else ""
    named = ", ".join(
        path if len(path) <= LONGEST_NAME else f"{path[:LONGEST_NAME]}…" for path in new[:MAX_NAMED]
    )
    return f"has Claude Code read {named}{more} in every session"


def _json(value: Json | Absent) -> Json:
    return None if value is ABSENT else value


def _spelled(value: Json | Absent) -> list[str]:
    """A setting's value, line by line."""
    if value is ABSENT:
        return []
    return f"{json.dumps(value, indent=2, ensure_ascii=False)}\n".splitlines(keepends=True)


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8", "replace").splitlines(keepends=True)
