"""A project that is shared with context-convergence: transcripts as one blob each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convergenced.merge.layout import policy_of, write_project
from convergenced.merge.roster import Policy, format_policy
from convergenced.model import Commit, Content, Oid
from tests.unit.sync.world import APP, FakeMachine, World, branch, project_at, sid

S = sid(1)


@pytest.fixture
def world() -> World:
    """A hub whose project says that its layout is flat."""
    world = World()
    ann = world.machine("ann")
    ann.say(S, "one")
    ann.say(sid(2), "two")
    ann.converge()
    tree = replace(
        ann.tree(),
        policy=ann.store.write_blob(format_policy(Policy(layout="flat"))),
        sessions={
            name: replace(one, transcript=None, flat=ann.store.write_blob(ann.stored(name)))
            for name, one in ann.tree().sessions.items()
        },
    )
    commit = Commit(write_project(ann.store, tree), (), ann.machine.author, 1, "flat")
    ann.store.ref_targets.clear()
    ann.store.swap(branch(APP), None, ann.store.write_commit(commit))
    ann.lose_state()
    ann.exchange()
    return world


def flat(machine: FakeMachine) -> dict[str, bytes]:
    return {
        name: machine.store.read_blob(one.flat)
        for name, one in machine.tree().sessions.items()
        if one.flat is not None
    }


def test_a_flat_project_stays_flat_while_it_grows_on_both_sides(world: World) -> None:
    ann, bob = world.machines["ann"], world.machine("bob")
    ann.sync()
    bob.sync()
    bob.sync()
    assert bob.sessions() == {S, sid(2)}
    bob.say(S, "three")
    bob.sync()
    ann.sync()
    assert ann.texts(S) == ["one", "three"]
    assert policy_of(ann.store, ann.tree()).layout == "flat"
    assert all(one.transcript is None for one in ann.tree().sessions.values())
    rewriter = ann.app.rewriter(ann.machine, True)
    assert rewriter.localize(flat(ann)[S], Content.JSON) == ann.local_bytes(S)
    tip = ann.tip()
    for machine in (bob, ann, bob):
        machine.sync()
    assert ann.tip() == bob.tip() == tip
    assert project_at(world.hub, world.hub.ref_targets[branch(APP)]) == ann.tree()


def test_a_flat_session_that_went_two_ways_becomes_two(world: World) -> None:
    ann, bob = world.machines["ann"], world.machine("bob")
    for machine in (ann, bob, ann, bob):
        machine.sync()
    ann.say(S, "ann's")
    bob.say(S, "bob's")
    for machine in (ann, bob, ann, bob):
        machine.sync()
    for machine in (ann, bob):
        texts = sorted(machine.texts(type(S)(one)) for one in machine.sessions())
        assert texts == [["one", "ann's"], ["one", "bob's"], ["two"]]
        assert set(flat(machine)) == machine.sessions()


def test_looking_at_a_flat_project_again_reads_no_transcript(world: World) -> None:
    ann = world.machines["ann"]
    ann.sync()
    ann.sync()
    blobs = {one.flat for one in ann.tree().sessions.values()}
    read: list[Oid] = []
    plain = ann.store.read_blob

    def read_blob(oid: Oid) -> bytes:
        read.append(oid)
        return plain(oid)

    ann.store.read_blob = read_blob  # type: ignore[method-assign]
    ann.converge()
    assert not blobs & set(read)
