"""Which session is meant, what a listing tells of it, and who added what when."""

from __future__ import annotations

import json
from dataclasses import replace
from uuid import UUID

import pytest

from convergenced.errors import UsageError
from convergenced.machine.state import CatalogNote
from convergenced.merge.roster import Policy
from convergenced.merge.segments import SEGMENT_BYTES
from convergenced.model import Oid, SessionId
from convergenced.sync import catalog
from convergenced.sync.archive import Change, find_commit, find_session, history_of, session_in
from convergenced.sync.catalog import read_catalog
from convergenced.sync.ingest import ingest
from convergenced.sync.restoring import restore
from tests.unit.sync.engines import S
from tests.unit.sync.world import APP, FakeMachine, World, sid


def read(machine: FakeMachine) -> dict[SessionId, CatalogNote]:
    tip = machine.tip()
    assert tip is not None
    return dict(read_catalog(machine.parts, APP, tip))


def changes(machine: FakeMachine, session: SessionId = S) -> list[Change]:
    return history_of(machine.store, APP, session).changes


class Reads:
    """Counts what is read of a machine's store."""

    def __init__(self, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.blobs = self.commits = 0
        store = machine.store
        blob, commit = store.read_blob, store.read_commit

        def read_blob(oid: object) -> bytes:
            self.blobs += 1
            return blob(oid)  # type: ignore[arg-type]

        def read_commit(oid: object) -> object:
            self.commits += 1
            return commit(oid)  # type: ignore[arg-type]

        monkeypatch.setattr(store, "read_blob", read_blob)
        monkeypatch.setattr(store, "read_commit", read_commit)


# -- the listing


def test_a_session_is_told_by_its_first_prompt_times_size_and_writer(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    began = world.clock.now()
    ann.say(S, f"look at {ann.root}/a")
    ann.sync()
    bob.sync()
    world.clock.advance(600)
    bob.say(S, "and this")
    ended = world.clock.now()
    bob.sync()
    ann.sync()
    note = read(ann)[S]
    assert note.prompt == "look at {{CC_PROJECT_ROOT}}/a"
    assert note.began == pytest.approx(began)
    assert note.ended == pytest.approx(ended)
    assert (note.size, note.records, note.is_exact) == (len(ann.stored(S)), 2, True)
    assert (note.machine, note.origin) == ("bob", None)


def test_a_name_that_the_user_gave_goes_first_and_may_come_later(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.converge()
    assert (read(ann)[S].title, read(ann)[S].machine) == ("", "ann")
    ann.files.write(f"{ann.context()}/{S}/custom-title.json", b'{"customTitle":"the one"}')
    ann.converge()
    assert (read(ann)[S].title, read(ann)[S].prompt, read(ann)[S].machine) == ("the one", "hello", "ann")


def test_a_long_transcript_is_not_read_and_its_records_are_estimated(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 40
    records = [ann.spoken(S, "x" * (SEGMENT_BYTES // 2)) for _ in range(count)]
    ann.files.write(ann.transcript(S), b"".join(records))
    ann.converge()
    reads = Reads(ann, monkeypatch)
    note = read(ann)[S]
    assert reads.blobs < 10
    assert (note.size, note.is_exact) == (len(ann.stored(S)), False)
    assert note.records == pytest.approx(count, rel=0.1)
    assert note.began is not None
    assert note.ended is not None


@pytest.mark.parametrize("stamp", ["0000-01-01T00:00:00Z", "9999-12-31T23:59:60Z"])
def test_a_time_that_no_calendar_has_is_none(ann: FakeMachine, stamp: str) -> None:
    record = {"type": "user", "uuid": "u", "timestamp": stamp, "message": {"content": "hello"}}
    ann.files.write(ann.transcript(S), json.dumps(record).encode() + b"\n")
    ann.converge()
    assert (read(ann)[S].prompt, read(ann)[S].began, read(ann)[S].ended) == ("hello", None, None)


def test_what_did_not_change_is_not_read_again_and_the_past_is_walked_once(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        ann.say(sid(number), "hello")
        ann.converge()
    first = read(ann)
    ann.say(sid(3), "more")
    ann.converge()
    reads = Reads(ann, monkeypatch)
    second = read(ann)
    assert reads.commits <= 6, "the tip, what it came from, and where the last look ended"
    assert {one for one in first if first[one] != second[one]} == {sid(3)}
    before = reads.blobs
    assert read(ann) == second
    assert reads.blobs - before <= 2, "no transcript"


def test_many_sessions_lie_in_divided_folders_and_are_told_all_the_same(ann: FakeMachine) -> None:
    for number in range(64):
        ann.say(sid(number), f"number {number}")
    ann.converge()
    ann.say(sid(64), "number 64")
    ann.converge()
    found = read(ann)
    assert {sid(number): f"number {number}" for number in range(65)} == {
        one: note.prompt for one, note in found.items()
    }
    assert {note.machine for note in found.values()} == {"ann"}


def test_a_fork_and_an_older_state_name_what_they_came_from(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "hello")
    ann.sync()
    bob.sync()
    before = ann.tip()
    for machine in (ann, bob):
        world.clock.advance(60)
        machine.say(S, f"on {machine.name}")
        machine.converge()
        read(machine)
    for machine in (ann, bob, ann):
        machine.sync()
    older = restore(ann.parts, [ann.app], APP, S, at=before)
    found = read(ann)
    (fork,) = found.keys() - {S, older.session}
    assert found[fork].machine == "bob"
    assert {one: note.origin for one, note in found.items()} == {S: None, fork: S, older.session: S}
    assert (found[S].machine, found[older.session].machine) == ("ann", "ann")
    became = [change.became for change in changes(ann) if change.became]
    assert became == [(fork,), (older.session,)]
    assert changes(ann, older.session)[0].origin == S


def test_flat_transcripts_are_told_too(ann: FakeMachine) -> None:
    policy = replace(Policy(), layout="flat")
    ann.say(S, "hello")
    ingest(ann.parts, ann.app, policy)
    ann.say(S, "more")
    ingest(ann.parts, ann.app, policy)
    note = read(ann)[S]
    assert (note.prompt, note.records, note.machine) == ("hello", 2, "ann")
    assert [change.records for change in changes(ann)] == [1, 1]


def test_the_catalog_is_a_cache(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.converge()
    first = read(ann)
    ann.lose_state()
    assert read(ann) == first
    ann.state.note_catalog(APP, Oid("0" * 40), {})
    ann.say(S, "more")
    ann.converge()
    assert read(ann)[S].machine == "ann", "a tip that is not there any more is none"


def test_a_past_that_is_longer_than_is_looked_at_leaves_the_writer_open(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "LOOK_BACK", 2)
    for number in range(4):
        ann.say(sid(number), "hello")
        ann.converge()
    assert [read(ann)[sid(number)].machine for number in range(4)] == [None, None, "ann", "ann"]


# -- which one is meant


def listed(error: UsageError) -> list[str]:
    return [line.strip() for line in error.hint.splitlines()[1:]]


@pytest.fixture
def several(ann: FakeMachine) -> FakeMachine:
    for text in ("aaaa0000", "aaaa1111", "bbbb0000"):
        ann.say(SessionId(str(UUID(text + "0" * 24))), text)
    ann.converge()
    return ann


@pytest.mark.parametrize("text", ["aaaa0", "AAAA0", "aaaa0000-0000-0000-0000-000000000000", "app:aaaa0"])
def test_the_beginning_of_an_id_is_enough(several: FakeMachine, text: str) -> None:
    found = find_session(several.store, [APP], text, dict)
    assert found == (APP, "aaaa0000-0000-0000-0000-000000000000")


def test_what_can_be_several_is_listed_with_titles(several: FakeMachine) -> None:
    titles = {one: note.prompt for one, note in read(several).items()}
    with pytest.raises(UsageError, match="aaaa can be any of 2 sessions") as caught:
        find_session(several.store, [APP], "aaaa", lambda: titles)
    assert listed(caught.value) == [
        "app:aaaa0000-0000-0000-0000-000000000000  aaaa0000",
        "app:aaaa1111-0000-0000-0000-000000000000  aaaa1111",
    ]


def test_what_is_none_is_answered_with_what_is_close(several: FakeMachine) -> None:
    with pytest.raises(UsageError, match="no session bbbb0001") as caught:
        find_session(several.store, [APP], "bbbb0001", dict)
    assert listed(caught.value)[0] == "app:bbbb0000-0000-0000-0000-000000000000"
    for text in ("zzzz", "", "other:aaaa0", ":"):
        with pytest.raises(UsageError) as caught:
            find_session(several.store, [APP], text, dict)
        assert caught.value.hint == "see: convergencectl sessions"


def test_commits_are_found_by_their_beginning_among_those_of_the_project(several: FakeMachine) -> None:
    tip = several.tip()
    assert tip is not None
    assert find_commit(several.store, APP, tip[:8].upper()) == tip
    for text in ("", tip[:3], "0" * 40, "HEAD"):
        with pytest.raises(UsageError, match="no commit"):
            find_commit(several.store, APP, text)


def test_a_session_is_found_in_a_tree_without_reading_the_others(several: FakeMachine) -> None:
    tip = several.tip()
    assert tip is not None
    tree = several.store.read_commit(tip).tree
    for one, session in several.tree().sessions.items():
        assert session_in(several.store, tree, one) == session
    assert session_in(several.store, tree, sid(5)) == type(session)()


# -- the history


def test_the_history_tells_who_added_what_when(world: World, ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "one")
    ann.say(S, "two")
    ann.sync()
    bob.sync()
    world.clock.advance(3_600)
    bob.say(S, "three")
    bob.sync()
    ann.say(sid(2), "elsewhere")
    ann.sync()
    found = changes(ann)
    assert [(one.machine, one.records) for one in found] == [("ann", 2), ("bob", 1)]
    assert found[1].at - found[0].at == 3_600
    assert sum(one.size for one in found) == len(ann.stored(S))
    assert found == changes(bob)


def test_what_two_machines_added_came_together_in_a_merge(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "one")
    ann.sync()
    bob.sync()
    ann.say(S, "two")
    world.clock.advance(5)
    bob.jot(S, "only books")
    for machine in (ann, bob, ann):
        machine.sync()
    found = changes(ann)
    assert {one.machine for one in found} == {"ann", "bob", None}
    assert found[-1].machine is None


def test_a_history_is_bounded_and_says_so(ann: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convergenced.sync.archive.MAX_CHANGES", 2)
    for number in range(4):
        ann.say(S, f"{number}")
        ann.converge()
    found = history_of(ann.store, APP, S)
    assert (len(found.changes), found.is_whole) == (2, False)
    newest = ann.tip()
    assert found.changes[-1].commit == newest


def test_a_long_addition_is_measured_not_counted(ann: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convergenced.sync.archive.MAX_COUNTED", 2)
    text = b"".join(ann.spoken(S, "x" * SEGMENT_BYTES) for _ in range(4))
    ann.files.write(ann.transcript(S), text)
    ann.converge()
    (one,) = changes(ann)
    assert (one.records, one.size) == (None, len(ann.stored(S)))


def test_titles_of_other_machines_do_not_break_a_line(ann: FakeMachine) -> None:
    title = json.dumps({"customTitle": "a\u2028b\nc"}).encode()
    ann.say(S, "hello")
    ann.files.write(f"{ann.context()}/{S}/custom-title.json", title)
    ann.converge()
    assert read(ann)[S].title == "a b c"
