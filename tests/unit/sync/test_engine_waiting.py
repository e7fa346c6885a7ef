"""Nothing is called synced that was not looked at; waiting for it, and pausing."""

from __future__ import annotations

import pytest

from convergenced.errors import PeerUnreachableError
from convergenced.machine.settings_schema import (
    LocalizeSettings,
    PeerSettings,
)
from convergenced.model import LocalPath
from convergenced.sync.board import Missing
from convergenced.sync.plan import PUSH_DELAY
from tests.fakes.peer import MemoryPeer
from tests.fakes.store import MemoryStore
from tests.unit.sync.engines import INTERVAL, S, Waiter, is_ready, missing, state
from tests.unit.sync.world import APP, HUB, FakeMachine, World, branch, project_at, sid

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


def test_a_look_that_is_asked_for_during_a_round_that_fails_gets_a_round_of_its_own(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, _ = pair
    waiter = Waiter()
    plain = ann.peer.list

    def slow() -> dict[str, object]:
        ann.peer.list = plain  # type: ignore[method-assign]
        world.clock.advance(1.0)
        ann.engine.wait(None, ann.engine.look_at_everything(), None, waiter)
        raise PeerUnreachableError("broke off")

    ann.peer.list = slow  # type: ignore[method-assign, assignment]
    world.advance(INTERVAL * 1.3)
    assert waiter.answers[-1] == [], "and not only after what the failure has it wait"


def test_a_failure_of_before_is_no_answer_to_who_asks_now(
    world: World, pair: tuple[FakeMachine, FakeMachine]
) -> None:
    ann, _ = pair
    ann.peer.unreachable = True
    world.advance(INTERVAL * 1.3)
    assert missing(ann) == ["hub fails: peer hub: cannot be reached"]
    ann.peer.unreachable = False
    waiter = Waiter()
    world.clock.advance(0.1)
    ann.engine.wait(None, ann.engine.look_at_everything(), None, waiter)
    world.settle()
    answers = [misses for misses in waiter.answers if all(miss.cause != "work" for miss in misses)]
    assert answers[0] == [], "the impatient are answered with what is so now"


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
    world.advance(1.0)
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
    assert bob.texts(S) == ["hello"]
    world.advance(2.0)
    assert state(bob) == "synced"


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
