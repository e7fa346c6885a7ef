"""Memory that was edited in two places: listed with its writers, settled everywhere, told once."""

from __future__ import annotations

from itertools import permutations
from typing import get_args

import pytest

from convergenced.errors import ConvergenceError
from convergenced.merge.conflict import has_conflict
from convergenced.sync.conflicts import ConflictedFile, Settled, Take, find_conflicts, settle
from convergenced.sync.divergences import Divergence, find_divergences
from convergenced.sync.news import FRESH
from tests.unit.sync.engines import INTERVAL, S
from tests.unit.sync.world import APP, FakeMachine, World, project_at

TEXT = "# Facts\n\none\ntwo\nthree\n"
Pair = tuple[FakeMachine, FakeMachine]


def exchange_all(*machines: FakeMachine) -> None:
    for _ in range(2):
        for machine in machines:
            machine.sync()


def set_apart(pair: Pair, name: str = "a.md", texts: tuple[str, str] = ("zwei", "deux")) -> None:
    """Both edit one line of one note, each without the other."""
    ann, bob = pair
    ann.remember(name, TEXT)
    exchange_all(*pair)
    for machine, text in zip(pair, texts, strict=True):
        machine.world.clock.advance(10)
        machine.remember(name, TEXT.replace("two", text))
        machine.converge()
    exchange_all(*pair)
    assert has_conflict(ann.notes()[name].encode())
    assert ann.notes() == bob.notes()


@pytest.fixture
def apart(ann: FakeMachine, bob: FakeMachine) -> Pair:
    set_apart((ann, bob))
    return ann, bob


def conflicts(machine: FakeMachine) -> list[ConflictedFile]:
    tip = machine.tip()
    assert tip is not None
    return find_conflicts(machine.store, APP, tip)


def writers(machine: FakeMachine) -> list[list[tuple[str, str | None]]]:
    """Of every conflict the sides' texts and machines."""
    return [
        [
            (b"|".join(side.lines).decode(), None if side.author is None else side.author.name)
            for side in sides
        ]
        for file in conflicts(machine)
        for sides in file.conflicts
    ]


def resolve(machine: FakeMachine, take: Take, name: str = "a.md") -> Settled:
    return settle(machine.parts, [machine.app], APP, name, take)


# -- who wrote what


def test_both_sides_are_listed_with_their_writers_alike_on_all_machines(apart: Pair) -> None:
    for machine in apart:
        (file,) = conflicts(machine)
        assert (file.name, file.path) == ("app:memory/a.md", "memory/a.md")
        assert writers(machine) == [[("deux", "bob"), ("zwei", "ann")]]


def test_what_is_committed_later_hides_no_writer(apart: Pair) -> None:
    ann, bob = apart
    bob.say(S, "hello")
    bob.remember("a.md", bob.notes()["a.md"].replace("three", "3"))
    bob.remember("b.md", "zwei\n")
    exchange_all(*apart)
    ann.say(S, "hello again")
    exchange_all(*apart)
    assert writers(ann) == [[("deux", "bob"), ("zwei", "ann")]]


def test_each_conflict_of_a_file_has_its_own_writers(ann: FakeMachine, bob: FakeMachine) -> None:
    far = TEXT + "four\nfive\nsix\nseven\n"
    ann.remember("a.md", far)
    exchange_all(ann, bob)
    ann.remember("a.md", far.replace("one", "x").replace("six", "y"))
    bob.remember("a.md", far.replace("one", "y").replace("six", "x"))
    for machine in (ann, bob):
        machine.converge()
    exchange_all(ann, bob)
    assert writers(ann) == [[("x", "ann"), ("y", "bob")], [("x", "bob"), ("y", "ann")]]


