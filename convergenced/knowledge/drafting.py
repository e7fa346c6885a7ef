"""First CLAUDE.md files for this machine, out of memory and sessions: composed, kept, and written as shown.

Promises: what is written is word for word what was shown, over exactly what stood there then, under the same
rules as what is applied; a model is not asked twice for the same within an hour. Works also while knowledge
is not shared: then all stays on this machine.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from convergenced.errors import ConvergenceError, HeldError, UsageError
from convergenced.knowledge.applying import AppliedReport, apply_changes
from convergenced.knowledge.bootstrap import MOST_TITLES_ASKED, Source
from convergenced.knowledge.composing import Draft, DraftTask
from convergenced.knowledge.library import Library
from convergenced.knowledge.local import LocalDocument, read_local
from convergenced.knowledge.places import CLAUDE_MD, NESTED_CLAUDE_MD, Place
from convergenced.knowledge.standing import ID_DIGITS, Plan, PlannedChange, Said, Standing
from convergenced.knowledge.worker import run_composer
from convergenced.machine.settings_schema import KnowledgeSettings, Settings
from convergenced.merge.knowledge import GLOBAL, Scope
from convergenced.model import LocalPath, ProjectId
from convergenced.ports import Files
from convergenced.sync.catalog import read_catalog, title_of
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.scan import MEMORY
from convergenced.sync.tips import tip_of
from convergenced.wording import plural

log = logging.getLogger(__name__)

KEPT_S = 3600.0
MAX_KEPT = 200
"""How long what was composed is kept to be written, in seconds, and how much of it at most."""

MAX_NOTES_BYTES = 1024 * 1024
"""Bytes of notes that are read for one document, at most."""

EVERYWHERE = "All projects"
"""What the document that belongs to no project is about."""

EDITED = "it was edited since it was shown; run the same again"


@dataclass(frozen=True, slots=True)
class FirstDocument:
    """A file that would be written or was. Without an `id` there is no text, and `trouble` says why.

    `diff` is how it differs from what stands there, empty where nothing does. `sources` says in words what
    it was made from.
    """

    id: str
    scope: Scope
    local: LocalPath
    text: bytes = b""
    exists: bool = False
    diff: str = ""
    sources: tuple[str, ...] = ()
    usd: float = 0.0
    trouble: str = ""
    written: bool = False


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a document is to be, what stands there, and what it is to be made from."""

    place: Place
    local: LocalDocument | None
    task: DraftTask

    @property
    def sources(self) -> tuple[str, ...]:
        notes, titles = len(self.task.source.notes), len(self.task.source.sessions)
        counts = ((notes, "note"), (titles, "session"))
        return tuple(plural(count, what) for count, what in counts if count)

    def change(self, text: bytes) -> PlannedChange:
        """The change that writes a text there."""
        place, former = self.place, None if self.local is None else self.local.data
        named = [place.scope.encode(), place.path.encode(), former or b"", text]
        digests = b"".join(hashlib.sha256(one).digest() for one in (*named, b"%d" % (former is None)))
        identity = hashlib.sha256(digests).hexdigest()[:ID_DIGITS]
        return PlannedChange(identity, place, "text", former, text, "no", "")


@dataclass(frozen=True, slots=True)
class _Kept:
    target: _Target
    basis: str
    """Names all that it was made from, and by whom."""
    change: PlannedChange
    usd: float
    at: float

    @property
    def document(self) -> FirstDocument:
        change, place = self.change, self.target.place
        exists = change.former is not None
        return FirstDocument(
            id=change.id,
            scope=place.scope,
            local=place.local,
            text=change.wanted,
            exists=exists,
            diff=change.diff()[0] if exists else "",
            sources=self.target.sources,
            usd=self.usd,
        )


