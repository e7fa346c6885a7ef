"""What is told of a folder before anything of it is synced."""

from __future__ import annotations

import pytest

from convergenced.canon.rewrite import Rewriter
from convergenced.model import Content, Finding, LocalPath
from convergenced.sync import forecast as module
from convergenced.sync.forecast import forecast
from tests.unit.sync.world import FakeMachine, sid

S = sid(1)


def told(machine: FakeMachine, *others: str) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for one in forecast(machine.parts, machine.app, True, others):
        found.setdefault(one.check, []).append(one)
    return found


def only(found: dict[str, list[Finding]], check: str) -> Finding:
    (one,) = found[check]
    return one


def test_a_project_that_was_not_used_yet(ann: FakeMachine) -> None:
    (one,) = forecast(ann.parts, ann.app, True, ())
    assert one.state == "ok"
    assert "not used" in one.text


def test_all_is_well_and_nothing_is_written(ann: FakeMachine) -> None:
    ann.say(S, f"work in {ann.root}/src and {ann.home}/x")
    ann.remember("a.md", f"see {ann.root}")
    ann.files.write(f"{ann.context()}/{S}/tool-results/1.txt", b"result")
    found = told(ann)
    assert {one.state for ones in found.values() for one in ones} == {"ok"}
    assert only(found, "files").text == "1 session, 1 file beside them and 1 memory note can be synced"
    assert only(found, "round-trip").text == "3 files come back byte for byte"
    assert only(found, "residue").text == "nothing is bound to this machine"
    assert ann.store.writes == 0


def test_what_is_not_synced_is_named_with_its_reason_and_remedy(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.files.link(ann.transcript(sid(2)), "/etc/passwd")
    (refused, _) = told(ann)["files"]
    assert refused.state == "warning"
    assert "symbolic link" in refused.text
    assert refused.fix


def test_residue_and_strange_records_are_told_but_call_for_nobody(ann: FakeMachine) -> None:
    ann.say(S, "see /opt/data/x and projects/-srv-zoo/y")
    ann.files.append(ann.transcript(S), b"no json\n{torn")
    found = told(ann, "-srv-zoo")
    residue, records = only(found, "residue"), only(found, "records")
    assert residue.state == records.state == "ok"
    assert "message.content (1, such as /opt/data/x)" in residue.text
    assert "1 name of other projects' folders in 1 field" in residue.text
    assert "1 record is no JSON object" in records.text
    assert "1 transcript ends in the middle" in records.text


def test_records_that_would_not_come_back_are_counted(
    ann: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(Rewriter):
        """Loses what no machine on POSIX loses."""

        def localize(self, data: bytes, content: Content) -> bytes:
            return super().localize(data, content).replace(b"bad", b"")

    ann.say(S, "bad")
    ann.say(S, "good")
    ann.remember("a.md", "bad")
    rewriter = Forgetful(ann.app.rewriter(ann.machine, True).anchors)
    monkeypatch.setattr("convergenced.sync.replica.Replica.rewriter", lambda *_: rewriter)
    texts = [one.text for one in told(ann)["round-trip"]]
    assert [one.state for one in told(ann)["round-trip"]] == ["warning", "warning"]
    assert any("a.md has content that" in text for text in texts)
    assert any(f"{S}.jsonl has a record that" in text for text in texts)


def test_it_says_where_it_stopped(ann: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    for number in range(3):
        ann.say(sid(number), "hello")
    assert "2 older files were not looked into" in only(told(ann), "round-trip").text


def test_a_file_that_cannot_be_read_is_named(ann: FakeMachine) -> None:
    ann.say(S, "hello")

    def broken(verb: str, path: LocalPath) -> None:
        if verb == "read" and path == ann.transcript(S):
            raise OSError("the disk is broken")

    ann.files.before = broken
    assert only(told(ann), "round-trip").state == "warning"
