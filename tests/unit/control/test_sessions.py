"""`sessions` and `session_…` through the socket's methods, on machines in memory."""

from __future__ import annotations

from typing import Any

import pytest

from convergenced.control import sessions
from convergenced.control.protocol import INVALID_PARAMS, Json
from convergenced.control.sessions import read_conversation
from convergenced.errors import ConvergenceError, UsageError
from convergenced.model import MachineId, ProjectId
from convergenced.sync.presence import LiveSession
from tests.unit.control.test_dispatch import Desk
from tests.unit.sync.engines import INTERVAL
from tests.unit.sync.world import World, sid

ONE, TWO, ELSEWHERE = sid(1), sid(2), sid(3)


@pytest.fixture
def desk() -> Desk:
    """Ann's machine with sessions of hers and one of Bob's, in step; the first was removed at hers."""
    world = World()
    ann, bob = world.machine("ann"), world.machine("bob")
    ann.say(ONE, f"the first, of {ann.root}")
    ann.start()
    bob.start()
    world.advance(INTERVAL)
    ann.say(TWO, "the second")
    world.advance(INTERVAL)
    bob.say(ELSEWHERE, "on the other machine")
    world.advance(3 * INTERVAL)
    ann.files.unlink(ann.transcript(ONE))
    world.advance(INTERVAL)
    return Desk(world, ann)


def ask(desk: Desk, method: str, **params: Json) -> Any:
    answer = desk.ask(method, **params)
    assert answer.error_ is None, answer.error_
    return answer.value


def refused(desk: Desk, method: str, **params: Json) -> ConvergenceError:
    error = desk.ask(method, **params).error_
    assert error is not None
    return error


def test_sessions_are_listed_newest_first_with_where_they_are(desk: Desk) -> None:
    found = ask(desk, "sessions")
    assert (found["schema"], found["total"], found["unreadable"]) == (1, 3, [])
    listed = [(one["id"], one["title"], one["machine"], one["state"]) for one in found["sessions"]]
    assert listed == [
        (ELSEWHERE, "on the other machine", "bob", "here"),
        (TWO, "the second", "ann", "here"),
        (ONE, f"the first, of {desk.machine.root}", "ann", "removed"),
    ]
    paths = [one["path"] for one in found["sessions"]]
    assert paths == [desk.machine.transcript(ELSEWHERE), desk.machine.transcript(TWO), None]


def test_where_a_session_is_open_is_told(desk: Desk) -> None:
    parts, here = desk.machine.parts, [desk.machine.app]
    live = LiveSession(ProjectId("app"), TWO, "bob", MachineId("id-of-bob"), 0.0)
    found = sessions.list_sessions(parts, here, None, live=[live])
    assert [one["open_on"] for one in found["sessions"]] == [[], ["bob"], []]
    assert [one["open_on"] for one in ask(desk, "sessions")["sessions"]] == [[], [], []]


def test_a_page_of_them_can_be_asked_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one["id"] for one in ask(desk, "sessions", offset=1, limit=1)["sessions"]] == [TWO]
    monkeypatch.setattr(sessions, "MAX_PAGE", 2)
    found = ask(desk, "sessions", limit=1_000)
    assert (found["total"], len(found["sessions"])) == (3, 2)


@pytest.mark.parametrize("name", ["app", "/home/ann/src/app"])
def test_the_sessions_of_one_project_by_its_id_or_its_folder(desk: Desk, name: str) -> None:
    assert ask(desk, "sessions", project=name)["total"] == 3
    assert isinstance(refused(desk, "sessions", project="nope"), UsageError)


def test_a_session_of_a_project_without_a_place_here_is_only_in_the_store(desk: Desk) -> None:
    parts = desk.machine.parts
    found = sessions.list_sessions(parts, [], None)
    assert {one["state"] for one in found["sessions"]} == {"store"}
    assert found["sessions"][-1]["title"] == "the first, of {{CC_PROJECT_ROOT}}"


