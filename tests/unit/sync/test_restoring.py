"""Sessions that were removed here, and older states of sessions, are brought back."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from convergenced import steps
from convergenced.canon.transcript import restored_id
from convergenced.errors import UsageError
from convergenced.machine.backups import Backup
from convergenced.model import LocalPath, Oid, SessionId
from convergenced.sync.localize import CLEANUP_MARGIN, DAY
from convergenced.sync.replica import Replica
from convergenced.sync.restoring import Restored, restore
from tests.unit.sync.engines import INTERVAL, S
from tests.unit.sync.world import APP, FakeMachine, World, sid


def remove(machine: FakeMachine, session: SessionId) -> None:
    """What the client's cleanup does."""
    for path in machine.files.paths(machine.context()):
        if path.startswith(f"{machine.context()}/{session}"):
            machine.files.unlink(path)


def bring_back(
    machine: FakeMachine, session: SessionId = S, *, at: Oid | None = None, backup: Backup | None = None
) -> Restored:
    return restore(machine.parts, [machine.app], APP, session, at=at, backup=backup)


def file(machine: FakeMachine, name: str) -> str:
    return f"{machine.context()}/{name}"


@pytest.fixture
def old(world: World, ann: FakeMachine) -> FakeMachine:
    """A machine with a session of long ago, with a folder, which is gone, and another that is not."""
    ann.say(S, "long ago")
    ann.files.write(file(ann, f"{S}/tool-results/a.txt"), b"result\n")
    ann.files.write(file(ann, f"{S}/custom-title.json"), b'{"customTitle":"old"}')
    ann.converge()
    world.clock.advance(60 * DAY)
    ann.say(sid(2), "now")
    ann.converge()
    remove(ann, S)
    ann.converge()
    assert ann.sessions() == {sid(2)}
    return ann


def test_a_removed_session_comes_back_whole_and_counts_as_present(old: FakeMachine) -> None:
    tip, head = old.tip(), old.head()
    assert not bring_back(old).is_here
    passed = old.converge()
    assert passed.localize is not None
    assert passed.localize.written[-1] == f"{S}.jsonl", "the transcript comes last"
    assert old.texts(S) == ["long ago"]
    assert old.files.content(file(old, f"{S}/tool-results/a.txt")) == b"result\n"
    assert old.files.content(file(old, f"{S}/custom-title.json")) == b'{"customTitle":"old"}'
    assert (old.tip(), old.head()) == (tip, head), "nothing new is in the store"
    assert old.converge().localize == type(passed.localize)(settled=True)
    old.say(S, "it goes on")
    old.converge()
    assert old.stored(S).count(b"\n") == 2


def test_what_came_back_is_young_enough_for_the_next_cleanup(world: World, old: FakeMachine) -> None:
    bring_back(old)
    old.converge()
    for path in old.files.paths(old.context()):
        found = old.files.stat(LocalPath(path))
        assert found is not None
        assert world.clock.now() - found.mtime_ns / 1e9 <= 30 * DAY * CLEANUP_MARGIN + 3_600, path


def test_asked_again_nothing_happens(old: FakeMachine) -> None:
    bring_back(old)
    old.converge()
    files, tip = old.files.copy_below(old.context()), old.tip()
    again = bring_back(old)
    assert (again.is_here, again.commit) == (True, None)
    assert old.state.wanted(old.app.folder) == frozenset()
    old.converge()
    assert (old.files.copy_below(old.context()), old.tip()) == (files, tip)


def test_what_is_removed_again_afterwards_stays_removed(old: FakeMachine) -> None:
    bring_back(old)
    old.converge()
    remove(old, S)
    old.converge()
    assert old.sessions() == {sid(2)}


def test_only_what_is_missing_of_a_session_is_written(old: FakeMachine) -> None:
    bring_back(old)
    old.converge()
    old.files.unlink(file(old, f"{S}/tool-results/a.txt"))
    old.converge()
    assert not bring_back(old).is_here
    passed = old.converge()
    assert passed.localize is not None
    assert passed.localize.written == [f"{S}/tool-results/a.txt"]


