"""What each machine has open is told the others: seldom, for a while, and by nobody else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from convergenced.merge.layout import write_project
from convergenced.model import Commit, MachineId, Oid
from convergenced.sync.presence import CLOSED, EXPIRES, MAX_SESSIONS, OPENED, believed, live_in, tell
from convergenced.sync.rollcall import EVERY, RENEWED, SOON
from tests.unit.sync.engines import INTERVAL, state
from tests.unit.sync.world import APP, FakeMachine, World, branch, project_at, sid

S = sid(1)
Pair = tuple[FakeMachine, FakeMachine]
SETTLED = EVERY + 2 * SOON + 2 * INTERVAL
"""Seconds in which what is open is told and has come over."""


def live(machine: FakeMachine) -> list[tuple[str, str]]:
    return [(one.session, one.machine) for one in machine.engine.roll_call.elsewhere()]


def commits(machine: FakeMachine) -> list[str]:
    """The subjects of all commits on the branch, the newest first."""
    tip, found = machine.tip(), []
    waiting, seen = [tip], {tip}
    while waiting:
        commit = machine.store.read_commit(waiting.pop(0))  # type: ignore[arg-type]
        found.append(commit.message.split("\n")[0])
        waiting += [parent for parent in commit.parents if parent not in seen]
        seen.update(commit.parents)
    return found


def told(machine: FakeMachine) -> int:
    return sum(subject in (OPENED, CLOSED) or subject.endswith("open") for subject in commits(machine))


@pytest.fixture
def opened(world: World, pair: Pair) -> tuple[FakeMachine, FakeMachine, int]:
    """The first machine has a session open, and the second knows."""
    ann, bob = pair
    ann.say(S, "hello")
    pid = ann.processes.begin(ann.root, S)
    world.advance(SETTLED)
    return ann, bob, pid


def test_a_session_that_is_open_is_told_and_taken_back_when_it_ends(
    world: World, opened: tuple[FakeMachine, FakeMachine, int]
) -> None:
    ann, bob, pid = opened
    assert live(bob) == [(S, "ann")]
    assert live(ann) == [], "not of what is open here"
    (one,) = bob.engine.roll_call.elsewhere()
    assert world.clock.now() - SETTLED <= one.since <= world.clock.now()
    assert state(ann) == state(bob) == "synced"
    ann.processes.end(pid)
    world.advance(SETTLED)
    assert live(bob) == []
    assert commits(bob)[0] == CLOSED
    assert state(ann) == state(bob) == "synced"
    assert told(ann) == 2


def test_nothing_more_is_written_while_it_stays_open_but_a_word_now_and_then(
    world: World, opened: tuple[FakeMachine, FakeMachine, int]
) -> None:
    ann, bob, _ = opened
    tip = ann.tip()
    world.advance(RENEWED - SETTLED - 3 * EVERY)
    assert ann.tip() == tip
    world.advance(EXPIRES)
    assert live(bob) == [(S, "ann")]
    assert told(ann) == 1 + (EXPIRES + RENEWED) // (RENEWED + EVERY)


def test_what_a_machine_had_open_that_went_away_ends_by_itself(
    world: World, opened: tuple[FakeMachine, FakeMachine, int]
) -> None:
    ann, bob, _ = opened
    ann.crash()
    world.advance(EXPIRES - SETTLED)
    assert live(bob) == [(S, "ann")]
    world.advance(SETTLED)
    assert live(bob) == []


def test_a_daemon_that_starts_again_says_nothing_new(
    world: World, opened: tuple[FakeMachine, FakeMachine, int]
) -> None:
    ann, bob, pid = opened
    (before,) = bob.engine.roll_call.elsewhere()
    tip = ann.tip()
    ann.crash()
    ann.start()
    world.advance(SETTLED)
    assert ann.tip() == tip
    assert bob.engine.roll_call.elsewhere() == [before]
    ann.crash()
    ann.processes.end(pid)
    ann.start()
    world.advance(SETTLED)
    assert live(bob) == [], "what ended meanwhile is taken back"


def test_what_ends_in_a_moment_is_not_told(world: World, pair: Pair) -> None:
    ann, _ = pair
    before = told(ann)
    for number in range(20):
        session = sid(100 + number)
        ann.say(session, "one shot")
        pid = ann.processes.begin(ann.root, session)
        world.advance(40.0)
        ann.processes.end(pid)
        world.advance(20.0)
    assert told(ann) == before


def test_sessions_that_come_and_go_are_told_every_few_minutes_at_most(world: World, pair: Pair) -> None:
    ann, _ = pair
    before, spent = told(ann), 0.0
    for number in range(30):
        session = sid(200 + number)
        ann.say(session, "for two minutes")
        pid = ann.processes.begin(ann.root, session)
        world.advance(130.0)
        ann.processes.end(pid)
        spent += 130.0
    assert 1 <= told(ann) - before <= spent / EVERY + 1


@pytest.mark.parametrize("why", ["no peer", "paused", "no transcript", "no session is named"])
def test_where_there_is_nobody_to_tell_or_nothing_to_say_nothing_is(
    world: World, ann: FakeMachine, why: str
) -> None:
    ann.say(S, "hello")
    ann.start(ann.with_settings(peers=()) if why == "no peer" else None)
    world.advance(INTERVAL)
    session = {"no transcript": sid(9), "no session is named": None}.get(why, S)
    ann.processes.begin(ann.root, session)
    if why == "paused":
        ann.engine.pause([APP], None)
    tip = ann.tip()
    world.advance(SETTLED)
    assert ann.tip() == tip
    if why == "paused":
        ann.engine.resume([APP])
        world.advance(SETTLED)
        assert commits(ann)[0] == OPENED


def test_taking_something_in_keeps_what_is_said_of_open_sessions(
    world: World, opened: tuple[FakeMachine, FakeMachine, int]
) -> None:
    ann, bob, _ = opened
    ann.say(sid(5), "another")
    ann.remember("a.md", "text")
    worktree = f"{ann.home}/trees/wt"
    ann.checkout(worktree, "example.org/ann/app", main_root=ann.root)
    ann.say(sid(6), "in a worktree", root=worktree)
    world.advance(3 * INTERVAL)
    assert live(bob) == [(S, "ann")]
    bob.say(S, "bob goes on all the same")
    world.advance(3 * INTERVAL)
    assert live(bob) == [(S, "ann")]
    assert live(ann) == []


def test_two_machines_of_one_id_do_not_speak_against_each_other_for_ever(world: World) -> None:
    ann, twin = (world.machine(name, key="ann") for name in ("ann", "ann"))
    world.machines = {"one": ann, "other": twin}
    ann.say(S, "hello")
    for machine in (ann, twin):
        machine.start()
    world.advance(3 * INTERVAL)
    ann.processes.begin(ann.root, S)
    twin.say(sid(2), "hello")
    twin.processes.begin(twin.root, sid(2))
    world.advance(2 * SETTLED)
    tip = ann.tip()
    world.advance(RENEWED - 3 * SETTLED)
    assert ann.tip() == twin.tip() == tip


def test_a_word_from_a_clock_that_is_far_ahead_is_not_believed(pair: Pair) -> None:
    ann, bob = pair
    now = bob.clock.now()
    ann.clock.set_now(now + 400 * 86_400.0)
    tell(ann.parts, APP, {S: now}, renewed=False)
    tip = ann.tip()
    assert tip is not None
    claims = live_in(ann.store, APP, tip)
    assert [one.session for one, _ in claims] == [S]
    assert believed(claims, bob.machine.id, now) == []


FOREIGN = [
    7,
    [],
    {"sessions": [], "until": "2100-01-01T00:00:00Z"},
    {"sessions": {S: "2001-01-01T00:00:00Z"}},
    {"sessions": {S: "yesterday"}, "until": "2001-01-01T00:00:00Z"},
    {"sessions": {"../../x": "2001-01-01T00:00:00Z", S: 3}, "until": "2001-01-01T00:00:00Z"},
    {"sessions": {S: "2001-01-01T00:00:00"}, "until": "2001-01-01T00:00:00"},
    {"sessions": {S: "2001-01-01T00:00:00Z"}, "until": "99999-01-01T00:00:00Z"},
]


@pytest.mark.parametrize("field", FOREIGN)
def test_what_makes_no_sense_on_a_card_is_nothing(pair: Pair, field: object) -> None:
    ann, bob = pair
    assert live_in(ann.store, APP, _with_field(ann, field)) == []
    assert tell(bob.parts, APP, {}, renewed=True) is None


def test_a_card_cannot_claim_sessions_without_end(pair: Pair) -> None:
    ann, _ = pair
    many = {sid(number): "2001-01-01T00:00:00Z" for number in range(MAX_SESSIONS + 50)}
    claims = live_in(ann.store, APP, _with_field(ann, {"sessions": many, "until": "2001-01-01T00:00:00Z"}))
    assert len(claims) == MAX_SESSIONS
    assert believed(claims, MachineId("else"), 978_307_199.0)[0].session == min(many)


def _with_field(machine: FakeMachine, field: object) -> Oid:
    """A commit whose card of the machine says that."""
    store, tip = machine.store, machine.tip()
    tree = project_at(store, tip)
    name = f"{machine.machine.id}.json"
    card = {**json.loads(store.read_blob(tree.machines[name])), "live": field}
    blob = store.write_blob(json.dumps(card).encode())
    oid = write_project(store, replace(tree, machines={**tree.machines, name: blob}))
    assert tip is not None
    commit = store.write_commit(Commit(oid, (tip,), machine.machine.author, 1, "x"))
    store.swap(branch(APP), tip, commit)
    return commit
