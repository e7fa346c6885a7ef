"""When documents are looked at and merged, and what is told of it: a real engine, work told beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from convergenced.errors import ConvergenceError, NewerSchemaError
from convergenced.knowledge.librarian import (
    AGAIN,
    BLIND,
    HEAR_FIRST,
    HELD_POLL,
    LANE,
    LAST,
    LATER,
    SETTLE,
    SPREAD,
)
from convergenced.knowledge.librarian import SYNTHESIS_LANE as SYNTHESIS
from convergenced.knowledge.look import Look, Wish
from convergenced.knowledge.synthesis import ScopeResult
from convergenced.machine.settings_schema import PeerSettings
from convergenced.merge.knowledge import GLOBAL, Scope, project_scope
from convergenced.merge.layout import write_folder
from convergenced.model import Commit, LocalPath, Oid, ProjectId, Refusal
from convergenced.sync.board import PeerStatus
from tests.knowledge import ANN, BOB, PERSON, commit_plain
from tests.unit.knowledge.shelf import FILE, Reading, held
from tests.unit.sync.world import HUB, FakeMachine, World

APP = project_scope(ProjectId("app"))
MODEL_WAIT = SETTLE + SPREAD * 0.5
"""Seconds until a model is asked: the fakes' chance is in the middle."""


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def machine(world: World) -> FakeMachine:
    return world.machine("ann")


@pytest.fixture
def ann(machine: FakeMachine) -> Reading:
    return Reading(machine)


@pytest.fixture
def paying(machine: FakeMachine) -> Reading:
    """A machine whose merges cost something."""
    return Reading(machine, provider="anthropic")


def passed(ann: Reading, since: float) -> list[float]:
    """How long after `since` each look was made."""
    return [at - since for at in ann.shelf.looks]


# -- when is looked


def test_the_first_look_waits_until_it_is_known_what_takes_part(ann: Reading) -> None:
    assert ann.librarian.due is None
    ann.world.settle()
    assert len(ann.shelf.looks) == 1
    assert [replica.project for replica in ann.librarian.replicas()] == ["app"]


def test_the_first_look_comes_after_what_peers_have(ann: Reading) -> None:
    known = commit_plain(ann.world.hub, {"machines": {BOB: {"global": {"CLAUDE.md": "theirs"}}}})
    tips: list[Oid | None] = []

    def noted(look: Look) -> Look:
        tips.append(look.tip)
        return look

    ann.shelf.changes = noted
    ann.world.settle()
    assert tips[0] == known


def test_a_peer_that_is_away_does_not_hold_the_first_look_up(ann: Reading) -> None:
    ann.machine.peer.unreachable = True
    ann.world.settle()
    assert len(ann.shelf.looks) == 1


def test_a_peer_that_does_not_answer_holds_the_first_look_up_for_a_while_only(ann: Reading) -> None:
    since = ann.world.clock.monotonic()
    ann.machine.engine.board.peers["mute"] = PeerStatus(PeerSettings("mute", "/srv/mute.git"), busy=True)
    ann.world.advance(HEAR_FIRST + 1)
    assert passed(ann, since) == [pytest.approx(HEAR_FIRST, abs=0.1)]


def test_hints_are_followed_once_they_end(ann: Reading) -> None:
    since = ann.come_to_rest().world.clock.monotonic()
    ann.hint()
    ann.world.advance(1)
    ann.hint()
    ann.world.advance(10)
    assert passed(ann, since) == [pytest.approx(1 + 2.0, abs=0.1)]


def test_hints_without_end_are_followed_now_and_then(ann: Reading) -> None:
    since = ann.come_to_rest().world.clock.monotonic()
    for _ in range(45):
        ann.hint()
        ann.world.advance(1)
    assert passed(ann, since) == [pytest.approx(30.0, abs=0.1)]