def test_it_waits_for_claude_code_and_comes_then(old: FakeMachine) -> None:
    client = old.processes.begin(old.root)
    bring_back(old)
    for _ in range(2):
        passed = old.converge()
        assert passed.localize is not None
        assert passed.localize.held == 1
        assert old.sessions() == {sid(2)}
    old.processes.end(client)
    old.converge()
    assert old.sessions() == {S, sid(2)}


def test_it_comes_back_also_where_the_cleanup_took_all_there_was(old: FakeMachine) -> None:
    remove(old, sid(2))
    assert old.converge().ingest.halted is not None
    bring_back(old)
    client = old.processes.begin(old.root)
    held = old.converge()
    assert (old.sessions(), held.localize is not None and held.localize.held) == (set(), 1)
    old.processes.end(client)
    passed = old.converge()
    assert passed.ingest.halted is None
    assert passed.localize is not None
    assert f"{S}.jsonl" in passed.localize.written
    assert old.sessions() == {S}, "nobody asked for the other one"
    assert set(old.tree().sessions) == {S, sid(2)}


def test_a_folder_that_is_gone_gets_what_is_wanted_and_keeps_its_memory_in_the_store(
    ann: FakeMachine,
) -> None:
    ann.say(S, "hello")
    ann.remember("a.md", "a fact")
    ann.converge()
    for path in ann.files.paths(ann.context()):
        ann.files.unlink(path)
    bring_back(ann)
    ann.converge()
    assert ann.texts(S) == ["hello"]
    assert ann.stored_memory() == {"a.md": b"a fact"}


