"""`doctor`: all checks put together, and the repair of what can be repaired.

Promises: looking changes nothing; a repair loses nothing, never touches a local file of Claude Code's,
and says what it did; what was repaired is looked at once more before it is called so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from convergenced.canon.folder import encode_folder_name
from convergenced.control.answers import Diagnosis
from convergenced.control.privacy import check_privacy
from convergenced.errors import ConvergenceError, PeerUnreachableError
from convergenced.knowledge import KNOWLEDGE_REF
from convergenced.machine import health
from convergenced.machine.locations import Locations
from convergenced.machine.settings import Settings
from convergenced.model import Finding, LocalPath, Oid, ProjectId, Refusal
from convergenced.ports import Peer, Store
from convergenced.store.branch import PROJECTS
from convergenced.store.git import GitStore
from convergenced.store.heal import heal, heal_peer
from convergenced.store.transport_path import PathPeer
from convergenced.store.verify import Flaw, verify
from convergenced.sync.audit import audit, audit_peer
from convergenced.sync.forecast import forecast
from convergenced.sync.healing import heal_project, opened
from convergenced.sync.identity import name_for
from convergenced.sync.ingest import policy_of
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.scan import scan_folder

SCHEMA = 1
TURNS = 3
"""How often is repaired and looked again: what one repair brings back may need another."""
FUTURE_S = 600.0
"""A commit that is this far in the future was made by a clock that is wrong."""
MAX_NAMED = 20

_FIX = "convergencectl doctor --deep --fix"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be looked at, as it stood when it was asked.

    `refusals` are about the projects folder as a whole, `known` what the asker found already. `peers` are
    ways to each peer. With `in_use` a daemon is at work on store and folders; `set_aside` is what it refused.
    """

    replicas: tuple[Replica, ...]
    refusals: tuple[Refusal, ...]
    settings: Settings
    peers: Mapping[str, Callable[[], Peer]]
    path: LocalPath | None
    deep: bool
    in_use: bool
    known: tuple[Finding, ...] = ()
    set_aside: tuple[Finding, ...] = ()


@dataclass(slots=True)
class Mended:
    """What repairs did: findings with the words of what was done, or why it could not be."""

    done: list[tuple[Finding, str]] = field(default_factory=list)
    failed: list[Finding] = field(default_factory=list)


