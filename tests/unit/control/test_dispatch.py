"""What each method of the socket answers, with a whole engine on fakes behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from convergenced.control.dispatch import Dispatcher
from convergenced.control.doctor import Doctor
from convergenced.control.protocol import INVALID_PARAMS, METHOD_NOT_FOUND, Json, Request
from convergenced.control.server import Reply
from convergenced.errors import ConfigError, ConvergenceError, TimedOutError, UsageError
from convergenced.machine.locations import Locations
from convergenced.model import Author, Commit, TreeEntry
from tests.unit.sync.world import FakeMachine, World, sid

NOWHERE = Locations.from_environment({"CONVERGENCE_HOME": "/nowhere/at/all"}, "/nowhere")
S = sid(1)
INTERVAL = 90.0


@dataclass
class Answer:
    """Stands in for the server's `Reply` and keeps what was answered."""

    value: Any = None
    error_: ConvergenceError | None = None
    code: int | None = None
    times: int = 0
    closed: bool = False

    @property
    def answered(self) -> bool:
        return self.times > 0

    def result(self, value: Json) -> None:
        self.value = value
        self.times += 1

    def error(self, error: ConvergenceError) -> None:
        self.error_ = error
        self.times += 1

    def refuse(self, code: int, message: str) -> None:
        del message
        self.code = code
        self.times += 1


@dataclass
class Desk:
    """A machine with its dispatcher."""

    world: World
    machine: FakeMachine
    calls: list[tuple[str, ...]] = field(default_factory=list)
    broken_config: bool = False

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(
            self.machine.engine,
            self.machine.parts,
            reload=self._reload,
            add_peer=lambda name, url: self.calls.append(("add", name, url)),
            remove_peer=lambda name: self.calls.append(("remove", name)),
            exclude=self._exclude,
            doctor=Doctor(self.machine.parts, NOWHERE, {}),
            shutdown=lambda: self.calls.append(("shutdown",)),
        )

    def _reload(self) -> None:
        if self.broken_config:
            raise ConfigError("line 3 is wrong", "mend it")
        self.calls.append(("reload",))

    def _exclude(self, add: Sequence[str], remove: Sequence[str]) -> None:
        if self.broken_config:
            raise ConfigError("line 3 is wrong", "mend it")
        engine = self.machine.engine
        patterns = [one for one in engine.settings.projects.exclude if one not in remove]
        projects = replace(engine.settings.projects, exclude=(*patterns, *add))
        engine.apply(replace(engine.settings, projects=projects))

    def begin(self, method: str, **params: Json) -> Answer:
        """Sends a request; what it waits for has not happened yet."""
        answer = Answer()
        self.dispatcher.handle(Request(1, method, params), cast("Reply", answer))
        self.machine.engine.turn()
        return answer

    def ask(self, method: str, **params: Json) -> Answer:
        """Sends a request and lets the world go on until it is answered, once."""
        answer = self.begin(method, **params)
        self.world.advance(5)
        assert answer.times == 1, method
        return answer


@pytest.fixture
def desk() -> Desk:
    world = World()
    ann = world.machine("ann")
    ann.checkout(ann.root, "example.org/ann/app")
    ann.say(S, "hello")
    ann.start()
    world.advance(10)
    return Desk(world, ann)


def test_status_names_machine_daemon_peers_and_projects(desk: Desk) -> None:
    status = desk.ask("status").value
    assert status["schema"] == 1
    assert status["machine"]["name"] == "ann"
    assert status["daemon"]["state"] == "running"
    assert [peer["state"] for peer in status["peers"]] == ["ok"]
    (project,) = status["projects"]
    assert (project["id"], project["state"], project["sessions"]) == ("app", "synced", 1)
    assert project["tip"] == desk.machine.tip()
    assert project["held"] is None
    assert status["attention"] == []


def test_status_can_be_asked_at_any_moment_also_while_a_round_is_under_way(desk: Desk) -> None:
    desk.machine.engine.tracked_anew()
    desk.machine.engine.turn()
    assert any(peer.busy for peer in desk.machine.engine.board.peers.values())
    status = desk.begin("status").value
    assert status["peers"][0]["next_try"] is None
    desk.world.advance(5)
    assert desk.ask("status").value["peers"][0]["next_try"].endswith("Z")


def test_status_of_one_project_and_of_none(desk: Desk) -> None:
    assert [one["id"] for one in desk.ask("status", project="app").value["projects"]] == ["app"]
    error = desk.ask("status", project="zoo").error_
    assert isinstance(error, UsageError)
    assert "zoo" in error.summary
    assert "app" in error.hint


