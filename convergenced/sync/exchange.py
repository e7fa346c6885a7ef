"""Fetch and push with one peer: one listing a round, only branches that changed.

A round works on tracking refs and on the projects' branches (by compare-and-swap), never on local
files. Promises: what a peer rewound or lost it gets back; a branch of other code under our
project's name is never mixed in; one project's trouble does not stop the others'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from convergenced import steps
from convergenced.errors import (
    BranchesRefusedError,
    ConvergenceError,
    NewerSchemaError,
    PeerError,
    PeerUnreachableError,
    RefusedInputError,
    StoreError,
)
from convergenced.merge.names import valid_project_id
from convergenced.model import Oid, ProjectId, Refusal
from convergenced.ports import Peer, Store
from convergenced.store.branch import (
    PROJECTS,
    MergeOutcome,
    project_at,
    project_ref,
    tracking_ref,
)
from convergenced.store.damage import may_be_damage
from convergenced.store.peers import is_behind
from convergenced.sync.identity import Identity, identity_of_project, may_be_named, stem_of
from convergenced.sync.side_branches import SideBranch, SideReport, SideRound
from convergenced.sync.tips import advance, ref_of, tip_of

MAX_TURNS = 4
"""How often a round fetches again because somebody else pushed in between."""

MAX_WAIT = 16
"""After so many rounds at the latest a branch that could not be had is asked for again."""

README_REF = "refs/heads/main"

_NO_WORD = "the peer did not say what became of it"


@dataclass(frozen=True, slots=True)
class Unfit:
    """A tip that could not be had: damaged objects may be repaired there without the branch moving."""

    tip: Oid
    error: PeerError
    wait: int = 1
    """Rounds that were to pass before it is asked for again: twice as many after each failure."""
    left: int = 1
    """How many of them are still to pass."""


@dataclass(slots=True)
class RoundReport:
    """What one round with a peer did."""

    fetched: list[ProjectId] = field(default_factory=list)
    pushed: list[ProjectId] = field(default_factory=list)
    merges: dict[ProjectId, MergeOutcome] = field(default_factory=dict)
    strangers: list[ProjectId] = field(default_factory=list)
    """Ours, where the peer holds other code under the same id: to be renamed here."""
    refusals: dict[ProjectId, list[Refusal]] = field(default_factory=dict)
    rejected: dict[ProjectId, str] = field(default_factory=dict)
    """What the peer said to a push that it did not take, or was not offered as others were always faster."""
    offered: dict[ProjectId, Oid] = field(default_factory=dict)
    """All projects the peer has, with their tips."""
    absorbed: set[ProjectId] = field(default_factory=set)
    """Of those, the ones that went on under another id: all they hold is in a project of ours."""
    moved: set[ProjectId] = field(default_factory=set)
    """Ours, where the branch or what is known of the peer's is another now."""
    unfit: dict[ProjectId, Unfit] = field(default_factory=dict)
    """Tips that could not be had, so that they are not fetched again each round."""

    damaged: set[ProjectId] = field(default_factory=set)
    """Ours, where something in our store could not be read."""
    sides: Mapping[str, SideReport] = field(default_factory=dict)
    """What became of the branches beside the projects', by full name."""

    def refuse(self, project: ProjectId, error: ConvergenceError) -> None:
        """Sets one project aside for this round."""
        if may_be_damage(error):
            self.damaged.add(project)
        self.refusals.setdefault(project, []).append(Refusal(f"project {project}", error.summary, error.hint))


def exchange(
    store: Store,
    peer: Peer,
    name: str,
    projects: Mapping[ProjectId, Identity],
    trusted: Iterable[ProjectId],
    unfit: Mapping[ProjectId, Unfit] | None = None,
    sides: Sequence[SideBranch] = (),
) -> RoundReport:
    """One round with the peer `name` about our `projects`, and the branches `sides` beside them.

    `trusted` are projects that the user joined by hand: their id is taken at its word. `unfit` is what
    the last round reported as such. Raises `PeerError` where the peer as a whole failed.
    """
    side_round = SideRound(store, name, sides)
    return _Round(store, peer, name, projects, frozenset(trusted), unfit or {}, side_round).run()


