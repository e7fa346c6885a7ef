"""The branch of shared knowledge in the store: it moves forward only, and says only what is new."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from convergenced.errors import MissingObjectError, NewerSchemaError, RefMovedError
from convergenced.knowledge.branch import (
    KNOWLEDGE_REF,
    advance_knowledge,
    commit_knowledge,
    join,
    knowledge_at,
)
from convergenced.merge.contributions import with_synthesis
from convergenced.merge.knowledge import GLOBAL, DocumentPath, Knowledge, MachineKnowledge, project_scope
from convergenced.merge.layout import write_folder
from convergenced.model import Author, Commit, MachineId, Oid, ProjectId
from convergenced.store.branch import MERGER
from convergenced.sync.tips import MAX_TRIES, ref_of
from tests.fakes.store import MemoryStore
from tests.knowledge import (
    ANN,
    BOB,
    PERSON,
    build,
    commit_plain,
    consolidated_texts,
    documents,
    synthesis,
)

CLAUDE = DocumentPath("CLAUDE.md")
TIME = 1_700_000_000


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def snapshot(store: MemoryStore, machine: MachineId, text: str) -> Callable[[Knowledge], Knowledge]:
    """What a machine does when it has new documents: it knows nothing of revisions."""
    fresh = build(store, {"machines": {machine: {"global": {CLAUDE: text}}}})
    return lambda known: replace(known, machines={**known.machines, **fresh.machines})


def commit(store: MemoryStore, machine: MachineId, text: str, time: int = TIME) -> Oid | None:
    return commit_knowledge(store, snapshot(store, machine, text), PERSON, time, "a snapshot")


def said(store: MemoryStore, tip: Oid | None) -> dict[str, str]:
    known, _ = knowledge_at(store, tip)
    return {
        machine: store.read_blob(one.documents[GLOBAL][CLAUDE]).decode()
        for machine, one in known.machines.items()
    }


def apart(store: MemoryStore) -> tuple[MemoryStore, MemoryStore]:
    """Two machines' stores with what one has."""
    return store.copy(), store.copy()


def share(store: MemoryStore, other: MemoryStore) -> None:
    """Each gets the other's objects."""
    store.objects |= other.objects
    other.objects |= store.objects