def test_a_project_is_named_by_its_root_too(desk: Desk) -> None:
    assert [one["id"] for one in desk.ask("status", project=desk.machine.root).value["projects"]] == ["app"]


def test_pause_holds_everything_until_resume(desk: Desk) -> None:
    assert desk.ask("pause", projects=[], seconds=None).value == {"projects": ["app"]}
    assert desk.ask("status").value["daemon"]["state"] == "paused"
    tip = desk.machine.tip()
    desk.machine.say(S, "later")
    desk.world.advance(INTERVAL)
    assert desk.machine.tip() == tip
    assert desk.ask("resume", projects=["app"]).value == {"projects": ["app"]}
    assert desk.ask("resume", projects=[]).value == {"projects": ["app"]}
    desk.world.advance(INTERVAL)
    assert desk.machine.tip() != tip


def test_a_pause_with_a_length_ends_by_itself(desk: Desk) -> None:
    desk.ask("pause", projects=["app"], seconds=60)
    assert desk.ask("status").value["projects"][0]["paused_until"].endswith("Z")
    desk.world.advance(INTERVAL)
    assert desk.ask("status").value["projects"][0]["state"] == "synced"


def test_sync_answers_at_once_or_waits_until_all_is_in_step(desk: Desk) -> None:
    assert desk.begin("sync", projects=[]).value == {"actions": [], "state": "synced", "unsynced": []}
    desk.machine.say(S, "more")
    waiting = desk.begin("sync", projects=["app"], wait=True, full=True)
    assert not waiting.answered
    desk.world.advance(5)
    assert waiting.value == {"actions": [], "state": "synced", "unsynced": []}


def test_sync_does_not_wait_for_what_only_others_can_change(desk: Desk) -> None:
    desk.machine.peers["hub"].unreachable = True
    answer = desk.ask("sync", projects=[], wait=True)
    assert answer.value["state"] == "pending"
    assert answer.value["unsynced"][0]["project"] == "app"


def test_a_dry_run_tells_and_changes_nothing(desk: Desk) -> None:
    desk.machine.say(S, "more")
    tip = desk.machine.tip()
    desk.ask("pause", projects=[])
    actions = desk.ask("sync", projects=["app"], dry_run=True).value["actions"]
    assert [one["project"] for one in actions] == ["app"]
    assert "commit 1 changed file" in actions[0]["text"]
    assert desk.machine.tip() == tip


def test_wait_gives_up_in_time_and_says_what_is_missing(desk: Desk) -> None:
    assert desk.ask("wait", timeout=30).value["state"] == "synced"
    desk.machine.peers["hub"].unreachable = True
    answer = desk.begin("wait", timeout=30)
    desk.world.advance(29)
    assert not answer.answered
    desk.world.advance(2)
    assert isinstance(answer.error_, TimedOutError)
    assert "hub" in answer.error_.summary


def test_a_client_that_left_is_waited_for_no_more(desk: Desk) -> None:
    desk.machine.peers["hub"].unreachable = True
    answer = desk.begin("wait", timeout=None)
    answer.closed = True
    desk.world.advance(5)
    desk.machine.peers["hub"].unreachable = False
    desk.world.advance(INTERVAL)
    assert not answer.answered


def test_projects_that_peers_have_are_told_when_asked_for(desk: Desk) -> None:
    bob = desk.world.machine("bob")
    bob.checkout(f"{bob.home}/src/zoo", "example.org/bob/zoo")
    bob.say(sid(2), "roar", root=f"{bob.home}/src/zoo")
    bob.start()
    desk.world.advance(3 * INTERVAL)
    assert desk.ask("projects", available=True).value["available"] == [{"id": "zoo", "machines": []}]
    assert desk.ask("projects").value["available"] == []


def test_init_and_join_name_the_folder_or_say_what_is_wrong(desk: Desk) -> None:
    assert isinstance(desk.ask("init", path="/nowhere/at/all").error_, UsageError)
    assert isinstance(desk.ask("join", path="/nowhere/at/all", id="zoo").error_, UsageError)


def test_peers_configuration_and_the_end_are_passed_on(desk: Desk) -> None:
    desk.ask("peer_add", name="spare", url="/srv/spare.git")
    desk.ask("peer_remove", name="spare")
    desk.ask("reload")
    desk.ask("shutdown")
    assert desk.calls == [("add", "spare", "/srv/spare.git"), ("remove", "spare"), ("reload",), ("shutdown",)]
    desk.broken_config = True
    assert isinstance(desk.ask("reload").error_, ConfigError)


