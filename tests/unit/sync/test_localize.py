"""What arrived → local files: when it is written, in which order, and what is never overwritten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from convergenced import steps
from convergenced.merge import segments
from convergenced.merge.segments import SEGMENT_BYTES
from convergenced.merge.session import rename_session
from convergenced.model import ClaudeProcess, Content, LocalPath, Oid, SessionId, Snapshot
from convergenced.sync.ingest import policy_of
from convergenced.sync.localize import CLEANUP_MARGIN, DAY, holder_of
from convergenced.sync.replica import replica_ref
from tests.unit.sync.world import FakeMachine, World, sid

S = sid(1)


def written(machine: FakeMachine, work: Callable[[], object]) -> list[str]:
    """The paths that are put in place while `work` is done, in order."""
    found: list[str] = []
    machine.files.between = lambda path: found.append(path.removeprefix(f"{machine.context()}/"))
    try:
        work()
    finally:
        machine.files.between = lambda _path: None
    return found


def pull(machine: FakeMachine) -> None:
    """Fetches and ingests: what arrived only has to be written."""
    machine.exchange()
    machine.ingest()


def part_ways(ann: FakeMachine, bob: FakeMachine) -> None:
    """Both have the session, and both go on with it."""
    ann.say(S, "begin")
    ann.sync()
    bob.sync()
    ann.clock.advance(10)
    ann.say(S, "ann goes on")
    ann.clock.advance(10)
    bob.say(S, "bob goes on")
    ann.sync()


def types_in(machine: FakeMachine, text: str) -> Callable[[LocalPath], None]:
    """A user who goes on with the session at the worst moment."""

    def say(_path: LocalPath) -> None:
        machine.say(S, text)

    return say


# -- what arrives, and how


def test_what_arrives_speaks_of_this_machine(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, f"see {ann.root}/main.py, {ann.home}/x and {ann.context()}/memory")
    ann.remember("a.md", f"it is in {ann.root}")
    ann.files.write(f"{ann.context()}/{S}/tool-results/1.txt", ann.root.encode())
    ann.sync()
    pull(bob)
    report = bob.localize()
    assert report.settled
    assert bob.texts(S) == [f"see {bob.root}/main.py, {bob.home}/x and {bob.context()}/memory"]
    assert bob.notes() == {"a.md": f"it is in {bob.root}"}
    assert bob.files.content(f"{bob.context()}/{S}/tool-results/1.txt") == bob.root.encode()
    assert b"/home/ann" not in bob.local_bytes(S)


def test_a_session_arrives_folder_first_and_transcript_last(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "hello")
    for name in ("subagents/agent-1.jsonl", "tool-results/1.txt", "custom-title.json"):
        ann.files.write(f"{ann.context()}/{S}/{name}", b"{}\n")
    ann.sync()
    pull(bob)
    order = written(bob, bob.localize)
    assert order[-1] == f"{S}.jsonl"
    assert set(order[:-1]) == {
        f"{S}/subagents/agent-1.jsonl",
        f"{S}/tool-results/1.txt",
        f"{S}/custom-title.json",
    }


def test_a_fork_is_in_place_before_the_file_it_leaves_is_replaced(ann: FakeMachine, bob: FakeMachine) -> None:
    part_ways(ann, bob)
    bob.converge()
    pull(bob)
    order = written(bob, bob.localize)
    assert len(order) == 2
    assert order[-1] == f"{S}.jsonl"
    fork = order[0].removesuffix(".jsonl")
    assert bob.texts(S) == ["begin", "ann goes on"]
    assert bob.texts(type(S)(fork)) == ["begin", "bob goes on"]


def test_a_fork_that_exists_already_grows_before_the_file_it_leaves_is_replaced(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    part_ways(ann, bob)
    pid = bob.processes.begin(bob.root)
    bob.sync()
    ann.sync()
    bob.say(S, "bob goes on, held")
    bob.sync()
    ann.say(S, "ann goes on again")
    ann.sync()
    bob.processes.end(pid)
    bob.sync()
    for machine in (ann, bob):
        machine.sync()
        texts = sorted(machine.texts(type(S)(one)) for one in machine.sessions())
        assert texts == [
            ["begin", "ann goes on", "ann goes on again"],
            ["begin", "bob goes on", "bob goes on, held"],
        ]


def test_what_was_written_causes_no_commit_and_is_not_read_again(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.remember("a.md", "x")
    ann.files.write(f"{ann.context()}/{S}/custom-title.json", b"{}")
    ann.sync()
    pull(bob)
    bob.localize()
    tip = bob.tip()
    asked: list[str] = []
    bob.files.before = lambda verb, path: asked.append(verb)
    assert bob.ingest().commit is None
    assert bob.localize().written == []
    assert bob.tip() == bob.head() == tip
    assert "read" not in asked


def test_an_append_elsewhere_reaches_the_file_here(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "one")
    ann.sync()
    bob.sync()
    bob.say(S, "two")
    bob.sync()
    ann.sync()
    assert ann.texts(S) == ["one", "two"]
    assert ann.local_bytes(S).count(b"/home/ann/src/app") == 2


def test_bookkeeping_here_and_conversation_elsewhere_end_in_one_file(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "one")
    ann.sync()
    bob.sync()
    ann.say(S, "two")
    ann.sync()
    bob.jot(S, "opened it")
    bob.sync()
    ann.sync()
    for machine in (ann, bob):
        assert machine.sessions() == {S}
        assert machine.texts(S) == ["one", "two"]
        assert b"opened it" in machine.local_bytes(S)


def test_an_empty_transcript_here_is_filled(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "one")
    ann.sync()
    bob.files.write(bob.transcript(S), b"")
    bob.say(sid(2), "another")
    bob.sync()
    assert bob.texts(S) == ["one"]


def test_a_name_that_is_never_synced_is_not_written_whatever_a_peer_sends(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "hello")
    ann.files.write(f"{ann.context()}/{S}/tool-results/1.txt", b"x")
    ann.remember("a.md", "x")
    ann.ingest()
    from convergenced.merge.layout import write_folder, write_project
    from convergenced.store.branch import commit_tree
    from tests.unit.sync.world import branch

    tree = ann.tree()
    blob = ann.store.write_blob(b"evil")
    hostile = replace(
        tree,
        memory={**tree.memory, "run.sh": blob},
        sessions={
            S: replace(
                tree.sessions[S],
                folder=write_folder(ann.store, {"settings.local.json": blob, "x/hook.json": blob}),
            )
        },
    )
    tip = ann.tip()
    assert tip is not None
    commit_tree(
        ann.store, branch("app"), write_project(ann.store, hostile), (tip,), ann.machine.author, 1, "evil"
    )
    ann.exchange()
    bob.sync()
    assert set(bob.files.paths(bob.context())) == {bob.transcript(S), bob.memory("a.md")}


# -- holding


def test_a_client_in_the_project_holds_what_arrives(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.say(sid(2), "hello")
    ann.remember("a.md", "x")
    ann.sync()
    pid = bob.processes.begin(f"{bob.root}/deep")
    pull(bob)
    report = bob.localize()
    assert (report.held, report.settled) == (3, False)
    assert report.held_by is not None
    assert report.held_by.pid == pid
    assert report.held_reason == f"Claude Code runs in {bob.root}/deep"
    assert bob.sessions() == set()
    assert bob.head() != bob.tip()
    bob.processes.end(pid)
    assert bob.converge().localize is not None
    assert bob.sessions() == {S, sid(2)}


def test_a_client_elsewhere_holds_nothing(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.sync()
    bob.processes.begin(f"{bob.root}-other")
    bob.processes.begin(bob.home)
    bob.sync()
    assert bob.sessions() == {S}


def test_a_client_that_nobody_can_place_holds_everything(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.sync()
    bob.processes.begin(None)
    pull(bob)
    report = bob.localize()
    assert report.held == 1
    assert report.held_reason == "Claude Code runs in a folder that cannot be seen"


def test_with_hold_machine_any_client_holds_everything(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.sync()
    pid = bob.processes.begin("/srv/elsewhere")
    pull(bob)
    report = bob.localize(whole_machine=True)
    assert report.held == 1
    assert report.held_by is not None
    assert report.held_by.pid == pid
    assert holder_of(bob.parts, bob.app, whole_machine=False) is None


def test_with_nothing_to_write_a_client_holds_nothing(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.sync()
    bob.sync()
    bob.processes.begin(bob.root)
    bob.say(S, "more")
    passed = bob.converge()
    assert passed.localize is not None
    assert passed.localize.held == 0
    assert passed.localize.settled


def test_a_client_that_starts_right_before_the_rename_holds_the_rest(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    for number in (1, 2, 3):
        ann.say(sid(number), "hello")
    ann.sync()
    pull(bob)
    seen: list[str] = []

    def start_client(verb: str, path: LocalPath) -> None:
        if verb == "replace":
            seen.append(path)
            if len(seen) == 2:
                bob.processes.begin(bob.root)

    bob.files.before = start_client
    report = bob.localize()
    assert len(report.written) == 1
    assert report.held == 2
    assert report.held_by is not None
    assert report.held_by.pid
    assert len(bob.sessions()) == 1, "the one whose rename was under way was not put in place"
    assert not report.settled


def test_a_session_whose_folder_alone_arrived_before_the_hold_gets_its_transcript_later(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "hello")
    ann.files.write(f"{ann.context()}/{S}/tool-results/1.txt", b"1")
    ann.sync()
    pull(bob)
    pids: list[int] = []

    def start_client(verb: str, path: LocalPath) -> None:
        if verb == "replace" and path.endswith(".jsonl"):
            pids.append(bob.processes.begin(bob.root))

    bob.files.before = start_client
    assert bob.localize().written == [f"{S}/tool-results/1.txt"]
    bob.files.before = lambda _verb, _path: None
    bob.say(sid(2), "typed meanwhile")
    bob.converge()
    bob.processes.end(pids[0])
    bob.converge()
    assert bob.sessions() == {S, sid(2)}


def test_a_client_that_came_and_went_right_before_the_rename_is_waited_for(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "hello")
    ann.sync()
    pull(bob)
    guest = ClaudeProcess(77, LocalPath(bob.root))
    answers = iter([[], [guest], []])
    bob.processes.claude = lambda: next(answers)  # type: ignore[method-assign]
    report = bob.localize()
    assert report.held == 1
    assert report.held_by is not None
    assert report.held_by.pid == 0, "nobody knows any more who it was"
    assert bob.sessions() == set()


def test_what_was_written_before_the_hold_changes_nothing_for_the_others(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    for number in (1, 2, 3):
        ann.say(sid(number), "hello")
    ann.sync()
    pull(bob)
    tree = bob.tree()
    seen: list[str] = []

    def start_client(verb: str, path: LocalPath) -> None:
        if verb == "replace":
            seen.append(path)
            if len(seen) == 2:
                bob.processes.begin(bob.root)

    bob.files.before = start_client
    bob.localize()
    assert len(bob.sessions()) == 1
    bob.converge()
    assert bob.tree() == tree, "what came from the branch is no news to it"
    tip = bob.tip()
    bob.converge()
    assert bob.tip() == tip


def test_a_session_deleted_here_while_others_are_held_stays_deleted(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    for number in (1, 2):
        ann.say(sid(number), "hello")
    ann.sync()
    pull(bob)
    seen: list[str] = []

    def start_client(verb: str, path: LocalPath) -> None:
        if verb == "replace":
            seen.append(path)
            if len(seen) == 2:
                bob.processes.begin(bob.root)

    bob.files.before = start_client
    bob.localize()
    bob.converge()
    (gone,) = bob.sessions()
    bob.files.unlink(f"{bob.context()}/{gone}.jsonl")
    bob.say(sid(3), "own")
    bob.converge()
    for one in bob.processes.claude():
        bob.processes.end(one.pid)
    bob.sync()
    assert bob.sessions() == {sid(1), sid(2), sid(3)} - {gone}


# -- nothing is overwritten unseen


def test_a_file_that_changes_between_plan_and_rename_is_left_alone_and_tried_again(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "one")
    ann.sync()
    bob.sync()
    ann.say(S, "two")
    ann.sync()
    pull(bob)
    bob.files.between = types_in(bob, "typed just now")
    report = bob.localize()
    bob.files.between = lambda _path: None
    assert report.retry
    assert not report.settled
    assert report.written == []
    assert bob.texts(S) == ["one", "typed just now"]
    bob.sync()
    assert sorted(bob.texts(type(S)(one)) for one in bob.sessions()) == [
        ["one", "two"],
        ["one", "typed just now"],
    ]


def test_a_file_that_appears_where_a_new_one_was_to_go_is_left_alone(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "one")
    ann.sync()
    pull(bob)
    bob.files.between = types_in(bob, "here too")
    report = bob.localize()
    bob.files.between = lambda _path: None
    assert report.retry
    assert bob.texts(S) == ["here too"]


def test_a_file_that_was_never_ingested_is_left_alone(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "one")
    ann.sync()
    pull(bob)
    bob.say(S, "nobody has seen this")
    report = bob.localize()
    assert report.retry
    assert bob.texts(S) == ["nobody has seen this"]


def test_records_that_the_tip_does_not_have_are_never_replaced(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "one")
    ann.sync()
    bob.sync()
    before = bob.tip()
    bob.say(S, "two")
    bob.ingest()
    # As if the branch had been set back behind our back, while the note stays.
    bob.store.ref_targets["refs/heads/project/app"] = before  # type: ignore[assignment]
    report = bob.localize()
    assert bob.texts(S) == ["one", "two"]
    assert report.retry


def test_the_old_bytes_are_kept_as_a_backup(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "one")
    ann.remember("a.md", "old")
    ann.sync()
    bob.sync()
    ann.say(S, "hers")
    bob.say(S, "his")
    old = bob.local_bytes(S)
    ann.remember("a.md", "new")
    ann.sync()
    bob.sync()
    backups = bob.files.paths(bob.machine.backups_dir)
    assert len(backups) == 2
    kept = {path.rpartition("/")[2]: bob.files.content(path) for path in backups}
    assert kept == {f"{S}.jsonl": old, "a.md": b"old"}
    assert all(path.startswith(f"{bob.machine.backups_dir}/{bob.app.folder}/2026") for path in backups)


def test_a_session_that_goes_on_needs_no_backup(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "one")
    ann.sync()
    bob.sync()
    ann.say(S, "two")
    ann.sync()
    bob.sync()
    assert bob.texts(S) == ["one", "two"]
    assert bob.files.paths(bob.machine.backups_dir) == ()


def test_a_refused_write_does_not_stop_the_others(ann: FakeMachine, bob: FakeMachine) -> None:
    for number in (1, 2, 3):
        ann.say(sid(number), "hello")
    ann.sync()
    bob.files.make_folder(bob.transcript(sid(2)))
    pull(bob)
    report = bob.localize()
    assert len(report.written) == 2
    assert [one.where for one in report.refusals] == [f"{sid(2)}.jsonl"]
    assert not report.settled
    assert not report.retry
    tree = bob.tree()
    bob.converge()
    assert bob.tree() == tree
    tip = bob.tip()
    bob.converge()
    assert bob.tip() == tip, "and it comes to rest"


def test_a_full_disk_is_reported_in_words(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.sync()
    pull(bob)

    def full(verb: str, path: LocalPath) -> None:
        if verb == "replace":
            raise OSError(28, "No space left on device", path)

    bob.files.before = full
    report = bob.localize()
    assert report.written == []
    assert "No space left" in report.refusals[0].reason
    assert report.refusals[0].remedy == "it is tried again by itself"


def test_what_ingest_refused_is_not_written_over_and_told_without_end(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "one")
    ann.sync()
    bob.sync()
    bob.say(S, "unreadable from here")
    ann.say(S, "two")
    ann.sync()

    def forbid(verb: str, path: LocalPath) -> None:
        if verb == "read":
            raise PermissionError(13, "Permission denied", path)

    bob.files.before = forbid
    bob.exchange()
    passed = bob.converge()
    assert passed.localize is not None
    assert not passed.localize.retry, "trying again in a second does not help: a person has to act"
    assert not passed.localize.settled
    assert [one.where for one in passed.ingest.refusals] == [f"{S}.jsonl"]
    bob.files.before = lambda _verb, _path: None
    assert bob.texts(S) == ["one", "unreadable from here"]


def test_what_arrives_for_a_transcript_that_became_a_folder_is_written_once_that_is_gone(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "begin")
    ann.files.write(f"{ann.context()}/{S}/tool-results/a.txt", b"a result\n")
    ann.sync()
    bob.sync()
    aside, result = bob.files.content(bob.transcript(S)), f"{bob.context()}/{S}/tool-results/a.txt"
    for path in (bob.transcript(S), result):
        bob.files.unlink(path)
        bob.files.make_folder(path)
    ann.say(S, "more")
    ann.files.write(f"{ann.context()}/{S}/tool-results/a.txt", b"a result, and more\n")
    ann.sync()
    for _ in range(2):
        bob.sync()
        assert not bob.files.list(LocalPath(bob.transcript(S)))
    for path in (bob.transcript(S), result):
        bob.files.unlink(path)
    bob.files.write(bob.transcript(S), aside)
    bob.files.write(result, b"a result\n")
    bob.sync()
    assert bob.files.content(bob.transcript(S)).count(b"\n") == 2
    assert bob.files.content(result) == b"a result, and more\n"


def test_a_note_that_ingest_refused_is_not_removed(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.remember("a.md", "x")
    ann.remember("b.md", "x")
    ann.sync()
    bob.sync()
    ann.files.unlink(ann.memory("a.md"))
    ann.sync()
    bob.lose_state()

    def forbid(verb: str, path: LocalPath) -> None:
        if verb == "read" and path.endswith("a.md"):
            raise PermissionError(13, "Permission denied", path)

    bob.files.before = forbid
    bob.exchange()
    passed = bob.converge()
    assert passed.localize is not None
    assert passed.localize.removed == []
    bob.files.before = lambda _verb, _path: None
    assert set(bob.notes()) == {"a.md", "b.md"}


# -- times


def mtime(machine: FakeMachine, number: int) -> float:
    found = machine.files.stat(LocalPath(machine.transcript(sid(number))))
    assert found is not None
    return found.mtime_ns / 1e9


def test_a_file_gets_the_time_of_its_last_record(world: World, ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "one")
    world.clock.advance(3600)
    ann.say(S, "two")
    said = world.clock.now()
    ann.jot(S, "without a time")
    world.clock.advance(5 * DAY)
    ann.sync()
    bob.sync()
    assert mtime(bob, 1) == pytest.approx(said)


def test_old_sessions_are_young_enough_for_the_cleanup_and_keep_their_order(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    order = [3, 1, 4, 2]
    for number in order:
        ann.say(sid(number), "hello")
        world.clock.advance(60)
    world.clock.advance(400 * DAY)
    ann.say(sid(9), "fresh")
    ann.sync()
    bob.sync()
    times = [mtime(bob, number) for number in order]
    assert times == sorted(set(times))
    oldest = world.clock.now() - 30 * DAY * CLEANUP_MARGIN
    assert all(oldest - 3600 <= time <= oldest for time in times)
    assert mtime(bob, 9) == pytest.approx(world.clock.now())


def test_a_session_from_the_future_is_not_newer_than_now(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    record = ann.spoken(S, "hello").replace(b'"2026-', b'"2099-')
    ann.files.write(ann.transcript(S), record)
    ann.sync()
    bob.sync()
    assert mtime(bob, 1) == pytest.approx(world.clock.now())


def test_a_session_that_tells_no_time_gets_this_moment(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.files.write(ann.transcript(S), b'{"type":"mode"}\n')
    ann.sync()
    world.clock.advance(100)
    bob.sync()
    assert mtime(bob, 1) == pytest.approx(world.clock.now())


# -- what was removed here


def test_a_session_deleted_here_stays_deleted(ann: FakeMachine, bob: FakeMachine) -> None:
    for number in (1, 2):
        ann.say(sid(number), "hello")
    ann.sync()
    bob.sync()
    bob.files.unlink(bob.transcript(S))
    bob.sync()
    assert bob.sessions() == {sid(2)}
    ann.say(S, "it grows elsewhere")
    ann.sync()
    bob.sync()
    assert bob.sessions() == {sid(2)}
    bob.lose_state()
    ann.say(S, "and again")
    ann.sync()
    bob.sync()
    bob.sync()
    assert bob.sessions() == {sid(2)}
    assert b"and again" in bob.stored(S), "but the store has it all"
    assert set(ann.sessions()) == {S, sid(2)}, "and the others keep it"


def test_a_file_deleted_from_a_sessions_folder_stays_deleted(ann: FakeMachine, bob: FakeMachine) -> None:
    folder = f"{ann.context()}/{S}/tool-results"
    ann.say(S, "hello")
    ann.files.write(f"{folder}/1.txt", b"1")
    ann.files.write(f"{folder}/2.txt", b"2")
    ann.sync()
    bob.sync()
    bob.files.unlink(f"{bob.context()}/{S}/tool-results/1.txt")
    ann.files.write(f"{folder}/3.txt", b"3")
    ann.sync()
    bob.sync()
    listing = bob.files.list(LocalPath(f"{bob.context()}/{S}/tool-results")) or []
    assert [entry.name for entry in listing] == ["2.txt", "3.txt"]


def test_a_deleted_memory_note_goes_everywhere(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.remember("a.md", "x")
    ann.remember("b.md", "x")
    ann.sync()
    bob.sync()
    ann.files.unlink(ann.memory("a.md"))
    ann.sync()
    bob.exchange()
    passed = bob.converge()
    assert passed.localize is not None
    assert passed.localize.removed == ["memory/a.md"]
    assert set(bob.notes()) == {"b.md"}
    backups = bob.files.paths(bob.machine.backups_dir)
    assert [bob.files.content(path) for path in backups] == [b"x"]
    tip = bob.tip()
    bob.converge()
    assert bob.tip() == tip


def test_an_edit_beats_a_deletion(ann: FakeMachine, bob: FakeMachine) -> None:
    for first, second in ((ann, bob), (bob, ann)):
        ann.remember("a.md", "x")
        ann.remember("b.md", "x")
        ann.sync()
        bob.sync()
        first.files.unlink(first.memory("a.md"))
        second.remember("a.md", "edited")
        first.sync()
        second.sync()
        first.sync()
        assert first.notes()["a.md"] == second.notes()["a.md"] == "edited"
        ann.remember("a.md", "x")
        ann.sync()


def test_a_memory_folder_that_was_lost_comes_back_and_is_not_emptied_elsewhere(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    for name in ("a.md", "b.md", "MEMORY.md"):
        ann.remember(name, "x")
    ann.say(S, "hello")
    ann.sync()
    bob.sync()
    bob.files.unlink(f"{bob.context()}/memory")
    bob.sync()
    assert set(bob.notes()) == {"a.md", "b.md", "MEMORY.md"}
    ann.sync()
    assert set(ann.notes()) == {"a.md", "b.md", "MEMORY.md"}


def test_notes_that_conflict_show_both_sides_everywhere(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.remember("a.md", "one\n")
    ann.sync()
    bob.sync()
    ann.remember("a.md", "ann's\n")
    bob.remember("a.md", "bob's\n")
    ann.sync()
    bob.sync()
    ann.exchange()
    passed = ann.converge()
    assert passed.conflicts == ("memory/a.md",)
    assert ann.notes() == bob.notes()
    assert "ann's" in ann.notes()["a.md"]
    assert "bob's" in ann.notes()["a.md"]
    ann.remember("a.md", "settled\n")
    ann.sync()
    bob.exchange()
    assert bob.converge().conflicts == ()
    assert bob.notes() == {"a.md": "settled\n"}


# -- a second folder of the same project


def test_a_second_folder_takes_only_what_it_holds(ann: FakeMachine, bob: FakeMachine) -> None:
    tree = f"{bob.home}/src/app-tree"
    bob.checkout(tree, "example.org/ann/app", main_root=bob.root)
    second = bob.replica(tree, primary=False)
    bob.say(S, "in the tree", root=tree)
    bob.converge(second)
    bob.exchange()
    ann.say(sid(2), "elsewhere")
    ann.sync()
    ann.say(S, "goes on elsewhere")
    ann.sync()
    bob.exchange()
    for _ in range(2):
        bob.converge()
        bob.converge(second)
    assert bob.sessions(tree) == {S}
    assert bob.texts(S, tree) == ["in the tree", "goes on elsewhere"]
    assert bob.sessions() == {S, sid(2)}
    assert tree.encode() in bob.local_bytes(S, tree)
    assert tree.encode() not in bob.local_bytes(S)


def test_a_lineage_that_left_a_second_folders_file_stays_there_as_a_session_of_its_own(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    tree = f"{bob.home}/src/app-2"
    second = bob.replica(tree, primary=False)
    bob.checkout(tree, main_root=bob.root)
    bob.say(S, "begin", root=tree)
    bob.converge(second)
    bob.sync()
    ann.sync()
    ann.say(S, "ann goes on")
    ann.clock.advance(10)
    bob.say(S, "bob goes on", root=tree)
    ann.sync()
    bob.converge(second)
    bob.sync()
    bob.converge(second)
    (fork,) = bob.sessions(tree) - {S}
    assert bob.texts(S, tree) == ["begin", "ann goes on"]
    assert bob.texts(SessionId(fork), tree) == ["begin", "bob goes on"]
    bob.converge(second)
    assert bob.sessions() == bob.sessions(tree) == {S, fork}


def test_two_folders_of_one_project_come_to_rest(ann: FakeMachine) -> None:
    tree = f"{ann.home}/src/app-tree"
    ann.checkout(tree, "example.org/ann/app", main_root=ann.root)
    second = ann.replica(tree, primary=False)
    ann.say(S, "main")
    ann.say(sid(2), "tree", root=tree)
    ann.remember("a.md", "x")
    for _ in range(3):
        ann.converge()
        ann.converge(second)
    tip = ann.tip()
    ann.converge()
    ann.converge(second)
    assert ann.tip() == tip == ann.head() == ann.head(second)


# -- nothing to do


def test_without_a_branch_there_is_nothing_to_do(ann: FakeMachine) -> None:
    policy = policy_of(ann.parts, ann.app)
    assert policy.rewrite_home
    report = ann.localize()
    assert report.settled
    assert report.written == []


def test_a_session_that_has_only_a_folder_arrives(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(sid(2), "hello")
    ann.files.write(f"{ann.context()}/{S}/tool-results/1.txt", b"1")
    ann.sync()
    bob.sync()
    assert bob.files.content(f"{bob.context()}/{S}/tool-results/1.txt") == b"1"
    tip = bob.tip()
    bob.sync()
    assert bob.tip() == tip


def test_a_fork_names_itself_in_its_records(ann: FakeMachine, bob: FakeMachine) -> None:
    part_ways(ann, bob)
    bob.sync()
    (fork,) = bob.sessions() - {S}
    assert f'"sessionId":"{fork}"'.encode() in bob.local_bytes(type(S)(fork))
    assert f'"sessionId":"{S}"'.encode() not in bob.local_bytes(type(S)(fork))
    oid = bob.tree().sessions[S].transcript
    assert oid is not None
    assert rename_session(bob.store, oid, S, S) == oid
    assert replica_ref(bob.app).startswith("refs/convergence/local/app/")


def test_a_transcript_that_was_emptied_by_accident_is_filled_again(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.converge()
    path = f"{ann.context()}/{S}.jsonl"
    whole = ann.files.content(path)
    tip = ann.tip()
    ann.files.write(path, b"")
    ann.converge()
    assert ann.files.content(path) == whole
    assert ann.tip() == tip
    assert ann.converge().ingest.commit is None


# -- what is written of a long transcript


LONG = 60
"""Records of 8 KB: several segments."""


def say_much(machine: FakeMachine) -> None:
    for number in range(LONG):
        machine.say(S, f"{number} {machine.root} " + "word " * 1_600)


def taken_over(machine: FakeMachine, work: Callable[[], object]) -> list[int]:
    """The bytes that each file that is replaced while `work` is done has of the former one."""
    found: list[int] = []
    replace_file = machine.files.replace

    def counted(*args: Any, **options: Any) -> Snapshot:
        found.append(options["kept"])
        return replace_file(*args, **options)

    machine.files.replace = counted  # type: ignore[method-assign]
    try:
        work()
    finally:
        del machine.files.replace
    return found


def as_localized(machine: FakeMachine) -> bytes:
    """The transcript as the whole of it is localized."""
    return machine.app.rewriter(machine.machine, True).localize(machine.stored(S), Content.JSON)


def go_on(ann: FakeMachine, bob: FakeMachine, text: str) -> None:
    """The session goes on at Ann's, and Bob hears of it."""
    ann.say(S, text)
    ann.sync()
    pull(bob)


