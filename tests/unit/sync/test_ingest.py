"""Local change → commit: what is committed, what is held back, and what is never taken for a wish."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convergenced import steps
from convergenced.canon.rewrite import Rewriter
from convergenced.errors import RefusedInputError
from convergenced.merge.roster import Policy, parse_machine, parse_roster
from convergenced.merge.segments import list_segments
from convergenced.model import Content, LocalPath, Oid, SessionId
from convergenced.store.branch import project_at
from convergenced.sync import ingest as ingesting
from convergenced.sync import scan as scanning
from convergenced.sync import transcripts
from convergenced.sync.identity import folders_of
from convergenced.sync.ingest import Bulk, IngestReport
from convergenced.sync.transcripts import READ_BYTES, WINDOW_BYTES
from tests.unit.sync.world import FakeMachine, World, branch, sid

S = sid(1)


def reads(machine: FakeMachine, work: Callable[[], object]) -> list[tuple[str, int, int]]:
    """What of files was read while `work` was done: name, offset, length."""
    found: list[tuple[str, int, int]] = []
    plain = machine.files.read

    def read(path: LocalPath, offset: int, length: int) -> bytes:
        data = plain(path, offset, length)
        found.append((path.rpartition("/")[2], offset, len(data)))
        return data

    machine.files.read = read  # type: ignore[method-assign]
    try:
        work()
    finally:
        del machine.files.read
    return found


# -- what a commit says


def test_a_commit_says_what_changed_and_who_did_it(world: World, ann: FakeMachine) -> None:
    for number in (1, 2):
        ann.say(sid(number), "hello")
        ann.say(sid(number), "world")
    ann.remember("a.md", "x")
    report = ann.ingest()
    assert report.message == ann.message() == "2 sessions +4 records, memory 1"
    assert report.commit is not None
    commit = ann.store.read_commit(report.commit)
    assert commit.author.name == "ann"
    assert commit.author.email == "id-of-ann@convergence"
    assert commit.time == int(world.clock.now())
    assert commit.parents == ()
    assert ann.tip() == ann.head() == report.commit
    assert (report.sessions, report.size) == (2, sum(len(ann.local_bytes(sid(n))) for n in (1, 2)) + 1)


def test_a_commit_of_memory_alone_says_so(ann: FakeMachine) -> None:
    ann.remember("a.md", "x")
    ann.remember("b.md", "x")
    assert ann.ingest().message == "memory 2"


def test_a_commit_of_a_title_alone_counts_its_session_without_records(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.ingest()
    ann.files.write(f"{ann.context()}/{S}/custom-title.json", b'{"title":"x"}')
    assert ann.ingest().message == "1 session"


def test_the_first_commit_of_an_empty_folder_says_who_takes_part(ann: FakeMachine) -> None:
    assert ann.ingest().message == "takes part"
    roster = ann.tree().roster
    assert roster is not None
    entry = parse_roster(ann.store.read_blob(roster)).participants[ann.machine.id]
    assert (entry.project_root, entry.home, entry.encoded_dir) == (ann.root, ann.home, ann.app.folder)
    card = parse_machine(ann.store.read_blob(ann.tree().machines["id-of-ann.json"]))
    assert (card.name, card.git_url) == ("ann", "example.org/ann/app")
    assert ann.tree().policy is not None


def test_a_moved_checkout_is_told_to_the_others(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.ingest()
    world.clock.advance(60)
    ann.checkout(f"{ann.home}/code/app", "example.org/ann/app")
    moved = ann.replica(f"{ann.home}/code/app")
    ann.files.move(ann.context(), ann.context(moved.root))
    assert ann.ingest(moved).commit is not None
    roster = ann.tree().roster
    assert roster is not None
    participants = parse_roster(ann.store.read_blob(roster)).participants
    assert participants[ann.machine.id].project_root == moved.root


def test_a_second_look_commits_nothing_writes_nothing_and_reads_no_file(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.remember("a.md", "x")
    ann.files.write(f"{ann.context()}/{S}/subagents/agent-1.jsonl", b'{"a":1}\n')
    ann.ingest()
    tip, objects = ann.tip(), set(ann.store.objects)
    assert reads(ann, ann.ingest) == []
    assert ann.tip() == tip
    assert set(ann.store.objects) == objects


# -- transcripts


def test_paths_of_this_machine_are_canonical_in_the_store(ann: FakeMachine) -> None:
    ann.say(S, f"look at {ann.root}/main.py and {ann.home}/notes and {ann.context()}/memory")
    ann.ingest()
    stored = ann.stored(S)
    assert b"{{CC_PROJECT_ROOT}}/main.py and {{CC_HOME}}/notes and {{CC_PROJECT_CONTEXT_DIR}}" in stored
    assert b"/home/ann" not in stored


def test_a_torn_last_line_is_held_back_and_committed_once_it_is_whole(ann: FakeMachine) -> None:
    first = ann.say(S, "first")
    second = ann.spoken(S, "second")
    ann.files.append(ann.transcript(S), second[:20])
    ann.ingest()
    assert ann.stored(S).count(b"\n") == 1
    ann.files.append(ann.transcript(S), second[20:])
    report = ann.ingest()
    assert report.message == "1 session +1 records"
    assert ann.app.rewriter(ann.machine, True).canonicalize(first + second, Content.JSON) == (ann.stored(S))


def test_a_transcript_of_a_torn_line_alone_is_no_session_yet(ann: FakeMachine) -> None:
    ann.files.write(ann.transcript(S), b'{"type":"us')
    assert ann.ingest().message == "takes part"
    assert ann.tree().sessions == {}


def test_an_empty_transcript_is_no_session_yet(ann: FakeMachine) -> None:
    ann.files.write(ann.transcript(S), b"")
    assert ann.ingest().message == "takes part"
    assert ann.tree().sessions == {}


def test_after_an_append_only_the_end_of_the_file_is_read(ann: FakeMachine) -> None:
    for _ in range(40):
        ann.say(S, "x" * 10_000)
    ann.ingest()
    size = len(ann.local_bytes(S))
    record = ann.say(S, "more")
    read = reads(ann, ann.ingest)
    assert {name for name, _, _ in read} == {f"{S}.jsonl"}
    assert min(offset for _, offset, _ in read) == size - WINDOW_BYTES
    assert sum(length for _, _, length in read) <= 2 * WINDOW_BYTES + len(record)
    assert b'"more"' in ann.stored(S)


def test_a_message_removed_from_the_tail_stays_in_the_store_and_new_ones_are_added(
    ann: FakeMachine,
) -> None:
    records = [ann.say(S, text) for text in ("one", "two", "three")]
    ann.ingest()
    before = ann.stored(S)
    ann.files.write(ann.transcript(S), records[0] + records[2])
    report = ann.ingest()
    assert ann.stored(S) == before
    assert report.commit is None, "losing a record is no change"
    ann.say(S, "four")
    assert ann.ingest().message == "1 session +1 records"
    assert ann.stored(S).startswith(before)
    assert b'"four"' in ann.stored(S)


def test_a_tail_that_was_rewritten_and_grown_in_one_step_loses_nothing(ann: FakeMachine) -> None:
    records = [ann.say(S, text) for text in ("one", "two", "three")]
    ann.ingest()
    before = ann.stored(S)
    ann.files.write(ann.transcript(S), records[0] + ann.spoken(S, "four") + ann.spoken(S, "five"))
    assert ann.ingest().message == "1 session +2 records"
    assert ann.stored(S).startswith(before)
    assert ann.stored(S).index(b'"four"') < ann.stored(S).index(b'"five"')


def test_lines_that_repeat_byte_for_byte_are_counted_not_deduplicated(ann: FakeMachine) -> None:
    first = ann.say(S, "one")
    ann.jot(S, "same")
    ann.jot(S, "same")
    ann.ingest()
    same = ann.local_bytes(S).removeprefix(first)[: len(ann.local_bytes(S).removeprefix(first)) // 2]
    ann.files.write(ann.transcript(S), first + same * 3)
    ann.ingest()
    assert ann.stored(S).count(b'"same"') == 3


def test_a_truncated_transcript_never_shortens_the_store(ann: FakeMachine) -> None:
    records = [ann.say(S, text) for text in ("one", "two", "three")]
    ann.ingest()
    before = ann.stored(S)
    for cut in (len(records[0]), len(records[0]) + 7, 0):
        ann.files.write(ann.transcript(S), b"".join(records)[:cut])
        assert ann.ingest().commit is None
        assert ann.stored(S) == before


def test_an_older_copy_put_in_place_never_shortens_the_store(ann: FakeMachine) -> None:
    ann.say(S, "one")
    older = ann.local_bytes(S)
    ann.say(S, "two")
    ann.ingest()
    before = ann.stored(S)
    ann.files.unlink(ann.transcript(S))
    ann.files.write(ann.transcript(S), older)
    assert ann.ingest().commit is None
    assert ann.stored(S) == before
    ann.say(S, "three")
    ann.ingest()
    assert ann.stored(S).startswith(before)
    assert b'"three"' in ann.stored(S)


def test_bytes_that_are_no_json_are_kept_as_they_are(ann: FakeMachine) -> None:
    odd = b'not json \xff\xfe \xe2\x80\xa8 {"a":1}{"b":2}\n\n{"torn":\n'
    ann.files.write(ann.transcript(S), odd)
    ann.ingest()
    assert ann.stored(S) == odd


def test_a_file_that_shrinks_while_it_is_read_is_tried_again_and_not_committed(ann: FakeMachine) -> None:
    record = ann.say(S, "one")
    ann.files.append(ann.transcript(S), record * 20)
    ann.remember("a.md", "x")
    done: list[int] = []

    def shrink(verb: str, path: LocalPath) -> None:
        if verb == "read" and not done:
            done.append(1)
            ann.files.write(ann.transcript(S), record)

    ann.files.before = shrink
    report = ann.ingest()
    assert report.retry
    assert report.message == "memory 1", "the others are not held up"
    assert ann.tree().sessions == {}
    assert not ann.ingest().retry
    assert ann.stored(S).count(b"\n") == 1


def test_a_file_that_is_replaced_while_it_is_read_is_tried_again(ann: FakeMachine) -> None:
    ann.say(S, "one")
    done: list[int] = []

    def replace(verb: str, path: LocalPath) -> None:
        if verb == "stat" and not done:
            done.append(1)
            ann.files.unlink(path)
            ann.files.write(path, ann.spoken(S, "another"))

    ann.files.before = replace
    assert ann.ingest().retry
    assert ann.tree().sessions == {}
    ann.ingest()
    assert b'"another"' in ann.stored(S)


def test_a_file_that_goes_while_it_is_read_is_tried_again(ann: FakeMachine) -> None:
    ann.say(S, "one")
    ann.remember("a.md", "x")

    def go(verb: str, path: LocalPath) -> None:
        if verb == "read" and path == ann.transcript(S):
            ann.files.unlink(path)
            ann.files.before = lambda _verb, _path: None

    ann.files.before = go
    assert ann.ingest().retry
    assert ann.tree().sessions == {}
    assert not ann.ingest().retry


def test_an_append_while_it_is_read_is_no_trouble(ann: FakeMachine) -> None:
    ann.say(S, "one")
    done: list[int] = []

    def grow(verb: str, path: LocalPath) -> None:
        if verb == "read" and not done:
            done.append(1)
            ann.say(S, "two")

    ann.files.before = grow
    assert not ann.ingest().retry
    assert ann.stored(S).count(b"\n") == 1
    ann.ingest()
    assert ann.stored(S).count(b"\n") == 2


def test_a_file_longer_than_one_read_is_taken_whole(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcripts, "READ_BYTES", 100)
    assert READ_BYTES > 100
    for number in range(20):
        ann.say(S, f"message {number}")
    ann.ingest()
    assert ann.stored(S).count(b"\n") == 20


def test_nothing_is_written_that_the_next_read_replaces(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        ann.say(S, f"message {number}")
    ann.ingest()
    ann.say(sid(2), "hello")
    for number in range(20):
        ann.say(S, f"more {number}")
    monkeypatch.setattr(transcripts, "READ_BYTES", 500)
    before = set(ann.store.objects)
    ann.ingest()
    blobs = {oid for oid in ann.store.objects.keys() - before if ann.store.objects[oid][0] == "blob"}
    tree = ann.tree().sessions[S].transcript
    assert tree is not None
    assert len(blobs & set(list_segments(ann.store, tree))) == 1
    assert len(blobs) == 2, "the last segment of each session"


def test_a_record_beyond_all_bounds_is_refused_alone(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcripts, "READ_BYTES", 500)
    monkeypatch.setattr(transcripts, "MAX_RECORD_BYTES", 1000)
    ann.say(S, "x" * 3000)
    ann.say(sid(2), "fits")
    report = ann.ingest()
    assert [one.where for one in report.refusals] == [f"{S}.jsonl"]
    assert set(ann.tree().sessions) == {sid(2)}


def test_what_stands_before_a_line_beyond_all_bounds_is_taken_and_the_line_is_told_every_time(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcripts, "READ_BYTES", 500)
    monkeypatch.setattr(transcripts, "MAX_RECORD_BYTES", 1000)
    ann.say(S, "first")
    ann.ingest()
    ann.say(S, "second")
    ann.files.append(f"{ann.context()}/{S}.jsonl", b"x" * 3000)
    for _ in range(2):
        assert [one.where for one in ann.ingest().refusals] == [f"{S}.jsonl"]
        assert ann.stored(S).count(b"\n") == 2


def test_a_long_line_is_never_held_whole_while_it_has_no_end(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcripts, "READ_BYTES", 500)
    ann.say(S, "first")
    ann.ingest()
    ann.files.append(f"{ann.context()}/{S}.jsonl", b'{"x":"' + b"y" * 5000)
    asked: list[int] = []
    read = ann.files.read

    def counting(path: LocalPath, offset: int, length: int) -> bytes:
        asked.append(length)
        return read(path, offset, length)

    monkeypatch.setattr(ann.files, "read", counting)
    ann.ingest()
    assert max(asked) <= 500 + len(ann.stored(S))
    ann.files.append(f"{ann.context()}/{S}.jsonl", b'"}\n')
    ann.ingest()
    assert ann.stored(S).endswith(b'yyy"}\n')


# -- the state is a cache


def test_a_lost_state_is_rebuilt_without_a_commit(ann: FakeMachine) -> None:
    for number in range(5):
        ann.say(S, f"message {number} at {ann.root}")
    ann.remember("a.md", f"see {ann.root}")
    ann.files.write(f"{ann.context()}/{S}/tool-results/1.txt", b"out")
    ann.ingest()
    tip = ann.tip()
    ann.lose_state()
    assert ann.ingest().commit is None
    assert ann.tip() == tip
    assert reads(ann, ann.ingest) == [], "the notes are there again"


def test_a_lost_state_is_rebuilt_where_a_transcript_mentions_other_machines(
    world: World, ann: FakeMachine
) -> None:
    bob = world.machine("bob")
    ann.say(S, f"on bob it is {bob.root}, {bob.home}/x and {bob.context()}")
    ann.remember("a.md", f"bob: {bob.root} {bob.home}/x\nann: {ann.root}\n")
    ann.files.write(f"{ann.context()}/{S}/tool-results/1.txt", f"{bob.home}/x {ann.home}".encode())
    ann.sync()
    bob.exchange()
    bob.converge()
    tip = bob.tip()
    bob.lose_state()
    report = bob.ingest()
    assert report.commit is None
    assert bob.tip() == tip
    bob.say(S, f"ann has it at {ann.root}")
    bob.remember("a.md", bob.notes()["a.md"] + "more\n")
    bob.ingest()
    assert bob.stored(S).startswith(ann.stored(S)), "what the store held keeps its spelling"
    assert bob.stored_memory()["a.md"].startswith(ann.stored_memory()["a.md"])


def test_a_lost_state_after_a_rewrite_of_the_tail_loses_nothing(ann: FakeMachine) -> None:
    records = [ann.say(S, text) for text in ("one", "two", "three")]
    ann.ingest()
    before = ann.stored(S)
    ann.files.write(ann.transcript(S), records[0] + records[2] + ann.spoken(S, "four"))
    ann.lose_state()
    ann.ingest()
    assert ann.stored(S).startswith(before)
    assert ann.stored(S).count(b"\n") == 4


def test_a_store_that_was_lost_is_filled_again_although_the_state_remembers(ann: FakeMachine) -> None:
    ann.say(S, "one")
    ann.remember("a.md", "x")
    ann.ingest()
    before = ann.stored(S)
    ann.store.objects.clear()
    ann.store.ref_targets.clear()
    ann.ingest()
    assert ann.stored(S) == before
    assert ann.stored_memory() == {"a.md": b"x"}


def test_what_the_tip_holds_already_keeps_its_spelling_without_a_history_of_our_own(
    world: World, ann: FakeMachine
) -> None:
    bob = world.machine("bob")
    ann.say(S, f"bob's is {bob.home}/x")
    ann.sync()
    rewriter = bob.app.rewriter(bob.machine, True)
    bob.files.write(bob.transcript(S), rewriter.localize(ann.stored(S), Content.JSON))
    bob.say(S, "on bob")
    bob.exchange()
    bob.converge()
    assert bob.stored(S).startswith(ann.stored(S))
    assert len(bob.tree().sessions) == 1


def test_a_copy_that_agrees_with_the_tip_for_a_while_keeps_the_spelling_so_far(
    world: World, ann: FakeMachine
) -> None:
    bob = world.machine("bob")
    ann.say(S, f"bob's is {bob.home}/x")
    rewriter = bob.app.rewriter(bob.machine, True)
    ann.ingest()
    beginning = rewriter.localize(ann.stored(S), Content.JSON)
    ann.say(S, "on ann")
    ann.sync()
    bob.files.write(bob.transcript(S), beginning)
    bob.say(S, "on bob")
    bob.exchange()
    bob.converge()
    assert len(bob.tree().sessions) == 2, "both went on: two lineages"
    for session in bob.tree().sessions:
        assert f"bob's is {bob.home}/x".encode() in bob.stored(session)


# -- memory


def test_memory_that_is_added_edited_and_deleted_is_committed(ann: FakeMachine) -> None:
    ann.remember("a.md", "one")
    ann.remember("deep/b.md", "two")
    ann.ingest()
    assert ann.stored_memory() == {"a.md": b"one", "deep/b.md": b"two"}
    ann.remember("a.md", "edited")
    assert ann.ingest().message == "memory 1"
    assert ann.stored_memory()["a.md"] == b"edited"
    ann.files.unlink(ann.memory("deep/b.md"))
    assert ann.ingest().message == "memory 1"
    assert ann.stored_memory() == {"a.md": b"edited"}


def test_a_memory_folder_that_is_gone_is_no_deletion(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.remember("a.md", "x")
    ann.ingest()
    ann.files.unlink(f"{ann.context()}/memory")
    report = ann.ingest()
    assert report.commit is None
    assert ann.stored_memory() == {"a.md": b"x"}


def test_a_memory_folder_that_was_emptied_at_one_stroke_is_no_deletion(ann: FakeMachine) -> None:
    for name in ("a.md", "b.md"):
        ann.remember(name, "x")
    ann.say(S, "hello")
    ann.ingest()
    ann.files.unlink(f"{ann.context()}/memory")
    ann.files.make_folder(f"{ann.context()}/memory")
    assert ann.ingest().commit is None
    assert set(ann.stored_memory()) == {"a.md", "b.md"}


def test_the_only_note_can_be_deleted(ann: FakeMachine) -> None:
    ann.remember("a.md", "x")
    ann.say(S, "hello")
    ann.ingest()
    ann.files.unlink(ann.memory("a.md"))
    assert ann.ingest().message == "memory 1"
    assert ann.stored_memory() == {}


def test_a_project_begun_in_a_second_folder_tells_what_code_it_is_about(ann: FakeMachine) -> None:
    tree = f"{ann.home}/src/app-tree"
    ann.checkout(tree, "example.org/ann/app", main_root=ann.root)
    second = ann.replica(tree, primary=False)
    ann.say(S, "tree", root=tree)
    ann.ingest(second)
    card = parse_machine(ann.store.read_blob(ann.tree().machines["id-of-ann.json"]))
    assert card.git_url == "example.org/ann/app"
    ann.ingest()
    ann.localize(second)
    ann.ingest(second)
    card = parse_machine(ann.store.read_blob(ann.tree().machines["id-of-ann.json"]))
    assert folders_of(card) == {ann.app.folder, second.folder}


def test_a_memory_folder_that_vanishes_during_the_look_is_no_deletion(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.remember("a.md", "x")
    ann.ingest()

    def vanish(verb: str, path: LocalPath) -> None:
        if path == f"{ann.context()}/memory" and verb == "list":
            ann.files.before = lambda _verb, _path: None
            ann.files.unlink(path)

    ann.files.before = vanish
    assert ann.ingest().commit is None
    assert ann.stored_memory() == {"a.md": b"x"}


def test_memory_that_cannot_be_looked_at_is_not_taken_for_deleted(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.md", "b.md", "c.md", "z/z.md"):
        ann.remember(name, "x")
    ann.ingest()
    ann.files.unlink(ann.memory("a.md"))
    ann.files.link(ann.memory("a.md"), "/etc/passwd")
    assert ann.ingest().commit is None
    monkeypatch.setattr(scanning, "MAX_FILES", 2)
    ann.ingest()
    assert set(ann.stored_memory()) == {"a.md", "b.md", "c.md", "z/z.md"}


def test_a_memory_folder_that_cannot_be_listed_stops_nothing_and_deletes_nothing(ann: FakeMachine) -> None:
    ann.remember("a.md", "x")
    ann.ingest()
    ann.say(S, "hello")

    def forbid(verb: str, path: LocalPath) -> None:
        if verb == "list" and path.endswith("/memory"):
            raise RefusedInputError("may not be read", "check its permissions")

    ann.files.before = forbid
    report = ann.ingest()
    assert report.message == "1 session +1 records"
    assert [one.where for one in report.refusals] == ["memory"]
    assert ann.stored_memory() == {"a.md": b"x"}
    assert ann.localize().written == []


def test_an_unreadable_note_is_refused_alone_and_kept_in_the_store(ann: FakeMachine) -> None:
    ann.remember("a.md", "one")
    ann.remember("b.md", "one")
    ann.ingest()
    ann.remember("a.md", "two")
    ann.remember("b.md", "two")

    def forbid(verb: str, path: LocalPath) -> None:
        if verb == "read" and path.endswith("a.md"):
            raise PermissionError(13, "Permission denied", path)

    ann.files.before = forbid
    report = ann.ingest()
    assert [one.where for one in report.refusals] == ["memory/a.md"]
    assert report.refusals[0].remedy == "check the file's permissions"
    assert ann.stored_memory() == {"a.md": b"one", "b.md": b"two"}


def test_a_note_that_changes_while_it_is_read_is_tried_again(ann: FakeMachine) -> None:
    ann.remember("a.md", "one")
    ann.say(S, "hello")

    def edit(verb: str, path: LocalPath) -> None:
        if verb == "read" and path.endswith("a.md"):
            ann.files.before = lambda _verb, _path: None
            ann.remember("a.md", "two")

    ann.files.before = edit
    report = ann.ingest()
    assert report.retry
    assert ann.stored_memory() == {}
    ann.ingest()
    assert ann.stored_memory() == {"a.md": b"two"}


# -- a session's folder


def test_a_sessions_folder_is_committed_with_it(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    folder = f"{ann.context()}/{S}"
    ann.files.write(f"{folder}/subagents/agent-1.jsonl", f'{{"cwd":"{ann.root}"}}\n{{"torn'.encode())
    ann.files.write(f"{folder}/tool-results/1.txt", f"in {ann.root}".encode())
    ann.files.write(f"{folder}/custom-title.json", b'{"customTitle":"x"}')
    ann.ingest()
    assert ann.stored_folder(S) == {
        "subagents/agent-1.jsonl": b'{"cwd":"{{CC_PROJECT_ROOT}}"}\n',
        "tool-results/1.txt": b"in {{CC_PROJECT_ROOT}}",
        "custom-title.json": b'{"customTitle":"x"}',
    }


def test_a_subagents_transcript_of_a_torn_line_alone_waits(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.files.write(f"{ann.context()}/{S}/subagents/agent-1.jsonl", b'{"torn')
    assert ann.ingest().message == "1 session +1 records"
    assert ann.stored_folder(S) == {}


def test_a_subagents_transcript_that_lost_its_end_never_shortens_the_store(ann: FakeMachine) -> None:
    path = f"{ann.context()}/{S}/subagents/agent-1.jsonl"
    ann.say(S, "hello")
    ann.files.write(path, b'{"a":1}\n{"b":2}\n')
    ann.ingest()
    ann.files.write(path, b'{"a":1}\n')
    ann.ingest()
    assert ann.stored_folder(S)["subagents/agent-1.jsonl"] == b'{"a":1}\n{"b":2}\n'


def test_a_file_that_goes_from_a_sessions_folder_stays_in_the_store(ann: FakeMachine) -> None:
    path = f"{ann.context()}/{S}/tool-results/1.txt"
    ann.say(S, "hello")
    ann.files.write(path, b"x")
    ann.ingest()
    ann.files.unlink(path)
    assert ann.ingest().commit is None
    assert ann.stored_folder(S) == {"tool-results/1.txt": b"x"}


def test_a_session_that_goes_stays_in_the_store(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.say(sid(2), "hello")
    ann.ingest()
    ann.files.unlink(ann.transcript(S))
    assert ann.ingest().commit is None
    assert set(ann.tree().sessions) == {S, sid(2)}


# -- one bad file, one bad folder


def test_an_unreadable_session_does_not_stop_the_others(ann: FakeMachine) -> None:
    for number in (1, 2, 3):
        ann.say(sid(number), "hello")

    def forbid(verb: str, path: LocalPath) -> None:
        if verb == "read" and path == ann.transcript(sid(2)):
            raise PermissionError(13, "Permission denied", path)

    ann.files.before = forbid
    report = ann.ingest()
    assert set(ann.tree().sessions) == {sid(1), sid(3)}
    assert [one.where for one in report.refusals] == [f"{sid(2)}.jsonl"]


def test_content_that_would_not_come_back_is_refused_alone(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.say(S, "hello")
    ann.say(sid(2), "cursed")
    ann.remember("a.md", "cursed")
    ann.remember("b.md", "fine")
    plain = Rewriter.canonicalize
    monkeypatch.setattr(
        Rewriter,
        "canonicalize",
        lambda self, data, content: plain(self, data, content).replace(b"cursed", b"broken"),
    )
    report = ann.ingest()
    assert {one.where for one in report.refusals} == {f"{sid(2)}.jsonl", "memory/a.md"}
    assert set(ann.tree().sessions) == {S}
    assert set(ann.stored_memory()) == {"b.md"}


def test_a_defect_of_ours_is_not_taken_for_a_bad_file(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.say(S, "hello")

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ingesting, "take_transcript", broken)
    with pytest.raises(ZeroDivisionError):
        ann.ingest()


@pytest.mark.parametrize("left", ["missing", "empty"])
def test_a_project_folder_that_lost_everything_halts_and_says_so(ann: FakeMachine, left: str) -> None:
    ann.say(S, "hello")
    ann.remember("a.md", "x")
    ann.ingest()
    tip = ann.tip()
    ann.files.unlink(ann.context())
    if left == "empty":
        ann.files.make_folder(ann.context())
    report = ann.ingest()
    assert report.halted == f"the context folder {ann.context()} is {left}"
    assert ann.tip() == tip
    ann.lose_state()
    assert ann.ingest().halted is not None, "the store remembers as well"
    ann.say(sid(2), "I am back")
    assert ann.ingest().halted is None


def test_a_secondary_folder_that_is_gone_is_told_and_is_no_loss(ann: FakeMachine) -> None:
    tree = f"{ann.home}/src/app-tree"
    ann.checkout(tree, "example.org/ann/app", main_root=ann.root)
    second = ann.replica(tree, primary=False)
    ann.say(S, "main")
    ann.say(sid(2), "tree", root=tree)
    ann.converge()
    ann.converge(second)
    ann.files.unlink(ann.context(tree))
    report = ann.ingest(second)
    assert report.gone
    assert report.halted is None
    assert set(ann.tree().sessions) == {S, sid(2)}


def test_the_branch_moves_by_merging_where_others_went_on(world: World, ann: FakeMachine) -> None:
    bob = world.machine("bob")
    ann.say(S, "one")
    ann.sync()
    bob.say(sid(2), "two")
    bob.ingest()
    bob.exchange()
    assert set(bob.tree().sessions) == {S, sid(2)}
    assert bob.head() != bob.tip()
    tip = bob.tip()
    assert tip is not None
    assert len(bob.store.read_commit(tip).parents) == 2
    bob.say(sid(2), "three")
    bob.ingest()
    assert b'"three"' in bob.stored(sid(2))
    assert set(bob.tree().sessions) == {S, sid(2)}
    assert world.hub.refs(branch("app"))


# -- much at once


@pytest.fixture
def large(ann: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> list[SessionId]:
    """Five sessions, the latest last, two of which are more than a step."""
    monkeypatch.setattr(ingesting, "STEP_BYTES", 3_000)
    sids = [sid(number) for number in range(1, 6)]
    for one in sids:
        ann.say(one, "x" * 2_000)
        ann.world.advance(10)
    return sids


def test_much_is_committed_in_steps_the_latest_first(ann: FakeMachine, large: list[SessionId]) -> None:
    ann.files.write(f"{ann.context()}/{large[4]}/subagents/a.jsonl", b'{"n":1}\n' * 1_000)
    told: list[tuple[int, int]] = []
    aside: list[object] = []

    def work_aside(work: Callable[[], IngestReport]) -> IngestReport:
        aside.append(work)
        return work()

    report = ingesting.ingest(
        ann.parts, ann.app, Policy(), bulk=Bulk(lambda done, of: told.append((done, of)), work_aside)
    )
    commits = history(ann)
    trees = [set(project_at(ann.store, oid)[0].sessions) for oid in reversed(commits)]
    assert trees[0] < trees[1] < trees[-1] == set(large)
    assert large[0] not in trees[0]
    assert report.message == "5 sessions +5 records"
    assert not report.retry
    assert len(aside) == 1
    of = sum(len(ann.local_bytes(one)) for one in large) + 8_000
    assert [whole for _, whole in told] == [of] * len(told)
    assert told == sorted(told)
    assert len(told) == len(commits) - 1
    assert ann.stored_folder(large[4]) == {"subagents/a.jsonl": b'{"n":1}\n' * 1_000}
    assert ann.ingest().commit is None


def test_one_step_is_lost_where_the_process_ends_in_the_middle(
    ann: FakeMachine, large: list[SessionId], monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[str] = []

    def end(step: str) -> None:
        reached.append(step)
        if reached.count("ingest.read") == 3:
            raise RuntimeError("killed")

    monkeypatch.setattr(steps, "hook", end)
    with pytest.raises(RuntimeError):
        ann.ingest()
    monkeypatch.setattr(steps, "hook", None)
    read = {name for name, _, _ in reads(ann, ann.ingest)}
    assert read == {f"{large[0]}.jsonl"}
    assert set(ann.tree().sessions) == set(large)


def test_what_is_refused_is_read_and_told_once(
    ann: FakeMachine, large: list[SessionId], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Rewriter.localize

    def spoil(self: Rewriter, data: bytes, content: Content) -> bytes:
        local = plain(self, data, content)
        return b"spoiled" if str(large[4]).encode() in local else local

    monkeypatch.setattr(Rewriter, "localize", spoil)
    report = ann.ingest()
    assert [refusal.where for refusal in report.refusals] == [f"{large[4]}.jsonl"]
    assert set(ann.tree().sessions) == set(large[:4])


def test_where_nothing_of_a_step_can_be_committed_the_rest_comes_later(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingesting, "STEP_BYTES", 1_000)
    ann.say(sid(1), "hello")
    ann.ingest()
    ann.say(sid(1), "world")
    ann.world.advance(10)
    for number in (2, 3):
        ann.files.write(ann.transcript(sid(number)), b"x" * 1_500)
    report = ann.ingest()
    assert report.retry
    for _ in range(3):
        report = ann.ingest()
    assert not report.retry
    assert ann.texts(sid(1)) == ["hello", "world"]
    assert ann.stored(sid(1)).count(b"\n") == 2


def history(machine: FakeMachine) -> list[Oid]:
    """The commits of the branch, the newest first."""
    found = []
    oid = machine.tip()
    while oid is not None:
        found.append(oid)
        parents = machine.store.read_commit(oid).parents
        oid = parents[0] if parents else None
    return found
