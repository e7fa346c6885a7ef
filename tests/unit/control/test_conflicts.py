"""`conflicts` and `conflict_resolve` through the socket's methods, on machines in memory."""

from __future__ import annotations

from typing import Any

import pytest

from convergenced.control.protocol import INVALID_PARAMS, Json
from convergenced.errors import ConvergenceError, UsageError
from tests.unit.control.test_dispatch import Desk
from tests.unit.sync.engines import INTERVAL, S
from tests.unit.sync.world import FakeMachine, World

NAME = "app:memory/a.md"


@pytest.fixture
def pair() -> tuple[Desk, FakeMachine]:
    """A machine with its dispatcher, and another; both edited one note while they could not exchange."""
    world = World()
    ann, bob = world.machine("ann"), world.machine("bob")
    ann.say(S, "hello")
    ann.remember("a.md", "one\n")
    for machine in (ann, bob):
        machine.start()
    world.advance(3 * INTERVAL)
    for machine in (ann, bob):
        machine.peer.unreachable = True
        machine.remember("a.md", f"{machine.name} in {machine.root}\n")
        machine.say(S, f"{machine.name} goes on")
        world.advance(10)
    for machine in (ann, bob):
        machine.peer.unreachable = False
    world.advance(4 * INTERVAL)
    return Desk(world, ann), bob


@pytest.fixture
def desk(pair: tuple[Desk, FakeMachine]) -> Desk:
    return pair[0]


def resolve(desk: Desk, path: str = NAME, take: str = "ours", local: str = "/nowhere") -> Any:
    answer = desk.ask("conflict_resolve", path=path, local=local, take=take)
    assert answer.error_ is None, answer.error_
    return answer.value


def test_conflicts_are_listed_in_local_form_and_divergences_beside_them(desk: Desk) -> None:
    found = desk.ask("conflicts").value
    assert found["schema"] == 1
    (file,) = found["conflicts"]
    assert (file["project"], file["path"], file["name"]) == ("app", "memory/a.md", NAME)
    assert file["local"] == desk.machine.memory("a.md")
    (sides,) = file["conflicts"]
    # Where the project lies here is what is shown, whoever wrote it.
    here = desk.machine.root
    assert [(one["machine"], one["ours"], one["text"], one["cut"]) for one in sides] == [
        ("ann", True, f"ann in {here}", False),
        ("bob", False, f"bob in {here}", False),
    ]
    (one,) = found["divergences"]
    assert {one["session_by"], one["fork_by"]} == {"ann", "bob"}
    assert {one["session"], one["fork"]} == desk.machine.sessions()


def test_long_sides_are_cut_in_the_listing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convergenced.control.conflicts.MAX_SIDE", 4)
    monkeypatch.setattr("convergenced.control.conflicts.MAX_SHOWN", 6)
    ((sides,),) = (file["conflicts"] for file in desk.ask("conflicts").value["conflicts"])
    assert [(one["text"], one["cut"]) for one in sides] == [("ann ", True), ("bo", True)]


def test_status_shows_the_command_that_settles_it_and_the_divergence_as_a_notice(desk: Desk) -> None:
    status = desk.ask("status", project="app").value
    assert [one["fix"] for one in status["attention"]] == [
        f"convergencectl conflict resolve {NAME} --take ours|theirs|both"
    ]
    (notice,) = status["notices"]
    assert (notice["kind"], notice["project"]) == ("fork", "app")
    assert "went on in two places (" in notice["text"]
    desk.world.advance(86_400)
    status = desk.ask("status").value
    assert status["notices"] == []
    assert status["attention"] != []


@pytest.mark.parametrize("path", [NAME, "memory/a.md"])
def test_it_is_settled_here_and_everywhere(pair: tuple[Desk, FakeMachine], path: str) -> None:
    desk, bob = pair
    assert resolve(desk, path, "theirs") == {
        "project": "app",
        "path": "memory/a.md",
        "name": NAME,
        "edited": False,
        "waits": None,
    }
    assert desk.machine.notes() == {"a.md": f"bob in {desk.machine.root}\n"}
    desk.world.advance(3 * INTERVAL)
    assert bob.notes() == {"a.md": f"bob in {bob.root}\n"}
    assert desk.ask("conflicts").value["conflicts"] == []
    assert desk.ask("status").value["attention"] == []


def test_a_local_path_means_the_file_that_lies_there(desk: Desk) -> None:
    assert resolve(desk, "a.md", local=desk.machine.memory("a.md"))["name"] == NAME


def test_while_claude_runs_it_is_settled_and_written_later(desk: Desk) -> None:
    pid = desk.machine.processes.begin(desk.machine.root)
    waits = resolve(desk)["waits"]
    assert waits.startswith("it is written here when Claude Code has ended (")
    assert f"(pid {pid})" in waits
    desk.machine.processes.end(pid)
    desk.world.advance(INTERVAL)
    assert desk.machine.notes() == {"a.md": f"ann in {desk.machine.root}\n"}


def test_an_edit_that_nobody_saw_yet_may_have_settled_it(desk: Desk) -> None:
    desk.machine.remember("a.md", "one text\n")
    desk.machine.watcher.stop()
    assert resolve(desk)["edited"] is True
    assert desk.machine.log.texts("commit")[-1] == "committed memory 1"
    assert desk.machine.notes() == {"a.md": "one text\n"}


def test_what_is_meant_must_be_in_conflict(desk: Desk) -> None:
    error = desk.ask("conflict_resolve", path="memory/b.md", local="/nowhere", take="ours").error_
    assert isinstance(error, UsageError)
    assert error.summary == "memory/b.md is no memory file that holds both sides"
    assert error.hint == f"in conflict:\n  {NAME}"
    resolve(desk)
    error = desk.ask("conflict_resolve", path=NAME, local="/nowhere", take="ours").error_
    assert isinstance(error, UsageError)
    assert "there is no conflict" in error.hint


def test_a_name_that_two_projects_have_in_conflict_needs_the_project(desk: Desk) -> None:
    ann = desk.machine
    other = f"{ann.home}/src/other"
    ann.checkout(other, "example.org/ann/other")
    marked = "<<<<<<< convergence\na\n=======\nb\n>>>>>>> convergence\n"
    ann.remember("a.md", marked, root=other)
    desk.world.advance(3 * INTERVAL)
    error = desk.ask("conflict_resolve", path="memory/a.md", local="/nowhere", take="both").error_
    assert isinstance(error, UsageError)
    assert error.hint == f"in conflict:\n  {NAME}\n  other:memory/a.md"
    assert resolve(desk, "other:memory/a.md", "both")["project"] == "other"


def test_paused_nothing_is_settled(desk: Desk) -> None:
    desk.ask("pause", projects=["app"])
    error = desk.ask("conflict_resolve", path=NAME, local="/nowhere", take="ours").error_
    assert isinstance(error, ConvergenceError)
    assert error.hint == "convergencectl resume app"


@pytest.mark.parametrize(
    "params",
    [
        {"path": NAME, "local": "/x"},
        {"path": NAME, "local": "/x", "take": "mine"},
        {"local": "/x", "take": "ours"},
        {"path": NAME, "take": "ours"},
    ],
)
def test_parameters_that_make_no_sense_are_refused(desk: Desk, params: dict[str, Json]) -> None:
    assert desk.begin("conflict_resolve", **params).code == INVALID_PARAMS
