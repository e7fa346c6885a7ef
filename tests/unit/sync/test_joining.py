"""Taking part in what peers have, by the code that is checked out here."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from convergenced.errors import BranchesRefusedError, PeerRefusedError, RefMovedError
from convergenced.merge.layout import write_project
from convergenced.model import Commit, LocalPath, ProjectId
from convergenced.store.branch import tracking_ref
from convergenced.sync.exchange import MAX_WAIT, Unfit, exchange
from convergenced.sync.joining import consider_offers
from convergenced.sync.survey import Scope
from convergenced.sync.tips import MAX_TRIES, advance, ref_of
from tests.unit.sync.world import APP, HUB, FakeMachine, World, branch, sid

S = sid(1)


@pytest.fixture
def ann(world: World) -> FakeMachine:
    ann = world.machine("ann")
    ann.say(S, "ann's")
    ann.sync()
    return ann


@pytest.fixture
def bob(world: World, ann: FakeMachine) -> FakeMachine:
    return world.machine("bob")


def joined(
    machine: FakeMachine, *, roots: tuple[str, ...] = ("src",), exclude: tuple[str, ...] = ()
) -> list[str]:
    scope = Scope(roots=tuple(LocalPath(f"{machine.home}/{root}") for root in roots), exclude=exclude)
    offered = machine.exchange("nothing").offered
    machine.peer.calls.clear()
    return consider_offers(machine.parts, machine.checkouts, scope, machine.peer, HUB, {}, offered).joined


def test_what_is_checked_out_here_is_joined(bob: FakeMachine) -> None:
    assert joined(bob) == [f"app at {bob.root}"]
    (note,) = bob.state.replicas()
    assert (note.project, note.root, note.by_hand) == (APP, bob.root, False)
    assert joined(bob) == [], "once"
    assert bob.peer.calls == []


def test_without_a_checkout_below_the_roots_nothing_is_fetched(bob: FakeMachine) -> None:
    assert joined(bob, roots=()) == []
    assert joined(bob, roots=("work",)) == []
    bob.checkouts.take_away(bob.root)
    bob.checkout(f"{bob.home}/src/unlike", "example.org/ann/unlike")
    assert joined(bob) == []
    assert bob.peer.calls == []


def test_what_is_excluded_is_not_joined(bob: FakeMachine) -> None:
    assert joined(bob, exclude=("~/src/app",)) == []
    assert bob.state.replicas() == []
    assert bob.peer.calls == []


def test_a_worktree_is_not_where_a_project_is_joined(bob: FakeMachine) -> None:
    bob.checkouts.add(bob.root, "example.org/ann/app", main_root="/elsewhere")
    assert joined(bob) == []


def test_what_takes_part_already_is_not_joined_again(bob: FakeMachine) -> None:
    bob.take_part(bob.root, "mine")
    assert joined(bob) == []


def test_other_code_is_looked_at_once_for_each_tip(ann: FakeMachine, bob: FakeMachine) -> None:
    bob.checkout(bob.root, "example.org/eve/app")
    assert joined(bob) == []
    assert [call for call, _ in bob.peer.calls] == ["fetch"]
    assert ref_of(bob.store, tracking_ref(HUB, APP)) is None
    assert joined(bob) == []
    assert bob.peer.calls == []
    ann.say(S, "it went on")
    ann.sync()
    assert joined(bob) == []
    assert [call for call, _ in bob.peer.calls] == ["fetch"]


def test_a_checkout_without_any_code_is_joined_by_nobody(bob: FakeMachine) -> None:
    bob.checkout(bob.root)
    assert joined(bob) == []


def test_a_newer_format_and_a_refused_branch_are_left_alone(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    tip = ann.tip()
    assert tip is not None
    newer = world.hub.write_blob(json.dumps({"schema": 99}).encode())
    tree = write_project(world.hub, replace(ann.tree(), policy=newer))
    commit = world.hub.write_commit(Commit(tree, (tip,), ann.machine.author, 1, "newer"))
    world.hub.swap(branch(APP), tip, commit)
    assert joined(bob) == []

    def refuse(wanted: object) -> None:
        raise BranchesRefusedError.of({branch(APP): PeerRefusedError("damaged")})

    bob.state.note_stranger(HUB, APP, "another tip")
    bob.peer.fetch = refuse  # type: ignore[method-assign]
    assert joined(bob) == []
    assert bob.state.replicas() == []


def test_a_branch_that_cannot_be_had_is_set_aside_and_asked_for_again_ever_more_rarely(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    bob.say(sid(2), "bob's")
    bob.converge()
    ann.say(S, "ann's")
    ann.sync()
    projects = {APP: bob.identity()}
    plain = bob.peer.fetch
    rounds: list[int] = []
    fetches: list[int] = []
    unfit: dict[ProjectId, Unfit] = {}

    def refuse(wanted: object) -> None:
        fetches.append(rounds[-1])
        raise BranchesRefusedError.of({branch(APP): PeerRefusedError("damaged there", "ask its keeper")})

    bob.peer.fetch = refuse  # type: ignore[method-assign]
    for number in range(100):
        rounds.append(number)
        report = exchange(bob.store, bob.peer, HUB, projects, (), unfit)
        assert [one.reason for one in report.refusals[APP]] == ["damaged there"], "it is said all the time"
        unfit = report.unfit
    assert fetches == [0, 2, 5, 10, 19, 36, 53, 70, 87]
    bob.peer.fetch = plain  # type: ignore[method-assign]
    for _ in range(MAX_WAIT + 1):
        report = exchange(bob.store, bob.peer, HUB, projects, (), unfit)
        unfit = report.unfit
    assert (report.refusals, report.unfit) == ({}, {}), "repaired there, though the branch did not move"


def test_a_branch_that_could_not_be_had_is_fetched_at_once_when_it_moved(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    bob.say(sid(2), "bob's")
    bob.converge()
    ann.say(S, "ann's")
    ann.sync()
    projects = {APP: bob.identity()}
    plain = bob.peer.fetch

    def refuse(wanted: object) -> None:
        raise BranchesRefusedError.of({branch(APP): PeerRefusedError("damaged there", "ask its keeper")})

    bob.peer.fetch = refuse  # type: ignore[method-assign]
    report = exchange(bob.store, bob.peer, HUB, projects, ())
    ann.say(S, "repaired")
    ann.sync()
    bob.peer.fetch = plain  # type: ignore[method-assign]
    healed = exchange(bob.store, bob.peer, HUB, projects, (), report.unfit)
    assert (healed.refusals, healed.unfit, healed.pushed) == ({}, {}, [APP])


def test_a_branch_that_never_stands_still_is_left_after_some_tries(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    bob.say(sid(2), "bob's")
    bob.converge()
    bob.exchange("nothing")
    tip = bob.tip()
    theirs = ann.tip()
    assert tip is not None
    assert theirs is not None
    bob.peer.fetch({branch(APP): tracking_ref(HUB, APP)})
    plain = bob.store.swap
    tries: list[str] = []
    limit = 3

    def meddle(ref: str, old: object, new: object) -> None:
        tries.append(ref)
        if len(tries) < limit:
            raise RefMovedError("moved meanwhile")
        plain(ref, old, new)  # type: ignore[arg-type]

    bob.store.swap = meddle  # type: ignore[method-assign]
    assert advance(bob.store, APP, theirs).commit == bob.tip() != tip
    tries.clear()
    limit = MAX_TRIES + 10
    other = ProjectId("other")
    with pytest.raises(RefMovedError, match="kept moving"):
        advance(bob.store, other, theirs)
    assert len(tries) == MAX_TRIES