@pytest.mark.parametrize(("is_blind", "expected"), [(False, 600.0), (True, BLIND)])
def test_without_hints_looks_are_rare_and_less_so_where_hints_may_be_missing(
    ann: Reading, is_blind: bool, expected: float
) -> None:
    ann.shelf.is_blind = is_blind
    ann.librarian.look()
    ann.world.settle()
    since = ann.world.clock.monotonic()
    ann.shelf.looks.clear()
    ann.world.advance(2.5 * expected)
    assert passed(ann, since) == [pytest.approx(expected, abs=0.1), pytest.approx(2 * expected, abs=0.1)]


def test_a_file_that_was_being_written_is_looked_at_again_soon(ann: Reading) -> None:
    ann.come_to_rest()
    ann.shelf.changes = lambda look: replace(look, retry=len(ann.shelf.looks) == 1)
    since = ann.world.clock.monotonic()
    ann.librarian.look()
    ann.world.advance(30)
    assert passed(ann, since) == [0.0, pytest.approx(AGAIN, abs=0.1)]


def test_what_waits_for_a_clients_end_is_looked_for_again_and_told_once(ann: Reading) -> None:
    ann.come_to_rest()
    ann.shelf.changes = held
    since = ann.world.clock.monotonic()
    ann.librarian.look()
    ann.world.advance(3 * HELD_POLL + 1)
    assert passed(ann, since) == [pytest.approx(n * HELD_POLL, abs=0.1) for n in range(4)]
    assert ann.texts("hold") == ["global/CLAUDE.md held: Claude Code runs in /x (pid 7)"]
    assert ann.missing()[0] == ("held", "global/CLAUDE.md held: Claude Code runs in /x (pid 7)")
    ann.shelf.changes = lambda look: replace(look, written=(FILE,))
    ann.world.advance(HELD_POLL)
    ann.shelf.looks.clear()
    ann.world.advance(5 * HELD_POLL)
    assert ann.shelf.looks == []
    assert f"wrote {FILE}" in ann.texts("knowledge")


def test_nothing_happens_while_all_is_paused(ann: Reading) -> None:
    ann.come_to_rest()
    ann.machine.engine.pause([], None)
    ann.hint()
    ann.librarian.look()
    ann.world.advance(1000)
    assert (ann.shelf.looks, ann.librarian.due, ann.missing()) == ([], None, [])
    ann.machine.engine.resume([])
    ann.world.settle()
    assert len(ann.shelf.looks) == 1


def test_a_paused_project_is_left_out(ann: Reading) -> None:
    ann.come_to_rest()
    ann.machine.engine.pause(["app"], None)
    assert ann.librarian.replicas() == []


def test_nothing_happens_while_nothing_can_be_synced(ann: Reading) -> None:
    ann.come_to_rest()
    ann.machine.engine.board.halted = "the projects folder is gone"
    ann.librarian.look()
    assert ann.librarian.due is None
    ann.librarian.start_due()
    ann.machine.workers.drain(1)
    assert ann.shelf.looks == []


def test_nothing_happens_while_it_is_off(machine: FakeMachine) -> None:
    off = Reading(machine, enabled=False)
    off.world.advance(1000)
    assert (off.shelf.looks, off.librarian.due, off.missing(), off.librarian.attention()) == (
        [],
        None,
        [],
        [],
    )
    off.write("one\n")
    off.world.advance(100)
    assert not off.world.hub.refs("refs/heads/knowledge")
    off.set(enabled=True)
    off.world.advance(100)
    assert off.shelf.looks
    assert off.world.hub.refs("refs/heads/knowledge")


def test_switching_it_off_ends_everything_and_answers_who_waits(ann: Reading) -> None:
    ann.write("one\n")
    ann.come_to_rest()
    assert ann.librarian.peers
    asked: list[Exception] = []
    ann.librarian.wish(Wish(), lambda _look: None, asked.append)
    ann.set(enabled=False)
    assert ["disabled" in str(error) for error in asked] == [True]
    assert (ann.shelf.watching, ann.librarian.last, ann.librarian.peers) == (None, None, {})
    ann.world.advance(1000)
    assert ann.shelf.looks == []
    ann.set(enabled=True)
    ann.world.settle()
    assert ann.shelf.looks
    assert ann.shelf.watching is not None