class TestCommitting:
    def test_the_first_commit_makes_the_branch(self, store: MemoryStore) -> None:
        assert knowledge_at(store, None) == (Knowledge(), [])
        tip = commit(store, ANN, "a1")
        assert tip is not None
        assert store.ref_targets == {KNOWLEDGE_REF: tip}
        written = store.read_commit(tip)
        assert (written.parents, written.author, written.time) == ((), PERSON, TIME)
        assert said(store, tip) == {ANN: "a1"}

    def test_the_next_stands_on_top_of_it(self, store: MemoryStore) -> None:
        first, second = commit(store, ANN, "a1"), commit(store, BOB, "b1", TIME + 5)
        assert second is not None
        assert store.read_commit(second).parents == (first,)
        assert said(store, second) == {ANN: "a1", BOB: "b1"}

    def test_what_says_nothing_new_is_no_commit(self, store: MemoryStore) -> None:
        assert commit_knowledge(store, lambda known: known, PERSON, TIME, "nothing") is None
        assert store.ref_targets == {}
        tip = commit(store, ANN, "a1")
        assert commit(store, ANN, "a1", TIME + 9) is None
        assert ref_of(store, KNOWLEDGE_REF) == tip

    def test_documents_that_nothing_is_recorded_of_are_nothing_new(self, store: MemoryStore) -> None:
        commit_plain(store, {"consolidated": {"global": {CLAUDE: "c1"}}})
        assert commit_knowledge(store, lambda known: known, PERSON, TIME, "nothing") is None

    def test_what_no_reader_would_accept_is_not_written(self, store: MemoryStore) -> None:
        tip = commit(store, ANN, "a1")
        bad = MachineId("../etc")

        def hostile(known: Knowledge) -> Knowledge:
            return replace(known, machines={**known.machines, bad: MachineKnowledge()})

        assert commit_knowledge(store, hostile, PERSON, TIME, "hostile") is None

        def stubborn(known: Knowledge) -> Knowledge:
            shared = {**known.machines[ANN].documents[GLOBAL], DocumentPath("x.sh"): store.write_blob(b"")}
            ann = replace(known.machines[ANN], documents={GLOBAL: shared})
            return replace(known, machines={**known.machines, ANN: ann})

        assert commit_knowledge(store, stubborn, PERSON, TIME, "stubborn") is None
        assert ref_of(store, KNOWLEDGE_REF) == tip

        def large(known: Knowledge) -> Knowledge:
            scope = project_scope(ProjectId("p"))
            ann = replace(
                known.machines[ANN],
                documents={scope: documents(store, {CLAUDE: "x" * (2 << 20), ".claude/CLAUDE.md": "y"})},
            )
            return replace(hostile(known), machines={**known.machines, ANN: ann})

        second = commit_knowledge(store, large, PERSON, TIME, "large")
        known, refusals = knowledge_at(store, second)
        assert refusals == []
        assert [*known.machines] == [ANN]
        assert [*known.machines[ANN].documents.values()] == [documents(store, {".claude/CLAUDE.md": "y"})]
        assert store.read_commit(second or Oid("")).parents == (tip,)

    def test_a_hostile_tip_is_not_cleaned_without_cause(self, store: MemoryStore) -> None:
        tree = write_folder(store, {"machines/x/y": store.write_blob(b"")})
        tip = store.write_commit(Commit(tree, (), PERSON, TIME, "hostile"))
        store.swap(KNOWLEDGE_REF, None, tip)
        assert commit_knowledge(store, lambda known: known, PERSON, TIME, "nothing") is None
        assert commit(store, ANN, "a1") is not None
        assert knowledge_at(store, ref_of(store, KNOWLEDGE_REF))[1] == []

    def test_each_change_has_the_next_revision(self, store: MemoryStore) -> None:
        for number in range(1, 4):
            tip = commit(store, ANN, f"a{number}")
            assert knowledge_at(store, tip)[0].machines[ANN].revision == number
        tip = commit(store, BOB, "b1")
        known, _ = knowledge_at(store, tip)
        assert (known.machines[ANN].revision, known.machines[BOB].revision) == (3, 1)

    def test_a_change_is_asked_again_where_the_branch_moved(self, store: MemoryStore) -> None:
        commit(store, ANN, "a1")
        seen: list[int] = []

        def change(known: Knowledge) -> Knowledge:
            seen.append(len(known.machines))
            if len(seen) == 1:
                commit(store, BOB, "b1")
            return snapshot(store, ANN, "a2")(known)

        tip = commit_knowledge(store, change, PERSON, TIME, "a snapshot")
        assert seen == [1, 2]
        assert said(store, tip) == {ANN: "a2", BOB: "b1"}

    def test_a_branch_that_never_rests_is_given_up(self, store: MemoryStore) -> None:
        turns: list[int] = []

        def change(known: Knowledge) -> Knowledge:
            turns.append(1)
            commit(store, BOB, f"b{len(turns)}")
            return snapshot(store, ANN, "a1")(known)

        with pytest.raises(RefMovedError):
            commit_knowledge(store, change, PERSON, TIME, "a snapshot")
        assert len(turns) == MAX_TRIES
        assert said(store, ref_of(store, KNOWLEDGE_REF)) == {BOB: f"b{MAX_TRIES}"}

    def test_a_newer_branch_is_left_alone(self, store: MemoryStore) -> None:
        tree = write_folder(store, {"meta/last-synthesis.json": store.write_blob(b'{"schema": 2}')})
        tip = store.write_commit(Commit(tree, (), PERSON, TIME, "newer"))
        store.swap(KNOWLEDGE_REF, None, tip)
        with pytest.raises(NewerSchemaError):
            commit(store, ANN, "a1")
        assert ref_of(store, KNOWLEDGE_REF) == tip

    def test_a_damaged_store_is_said_to_be(self, store: MemoryStore) -> None:
        tip = commit_plain(store, {"machines": {ANN: {"global": {CLAUDE: "a1"}}}})
        fresh = store.copy()
        (oid,) = documents(store, {CLAUDE: "a1"}).values()
        del fresh.objects[oid]
        with pytest.raises(MissingObjectError):
            knowledge_at(fresh, tip)


class TestJoining:
    def test_what_descends_is_taken_as_it_is(self, store: MemoryStore) -> None:
        one, two = commit(store, ANN, "a1"), commit(store, ANN, "a2")
        assert one is not None
        assert two is not None
        assert join(store, one, two) == join(store, two, one) == two
        assert join(store, one, one) == one

    def test_every_machine_makes_the_same_merge(self, store: MemoryStore) -> None:
        commit(store, ANN, "a1")
        left, right = apart(store)
        one, other = commit(left, ANN, "a2", TIME + 9), commit(right, BOB, "b1", TIME + 5)
        assert one is not None
        assert other is not None
        share(left, right)
        merged = join(left, one, other)
        assert merged == join(right, other, one)
        written = left.read_commit(merged)
        assert written.parents == tuple(sorted((one, other)))
        assert (written.author, written.time) == (MERGER, TIME + 9)
        assert said(left, merged) == {ANN: "a2", BOB: "b1"}
        assert left.ref_targets == {KNOWLEDGE_REF: one}
        assert join(left, merged, one) == merged

    def test_unrelated_histories_come_together(self) -> None:
        left, right = MemoryStore(), MemoryStore()
        one, other = commit(left, ANN, "a1"), commit(right, BOB, "b1")
        share(left, right)
        assert said(left, join(left, one or Oid(""), other or Oid(""))) == {ANN: "a1", BOB: "b1"}