class Drafts:
    """What was composed within the last hour. One thread at a time; everything here blocks."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._parts: Parts = library.parts
        self._kept: dict[str, _Kept] = {}

    def compose(
        self,
        settings: Settings,
        replicas: Sequence[Replica],
        only: Collection[Scope] | None,
        *,
        stop: threading.Event,
        tell: Callable[[str], None],
    ) -> list[FirstDocument]:
        """What would be written, for `only` these scopes; nothing is. Raises `ProviderError`."""
        self._forget()
        found = _Gathering(self._library, settings, replicas, only)
        targets = list(found.targets())
        known = {kept.basis: kept for kept in self._kept.values()}
        bases = {target.place.scope: _basis(target, settings.knowledge) for target in targets}
        tasks = [target.task for target in targets if bases[target.place.scope] not in known]
        made = run_composer(tasks, settings.knowledge, self._library.environ, stop=stop, tell=tell)
        drafts = {draft.scope: draft for draft in made}
        documents = found.troubles
        for target in targets:
            basis = bases[target.place.scope]
            kept = known.get(basis) or self._keep(target, basis, drafts[target.place.scope])
            if isinstance(kept, FirstDocument):
                documents.append(kept)
            elif kept.change.wanted != kept.change.former:
                documents.append(kept.document)
        return sorted(documents, key=lambda one: (one.scope != GLOBAL, one.scope))

    def write(
        self, settings: Settings, replicas: Sequence[Replica], ids: Collection[str]
    ) -> list[FirstDocument]:
        """Writes what `compose` answered under these ids.

        Raises `UsageError` where one is not kept, `HeldError` where nothing can be written as Claude Code
        runs on this machine.
        """
        self._forget()
        if unknown := [one for one in ids if one not in self._kept]:
            raise UsageError(
                f"there is no draft {unknown[0]} any more", "see anew: convergencectl knowledge bootstrap"
            )
        places, _, files = self._library.find_places(settings, replicas, fresh=True)
        here = {place.local for place in places}
        chosen = [self._kept[one] for one in dict.fromkeys(ids)]
        plan = Plan(tuple(_standing(kept) for kept in chosen if kept.target.place.local in here))
        report = apply_changes(self._parts, files, plan, Said())
        self._library.prune(report.shelves, settings.backups.keep)
        if report.held and not report.written:
            hint = "end it and run the same again: what was composed is kept for an hour"
            raise HeldError(report.held, hint, report.pid)
        for one in report.applied:
            del self._kept[one]
        return [_written(kept.document, kept.target.place, report) for kept in chosen]

    def _keep(self, target: _Target, basis: str, draft: Draft) -> _Kept | FirstDocument:
        place = target.place
        if draft.document is None:
            sources = target.sources
            return FirstDocument(
                "", place.scope, place.local, sources=sources, usd=draft.usd, trouble=draft.trouble
            )
        now = self._parts.clock.monotonic()
        kept = _Kept(target, basis, target.change(draft.document), draft.usd, now)
        others = ((key, one) for key, one in self._kept.items() if key != kept.change.id)
        self._kept = {kept.change.id: kept, **dict(islice(others, MAX_KEPT - 1))}
        return kept

    def _forget(self) -> None:
        now = self._parts.clock.monotonic()
        self._kept = {key: kept for key, kept in self._kept.items() if now - kept.at < KEPT_S}


def _standing(kept: _Kept) -> Standing:
    place, local = kept.target.place, kept.target.local
    return Standing(place.scope, place.path, place.local, "waits", changes=(kept.change,), document=local)


def _written(document: FirstDocument, place: Place, report: AppliedReport) -> FirstDocument:
    """The document with what became of it."""
    if document.id in report.applied:
        return replace(document, written=True)
    refused = [f"{one.reason} ({one.remedy})" for one in report.refusals if one.where == place.name]
    if report.held and place.local not in report.changed:
        return replace(document, trouble=report.held)
    return replace(document, trouble=refused[0] if refused else EDITED)


def _basis(target: _Target, settings: KnowledgeSettings) -> str:
    """Names what a document would be made from, by whom, and what stands there."""
    task, source = target.task, target.task.source
    made = (settings.provider, settings.model, target.place.local, task.title, source.existing)
    return hashlib.sha256(repr((made, sorted(source.notes.items()), source.sessions)).encode()).hexdigest()


class _Gathering:
    """What there is to say on this machine, scope by scope. `troubles` are files that cannot be had."""

    def __init__(
        self,
        library: Library,
        settings: Settings,
        replicas: Sequence[Replica],
        only: Collection[Scope] | None,
    ) -> None:
        self._parts: Parts = library.parts
        self._only = only
        self._places, refusals, self._files = library.find_places(settings, replicas, fresh=True)
        self._titles: dict[Scope, list[tuple[float, str]]] = {}
        self.troubles = [
            FirstDocument("", scope, LocalPath(one.where), trouble=f"{one.reason} ({one.remedy})")
            for one in refusals
            for scope in (Scope(one.where.removesuffix(f"/{CLAUDE_MD}")),)
            if one.where == f"{scope}/{CLAUDE_MD}" and self._is_meant(scope)
        ]

    def targets(self) -> Iterator[_Target]:
        projects = [
            scope for scope in dict.fromkeys(place.scope for place in self._places) if scope != GLOBAL
        ]
        for scope in (GLOBAL, *projects):
            place = self._home(scope) if self._is_meant(scope) else None
            if place is None:
                continue
            try:
                target = self._target(place, projects if scope == GLOBAL else [scope])
            except ConvergenceError as error:
                self.troubles.append(FirstDocument("", scope, place.local, trouble=str(error)))
                continue
            if target.task.source.notes or target.task.source.sessions:
                yield target

    def _is_meant(self, scope: Scope) -> bool:
        return self._only is None or scope in self._only

    def _home(self, scope: Scope) -> Place | None:
        """Where a scope's document is to be: where one is, else at the usual place."""
        here = {place.path: place for place in self._places if place.scope == scope}
        usual, nested = here.get(CLAUDE_MD), here.get(NESTED_CLAUDE_MD)
        if nested is not None and self._is_there(nested) and not (usual and self._is_there(usual)):
            return nested
        return usual

    def _is_there(self, place: Place) -> bool:
        return self._files.stat(place.local) is not None

    def _target(self, place: Place, scopes: Sequence[Scope]) -> _Target:
        local = read_local(self._files, place)
        notes: dict[str, bytes] = {}
        titles: list[tuple[float, str]] = []
        for scope in scopes:
            before = "" if place.scope == scope else f"{_name(scope)}/"
            found = _notes(self._files, self._places, scope, MAX_NOTES_BYTES // len(scopes))
            notes |= {before + name: data for name, data in found.items()}
            titles += self._titles_of(scope)
        titles.sort(reverse=True)
        latest = [text for _, text in titles[:MOST_TITLES_ASKED]]
        title = EVERYWHERE if place.scope == GLOBAL else _name(place.scope)
        existing = None if local is None else local.data
        return _Target(place, local, DraftTask(place.scope, title, Source(notes, latest, existing)))

    def _titles_of(self, scope: Scope) -> list[tuple[float, str]]:
        """When each session of a project ended, and what it is called here."""
        if scope not in self._titles:
            self._titles[scope] = list(self._find_titles(scope))
        return self._titles[scope]

    def _find_titles(self, scope: Scope) -> Iterator[tuple[float, str]]:
        rewriter = next(place.rewriter for place in self._places if place.scope == scope)
        project = ProjectId(_name(scope))
        try:
            tip = tip_of(self._parts.store, project)
            notes = {} if tip is None else read_catalog(self._parts, project, tip)
        except ConvergenceError as error:
            log.warning("%s: its sessions cannot be read: %s", project, error)
            return
        for note in notes.values():
            if text := title_of(note, rewriter).strip():
                yield note.ended or 0.0, text


def _notes(files: Files, places: Iterable[Place], scope: Scope, room: int) -> Mapping[str, bytes]:
    """A project's notes by name, as far as there is room for them."""
    found: dict[str, bytes] = {}
    for place in places:
        if place.scope != scope or not place.is_memory:
            continue
        try:
            data = files.read(place.local, 0, room)
        except ConvergenceError:
            continue  # it went away meanwhile, or is no file
        room -= len(data)
        if data.strip():
            found[place.path.removeprefix(f"{MEMORY}/")] = data
    return found


def _name(scope: Scope) -> str:
    return scope.rpartition("/")[2]
