"""What each machine has to say, when a scope is due, and what is recorded of an attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from convergenced.merge.contributions import (
    MAX_TEXT,
    MAX_TEXTS,
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
    Input,
    Knowledge,
    MachineKnowledge,
    Rejection,
    Scope,
)
from convergenced.model import MachineId
from tests.fakes.store import MemoryStore
from tests.knowledge import ANN, BOB, CYD, build, documents, synthesis, texts

CLAUDE = DocumentPath("CLAUDE.md")
PROJ = Scope("projects/proj")


@dataclass
class Story:
    """One scope's CLAUDE.md on some machines, told step by step."""

    store: MemoryStore = field(default_factory=MemoryStore)
    known: Knowledge = field(default_factory=Knowledge)

    def edit(self, machine: MachineId, text: str | None) -> Story:
        """The machine's next snapshot has this text, None for no document any more."""
        former = self.known.machines.get(machine, MachineKnowledge())
        held = {} if text is None else {GLOBAL: documents(self.store, {CLAUDE: text})}
        return self._with(machine, replace(former, documents=held))

    def synthesize(self, text: str) -> Story:
        """A synthesis takes all in and writes this."""
        made = synthesis(self.known)
        self.known = with_synthesis(self.known, GLOBAL, documents(self.store, {CLAUDE: text}), made)
        return self

    def reject(self) -> Story:
        """A synthesis is not believed."""
        self.known = with_rejection(self.known, GLOBAL, rejection(self.known))
        return self

    def apply(self, machine: MachineId) -> Story:
        """The machine writes what is consolidated, and its next snapshot says so."""
        held = {GLOBAL: self.known.consolidated[GLOBAL]}
        return self._with(machine, replace(self.known.machines[machine], documents=held, applied=held))

    def go_back(self, machine: MachineId, text: str) -> Story:
        """The machine has an older state, and says so."""
        self.edit(machine, text)
        known = self.known.machines[machine]
        return self._with(machine, replace(known, anew=known.documents))

    def lose(self, text: str, taken_in: Knowledge) -> Story:
        """A synthesis of what was known then, made at the same time, stands instead of the last one."""
        made = synthesis(taken_in)
        beside = with_synthesis(taken_in, GLOBAL, documents(self.store, {CLAUDE: text}), made)
        self.known = replace(self.known, consolidated=beside.consolidated, records=beside.records)
        return self

    def retire(self, machine: MachineId) -> Story:
        """The machine takes part no more."""
        self.known = replace(
            self.known, machines={name: one for name, one in self.known.machines.items() if name != machine}
        )
        return self

    def said(self) -> list[tuple[str, str, str | None]]:
        """Contributions as machine, document and base."""
        found = contributions(self.known, GLOBAL)
        assert all(one.path == CLAUDE for one in found)
        return [(one.machine, self._text(one.document), one.base and self._text(one.base)) for one in found]

    def _text(self, oid: str) -> str:
        return self.store.objects[oid][1].decode()  # type: ignore[index]

    def _with(self, machine: MachineId, known: MachineKnowledge) -> Story:
        self.known = replace(self.known, machines={**self.known.machines, machine: known})
        return self


def rejection(known: Knowledge, *claims: str) -> Rejection:
    return Rejection(
        at=9, machine=ANN, provider="claude", inputs=digest_of_inputs(inputs_of(known, GLOBAL)), claims=claims
    )


def begun() -> Story:
    """Two machines whose first documents were merged."""
    return Story().edit(ANN, "a1").edit(BOB, "b1").synthesize("c1")


def both_applied() -> Story:
    return begun().apply(ANN).apply(BOB)


def _gave_way(happen: Callable[[Story], Story]) -> Story:
    """Ann edits, a synthesis takes that in, and another that does not know it stands in the end."""
    story = both_applied()
    before = story.known
    return happen(story.edit(ANN, "a2").synthesize("c2")).lose("beside", before)


def _applied_meanwhile(happen: Callable[[Story], Story]) -> Story:
    """Bob applies what is consolidated while a synthesis is made that has not heard of it."""
    story = begun().edit(ANN, "a2")
    before = story.known
    return happen(story.apply(BOB).lose("c2", before))