def test_what_is_allowed_is_kept_until_it_is_taken_back(desk: Desk) -> None:
    first, second = "0123456789ab", "ba9876543210"
    assert desk.ask("secrets_allow", fingerprints=[first, second]).value["allowed"].keys() == {first, second}
    assert desk.ask("secrets_allow", fingerprints=[first], forget=True).value["allowed"].keys() == {second}
    assert desk.machine.state.allowed().keys() == {second}


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("pause", {"projects": "app"}),
        ("pause", {"projects": [1]}),
        ("pause", {"projects": [], "seconds": -1}),
        ("pause", {"projects": [], "seconds": True}),
        ("pause", {"seconds": float("nan")}),
        ("pause", {"seconds": float("inf")}),
        ("pause", {"seconds": 10**400}),
        ("wait", {"timeout": float("nan")}),
        ("init", {"path": "/a\0b"}),
        ("join", {"path": "/\ud800"}),
        ("sync", {"wait": "yes"}),
        ("wait", {"for": "rain"}),
        ("init", {}),
        ("status", {"project": 7}),
        ("doctor", {"deep": "yes"}),
        ("doctor", {"path": 7}),
        ("secrets_allow", {"fingerprints": "012345678901"}),
        ("secrets_allow", {"fingerprints": ["0123456789"]}),
        ("secrets_allow", {"fingerprints": ["012345678901"], "forget": "yes"}),
    ],
)
def test_parameters_of_the_wrong_kind_are_refused(desk: Desk, method: str, params: dict[str, Json]) -> None:
    assert desk.ask(method, **params).code == INVALID_PARAMS


def test_an_unknown_method_is_refused(desk: Desk) -> None:
    assert desk.ask("dance").code == METHOD_NOT_FOUND


def test_a_request_that_fails_by_a_defect_does_not_end_the_daemon(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("convergenced.control.dispatch.format_status", broken)
        assert "status failed" in str(desk.ask("status").error_)
    assert desk.ask("status").value["schema"] == 1


def test_the_doctor_looks_at_everything_and_says_what_it_did(desk: Desk) -> None:
    answer = desk.ask("doctor").value
    assert answer["schema"] == 1
    assert answer["fixed"] == []
    found = {one["check"]: one for one in answer["findings"]}
    assert found["daemon"]["state"] == found["peers"]["state"] == "ok"
    assert found["files"]["project"] == "app"
    assert {one["fixable"] for one in answer["findings"]} == {False}
    elsewhere = desk.ask("doctor", path="/", deep=True, fix=True).value["findings"]
    assert any("takes no part yet" in one["text"] for one in elsewhere)


def test_the_doctor_tells_of_a_daemon_that_is_not_whole_and_of_a_peer_that_is_away(desk: Desk) -> None:
    desk.machine.engine.desk.degrade("watch", ConvergenceError("the limit of watches is used up", "raise it"))
    desk.machine.engine.board.halted = "the projects folder is missing"
    desk.machine.peers["hub"].unreachable = True
    found = [one for one in desk.ask("doctor").value["findings"] if one["state"] != "ok"]
    assert [(one["check"], one["state"]) for one in found] == [
        ("daemon", "problem"),
        ("daemon", "problem"),
        ("peers", "warning"),
    ]


def test_the_doctor_tells_what_was_set_aside_once(desk: Desk) -> None:
    desk.machine.files.link(desk.machine.transcript(sid(2)), "/etc/passwd")
    store = desk.machine.store
    tip = desk.machine.tip()
    assert tip is not None
    tree = store.write_tree([*store.read_tree(store.read_commit(tip).tree), TreeEntry("x", 0o120000, tip)])
    commit = store.write_commit(Commit(tree, (tip,), Author("x", "x"), 1, "hostile\n"))
    store.swap("refs/heads/project/app", tip, commit)
    desk.ask("sync", projects=[], wait=True)
    found = [one for one in desk.ask("doctor").value["findings"] if one["state"] != "ok"]
    assert [one["check"] for one in found] == ["files", "quarantine"]
    assert all(one["fix"] for one in found)


def test_the_doctor_waits_until_it_is_known_what_takes_part() -> None:
    world = World()
    ann = world.machine("ann")
    ann.say(S, "hello")
    ann.start()
    desk = Desk(world, ann)
    assert not ann.engine.ready
    answer = desk.begin("doctor")
    assert not answer.answered
    world.advance(5)
    assert "app" in {one["project"] for one in answer.value["findings"]}


def test_ping_tells_whether_it_is_ready(desk: Desk) -> None:
    assert desk.ask("ping").value["ready"] is True
