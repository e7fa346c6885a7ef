"""What needs a person is shown on the desktop: once, and only where they asked for it."""

from __future__ import annotations

import pytest

from convergenced.errors import ConvergenceError
from convergenced.machine.settings_schema import NotifySettings
from convergenced.sync.alerts import FORGOTTEN_AFTER, in_words, matter_of
from convergenced.sync.board import COMES_RIGHT, Attention
from ctl.verdict import SELF_HELP
from tests.unit.sync.world import FakeMachine, World, sid

PART = "eyes"
ONE = ("convergence: 1 thing needs you", "54 folders are not watched\nsee: convergencectl status")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ann(world: World) -> FakeMachine:
    ann = world.machine("ann")
    ann.say(sid(1), "hello")
    ann.start(ann.with_settings(notify=NotifySettings(desktop=True)))
    world.advance(60)
    assert ann.shown == []
    return ann


def relief(machine: FakeMachine) -> None:
    machine.engine.post(lambda: machine.engine.desk.restore(PART))


def trouble(machine: FakeMachine, text: str = "54 folders are not watched") -> None:
    """A part of the daemon does not work, as a job that ended has just told."""
    machine.engine.post(lambda: machine.engine.desk.degrade(PART, ConvergenceError(text)))


def test_a_matter_is_shown_once_however_its_numbers_change(world: World, ann: FakeMachine) -> None:
    trouble(ann)
    world.advance(60)
    assert ann.shown == [ONE]
    trouble(ann, "55 folders are not watched")
    world.advance(7200)
    assert ann.shown == [ONE]


def test_not_again_after_a_restart(world: World, ann: FakeMachine) -> None:
    trouble(ann)
    world.advance(60)
    ann.stop()
    ann.start()
    trouble(ann)
    world.advance(60)
    assert ann.shown == [ONE]


def test_what_was_settled_a_day_ago_is_another_matter_when_it_comes_again(
    world: World, ann: FakeMachine
) -> None:
    trouble(ann)
    world.advance(60)
    relief(ann)
    world.advance(3600)
    trouble(ann)
    world.advance(60)
    assert ann.shown == [ONE], "it comes and goes"
    relief(ann)
    world.advance(FORGOTTEN_AFTER + 7200)
    trouble(ann)
    world.advance(60)
    assert ann.shown == [ONE, ONE]


def test_what_passes_by_itself_is_not_shown(world: World, ann: FakeMachine) -> None:
    trouble(ann)
    world.settle()
    relief(ann)
    world.advance(60)
    ann.peer.unreachable = True
    world.advance(600)
    assert [one.kind for one in ann.engine.board.attention()] == ["unreachable"]
    assert ann.shown == []


def test_off_means_off(world: World, ann: FakeMachine) -> None:
    ann.engine.apply(ann.with_settings(notify=NotifySettings()))
    trouble(ann)
    world.advance(600)
    assert ann.shown == []
    ann.engine.apply(ann.with_settings(notify=NotifySettings(desktop=True)))
    world.advance(600)
    assert ann.shown == [ONE]


def test_a_desktop_that_fails_is_nobodys_trouble(
    world: World, ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(list[tuple[str, str]]):
        def append(self, _: tuple[str, str]) -> None:
            raise OSError("no desktop")

    monkeypatch.setattr(ann, "shown", Broken())
    trouble(ann)
    world.advance(600)
    assert [one.text for one in ann.engine.board.attention()] == ["54 folders are not watched"]


def test_what_comes_together_is_shown_together(world: World, ann: FakeMachine) -> None:
    trouble(ann)
    ann.engine.desk.degrade("backups", ConvergenceError("the disk is full"))
    world.advance(60)
    ((title, text),) = ann.shown
    assert title == "convergence: 2 things need you"
    said = ["54 folders are not watched", "see: convergencectl status", "the disk is full"]
    assert sorted(text.splitlines()) == said


def test_two_notes_are_two_matters_though_only_a_number_tells_them_apart() -> None:
    ones = [Attention("conflict", "app", f"memory/{day}.md was edited", "") for day in (1, 2)]
    assert matter_of(ones[0]) != matter_of(ones[1])


def test_the_secrets_of_a_project_are_one_matter() -> None:
    ones = [Attention("secret", "app", f"{path} holds {n} keys", "") for path, n in (("a", 1), ("b", 2))]
    assert matter_of(ones[0]) == matter_of(ones[1])
    assert matter_of(ones[0]) != matter_of(Attention("secret", "zoo", "a holds 1 keys", ""))


def test_of_many_a_few_are_named() -> None:
    many = [Attention("quarantine", "app", f"file {name}", "") for name in "abcde"]
    title, text = in_words(many)
    assert title == "convergence: 5 things need you"
    assert text.splitlines()[2:] == ["app: file c", "and 2 more", "see: convergencectl status"]


def test_status_and_desktop_agree_on_what_needs_nobody() -> None:
    assert SELF_HELP == COMES_RIGHT
