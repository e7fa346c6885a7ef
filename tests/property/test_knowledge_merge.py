"""Machines that share what they know in any order: nobody's own is lost, and in the end all agree."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from convergenced.errors import NewerSchemaError
from convergenced.knowledge.branch import (
    KNOWLEDGE_REF,
    advance_knowledge,
    commit_knowledge,
    knowledge_at,
)
from convergenced.merge.contributions import (
    contributions,
    digest_of_inputs,
    due_scopes,
    inputs_of,
    with_rejection,
    with_synthesis,
)
from convergenced.merge.knowledge import (
    GLOBAL,
    DocumentPath,
    Documents,
    Knowledge,
    MachineKnowledge,
    Rejection,
    Scope,
)
from convergenced.merge.knowledge_merge import merge_knowledge
from convergenced.merge.knowledge_tree import read_knowledge, write_knowledge
from convergenced.merge.layout import write_folder
from convergenced.model import Author, MachineId, Oid
from convergenced.sync.tips import ref_of
from tests.fakes.store import MemoryStore
from tests.knowledge import ANN, BOB, CYD, documents, synthesis

MACHINES = (ANN, BOB, CYD)
SCOPES = (GLOBAL, Scope("projects/proj"))
CLAUDE = DocumentPath("CLAUDE.md")

Step = tuple[Any, ...]
"""The name of a method of `Story` and its arguments."""


class Story:
    """Machines with a store each. `own` is what each last said of itself, `clock` tells wrong times."""

    def __init__(self) -> None:
        self.stores = {machine: MemoryStore() for machine in MACHINES}
        for store in self.stores.values():
            store.objects = self.stores[ANN].objects
        self.own: dict[MachineId, MachineKnowledge] = {}

    def known(self, machine: MachineId) -> Knowledge:
        store = self.stores[machine]
        return knowledge_at(store, ref_of(store, KNOWLEDGE_REF))[0]

    def snapshot(self, machine: MachineId, scope: Scope, text: str, at: int) -> None:
        """A document is written anew, or goes away."""
        held = self.own.get(machine, MachineKnowledge())
        fresh = documents(self.stores[machine], {CLAUDE: text}) if text else {}
        scopes: dict[Scope, Documents] = {**held.documents, scope: fresh}
        self._say(machine, replace(held, documents={name: one for name, one in scopes.items() if one}), at)

    def apply(self, machine: MachineId, scope: Scope, at: int) -> None:
        """What is consolidated is written where the machine has nothing more to say."""
        known = self.known(machine)
        wanted = known.consolidated.get(scope)
        if wanted and not any(one.machine == machine for one in contributions(known, scope)):
            held = self.own.get(machine, MachineKnowledge())
            self._say(
                machine,
                replace(
                    held,
                    documents={**held.documents, scope: wanted},
                    applied={**held.applied, scope: wanted},
                ),
                at,
            )

    def synthesize(self, machine: MachineId, scope: Scope, text: str, at: int) -> None:
        """All is taken in, and nothing is left to be said."""
        store = self.stores[machine]

        def change(known: Knowledge) -> Knowledge:
            made = synthesis(known, scope, at=at, machine=machine)
            return with_synthesis(known, scope, documents(store, {CLAUDE: text or "none"}), made)

        self._commit(machine, change, at)
        assert contributions(self.known(machine), scope) == ()

    def reject(self, machine: MachineId, scope: Scope, at: int) -> None:
        """A synthesis is not believed."""

        def change(known: Knowledge) -> Knowledge:
            inputs = digest_of_inputs(inputs_of(known, scope))
            return with_rejection(known, scope, Rejection(at, machine, "claude", inputs, ("x",)))

        self._commit(machine, change, at)
        assert scope not in due_scopes(self.known(machine))

    def exchange(self, machine: MachineId, other: MachineId) -> None:
        """The machine takes in what another has."""
        tip = ref_of(self.stores[other], KNOWLEDGE_REF)
        if tip is not None:
            advance_knowledge(self.stores[machine], tip)

    def check(self) -> None:
        """Each still has what it last said of itself, and nobody has anything else by its name."""
        for machine, held in self.own.items():
            assert bare(self.known(machine).machines[machine]) == held

    def settle(self) -> None:
        """Everybody hears of everybody until nobody has anything new."""
        for _ in range(len(MACHINES)):
            for pair in permutations(MACHINES, 2):
                self.exchange(*pair)

    def _say(self, machine: MachineId, held: MachineKnowledge, at: int) -> None:
        self.own[machine] = held
        self._commit(machine, lambda known: replace(known, machines={**known.machines, machine: held}), at)

    def _commit(self, machine: MachineId, change: Any, at: int) -> None:
        commit_knowledge(self.stores[machine], change, Author("a", "a@convergence"), at, "said")


def bare(known: MachineKnowledge) -> MachineKnowledge:
    return replace(known, revision=0)


WHO = st.sampled_from(MACHINES)
WHERE = st.sampled_from(SCOPES)
TEXT = st.sampled_from(["", "a", "b", "c"])
WHEN = st.integers(0, 9)
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.tuples(st.just("snapshot"), WHO, WHERE, TEXT, WHEN),
        st.tuples(st.just("apply"), WHO, WHERE, WHEN),
        st.tuples(st.just("synthesize"), WHO, WHERE, TEXT, WHEN),
        st.tuples(st.just("reject"), WHO, WHERE, WHEN),
        st.tuples(st.just("exchange"), WHO, WHO),
        st.tuples(st.just("exchange"), WHO, WHO),
    ),
    max_size=25,
)


def tell(steps: list[Step]) -> Story:
    story = Story()
    for name, *arguments in steps:
        getattr(story, name)(*arguments)
        story.check()
    return story


@given(STEPS)
def test_all_end_with_the_same_and_nobody_loses_its_own(steps: list[Step]) -> None:
    story = tell(steps)
    story.settle()
    story.check()
    tips = {ref_of(store, KNOWLEDGE_REF) for store in story.stores.values()}
    assert len(tips) == 1
    known = story.known(ANN)
    assert {machine: bare(one) for machine, one in known.machines.items()} == story.own
    objects = len(story.stores[ANN].objects)
    story.settle()
    assert len(story.stores[ANN].objects) == objects


@given(STEPS)
def test_merging_is_fair_and_final_in_any_order(steps: list[Step]) -> None:
    story = tell(steps)
    store = story.stores[ANN]
    one, two, three = (write_knowledge(store, story.known(machine)) for machine in MACHINES)

    def merged(*trees: Oid) -> Oid:
        first, *others = trees
        for tree in others:
            first = merge_knowledge(store, first, tree, None)
        return first

    assert len({merged(*order) for order in permutations((one, two, three))}) == 1
    assert merged(one, merged(two, three)) == merged(one, two, three)
    assert merged(one, one) == one
    assert merged(merged(one, two), one) == merged(one, two)


@given(STEPS)
def test_what_is_written_is_what_is_read(steps: list[Step]) -> None:
    story = tell(steps)
    for machine, store in story.stores.items():
        known = story.known(machine)
        tree = write_knowledge(store, known)
        assert read_knowledge(store, tree) == (known, [])


class Sayings:
    """Machines whose documents are sets of words: each adds words of its own, and none is to go away."""

    def __init__(self) -> None:
        self.story = Story()
        self.said: set[str] = set()

    def add(self, machine: MachineId) -> None:
        """The machine writes one more word."""
        word = f"w{len(self.said):03}"
        self.said.add(word)
        own = self.story.own.get(machine, MachineKnowledge()).documents.get(GLOBAL, {}).get(CLAUDE)
        self.story.snapshot(machine, GLOBAL, " ".join(sorted({*self.words(own), word})), 1)

    def exchange(self, machine: MachineId, other: MachineId) -> None:
        self.story.exchange(machine, other)

    def apply(self, machine: MachineId) -> None:
        self.story.apply(machine, GLOBAL, 1)

    def synthesize(self, machine: MachineId, at: int) -> None:
        """What is consolidated takes in what each adds to, and takes away from, what it started from."""
        known = self.story.known(machine)
        if GLOBAL not in due_scopes(known):
            return
        merged = self.words(known.consolidated.get(GLOBAL, {}).get(CLAUDE))
        for one in contributions(known, GLOBAL):
            base, now = self.words(one.base), self.words(one.document)
            merged = (merged - (base - now)) | (now - base)
        self.story.synthesize(machine, GLOBAL, " ".join(sorted(merged)), at)

    def rest(self) -> None:
        """Everybody hears of everybody, all is taken in, and applied."""
        for _ in range(4):
            self.story.settle()
            self.synthesize(ANN, 5)
            self.story.settle()
            for machine in MACHINES:
                self.apply(machine)

    def words(self, document: Oid | None) -> set[str]:
        return set() if document is None else {*self.story.stores[ANN].read_blob(document).decode().split()}


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), WHO),
            st.tuples(st.just("apply"), WHO),
            st.tuples(st.just("synthesize"), WHO, WHEN),
            st.tuples(st.just("exchange"), WHO, WHO),
            st.tuples(st.just("exchange"), WHO, WHO),
        ),
        max_size=30,
    )
)
def test_whatever_somebody_wrote_ends_up_with_everybody(steps: list[Step]) -> None:
    sayings = Sayings()
    for name, *arguments in steps:
        getattr(sayings, name)(*arguments)
    sayings.rest()
    known = sayings.story.known(ANN)
    assert due_scopes(known) == []
    assert sayings.words(known.consolidated.get(GLOBAL, {}).get(CLAUDE)) == sayings.said
    for machine, held in sayings.story.own.items():
        assert held.documents == known.consolidated, machine


PLAIN = ["global", "projects/p", "CLAUDE.md", ANN, "schema", "x"]
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-1, 1),
        st.integers(),
        st.floats(),
        st.text(max_size=3),
        st.sampled_from([ANN, "global", "copied", "0" * 40]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PLAIN), inner, max_size=4),
    max_leaves=20,
)


def loosely(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with some of these fields, each as it should be or as anybody could write it."""
    mixed = {name: st.one_of(good, good, good, VALUES) for name, good in fields.items()}
    return st.fixed_dictionaries({}, optional=mixed)


