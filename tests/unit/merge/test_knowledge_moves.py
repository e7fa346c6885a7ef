"""What a machine shared of a project follows where that goes on under another id."""

from __future__ import annotations

from dataclasses import replace

from convergenced.merge.contributions import contributions, with_synthesis
from convergenced.merge.knowledge import Knowledge, Scope
from convergenced.merge.knowledge_moves import with_scope_moved
from tests.fakes.store import MemoryStore
from tests.knowledge import ANN, BOB, Plain, build, synthesis, texts

OLD, NEW = Scope("projects/app"), Scope("projects/app-2")
MINE, THEIRS = {"CLAUDE.md": "ann's\n"}, {"CLAUDE.md": "bob's\n"}


def known(store: MemoryStore, plain: Plain, *synthesized: Scope) -> Knowledge:
    """The knowledge, with a synthesis of these scopes that took in what there is and copied ann's."""
    made = build(store, plain)
    for scope in synthesized:
        made = with_synthesis(made, scope, made.machines[ANN].documents[scope], synthesis(made, scope))
    return made


def moved(knowledge: Knowledge) -> Knowledge:
    once = with_scope_moved(knowledge, ANN, OLD, NEW)
    assert with_scope_moved(once, ANN, OLD, NEW) == once
    return once


def test_all_goes_along_where_nobody_else_had_a_part() -> None:
    store = MemoryStore()
    before = known(store, {"machines": {ANN: {OLD: MINE}}, "applied": {ANN: {OLD: MINE}}}, OLD)
    after = moved(before)
    assert {*after.machines[ANN].documents} == {*after.machines[ANN].applied} == {NEW}
    assert {*after.consolidated} == {*after.records} == {NEW}
    assert texts(store, after.consolidated[NEW]) == MINE
    assert contributions(after, NEW) == ()


def test_what_others_have_to_do_with_stays_theirs() -> None:
    store = MemoryStore()
    plain: Plain = {"machines": {ANN: {OLD: MINE}, BOB: {OLD: THEIRS}}, "applied": {ANN: {OLD: MINE}}}
    before = known(store, plain, OLD)
    after = moved(before)
    assert (after.consolidated, after.records) == (before.consolidated, before.records)
    assert texts(store, after.machines[BOB].documents[OLD]) == THEIRS
    assert OLD not in {**after.machines[ANN].documents, **after.machines[ANN].applied}
    assert [one.base for one in contributions(after, NEW)] == [None]
    # Also where only the record still tells of them.
    alone = replace(before, machines={ANN: before.machines[ANN]})
    assert moved(alone).consolidated == before.consolidated


def test_where_the_new_name_has_documents_ours_are_taken_into_those() -> None:
    store = MemoryStore()
    plain: Plain = {
        "machines": {ANN: {OLD: MINE}, BOB: {NEW: THEIRS}},
        "applied": {ANN: {OLD: MINE}},
        "consolidated": {OLD: MINE, NEW: THEIRS},
    }
    after = moved(known(store, plain))
    assert {scope: texts(store, those) for scope, those in after.consolidated.items()} == {NEW: THEIRS}
    assert [(one.machine, one.base) for one in contributions(after, NEW)] == [(ANN, None)]


def test_a_machine_that_shared_nothing_of_it_is_not_noted() -> None:
    store = MemoryStore()
    before = known(store, {"machines": {BOB: {OLD: THEIRS}}})
    assert moved(before) == before
