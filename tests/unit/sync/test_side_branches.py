"""A branch beside the projects' own goes with the same rounds, and troubles nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from convergenced.errors import BranchesRefusedError, NewerSchemaError, PeerRefusedError, PeerUnreachableError
from convergenced.model import MODE_BLOB, Author, Commit, Oid, TreeEntry
from convergenced.ports import Store
from convergenced.store.branch import MERGER
from convergenced.sync.exchange import RoundReport, exchange
from convergenced.sync.side_branches import SideReport
from convergenced.sync.tips import ref_of
from tests.fakes.peer import MemoryPeer
from tests.unit.sync.world import APP, HUB, FakeMachine, World, sid

REF = "refs/heads/notes"
TRACKING = f"refs/peers/{HUB}/notes"
ANN = Author("ann", "ann@example.org")


@dataclass
class Notes:
    """A branch whose trees merge by taking every file of both."""

    ref: str = REF
    refuses: Exception | None = None
    advanced: list[Oid] = field(default_factory=list)

    def advance(self, store: Store, commit: Oid) -> Oid:
        if self.refuses is not None:
            raise self.refuses
        tip = ref_of(store, REF)
        base = None if tip is None else store.merge_base(tip, commit)
        new = commit
        if tip is not None and base == commit:
            return tip
        if tip is not None and base != tip:
            trees = [store.read_tree(store.read_commit(one).tree) for one in (tip, commit)]
            tree = store.write_tree({entry.name: entry for entries in trees for entry in entries}.values())
            parents = tuple(sorted((tip, commit)))
            time = max(store.read_commit(one).time for one in parents)
            new = store.write_commit(Commit(tree, parents, MERGER, time, "merge"))
        store.swap(REF, tip, new)
        self.advanced.append(new)
        return new


class Choking:
    """A peer that any push breaks off at which has the branch in it: something of it is missing here."""

    def __init__(self, peer: MemoryPeer) -> None:
        self.list, self.fetch, self.close, self._push = peer.list, peer.fetch, peer.close, peer.push

    def push(self, refs: Sequence[str]) -> dict[str, str | None]:
        if REF in refs:
            raise PeerRefusedError("the pack broke off")
        return self._push(refs)


class Spoiled:
    """A peer whose branch is damaged there."""

    def __init__(self, peer: MemoryPeer) -> None:
        self.list, self.push, self.close, self._fetch = peer.list, peer.push, peer.close, peer.fetch

    def fetch(self, wanted: Mapping[str, str]) -> None:
        self._fetch({ref: tracking for ref, tracking in wanted.items() if ref != REF})
        if REF in wanted:
            raise BranchesRefusedError.of({REF: PeerRefusedError("it is damaged there")})


def write(store: Store, name: str) -> Oid:
    """One more file on the branch."""
    tip = ref_of(store, REF)
    former = () if tip is None else store.read_tree(store.read_commit(tip).tree)
    entries = [*former, TreeEntry(name, MODE_BLOB, store.write_blob(name.encode()))]
    commit = store.write_commit(Commit(store.write_tree(entries), (tip,) if tip else (), ANN, 5, name))
    store.swap(REF, tip, commit)
    return commit


def names(store: Store) -> list[str]:
    tip = ref_of(store, REF)
    return [] if tip is None else [entry.name for entry in store.read_tree(store.read_commit(tip).tree)]


def round_of(machine: FakeMachine, branch: Notes | None = None) -> RoundReport:
    return exchange(machine.store, machine.peer, HUB, {}, (), sides=[branch or Notes()])


def side(report: RoundReport) -> SideReport:
    return report.sides[REF]


def test_it_is_pushed_and_fetched_and_costs_nothing_afterwards(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    tip = write(ann.store, "one")
    assert side(round_of(ann)).pushed
    assert ref_of(world.hub, REF) == ref_of(ann.store, TRACKING) == tip
    report = side(round_of(bob))
    assert (report.fetched, report.pushed, report.in_step) == (True, False, True)
    assert names(bob.store) == ["one"]
    ann.peer.calls.clear()
    assert side(round_of(ann)).in_step
    assert [call for call, _ in ann.peer.calls] == ["list"]


def test_it_waits_while_a_project_of_ours_is_to_get_another_name(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(sid(1), "ann's")
    ann.sync()
    theirs = write(world.hub, "theirs, of other code")
    bob.checkout(bob.root, "example.org/bob/app")
    write(bob.store, "ours")

    def report() -> RoundReport:
        told = {APP: bob.identity()}
        return exchange(bob.store, bob.peer, HUB, told, (), sides=[Notes()])

    first = report()
    assert first.strangers == [APP]
    assert (side(first).pushed, side(first).in_step, names(bob.store)) == (False, False, ["ours"])
    assert ref_of(world.hub, REF) == theirs
    assert side(round_of(bob)).in_step, "renamed meanwhile"
    assert names(bob.store) == names(world.hub) == ["ours", "theirs, of other code"]


def test_both_went_on(ann: FakeMachine, bob: FakeMachine) -> None:
    write(ann.store, "one")
    write(bob.store, "two")
    round_of(ann)
    report = side(round_of(bob))
    assert report.fetched
    assert report.pushed
    assert names(bob.store) == ["one", "two"]
    round_of(ann)
    assert ref_of(ann.store, REF) == ref_of(bob.store, REF)
    assert not side(round_of(ann)).pushed


def test_projects_and_the_branch_go_in_one_push(ann: FakeMachine) -> None:
    ann.say(sid(1), "hello")
    ann.converge()
    write(ann.store, "one")
    told = {APP: ann.identity()}
    report = exchange(ann.store, ann.peer, HUB, told, (), sides=[Notes()])
    assert report.pushed == [APP]
    assert side(report).pushed
    assert [call for call, _ in ann.peer.calls] == ["list", "push"]


def test_a_branch_that_breaks_off_the_push_keeps_no_project_from_leaving(ann: FakeMachine) -> None:
    ann.say(sid(1), "hello")
    ann.converge()
    write(ann.store, "one")
    told = {APP: ann.identity()}
    for pushed in ([APP], []):
        report = exchange(ann.store, Choking(ann.peer), HUB, told, (), sides=[Notes()])
        assert report.pushed == pushed
        assert "broke off" in str(side(report).error)


def test_a_hub_that_lost_it_gets_it_back(world: World, ann: FakeMachine) -> None:
    tip = write(ann.store, "one")
    round_of(ann)
    world.hub.swap(REF, tip, None)
    assert side(round_of(ann)).pushed
    assert ref_of(world.hub, REF) == tip


def test_a_push_whose_answer_was_lost_is_noticed(ann: FakeMachine) -> None:
    tip = write(ann.store, "one")
    round_of(ann)
    ann.store.swap(TRACKING, tip, None)
    ann.peer.calls.clear()
    report = side(round_of(ann))
    assert (report.pushed, report.in_step) == (False, True)
    assert [call for call, _ in ann.peer.calls] == ["list"]


def test_what_cannot_be_merged_stops_nothing_else(ann: FakeMachine, bob: FakeMachine) -> None:
    write(ann.store, "one")
    round_of(ann)
    bob.say(sid(1), "hello")
    bob.converge()
    own = write(bob.store, "two")
    newer = NewerSchemaError("a newer version wrote this", "update")
    report = exchange(bob.store, bob.peer, HUB, {APP: bob.identity()}, (), sides=[Notes(refuses=newer)])
    assert report.pushed == [APP]
    assert side(report).error is newer
    assert not side(report).in_step
    assert ref_of(bob.store, REF) == own
    assert side(round_of(bob)).in_step
    assert names(bob.store) == ["one", "two"]


def test_a_branch_that_the_hub_declines_is_told(ann: FakeMachine) -> None:
    write(ann.store, "one")
    ann.peer.declined[REF] = "no room"
    report = side(round_of(ann))
    assert report.error is not None
    assert "no room" in report.error.summary
    del ann.peer.declined[REF]
    assert side(round_of(ann)).in_step


def test_a_branch_that_cannot_be_fetched_leaves_the_others_alone(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(sid(1), "hello")
    ann.converge()
    write(ann.store, "one")
    exchange(ann.store, ann.peer, HUB, {APP: ann.identity()}, (), sides=[Notes()])
    report = exchange(bob.store, Spoiled(bob.peer), HUB, {APP: bob.identity()}, {APP}, sides=[Notes()])
    assert report.fetched == [APP]
    assert side(report).error is not None
    assert ref_of(bob.store, REF) is None


def test_a_peer_that_breaks_off_leaves_the_branch_as_it_was(ann: FakeMachine) -> None:
    tip = write(ann.store, "one")
    ann.peer.unreachable = True
    with pytest.raises(PeerUnreachableError):
        round_of(ann)
    ann.peer.unreachable = False
    assert side(round_of(ann)).pushed
    assert ref_of(ann.store, REF) == tip


def test_nothing_is_nothing(ann: FakeMachine) -> None:
    report = side(round_of(ann))
    assert (report.tip, report.tracked, report.in_step) == (None, None, True)
    assert [call for call, _ in ann.peer.calls] == ["list"]