STORIES: dict[str, tuple[Callable[[], Story], list[tuple[str, str, str | None]]]] = {
    "nobody": (Story, []),
    "one machine, the first time": (lambda: Story().edit(ANN, "a1"), [(ANN, "a1", None)]),
    "two machines, the first time": (
        lambda: Story().edit(BOB, "b1").edit(ANN, "a1"),
        [(ANN, "a1", None), (BOB, "b1", None)],
    ),
    "a machine that went back has removed nothing": (
        lambda: both_applied().go_back(ANN, "a0"),
        [(ANN, "a0", None)],
    ),
    "until that is taken in": (lambda: both_applied().go_back(ANN, "a0").synthesize("c2"), []),
    "nor to what was taken in last": (lambda: both_applied().go_back(ANN, "a1"), []),
    "or until it is edited": (lambda: both_applied().go_back(ANN, "a0").edit(ANN, "a2"), [(ANN, "a2", "c1")]),
    "all taken in": (begun, []),
    "applied": (both_applied, []),
    "an edit after applying": (lambda: both_applied().edit(ANN, "a2"), [(ANN, "a2", "c1")]),
    "an edit before applying starts from what was taken in": (
        lambda: begun().edit(ANN, "a2"),
        [(ANN, "a2", "a1")],
    ),
    "a second edit before applying": (
        lambda: begun().edit(ANN, "a2").synthesize("c2").edit(ANN, "a3"),
        [(ANN, "a3", "a2")],
    ),
    "back to what was taken in, after applying": (
        lambda: both_applied().edit(ANN, "a1"),
        [(ANN, "a1", "c1")],
    ),
    "back to what was taken in, before applying": (lambda: begun().edit(ANN, "a2").edit(ANN, "a1"), []),
    "an edit that is what is consolidated": (lambda: begun().edit(ANN, "c1"), []),
    "a machine that applied an older one": (
        lambda: both_applied().edit(ANN, "a2").synthesize("c2").apply(ANN),
        [],
    ),
    "a machine that applied an older one and went on": (
        lambda: both_applied().edit(ANN, "a2").synthesize("c2").apply(ANN).edit(BOB, "b2"),
        [(BOB, "b2", "c1")],
    ),
    "an older one applied late, after it was taken in with something else": (
        lambda: begun().apply(ANN).edit(BOB, "b2").synthesize("c2").edit(BOB, "b3"),
        [(BOB, "b3", "b2")],
    ),
    "a document that is gone": (lambda: both_applied().edit(ANN, None), []),
    "a document that is gone before it was taken in": (
        lambda: Story().edit(ANN, "a1").edit(BOB, "b1").edit(ANN, None),
        [(BOB, "b1", None)],
    ),
    "a document that came back as it was": (lambda: both_applied().edit(ANN, None).edit(ANN, "c1"), []),
    "a machine that retired": (
        lambda: begun().edit(ANN, "a2").edit(BOB, "b2").retire(BOB),
        [(ANN, "a2", "a1")],
    ),
    "a machine that joins later": (lambda: both_applied().edit(CYD, "d1"), [(CYD, "d1", None)]),
    "a machine that joins with what is consolidated": (lambda: both_applied().edit(CYD, "c1"), []),
    "what was applied of a synthesis that gave way is still to be taken in": (
        lambda: _gave_way(lambda story: story.apply(ANN)),
        [(ANN, "c2", "c1")],
    ),
    "and what was written on top of it": (
        lambda: _gave_way(lambda story: story.apply(ANN).edit(ANN, "a3")),
        [(ANN, "a3", "c1")],
    ),
    "also of a machine that joined in": (
        lambda: _gave_way(lambda story: story.edit(CYD, "d1").synthesize("c2").apply(CYD)),
        [(ANN, "a2", "c1"), (CYD, "c2", None)],
    ),
    "what was applied while a synthesis on top of it was made did not give way": (
        lambda: _applied_meanwhile(lambda story: story),
        [],
    ),
    "and is what a later edit starts from": (
        lambda: _applied_meanwhile(lambda story: story.edit(BOB, "b2")),
        [(BOB, "b2", "c1")],
    ),
    "a rejection takes nothing in": (
        lambda: Story().edit(ANN, "a1").edit(BOB, "b1").reject(),
        [(ANN, "a1", None), (BOB, "b1", None)],
    ),
}


@pytest.mark.parametrize("name", STORIES)
def test_what_is_contributed(name: str) -> None:
    tell, expected = STORIES[name]
    story = tell()
    assert story.said() == expected
    assert due_scopes(story.known, again=True) == ([GLOBAL] if expected else [])


def test_a_rejected_scope_waits_for_other_inputs() -> None:
    story = Story().edit(ANN, "a1").edit(BOB, "b1")
    assert due_scopes(story.known) == [GLOBAL]
    story.reject()
    assert due_scopes(story.known) == []
    assert due_scopes(story.known, again=True) == [GLOBAL]
    story.edit(BOB, "b2")
    assert due_scopes(story.known) == [GLOBAL]
    story.edit(BOB, "b1")
    assert due_scopes(story.known) == []
    story.synthesize("c1").edit(BOB, "b2")
    assert due_scopes(story.known) == [GLOBAL]


