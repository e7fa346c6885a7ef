"""Runs of a synthesis: here, or in a hub's CI.

A run gathers what is due, has the merging done, and records what came of it; where something else went in
meanwhile, that scope is merged anew, for what is left of the money. Everything here blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from convergenced.knowledge.branch import KNOWLEDGE_REF, commit_knowledge, knowledge_at
from convergenced.knowledge.provider import ProviderError
from convergenced.knowledge.providers.hubs import Forge, choose_hub
from convergenced.knowledge.synthesis import ScopeResult, gather, record
from convergenced.knowledge.worker import ScopePlan, plan_work, run_worker
from convergenced.machine.settings_schema import KnowledgeSettings, Settings
from convergenced.merge.contributions import contributions, due_scopes, inputs_of
from convergenced.merge.knowledge import Knowledge, Scope
from convergenced.store.branch import peer_ref
from convergenced.sync.replica import Parts
from convergenced.sync.screening import salt_of
from convergenced.sync.tips import ref_of

REMOTE = ("github", "gitlab")
"""Providers that synthesize elsewhere, from what the hub has."""
REMOTE_PATIENCE = 3600.0
"""Seconds for which a run in a hub's CI is followed."""
PUSHED_WITHIN = 120.0
"""Seconds within which what this machine has must be at the hub, before a run is started there."""
MAX_RUNS = 3
"""How often is merged anew in a row what others changed while it was merged."""
_MOVED = "it changed again and again meanwhile; the next run takes it up"
_LOOK = 0.2


class Runs:
    """Makes them, one at a time. `environ` is what providers run in."""

    def __init__(self, parts: Parts, environ: Mapping[str, str]) -> None:
        self._parts = parts
        self._environ = environ

    def plan(
        self, settings: Settings, only: Sequence[Scope] | None, *, again: bool
    ) -> list[tuple[ScopePlan, list[str], list[str]]]:
        """What a synthesis would do, with documents and machines by name. Changes nothing, asks nobody."""
        store, planned = self._parts.store, []
        knowledge, scopes = self._due(only, again=again)
        for scope in scopes:
            (plan,) = plan_work([gather(store, knowledge, scope)], settings.knowledge, self._environ)
            ours = contributions(knowledge, scope)
            paths = dict.fromkeys(str(one.path) for one in ours)
            machines = dict.fromkeys(knowledge.machines[one.machine].name or one.machine for one in ours)
            planned.append((plan, list(paths), list(machines)))
        return planned

    def run(
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
            return self._run_elsewhere(settings, only, again=again, stop=stop, tell=tell)
        made: dict[Scope, ScopeResult] = {}
        moved: list[Scope] = []
        for _ in range(MAX_RUNS):
            spent = sum(result.usd for result in made.values())
            left = replace(settings.knowledge, max_usd=max(0.0, settings.knowledge.max_usd - spent))
            results, moved = self._run_once(left, only, again=again, stop=stop, tell=tell)
            for result in results:
                scope = Scope(result.scope)
                before = made[scope].usd if scope in made else 0.0
                made[scope] = replace(result, usd=before + result.usd)
            only = moved
            if not moved or stop.is_set():
                break
        for scope in moved:
            made[scope] = ScopeResult(scope, "failed", usd=made[scope].usd, text=_MOVED)
        return list(made.values())

    def _run_once(
        self,
        settings: KnowledgeSettings,
        only: Sequence[Scope] | None,
        *,
        again: bool,
        stop: threading.Event,
        tell: Callable[[str], None],
    ) -> tuple[list[ScopeResult], list[Scope]]:
        """One run, and the scopes whose results do not count, for something else went in meanwhile."""
        parts, store = self._parts, self._parts.store
        knowledge, scopes = self._due(only, again=again)
        inputs = {scope: inputs_of(knowledge, scope) for scope in scopes}
        results = run_worker(
            [gather(store, knowledge, scope) for scope in scopes],
            settings,
            self._environ,
            allowed=parts.state.allowed(),
            salt=salt_of(parts.machine.id),
            stop=stop,
            tell=tell,
        )
        at = int(parts.clock.now())
        told = {Scope(result.scope): result for result in results if result.outcome != "failed"}
        taken: list[Scope] = []

        def change(former: Knowledge) -> Knowledge:
            taken.clear()
            for scope, result in told.items():
                after = record(store, former, result, inputs[scope], settings.provider, parts.machine.id, at)
                if after is not former:
                    taken.append(scope)
                former = after
            return former

        done = ", ".join(f"{scope} {result.outcome}" for scope, result in told.items())
        commit_knowledge(store, change, parts.machine.author, at, f"knowledge: {done}")
        still, _ = self._due(scopes, again=again)
        return results, [scope for scope in told if scope not in taken and contributions(still, scope)]

    def _due(self, only: Sequence[Scope] | None, *, again: bool) -> tuple[Knowledge, list[Scope]]:
        """What all machines know, and the scopes of it that are to be synthesized."""
        store = self._parts.store
        knowledge, _ = knowledge_at(store, ref_of(store, KNOWLEDGE_REF))
        due = due_scopes(knowledge, again=again)
        return knowledge, [scope for scope in due if only is None or scope in only]

    def _run_elsewhere(
        self,
        settings: Settings,
        only: Sequence[Scope] | None,
        *,
        again: bool,
        stop: threading.Event,
        tell: Callable[[str], None],
    ) -> list[ScopeResult]:
        store = self._parts.store
        _, scopes = self._due(only, again=again)
        if not scopes:
            return []
        from convergenced.knowledge.providers.ci import open_runner  # noqa: PLC0415 (loads what speaks with the web)

        runner = open_runner(settings.knowledge, settings.peers, self._environ)
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