def test_a_look_that_ends_after_it_was_switched_off_leaves_nothing(ann: Reading) -> None:
    ann.come_to_rest()
    ann.librarian.look()
    ann.machine.engine.turn()
    ann.set(enabled=False)
    ann.machine.workers.run_one(LANE)
    ann.machine.engine.turn()
    assert (ann.shelf.watching, ann.librarian.last) == (None, None)


def test_the_end_breaks_off_what_runs_and_ends_watching(ann: Reading) -> None:
    ann.write("one\n")
    ann.come_to_rest()
    assert ann.shelf.stop is not None
    assert not ann.shelf.stop.is_set()
    ann.librarian.close()
    assert ann.shelf.stop.is_set()
    assert (ann.shelf.watching, ann.librarian.due) == (None, None)


# -- looks that fail, and wishes


def test_a_look_that_fails_is_told_once_and_tried_again(ann: Reading) -> None:
    ann.come_to_rest()
    ann.shelf.trouble = NewerSchemaError("written by a newer version", "update convergence")
    since = ann.world.clock.monotonic()
    ann.librarian.look()
    ann.world.advance(2.5 * BLIND)
    assert passed(ann, since) == [pytest.approx(n * BLIND, abs=0.1) for n in range(3)]
    assert ann.texts("error") == ["knowledge: written by a newer version"]
    (told,) = ann.librarian.attention()
    assert (told.text, told.fix) == ("knowledge: written by a newer version", "update convergence")
    assert ann.missing() == [("person", "knowledge: written by a newer version")]
    ann.shelf.trouble = None
    ann.world.advance(BLIND)
    assert ann.librarian.attention() == []
    assert ann.missing() == []


def test_a_fault_in_a_look_troubles_no_project(ann: Reading, caplog: pytest.LogCaptureFixture) -> None:
    ann.come_to_rest()
    ann.shelf.trouble = ZeroDivisionError("division by zero")
    ann.librarian.look()
    ann.world.advance(5)
    assert "look of knowledge failed" in caplog.text
    assert ann.machine.engine.board.missing(ProjectId("app"), -1.0) == []


def test_wishes_are_granted_by_one_look_and_answered(ann: Reading) -> None:
    ann.come_to_rest()
    ann.shelf.wishes.clear()
    answers: list[Look | Exception] = []
    ann.librarian.wish(Wish(frozenset({"a"}), frozenset({"b"})), answers.append, answers.append)
    ann.librarian.wish(Wish(frozenset({"c"})), answers.append, answers.append)
    ann.world.settle()
    assert ann.shelf.wishes == [Wish(frozenset({"a", "c"}), frozenset({"b"}))]
    assert [type(answer) for answer in answers] == [Look, Look]
    ann.shelf.trouble = ConvergenceError("no")
    ann.librarian.wish(Wish(), answers.append, answers.append)
    ann.world.settle()
    assert answers[2:] == [ann.shelf.trouble]


def test_a_wish_during_a_look_gets_one_of_its_own(ann: Reading) -> None:
    ann.come_to_rest()
    ann.shelf.wishes.clear()
    answers: list[Look | Exception] = []
    ann.librarian.look()
    ann.machine.engine.turn()
    ann.librarian.wish(Wish(frozenset({"a"})), answers.append, answers.append)
    ann.machine.workers.run_one(LANE)
    assert answers == []
    ann.world.settle()
    assert ann.shelf.wishes == [Wish(), Wish(frozenset({"a"}))]
    assert len(answers) == 1


# -- when is synthesized


def test_without_a_model_what_is_due_is_merged_at_once(ann: Reading) -> None:
    ann.come_to_rest()
    ann.shelf.outcome = ann.merge
    ann.write("one\n", "app")
    ann.librarian.look()
    ann.machine.engine.turn()
    ann.machine.workers.run_one(LANE)
    ann.machine.engine.turn()
    assert ann.missing()[0] == ("work", "CLAUDE.md and settings are being merged")
    ann.world.settle()
    assert [only for _, only, _ in ann.shelf.syntheses] == [[GLOBAL, APP]]
    assert ann.consolidated() == {"CLAUDE.md": "made of ['ann-00000001']\n"}
    assert ann.texts("knowledge") == [
        "global merged: 2 machines, $0.25",
        "projects/app merged: 2 machines, $0.25",
    ]
    ann.world.advance(5000)
    assert len(ann.shelf.syntheses) == 1


