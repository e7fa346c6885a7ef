"""What the librarian has done by workers: looks at this machine's documents, and what goes with them.

Owns the order of the work. A look takes a snapshot, plans, writes what may be written, and takes in at once
what it wrote. Everything here blocks, and is done by one thread at a time; syntheses (`runs`) by another.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from convergenced.errors import ConvergenceError
from convergenced.knowledge.applying import AppliedReport, apply_changes
from convergenced.knowledge.branch import KNOWLEDGE_REF, knowledge_at
from convergenced.knowledge.look import Look, Wish
from convergenced.knowledge.mending import mend_branch, take_up
from convergenced.knowledge.moves import move_scope
from convergenced.knowledge.places import Place, PlaceFinder, sweep_places
from convergenced.knowledge.runs import Runs
from convergenced.knowledge.snapshot import Snapshots
from convergenced.knowledge.standing import Said, plan_changes
from convergenced.machine.backups import prune_backups
from convergenced.machine.decisions import Decisions
from convergenced.machine.settings_schema import Settings
from convergenced.machine.watch_files import FileHints
from convergenced.merge.contributions import due_scopes
from convergenced.model import LocalPath, ProjectId, Refusal
from convergenced.ports import Files, Peer
from convergenced.sync.healing import Outcome
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.tips import ref_of

log = logging.getLogger(__name__)


def open_decisions(state_dir: LocalPath) -> Decisions:
    """What a person said of changes on this machine."""
    return Decisions(LocalPath(os.path.join(state_dir, "knowledge.json")))


class Library:
    """The work of one machine. `environ` is what providers run in."""

    def __init__(
        self, parts: Parts, config_dir: LocalPath, decisions: Decisions, environ: Mapping[str, str]
    ) -> None:
        self.parts = parts
        self._finder = PlaceFinder(parts.machine, config_dir)
        self.decisions = decisions
        self.environ = environ
        self.runs = Runs(parts, environ)
        self._snapshots = Snapshots(parts)
        self._hints = FileHints()
        self._watched: frozenset[LocalPath] = frozenset()
        self._wanted: frozenset[LocalPath] = frozenset()
        self._is_swept = False

    # -- looking

    def look(self, settings: Settings, replicas: Sequence[Replica], wish: Wish) -> Look:
        """Shares what changed here, and writes what may be written. Raises `ConvergenceError`."""
        parts = self.parts
        self.decisions.accept(wish.accept)
        self.decisions.decline(wish.decline)
        found, refusals, files = self.find_places(settings, replicas)
        self._wanted = frozenset(place.local for place in found if not place.is_memory)
        take_up(parts.store)
        if not self._is_swept:
            sweep_places(found, parts.clock.now())
            self._is_swept = True
        taken = self._snapshots.take(files, found)
        documents = list(taken.documents)
        accepted, declined = self.decisions.accepted(), self.decisions.declined()
        said = Said(accepted, declined)
        plan = plan_changes(parts, files, found, said)
        applied = AppliedReport()
        if not plan.held and any(said.allows(change) for change in plan.changes):
            found, refusals, files = self.find_places(settings, replicas, fresh=True)
            applied = apply_changes(parts, files, plan_changes(parts, files, found, said), said)
            self.prune(applied.shelves, settings.backups.keep)
            taken = self._snapshots.take(files, found)
            plan = plan_changes(parts, files, found, said)
        # A yes counts as long as the change waits: it may come back after somebody took it back.
        self.decisions.forget(keep=declined | accepted & {change.id for change in plan.changes})
        tip = ref_of(parts.store, KNOWLEDGE_REF)
        knowledge, left_out = knowledge_at(parts.store, tip)
        return Look(
            tip=tip,
            knowledge=knowledge,
            plan=plan,
            places=tuple(found),
            due=tuple(due_scopes(knowledge)),
            documents=tuple(documents),
            refusals=(*refusals, *taken.refusals, *applied.refusals, *left_out),
            secrets=taken.secrets,
            left_out=taken.left_out,
            written=tuple(applied.written),
            backups=tuple(applied.backups),
            applied=frozenset(applied.applied),
            declined=self.decisions.declined(),
            retry=taken.retry or bool(applied.changed),
        )

    def survey(self, settings: Settings, replicas: Sequence[Replica]) -> Look:
        """The same without changing anything: for one who only reads."""
        parts = self.parts
        found, refusals, files = self.find_places(settings, replicas)
        said = Said(self.decisions.accepted(), self.decisions.declined())
        tip = ref_of(parts.store, KNOWLEDGE_REF)
        knowledge, left_out = knowledge_at(parts.store, tip)
        return Look(
            tip=tip,
            knowledge=knowledge,
            plan=plan_changes(parts, files, found, said),
            places=tuple(found),
            due=tuple(due_scopes(knowledge)),
            refusals=(*refusals, *left_out),
            declined=self.decisions.declined(),
        )

    def mend(
        self, settings: Settings, replicas: Sequence[Replica], peers: Mapping[str, Callable[[], Peer]]
    ) -> Outcome:
        """Mends what the store has of it (see `mend_branch`). Raises `StoreError`."""

        def share_again() -> None:
            found, _, files = self.find_places(settings, replicas, fresh=True)
            self._snapshots.share_again(files, found)

        return mend_branch(self.parts, share_again, peers)

    def find_places(
        self, settings: Settings, replicas: Sequence[Replica], *, fresh: bool = False
    ) -> tuple[tuple[Place, ...], tuple[Refusal, ...], Files]:
        """Places, what had to be set aside, and what reads and writes the files (see `PlaceFinder.find`)."""
        tracked, now = settings.knowledge.tracked_files, self.parts.clock.monotonic()
        found = self._finder.find(replicas, tracked_files=tracked, now=now, fresh=fresh)
        return found.places, found.refusals, found.files

    def prune(self, shelves: Iterable[str], keep: int) -> None:
        """Keeps the newest few backups on each of these shelves (`AppliedReport.shelves`)."""
        for shelf in shelves:
            try:
                prune_backups(LocalPath(os.path.join(self.parts.machine.backups_dir, shelf)), keep)
            except (ConvergenceError, OSError) as error:
                log.warning("old backups cannot be put away: %s", error)

    def move_scope(self, project: ProjectId, name: ProjectId) -> None:
        """Has what was shared of a project of ours be of its new id (see `moves.move_scope`)."""
        move_scope(self.parts, project, name)

    # -- hints

    def watch(self, changed: Callable[[LocalPath], None]) -> None:
        """Has `changed` called, from another thread, when one of the documents may have changed."""
        if self._wanted == self._watched:
            return
        self.unwatch()
        try:
            self._hints.start(self._wanted, changed)
        except ConvergenceError as error:
            log.warning("%s; changes are found by looking", error)
        self._watched = self._wanted

    @property
    def is_blind(self) -> bool:
        """Whether hints may be missing."""
        return not self._watched or self._hints.trouble() is not None

    def deafness(self) -> str | None:
        """Why hints are missing; None where they are not, or nobody watches yet."""
        return self._hints.trouble()

    def unwatch(self) -> None:
        """Ends that."""
        self._hints.stop()
        self._watched = frozenset()
