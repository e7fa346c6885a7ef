"""Apparent secrets on their way into a commit: told, withheld, let go; nothing of them is kept anywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convergenced.canon.secrets import find_secrets
from convergenced.machine.settings_schema import SecretSettings
from convergenced.machine.state import SecretNote
from convergenced.sync import ingest, screening, searcher
from convergenced.sync.board import Attention
from convergenced.sync.scan import TRANSCRIPT_SUFFIX
from convergenced.sync.searcher import Searcher
from convergenced.sync.transcripts import READ_BYTES
from tests.labelled import KEYS, SHAPES, Lot
from tests.unit.sync.test_ingest import reads
from tests.unit.sync.world import APP, FakeMachine, World, sid

S = sid(1)
PATH = f"{S}{TRANSCRIPT_SUFFIX}"
LOT = Lot(20260106)
TOKEN = SHAPES["github"][0](LOT)
OTHER = SHAPES["stripe"][0](LOT)
KEY = KEYS["private-key"][0](LOT)


def searched(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """All that is searched from now on."""
    found: list[bytes] = []

    def find(data: bytes, salt: bytes) -> object:
        found.append(data)
        return find_secrets(data, salt)

    monkeypatch.setattr(screening, "find_secrets", find)
    return found


def holds(machine: FakeMachine, secret: str) -> bool:
    """Whether the store has it in any object, referred to or not."""
    return any(secret.encode() in data for data in _blobs(machine))


def _blobs(machine: FakeMachine) -> list[bytes]:
    return [data for kind, data in machine.store.objects.values() if kind == "blob"]


def fingerprints(notes: list[SecretNote]) -> list[str]:
    return [one.fingerprint for one in notes]


def test_with_off_nothing_is_searched(ann: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(monkeypatch)
    ann.say(S, f"my token is {TOKEN}")
    ann.remember("a.md", KEY)
    report = ann.ingest()
    assert report.commit is not None
    assert (found, report.secrets, ann.state.secrets(ann.app.folder)) == ([], [], [])


def test_with_warn_all_is_committed_and_told_until_it_is_allowed(ann: FakeMachine) -> None:
    ann.screen.policy = "warn"
    ann.say(S, f"my token is {TOKEN}")
    ann.remember("a.md", KEY)
    first = ann.ingest()
    assert first.message == "1 session +1 records, memory 1"
    assert {one.path: one.rule for one in first.secrets} == {PATH: "github", "memory/a.md": "private-key"}
    assert sorted(fingerprints(first.found)) == sorted(fingerprints(first.secrets))
    ann.say(S, f"again {TOKEN}")
    again = ann.ingest()
    assert (again.found, fingerprints(again.secrets)) == ([], fingerprints(first.secrets))
    ann.state.allow(fingerprints(first.secrets)[:1], 0.0)
    assert fingerprints(ann.ingest().secrets) == fingerprints(first.secrets)[1:]
    ann.state.disallow(fingerprints(first.secrets))
    ann.screen.policy = "off"
    assert ann.ingest().secrets == []
    ann.screen.policy = "warn"
    ann.files.unlink(ann.memory("a.md"))
    ann.remember("b.md", "x")
    assert {one.path for one in ann.ingest().secrets} == {PATH}


def test_only_what_is_new_is_searched(ann: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    ann.screen.policy = "warn"
    for number in range(50):
        ann.say(S, f"hello {number}")
    ann.ingest()
    found = searched(monkeypatch)
    ann.ingest()
    record = ann.say(S, "more")
    ann.ingest()
    ann.state.forget_files(ann.app.folder)
    ann.ingest()
    assert found == [record]


def test_with_block_nothing_new_of_that_session_is_committed_and_all_else_is(ann: FakeMachine) -> None:
    ann.screen.policy = "block"
    ann.say(S, "hello")
    ann.ingest()
    ann.say(S, "nothing to see")
    ann.say(S, f"my token is {TOKEN}")
    ann.say(sid(2), "other")
    ann.remember("a.md", "b")
    report = ann.ingest()
    assert report.message == "1 session +1 records, memory 1"
    (refusal,) = report.refusals
    assert refusal.where == PATH
    assert refusal.reason.startswith(
        f"stays on this machine: it holds an apparent secret: GitHub token {TOKEN[:4]}"
    )
    (note,) = ann.state.secrets(ann.app.folder)
    assert note.fingerprint in refusal.remedy
    assert not holds(ann, TOKEN)
    assert ann.ingest().refusals == [refusal]
    assert ann.converge().localize is not None
    assert ann.texts(S)[-1] == f"my token is {TOKEN}"


def let_go_by_allowing(ann: FakeMachine) -> None:
    ann.state.allow(fingerprints(ann.state.secrets(ann.app.folder)), 0.0)


def let_go_by_warning(ann: FakeMachine) -> None:
    ann.screen.policy = "warn"


def let_go_by_looking_away(ann: FakeMachine) -> None:
    ann.screen.policy = "off"


@pytest.mark.parametrize("let_go", [let_go_by_allowing, let_go_by_warning, let_go_by_looking_away])
def test_what_was_withheld_arrives_whole(
    ann: FakeMachine, bob: FakeMachine, let_go: Callable[[FakeMachine], None]
) -> None:
    ann.screen.policy = "block"
    for number in range(3):
        ann.say(S, f"hello {number} {TOKEN}")
    ann.remember("a.md", f"token: {TOKEN}")
    ann.say(sid(2), "other")
    assert len(ann.ingest().refusals) == 2
    ann.say(S, "later")
    let_go(ann)
    report = ann.ingest()
    assert report.refusals == []
    assert report.message == "1 session +4 records, memory 1"
    ann.exchange()
    bob.exchange()
    bob.converge()
    assert bob.texts(S) == ann.texts(S)
    assert bob.notes() == ann.notes()


def test_what_is_withheld_is_not_read_again(ann: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    ann.screen.policy = "block"
    for number in range(200):
        ann.say(S, f"hello {number}")
    record = ann.say(S, f"my token is {TOKEN}")
    ann.ingest()
    found = searched(monkeypatch)
    for _ in range(3):
        ann.say(S, "more")
        assert sum(length for _, _, length in reads(ann, ann.ingest)) == len(record)
    assert found == []


def test_what_is_taken_out_of_the_file_lets_the_rest_go(ann: FakeMachine) -> None:
    ann.screen.policy = "block"
    ann.say(S, "hello")
    bad = ann.say(S, f"my token is {TOKEN}")
    ann.remember("a.md", f"x\n{TOKEN}\n")
    ann.say(S, "more")
    assert len(ann.ingest().refusals) == 2
    ann.files.write(ann.transcript(S), ann.local_bytes(S).replace(bad, b""))
    ann.remember("a.md", "x\n")
    report = ann.ingest()
    assert (report.message, report.refusals) == ("1 session +2 records, memory 1", [])
    assert ann.state.secrets(ann.app.folder) == []
    assert not holds(ann, TOKEN)


def test_what_was_shared_already_holds_nothing_up(ann: FakeMachine) -> None:
    ann.screen.policy = "warn"
    ann.say(S, f"my token is {TOKEN}")
    ann.ingest()
    ann.screen.policy = "block"
    ann.say(S, "more")
    report = ann.ingest()
    assert (report.message, report.refusals) == ("1 session +1 records", [])
    assert [one.rule for one in report.secrets] == ["github"]
    ann.say(S, f"and {OTHER}")
    report = ann.ingest()
    assert [one.where for one in report.refusals] == [PATH]
    assert not holds(ann, OTHER)


def test_a_new_record_in_a_file_that_was_rewritten_is_searched_too(ann: FakeMachine) -> None:
    ann.screen.policy = "block"
    first, second = ann.say(S, "one"), ann.say(S, "two")
    ann.ingest()
    bad = ann.spoken(S, f"my token is {TOKEN}")
    ann.files.write(ann.transcript(S), bad + first + second)
    assert [one.where for one in ann.ingest().refusals] == [PATH]
    assert not holds(ann, TOKEN)
    ann.state.allow(fingerprints(ann.state.secrets(ann.app.folder)), 0.0)
    assert ann.ingest().message == "1 session +1 records"


@pytest.mark.parametrize("size", [READ_BYTES - 60, READ_BYTES - 20, READ_BYTES * 3])
def test_a_secret_that_lies_across_two_reads_is_found(ann: FakeMachine, size: int) -> None:
    ann.screen.policy = "block"
    ann.say(S, "x" * (size - 300))
    ann.say(S, f"my token is {TOKEN} " + "y" * 400)
    ann.say(sid(2), "z" * size + f" {OTHER}")
    assert {one.where for one in ann.ingest().refusals} == {PATH, f"{sid(2)}{TRANSCRIPT_SUFFIX}"}


def test_in_a_long_import_each_is_told_once_and_the_rest_goes(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "STEP_BYTES", 300)
    ann.screen.policy = "warn"
    ann.say(S, f"my token is {TOKEN}")
    ann.ingest()
    ann.screen.policy = "block"
    for number in range(2, 8):
        ann.say(sid(number), f"hello {OTHER if number % 2 else number}")
    report = ann.ingest()
    assert report.changes.sessions == {sid(2), sid(4), sid(6)}
    assert {one.where for one in report.refusals} == {f"{sid(number)}.jsonl" for number in (3, 5, 7)}
    assert [one.path for one in report.secrets] == [PATH]
    assert report.found == []


def test_a_long_import_is_searched_beside_it(ann: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "STEP_BYTES", 300)
    monkeypatch.setattr(searcher, "WORTHWHILE", 0)
    ann.screen.policy = "warn"
    for number in range(1, 5):
        ann.say(sid(number), f"my token is {TOKEN}")
    policy, bulk = ingest.policy_of(ann.parts, ann.app), ingest.Bulk(searcher=Searcher)
    report = ingest.ingest(ann.parts, ann.app, policy, bulk=bulk)
    assert {note.path for note in report.found} == {f"{sid(number)}.jsonl" for number in range(1, 5)}
    assert {note.path for note in ann.ingest().secrets} == {note.path for note in report.found}


def test_nothing_that_is_told_or_kept_gives_a_secret_away(ann: FakeMachine) -> None:
    policies: tuple[screening.Policy, ...] = ("block", "warn")
    for policy in policies:
        ann.screen.policy = policy
        ann.say(S, f"my token is {TOKEN}")
        ann.remember("a.md", KEY)
        report = ann.ingest()
        told = f"{report.refusals} {report.secrets} {report.found} {report.message}"
        kept = "\n".join(ann.state._db.iterdump())
        for text in (told, kept):
            assert TOKEN[4:10] not in text
            assert all(line[:8] not in text for line in KEY.splitlines()[1:-1])


def test_the_daemon_tells_once_shows_it_until_it_is_allowed_and_follows_the_policy(
    world: World, ann: FakeMachine
) -> None:
    ann.say(S, f"my token is {TOKEN}")
    ann.start()
    world.settle()
    (note,) = ann.state.secrets(ann.app.folder)
    text = f"{PATH} holds an apparent secret: GitHub token {note.shown}"
    matter = Attention("secret", APP, text, f"convergencectl scan {APP}")
    assert [one for one in ann.engine.board.attention() if one.kind == "secret"] == [matter]
    ann.say(S, f"and {TOKEN}")
    ann.engine.look_at_everything()
    world.settle()
    assert ann.log.texts("secret") == [f"{text}; see: convergencectl scan"]
    ann.engine.apply(ann.with_settings(secrets=SecretSettings("block")))
    ann.say(S, f"and {OTHER}")
    world.settle()
    assert {one.kind for one in ann.engine.board.attention()} >= {"quarantine"}
    assert not holds(ann, OTHER)
    ann.engine.apply(ann.with_settings(secrets=SecretSettings("off")))
    world.settle()
    assert not {one.kind for one in ann.engine.board.attention()} & {"quarantine", "secret"}
    assert holds(ann, OTHER)