def test_a_model_is_asked_once_inputs_are_at_rest_and_others_had_their_chance(paying: Reading) -> None:
    paying.come_to_rest()
    paying.shelf.outcome = paying.merge
    since = paying.world.clock.monotonic()
    for text in ("one\n", "two\n", "three\n"):
        paying.write(text)
        paying.librarian.look()
        paying.world.advance(MODEL_WAIT - 1)
    assert paying.shelf.syntheses == []
    paying.world.advance(2)
    (at, _, _) = paying.shelf.syntheses[0]
    assert at - since == pytest.approx(2 * (MODEL_WAIT - 1) + MODEL_WAIT, abs=0.1)


def test_looks_that_find_nothing_new_put_nothing_off(paying: Reading) -> None:
    paying.come_to_rest()
    paying.shelf.outcome = paying.merge
    paying.write("one\n")
    since = paying.world.clock.monotonic()
    for _ in range(10):
        paying.librarian.look()
        paying.world.advance(5)
    assert [at - since for at, _, _ in paying.shelf.syntheses] == [pytest.approx(MODEL_WAIT, abs=0.1)]


def test_what_another_machine_merged_meanwhile_is_not_merged_again(paying: Reading) -> None:
    paying.come_to_rest()
    paying.write("one\n")
    paying.librarian.look()
    paying.world.advance(MODEL_WAIT - 1)
    paying.merge([GLOBAL])
    paying.librarian.look()
    paying.world.advance(5000)
    assert paying.shelf.syntheses == []


@pytest.mark.parametrize(("chosen", "expected"), [("ann", 1), ("id-of-ann", 1), ("bob", 0), ("", 1)])
def test_only_the_machine_that_is_chosen_merges_by_itself(
    machine: FakeMachine, chosen: str, expected: int
) -> None:
    ann = Reading(machine, synthesizer=chosen)
    ann.shelf.outcome = ann.merge
    ann.write("one\n")
    ann.world.advance(100)
    assert len(ann.shelf.syntheses) == expected
    assert all("merged" not in text for _, text in ann.missing())


def test_what_failed_is_tried_ever_more_rarely(paying: Reading) -> None:
    paying.come_to_rest()
    paying.shelf.outcome = paying.fail
    paying.write("one\n")
    paying.librarian.look()
    paying.world.advance(MODEL_WAIT + LATER * (1 + 4 + 16 + 64) + 2 * LAST + 100)
    times = [at for at, _, _ in paying.shelf.syntheses]
    waits = [later - former for former, later in pairwise(times)]
    assert waits == [
        pytest.approx(wait, abs=1) for wait in (LATER, 4 * LATER, 16 * LATER, 64 * LATER, LAST, LAST)
    ]
    assert paying.texts("error") == ["knowledge: global: the answer broke off"]
    (told,) = paying.librarian.attention()
    assert told.text == "knowledge: global: the answer broke off"


def test_what_broke_altogether_is_tried_again_later_and_at_once_with_other_inputs(paying: Reading) -> None:
    def refuse(_scopes: Sequence[Scope]) -> list[ScopeResult]:
        raise ConvergenceError("no key", "set one")

    paying.come_to_rest()
    paying.shelf.outcome = refuse
    paying.write("one\n")
    paying.librarian.look()
    paying.world.advance(MODEL_WAIT + LATER - 10)
    assert len(paying.shelf.syntheses) == 1
    assert [one.fix for one in paying.librarian.attention()] == ["set one"]
    paying.shelf.outcome = paying.merge
    paying.write("two\n")
    paying.librarian.look()
    paying.world.advance(MODEL_WAIT + 1)
    assert len(paying.shelf.syntheses) == 2
    assert paying.librarian.attention() == []