class TestAdvancing:
    def test_the_branch_begins_moves_on_and_merges(self, store: MemoryStore) -> None:
        base = commit(store, ANN, "a1")
        assert base is not None
        left, right = apart(store)
        assert advance_knowledge(left, base) == base
        ahead = commit(right, BOB, "b1")
        assert ahead is not None
        share(left, right)
        assert advance_knowledge(left, ahead) == ahead == ref_of(left, KNOWLEDGE_REF)
        assert advance_knowledge(left, base) == ahead
        mine, theirs = commit(left, ANN, "a2"), commit(right, BOB, "b2")
        share(left, right)
        assert advance_knowledge(left, theirs or Oid("")) == advance_knowledge(right, mine or Oid(""))
        assert left.ref_targets == right.ref_targets
        assert said(left, ref_of(left, KNOWLEDGE_REF)) == {ANN: "a2", BOB: "b2"}
        fresh = MemoryStore()
        fresh.objects = left.objects
        assert advance_knowledge(fresh, ahead) == ahead == ref_of(fresh, KNOWLEDGE_REF)

    def test_a_branch_that_moved_meanwhile_is_merged_with_as_well(self, store: MemoryStore) -> None:
        commit(store, ANN, "a1")
        left, right = apart(store)
        theirs = commit(right, BOB, "b1")
        assert theirs is not None
        share(left, right)
        busy = Busy(left, lambda: commit(left, ANN, "a2"), 1)
        advance_knowledge(busy, theirs)
        assert said(left, ref_of(left, KNOWLEDGE_REF)) == {ANN: "a2", BOB: "b1"}

    def test_nobody_follows_to_a_newer_format(self, store: MemoryStore) -> None:
        base = commit(store, ANN, "a1")
        assert base is not None
        paper = store.write_blob(b'{"schema": 99}')
        tree = write_folder(store, {f"machines/{BOB}/machine.json": paper})
        newer = store.write_commit(Commit(tree, (base,), PERSON, TIME, "newer"))
        fresh = MemoryStore()
        fresh.objects = store.objects
        for one, tip in ((store, base), (fresh, None)):
            with pytest.raises(NewerSchemaError):
                advance_knowledge(one, newer)
            assert ref_of(one, KNOWLEDGE_REF) == tip

    def test_a_branch_that_never_rests_is_given_up(self, store: MemoryStore) -> None:
        commit(store, ANN, "a1")
        left, right = apart(store)
        theirs = commit(right, BOB, "b1")
        share(left, right)
        texts = iter(range(1_000))
        busy = Busy(left, lambda: commit(left, ANN, f"again {next(texts)}"), 1_000)
        with pytest.raises(RefMovedError):
            advance_knowledge(busy, theirs or Oid(""))


class Busy(MemoryStore):
    """A store in which something else happens right before its refs move, for some times."""

    def __init__(self, store: MemoryStore, happen: Callable[[], object], times: int) -> None:
        super().__init__()
        self.objects, self.ref_targets = store.objects, store.ref_targets
        self._happen = happen
        self._times = times

    def swap(self, ref: str, old: Oid | None, new: Oid | None) -> None:
        if self._times:
            self._times -= 1
            self._happen()
        super().swap(ref, old, new)


def test_two_syntheses_at_once_end_in_one_result(store: MemoryStore) -> None:
    commit_plain(store, {"machines": {ANN: {"global": {CLAUDE: "a1"}}, BOB: {"global": {CLAUDE: "b1"}}}})
    left, right = apart(store)
    tips: list[Oid] = []
    for here, at in ((left, TIME + 10), (right, TIME + 20)):

        def change(known: Knowledge, here: MemoryStore = here, at: int = at) -> Knowledge:
            written = documents(here, {CLAUDE: f"c{at - TIME}"})
            return with_synthesis(known, GLOBAL, written, synthesis(known, at=at))

        tip = commit_knowledge(here, change, Author("x", "x@convergence"), at, "a synthesis")
        assert tip is not None
        tips.append(tip)
    share(left, right)
    assert advance_knowledge(left, tips[1]) == advance_knowledge(right, tips[0])
    assert consolidated_texts(left) == consolidated_texts(right) == {CLAUDE: "c20"}
    assert len(knowledge_at(left, ref_of(left, KNOWLEDGE_REF))[0].log) == 2
