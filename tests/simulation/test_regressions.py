"""What stories found, each as the shortest story that shows it."""

from __future__ import annotations

import pytest

from convergenced import steps
from convergenced.merge.segments import read_transcript
from convergenced.store.branch import project_at
from tests.unit.sync.world import FakeMachine, World, sid

S, T = sid(1), sid(2)


class CrashError(BaseException):
    """The daemon is killed."""


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ann(world: World) -> FakeMachine:
    return world.machine("ann")


@pytest.fixture
def bob(world: World) -> FakeMachine:
    return world.machine("bob")


def test_a_line_that_is_not_complete_yet_survives_that_the_file_is_replaced(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    """Found by seeds 19 and 61: the beginning of the line was gone, and its rest became a line."""
    ann.say(S, "begin")
    ann.sync()
    bob.sync()
    record = bob.spoken(S, "slowly")
    bob.files.append(bob.transcript(S), record[:30])
    ann.say(S, "more")
    ann.sync()
    bob.sync()
    assert bob.texts(S)[:2] == ["begin", "more"]
    bob.files.append(bob.transcript(S), record[30:])
    bob.sync()
    ann.sync()
    assert ann.texts(S) == bob.texts(S) == ["begin", "more", "slowly"]


@pytest.mark.parametrize("what", ["say", "note", "attach"])
def test_a_store_that_went_back_in_time_makes_the_notes_about_files_void(ann: FakeMachine, what: str) -> None:
    """Found by seed 19: a commit named objects that the store did not have any more."""
    attached = f"{ann.context()}/{S}/tool-results/1.txt"
    ann.say(S, "begin")
    ann.remember("habits.md", "one")
    ann.files.write(attached, b"one")
    ann.converge()
    backup = ann.store.copy()
    if what == "say":
        ann.say(S, "more")
    elif what == "note":
        ann.remember("habits.md", "two")
    else:
        ann.files.write(attached, b"two")
    ann.converge()
    wanted = ann.tree()
    ann.use_store(backup)
    ann.say(T, "another")
    ann.converge()
    found = ann.tree()
    assert (found.sessions[S], found.memory) == (wanted.sessions[S], wanted.memory)
    assert b"begin" in ann.stored(S)
    assert ann.stored_memory()
    assert ann.stored_folder(S)


def test_what_was_committed_before_a_crash_outlives_an_older_copy_of_the_file(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by seed 963: the notes knew less than the replica's own ref, and were followed."""

    def crash(step: str) -> None:
        if step == "ingest.committed":
            raise CrashError

    ann.say(S, "begin")
    ann.converge()
    older = ann.local_bytes(S)
    ann.say(S, "committed")
    monkeypatch.setattr(steps, "hook", crash)
    with pytest.raises(CrashError):
        ann.converge()
    monkeypatch.undo()
    ann.files.write(ann.transcript(S), older)
    ann.say(S, "after the crash")
    ann.converge()
    for text in (b"begin", b"committed", b"after the crash"):
        assert text in ann.stored(S)


def test_it_does_also_where_the_branch_went_on_before_the_restart_ended(
    ann: FakeMachine, bob: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by seed 411: the same, with a fetch between the crash and the next pass."""

    def crash(step: str) -> None:
        if step == "merge.advanced":
            raise CrashError

    ann.say(S, "begin")
    ann.sync()
    bob.sync()
    bob.say(T, "elsewhere")
    bob.sync()
    older = ann.local_bytes(S)
    ann.say(S, "committed")
    monkeypatch.setattr(steps, "hook", crash)
    with pytest.raises(CrashError):
        ann.converge()
    monkeypatch.undo()
    ann.exchange()
    ann.files.write(ann.transcript(S), older)
    ann.processes.begin(ann.root)
    ann.converge()
    head, _ = project_at(ann.store, ann.head())
    transcript = head.sessions[S].transcript
    assert transcript is not None
    assert b"committed" in b"".join(read_transcript(ann.store, transcript))


@pytest.mark.parametrize("number", range(8))
def test_a_fork_grows_before_its_lineage_leaves_the_old_file_whatever_the_two_are_called(
    ann: FakeMachine, bob: FakeMachine, number: int
) -> None:
    """Found by seed 9409: with the fork's name after the session's, a crash in between left it short here."""
    session = sid(number)
    ann.say(session, "begin")
    ann.sync()
    bob.sync()
    ann.say(session, "ann goes on")
    bob.clock.advance(10)
    bob.say(session, "bob goes on")
    ann.sync()

    def append(path: str) -> None:
        if path == bob.transcript(session):
            bob.files.between = lambda _path: None
            bob.say(session, "more, right before it was replaced")

    bob.files.between = append
    bob.sync()
    (fork,) = bob.sessions() - {session}
    assert bob.texts(session)[-1] == "more, right before it was replaced"
    order: list[str] = []
    bob.files.between = order.append
    bob.converge()
    written = [path.rpartition("/")[2] for path in order]
    assert written == [f"{fork}.jsonl", f"{session}.jsonl"]


def test_a_tail_rewritten_while_it_is_read_is_read_again(ann: FakeMachine) -> None:
    """Found by seed 9268: the bytes were those of before, and the look back at the end those of after."""
    ann.say(S, "begin")
    ann.converge()
    old = ann.say(S, "old tail")
    reads = 0

    def rewrite(what: str, _path: str) -> None:
        nonlocal reads
        reads += what == "read"
        if reads == 3:
            ann.files.before = lambda _what, _path: None
            tail = ann.spoken(S, "new tail")
            assert len(tail) >= len(old)
            ann.files.write(ann.transcript(S), ann.local_bytes(S).replace(old, tail))

    ann.files.before = rewrite
    ann.converge()
    assert reads == 3
    ann.converge()
    assert b"new tail" in ann.stored(S)
    assert b"old tail" in ann.stored(S)