def test_what_failed_is_not_paid_for_again_when_something_else_changed(paying: Reading) -> None:
    """Not even where the branch moves for other reasons."""

    def only_app(scopes: Sequence[Scope]) -> list[ScopeResult]:
        chosen = [scope for scope in scopes if scope == APP]
        return [*paying.merge(chosen), *paying.fail([one for one in scopes if one != APP])]

    paying.come_to_rest()
    paying.shelf.outcome = only_app
    paying.write("one\n")
    paying.librarian.look()
    paying.world.advance(MODEL_WAIT + 1)
    paying.have({"machines": {ANN: {"global": {"CLAUDE.md": "one\n"}, APP: {"CLAUDE.md": "new\n"}}}})
    paying.librarian.look()
    paying.world.advance(MODEL_WAIT + 1)
    assert [only for _, only, _ in paying.shelf.syntheses] == [[GLOBAL], [APP]]
    paying.world.advance(LATER + 1)
    assert [only for _, only, _ in paying.shelf.syntheses] == [[GLOBAL], [APP], [GLOBAL]]


def test_a_merge_that_changes_nothing_is_not_made_in_a_loop(ann: Reading) -> None:
    ann.come_to_rest()
    ann.shelf.outcome = lambda scopes: [ScopeResult(scope, "merged", text="as it was") for scope in scopes]
    ann.write("one\n")
    ann.librarian.look()
    ann.world.advance(LATER - 10)
    assert len(ann.shelf.syntheses) == 1
    ann.world.advance(20)
    assert len(ann.shelf.syntheses) == 2


def test_other_settings_let_what_failed_be_tried_anew(paying: Reading) -> None:
    paying.come_to_rest()
    paying.shelf.outcome = paying.fail
    paying.write("one\n")
    paying.librarian.look()
    paying.world.advance(MODEL_WAIT + 10)
    paying.shelf.outcome = paying.merge
    paying.set(enabled=True, provider="claude")
    assert paying.librarian.attention() == []
    paying.world.advance(MODEL_WAIT + 10)
    assert len(paying.shelf.syntheses) == 2
    assert paying.consolidated()


def test_an_explicit_one_goes_at_once_and_by_itself(machine: FakeMachine) -> None:
    ann = Reading(machine, provider="anthropic", synthesizer="bob")
    ann.come_to_rest()
    ann.write("one\n", "app")
    ann.shelf.outcome = ann.merge
    answers: list[list[ScopeResult] | Exception] = []
    ann.librarian.synthesize([APP], again=True, done=answers.append, failed=answers.append)
    ann.librarian.synthesize(None, again=False, done=answers.append, failed=answers.append)
    assert answers == []
    ann.world.settle()
    assert [(only, again) for _, only, again in ann.shelf.syntheses] == [([APP], True), (None, False)]
    assert answers == [[ScopeResult(one, "merged", text="2 machines", usd=0.25)] for one in (APP, GLOBAL)]
    assert ann.librarian.synthesizing is None


def test_who_asked_hears_what_broke(ann: Reading) -> None:
    ann.come_to_rest()
    error = ConvergenceError("no key")

    def refuse(_scopes: Sequence[Scope]) -> list[ScopeResult]:
        raise error

    ann.shelf.outcome = refuse
    answers: list[object] = []
    ann.librarian.synthesize(None, again=False, done=answers.append, failed=answers.append)
    ann.world.settle()
    assert answers == [error]


def test_one_that_waits_for_another_is_told_that_it_was_switched_off(ann: Reading) -> None:
    ann.come_to_rest()
    first: list[object] = []
    second: list[object] = []
    for told in (first, second):
        ann.librarian.synthesize(None, again=False, done=told.append, failed=told.append)
    ann.set(enabled=False)
    assert (first, ["disabled" in str(error) for error in second]) == ([], [True])
    ann.world.settle()
    assert (len(first), len(second)) == (1, 1)


