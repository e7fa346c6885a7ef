"""The engine, turn by turn: when it works, what it says, and what never ends it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from convergenced.errors import PeerUnreachableError, StoreError, UsageError
from convergenced.machine.settings_schema import (
    ExchangeSettings,
    IngestSettings,
    LocalizeSettings,
    PeerSettings,
    ProjectSettings,
)
from convergenced.model import LocalPath, ProjectId
from convergenced.store.branch import tracking_ref
from convergenced.sync.board import Missing
from convergenced.sync.converge import converge
from convergenced.sync.engine import MAX_BATCH, WAKE_JUMP
from convergenced.sync.lookout import LANE
from convergenced.sync.once import one_pass
from convergenced.sync.passes import _counted
from convergenced.sync.plan import PUSH_DELAY
from convergenced.sync.tips import ref_of
from tests.fakes.peer import MemoryPeer
from tests.fakes.store import MemoryStore
from tests.unit.sync.world import APP, HUB, FakeMachine, World, branch, project_at, sid

S = sid(1)
INTERVAL = 60.0


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


def state(machine: FakeMachine, project: str = APP) -> str:
    one = ProjectId(project)
    return machine.engine.board.state_of(one, machine.engine.distance(one))


def is_ready(machine: FakeMachine) -> bool:
    return machine.engine.ready


def halted(machine: FakeMachine) -> str | None:
    return machine.engine.board.halted


def missing(machine: FakeMachine) -> list[str]:
    return [miss.text for miss in machine.engine.unsynced(None, -1.0)]


class Waiter:
    """Somebody who waits until nothing is missing, and keeps every answer."""

    def __init__(self) -> None:
        self.answers: list[list[Missing]] = []

    def __call__(self, found: list[Missing]) -> bool:
        self.answers.append(found)
        return not found


# -- the ordinary day


def test_what_one_machine_writes_the_other_has_soon(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, bob = pair
    assert state(ann) == state(bob) == "synced"
    ann.say(S, f"at {ann.root}")
    assert bob.sessions() == ann.sessions() - {S}
    world.advance(2.0 + PUSH_DELAY + 0.1)
    assert branch(APP) in world.hub.ref_targets
    world.advance(INTERVAL * 1.3)
    assert bob.texts(S) == [f"at {bob.root}"]
    assert ann.tip() == bob.tip() == world.hub.ref_targets[branch(APP)]
    assert missing(ann) == missing(bob) == []
    assert ann.log.texts("commit")[-1] == "committed 1 session +1 records"
    assert ann.log.texts("push")[-1] == "pushed app to hub"
    assert bob.log.texts("localize")[-1] == "wrote 1 session"


def test_on_a_quiet_day_nothing_is_committed_fetched_or_pushed(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, bob = pair
    events = len(ann.log.events), len(bob.log.events)
    tip, written = ann.tip(), world.hub.writes
    ann.peer.calls.clear()
    world.advance(3600)
    assert (len(ann.log.events), len(bob.log.events)) == events
    assert ann.tip() == tip
    assert world.hub.writes == written
    assert {call for call, _ in ann.peer.calls} == {"list"}
    assert len(ann.peer.calls) == pytest.approx(3600 / INTERVAL, abs=2)


def test_a_commit_waits_for_silence(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, _ = pair
    commits = len(ann.log.texts("commit"))
    for _ in range(5):
        ann.say(S, "typing")
        world.advance(1.5)
    assert len(ann.log.texts("commit")) == commits
    world.advance(2.0)
    assert ann.log.texts("commit")[commits:] == ["committed 1 session +5 records"]


def test_a_constant_writer_still_gets_commits(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, _ = pair
    commits = len(ann.log.texts("commit"))
    for _ in range(90):
        ann.say(S, "typing")
        world.advance(1.0)
    assert len(ann.log.texts("commit")) - commits == 2 or len(ann.log.texts("commit")) - commits == 3


def test_a_new_folder_is_noticed_and_taken_in(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, _ = pair
    ann.checkout(f"{ann.home}/src/zoo", "example.org/ann/zoo")
    ann.say(S, "hello", root=f"{ann.home}/src/zoo")
    world.advance(10)
    assert state(ann, "zoo") == "synced"
    assert branch("zoo") in world.hub.ref_targets
    assert ann.log.texts("track")[-1] == f"takes part with {ann.home}/src/zoo"


def test_what_a_peer_has_is_joined_where_the_code_is_checked_out(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, bob = pair
    bob.checkout(f"{bob.home}/src/zoo", "example.org/ann/zoo")
    ann.checkout(f"{ann.home}/src/zoo", "example.org/ann/zoo")
    ann.say(S, "hello", root=f"{ann.home}/src/zoo")
    world.advance(3 * INTERVAL)
    assert bob.texts(S, root=f"{bob.home}/src/zoo") == ["hello"]
    assert bob.log.texts("join") == [f"joined zoo at {bob.home}/src/zoo"]


def test_other_code_of_that_name_is_not_joined(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, bob = pair
    bob.checkout(f"{bob.home}/src/zoo", "example.org/eve/zoo")
    ann.checkout(f"{ann.home}/src/zoo", "example.org/ann/zoo")
    ann.say(S, "hello", root=f"{ann.home}/src/zoo")
    world.advance(3 * INTERVAL)
    assert bob.log.texts("join") == []
    assert "zoo" not in bob.engine.board.projects()
    assert ref_of(bob.store, tracking_ref(HUB, ProjectId("zoo"))) is None, "nothing of it is kept"


def test_a_folder_that_went_is_let_go(world: World, ann: FakeMachine) -> None:
    tree = f"{ann.home}/src/app-tree"
    ann.checkout(tree, "example.org/ann/app", main_root=ann.root)
    ann.say(S, "main")
    ann.say(sid(2), "tree", root=tree)
    ann.start()
    world.advance(INTERVAL)
    assert len(ann.engine.board.replicas) == 2
    ann.files.unlink(ann.context(tree))
    world.advance(INTERVAL)
    assert len(ann.engine.board.replicas) == 1
    assert state(ann) == "synced"
    assert set(ann.tree().sessions) == {S, sid(2)}


# -- nothing is called synced that was not looked at


def test_before_the_first_look_nothing_is_synced(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.start()
    assert not is_ready(ann)
    assert ann.engine.unsynced(None, 0.0) == [Missing("", "the projects folder is being looked at", "work")]
    ann.step()
    assert is_ready(ann)
    assert state(ann) == "pending"
    world.settle()
    assert state(ann) in ("ahead", "pending", "synced")
    world.advance(1.0)
    assert state(ann) == "synced"


def test_while_a_peer_fails_nothing_is_synced(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, bob = pair
    ann.peer.unreachable = True
    world.advance(INTERVAL * 1.3)
    assert state(ann) == "pending"
    assert missing(ann) == ["hub fails: peer hub: cannot be reached"]
    assert ann.engine.board.peers[HUB].state == "failing"
    since = ann.engine.board.peers[HUB].failing_since
    ann.say(S, "meanwhile")
    world.advance(600)
    assert state(ann) == "ahead"
    assert ann.engine.board.peers[HUB].failing_since == since
    assert ann.log.texts("peer") == ["hub: peer hub: cannot be reached"], "said once"
    assert state(bob) == "synced", "the others go on"
    ann.peer.unreachable = False
    world.advance(1200)
    assert state(ann) == "synced"
    assert ann.log.texts("peer")[-1] == "hub answers again"
    assert bob.texts(S) == ["meanwhile"]


def test_a_failing_peer_is_asked_ever_more_rarely(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.peer.unreachable = True
    ann.start()
    world.advance(3600)
    assert 8 <= len(ann.peer.calls) <= 14
    assert ann.engine.board.peers[HUB].failures == len(ann.peer.calls)


def test_a_failing_peer_does_not_stop_the_others(world: World, ann: FakeMachine) -> None:
    other = MemoryStore()
    ann.peers["nas"] = MemoryPeer(ann.store, other, name="nas")
    ann.peer.refusing = True
    ann.say(S, "hello")
    ann.start(
        ann.with_settings(peers=(PeerSettings(HUB, "/srv/hub.git"), PeerSettings("nas", "/srv/nas.git")))
    )
    world.advance(INTERVAL)
    assert other.ref_targets == {branch(APP): ann.tip()}
    assert missing(ann) == ["hub fails: peer hub: permission denied"]
    assert state(ann) == "ahead" or state(ann) == "pending"


def test_what_one_peer_has_reaches_the_other(world: World, ann: FakeMachine, bob: FakeMachine) -> None:
    nas = MemoryStore()
    ann.peers["nas"] = MemoryPeer(ann.store, nas, name="nas")
    ann.say(sid(2), "ann's")
    ann.start(
        ann.with_settings(peers=(PeerSettings(HUB, "/srv/hub.git"), PeerSettings("nas", "/srv/nas.git")))
    )
    bob.say(S, "bob's")
    bob.start()
    world.advance(2 * INTERVAL)
    assert nas.ref_targets[branch(APP)] == world.hub.ref_targets[branch(APP)]
    assert S in project_at(nas, nas.ref_targets[branch(APP)]).sessions


def test_a_commit_during_a_round_is_pushed_right_after_it(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, _ = pair
    ann.say(S, "one")
    plain = ann.peer.push

    def slow(refs: list[str]) -> dict[str, str | None]:
        ann.peer.push = plain  # type: ignore[method-assign]
        answer = plain(refs)
        ann.say(S, "two")
        ann.engine.turn()
        world.clock.advance(2.5)
        ann.engine.turn()
        for lane in [lane for lane in ann.workers.waiting() if lane.startswith("local")]:
            ann.workers.run_one(lane)
        return answer

    ann.peer.push = slow  # type: ignore[method-assign, assignment]
    world.advance(2.0 + PUSH_DELAY + 0.1)
    assert b'"two"' in ann.stored(S)
    world.advance(PUSH_DELAY + 0.1)
    assert world.hub.ref_targets[branch(APP)] == ann.tip()


def test_a_look_that_is_asked_for_during_a_round_gets_a_round_of_its_own(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, _ = pair
    waiter = Waiter()
    plain = ann.peer.list

    def slow() -> dict[str, object]:
        ann.peer.list = plain  # type: ignore[method-assign]
        world.clock.advance(1.0)
        since = ann.engine.look_at_everything()
        ann.engine.wait(None, since, None, waiter)
        return plain()  # type: ignore[return-value]

    ann.peer.list = slow  # type: ignore[method-assign, assignment]
    world.advance(INTERVAL * 1.3)
    assert ann.peer.list == plain
    assert waiter.answers[-1] == [], "and not only after the next interval"


# -- waiting


@pytest.mark.parametrize("named", [True, False])
def test_a_wait_ends_once_all_was_looked_at_again(
    world: World, pair: tuple[FakeMachine, FakeMachine], named: bool
) -> None:
    ann, _ = pair
    waiter = Waiter()
    wanted = [APP] if named else None
    world.clock.advance(1.0)
    since = ann.engine.look_at_everything(wanted)
    ann.engine.wait(wanted, since, None, waiter)
    ann.engine.turn()
    assert waiter.answers[-1], "nothing was looked at since"
    world.settle()
    assert waiter.answers[-1] == []
    count = len(waiter.answers)
    world.advance(1.0)
    assert len(waiter.answers) == count, "it is not asked again"


def test_a_folder_that_appeared_while_the_folder_was_looked_at_is_waited_for(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, _ = pair
    ann.watcher.deaf = True
    ann.engine.look_at_everything()
    ann.engine.turn()
    world.clock.advance(1.0)
    assert ann.workers.run_one("local-0")
    ann.checkout(f"{ann.home}/src/zoo", "example.org/ann/zoo")
    ann.say(S, "hello", root=f"{ann.home}/src/zoo")
    since = ann.engine.look_at_everything()
    waiter = Waiter()
    ann.engine.wait(None, since, None, waiter)
    while not waiter.answers or waiter.answers[-1]:
        world.clock.advance(0.1)
        ann.step()
    assert branch("zoo") in ann.store.ref_targets


def test_a_wait_ends_at_its_deadline(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, _ = pair
    ann.peer.unreachable = True
    waiter = Waiter()
    since = ann.engine.look_at_everything()
    ann.engine.wait([APP], since, 5.0, waiter)
    world.advance(4.0)
    count = len(waiter.answers)
    world.advance(2.0)
    assert waiter.answers[-1]
    world.advance(100.0)
    assert len(waiter.answers) > count
    total = len(waiter.answers)
    world.advance(100.0)
    assert len(waiter.answers) == total


def test_held_work_is_waited_for_only_by_the_patient(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, bob = pair
    pid = bob.processes.begin(bob.root)
    ann.say(S, "hello")
    world.advance(2 * INTERVAL)
    assert state(bob) == "held"
    assert missing(bob) == [f"1 held: Claude Code runs in {bob.root} (pid {pid})"]
    assert len(bob.log.texts("hold")) == 1
    bob.processes.end(pid)
    world.advance(2.5)
    assert state(bob) == "synced"
    assert bob.texts(S) == ["hello"]


def test_a_note_that_arrived_before_the_hold_and_changes_again_is_no_conflict(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, bob = pair

    def start_client(verb: str, path: LocalPath) -> None:
        if verb == "replace" and path.endswith("b.md") and not bob.processes.claude():
            bob.processes.begin(bob.root)

    for version in ("one\n", "two\n", "three\n"):
        if version == "two\n":
            bob.files.before = start_client
        ann.remember("a.md", version)
        ann.remember("b.md", version)
        world.advance(2 * INTERVAL)
    assert bob.notes() == {"a.md": "two\n", "b.md": "one\n"}
    for process in bob.processes.claude():
        bob.processes.end(process.pid)
    bob.files.before = lambda _verb, _path: None
    world.advance(2 * INTERVAL)
    assert bob.notes() == ann.notes() == {"a.md": "three\n", "b.md": "three\n"}


def test_while_work_is_held_no_file_is_read(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, bob = pair
    bob.processes.begin(bob.root)
    ann.say(S, "hello")
    world.advance(2 * INTERVAL)
    asked: list[str] = []
    bob.files.before = lambda verb, path: asked.append(verb)
    world.advance(INTERVAL)
    assert asked == []


def test_hold_machine_waits_for_any_client(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, bob = pair
    bob.engine.apply(bob.with_settings(localize=LocalizeSettings(hold="machine")))
    bob.processes.begin("/srv/elsewhere")
    ann.say(S, "hello")
    world.advance(2 * INTERVAL)
    assert state(bob) == "held"


# -- pausing


@pytest.mark.parametrize("names", [[], ["app"]])
def test_paused_nothing_is_committed_exchanged_or_localized_and_nothing_is_missed(
    world: World, pair: tuple[FakeMachine, FakeMachine], names: list[str]
) -> None:
    ann, bob = pair
    ann.engine.pause(names, None)
    tip = ann.tip()
    ann.say(S, "paused")
    bob.say(sid(2), "bob's")
    world.advance(3 * INTERVAL)
    assert ann.tip() == tip
    assert sid(2) not in ann.sessions()
    assert state(ann) == "paused"
    ann.engine.resume(names)
    world.advance(3 * INTERVAL)
    assert state(ann) == "synced"
    assert {S, sid(2)} <= ann.sessions() & bob.sessions()


def test_a_pause_ends_by_itself(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, _ = pair
    ann.engine.pause([], world.clock.now() + 7200)
    ann.say(S, "paused")
    world.advance(7000)
    assert state(ann) == "paused"
    world.advance(300)
    assert state(ann) == "synced"
    assert ann.log.texts("resume") == ["resumed"]
    assert ann.state.pauses() == {}


def test_a_pause_survives_a_restart(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, _ = pair
    ann.engine.pause(["app"], None)
    ann.stop()
    tip = ann.tip()
    ann.say(S, "meanwhile")
    ann.start()
    world.advance(3 * INTERVAL)
    assert state(ann) == "paused"
    assert ann.tip() == tip
    ann.engine.resume([])
    world.advance(INTERVAL)
    assert state(ann) == "synced"


def test_resuming_what_is_not_paused_is_no_trouble(pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, _ = pair
    ann.engine.resume(["app"])
    assert ann.log.texts("resume") == []


# -- lost events, sleep, restart


def test_a_lost_event_costs_a_rescan_at_most(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, bob = pair
    ann.watcher.deaf = True
    ann.say(S, "nobody heard")
    world.advance(300)
    assert S not in bob.sessions()
    world.advance(400)
    assert S in bob.sessions()


def test_after_sleep_everything_is_looked_at(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, _ = pair
    ann.watcher.deaf = True
    ann.say(S, "nobody heard")
    world.clock.set_now(world.clock.now() + WAKE_JUMP + 1)
    world.settle()
    assert b"nobody heard" in ann.stored(S)
    assert len(ann.log.texts("wake")) == 1
    world.advance(INTERVAL)
    assert len(ann.log.texts("wake")) == 1


@pytest.mark.parametrize("way", ["stop", "crash"])
def test_after_a_restart_it_goes_on_where_it_was(
    world: World, pair: tuple[FakeMachine, FakeMachine], way: str
) -> None:
    ann, bob = pair
    getattr(ann, way)()
    tip = ann.tip()
    world.advance(10)
    ann.start()
    world.advance(10)
    assert ann.tip() == tip
    assert state(ann) == "synced"
    getattr(ann, way)()
    ann.say(S, "while it was down")
    ann.start()
    world.advance(2 * INTERVAL)
    assert bob.texts(S) == ["while it was down"]


def test_jobs_that_a_crash_cut_off_are_done_again(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.start()
    ann.step()
    ann.engine.turn()
    ann.crash()
    ann.start()
    world.advance(INTERVAL)
    assert state(ann) == "synced"


def test_stopping_says_whether_all_was_put_away(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.start()
    ann.engine.turn()
    ann.stop()
    assert ann.log.texts("stop") == ["stopped; all work is put away"]
    ann.start()
    ann.workers.drain = lambda seconds: False  # type: ignore[method-assign]
    ann.engine.turn()
    ann.stop()
    assert ann.log.texts("stop")[-1] == "stopped with work under way"


def test_stopping_breaks_off_what_hangs(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.start()
    world.settle()
    drains: list[float] = []
    ann.workers.drain = lambda seconds: bool(drains.append(seconds)) or len(drains) > 1  # type: ignore[method-assign, func-returns-value]
    ann.stop()
    assert len(drains) == 2
    assert all(connection.closed for connection in ann.connections)
    assert ann.log.texts("stop") == ["stopped; all work is put away"]


def test_a_connection_is_closed_after_each_round(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, _ = pair
    assert len(ann.connections) > 1
    assert all(connection.closed for connection in ann.connections)
    ann.peer.unreachable = True
    world.advance(INTERVAL * 2)
    assert all(connection.closed for connection in ann.connections)


def test_run_turns_until_it_is_stopped(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    engine = ann.start()
    turns: list[int] = []

    def on_turn() -> None:
        turns.append(1)
        ann.workers.run_one()
        if len(turns) == 50:
            engine.stop()

    engine.desk.surroundings = replace(engine.desk.surroundings, on_turn=on_turn, idle_turn=0.0)
    ann.watcher.stop()
    engine.run()
    assert len(turns) == 50
    assert ann.tip() is not None


def test_a_flood_of_hints_does_not_keep_it_from_its_work(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    engine = ann.start()
    for _ in range(MAX_BATCH + 10):
        ann.watcher.hint(ann.transcript(S))
    engine.turn()
    assert ann.workers.waiting() == ["local-0"]
    assert not engine.desk.messages.empty()


# -- what goes wrong


def broken(*_: object, **__: object) -> None:
    raise ZeroDivisionError


def test_a_pass_that_raises_is_reported_and_tried_again_ever_more_rarely(
    world: World, ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []

    def failing(*_: object, **__: object) -> None:
        tries.append(world.clock.monotonic())
        raise StoreError("the store is damaged", "doctor")

    ann.say(S, "hello")
    with monkeypatch.context() as patch:
        patch.setattr("convergenced.sync.passes.converge", failing)
        ann.start()
        world.advance(500)
        gaps = [round(later - earlier) for earlier, later in pairwise(tries)]
        assert gaps[:7] == [1, 2, 4, 8, 16, 32, 60]
        assert missing(ann)[0] == "the store is damaged"
        assert ann.log.texts("error") == ["the store is damaged"], "said once"
        assert ann.engine.board.attention()[0].fix == "doctor"
    world.advance(200)
    assert state(ann) == "synced"


@pytest.mark.parametrize(
    "job", ["lookout.survey", "passes.converge", "rounds.exchange", "rounds.consider_offers"]
)
def test_a_defect_in_a_job_belongs_to_that_job_alone(
    world: World, ann: FakeMachine, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    ann.say(S, "hello")
    with monkeypatch.context() as patch:
        patch.setattr(f"convergenced.sync.{job}", broken)
        ann.start()
        world.advance(200)
        attention = ann.engine.board.attention()
        assert job == "rounds.consider_offers" or attention
        assert all("ZeroDivisionError" in one.text for one in attention)
    world.advance(1000)
    assert state(ann) == "synced"
    assert ann.engine.board.attention() == []


def test_one_broken_project_does_not_stop_another(
    world: World, ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.checkout(f"{ann.home}/src/zoo", "example.org/ann/zoo")
    ann.say(S, "hello", root=f"{ann.home}/src/zoo")
    ann.say(sid(2), "hello")
    plain = converge

    def picky(parts: object, replica: object, **rest: object) -> object:
        if replica.project == "zoo":  # type: ignore[attr-defined]
            raise OSError(5, "Input/output error")
        return plain(parts, replica, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr("convergenced.sync.passes.converge", picky)
    ann.start()
    world.advance(INTERVAL)
    assert state(ann) == "synced"
    assert state(ann, "zoo") == "pending"
    assert "Input/output error" in missing(ann)[0]


def test_a_file_that_changes_all_the_time_is_tried_again(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, bob = pair
    ann.say(S, "one")
    world.advance(2 * INTERVAL)
    ann.say(S, "two")
    count = [0]

    def meddle(path: LocalPath) -> None:
        count[0] += 1
        if count[0] < 3:
            bob.files.write(path, bob.files.content(path))

    bob.files.between = meddle
    world.advance(2 * INTERVAL)
    assert count[0] == 3
    assert bob.texts(S) == ["one", "two"]
    assert bob.engine.board.replicas[bob.app.folder].failures == 0


def test_an_interrupted_network_is_no_defect(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, bob = pair
    bob.say(S, "hello")
    world.advance(5)
    ann.peer.fetch_breaks_after = 1
    ann.peer.lost_pushes = 1
    ann.say(sid(2), "hello")
    world.advance(5 * INTERVAL)
    assert state(ann) == "synced"
    assert ann.sessions() == bob.sessions()


def test_what_is_refused_is_said_once(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, _ = pair
    ann.files.fifo(ann.memory("a.md"))
    for _ in range(3):
        ann.say(S, "x")
        world.advance(INTERVAL)
    assert ann.log.texts("quarantine") == ["memory/a.md is a special file, not a regular file"]
    assert state(ann) == "quarantined"
    ann.files.unlink(ann.memory("a.md"))
    world.advance(INTERVAL)
    assert state(ann) == "synced"


def test_a_declined_push_is_said_once_and_shown(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, _ = pair
    ann.peer.declined[branch(APP)] = "protected branch"
    ann.say(S, "x")
    world.advance(5 * INTERVAL)
    assert ann.log.texts("rejected") == ["hub did not take it: protected branch"]
    assert state(ann) == "ahead"
    assert [one.kind for one in ann.engine.board.attention()] == ["rejected"]
    ann.peer.declined.clear()
    world.advance(2 * INTERVAL)
    assert state(ann) == "synced"


def test_forks_and_conflicts_are_told(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, bob = pair
    ann.say(S, "begin")
    ann.remember("a.md", "one\n")
    world.advance(3 * INTERVAL)
    for machine in (ann, bob):
        machine.say(S, f"{machine.name} goes on")
        machine.remember("a.md", f"{machine.name}\n")
        machine.peer.unreachable = True
    world.advance(10)
    for machine in (ann, bob):
        machine.peer.unreachable = False
    world.advance(1000)
    assert "went on in two places" in "".join(ann.log.texts("fork") + bob.log.texts("fork"))
    assert "memory/a.md" in "".join(ann.log.texts("conflict") + bob.log.texts("conflict"))
    assert state(ann) == state(bob) == "conflict"


def test_watching_that_fails_is_told_and_scanning_goes_on(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")

    def refuse(folder: LocalPath, changed: Callable[[LocalPath], None]) -> None:
        raise UsageError("the watch limit is reached", "raise it")

    ann.watcher.start = refuse  # type: ignore[method-assign]
    ann.start()
    world.advance(INTERVAL)
    assert [one.text for one in ann.engine.board.attention()] == ["the watch limit is reached"]
    ann.say(S, "more")
    world.advance(700)
    assert b'"more"' in ann.stored(S)


def test_trouble_with_watching_is_told_while_it_lasts(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, _ = pair
    ann.watcher.say_trouble("54 folders are not watched")
    world.advance(700)
    (attention,) = ann.engine.board.attention()
    assert (attention.text, attention.fix) == (
        "54 folders are not watched",
        "changes are still found by scanning",
    )
    ann.watcher.say_trouble(None)
    world.advance(700)
    assert ann.engine.board.attention() == []


def test_pruning_of_backups_that_fails_is_told(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, bob = pair
    asked: list[tuple[str, int]] = []
    bob.engine.desk.surroundings = replace(
        bob.engine.desk.surroundings, prune_backups=lambda folder, keep: asked.append((folder, keep))
    )
    ann.say(S, "hello")
    world.advance(2 * INTERVAL)
    assert asked == [(bob.app.folder, 10)]
    bob.engine.desk.surroundings = replace(bob.engine.desk.surroundings, prune_backups=broken)
    ann.say(S, "more")
    world.advance(2 * INTERVAL)
    assert "backups" in bob.engine.board.degraded
    assert bob.texts(S) == ["hello", "more"]


# -- the projects folder


def test_a_projects_folder_that_is_gone_halts_all_and_its_return_is_noticed_soon(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, bob = pair
    ann.watcher.deaf = True
    everything, tip = ann.sessions(), ann.tip()
    ann.files.move(ann.machine.projects_dir, "/elsewhere")
    world.advance(700)
    assert halted(ann) is not None
    assert ann.engine.unsynced(None, -1.0)[0].cause == "person"
    assert ann.engine.board.summary().startswith("halted")
    assert ann.tip() == tip
    bob.say(S, "meanwhile")
    world.advance(INTERVAL)
    ann.files.move("/elsewhere", ann.machine.projects_dir)
    world.advance(2 * INTERVAL)
    assert halted(ann) is None
    assert ann.log.texts("halt")[-1] == "the projects folder is back"
    assert ann.sessions() == everything | {S}
    assert bob.sessions() == ann.sessions()


def test_first_use_before_any_session_is_no_trouble(world: World, ann: FakeMachine) -> None:
    ann.files.unlink(ann.machine.projects_dir)
    ann.start()
    world.advance(INTERVAL)
    assert ann.engine.board.attention() == []
    assert halted(ann) is None
    ann.say(S, "the first one")
    world.advance(700)
    assert state(ann) == "synced"
    ann.say(S, "now it is watched")
    world.advance(10)
    assert b"now it is watched" in ann.stored(S)


# -- other code under our name


@pytest.mark.parametrize("seed", range(8))
def test_two_projects_of_one_name_both_survive_in_whatever_order_jobs_run(
    world: World, ann: FakeMachine, seed: int
) -> None:
    ann.say(S, "ann's")
    ann.start()
    world.advance(INTERVAL)
    eve = world.machine("eve")
    eve.checkout(eve.root, "example.org/eve/app")
    eve.say(sid(2), "eve's")
    chance = random.Random(seed)
    eve.workers.choose = chance.choice
    eve.start()
    for _ in range(20):
        eve.say(sid(2), "she never stops")
        world.advance(chance.uniform(0.1, 20))
    world.advance(3 * INTERVAL)
    (name,) = eve.engine.board.projects()
    assert name != APP
    assert state(eve, name) == "synced"
    assert eve.tip() is None, "the old name is let go for good"
    assert set(project_at(world.hub, world.hub.ref_targets[branch(APP)]).sessions) == {S}
    assert set(project_at(world.hub, world.hub.ref_targets[branch(name)]).sessions) == {sid(2)}
    assert len(eve.log.texts("rename")) == 1
    assert eve.sessions() == {sid(2)}
    assert ann.sessions() == {S}


def test_a_survey_that_was_under_way_during_a_rename_does_not_bring_the_old_name_back(
    world: World, ann: FakeMachine
) -> None:
    ann.say(S, "ann's")
    ann.start()
    world.advance(INTERVAL)
    eve = world.machine("eve")
    eve.checkout(eve.root, "example.org/eve/app")
    eve.say(sid(2), "eve's")
    lane = eve.start().desk.lane_of(APP)
    assert lane != LANE, "else one would wait for the other anyway"
    under_way = False
    for _ in range(100):
        if eve.log.texts("rename"):
            break
        if lane in eve.workers.waiting() and eve.engine.board.peers[HUB].report is not None:
            eve.engine.look_at_everything()
            eve.engine.turn()
            under_way = LANE in eve.workers.waiting()
            eve.workers.choose = lambda lanes: max(lanes, key=lambda one: one != LANE)
        eve.step()
    assert under_way
    world.advance(INTERVAL)
    assert eve.tip() is None
    assert [one.startswith("app-") for one in eve.engine.board.projects()] == [True]


def test_a_rename_that_fails_is_told(world: World, ann: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    ann.say(S, "ann's")
    ann.start()
    world.advance(INTERVAL)
    eve = world.machine("eve")
    eve.checkout(eve.root, "example.org/eve/app")
    eve.say(sid(2), "eve's")
    with monkeypatch.context() as patch:
        patch.setattr("convergenced.sync.rounds.rename_project", broken)
        eve.start()
        world.advance(INTERVAL)
        assert "rename app" in eve.engine.board.degraded
        assert state(eve) != "synced"
    world.advance(3 * INTERVAL)
    assert "rename app" not in eve.engine.board.degraded
    assert len(eve.engine.board.projects()) == 1


# -- settings, requests


def test_settings_are_taken_on_without_a_restart(world: World, ann: FakeMachine) -> None:
    nas = MemoryStore()
    ann.peers["nas"] = MemoryPeer(ann.store, nas, name="nas")
    ann.say(S, "hello")
    ann.start()
    world.advance(INTERVAL)
    changed = ann.with_settings(
        peers=(PeerSettings("nas", "/srv/nas.git"),),
        ingest=IngestSettings(quiet=0.5),
        exchange=ExchangeSettings(interval=5.0),
    )
    ann.engine.apply(changed)
    assert ann.engine.settings is changed
    world.settle()
    assert list(ann.engine.board.peers) == ["nas"]
    assert branch(APP) in nas.ref_targets
    calls = len(ann.peer.calls)
    ann.say(S, "more")
    world.advance(1.0)
    assert nas.ref_targets[branch(APP)] == ann.tip()
    assert len(ann.peer.calls) == calls
    assert state(ann) == "synced"
    assert ann.engine.distance(APP).ahead == 0, "a peer that is gone is not behind"
    assert set(ann.engine.peer_openers()) == {"nas"}


def test_a_peer_that_was_taken_away_during_a_round_stays_away(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.start()
    world.advance(INTERVAL)
    ann.engine.look_at_everything()
    ann.engine.turn()
    assert f"peer-{HUB}" in ann.workers.waiting()
    ann.engine.apply(ann.with_settings(peers=()))
    world.settle()
    assert ann.engine.board.peers == {}
    assert state(ann) == "synced"
    ann.say(S, "alone")
    world.advance(5)
    assert ann.engine.distance(APP).ahead == 0
    assert state(ann) == "synced"


def test_what_is_excluded_later_is_left_alone_from_then_on(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, _ = pair
    ann.engine.apply(ann.with_settings(projects=ProjectSettings(exclude=("~/src/**",))))
    world.advance(5)
    tip = ann.tip()
    ann.say(S, "private")
    world.advance(2 * INTERVAL)
    assert ann.tip() == tip
    assert ann.engine.board.projects() == []


def test_a_full_look_reads_everything_again_and_changes_nothing(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, _ = pair
    tip = ann.tip()
    ann.engine.forget_notes([APP])
    assert ann.state.files(ann.app.folder) == {}
    ann.engine.forget_notes(None)
    ann.engine.look_at_everything([APP])
    world.settle()
    assert ann.state.files(ann.app.folder)
    assert ann.tip() == tip


def test_a_preview_tells_what_would_be_done_and_does_nothing(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, bob = pair
    lines: list[tuple[str, str]] = []
    bob.say(S, "bob's")
    world.advance(5)
    ann.exchange()
    ann.engine.pause([], None)
    pid = ann.processes.begin(ann.root)
    record = ann.say(sid(2), "ann's")
    tip = ann.tip()
    ann.engine.preview([APP], lines.extend)
    while ann.workers.run_one():
        ann.engine.turn()
    assert ann.tip() == tip
    assert ("app", f"commit 1 changed file (up to {len(record)} bytes)") in lines
    assert ("app", f"write what arrived into {ann.root}; held by Claude Code (pid {pid})") in lines
    lines.clear()
    ann.engine.preview(["other"], lines.extend)
    while ann.workers.run_one():
        ann.engine.turn()
    assert lines == []


def test_a_preview_that_fails_says_so(ann: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[tuple[str, str]] = []
    ann.start()
    monkeypatch.setattr("convergenced.sync.engine.preview", broken)
    ann.engine.preview(None, lines.extend)
    while ann.workers.run_one():
        ann.engine.turn()
    assert lines[0][1].startswith("cannot tell")


@pytest.mark.parametrize(("trouble", "code"), [(False, 0), (True, 6)])
def test_one_pass_does_everything_and_ends(world: World, ann: FakeMachine, trouble: bool, code: int) -> None:
    ann.say(S, "hello")
    ann.peer.unreachable = trouble
    engine = ann.start()
    ann.watcher.stop()

    def on_turn() -> None:
        world.clock.advance(0.5)
        ann.workers.run_one()

    engine.desk.surroundings = replace(engine.desk.surroundings, on_turn=on_turn, idle_turn=0.0)
    assert one_pass(engine, world.clock) == code
    assert (branch(APP) in world.hub.ref_targets) is not trouble


def test_checkouts_and_requests_reach_the_workers(ann: FakeMachine) -> None:
    ann.start()
    assert ann.engine.checkouts is ann.checkouts
    answers: list[object] = []
    ann.engine.background(lambda: 1, answers.append, answers.append)
    ann.engine.background(lambda: 1 // 0, answers.append, answers.append)
    while ann.workers.run_one():
        ann.engine.turn()
    assert answers[0] == 1
    assert isinstance(answers[1], ZeroDivisionError)


def test_a_closed_connection_can_be_used_no_more(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.start()
    world.advance(5)
    with pytest.raises(PeerUnreachableError):
        ann.connections[0].list()


def test_what_was_written_is_counted_in_words() -> None:
    assert _counted([f"{S}.jsonl"], []) == "wrote 1 session"
    assert _counted([f"{S}.jsonl", f"{sid(2)}.jsonl", "memory/a.md"], ["memory/b.md"]) == (
        "wrote 2 sessions, wrote 1 other file, removed 1"
    )
    assert _counted(["memory/a.md", f"{S}/subagents/a.jsonl"], []) == "wrote 2 other files"


def test_code_that_two_machines_named_differently_comes_together_under_one_name(world: World) -> None:
    # Each has two repositories called app, and met them in another order.
    machines = [world.machine(name) for name in ("ann", "bob")]
    for machine, order in zip(machines, (("one", "two"), ("two", "one")), strict=True):
        for place, owner in zip(("a", "b"), order, strict=True):
            root = f"{machine.home}/src/{place}/app"
            machine.checkout(root, f"example.org/{owner}/app")
            machine.say(sid(int(place, 16) + (0 if machine is machines[0] else 4)), owner, root=root)
        machine.start()
    world.advance(10 * INTERVAL)
    ann, bob = machines
    assert ann.engine.board.projects() == bob.engine.board.projects()
    assert len(ann.engine.board.projects()) == 2
    for machine in machines:
        for project in machine.engine.board.projects():
            assert state(machine, project) == "synced"
    shared = {project: ann.tree(project).sessions.keys() for project in ann.engine.board.projects()}
    assert sorted(len(sessions) for sessions in shared.values()) == [2, 2]
    assert [ann.tip(project) for project in shared] == [bob.tip(project) for project in shared]
    for peer in ann.engine.board.peers.values():
        assert peer.report is not None
        assert set(peer.report.offered) - set(shared) == peer.report.absorbed