def look_at(store: Store, peer: Peer, name: str, project: ProjectId) -> Identity:
    """Fetches a project we do not take part in, to learn which code it is about.

    Raises `PeerError`, or `NewerSchemaError` for a newer format.
    """
    ref = tracking_ref(name, project)
    peer.fetch({project_ref(project): ref})
    tree, _ = project_at(store, ref_of(store, ref))
    return identity_of_project(store, tree)


class _Round:
    def __init__(
        self,
        store: Store,
        peer: Peer,
        name: str,
        projects: Mapping[ProjectId, Identity],
        trusted: frozenset[ProjectId],
        unfit: Mapping[ProjectId, Unfit],
        sides: SideRound,
    ) -> None:
        self._store = store
        self._peer = peer
        self._name = name
        self._projects = projects
        self._trusted = trusted
        self._sides = sides
        self._report = RoundReport(unfit=dict(unfit), sides=sides.reports)
        self._tips: dict[ProjectId, Oid | None] = {}
        """Where our branches are, looked up once a turn: what is committed meanwhile gets the next round."""
        self._tracks: dict[ProjectId, Oid | None] = {}
        """Where the peer's are, as we know it."""

    def run(self) -> RoundReport:
        for _ in range(MAX_TURNS):
            self._report.rejected.clear()
            self._sides.again()
            listing = self._peer.list()
            steps.reached("exchange.listed")
            self._tips = {project: tip_of(self._store, project) for project in self._projects}
            self._tracks = {project: self._read_tracked(project) for project in self._projects}
            self._report.offered = _projects_in(listing)
            self._forget_vanished()
            beside = self._sides.wanted(listing)
            self._fetch(beside)
            steps.reached("exchange.fetched")
            self._merge()
            if self._report.strangers:
                self._sides.hold()  # they may speak of projects by a name that means other code there
            self._sides.merge(beside)
            steps.reached("exchange.merged")
            behind = self._push(README_REF not in listing)
            steps.reached("exchange.noted")
            if not behind:
                break
        self._report.absorbed = {one for one in self._report.offered if self._is_absorbed(one)}
        return self._report

    def _is_absorbed(self, project: ProjectId) -> bool:
        if project in self._projects:
            return False
        commit = self._report.offered[project]
        fitting = (one for one in self._projects if may_be_named(project, (one, stem_of(one))))
        try:
            tips = [tip for one in fitting if (tip := tip_of(self._store, one)) is not None]
            return any(self._store.merge_base(tip, commit) == commit for tip in tips)
        except StoreError:
            return False  # a commit that never came here

    def _skips(self, project: ProjectId) -> bool:
        return project in self._report.strangers or project in self._report.refusals

    def _read_tracked(self, project: ProjectId) -> Oid | None:
        return ref_of(self._store, tracking_ref(self._name, project))

    def _track(self, project: ProjectId, tip: Oid | None) -> None:
        """Notes where the peer's branch is."""
        if self._tracks[project] != tip:
            self._store.swap(tracking_ref(self._name, project), self._tracks[project], tip)
            self._tracks[project] = tip
            self._report.moved.add(project)

    def _forget_vanished(self) -> None:
        """A branch that is gone from the peer is no longer what we think it has."""
        for project in self._projects:
            if project not in self._report.offered:
                self._track(project, None)

    def _fetch(self, sides: dict[str, str]) -> None:
        wanted = {
            project: tip
            for project, tip in self._report.offered.items()
            if project in self._projects and not self._skips(project) and self._tracks[project] != tip
        }
        for project in [project for project, tip in wanted.items() if tip == self._tips[project]]:
            # What we pushed ourselves, perhaps in a round whose answer got lost.
            self._track(project, wanted.pop(project))
        former = {project: self._report.unfit.pop(project, None) for project in wanted}
        for project, known in former.items():
            if known is not None and known.tip == wanted[project] and known.left > 0:
                del wanted[project]
                self._set_aside(project, replace(known, left=known.left - 1))
        if not wanted and not sides:
            return
        refs = {project_ref(project): tracking_ref(self._name, project) for project in wanted}
        try:
            self._peer.fetch(refs | sides)
        except BranchesRefusedError as error:
            self._sides.refused(error.reasons)
            for ref, reason in error.reasons.items():
                if ref in sides:
                    continue
                project = ProjectId(ref.removeprefix(PROJECTS))
                tip, known = wanted.pop(project), former[project]
                wait = min(2 * known.wait, MAX_WAIT) if known is not None and known.tip == tip else 1
                self._set_aside(project, Unfit(tip, reason, wait, wait))
        self._tracks |= {project: self._read_tracked(project) for project in wanted}
        self._report.moved |= wanted.keys()
        self._report.fetched.extend(project for project in wanted if project not in self._report.fetched)

    def _set_aside(self, project: ProjectId, unfit: Unfit) -> None:
        self._report.unfit[project] = unfit
        self._report.refuse(project, unfit.error)

    def _merge(self) -> None:
        for project in self._projects:
            tracked = self._tracks[project]
            if tracked in (None, self._tips[project]) or self._skips(project):
                continue
            tip = self._tips[project] = tip_of(self._store, project)
            try:
                if not self._is_ours(project, tracked, tip):
                    self._report.strangers.append(project)
                    continue
                outcome = advance(self._store, project, tracked)
            except (NewerSchemaError, RefusedInputError, StoreError) as error:
                self._report.refuse(project, error)
                continue
            if outcome.commit != tip:
                self._report.merges[project] = outcome
                self._report.moved.add(project)
                self._tips[project] = outcome.commit

    def _is_ours(self, project: ProjectId, tracked: Oid, tip: Oid | None) -> bool:
        # Read in any case: a newer format must not be followed either where it only goes on from our tip.
        tree, _ = project_at(self._store, tracked)
        if project in self._trusted:
            return True
        if tip is not None and self._store.merge_base(tip, tracked) is not None:
            return True
        theirs = identity_of_project(self._store, tree)
        ours = self._projects[project]
        return ours.is_same(theirs)

    def _push(self, with_readme: bool) -> bool:
        """Offers what the peer lacks; tells whether it was ahead of us in something."""
        offers = {}
        for project in self._projects:
            tip = self._tips[project]
            if tip is not None and tip != self._tracks[project] and not self._skips(project):
                offers[project_ref(project)] = (project, tip)
        beside = self._sides.offers()
        refs = [*offers]
        if (refs or beside) and with_readme and ref_of(self._store, README_REF) is not None:
            refs.append(README_REF)
        if not refs and not beside:
            return False
        answers = self._push_both(refs, beside)
        steps.reached("exchange.pushed")
        behind = False
        for ref in beside:
            reason = answers.get(ref, _NO_WORD)
            self._sides.answered(ref, reason)
            behind = behind or (reason is not None and is_behind(reason))
        for ref, (project, tip) in offers.items():
            reason = answers.get(ref, _NO_WORD)
            if reason is None:
                self._note_pushed(project, tip)
            else:
                self._report.rejected[project] = reason
                behind = behind or is_behind(reason)
        return behind

    def _push_both(self, refs: Sequence[str], beside: Sequence[str]) -> dict[str, str | None]:
        """Branches beside the projects' that cannot be pushed keep no project from leaving."""
        try:
            return self._peer.push([*refs, *beside])
        except PeerUnreachableError:
            raise
        except PeerError as error:
            if not beside:
                raise
            if not refs:
                return dict.fromkeys(beside, error.summary)
            return self._push_both(refs, ()) | self._push_both((), beside)

    def _note_pushed(self, project: ProjectId, tip: Oid) -> None:
        self._track(project, tip)
        if project not in self._report.pushed:
            self._report.pushed.append(project)


def _projects_in(listing: Mapping[str, Oid]) -> dict[ProjectId, Oid]:
    found = {}
    for ref, tip in listing.items():
        project = ref.removeprefix(PROJECTS)
        if project != ref and valid_project_id(project):
            found[ProjectId(project)] = tip
    return found
