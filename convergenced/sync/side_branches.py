"""Branches that go with the rounds beside the projects' own, such as `knowledge`.

Owns what one round does about them. Promises: as for projects, refs move by compare-and-swap to
descendants only, a peer that was rewound or lost the branch gets it back, and trouble with one stops
nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from convergenced.errors import ConvergenceError, NewerSchemaError, PeerError, RefusedInputError, StoreError
from convergenced.model import Oid
from convergenced.ports import Store
from convergenced.store.branch import peer_ref
from convergenced.sync.tips import ref_of


class SideBranch(Protocol):
    """A branch with a merge of its own."""

    @property
    def ref(self) -> str:
        """Its full name, the same at every peer: `refs/heads/knowledge`."""
        ...

    def advance(self, store: Store, commit: Oid) -> Oid:
        """Moves the branch to include `commit`, by merging where both went on; the new tip.

        Raises `NewerSchemaError`, `RefusedInputError` and `StoreError`; then nothing is moved.
        """
        ...


@dataclass(slots=True)
class SideReport:
    """What a round did about one branch. `error` says why it is not in step with the peer, if it is not."""

    fetched: bool = False
    pushed: bool = False
    error: ConvergenceError | None = None
    tip: Oid | None = None
    tracked: Oid | None = None

    @property
    def in_step(self) -> bool:
        """Whether the peer has what we have."""
        return self.error is None and self.tip == self.tracked


class SideRound:
    """The side branches of one round with the peer `name`."""

    def __init__(self, store: Store, name: str, branches: Sequence[SideBranch]) -> None:
        self._store = store
        self._name = name
        self._branches = {branch.ref: branch for branch in branches}
        self.reports = {ref: SideReport() for ref in self._branches}
        self._is_held = False

    def wanted(self, listing: Mapping[str, Oid]) -> dict[str, str]:
        """What is to be fetched, as remote ref and tracking ref, after the peer said what it has."""
        wanted = {}
        for ref, report in self.reports.items():
            report.tip, offered = ref_of(self._store, ref), listing.get(ref)
            report.tracked = ref_of(self._store, self._tracking(ref))
            if offered in (None, report.tip):  # it has none, or what we pushed in a round that broke off
                self._track(ref, offered)
            elif offered != report.tracked and report.error is None:
                wanted[ref] = self._tracking(ref)
        return wanted

    def refused(self, reasons: Mapping[str, PeerError]) -> None:
        """Some of what was wanted could not be had."""
        for ref in reasons.keys() & self.reports.keys():
            self.reports[ref].error = reasons[ref]

    def hold(self) -> None:
        """Takes nothing in and offers nothing in this round."""
        self._is_held = True

    def merge(self, fetched: Collection[str]) -> None:
        """Takes in what arrived, and what an earlier round left."""
        for ref, branch in self._branches.items():
            report = self.reports[ref]
            report.fetched = report.fetched or (ref in fetched and report.error is None)
            report.tracked = tracked = ref_of(self._store, self._tracking(ref))
            report.tip = ref_of(self._store, ref)
            if self._is_held or tracked is None or tracked == report.tip or report.error is not None:
                continue
            try:
                report.tip = branch.advance(self._store, tracked)
            except (NewerSchemaError, RefusedInputError, StoreError) as error:
                report.error = error

    def offers(self) -> list[str]:
        """The branches that the peer lacks something of."""
        return [
            ref
            for ref, report in self.reports.items()
            if not self._is_held and report.tip not in (None, report.tracked) and report.error is None
        ]

    def answered(self, ref: str, reason: str | None) -> None:
        """The peer took a branch, or said why not."""
        report = self.reports[ref]
        if reason is None:
            self._track(ref, report.tip)
            report.pushed, report.error = True, None
        else:
            report.error = PeerError(f"{self._name} did not take {ref}: {reason}", "it is tried again")

    def again(self) -> None:
        """Another turn of the same round: what others were faster with may fit now."""
        for report in self.reports.values():
            if isinstance(report.error, PeerError):
                report.error = None

    def _tracking(self, ref: str) -> str:
        return peer_ref(self._name, ref.removeprefix("refs/heads/"))

    def _track(self, ref: str, tip: Oid | None) -> None:
        report = self.reports[ref]
        if report.tracked != tip:
            self._store.swap(self._tracking(ref), report.tracked, tip)
            report.tracked = tip
