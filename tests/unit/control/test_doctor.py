"""Carrying out repairs, and what is answered of them."""

from __future__ import annotations

from convergenced.control.doctor import Mended, diagnosis, mend, state_finding
from convergenced.errors import StoreError
from convergenced.model import Finding, ProjectId

PROJ = ProjectId("proj")


def test_a_repair_that_findings_share_is_carried_out_once_and_in_order() -> None:
    acts: list[str] = []

    def one() -> str:
        acts.append("one")
        return "did one"

    def other() -> str:
        acts.append("other")
        return ""

    findings = [
        Finding("a", "problem", "x", PROJ, repair=one),
        Finding("b", "ok", "fine"),
        Finding("c", "problem", "y", repair=other),
        Finding("d", "problem", "z", repair=one),
    ]
    mended = mend(findings)
    assert acts == ["one", "other"]
    assert [(finding.check, words) for finding, words in mended.done] == [("a", "did one")]
    assert mended.failed == []


def test_a_repair_that_fails_does_not_stop_the_others() -> None:
    def fails() -> str:
        raise StoreError("the store cannot be written", "free space")

    def breaks() -> str:
        raise OSError(28, "No space left on device")

    findings = [
        Finding("a", "problem", "x", PROJ, "call somebody", fails),
        Finding("b", "warning", "y", repair=breaks),
        Finding("c", "problem", "z", repair=lambda: "did it"),
    ]
    mended = mend(findings)
    assert [words for _, words in mended.done] == ["did it"]
    assert [(one.check, one.state) for one in mended.failed] == [("a", "problem"), ("b", "problem")]
    assert "cannot be written" in mended.failed[0].text


def test_the_answer_tells_of_a_failure_only_while_something_is_wrong() -> None:
    failed = Finding("a", "problem", "could not be repaired: x", PROJ)
    done = (Finding("b", "problem", "y"), "did it")
    mended = Mended([done], [failed])
    wrong = Finding("a", "problem", "x", PROJ, "fix", lambda: "")
    answer = diagnosis([wrong], mended)
    assert [one["text"] for one in answer["findings"]] == ["x", "could not be repaired: x"]
    assert [one["fixable"] for one in answer["findings"]] == [True, False]
    assert answer["fixed"] == [{"check": "b", "project": None, "text": "did it"}]
    assert [one["state"] for one in diagnosis([Finding("a", "ok", "x", PROJ)], mended)["findings"]] == ["ok"]


def test_a_damaged_state_is_rebuilt_only_while_nobody_uses_it() -> None:
    assert state_finding(None, in_use=True).state == "ok"
    used, unused = (state_finding("malformed", in_use=in_use) for in_use in (True, False))
    assert "convergencectl down" in used.fix
    assert "convergencectl down" not in unused.fix
    assert used.state == unused.state == "problem"
