"""Machines for tests of the sync layer. Modules that need other ones define their own."""

from __future__ import annotations

import pytest

from tests.unit.sync.engines import INTERVAL
from tests.unit.sync.world import FakeMachine, World, sid


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ann(world: World) -> FakeMachine:
    return world.machine("ann")


@pytest.fixture
def bob(world: World) -> FakeMachine:
    return world.machine("bob")


@pytest.fixture
def pair(world: World, ann: FakeMachine, bob: FakeMachine) -> tuple[FakeMachine, FakeMachine]:
    """Two machines that take part in one project, in step, both running."""
    for machine in (ann, bob):
        machine.say(sid(len(machine.name) + ord(machine.name[0])), "hello")
        machine.start()
    world.settle()
    world.advance(3 * INTERVAL)
    return ann, bob
