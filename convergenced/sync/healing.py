"""Heals the store where a pass or a round met something in it that cannot be read.

Owns when that is tried and what is told of it. Promises: one attempt at a time for a project, and the next
one after a growing time; what cannot be healed stops that project alone, with nothing of it touched; a ref
that cannot be read is only made anew from refs of the same project that can be read in full.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from convergenced.errors import ConvergenceError
from convergenced.merge.reading import forget_folders
from convergenced.merge.roster import Policy
from convergenced.model import Oid, ProjectId
from convergenced.ports import Peer
from convergenced.store import damage
from convergenced.store.branch import LOCAL, PEERS, PROJECTS, project_ref
from convergenced.store.git import GitStore
from convergenced.store.heal import heal
from convergenced.store.repo import MAIN, write_readme
from convergenced.store.verify import Flaw, verify
from convergenced.sync.board import Attention
from convergenced.sync.desk import Desk
from convergenced.sync.ingest import policy_of, reread
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.tips import advance, tip_of
from convergenced.wording import plural

log = logging.getLogger(__name__)

FIRST_DELAY = 10.0
LAST_DELAY = 6 * 3600.0
"""Seconds until an attempt is repeated that did not heal everything."""
LOCK_SECONDS = 60.0
"""A lock that is older was left behind: refs are moved in milliseconds."""
REMEDY = "convergencectl doctor --deep --fix"


@contextlib.contextmanager
def opened(openers: Iterable[Callable[[], Peer]]) -> Iterator[list[Peer]]:
    """The peers that can be reached, while the block lasts: another one may have what is missing."""
    with contextlib.ExitStack() as stack:
        peers = []
        for open_peer in openers:
            with contextlib.suppress(ConvergenceError):
                peers.append(open_peer())
                stack.callback(peers[-1].close)
        yield peers


@dataclass(slots=True)
class _Case:
    """What is known of one project's damage."""

    busy: bool = False
    attempts: int = 0
    due_at: float = 0.0
    told: str = ""
    confirming: bool = False
    """Healed, but to be looked at once more: a round under way may have built on what was not there."""


@dataclass(slots=True)
class Outcome:
    """What one attempt did: how many flaws there were, what to tell of it, and which are left."""

    flaws: int = 0
    told: list[str] = field(default_factory=list)
    left: list[Flaw] = field(default_factory=list)


class Healing:
    """Takes suspicions and starts attempts. Belongs to the control thread."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._cases: dict[ProjectId, _Case] = {}
        self.on_healed: Callable[[], None] = lambda: None
        """Called when what was damaged can be read again."""

    def suspect(self, project: ProjectId) -> None:
        """Has the project's part of the store looked at, now or as soon as it is time again."""
        self._cases.setdefault(project, _Case())

    def suspect_for(self, project: ProjectId, error: Exception) -> None:
        """The same where the error tells of a store that cannot be read."""
        if damage.may_be_damage(error):
            self.suspect(project)

    def is_healing(self, project: ProjectId) -> bool:
        """Whether an attempt is under way or about to be made for the first time."""
        case = self._cases.get(project)
        return case is not None and (case.busy or case.confirming or case.attempts == 0)

    def next_due(self) -> float | None:
        """When there is something to start; None where all is well."""
        return min((case.due_at for case in self._cases.values() if self._may_start(case)), default=None)

    def start_due(self) -> None:
        """Starts the attempts whose time has come."""
        now = self._desk.clock.monotonic()
        for project, case in self._cases.items():
            if self._may_start(case) and now >= case.due_at:
                self._start(project, case)

    def _may_start(self, case: _Case) -> bool:
        waits = case.confirming and any(peer.busy for peer in self._desk.board.peers.values())
        return not case.busy and not waits

    def _start(self, project: ProjectId, case: _Case) -> None:
        desk = self._desk
        store = desk.parts.store
        case.busy = True
        case.attempts += 1
        replicas = [state.replica for state in desk.board.of_project(project)]
        peers, open_peer = desk.settings.peers, desk.surroundings.open_peer

        def work() -> Outcome:
            if not isinstance(store, GitStore):
                return Outcome()  # nothing that could be damaged
            with opened(partial(open_peer, settings) for settings in peers) as there:
                return heal_project(desk.parts, store, project, replicas, there)

        desk.submit(
            desk.lane_of(project),
            work,
            lambda outcome: self._tried(project, case, outcome),
            lambda error: self._failed(project, case, error),
        )

    def _tried(self, project: ProjectId, case: _Case, outcome: Outcome) -> None:
        desk = self._desk
        for text in outcome.told:
            desk.note("heal", project, text)
        case.busy = False
        now = desk.clock.monotonic()
        was_healed, case.confirming = case.confirming, bool(outcome.flaws and not outcome.left)
        if outcome.told:
            for state in desk.board.of_project(project):
                # What files were noted as may be what was lost: they are read again in full.
                desk.parts.state.forget_files(state.replica.folder)
                state.asked, state.error = now, None
            for peer in desk.board.peers.values():
                peer.due_at = now
            self.on_healed()
        if outcome.left:
            first, more = outcome.left[0].text, len(outcome.left) - 1
            text = f"the store is damaged: {first}" + (f", and {more} more" if more else "")
            self._put_off(project, case, text)
        elif outcome.flaws:
            case.due_at = now
        else:
            desk.restore(_part(project))
            del self._cases[project]
            if was_healed:
                self._visit_again(project)

    def _visit_again(self, project: ProjectId) -> None:
        """What a round met beside the healing does not hold any more; another one tells how it is now."""
        for peer in self._desk.board.peers.values():
            if peer.report is not None and project in peer.report.damaged:
                peer.report.damaged.discard(project)
                peer.report.refusals.pop(project, None)
                peer.due_at = self._desk.clock.monotonic()

    def _failed(self, project: ProjectId, case: _Case, error: Exception) -> None:
        if not isinstance(error, (ConvergenceError, OSError)):
            log.error("healing %s failed", project, exc_info=error)
        self._put_off(project, case, f"the store is damaged and cannot be healed: {error}")

    def _put_off(self, project: ProjectId, case: _Case, text: str) -> None:
        desk = self._desk
        case.busy = case.confirming = False
        case.due_at = desk.clock.monotonic() + min(
            LAST_DELAY, FIRST_DELAY * 2.0 ** min(case.attempts - 1, 20)
        )
        if case.told != text:
            case.told = text
            desk.note("error", project, text)
        desk.board.degraded[_part(project)] = Attention("damaged", project, text, REMEDY)


