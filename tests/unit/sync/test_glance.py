"""A pass that looks at what may have changed only: the same outcome, without looking at the rest."""

from __future__ import annotations

import pytest

from convergenced.canon import rewrite
from convergenced.model import LocalPath
from convergenced.sync.converge import Pass, converge
from convergenced.sync.scan import Glance
from tests.unit.sync.world import FakeMachine, World, sid

S = sid(1)
MANY = 30


@pytest.fixture
def ann(world: World) -> FakeMachine:
    machine = world.machine("ann")
    for number in range(MANY):
        machine.say(sid(number), f"session {number}")
    machine.remember("MEMORY.md", "- one")
    machine.remember("other.md", "other")
    machine.files.write(f"{machine.context()}/{S}/subagents/agent-1.jsonl", machine.spoken(S, "sub"))
    machine.files.write(f"{machine.context()}/{S}/tool-results/out.txt", b"result")
    return machine


def look_again(machine: FakeMachine, former: Pass, *paths: str) -> tuple[Pass, list[str]]:
    """A pass after changes at `paths`, and the folders that it listed."""
    assert former.ingest.scan is not None
    listed: list[str] = []
    machine.files.before = lambda what, path: listed.append(path) if what == "list" else None
    try:
        glance = Glance(former.ingest.scan, frozenset(paths))
        return converge(machine.parts, machine.app, whole_machine=False, since=glance), listed
    finally:
        machine.files.before = lambda _what, _path: None


def whole(machine: FakeMachine) -> Pass:
    return converge(machine.parts, machine.app, whole_machine=False)


def test_an_append_is_committed_without_listing_any_folder(ann: FakeMachine) -> None:
    first = whole(ann)
    ann.say(S, "more")
    result, listed = look_again(ann, first, f"{S}.jsonl")
    assert result.ingest.message == "1 session +1 records"
    assert listed == []
    assert result.ingest.sessions == MANY
    after = ann.tip()
    assert whole(ann).ingest.commit is None
    assert ann.tip() == after


def test_a_new_session_is_committed_without_listing_any_folder(ann: FakeMachine) -> None:
    first = whole(ann)
    ann.say(sid(MANY), "new")
    result, listed = look_again(ann, first, f"{sid(MANY)}.jsonl")
    assert result.ingest.message == "1 session +1 records"
    assert listed == []
    assert result.ingest.sessions == MANY + 1


def test_a_subagent_that_went_on_is_committed_with_its_session(ann: FakeMachine) -> None:
    first = whole(ann)
    path = f"{S}/subagents/agent-1.jsonl"
    ann.files.append(f"{ann.context()}/{path}", ann.spoken(S, "sub again"))
    result, listed = look_again(ann, first, path)
    assert result.ingest.message == "1 session"
    assert listed == []
    assert whole(ann).ingest.commit is None


def test_a_note_that_was_edited_is_committed_and_the_others_stay(ann: FakeMachine) -> None:
    first = whole(ann)
    ann.remember("other.md", "edited")
    result, listed = look_again(ann, first, "memory/other.md")
    assert result.ingest.message == "memory 1"
    assert listed == []
    assert set(ann.notes()) == {"MEMORY.md", "other.md"}
    assert whole(ann).ingest.commit is None


@pytest.mark.parametrize("path", ["memory/new.md", f"{S}/tool-results/second.txt"])
def test_a_new_file_beside_sessions_has_everything_looked_at(ann: FakeMachine, path: str) -> None:
    first = whole(ann)
    ann.files.write(f"{ann.context()}/{path}", b"new")
    result, listed = look_again(ann, first, path)
    assert result.ingest.commit is not None
    assert listed != []
    assert whole(ann).ingest.commit is None


def test_a_note_that_was_deleted_has_everything_looked_at_and_goes(ann: FakeMachine) -> None:
    first = whole(ann)
    ann.files.unlink(ann.memory("other.md"))
    result, listed = look_again(ann, first, "memory/other.md")
    assert result.ingest.message == "memory 1"
    assert listed != []


def test_what_is_never_synced_costs_no_look(ann: FakeMachine) -> None:
    first = whole(ann)
    ann.files.write(f"{ann.context()}/agent-1.jsonl", b"{}\n")
    result, listed = look_again(ann, first, "agent-1.jsonl", "notes.txt")
    assert result.ingest.commit is None
    assert listed == []


@pytest.mark.parametrize("path", ["", "memory", str(S)])
def test_a_folder_that_changed_as_a_whole_has_everything_looked_at(ann: FakeMachine, path: str) -> None:
    first = whole(ann)
    ann.say(sid(3), "said without a hint")
    result, listed = look_again(ann, first, path)
    assert result.ingest.commit is not None
    assert listed != []


def test_a_context_folder_that_vanished_halts(ann: FakeMachine) -> None:
    first = whole(ann)
    ann.files.unlink(ann.context())
    result, _ = look_again(ann, first, f"{S}.jsonl")
    assert result.ingest.halted is not None
    assert "is missing" in result.ingest.halted


def test_notes_of_another_history_have_everything_looked_at(ann: FakeMachine) -> None:
    first = whole(ann)
    ann.state.forget_files(ann.app.folder)
    ann.say(sid(3), "said without a hint")
    result, listed = look_again(ann, first, f"{S}.jsonl")
    assert result.ingest.commit is not None
    assert listed != []


def test_what_arrives_is_written_where_everything_was_looked_at(world: World, ann: FakeMachine) -> None:
    bob = world.machine("bob")
    ann.sync()
    bob.sync()
    bob.say(S, "from bob")
    bob.sync()
    first = whole(ann)
    ann.exchange()
    result, listed = look_again(ann, first)
    assert result.localize is not None
    assert result.localize.written == [f"{S}.jsonl"]
    assert listed != []
    assert ann.texts(S)[-1] == "from bob"


def test_what_arrives_while_it_is_looked_waits_for_a_whole_look(world: World, ann: FakeMachine) -> None:
    bob = world.machine("bob")
    ann.sync()
    bob.sync()
    bob.say(sid(MANY), "from bob")
    bob.sync()
    first = whole(ann)
    ann.say(S, "more")

    def fetch(what: str, _path: LocalPath) -> None:
        if what == "read" and ann.tip() == ann.head():
            ann.exchange()

    ann.files.before = fetch
    assert first.ingest.scan is not None
    result = converge(
        ann.parts, ann.app, whole_machine=False, since=Glance(first.ingest.scan, frozenset([f"{S}.jsonl"]))
    )
    assert result.localize is not None
    assert (result.localize.retry, result.localize.written) == (True, [])
    assert not result.is_clean


def test_a_folder_that_vanished_unnoticed_is_not_made_again_for_what_arrives(
    world: World, ann: FakeMachine
) -> None:
    """Found by seed 3809: then all its sessions counted as removed."""
    bob = world.machine("bob")
    ann.sync()
    bob.sync()
    bob.files.write(f"{bob.context()}/{S}/tool-results/new.txt", b"from bob")
    bob.sync()
    first = whole(ann)
    ann.exchange()
    ann.files.move(ann.context(), "/elsewhere")
    result, _ = look_again(ann, first)
    assert result.ingest.halted is not None
    assert ann.files.list(LocalPath(ann.context())) is None


def test_a_pass_that_finds_nothing_new_compiles_nothing(ann: FakeMachine) -> None:
    whole(ann)
    rewrite._forms.cache_clear()
    rewrite._text.cache_clear()
    assert whole(ann).ingest.commit is None
    assert rewrite._forms.cache_info().misses == rewrite._text.cache_info().misses == 0