def test_what_was_written_before_is_not_made_again(
    ann: FakeMachine, bob: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_much(ann)
    ann.sync()
    assert taken_over(bob, bob.sync) == [0]
    read_blob, read = bob.store.read_blob, [0]

    def count(oid: Oid) -> bytes:
        data = read_blob(oid)
        read[0] += len(data)
        return data

    monkeypatch.setattr(bob.store, "read_blob", count)
    for text in ("one", "two"):
        go_on(ann, bob, text)
        length, read[0] = len(bob.local_bytes(S)), 0
        before = bob.files.stat(LocalPath(bob.transcript(S)))
        assert taken_over(bob, bob.localize) == [length]
        after = bob.files.stat(LocalPath(bob.transcript(S)))
        assert before is not None
        assert after is not None
        assert before.inode == after.inode
        assert read[0] < 5 * SEGMENT_BYTES < length
        assert bob.local_bytes(S) == as_localized(bob)
    assert bob.ingest().commit is None


def test_what_was_said_here_is_taken_over_as_well(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "begin")
    ann.sync()
    bob.sync()
    say_much(bob)
    bob.sync()
    ann.sync()
    bob.files.append(bob.transcript(S), b'{"not":"complete')
    go_on(ann, bob, "on")
    length = len(bob.local_bytes(S))
    assert taken_over(bob, bob.localize) == [length - len(b'{"not":"complete')]
    assert bob.local_bytes(S) == as_localized(bob) + b'{"not":"complete'


def test_a_line_that_a_crash_left_incomplete_is_completed(ann: FakeMachine, bob: FakeMachine) -> None:
    say_much(ann)
    ann.sync()
    bob.sync()
    go_on(ann, bob, "one")
    go_on(ann, bob, "two")
    begun = as_localized(bob)[len(bob.local_bytes(S)) :][:-20]
    assert begun.count(b"\n") == 1
    bob.files.append(bob.transcript(S), begun)
    bob.ingest()
    length = len(bob.local_bytes(S))
    assert taken_over(bob, bob.localize) == [length]
    assert bob.local_bytes(S) == as_localized(bob)
    assert bob.ingest().commit is None


def test_a_crash_in_the_middle_of_growing_loses_nothing(ann: FakeMachine, bob: FakeMachine) -> None:
    say_much(ann)
    ann.sync()
    bob.sync()
    go_on(ann, bob, "on")

    def die(step: str) -> None:
        if step == "grow.checked":
            raise KeyboardInterrupt

    steps.hook = die
    try:
        with pytest.raises(KeyboardInterrupt):
            bob.localize()
    finally:
        steps.hook = None
    assert not bob.local_bytes(S).endswith(b"\n")
    bob.converge()
    assert bob.local_bytes(S) == as_localized(bob)
    assert bob.tip() == ann.tip()


def test_a_file_that_is_not_all_of_what_is_noted_is_made_anew(ann: FakeMachine, bob: FakeMachine) -> None:
    say_much(ann)
    ann.sync()
    bob.sync()
    lines = bob.local_bytes(S).splitlines(keepends=True)
    bob.lose_state()
    bob.files.write(bob.transcript(S), b"".join(lines[:-3]))
    bob.converge()
    go_on(ann, bob, "on")
    assert taken_over(bob, bob.localize) == [0]
    assert bob.local_bytes(S) == as_localized(bob)


def test_a_file_that_speaks_of_another_place_is_made_anew(ann: FakeMachine, bob: FakeMachine) -> None:
    say_much(ann)
    ann.sync()
    bob.sync()
    bob.app = replace(bob.app, root=LocalPath(f"{bob.home}/src/moved"))
    go_on(ann, bob, "on")
    assert taken_over(bob, bob.localize) == [0]
    assert bob.local_bytes(S) == as_localized(bob)


def test_a_file_is_made_anew_where_it_is_not_what_the_note_says(ann: FakeMachine, bob: FakeMachine) -> None:
    say_much(ann)
    ann.sync()
    bob.sync()
    go_on(ann, bob, "on")
    path = f"{S}.jsonl"
    note = bob.state.file(bob.app.folder, path)
    assert note is not None
    bob.state.note_file(bob.app.folder, path, replace(note, consumed=note.consumed - 1))
    assert taken_over(bob, bob.localize) == [0]


def test_a_record_that_is_cut_into_pieces_is_made_anew(
    ann: FakeMachine, bob: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1_000)
    monkeypatch.setattr(segments, "PIECE_BYTES", 1_000)
    ann.say(S, "begin")
    ann.say(S, f"{ann.home}/x " * 400)
    ann.sync()
    bob.sync()
    go_on(ann, bob, "on")
    bob.localize()
    assert bob.local_bytes(S) == as_localized(bob)