def keyed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(PLAIN), inner, max_size=3)


OIDS = keyed(keyed(st.just("0" * 40)) | VALUES)
MADE = {
    "at": st.integers(0, 9),
    "machine": st.just(ANN),
    "provider": st.just("none"),
    "outcome": st.just("copied"),
    "usd": st.floats(0, 9),
    "scope": st.just(GLOBAL),
    "text": st.text(max_size=3),
    "later": VALUES,
}
WRITTEN = loosely(**MADE, inputs=OIDS, applied=OIDS, marks=st.lists(st.text(max_size=3), max_size=3))
REJECTED = loosely(**MADE, inputs=st.text(max_size=3), claims=st.lists(st.text(max_size=3), max_size=3))
FILES = st.tuples(
    loosely(schema=st.just(1), name=st.just("Ann"), applied=OIDS, revision=st.integers(0, 9), later=VALUES),
    loosely(
        scopes=keyed(
            loosely(written=WRITTEN, rejected=REJECTED, revision=st.integers(0, 9), former=OIDS, later=VALUES)
        ),
        later=VALUES,
    ),
    st.lists(loosely(**MADE), max_size=4) | VALUES,
)


@given(FILES)
def test_nothing_in_the_files_can_do_more_than_be_left_out(values: tuple[Any, Any, Any]) -> None:
    store = MemoryStore()
    names = (f"machines/{ANN}/machine.json", "meta/last-synthesis.json", "meta/sync-log.json")
    files = {
        name: store.write_blob(json.dumps(one).encode()) for name, one in zip(names, values, strict=True)
    }
    try:
        known, refusals = read_knowledge(store, write_folder(store, files))
    except NewerSchemaError:
        return
    assert {refusal.where for refusal in refusals} <= set(names)
    tree = write_knowledge(store, known)
    assert read_knowledge(store, tree) == (known, [])
    assert merge_knowledge(store, tree, tree, None) == tree
    for scope in due_scopes(known):
        assert contributions(known, scope)
