"""What goes wrong belongs to what it happened to, and never ends the engine."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from convergenced.errors import StoreError, UsageError
from convergenced.machine.watch import watches_missing
from convergenced.model import LocalPath
from convergenced.sync.converge import converge
from convergenced.sync.lookout import LANE
from tests.unit.sync.engines import INTERVAL, S, broken, halted, missing, state
from tests.unit.sync.world import APP, HUB, FakeMachine, World, branch, project_at, sid

# -- what goes wrong


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
    for machine in (ann, bob):
        (told,) = machine.log.texts("fork")
        assert f"session {S} went on in two places (" in told
        (told,) = machine.log.texts("conflict")
        assert "memory/a.md" in told
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
    said = {
        watches_missing(54, 100): "raise it: sudo sysctl fs.inotify.max_user_watches=524288",
        "watching ended by itself": "nothing to do: changes are still found by scanning",
    }
    for trouble, fix in said.items():
        ann.watcher.say_trouble(trouble)
        world.advance(700)
        (attention,) = ann.engine.board.attention()
        assert attention.fix == fix
        assert attention.text == trouble.partition(". Raise")[0]
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