def test_a_project_that_cannot_be_read_does_not_hide_the_others(desk: Desk) -> None:
    store = desk.machine.store
    tip = desk.machine.tip()
    assert tip is not None
    store.swap("refs/heads/project/broken", None, tip)
    ask(desk, "sessions")
    parts, replicas = desk.machine.parts, [desk.machine.app]

    def read_catalog(_: object, project: ProjectId, __: object) -> object:
        if project == "broken":
            raise ConvergenceError("it is broken", "mend it")
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "read_catalog", read_catalog)
        found = sessions.list_sessions(parts, replicas, None)
    assert found["unreadable"] == [{"project": "broken", "text": "it is broken (mend it)"}]


def test_a_conversation_has_this_machines_paths(desk: Desk) -> None:
    said = read_conversation(desk.machine.parts, [desk.machine.app], ONE[:9])
    assert (said.project, said.session) == ("app", ONE)
    assert [entry.text for entry in said.entries] == [f"the first, of {desk.machine.root}"]
    nowhere = read_conversation(desk.machine.parts, [], ONE)
    assert [entry.text for entry in nowhere.entries] == ["the first, of {{CC_PROJECT_ROOT}}"]


def test_the_history_of_a_session(desk: Desk) -> None:
    found = ask(desk, "session_history", session=ELSEWHERE[:8])
    assert (found["session"], found["whole"]) == (ELSEWHERE, True)
    assert [(one["machine"], one["records"]) for one in found["changes"]] == [("bob", 1)]
    assert isinstance(refused(desk, "session_history", session="nope"), UsageError)
    assert desk.ask("session_history").code == INVALID_PARAMS


def test_a_removed_session_is_brought_back_and_the_answer_comes_then(desk: Desk) -> None:
    ann = desk.machine
    found = ask(desk, "session_restore", session=ONE[:8])
    assert found == {
        "project": "app",
        "session": ONE,
        "origin": None,
        "root": ann.root,
        "path": ann.transcript(ONE),
        "there": False,
        "waits": None,
    }
    assert ann.texts(ONE) == [f"the first, of {ann.root}"]
    assert ask(desk, "session_restore", session=ONE)["there"]


def test_while_claude_code_runs_the_answer_says_so_and_it_comes_later(desk: Desk) -> None:
    ann = desk.machine
    client = ann.processes.begin(ann.root)
    found = ask(desk, "session_restore", session=ONE)
    assert found["waits"].startswith("it is written here when Claude Code has ended (")
    assert ONE not in ann.sessions()
    ann.processes.end(client)
    desk.world.advance(INTERVAL)
    assert ONE in ann.sessions()


def test_paused_or_halted_nothing_comes_back(desk: Desk) -> None:
    ask(desk, "pause", projects=["app"])
    assert refused(desk, "session_restore", session=ONE).summary == "app is paused"
    ask(desk, "resume", projects=["app"])
    desk.machine.engine.board.halted = "the disk is gone"
    assert "the disk is gone" in refused(desk, "session_restore", session=ONE).summary


def test_an_older_state_comes_back_as_a_session_of_its_own(desk: Desk) -> None:
    ann = desk.machine
    before = ask(desk, "session_history", session=TWO)["changes"][-1]["commit"]
    ann.say(TWO, "more")
    desk.world.advance(INTERVAL)
    found = ask(desk, "session_restore", session=TWO, at=before[:8])
    assert found["origin"] == TWO
    assert ann.texts(found["session"]) == ["the second"]
    assert ann.texts(TWO) == ["the second", "more"]
    listed = {one["id"]: one["origin"] for one in ask(desk, "sessions")["sessions"]}
    assert listed[found["session"]] == TWO
    again = ask(desk, "session_restore", session=TWO, at=before[:8])
    assert (again["session"], again["there"]) == (found["session"], True)
    assert isinstance(refused(desk, "session_restore", session=TWO, at="nope"), UsageError)


def test_backups_that_are_not_there_are_named(desk: Desk) -> None:
    assert ask(desk, "session_backups") == {"schema": 1, "total": 0, "backups": []}
    error = refused(desk, "session_restore", session=TWO, backup="2031")
    assert error.hint == f"see: convergencectl session backups {TWO}"