def test_contributions_come_by_path_and_then_by_machine() -> None:
    store = MemoryStore()
    known = build(
        store,
        {
            "machines": {
                BOB: {PROJ: {"memory/a.md": "1", "CLAUDE.md": "2"}},
                ANN: {PROJ: {"memory/a.md": "3", ".claude/CLAUDE.md": "4"}, "projects/other": {CLAUDE: "5"}},
            },
            "consolidated": {PROJ: {"memory/a.md": "3"}},
        },
    )
    assert [(one.path, one.machine) for one in contributions(known, PROJ)] == [
        (".claude/CLAUDE.md", ANN),
        ("CLAUDE.md", BOB),
        ("memory/a.md", BOB),
    ]
    assert due_scopes(known) == ["projects/other", PROJ]


def test_the_digest_is_of_who_has_what_only() -> None:
    store = MemoryStore()
    one, other = documents(store, {"CLAUDE.md": "1", "memory/a.md": "2"}).values()
    a, b = DocumentPath("a"), DocumentPath("b")
    digest = digest_of_inputs({ANN: {a: Input(one), b: Input(other)}, BOB: {a: Input(other)}})
    same = digest_of_inputs({BOB: {a: Input(other, one)}, ANN: {b: Input(other), a: Input(one)}, CYD: {}})
    assert digest == same
    assert len(digest) == 64
    others = [
        digest_of_inputs({ANN: {a: Input(one), b: Input(other)}}),
        digest_of_inputs({ANN: {a: Input(one), b: Input(other)}, BOB: {b: Input(other)}}),
        digest_of_inputs({ANN: {a: Input(one), b: Input(other)}, CYD: {a: Input(other)}}),
        digest_of_inputs({ANN: {a: Input(one), b: Input(other)}, BOB: {a: Input(one)}}),
        digest_of_inputs({}),
    ]
    assert len({digest, *others}) == 6


def test_a_synthesis_is_recorded() -> None:
    story = Story().edit(ANN, "a1").edit(BOB, "b1").reject()
    made = replace(
        synthesis(story.known, at=70, machine=BOB), provider="claude", model="m", usd=0.5, marks=("x",)
    )
    known = with_synthesis(story.known, GLOBAL, documents(story.store, {CLAUDE: "c"}), made)
    assert texts(story.store, known.consolidated[GLOBAL]) == {CLAUDE: "c"}
    assert known.records[GLOBAL].written == made
    assert known.records[GLOBAL].rejected is None
    earlier, entry = known.log
    assert (earlier.outcome, earlier.at) == ("rejected", 9)
    assert (entry.at, entry.machine, entry.scope, entry.outcome) == (70, BOB, GLOBAL, "merged")
    assert (entry.provider, entry.model, entry.usd, entry.text) == ("claude", "m", 0.5, "2 machines, 1 mark")
    assert known.machines == story.known.machines


def test_documents_that_a_synthesis_does_not_speak_of_stay() -> None:
    store = MemoryStore()
    known = build(
        store, {"consolidated": {GLOBAL: {CLAUDE: "c", "settings.json": "{}"}, PROJ: {CLAUDE: "p"}}}
    )
    known = with_synthesis(known, GLOBAL, documents(store, {CLAUDE: "d"}), synthesis(known))
    assert texts(store, known.consolidated[GLOBAL]) == {CLAUDE: "d", "settings.json": "{}"}
    assert texts(store, known.consolidated[PROJ]) == {CLAUDE: "p"}


def test_a_rejection_leaves_what_is_consolidated() -> None:
    story = begun().edit(ANN, "a2")
    before = story.known
    known = with_rejection(before, GLOBAL, rejection(before, "the sky is green", "pigs fly"))
    assert known.consolidated == before.consolidated
    assert known.records[GLOBAL].written == before.records[GLOBAL].written
    assert known.records[GLOBAL].rejected == rejection(before, "the sky is green", "pigs fly")
    assert known.log[0].text == "2 claims found nowhere: the sky is green; pigs fly"


def test_what_a_model_says_is_recorded_within_bounds() -> None:
    story = begun()
    endless = tuple("x" * 5_000 for _ in range(500))
    known = with_rejection(story.known, GLOBAL, rejection(story.known, *endless))
    rejected = known.records[GLOBAL].rejected
    assert rejected is not None
    assert len(rejected.claims) == MAX_TEXTS
    assert {len(claim) for claim in rejected.claims} == {MAX_TEXT}
    made = replace(synthesis(story.known), marks=endless)
    written = with_synthesis(known, GLOBAL, {}, made).records[GLOBAL].written
    assert written is not None
    assert sum(map(len, written.marks)) == MAX_TEXT * MAX_TEXTS