def test_how_far_it_is_is_told_while_it_runs(ann: Reading) -> None:
    ann.come_to_rest()
    ann.write("one\n")
    ann.shelf.told = "global (1 of 1)"
    ann.librarian.synthesize(None, again=False, done=lambda _made: None, failed=lambda _error: None)
    assert ann.librarian.synthesizing == "begins"
    ann.shelf.outcome = ann.fail
    ann.machine.workers.run_one(SYNTHESIS)
    ann.machine.engine.desk.messages.get_nowait()()
    assert ann.librarian.synthesizing == "global (1 of 1)"
    ann.world.settle()
    assert ann.librarian.synthesizing is None


# -- rounds


def test_what_a_peer_brings_is_looked_at_and_what_is_new_here_leaves(machine: FakeMachine) -> None:
    ann = Reading(machine, synthesizer="bob").come_to_rest()
    tip = ann.write("one\n")
    ann.librarian.look()
    ann.world.advance(5)
    assert ann.world.hub.refs("refs/heads/knowledge") == {"refs/heads/knowledge": tip}
    assert ann.missing() == []
    ann.shelf.looks.clear()
    theirs = commit_plain(ann.world.hub, {"machines": {BOB: {"global": {"CLAUDE.md": "two\n"}}}})
    ann.world.advance(100)
    assert ann.librarian.last is not None
    assert ann.librarian.last.tip == theirs
    assert ann.texts("fetch")[-1] == "fetched knowledge from hub"
    assert len(ann.shelf.looks) == 1


def test_what_a_peer_has_that_cannot_be_taken_in_is_told_once(ann: Reading) -> None:
    ann.come_to_rest()
    hub = ann.world.hub
    tree = write_folder(hub, {"meta/last-synthesis.json": hub.write_blob(b'{"schema": 99}')})
    hub.swap("refs/heads/knowledge", None, hub.write_commit(Commit(tree, (), PERSON, 1, "newer")))
    ann.world.advance(400)
    (told,) = (text for text in ann.texts("knowledge") if text.startswith("hub: "))
    assert "newer" in told
    assert [one.text for one in ann.librarian.attention()] == [told.removeprefix("hub: ")]
    assert ("peer", told) in ann.missing()


def test_what_is_missing_in_each_state(ann: Reading) -> None:
    assert ann.missing() == [("work", "CLAUDE.md and settings are being looked at")]
    ann.come_to_rest()
    assert ann.missing() == []
    now = ann.world.clock.monotonic()
    assert ann.missing(now) == [("work", "CLAUDE.md and settings are being looked at")]
    ann.hint()
    ann.machine.engine.turn()
    assert ann.missing() == [("work", "CLAUDE.md and settings are being looked at")]
    ann.world.advance(5)
    ann.machine.peers[HUB].unreachable = True
    ann.write("one\n")
    ann.librarian.look()
    ann.shelf.outcome = ann.fail
    ann.world.settle()
    assert ann.missing()[0] == ("person", "knowledge: global: the answer broke off")
    assert ann.missing()[1][1] == "knowledge is not exchanged with hub yet"
    ann.world.advance(5)
    assert [cause for cause, _ in ann.missing()] == ["person", "peer"]


def test_what_needs_a_person_is_on_the_board(ann: Reading) -> None:
    ann.come_to_rest()
    refused = Refusal("global/CLAUDE.md", "is too long", "make it shorter")
    ann.shelf.changes = lambda look: replace(
        look, refusals=(refused,), secrets=("global/CLAUDE.md holds a key",)
    )
    for _ in range(2):
        ann.librarian.look()
        ann.world.advance(1)
    assert [(one.kind, one.text) for one in ann.machine.engine.board.beside["knowledge"]] == [
        ("quarantine", "global/CLAUDE.md is too long"),
        ("secret", "global/CLAUDE.md holds a key"),
    ]
    assert ann.texts("quarantine") == ["global/CLAUDE.md is too long"]


def test_what_was_shared_is_told(ann: Reading) -> None:
    ann.come_to_rest()
    names = tuple(f"projects/{name}/CLAUDE.md" for name in "abcde")
    ann.shelf.changes = lambda look: replace(look, documents=names, written=(LocalPath("/x"),))
    ann.librarian.look()
    ann.world.settle()
    assert ann.texts("knowledge") == [f"shared {', '.join(names[:3])} and 2 others", "wrote /x"]
