"""Following a checkout by request, and putting away what it left behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest

from convergenced import steps
from convergenced.errors import UsageError
from convergenced.machine.state import ReplicaNote
from convergenced.model import Checkout, LocalPath
from convergenced.sync.clearing import PutAway, put_away
from convergenced.sync.moving import Moved, as_replica, move_checkout
from convergenced.sync.scan import scan_folder
from convergenced.sync.survey import Scope
from tests.unit.sync.engines import INTERVAL
from tests.unit.sync.world import APP, APP_URL, FakeMachine, World, sid

S = sid(1)


class KilledError(BaseException):
    """The daemon ends here."""


def note_of(machine: FakeMachine, root: str) -> ReplicaNote:
    return next(note for note in machine.state.replicas() if note.root == root)


def moved_to(machine: FakeMachine, to: str) -> LocalPath:
    machine.checkouts.take_away(machine.root)
    machine.files.unlink(machine.root)
    machine.checkout(to, APP_URL)
    return LocalPath(to)


def move(machine: FakeMachine, old: str, new: str) -> list[Moved]:
    return move_checkout(machine.parts, machine.checkouts, LocalPath(old), LocalPath(new))


def write_both(machine: FakeMachine, moved: Moved) -> None:
    found = {replica.folder: replica for replica in machine.survey().replicas}
    for note in (moved.former, moved.note, moved.former):
        if note.folder in found:
            machine.converge(found[note.folder])


def clear(machine: FakeMachine, moved: Moved) -> PutAway:
    return put_away(machine.parts, moved.former, moved.note, whole_machine=False)


@pytest.fixture
def settled(ann: FakeMachine) -> FakeMachine:
    """Two sessions, one with files of its own, and two notes, all in step; a third session was removed."""
    for number in (1, 2, 3):
        ann.say(sid(number), f"in {ann.root}")
    ann.files.write(f"{ann.context()}/{S}/tool-results/a.txt", f"see {ann.root}".encode())
    for name in ("a.md", "b.md"):
        ann.remember(name, f"see {ann.root}\n")
    (replica,) = ann.survey().replicas
    ann.converge(replica)
    ann.converge(replica)
    ann.files.unlink(ann.transcript(sid(3)))
    ann.converge(replica)
    return ann


def test_what_the_old_folder_held_goes_among_the_backups(settled: FakeMachine) -> None:
    ann = settled
    before = {path: ann.files.content(path) for path in ann.files.paths(ann.context())}
    new = moved_to(ann, f"{ann.home}/code/app")
    (moved,) = move(ann, ann.root, new)
    write_both(ann, moved)
    tip = ann.tip()
    away = clear(ann, moved)
    assert (away.files, away.stays) == (5, None)
    assert not ann.files.paths(ann.context())
    kept = {path: ann.files.content(path) for path in ann.files.paths(ann.machine.backups_dir)}
    assert sorted(kept.values()) == sorted(before.values())
    assert [note.root for note in ann.state.replicas()] == [new]
    assert ann.head(as_replica(moved.former)) is None
    assert ann.sessions(new) == {sid(1), sid(2)}
    (replica,) = ann.survey().replicas
    ann.converge(replica)
    assert ann.tip() == tip, "nothing of it is taken for deleted"
    assert ann.notes(new) == dict.fromkeys(("a.md", "b.md"), f"see {new}\n")


def test_moving_twice_is_moving_once(settled: FakeMachine) -> None:
    ann = settled
    new = moved_to(ann, f"{ann.home}/code/app")
    assert move(ann, ann.root, new) == move(ann, ann.root, new)
    assert len(ann.state.replicas()) == 2


def test_projects_in_folders_below_move_along(settled: FakeMachine) -> None:
    ann = settled
    ann.files.make_folder(f"{ann.root}/web")
    ann.say(sid(5), "below", root=f"{ann.root}/web")
    ann.say(sid(6), "beside", root=f"{ann.root}-other")
    ann.survey()
    new = moved_to(ann, f"{ann.home}/code/app")
    ann.files.make_folder(f"{new}/web")
    moves = move(ann, ann.root, new)
    assert {(one.project, one.note.root) for one in moves} == {(APP, new), ("app-web", f"{new}/web")}


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("grew", "is not in the store as it stands there"),
        ("torn", "is not in the store as it stands there"),
        ("another note", "is not in the new folder"),
        ("new lacks one", "is not in the new folder"),
        ("behind", "does not hold everything yet"),
        ("runs", "Claude Code runs in"),
        ("a link", "is a symbolic link"),
    ],
)
def test_what_is_not_proved_stays(settled: FakeMachine, why: str, words: str) -> None:
    ann = settled
    new = moved_to(ann, f"{ann.home}/code/app")
    (moved,) = move(ann, ann.root, new)
    write_both(ann, moved)
    match why:
        case "grew":
            ann.say(S, "one more", root=ann.root)
        case "torn":
            ann.files.append(ann.transcript(S), b'{"half')
            ann.converge(as_replica(moved.former))
        case "another note":
            ann.files.write(ann.memory("c.md"), b"new")
        case "new lacks one":
            ann.files.unlink(ann.transcript(sid(2), new))
        case "behind":
            ann.say(sid(7), "elsewhere", root=ann.root)
            ann.ingest(as_replica(moved.former))
        case "runs":
            ann.processes.begin(new)
        case _:
            ann.files.link(ann.transcript(sid(8)), "/elsewhere")
    before = {path: ann.files.content(path) for path in ann.files.paths(ann.context())}
    away = clear(ann, moved)
    assert away.files == 0
    assert away.stays is not None
    assert words in away.stays
    assert {path: ann.files.content(path) for path in ann.files.paths(ann.context())} == before
    assert len(ann.state.replicas()) == 2


def test_a_client_that_starts_in_between_stops_it(settled: FakeMachine) -> None:
    ann = settled
    new = moved_to(ann, f"{ann.home}/code/app")
    (moved,) = move(ann, ann.root, new)
    write_both(ann, moved)

    def begin(step: str) -> None:
        if step == "move.emptied":
            ann.processes.begin(ann.root)

    steps.hook = begin
    try:
        away = clear(ann, moved)
    finally:
        steps.hook = None
    assert away.files == 1
    assert away.stays is not None
    assert "Claude Code runs in" in away.stays


@pytest.mark.parametrize("step", ["move.begun", "move.forgotten", "move.emptied"])
def test_what_was_killed_on_the_way_deletes_nothing_anywhere(settled: FakeMachine, step: str) -> None:
    ann = settled
    new = moved_to(ann, f"{ann.home}/code/app")

    def kill(reached: str) -> None:
        if reached == step:
            raise KilledError

    def run() -> None:
        (moved,) = move(ann, ann.root, new)
        write_both(ann, moved)
        clear(ann, moved)

    steps.hook = kill
    try:
        with pytest.raises(KilledError):
            run()
    finally:
        steps.hook = None
    for _ in range(3):
        for replica in ann.survey().replicas:
            ann.converge(replica)
    assert set(ann.tree().sessions) == {sid(1), sid(2), sid(3)}
    assert set(ann.stored_memory()) == {"a.md", "b.md"}
    (moved,) = move(ann, ann.root, new)
    write_both(ann, moved)
    assert clear(ann, moved).stays is None
    assert ann.sessions(new) == {sid(1), sid(2)}
    assert set(ann.notes(new)) == {"a.md", "b.md"}
    assert ann.sessions() == set()


def test_a_folder_that_never_took_all_hands_nothing_over_as_removed(settled: FakeMachine) -> None:
    """The head of a second folder has sessions that it never held."""
    ann = settled
    second = LocalPath(f"{ann.home}/src/second")
    ann.checkout(second, APP_URL)
    ann.say(sid(9), "in the second", root=second)
    for replica in ann.survey().replicas:
        ann.converge(replica)
        ann.converge(replica)
    ann.checkouts.take_away(second)
    ann.files.unlink(second)
    new = moved_to(ann, f"{ann.home}/code/app")
    (moved,) = move(ann, second, new)
    assert ann.head(as_replica(moved.note)) is None
    (replica,) = (one for one in ann.survey().replicas if one.primary)
    ann.converge(replica)
    assert {sid(1), sid(2), sid(9)} <= ann.sessions(new)


def test_what_has_another_meaning_already_is_not_moved_to(settled: FakeMachine) -> None:
    ann = settled
    new = moved_to(ann, f"{ann.home}/code/app")
    ann.take_part(new, "other")
    with pytest.raises(UsageError, match="already takes part in project other"):
        move(ann, ann.root, new)
    assert scan_folder(ann.files, LocalPath(ann.context(new))) is None


# -- where somebody moved the context folder along


@pytest.mark.parametrize("roots", [(), ("code",)])
def test_a_context_folder_that_was_moved_along_is_told_of_and_not_taken_for_the_new_one(
    settled: FakeMachine, roots: tuple[str, ...]
) -> None:
    """What stands in it speaks of the old place: every session would be there twice."""
    ann = settled
    new = moved_to(ann, f"{ann.home}/code/app")
    ann.files.move(ann.context(), ann.context(new))
    before, tip = ann.files.copy_below(ann.context(new)), ann.tip()
    scope = Scope(roots=tuple(LocalPath(f"{ann.home}/{root}") for root in roots))
    for _ in range(2):
        found = ann.survey(scope)
        assert [note.root for note in ann.state.replicas()] == [ann.root]
        for replica in found.replicas:
            assert ann.converge(replica).ingest.halted is not None
    (refusal,) = found.refusals
    if roots:
        assert refusal.reason == f"holds what Claude Code wrote at {ann.root}"
        assert refusal.remedy == f"convergencectl project move {ann.root} {new}"
    with pytest.raises(UsageError, match="still speaks of"):
        move(ann, ann.root, new)
    assert (ann.files.copy_below(ann.context(new)), ann.tip()) == (before, tip)
    ann.files.move(ann.context(new), ann.context())
    (moved,) = move(ann, ann.root, new)
    write_both(ann, moved)
    assert clear(ann, moved).stays is None
    assert ann.sessions(new) == {sid(1), sid(2)}
    assert set(ann.tree().sessions) == {sid(1), sid(2), sid(3)}


# -- by itself, in the engine


def test_a_checkout_that_is_gone_is_looked_for_ever_more_rarely_and_found(
    world: World, ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.say(S, "hello")
    ann.start()
    world.advance(INTERVAL)
    looked: list[float] = []
    find = ann.checkouts.find

    def counted(roots: Sequence[LocalPath]) -> Iterator[Checkout]:
        looked.append(world.clock.monotonic())
        return find(roots)

    monkeypatch.setattr(ann.checkouts, "find", counted)
    ann.checkouts.take_away(ann.root)
    ann.files.unlink(ann.root)
    world.advance(86_400.0)
    assert 5 <= len(looked) <= 10
    waits = [after - before for before, after in pairwise(looked)]
    assert waits == sorted(waits)
    world.advance(100.0)
    count = len(looked)
    for _ in range(20):  # as hooks do
        ann.engine.look_at_everything()
        world.advance(2.0)
    assert len(looked) == count + 1
    ann.checkout(f"{ann.home}/src/elsewhere", APP_URL)
    world.advance(100.0)
    ann.engine.look_at_everything()
    world.advance(INTERVAL)
    assert ann.sessions(f"{ann.home}/src/elsewhere") == {S}
    assert ann.log.texts("move") == [f"{ann.root} is now {ann.home}/src/elsewhere"]
    count = len(looked)
    world.advance(86_400.0)
    assert len(looked) == count, "nothing is missing any more"
