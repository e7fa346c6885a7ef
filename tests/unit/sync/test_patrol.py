"""The patrol: what is found while hints are missing, and what that costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convergenced.errors import UsageError
from convergenced.model import LocalPath
from convergenced.sync.lookout import WATCH_AGAIN
from convergenced.sync.patrol import EVERY, SHARE
from tests.unit.sync.engines import S
from tests.unit.sync.world import APP, FakeMachine, World, sid

QUIET = 2.0
"""More than the daemon waits for silence."""
MINUTE = 60.0


@pytest.fixture
def ann(world: World) -> FakeMachine:
    """A machine at rest whose watcher hears nothing any more."""
    machine = world.machine("ann")
    machine.say(S, "one")
    machine.start()
    world.advance(EVERY)
    machine.watcher.deaf = True
    return machine


def say_limit(machine: FakeMachine) -> None:
    machine.watcher.say_trouble("54 folders are not watched")


def looks(machine: FakeMachine) -> list[LocalPath]:
    """The folders that are listed from now on."""
    found: list[LocalPath] = []
    machine.files.before = lambda what, path: found.append(path) if what == "list" else None
    return found


def test_what_nobody_heard_of_is_found_within_a_minute(world: World, ann: FakeMachine) -> None:
    say_limit(ann)
    world.advance(MINUTE)
    assert "54 folders are not watched" in [one.text for one in ann.engine.board.attention()]
    for text in ("two", "three"):
        ann.say(S, text)
        world.advance(MINUTE)
        assert ann.stored(S).count(b"\n") == ann.local_bytes(S).count(b"\n")


def test_a_change_before_the_trouble_was_noticed_is_found(world: World, ann: FakeMachine) -> None:
    ann.say(S, "two")
    say_limit(ann)
    world.advance(EVERY + QUIET)
    assert ann.stored(S).count(b"\n") == 2


def test_a_new_project_is_found_as_well(world: World, ann: FakeMachine) -> None:
    say_limit(ann)
    world.advance(MINUTE)
    ann.checkout(f"{ann.home}/src/other", "example.org/ann/other")
    ann.say(sid(7), "hello", root=f"{ann.home}/src/other")
    world.advance(MINUTE)
    assert "other" in ann.engine.board.projects()


def test_where_nothing_changed_nothing_is_passed(world: World, ann: FakeMachine) -> None:
    say_limit(ann)
    world.advance(2 * MINUTE)
    (state,) = ann.engine.board.of_project(APP)
    passed = state.started_at
    world.advance(4 * EVERY)
    assert state.started_at == passed


def test_nothing_is_looked_at_while_all_is_well(world: World, ann: FakeMachine) -> None:
    found = looks(ann)
    world.advance(4 * EVERY)
    assert found == []


def test_a_look_that_takes_long_is_rare(world: World, ann: FakeMachine) -> None:
    seconds = 2 * EVERY * SHARE
    say_limit(ann)
    ann.files.before = lambda what, path: (
        ann.clock.advance(seconds) if what == "list" and path == ann.machine.projects_dir else None
    )
    world.advance(EVERY + QUIET)
    found = looks(ann)
    world.advance(1.5 * EVERY)
    assert ann.machine.projects_dir not in found
    world.advance(EVERY)
    assert ann.machine.projects_dir in found


def test_it_ends_with_the_trouble(world: World, ann: FakeMachine) -> None:
    say_limit(ann)
    world.advance(MINUTE)
    ann.watcher.say_trouble(None)
    world.advance(EVERY)
    assert not [one for one in ann.engine.board.attention() if one.kind == "degraded"]
    found = looks(ann)
    world.advance(4 * EVERY)
    assert found == []


def test_a_watcher_in_trouble_is_begun_anew_now_and_then(world: World, ann: FakeMachine) -> None:
    begun: list[LocalPath] = []
    start, rescan = ann.watcher.start, ann.engine.settings.ingest.rescan

    def begin(folder: LocalPath, changed: Callable[[LocalPath], None]) -> None:
        begun.append(folder)
        start(folder, changed)

    ann.watcher.start = begin  # type: ignore[method-assign]
    say_limit(ann)
    world.advance(rescan + WATCH_AGAIN)
    assert len(begun) == 1
    ann.watcher.say_trouble(None)
    world.advance(2 * rescan)
    assert len(begun) == 1


def test_where_nothing_can_be_watched_all_is_found_within_a_minute(world: World) -> None:
    ann = world.machine("ann")

    def refuse(folder: LocalPath, changed: Callable[[LocalPath], None]) -> None:
        raise UsageError("the watch limit is reached", "raise it")

    ann.watcher.start = refuse  # type: ignore[method-assign]
    ann.start()
    ann.say(S, "one")
    for number in (1, 2):
        world.advance(MINUTE)
        assert ann.stored(S).count(b"\n") == number
        ann.say(S, "on")