def test_killed_while_memory_that_was_lost_is_written_no_note_counts_as_deleted(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.say(S, "hello")
    for name in ("a.md", "b.md", "c.md"):
        ann.remember(name, name)
    ann.converge()
    for path in ann.files.paths(ann.context()):
        ann.files.unlink(path)
    bring_back(ann)

    def die(step: str) -> None:
        if step == "localize.noted":
            raise KeyboardInterrupt

    monkeypatch.setattr(steps, "hook", die)
    with pytest.raises(KeyboardInterrupt):
        ann.converge()
    monkeypatch.undo()
    assert len(ann.notes()) == 1
    ann.converge()
    assert ann.notes() == {name: name for name in ("a.md", "b.md", "c.md")}
    assert ann.texts(S) == ["hello"]


def test_a_session_that_is_here_only_in_a_worktree_is_here(ann: FakeMachine) -> None:
    tree = f"{ann.home}/src/tree"
    ann.checkout(tree, "example.org/ann/app", main_root=ann.root)
    other: Replica = ann.replica(tree, primary=False)
    ann.say(S, "in the worktree", root=tree)
    ann.converge(other)
    ann.converge()
    remove(ann, S)
    found = restore(ann.parts, [other, ann.app], APP, S)
    assert (found.is_here, found.replica) == (True, other)


def test_a_project_that_has_no_place_here_says_how_to_get_one(old: FakeMachine) -> None:
    with pytest.raises(UsageError, match="does not take part") as caught:
        restore(old.parts, [], APP, S)
    assert "convergencectl join --id app" in caught.value.hint


def test_what_no_store_holds_cannot_come_back(old: FakeMachine) -> None:
    with pytest.raises(UsageError, match="no session"):
        bring_back(old, sid(77))


# -- older states


@pytest.fixture
def grown(ann: FakeMachine) -> FakeMachine:
    """A session that grew, with a subagent, and a head for each state."""
    ann.say(S, "first")
    agent = json.dumps({"type": "user", "sessionId": S, "uuid": "a"}) + "\n"
    ann.files.write(file(ann, f"{S}/subagents/agent-1.jsonl"), agent.encode())
    ann.converge()
    return ann


def test_an_older_state_comes_as_a_session_of_its_own_with_its_own_id_everywhere(
    grown: FakeMachine, bob: FakeMachine
) -> None:
    before, text = grown.tip(), grown.local_bytes(S)
    grown.say(S, "second")
    grown.sync()
    found = bring_back(grown, at=before)
    grown.converge()
    new = found.session
    assert (found.origin, found.is_here) == (S, False)
    assert grown.local_bytes(new) == text.replace(S.encode(), new.encode())
    assert grown.texts(S) == ["first", "second"]
    agent = grown.files.content(file(grown, f"{new}/subagents/agent-1.jsonl"))
    assert json.loads(agent)["sessionId"] == new
    grown.exchange()
    bob.sync()
    assert bob.texts(new) == ["first"]


def test_the_same_state_has_the_same_id_whoever_asks_however_often(
    grown: FakeMachine, bob: FakeMachine
) -> None:
    before = grown.tip()
    grown.say(S, "second")
    grown.sync()
    bob.sync()
    found = [bring_back(machine, at=before) for machine in (grown, bob)]
    for machine in (grown, bob, grown, bob):
        machine.sync()
    assert found[0].session == found[1].session
    assert grown.tip() == bob.tip()
    assert grown.sessions() == bob.sessions() == {S, found[0].session}
    tip = grown.tip()
    again = bring_back(grown, at=before)
    assert (again.is_here, again.commit, grown.tip()) == (True, None, tip)


def test_the_state_it_has_now_is_the_session_itself(grown: FakeMachine) -> None:
    tip = grown.tip()
    remove(grown, S)
    grown.say(sid(2), "another")
    grown.converge()
    found = bring_back(grown, at=tip)
    assert (found.session, found.origin, found.commit) == (S, None, None)


def test_a_commit_that_lacks_the_session_is_refused(grown: FakeMachine) -> None:
    before = grown.tip()
    grown.say(sid(2), "another")
    grown.converge()
    with pytest.raises(UsageError, match="has no session"):
        bring_back(grown, sid(2), at=before)


def test_a_backup_comes_as_a_session_of_its_own_without_its_torn_line(grown: FakeMachine) -> None:
    lost = grown.local_bytes(S) + grown.spoken(S, f"only in the backup: {grown.root}/a")
    path = LocalPath(f"{grown.machine.backups_dir}/{grown.app.folder}/x/{S}.jsonl")
    grown.files.write(path, lost + b'{"torn')
    backup = Backup(grown.app.folder, "x", 0.0, f"{S}.jsonl", path, len(lost), False)
    found = bring_back(grown, backup=backup)
    grown.converge()
    assert grown.local_bytes(found.session) == lost.replace(S.encode(), found.session.encode())
    assert b"{{CC_PROJECT_ROOT}}/a" in grown.stored(found.session)
    assert grown.texts(S) == ["first"]
    assert bring_back(grown, backup=backup).is_here


def test_a_backup_without_a_record_is_refused(grown: FakeMachine) -> None:
    path = LocalPath(f"{grown.machine.backups_dir}/{grown.app.folder}/x/{S}.jsonl")
    backup = Backup(grown.app.folder, "x", 0.0, f"{S}.jsonl", path, 0, False)
    with pytest.raises(UsageError, match="is not there"):
        bring_back(grown, backup=backup)
    grown.files.write(path, b'{"torn')
    with pytest.raises(UsageError, match="no complete record"):
        bring_back(grown, backup=backup)


def test_ids_of_states_depend_on_session_and_content() -> None:
    ids = {restored_id(session, oid) for session in (S, sid(2)) for oid in ("a", "b")}
    assert len(ids) == 4


# -- with the engine


def test_a_running_engine_writes_what_is_wanted_once_nothing_holds_it(
    world: World, ann: FakeMachine, crashed: Callable[[FakeMachine], None]
) -> None:
    for number in (1, 2):
        ann.say(sid(number), "hello")
    ann.start()
    world.advance(INTERVAL)
    remove(ann, S)
    world.advance(INTERVAL)
    client = ann.processes.begin(ann.root)
    bring_back(ann)
    ann.engine.look_at_everything()
    world.advance(2 * INTERVAL)
    assert ann.sessions() == {sid(2)}
    crashed(ann)
    ann.processes.end(client)
    world.advance(INTERVAL)
    assert ann.sessions() == {S, sid(2)}


@pytest.fixture(params=["goes on", "is killed meanwhile"])
def crashed(request: pytest.FixtureRequest) -> Callable[[FakeMachine], None]:
    def end(machine: FakeMachine) -> None:
        if request.param != "goes on":
            machine.crash()
            machine.start()

    return end
