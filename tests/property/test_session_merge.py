"""Merging sessions is fair, final and loses nothing, whatever replicas do to each other."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from convergenced.canon.transcript import with_session_id
from convergenced.merge.lineage import merge_tails
from convergenced.merge.sequences import is_contained
from convergenced.merge.session import contains, merge_session, rename_session
from convergenced.merge.tree import absorb
from convergenced.model import Oid, SessionId
from tests.fakes.store import MemoryStore
from tests.transcripts import SID, keep, noted, records_of, spoken

RECORDS = st.one_of(
    st.sampled_from([noted(name) for name in "mno"]),
    st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(1, 5)).map(lambda pair: spoken(*pair)),
)
VERSIONS = st.tuples(*(st.lists(RECORDS, max_size=6),) * 3).map(
    lambda parts: (parts[0] + parts[1], parts[0] + parts[2])
)

State = Mapping[SessionId, Oid]


def holds(store: MemoryStore, state: State, sid: SessionId, tree: Oid) -> bool:
    """Whether the transcript is in the state, in one lineage or another."""
    return any(
        contains(store, whole, rename_session(store, tree, sid, found)) for found, whole in state.items()
    )


def take_in(store: MemoryStore, state: State, arrivals: State) -> State:
    return {**state, **absorb(store, state, sorted(arrivals.items())).changed}


@given(VERSIONS)
def test_it_does_not_matter_which_side_is_which(versions: tuple[list[bytes], list[bytes]]) -> None:
    store = MemoryStore()
    one, other = (keep(store, records) for records in versions)
    assert merge_session(store, SID, one, other) == merge_session(store, SID, other, one)


@given(VERSIONS)
def test_nor_does_it_for_bare_records(versions: tuple[list[bytes], list[bytes]]) -> None:
    one, other = versions
    assert merge_tails(one, other) == merge_tails(other, one)


@given(VERSIONS)
def test_both_versions_are_in_what_comes_out(versions: tuple[list[bytes], list[bytes]]) -> None:
    store = MemoryStore()
    one, other = (keep(store, records) for records in versions)
    merged = merge_session(store, SID, one, other)
    assert holds(store, merged, SID, one)
    assert holds(store, merged, SID, other)


@given(VERSIONS)
def test_merging_again_changes_nothing(versions: tuple[list[bytes], list[bytes]]) -> None:
    store = MemoryStore()
    one, other = (keep(store, records) for records in versions)
    merged = take_in(store, {SID: one}, {SID: other})
    assert take_in(store, {SID: other}, {SID: one}) == merged
    for again in ({SID: one}, {SID: other}, merged):
        assert take_in(store, merged, again) == merged


@given(VERSIONS, st.lists(RECORDS, max_size=4))
def test_growing_the_side_that_was_forked_finds_its_fork_again(
    versions: tuple[list[bytes], list[bytes]], more: list[bytes]
) -> None:
    store = MemoryStore()
    one, other = (keep(store, records) for records in versions)
    merged = take_in(store, {SID: one}, {SID: other})
    grown = keep(store, [*versions[1], *more])
    after = take_in(store, merged, {SID: grown})
    assert holds(store, after, SID, grown)
    assert take_in(store, after, {SID: grown}) == after


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["speak", "speak", "note", "rewrite", "learn", "follow"]),
        st.integers(0, 5),
    ),
    max_size=25,
)


class Machine:
    """A replica: what its store holds, and its local file of the session it works on."""

    def __init__(self, store: MemoryStore, name: str) -> None:
        self.store = store
        self.name = name
        self.state: State = {}
        self.sid = SID
        self.local = [spoken("start", 0)]
        self.spoken = 0

    def ingest(self) -> None:
        self.state = take_in(self.store, self.state, {self.sid: keep(self.store, self.local)})

    def step(self, what: str, number: int, peer: Machine) -> None:
        match what:
            case "speak":
                self.spoken += 1
                self.local.append(spoken(f"{self.name}{self.spoken}", self.spoken, self.sid))
            case "note":
                self.local.append(noted("mno"[number % 3], self.sid))
            case "rewrite":
                self.local = self.local[:1] + [r for i, r in enumerate(self.local[1:]) if i != number]
            case "learn":
                self.state = take_in(self.store, self.state, peer.state)
            case "follow":
                sessions = sorted(self.state)
                self.sid = sessions[number % len(sessions)]
                self.local = records_of(self.store, self.state[self.sid])
        self.ingest()


@given(STEPS)
def test_three_machines_end_up_with_the_same_and_with_everything(steps: list[tuple[int, str, int]]) -> None:
    store = MemoryStore()
    machines = [Machine(store, name) for name in "abc"]
    written: list[tuple[SessionId, list[bytes]]] = []
    for machine in machines:
        machine.ingest()
    for who, what, number in steps:
        machines[who].step(what, number, machines[(who + 1 + number % 2) % 3])
        written.append((machines[who].sid, list(machines[who].local)))
    for _ in range(12):
        before = [machine.state for machine in machines]
        for machine in machines:
            for peer in machines:
                machine.state = take_in(store, machine.state, peer.state)
            machine.ingest()
        if [machine.state for machine in machines] == before:
            break
    assert machines[0].state == machines[1].state == machines[2].state
    held = {sid: records_of(store, tree) for sid, tree in machines[0].state.items()}
    for sid, records in written:
        assert any(
            is_contained([with_session_id(record, sid, found) for record in records], whole)
            for found, whole in held.items()
        )