class Doctor:
    """Looks at one machine. Its methods block and belong into a worker."""

    def __init__(
        self,
        parts: Parts,
        locations: Locations,
        environ: Mapping[str, str],
        hints: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`hints` says why changes of shared documents are not heard of, None where they are."""
        self._parts = parts
        self._locations = locations
        self._environ = environ
        self._hints = hints

    def look(self, asked: Asked) -> list[Finding]:
        """All findings."""
        chosen = _choose(asked)
        found = [
            *asked.known,
            *self._about_machine(asked),
            *self._about_projects(asked, chosen),
            *self._about_peers(asked),
            *self._about_knowledge(asked),
            *(self._deep(asked, chosen) if asked.deep else ()),
        ]
        told = {(one.project, one.text) for one in found}
        projects = {replica.project for replica in chosen}
        return found + [
            one for one in asked.set_aside if one.project in projects and (one.project, one.text) not in told
        ]

    # -- this machine

    def _about_machine(self, asked: Asked) -> Iterator[Finding]:
        where, projects_dir = self._locations, self._parts.machine.projects_dir
        yield from health.check_config(where)
        yield from health.check_permissions(where)
        yield from health.check_socket(where)
        yield from health.check_space(where, projects_dir, self._largest(asked.replicas))
        yield from health.check_programs(self._environ, asked.settings)
        yield from health.check_watches(projects_dir)
        ours = (os.path.dirname(where.config_file), where.state_dir, os.path.dirname(where.store))
        folders = [projects_dir, *(LocalPath(path) for path in ours)]
        yield from health.check_leftovers(folders, in_use=asked.in_use)
        yield from health.check_backups(where, asked.settings.backups.keep)
        if asked.in_use:
            yield state_finding(self._parts.state.find_damage(), in_use=True)
        yield self._clock()

    def _largest(self, replicas: Iterable[Replica]) -> int:
        sizes = [0]
        for replica in replicas:
            with contextlib.suppress(ConvergenceError, OSError):
                scan = scan_folder(self._parts.files, replica.context_dir(self._parts.machine))
                if scan is not None:
                    sizes += [snapshot.size for snapshot in scan.transcripts.values()]
        return max(sizes)

    def _clock(self) -> Finding:
        store, now = self._parts.store, self._parts.clock.now()
        newest, who = 0.0, ""
        with contextlib.suppress(ConvergenceError):  # a damaged store is told of elsewhere
            for oid in set(store.refs("refs/").values()):
                with contextlib.suppress(ConvergenceError):
                    commit = store.read_commit(oid)
                    if commit.time > newest:
                        newest, who = commit.time, commit.author.name
        if newest > now + FUTURE_S:
            text = f"a commit by {who} is {int((newest - now) // 60)} minutes in the future"
            return Finding("clock", "warning", text, fix="check the clock of that machine, and of this one")
        return Finding("clock", "ok", "no commit is in the future")

    # -- projects

    def _about_projects(self, asked: Asked, chosen: Sequence[Replica]) -> Iterator[Finding]:
        known = {replica.folder for replica in asked.replicas}
        if asked.path is None:
            for refusal in asked.refusals:
                yield Finding("projects", "warning", f"{refusal.where} {refusal.reason}", fix=refusal.remedy)
            count = len({replica.project for replica in asked.replicas})
            yield Finding(
                "projects", "ok", f"{count} {'project takes' if count == 1 else 'projects take'} part"
            )
        for replica in chosen:
            if replica.folder not in known:
                text = f"{replica.root} takes no part yet; this is what would be synced"
                fix = f"convergencectl init {replica.root}"
                yield Finding("projects", "ok", text, replica.project, fix)
            yield from forecast(self._parts, replica, self._rewrites_home(replica), self._others(replica))

    def _rewrites_home(self, replica: Replica) -> bool:
        try:
            return policy_of(self._parts, replica).rewrite_home
        except ConvergenceError:
            return True  # what is wrong with the branch is told of elsewhere

    def _others(self, replica: Replica) -> set[str]:
        listing = self._parts.files.list(self._parts.machine.projects_dir) or []
        return {entry.name for entry in listing} - {replica.folder}

    # -- peers

    def _about_peers(self, asked: Asked) -> Iterator[Finding]:
        projects = sorted({replica.project for replica in asked.replicas})
        for name, open_peer in asked.peers.items():
            try:
                listing = _list(open_peer)
            except PeerUnreachableError as error:
                yield Finding("peers", "warning", error.summary, fix=error.hint)
            except ConvergenceError as error:
                yield Finding("peers", "problem", error.summary, fix=error.hint)
            else:
                yield Finding("peers", "ok", f"peer {name} answers and has {len(listing)} branches")
                if asked.deep:
                    with contextlib.suppress(ConvergenceError):  # a damaged store is told of elsewhere
                        beside = [KNOWLEDGE_REF] if asked.settings.knowledge.enabled else []
                        for one in audit_peer(self._parts.store, name, listing, projects, beside):
                            again = asked.in_use and one.state != "ok"
                            yield replace(one, repair=partial(_exchange_again, name)) if again else one
                        yield from _about_objects_at(name, open_peer, self._parts.store)
        if asked.peers:
            home = self._parts.machine.home
            yield from check_privacy(asked.settings.peers, self._environ, home)
        else:
            fix = "convergencectl peer add hub URL"
            yield Finding("peers", "ok", "there is no peer yet", fix=fix)

    def _about_knowledge(self, asked: Asked) -> Iterable[Finding]:
        if not asked.settings.knowledge.enabled:
            return ()
        from convergenced.control.knowledge_doctor import check_knowledge  # noqa: PLC0415 (see `knowledge_door`)

        return check_knowledge(self._parts, asked.replicas, asked.settings, self._environ, self._hints)

    def _share_again(self, asked: Asked) -> None:
        from convergenced.control.knowledge_doctor import share_again  # noqa: PLC0415 (see `knowledge_door`)

        share_again(self._parts, asked.replicas, asked.settings, self._environ)

    # -- the store in depth

    def _deep(self, asked: Asked, chosen: Sequence[Replica]) -> Iterator[Finding]:
        if not os.path.isdir(self._locations.store):
            yield Finding("store", "ok", "there is no store yet", fix="convergencectl up")
            return
        store = self._parts.store
        assert isinstance(store, GitStore)  # whoever has a store on disk has this one
        try:
            flaws = list(verify(store))
        except ConvergenceError as error:
            yield Finding("store", "problem", error.summary, fix=error.hint)
            return
        documents = partial(self._share_again, asked)
        yield from _about_store(self._parts, store, flaws, asked, documents)
        if flaws:
            text = "nothing more is checked until the store is whole"
            yield Finding("history", "warning", text, fix=_FIX)
            return
        only = None if asked.path is None else {replica.project for replica in chosen}
        yield from audit(self._parts, asked.replicas, only, most=None)


def mend(findings: Iterable[Finding]) -> Mended:
    """Carries out the repairs, each once."""
    mended = Mended()
    seen: list[Callable[[], str]] = []
    for finding in findings:
        if finding.repair is None or finding.repair in seen:
            continue
        seen.append(finding.repair)
        try:
            words = finding.repair()
        except (ConvergenceError, OSError) as error:
            text = f"could not be repaired: {error}"
            mended.failed.append(Finding(finding.check, "problem", text, finding.project, finding.fix))
            continue
        if words:
            mended.done.append((finding, words))
    return mended


def diagnosis(findings: Sequence[Finding], mended: Mended) -> Diagnosis:
    """The answer of the command contract: how things are now, and what was done on the way."""
    wrong = {(one.check, one.project) for one in findings if one.state != "ok"}
    failed = [one for one in mended.failed if (one.check, one.project) in wrong]
    return {
        "schema": SCHEMA,
        "findings": [
            {
                "check": one.check,
                "state": one.state,
                "project": one.project,
                "text": one.text,
                "fix": one.fix,
                "fixable": one.repair is not None,
            }
            for one in (*findings, *failed)
        ],
        "fixed": [{"check": one.check, "project": one.project, "text": text} for one, text in mended.done],
    }


def state_finding(reason: str | None, *, in_use: bool) -> Finding:
    """What there is to say of the state database; `reason` is what is wrong with it."""
    if reason is None:
        return Finding("state", "ok", "the state database is whole")
    fix = "convergencectl down && convergencectl doctor --fix" if in_use else "convergencectl doctor --fix"
    text = f"the state database is damaged ({reason}); it is only a cache"
    return Finding("state", "problem", text, fix=fix)


def _choose(asked: Asked) -> Sequence[Replica]:
    """The folders that are meant: all, those of the project at the path, or the one it would have."""
    if asked.path is None:
        return asked.replicas
    roots = [one for one in asked.replicas if f"{asked.path}/".startswith(f"{one.root.rstrip('/')}/")]
    if roots:
        nearest = max(roots, key=lambda one: len(one.root))
        return [one for one in asked.replicas if one.project == nearest.project]
    name = name_for(None, asked.path)
    return [Replica(name, encode_folder_name(asked.path), asked.path, primary=True)]


def _list(open_peer: Callable[[], Peer]) -> dict[str, Oid]:
    peer = open_peer()
    try:
        return peer.list()
    finally:
        peer.close()


def _exchange_again(name: str) -> str:
    """After every repair the daemon exchanges with all peers."""
    return f"exchanged with {name} again"


def _about_objects_at(name: str, open_peer: Callable[[], Peer], store: Store) -> Iterator[Finding]:
    """What is damaged at a peer on this machine. One that is elsewhere says so itself when it is asked."""
    flaws = _flaws_at(open_peer)
    repair = partial(_heal_peer, name, open_peer, store)
    for flaw in flaws[:MAX_NAMED]:
        yield Finding("peers", "problem", f"{name}: {flaw.text}", fix=_FIX, repair=repair)
    if (more := len(flaws) - MAX_NAMED) > 0:
        yield Finding("peers", "problem", f"{name}: {more} more flaws", fix=_FIX, repair=repair)


def _flaws_at(open_peer: Callable[[], Peer]) -> list[Flaw]:
    with contextlib.closing(open_peer()) as peer:
        if not isinstance(peer, PathPeer):
            return []
        there = GitStore(peer.repository)
        refs = [*there.refs(PROJECTS), *there.refs(KNOWLEDGE_REF)]
        return [flaw for flaw in verify(there, refs) if flaw.kind not in ("ref", "lock")]


def _heal_peer(name: str, open_peer: Callable[[], Peer], store: Store) -> str:
    flaws = _flaws_at(open_peer)
    with contextlib.closing(open_peer()) as peer:
        if not isinstance(peer, PathPeer) or not isinstance(store, GitStore):
            return ""
        words = str(heal_peer(peer, store, flaws))
    return f"{name}: {words}" if words else ""


def _about_store(
    parts: Parts, store: GitStore, flaws: Sequence[Flaw], asked: Asked, documents: Callable[[], None]
) -> Iterator[Finding]:
    repair = partial(_heal, parts, store, flaws, asked, documents)
    for flaw in flaws[:MAX_NAMED]:
        yield Finding("store", "problem", flaw.text, fix=_FIX, repair=repair)
    if (more := len(flaws) - MAX_NAMED) > 0:
        yield Finding("store", "problem", f"{more} more flaws", fix=_FIX, repair=repair)
    if not flaws:
        yield Finding(
            "store", "ok", "all objects are there and are what their names say; refs and packs are whole"
        )


def _heal(
    parts: Parts, store: GitStore, flaws: Sequence[Flaw], asked: Asked, documents: Callable[[], None]
) -> str:
    """Heals from what is readable and from peers, then, project by project, from local files.

    `documents` gives the store what is shared beside the projects.
    """
    with opened(asked.peers.values()) as there:
        healed = heal(store, flaws, there)
        told = [str(healed)] if str(healed) else []
        projects = {ProjectId(ref.removeprefix(PROJECTS)) for ref in store.refs(PROJECTS)}
        projects |= {replica.project for replica in asked.replicas}
        for project in sorted(projects) if healed.left else ():
            replicas = [replica for replica in asked.replicas if replica.project == project]
            outcome = heal_project(parts, store, project, replicas, there)
            told += outcome.told
            for replica in replicas if outcome.flaws else ():
                parts.state.forget_files(replica.folder)  # what they name may be what was lost
    if healed.left:
        from convergenced.knowledge.mending import mend_branch  # noqa: PLC0415 (see `control.knowledge_door`)

        told += mend_branch(parts, documents, asked.peers, give_up=True).told
    return "; ".join(told)