def _part(project: ProjectId) -> str:
    return f"store of {project}"


@dataclass(frozen=True, slots=True)
class Ways:
    """What can be done for some refs of the store, besides asking peers.

    `refs` names them, as they are now. `reread` brings back what local files hold. `rebuild` makes anew what
    cannot be read for good, as the flaws say that are left, and tells what it did; nothing is an empty text.
    """

    refs: Callable[[], list[str]]
    reread: Callable[[], None]
    rebuild: Callable[[Sequence[Flaw]], str]


def heal_project(
    parts: Parts, store: GitStore, project: ProjectId, replicas: Sequence[Replica], peers: Sequence[Peer]
) -> Outcome:
    """Verifies what belongs to a project and heals it: from its own packs, from peers, from local files.

    Raises `StoreError` where the store cannot be written.
    """

    def read_again() -> None:
        for replica in replicas:
            with contextlib.suppress(ConvergenceError, OSError):  # another folder may have it
                reread(parts, replica, _policy(parts, replica))
                store.settle()

    ways = Ways(partial(_refs, store, project), read_again, partial(_rebuild, store, project))
    return heal_refs(store, parts.clock.now(), ways, peers)


def heal_refs(store: GitStore, now: float, ways: Ways, peers: Sequence[Peer]) -> Outcome:
    """Verifies what some refs reach and heals it: from the store's packs, from peers, from local files.

    Raises `StoreError` where the store cannot be written.
    """
    outcome = Outcome()
    flaws = [one for one in verify(store, ways.refs()) if not _is_held(one, store, now)]
    outcome.flaws = len(flaws)
    if not flaws:
        return outcome
    forget_folders(store)
    write_readme(store)
    outcome.left = _heal(store, flaws, peers, outcome)
    if outcome.left:
        ways.reread()
        still = list(verify(store, ways.refs()))
        brought = {flaw.oid for flaw in outcome.left} - {flaw.oid for flaw in still}
        if brought:
            outcome.told.append(f"healed {plural(len(brought), 'object')} from local files")
        outcome.left = _heal(store, still, peers, outcome)
    if made := ways.rebuild(outcome.left):
        outcome.told.append(made)
        outcome.left = list(verify(store, ways.refs()))
    return outcome


def _heal(store: GitStore, flaws: Sequence[Flaw], peers: Sequence[Peer], outcome: Outcome) -> list[Flaw]:
    healed = heal(store, flaws, peers)
    if str(healed):
        outcome.told.append(str(healed))
    return healed.left


def _refs(store: GitStore, project: ProjectId) -> list[str]:
    """All refs that belong to the project, or to all; also files that are named like them and hold none."""
    names = {*store.refs("refs/"), *damage.ref_files(store.path)}
    return sorted({MAIN, project_ref(project), *(name for name in names if _is_of(name, project))})


def _is_of(ref: str, project: ProjectId) -> bool:
    if ref.startswith(PEERS):
        return ref.partition("/project/")[2] == project
    return ref == PROJECTS + project or ref.startswith(f"{LOCAL}{project}/")


def _policy(parts: Parts, replica: Replica) -> Policy:
    with contextlib.suppress(ConvergenceError):
        return policy_of(parts, replica)
    return Policy()


def _is_held(flaw: Flaw, store: GitStore, now: float) -> bool:
    """Whether it is a lock that somebody may just be holding."""
    if flaw.kind != "lock":
        return False
    try:
        return now - os.stat(os.path.join(store.path, flaw.where)).st_mtime < LOCK_SECONDS
    except FileNotFoundError:
        return True


def _rebuild(store: GitStore, project: ProjectId, left: Sequence[Flaw]) -> str:
    """Makes the project's branch anew where its tip cannot be read."""
    ref = project_ref(project)
    tip = tip_of(store, project)
    if tip is not None and tip not in {
        flaw.oid for flaw in left if flaw.where == ref or flaw.kind == "missing"
    }:
        return ""
    whole = [one for name, one in _others(store, project) if one != tip and not any(verify(store, [name]))]
    if not whole:
        return ""
    if tip is not None:
        damage.keep_ref(store.path, ref, tip)
        store.swap(ref, tip, None)
    for commit in whole:
        advance(store, project, commit)
    return "made the branch anew from what else the store has of it"


def _others(store: GitStore, project: ProjectId) -> Iterator[tuple[str, Oid]]:
    for name, commit in store.refs("refs/").items():
        if _is_of(name, project) and name != project_ref(project):
            yield name, commit