def test_who_took_lines_away_is_told_too(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.remember("a.md", TEXT)
    exchange_all(ann, bob)
    ann.remember("a.md", TEXT.replace("two\n", ""))
    bob.remember("a.md", TEXT.replace("two", "deux"))
    for machine in (ann, bob):
        machine.converge()
    exchange_all(ann, bob)
    assert writers(bob) == [[("", "ann"), ("deux", "bob")]]


def test_a_writer_too_far_back_is_unknown(apart: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convergenced.sync.conflicts.LOOK_BACK", 1)
    assert writers(apart[0]) == [[("deux", None), ("zwei", None)]]


# -- settling


@pytest.mark.parametrize(("take", "line"), [("ours", "zwei"), ("theirs", "deux"), ("both", "deux\nzwei")])
def test_what_one_machine_takes_is_what_all_have(apart: Pair, take: Take, line: str) -> None:
    ann, bob = apart
    assert resolve(ann, take).commit is not None
    exchange_all(*apart)
    assert ann.notes() == bob.notes() == {"a.md": TEXT.replace("two", line)}
    assert conflicts(ann) == conflicts(bob) == []
    assert ann.tip() == bob.tip()


def test_ours_is_what_this_machine_wrote(apart: Pair) -> None:
    bob = apart[1]
    resolve(bob, "ours")
    exchange_all(*apart)
    assert bob.notes() == {"a.md": TEXT.replace("two", "deux")}


def test_who_wrote_neither_side_is_not_guessed_for(world: World, apart: Pair) -> None:
    eve = world.machine("eve")
    eve.sync()
    before = eve.tip()
    for take in ("ours", "theirs"):
        with pytest.raises(ConvergenceError, match=r"neither side .* bob, ann") as caught:
            resolve(eve, take)
        assert caught.value.hint == "take both, or edit the file and remove the markers"
    assert eve.tip() == before
    resolve(eve, "both")
    exchange_all(eve, *apart)
    assert apart[0].notes() == {"a.md": TEXT.replace("two", "deux\nzwei")}


def test_of_three_sides_theirs_is_none(world: World, apart: Pair) -> None:
    eve = world.machine("eve")
    eve.remember("a.md", TEXT.replace("two", "tre"))
    exchange_all(eve, *apart)
    assert [len(sides) for sides in conflicts(eve)[0].conflicts] == [3]
    with pytest.raises(ConvergenceError, match="2 other sides"):
        resolve(eve, "theirs")
    resolve(eve, "ours")
    exchange_all(eve, *apart)
    assert apart[1].notes() == {"a.md": TEXT.replace("two", "tre")}


def test_local_edits_are_committed_first(apart: Pair) -> None:
    ann, bob = apart
    ann.remember("a.md", ann.notes()["a.md"].replace("three", "3"))
    settled = resolve(ann, "ours")
    assert [report.message for report in settled.ingested] == ["memory 1"]
    exchange_all(*apart)
    assert bob.notes() == {"a.md": TEXT.replace("two", "zwei").replace("three", "3")}


def test_an_edit_that_removed_the_markers_settled_it_already(apart: Pair) -> None:
    ann, bob = apart
    ann.remember("a.md", TEXT.replace("two", "2"))
    assert resolve(ann, "theirs").commit is None
    exchange_all(*apart)
    assert bob.notes() == {"a.md": TEXT.replace("two", "2")}


def test_a_file_that_cannot_be_read_now_is_not_settled_over(apart: Pair) -> None:
    ann = apart[0]
    ann.say(S, "hello")
    ann.converge()
    before = ann.tip()
    ann.files.unlink(ann.memory("a.md"))
    ann.files.link(ann.memory("a.md"), "/etc/passwd")
    with pytest.raises(ConvergenceError, match="cannot be read"):
        resolve(ann, "ours")
    assert ann.tip() == before


def test_both_leaves_no_marker_of_a_side_behind(ann: FakeMachine, bob: FakeMachine) -> None:
    inner = "<<<<<<< convergence\nx\n=======\ny\n>>>>>>> convergence"
    set_apart((ann, bob), texts=(inner, "deux"))
    with pytest.raises(ConvergenceError, match="markers"):
        resolve(ann, "ours")
    resolve(ann, "both")
    assert conflicts(ann) == []
    assert {"x", "y", "deux"} <= set(ann.stored_memory()["a.md"].decode().split("\n"))


def test_settled_differently_in_two_places_it_is_a_conflict_of_the_two(apart: Pair) -> None:
    ann, bob = apart
    resolve(ann, "ours")
    resolve(bob, "ours")
    exchange_all(*apart)
    assert writers(ann) == writers(bob) == [[("deux", "bob"), ("zwei", "ann")]]
    resolve(ann, "theirs")
    exchange_all(*apart)
    assert ann.notes() == bob.notes() == {"a.md": TEXT.replace("two", "deux")}


@pytest.mark.parametrize("take", [None, *get_args(Take)])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_settled_once_it_does_not_come_back(world: World, take: Take | None, order: tuple[int, ...]) -> None:
    """By hand or by command; the third machine has the old text, and edits another place."""
    ann, bob, eve = machines = [world.machine(name) for name in ("ann", "bob", "eve")]
    ann.remember("a.md", TEXT)
    exchange_all(*machines)
    for machine, text in ((ann, "zwei"), (bob, "deux")):
        machine.remember("a.md", TEXT.replace("two", text))
        machine.converge()
    exchange_all(ann, bob)
    eve.remember("a.md", TEXT.replace("# Facts", "# Truth"))
    eve.converge()
    if take is None:
        ann.remember("a.md", TEXT.replace("two", "2"))
        ann.converge()
    else:
        resolve(ann, take)
    for _ in range(2):
        for index in order:
            machines[index].sync()
    exchange_all(*machines)
    line = {None: "2", "ours": "zwei", "theirs": "deux", "both": "deux\nzwei"}[take]
    for machine in machines:
        assert machine.notes() == {"a.md": TEXT.replace("two", line).replace("# Facts", "# Truth")}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_side_that_was_settled_does_not_come_back_with_a_third_one(
    world: World, order: tuple[int, ...]
) -> None:
    ann, bob, eve = machines = [world.machine(name) for name in ("ann", "bob", "eve")]
    ann.remember("a.md", TEXT)
    exchange_all(*machines)
    for machine, text in ((ann, "zwei"), (bob, "deux"), (eve, "tre")):
        machine.remember("a.md", TEXT.replace("two", text))
        machine.converge()
    exchange_all(ann, bob)
    resolve(ann, "ours")
    for index in order:
        machines[index].sync()
    exchange_all(*machines)
    assert writers(ann) == [[("tre", "eve"), ("zwei", "ann")]]
    assert ann.notes() == bob.notes() == eve.notes()


def test_an_edit_against_a_deletion_keeps_the_edit_everywhere(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.remember("a.md", TEXT)
    ann.remember("b.md", "other\n")
    exchange_all(ann, bob)
    bob.files.unlink(bob.memory("a.md"))
    ann.remember("a.md", TEXT + "four\n")
    for machine in (bob, ann):
        machine.converge()
    exchange_all(ann, bob)
    assert ann.notes() == bob.notes() == {"a.md": TEXT + "four\n", "b.md": "other\n"}
    assert conflicts(ann) == []


# -- told once


def go_apart(world: World, pair: Pair) -> None:
    """One session goes on on both machines, and one note is edited on both."""
    for machine in pair:
        machine.peer.unreachable = True
        machine.say(S, f"{machine.name} goes on")
        machine.remember("a.md", f"{machine.name}\n")
        world.advance(10)
    for machine in pair:
        machine.peer.unreachable = False
    world.advance(4 * INTERVAL)


@pytest.fixture
def told(world: World, pair: Pair) -> Pair:
    """Machines that run, after both a session and a note went on in two places."""
    pair[0].say(S, "begin")
    pair[0].remember("a.md", "one\n")
    world.advance(3 * INTERVAL)
    go_apart(world, pair)
    return pair


def test_each_machine_tells_each_matter_once(world: World, told: Pair) -> None:
    for machine in told:
        assert len(machine.log.texts("fork")) == len(machine.log.texts("conflict")) == 1
        machine.say(S, "and on")
    world.advance(4 * INTERVAL)
    for machine in told:
        machine.stop()
        machine.start()
    world.advance(4 * INTERVAL)
    for machine in told:
        assert [len(machine.log.texts(kind)) for kind in ("conflict", "settled")] == [1, 0]
        assert len({*machine.log.texts("fork")}) == len(machine.log.texts("fork"))


def test_what_is_settled_is_told_as_settled_and_may_come_again(world: World, told: Pair) -> None:
    ann, bob = told
    ann.remember("a.md", "one text\n")
    world.advance(4 * INTERVAL)
    for machine in told:
        assert len(machine.log.texts("settled")) == 1
    go_apart(world, told)
    for machine in told:
        assert len(machine.log.texts("conflict")) == 2
    assert ann.notes() == bob.notes()


def test_with_the_state_lost_what_is_old_is_not_told_as_news(world: World, told: Pair) -> None:
    ann = told[0]
    world.advance(FRESH + INTERVAL)
    ann.stop()
    ann.lose_state()
    ann.start()
    world.advance(4 * INTERVAL)
    assert len(ann.log.texts("fork")) == 1
    assert len(ann.log.texts("conflict")) == 2, "it still waits, so it is told once more"


def test_a_notice_is_shown_for_a_day_also_after_a_restart(world: World, told: Pair) -> None:
    ann = told[0]
    (notice,) = ann.engine.board.notices
    assert notice.text == ann.log.texts("fork")[0]
    ann.stop()
    ann.start()
    assert ann.engine.board.notices == [notice]


def test_the_history_tells_which_sessions_became_two_and_by_whom(world: World, told: Pair) -> None:
    found: list[list[Divergence]] = []
    for machine in told:
        tip = machine.tip()
        assert tip is not None
        found.append(find_divergences(machine.store, APP, tip))
        assert find_divergences(machine.store, APP, tip, since=world.clock.now()) == []
        assert find_divergences(machine.store, APP, tip, beyond=tip) == []
    assert found[0] == found[1]
    (one,) = found[0]
    sessions = told[0].sessions()
    assert {one.session, one.fork} <= sessions
    assert one.session == S
    by = {one.session: one.session_by, one.fork: one.fork_by}
    assert sorted(filter(None, by.values())) == ["ann", "bob"]
    for session, name in by.items():
        assert told[0].texts(session)[-1] == f"{name} goes on"


def test_two_folders_of_a_project_tell_once(world: World, ann: FakeMachine) -> None:
    """A worktree's pass looks while that of the main checkout was not heard of yet."""
    tree = f"{ann.home}/src/tree"
    ann.checkout(tree, "example.org/ann/app", main_root=ann.root)
    for root in (ann.root, tree):
        ann.remember("a.md", "one\n", root=root)
        ann.say(S, "begin", root=root)
    ann.start()
    world.advance(2 * INTERVAL)
    for root, text in ((ann.root, "uno\n"), (tree, "eins\n")):
        ann.remember("a.md", text, root=root)
        ann.say(S, text, root=root)
    world.advance(2 * INTERVAL)
    assert len(ann.engine.board.replicas) == 2
    assert len(ann.log.texts("conflict")) == 1
    assert len({*ann.log.texts("fork")}) == len(ann.log.texts("fork"))


def test_a_damaged_past_holds_nothing_up_and_is_told_of_once_it_is_healed(apart: Pair) -> None:
    ann, tip = apart[0], apart[0].tip()
    assert tip is not None
    former = ann.store.read_commit(tip).parents[0]
    note = project_at(ann.store, former).memory["a.md"]
    lost = ann.store.objects.pop(note)
    ann.state.note_told(APP, former)
    assert ann.converge().news is None
    ann.store.objects[note] = lost
    news = ann.converge().news
    assert news is not None
    assert news.appeared == ("a.md",)


def test_settling_waits_for_claude_and_is_written_then(apart: Pair) -> None:
    ann, bob = apart
    pid = ann.processes.begin(ann.root)
    resolve(ann, "ours")
    held = ann.converge().localize
    assert held is not None
    assert held.held == 1
    assert has_conflict(ann.notes()["a.md"].encode())
    ann.exchange()
    bob.sync()
    assert not has_conflict(bob.notes()["a.md"].encode())
    ann.processes.end(pid)
    ann.converge()
    assert ann.notes() == bob.notes()
