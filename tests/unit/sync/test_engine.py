"""The engine, turn by turn: the ordinary day, lost events, settings and requests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convergenced.errors import PeerUnreachableError
from convergenced.machine.settings_schema import (
    ExchangeSettings,
    IngestSettings,
    PeerSettings,
    ProjectSettings,
)
from convergenced.model import LocalPath, ProjectId
from convergenced.store.branch import tracking_ref
from convergenced.sync.engine import MAX_BATCH, WAKE_JUMP
from convergenced.sync.lookout import MAX_HINTS
from convergenced.sync.once import one_pass
from convergenced.sync.passes import _counted
from convergenced.sync.plan import PUSH_DELAY
from convergenced.sync.scan import scan_folder
from convergenced.sync.tips import ref_of
from tests.fakes.peer import MemoryPeer
from tests.fakes.store import MemoryStore
from tests.unit.sync.engines import INTERVAL, S, broken, missing, state
from tests.unit.sync.world import APP, HUB, FakeMachine, World, branch, sid

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


def test_what_arrives_is_counted_at_once(world: World, pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, _ = pair
    ann.say(sid(7), "hello")
    ann.remember("more.md", "a note\n")
    world.advance(2 * INTERVAL)
    for machine in pair:
        (found,) = machine.engine.board.of_project(APP)
        assert found.result is not None
        folder = scan_folder(machine.files, LocalPath(machine.context()))
        assert folder is not None
        assert found.result.ingest.sessions == len(folder.transcripts) == 3
        assert found.result.ingest.size == folder.size


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


def test_what_is_hinted_at_while_it_is_paused_does_not_gather(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.start()
    world.advance(INTERVAL)
    ann.engine.pause([APP], None)
    for number in range(3 * MAX_HINTS):
        ann.watcher.hint(f"{ann.context()}/{number}")
    while not ann.engine.desk.messages.empty():
        ann.engine.turn()
    (one,) = ann.engine.board.of_project(APP)
    assert one.is_all_asked
    assert len(one.hints) <= MAX_HINTS
    ann.say(S, "more")
    ann.engine.resume([APP])
    world.advance(INTERVAL)
    assert b'"more"' in ann.stored(S)


def test_a_flood_of_hints_does_not_keep_it_from_its_work(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    engine = ann.start()
    for _ in range(MAX_BATCH + 10):
        ann.watcher.hint(ann.transcript(S))
    engine.turn()
    assert ann.workers.waiting() == ["local-0"]
    assert not engine.desk.messages.empty()


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


def test_who_asks_gets_one_round_with_all_that_the_passes_commit(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.start()
    world.advance(1.5 * INTERVAL)
    ann.say(S, "more")
    calls = len(ann.peer.calls)
    asked = world.clock.monotonic()
    ann.engine.look_at_everything()
    world.settle()
    assert world.clock.monotonic() == asked
    assert world.hub.refs(branch(APP)).get(branch(APP)) == ann.tip()
    assert [name for name, _ in ann.peer.calls[calls:]] == ["list", "push"]


def test_what_follows_what_somebody_asked_for_is_committed_as_soon_as_there_is_silence(
    world: World, ann: FakeMachine
) -> None:
    ann.start()
    for number in range(6):
        ann.say(S, f"{number}")
        world.advance(3.0)
    ann.say(S, "the answer")
    world.advance(3.0)
    assert b"the answer" not in ann.stored(S), "commits of a long streak come ever more rarely"
    ann.engine.look_at_everything()
    world.settle()
    ann.say(S, "its end")
    world.advance(3.0)
    assert b"its end" in ann.stored(S)


def test_a_commit_leaves_at_once_where_no_other_is_under_way(world: World, ann: FakeMachine) -> None:
    ann.start()
    world.advance(1.5 * INTERVAL)
    ann.say(S, "hello")
    world.settle()
    world.advance(2.0)
    assert world.hub.refs(branch(APP)).get(branch(APP)) == ann.tip() is not None


def test_a_peer_that_was_taken_away_during_a_round_stays_away(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.start()
    world.advance(INTERVAL)
    ann.engine.tracked_anew()
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
