"""What a machine says of itself: once, anew when it changed, and not against another of the same id."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.sync.world import FakeMachine, World, sid

S, T = sid(1), sid(2)


@pytest.fixture
def twins(world: World) -> tuple[FakeMachine, FakeMachine]:
    """Two machines that go by one id, as after a copied disk."""
    ann, bob = world.machine("ann"), world.machine("bob")
    bob.machine = replace(bob.machine, id=ann.machine.id)
    return ann, bob


def sync_all(machines: tuple[FakeMachine, ...], rounds: int = 3) -> None:
    for _ in range(rounds):
        for machine in machines:
            machine.sync()


def test_two_machines_of_one_id_come_to_rest_with_everything(twins: tuple[FakeMachine, FakeMachine]) -> None:
    ann, bob = twins
    ann.say(S, "from ann")
    bob.say(T, "from bob")
    sync_all(twins)
    assert ann.tip() == bob.tip()
    tip = ann.tip()
    sync_all(twins)
    assert ann.tip() == bob.tip() == tip
    assert ann.sessions() == bob.sessions() == {S, T}


def test_a_person_is_told_where_another_machine_has_this_ones_id(
    twins: tuple[FakeMachine, FakeMachine],
) -> None:
    ann, bob = twins
    ann.say(S, "from ann")
    bob.say(T, "from bob")
    sync_all(twins)
    told = [refusal for machine in twins for refusal in machine.converge().refusals]
    assert told
    assert {refusal.where for refusal in told} == {"the id of this machine"}
    assert all("another machine too" in refusal.reason for refusal in told)
    assert all("machine-id" in refusal.remedy for refusal in told)


def test_a_machine_that_got_another_name_says_so_once(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "hello")
    sync_all((ann, bob))
    ann.machine = replace(ann.machine, name="renamed")
    first = ann.converge()
    assert first.ingest.commit is not None
    assert first.refusals == []
    assert ann.converge().ingest.commit is None


def test_after_the_state_was_lost_it_speaks_for_itself_again(
    twins: tuple[FakeMachine, FakeMachine],
) -> None:
    ann, bob = twins
    ann.say(S, "from ann")
    bob.say(T, "from bob")
    sync_all(twins)
    ann.lose_state()
    sync_all(twins)
    tip = ann.tip()
    sync_all(twins)
    assert ann.tip() == bob.tip() == tip


def test_of_two_folders_now_one_and_now_the_other_may_speak_for_the_machine(ann: FakeMachine) -> None:
    """Found by seed 10826: a machine took itself for another of the same id."""
    tree = f"{ann.home}/src/app-tree"
    ann.checkout(tree)
    ann.say(S, "here")
    ann.say(T, "there", root=tree)
    for first in (True, False, True, False):
        for root, primary in ((None, first), (tree, not first)):
            result = ann.converge(ann.replica(root, primary=primary))
            assert "the id of this machine" not in [refusal.where for refusal in result.refusals]
