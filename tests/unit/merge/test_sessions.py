"""The sessions of a project as a mapping: like a dict, at the cost of what changed."""

from __future__ import annotations

from uuid import NAMESPACE_OID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from convergenced.merge.sessions import MAX_SESSIONS, Beside, Division, Sessions, SessionTree, differing
from convergenced.model import Oid, SessionId
from tests.fakes.store import MemoryStore

Changes = dict[SessionId, SessionTree]

OIDS = [Oid(str(digit) * 40) for digit in range(1, 5)]


def sid(number: int) -> SessionId:
    return SessionId(str(uuid5(NAMESPACE_OID, str(number))))


CHANGES = st.dictionaries(
    st.integers(0, 400).map(sid),
    st.builds(SessionTree, *(st.none() | st.sampled_from(OIDS),) * 3),
    max_size=150,
)


def plain(*steps: Changes) -> Changes:
    """What a dict would hold."""
    held: Changes = {}
    for changes in steps:
        held |= changes
    return {sid: session for sid, session in held.items() if session != SessionTree()}


def grown(*steps: Changes) -> Sessions:
    sessions = Sessions()
    for changes in steps:
        sessions = sessions.updated(changes)
    return sessions


@given(st.lists(CHANGES, max_size=4))
def test_it_holds_what_a_dict_would(steps: list[Changes]) -> None:
    sessions, expected = grown(*steps), plain(*steps)
    assert dict(sessions) == expected
    assert len(sessions) == len(expected)
    assert all(sessions[sid] == session for sid, session in expected.items())
    assert sid(1000) not in sessions


@given(st.lists(CHANGES, max_size=4))
def test_the_tree_depends_on_what_there_is_and_not_on_how_it_came(steps: list[Changes]) -> None:
    store = MemoryStore()
    assert grown(*steps).transcripts.write(store) == Sessions.of(plain(*steps)).transcripts.write(store)


@given(CHANGES, CHANGES, st.booleans())
def test_what_differs_is_found(before: Changes, changes: Changes, written: bool) -> None:
    one = grown(before)
    other = one.updated(changes)
    if written:
        for sessions in (one, other):
            sessions.transcripts.write(MemoryStore())
    expected = {sid for sid in {*one, *other} if one.get(sid) != other.get(sid)}
    assert one.differing(other) == other.differing(one) == expected
    assert one.differing(Sessions.of(dict(other))) == expected


def many(number: int) -> Sessions:
    return Sessions.of({sid(one): SessionTree(OIDS[0]) for one in range(number)})


def test_a_change_writes_the_folders_on_its_way_only() -> None:
    store = MemoryStore()
    sessions = many(5000)
    sessions.transcripts.write(store)
    store.writes = 0
    sessions.updated({sid(7): SessionTree(OIDS[1])}).transcripts.write(store)
    assert store.writes <= 4


def test_what_is_the_same_is_not_opened() -> None:
    class Closed(Division):
        def items(self) -> None:  # type: ignore[override]
            raise AssertionError("opened")

    same = Closed({}, {})
    same.oid = OIDS[0]
    also = Closed({}, {})
    also.oid = OIDS[0]
    assert list(differing(Division({}, {"a": same}), Division({}, {"a": also}))) == []


def test_another_store_gets_all_folders() -> None:
    sessions = many(MAX_SESSIONS * 3)
    one, other = MemoryStore(), MemoryStore()
    assert sessions.transcripts.write(one) == sessions.transcripts.write(other)
    assert one.objects == other.objects


def test_a_session_can_go_from_one_layout_to_the_other() -> None:
    sessions = many(MAX_SESSIONS + 1).updated({sid(0): SessionTree(None, OIDS[2], None)})
    assert sessions[sid(0)] == SessionTree(None, OIDS[2], None)
    assert sessions.transcripts.children == {}
    assert sessions.beside == {sid(0): Beside(OIDS[2], None)}


def test_a_session_that_has_both_layouts_is_found() -> None:
    sessions = many(3).updated(
        {sid(1): SessionTree(OIDS[0], OIDS[1], None), sid(5): SessionTree(None, OIDS[1])}
    )
    assert sessions.in_both_layouts() == {sid(1)}
