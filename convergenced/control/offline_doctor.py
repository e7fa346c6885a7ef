"""`doctor` without a daemon: reads config, store and state as files.

Promises: without `fix` nothing is written, the state is read as a copy; with it the daemon's lock is
held, so that nobody else writes, and no local file of Claude Code's is touched.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import partial

from convergenced.control.answers import Diagnosis
from convergenced.control.assembly import find_state_damage, readable_parts, real_parts, set_state_aside
from convergenced.control.doctor import TURNS, Asked, Doctor, Mended, diagnosis, mend, state_finding
from convergenced.control.supervisor import single_instance
from convergenced.errors import ConvergenceError
from convergenced.machine import health
from convergenced.machine.checkouts import GitCheckouts
from convergenced.machine.locations import ClaudeLocations, Locations
from convergenced.machine.settings import Settings, expand_home, load_settings
from convergenced.model import Finding, LocalPath, Refusal
from convergenced.ports import Peer
from convergenced.store.git import GitStore
from convergenced.store.peers import open_peer
from convergenced.sync.ingest import ingest, policy_of
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.survey import Scope, survey


def examine_offline(
    locations: Locations,
    environ: Mapping[str, str],
    home: str,
    path: LocalPath | None,
    *,
    deep: bool,
    fix: bool,
) -> Diagnosis:
    """All findings, and what was repaired. Raises `ConvergenceError` where a daemon starts meanwhile."""
    try:
        settings = load_settings(locations.config_file)
    except ConvergenceError:
        settings = Settings()  # what is wrong with it is one of the findings
    one = _Offline(locations, environ, home, settings, path, deep)
    if fix and os.path.isdir(locations.store):
        with single_instance(locations.lock_file):
            return one.repair()
    found = one.look_only()
    if fix and any(finding.repair is not None for finding in found):
        with single_instance(locations.lock_file):
            mended = mend(found)
        return diagnosis(one.look_only(), mended)
    return diagnosis(found, Mended())


class _Offline:
    def __init__(
        self,
        locations: Locations,
        environ: Mapping[str, str],
        home: str,
        settings: Settings,
        path: LocalPath | None,
        deep: bool,
    ) -> None:
        self._locations = locations
        self._environ = environ
        self._home = home
        self._settings = settings
        self._path = path
        self._deep = deep

    def repair(self) -> Diagnosis:
        """Looks and repairs; whoever calls holds the daemon's lock."""
        mended = Mended()
        before = [*self._state_repair(), *self._leftovers()]
        mended.done += mend(before).done
        with contextlib.ExitStack() as stack:
            try:
                parts = stack.enter_context(
                    real_parts(self._locations, self._settings, self._environ, self._home)
                )
            except ConvergenceError as error:
                return diagnosis(self._cannot_start(error), mended)
            if isinstance(parts.store, GitStore):
                for refusal in parts.store.recovered:
                    where = refusal.where.removeprefix("store: ")
                    finding = Finding("store", "problem", refusal.reason)
                    mended.done.append((finding, f"set aside {where}: {refusal.reason}"))
            findings = self.look(parts, state_finding(None, in_use=False))
            for _ in range(TURNS):
                if all(one.repair is None for one in findings):
                    break
                turn = mend(findings)
                mended.done += turn.done
                mended.failed = turn.failed
                self._read_again(parts)
                findings = self.look(parts, state_finding(None, in_use=False))
                if not turn.done:
                    break
            return diagnosis(findings, mended)

    def look_only(self) -> list[Finding]:
        """All findings, on parts that cannot change anything."""
        with contextlib.ExitStack() as stack:
            try:
                parts = stack.enter_context(
                    readable_parts(self._locations, self._settings, self._environ, self._home)
                )
            except ConvergenceError as error:
                return self._cannot_start(error)
            reason = find_state_damage(health.state_file(self._locations))
            return self.look(parts, state_finding(reason, in_use=False))

    def _cannot_start(self, error: ConvergenceError) -> list[Finding]:
        """What can be said where a daemon could not even start."""
        return [
            Finding("start", "problem", f"convergenced cannot start: {error.summary}", fix=error.hint),
            *health.check_config(self._locations),
            *health.check_permissions(self._locations),
        ]

    def look(self, parts: Parts, state: Finding) -> list[Finding]:
        """All findings."""
        parts.screen.policy = self._settings.secrets.policy
        known = [
            Finding(
                "daemon", "warning", "convergenced does not run; nothing is synced", fix="convergencectl up"
            ),
            state,
        ]
        replicas: tuple[Replica, ...] = ()
        refusals: tuple[Refusal, ...] = ()
        try:
            replicas, refusals = self._survey(parts)
        except ConvergenceError as error:
            text = f"which projects take part cannot be told: {error.summary}"
            known.append(Finding("projects", "problem", text, fix=error.hint))
        asked = Asked(
            replicas=replicas,
            refusals=refusals,
            settings=self._settings,
            peers={peer.name: partial(self._open, peer.name, peer.url) for peer in self._settings.peers},
            path=self._path,
            deep=self._deep,
            in_use=False,
            known=tuple(known),
        )
        return Doctor(parts, self._locations, self._environ).look(asked)

    def _survey(self, parts: Parts) -> tuple[tuple[Replica, ...], tuple[Refusal, ...]]:
        projects = self._settings.projects
        roots = tuple(expand_home(root, parts.machine.home) for root in projects.roots)
        scope = Scope(projects.track == "all", projects.exclude, roots, projects.auto_join)
        found = survey(parts, GitCheckouts(parts.machine.home), scope)
        if found.halted is not None:
            raise ConvergenceError(found.halted, "bring it back; nothing is deleted meanwhile")
        return tuple(found.replicas), tuple(found.refusals)

    def _open(self, name: str, url: str) -> Peer:
        transport = self._settings.exchange.transport
        return open_peer(url, self._locations.store, name=name, transport=transport, environ=self._environ)

    def _state_repair(self) -> Iterator[Finding]:
        file = health.state_file(self._locations)
        reason = find_state_damage(file)
        if reason is not None:
            yield Finding("state", "problem", reason, repair=partial(_rebuild_state, file))

    def _leftovers(self) -> Iterator[Finding]:
        claude = ClaudeLocations.from_environment(self._environ, self._home)
        return health.check_leftovers([claude.projects], in_use=False)

    def _read_again(self, parts: Parts) -> None:
        """Commits what the local files hold and the store does not; writes no local file."""
        for replica in self._survey(parts)[0]:
            ingest(parts, replica, policy_of(parts, replica))


def _rebuild_state(file: LocalPath) -> str:
    aside = set_state_aside(file)
    return f"set the damaged state database aside as {aside}; it is built again from files and store"
