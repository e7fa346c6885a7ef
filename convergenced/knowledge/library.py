"""What the librarian has done by workers: looks at this machine's documents, and syntheses.

Owns the order of the work. A look takes a snapshot, plans, writes what may be written, and takes in at once
what it wrote; a synthesis gathers, has the merging done, and records what came of it. Everything here blocks;
looks are made by one thread at a time, and so are syntheses.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from convergenced.errors import ConvergenceError
from convergenced.knowledge.applying import AppliedReport, apply_changes
from convergenced.knowledge.branch import KNOWLEDGE_REF, commit_knowledge, knowledge_at
from convergenced.knowledge.look import Look, Wish
from convergenced.knowledge.mending import mend_branch, take_up
from convergenced.knowledge.moves import move_scope
from convergenced.knowledge.places import Place, PlaceFinder, sweep_places
from convergenced.knowledge.provider import ProviderError
from convergenced.knowledge.providers.ci import Forge, choose_hub, open_runner
from convergenced.knowledge.snapshot import Snapshots
from convergenced.knowledge.standing import Said, plan_changes
from convergenced.knowledge.synthesis import ScopeResult, gather, record
from convergenced.knowledge.worker import ScopePlan, plan_work, run_worker
from convergenced.machine.backups import prune_backups
from convergenced.machine.decisions import Decisions
from convergenced.machine.settings_schema import Settings
from convergenced.machine.watch_files import FileHints
from convergenced.merge.contributions import contributions, due_scopes, inputs_of
from convergenced.merge.knowledge import Knowledge, Scope
from convergenced.model import LocalPath, ProjectId, Refusal
from convergenced.ports import Files, Peer
from convergenced.store.branch import peer_ref
from convergenced.sync.healing import Outcome
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.screening import salt_of
from convergenced.sync.tips import ref_of

log = logging.getLogger(__name__)

REMOTE = ("github", "gitlab")
"""Providers that synthesize elsewhere, from what the hub has."""
REMOTE_PATIENCE = 3600.0
"""Seconds for which a run in a hub's CI is followed."""
PUSHED_WITHIN = 120.0
"""Seconds within which what this machine has must be at the hub, before a run is started there."""
_LOOK = 0.2


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

    # -- synthesis

    def plan_synthesis(
        self, settings: Settings, only: Sequence[Scope] | None, *, again: bool
    ) -> list[tuple[ScopePlan, list[str], list[str]]]:
        """What a synthesis would do, with documents and machines by name. Changes nothing, asks nobody."""
        store = self.parts.store
        knowledge, _ = knowledge_at(store, ref_of(store, KNOWLEDGE_REF))
        planned = []
        for scope in _chosen(knowledge, only, again=again):
            (plan,) = plan_work([gather(store, knowledge, scope)], settings.knowledge, self.environ)
            ours = contributions(knowledge, scope)
            paths = dict.fromkeys(str(one.path) for one in ours)
            machines = dict.fromkeys(knowledge.machines[one.machine].name or one.machine for one in ours)
            planned.append((plan, list(paths), list(machines)))
        return planned

    def synthesize(
        self,
        settings: Settings,
        only: Sequence[Scope] | None,
        *,
        again: bool,
        stop: threading.Event,
        tell: Callable[[str], None],
    ) -> list[ScopeResult]:
        """Synthesizes what is due, or has a hub do it. Raises `ProviderError` for what concerns all of it."""
        if settings.knowledge.provider in REMOTE:
            return self._synthesize_elsewhere(settings, only, again=again, stop=stop, tell=tell)
        parts, store = self.parts, self.parts.store
        knowledge, _ = knowledge_at(store, ref_of(store, KNOWLEDGE_REF))
        scopes = _chosen(knowledge, only, again=again)
        inputs = {scope: inputs_of(knowledge, scope) for scope in scopes}
        results = run_worker(
            [gather(store, knowledge, scope) for scope in scopes],
            settings.knowledge,
            self.environ,
            allowed=parts.state.allowed(),
            salt=salt_of(parts.machine.id),
            stop=stop,
            tell=tell,
        )
        at = int(parts.clock.now())

        def change(former: Knowledge) -> Knowledge:
            for result in results:
                provider = settings.knowledge.provider
                used = inputs[Scope(result.scope)]
                former = record(store, former, result, used, provider, parts.machine.id, at)
            return former

        done = ", ".join(f"{result.scope} {result.outcome}" for result in results)
        commit_knowledge(store, change, parts.machine.author, at, f"knowledge: {done}")
        return results

    def _synthesize_elsewhere(
        self,
        settings: Settings,
        only: Sequence[Scope] | None,
        *,
        again: bool,
        stop: threading.Event,
        tell: Callable[[str], None],
    ) -> list[ScopeResult]:
        store = self.parts.store
        knowledge, _ = knowledge_at(store, ref_of(store, KNOWLEDGE_REF))
        scopes = _chosen(knowledge, only, again=again)
        if not scopes:
            return []
        runner = open_runner(settings.knowledge, settings.peers, self.environ)
        forge: Forge = "gitlab" if settings.knowledge.provider == "gitlab" else "github"
        hub = choose_hub(forge, settings.knowledge, settings.peers).peer
        tell(f"waits until {hub} has what is new")
        for _ in range(int(PUSHED_WITHIN / _LOOK)):
            if ref_of(store, peer_ref(hub, "knowledge")) == ref_of(store, KNOWLEDGE_REF):
                break
            if stop.wait(_LOOK):
                return []
        else:
            raise ProviderError(f"{hub} does not have what is new here yet", "see: convergencectl status")
        text = runner.run(stop, tell, REMOTE_PATIENCE)
        return [ScopeResult(scope, "merged", text=text) for scope in scopes]


def _chosen(knowledge: Knowledge, only: Sequence[Scope] | None, *, again: bool) -> list[Scope]:
    return [scope for scope in due_scopes(knowledge, again=again) if only is None or scope in only]
