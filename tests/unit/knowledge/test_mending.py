"""When the branch of shared knowledge is mended, how often, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convergenced.errors import MissingObjectError, NewerSchemaError
from convergenced.knowledge.branch import KNOWLEDGE_REF
from convergenced.knowledge.mending import take_up
from convergenced.merge.layout import write_folder
from convergenced.model import Commit
from convergenced.store.branch import peer_ref
from convergenced.store.verify import Flaw
from convergenced.sync.healing import FIRST_DELAY, REMEDY, Outcome
from convergenced.sync.tips import ref_of
from tests.fakes.store import MemoryStore
from tests.knowledge import ANN, BOB, PERSON, commit_plain
from tests.unit.knowledge.shelf import Reading
from tests.unit.sync.world import FakeMachine, World

Mended = Callable[..., Outcome]
TORN = MissingObjectError("the store has no readable tree 1234", "run doctor")
LEFT = Outcome(1, [], [Flaw("missing", KNOWLEDGE_REF, None, "tree 1234 is missing")])


@pytest.fixture
def machine() -> FakeMachine:
    return World().machine("ann")


@pytest.fixture
def ann(machine: FakeMachine) -> Reading:
    return Reading(machine).come_to_rest()


def attempts(ann: Reading, monkeypatch: pytest.MonkeyPatch, mend: Callable[[], Outcome]) -> list[float]:
    """The times at which it is tried, which grow with each; `mend` is what comes of it."""
    times: list[float] = []

    def work(*_: object) -> Outcome:
        times.append(ann.world.clock.monotonic())
        return mend()

    monkeypatch.setattr(ann.shelf, "mend", work, raising=False)
    return times


def test_damage_that_a_look_meets_is_mended_at_once(ann: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    def mend() -> Outcome:
        ann.shelf.trouble = None
        return Outcome(1, ["healed 1 object from hub"])

    times = attempts(ann, monkeypatch, mend)
    ann.shelf.trouble = TORN
    ann.librarian.look()
    ann.world.advance(5)
    assert len(times) == 1
    assert len(ann.shelf.looks) == 2
    assert ann.texts("heal") == ["knowledge: healed 1 object from hub"]
    assert ann.librarian.attention() == []
    assert ann.missing() == []


def test_what_cannot_be_mended_is_told_and_tried_ever_more_rarely(
    ann: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = attempts(ann, monkeypatch, lambda: LEFT)
    ann.shelf.trouble = TORN
    ann.librarian.look()
    since = ann.world.clock.monotonic()
    ann.world.advance(7.5 * FIRST_DELAY)
    assert [at - since for at in times] == [pytest.approx(n * FIRST_DELAY, abs=0.1) for n in (0, 1, 3, 7)]
    told = ann.librarian.attention()[0]
    assert (told.kind, told.fix) == ("damaged", REMEDY)
    assert "tree 1234 is missing" in told.text
    assert len([text for text in ann.texts("error") if "is damaged" in text]) == 1
    ann.librarian.look()  # somebody asks
    ann.world.advance(1)
    assert len(times) == 5


def test_what_was_mended_in_the_meantime_is_no_trouble_any_more(
    ann: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = [LEFT, Outcome()]
    times = attempts(ann, monkeypatch, lambda: outcomes.pop(0))
    ann.shelf.trouble = TORN
    ann.librarian.look()
    ann.world.advance(1)
    ann.shelf.trouble = None
    ann.librarian.look()
    ann.world.advance(1)
    assert (len(times), ann.librarian.attention()) == (2, [])


def test_a_mending_that_breaks_is_told_and_tried_again(ann: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    def mend() -> Outcome:
        raise OSError(28, "No space left on device")

    times = attempts(ann, monkeypatch, mend)
    ann.shelf.trouble = TORN
    ann.librarian.look()
    ann.world.advance(1.5 * FIRST_DELAY)
    assert len(times) == 2
    assert "No space left" in ann.librarian.attention()[0].text


def test_other_trouble_is_no_damage(ann: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    times = attempts(ann, monkeypatch, Outcome)
    ann.shelf.trouble = NewerSchemaError("written by a newer version", "update")
    ann.librarian.look()
    ann.world.advance(100)
    assert times == []


def test_a_branch_that_got_lost_is_made_of_what_peers_had() -> None:
    store = MemoryStore()
    one = commit_plain(store, {"machines": {ANN: {"global": {"CLAUDE.md": "a"}}}})
    store.swap(KNOWLEDGE_REF, one, None)
    other = commit_plain(store, {"machines": {BOB: {"global": {"CLAUDE.md": "b"}}}})
    store.swap(KNOWLEDGE_REF, other, None)
    paper = store.write_blob(b'{"schema": 99}')
    tree = write_folder(store, {f"machines/{BOB}/machine.json": paper})
    newer = store.write_commit(Commit(tree, (other,), PERSON, 9, "newer"))
    for peer, tip in (("one", one), ("other", other), ("newer", newer)):
        store.swap(peer_ref(peer, "knowledge"), None, tip)
    made = take_up(store)
    assert made == ref_of(store, KNOWLEDGE_REF)
    assert made is not None
    assert set(store.read_commit(made).parents) == {one, other}
    assert take_up(store) == made
    assert take_up(MemoryStore()) is None
