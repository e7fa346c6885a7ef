"""Housekeeping: when the store's keeper gets to work, and what is told of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convergenced.errors import StoreError
from convergenced.sync.housekeeping import FIRST_LOOK, LOOK
from tests.unit.sync.world import FakeMachine, World


class Keeper:
    """Says what it is told to say, and counts."""

    def __init__(self) -> None:
        self.runs = 0
        self.closed = False
        self.answer: str | Exception | None = None

    def run(self) -> str | None:
        self.runs += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


@pytest.fixture
def ann(world: World, keeper: Keeper) -> FakeMachine:
    machine = world.machine("ann")
    machine.start()
    desk = machine.engine.desk
    desk.surroundings = replace(desk.surroundings, keeper=keeper)
    return machine


def test_it_gets_to_work_a_while_after_the_start_and_then_now_and_then(
    world: World, ann: FakeMachine, keeper: Keeper
) -> None:
    world.advance(FIRST_LOOK - 1)
    assert keeper.runs == 0
    world.advance(2)
    assert keeper.runs == 1
    world.advance(LOOK * 3)
    assert keeper.runs == 4
    assert ann.log.texts("upkeep") == []


def test_what_it_did_is_told(world: World, ann: FakeMachine, keeper: Keeper) -> None:
    keeper.answer = "packed 3000 objects of the store"
    world.advance(FIRST_LOOK)
    assert ann.log.texts("upkeep") == ["packed 3000 objects of the store"]


def test_what_goes_wrong_is_told_until_it_goes_well(world: World, ann: FakeMachine, keeper: Keeper) -> None:
    keeper.answer = StoreError("the disk is full", "free some space")
    world.advance(FIRST_LOOK + LOOK)
    assert ann.log.texts("error") == ["the disk is full"]
    assert [one.fix for one in ann.engine.board.attention()] == ["free some space"]
    keeper.answer = None
    world.advance(LOOK)
    assert ann.engine.board.attention() == []


def test_it_is_broken_off_where_the_daemon_ends(ann: FakeMachine, keeper: Keeper) -> None:
    ann.engine.close(1.0)
    assert keeper.closed
