"""What follows from what the engine knows: nothing is called synced that was not looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from convergenced.machine.settings_schema import PeerSettings
from convergenced.model import ClaudeProcess, LocalPath, Oid, ProjectId, Refusal
from convergenced.store.branch import MergeOutcome
from convergenced.store.refusals import BEHIND
from convergenced.sync.board import ALL, Attention, Board, Distance, PeerStatus, ReplicaState, held_text
from convergenced.sync.converge import Pass
from convergenced.sync.exchange import RoundReport
from convergenced.sync.ingest import IngestReport
from convergenced.sync.localize import LocalizeReport
from convergenced.sync.replica import Replica

APP = ProjectId("app")
TIP, OTHER = Oid("1" * 40), Oid("2" * 40)
NEAR = Distance()


@pytest.fixture
def state() -> ReplicaState:
    """A folder that was looked at and is in step."""
    state = ReplicaState(Replica(APP, "-app", LocalPath("/app"), True), asked=None)
    state.result = Pass(IngestReport(), LocalizeReport(settled=True), TIP)
    state.started_at = 10.0
    return state


@pytest.fixture
def peer() -> PeerStatus:
    """A peer that was asked and has everything."""
    return PeerStatus(PeerSettings("hub", "/hub"), report=RoundReport(), started_at=11.0)


@pytest.fixture
def board(state: ReplicaState, peer: PeerStatus) -> Board:
    return Board(replicas={"-app": state}, peers={"hub": peer}, tips={APP: TIP}, tracked={("hub", APP): TIP})


def texts(board: Board, since: float = -1.0) -> list[str]:
    return [miss.text for miss in board.missing(APP, since)]


def test_what_was_looked_at_and_exchanged_is_synced(board: Board) -> None:
    assert board.missing(APP) == []
    assert board.state_of(APP, NEAR) == "synced"
    assert board.summary() == "1 project in step"
    assert board.attention() == []


def test_what_a_project_waits_for_is_told_apart(board: Board, state: ReplicaState, peer: PeerStatus) -> None:
    assert board.waits_for(APP) is None
    state.first_change = 1.0
    assert board.waits_for(APP) == "look"
    state.first_change = None
    peer.report = None
    assert board.waits_for(APP) == "exchange"
    peer.error = "cannot be reached"
    assert board.waits_for(APP) == "peer"
    other = PeerStatus(PeerSettings("nas", "/nas"), report=RoundReport(rejected={APP: BEHIND}))
    board.peers["nas"] = other
    assert board.waits_for(APP) == "exchange"
    state.error = "the disk is full"
    assert board.waits_for(APP) == "person"
    board.pauses[ALL] = None
    assert board.waits_for(APP) is None


def test_a_push_that_others_outpaced_is_told_and_needs_nobody(board: Board, peer: PeerStatus) -> None:
    peer.report = RoundReport(rejected={APP: BEHIND})
    assert [one.kind for one in board.attention()] == ["outpaced"]


def test_what_was_not_looked_at_yet_is_pending(board: Board, state: ReplicaState) -> None:
    state.result = None
    assert texts(board) == ["local changes are being looked at"]
    assert board.state_of(APP, NEAR) == "pending"
    assert board.summary() == "1 project, 1 not in step"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda state: setattr(state, "busy", True), "local changes are being looked at"),
        (lambda state: setattr(state, "first_change", 1.0), "local changes are being looked at"),
        (lambda state: setattr(state, "asked", 1.0), "not everything could be written here yet"),
        (lambda state: setattr(state, "retry_at", 1.0), "not everything could be written here yet"),
        (lambda state: setattr(state, "error", "broken"), "broken"),
    ],
)
def test_work_that_is_known_or_under_way_is_not_synced(
    board: Board, state: ReplicaState, change: Callable[[ReplicaState], None], text: str
) -> None:
    change(state)
    assert texts(board) == [text]
    assert board.state_of(APP, NEAR) == "pending"


def test_a_look_before_the_question_does_not_count(board: Board) -> None:
    assert texts(board, since=10.0) == []
    assert texts(board, since=10.5) == ["local changes are being looked at"]


def test_a_round_before_the_question_does_not_count(
    board: Board, state: ReplicaState, peer: PeerStatus
) -> None:
    state.started_at = 20.0
    assert texts(board, since=15.0) == ["not exchanged with hub yet"]
    peer.started_at = 16.0
    assert texts(board, since=15.0) == []


def test_an_untried_peer_is_not_in_step(board: Board, peer: PeerStatus) -> None:
    peer.report = None
    assert peer.state == "untried"
    assert texts(board) == ["not exchanged with hub yet"]
    assert board.state_of(APP, NEAR) == "pending"


def test_a_failing_peer_is_never_synced_and_says_why(board: Board, peer: PeerStatus) -> None:
    peer.error, peer.hint = "cannot be reached", "plug it in"
    assert peer.state == "failing"
    assert texts(board) == ["hub fails: cannot be reached"]
    assert board.state_of(APP, NEAR) == "pending"
    assert board.attention() == [Attention("peer", None, "hub: cannot be reached", "plug it in")]
    peer.may_come_back = True
    assert board.attention()[0].kind == "unreachable"
    peer.hint = ""
    assert board.attention()[0].fix == "it is tried again by itself"
    assert PeerStatus(peer.settings, report=RoundReport()).state == "ok"


def test_a_peer_that_lacks_something_is_not_in_step(board: Board) -> None:
    board.tracked[("hub", APP)] = OTHER
    assert texts(board) == ["not all of it is at hub yet"]
    assert board.state_of(APP, Distance(ahead=2)) == "ahead"
    assert board.state_of(APP, Distance(behind=1)) == "behind"
    assert board.state_of(APP, Distance(ahead=2, behind=1)) == "behind"
    del board.tracked[("hub", APP)]
    assert board.state_of(APP, NEAR) == "pending"


def test_what_a_peer_did_not_take_needs_a_person(board: Board, peer: PeerStatus) -> None:
    peer.report = RoundReport(rejected={APP: "protected branch"})
    (miss,) = board.missing(APP)
    assert (miss.text, miss.cause) == ("hub did not take it: protected branch", "person")
    assert [one.kind for one in board.attention()] == ["rejected"]


def test_what_of_a_peer_was_refused_is_quarantined(board: Board, peer: PeerStatus) -> None:
    refusal = Refusal("project app", "was written by a newer version", "update")
    peer.report = RoundReport(refusals={APP: [refusal]})
    assert texts(board) == ["was written by a newer version"]
    assert board.state_of(APP, NEAR) == "quarantined"
    assert board.attention() == [
        Attention("quarantine", APP, "project app was written by a newer version", "update")
    ]


def test_what_a_merge_left_out_is_shown(board: Board, peer: PeerStatus) -> None:
    peer.report = RoundReport(merges={APP: MergeOutcome(TIP, refusals=(Refusal("x", "is odd", "see"),))})
    assert board.attention() == [Attention("quarantine", APP, "x is odd", "see")]


def test_held_work_says_by_whom(board: Board, state: ReplicaState) -> None:
    localized = LocalizeReport(
        held=3, held_by=ClaudeProcess(42, LocalPath("/app")), held_reason="Claude Code runs in /app"
    )
    state.result = Pass(IngestReport(), localized, TIP)
    (miss,) = board.missing(APP)
    assert (miss.text, miss.cause) == ("3 held: Claude Code runs in /app (pid 42)", "held")
    assert board.state_of(APP, NEAR) == "held"
    localized.held_by = ClaudeProcess(0, None)
    assert held_text(state.result) == "3 held: Claude Code runs in /app"
    assert held_text(Pass(IngestReport(), None, TIP)) == ""


def test_a_halted_folder_needs_a_person(board: Board, state: ReplicaState) -> None:
    state.result = Pass(IngestReport(halted="the context folder /c is empty"), None, TIP)
    (miss,) = board.missing(APP)
    assert (miss.text, miss.cause) == ("the context folder /c is empty", "person")
    (attention,) = board.attention()
    assert attention.kind == "halted"
    assert "project remove app" in attention.fix


def test_a_folder_that_is_gone_misses_nothing(board: Board, state: ReplicaState) -> None:
    state.result = Pass(IngestReport(gone=True), None, TIP)
    assert board.missing(APP) == []


@pytest.mark.parametrize("retry", [True, False])
def test_what_could_not_be_written_is_told(board: Board, state: ReplicaState, retry: bool) -> None:
    localized = LocalizeReport(retry=retry, refusals=[Refusal("a.jsonl", "is a folder", "move it")])
    state.result = Pass(IngestReport(), localized, TIP)
    assert [miss.cause for miss in board.missing(APP)] == ["work" if retry else "person"]
    assert board.state_of(APP, NEAR) == "quarantined"
    assert board.attention() == [Attention("quarantine", APP, "a.jsonl is a folder", "move it")]


def test_conflicts_are_shown_first(board: Board, state: ReplicaState) -> None:
    localized = LocalizeReport(settled=True, refusals=[Refusal("x", "y")])
    state.result = Pass(IngestReport(), localized, TIP, conflicts=("memory/a.md",))
    assert board.state_of(APP, NEAR) == "conflict"
    assert board.attention()[0] == Attention(
        "conflict",
        APP,
        "memory/a.md was edited in two places and holds both sides",
        "convergencectl conflict resolve app:memory/a.md --take ours|theirs|both",
    )


@pytest.mark.parametrize("name", [ALL, APP])
def test_paused_is_never_synced(board: Board, name: str) -> None:
    board.pauses[name] = None
    assert [(miss.text, miss.cause) for miss in board.missing(APP)] == [("paused", "paused")]
    assert board.state_of(APP, NEAR) == "paused"
    assert not board.is_paused("other") or name == ALL
    assert board.summary() == ("paused" if name == ALL else "1 project, 1 not in step")


def test_an_error_is_shown_with_its_hint(board: Board, state: ReplicaState) -> None:
    state.error, state.hint = "the store is damaged", "doctor"
    assert board.attention() == [Attention("error", APP, "the store is damaged", "doctor")]
    state.result, state.hint = None, ""
    assert board.attention() == [Attention("error", APP, "the store is damaged", "see: convergencectl log")]


def test_halted_says_so_before_everything_else(board: Board) -> None:
    board.halted = "the projects folder /p is missing"
    board.degraded["watch"] = Attention("degraded", None, "too few watches", "raise the limit")
    board.refusals = [Refusal("projects/-x", "is a symbolic link", "move it")]
    assert [one.kind for one in board.attention()] == ["halted", "degraded", "quarantine"]
    assert board.summary() == "halted: the projects folder /p is missing"


def test_a_project_has_its_primary_folder_first(board: Board, state: ReplicaState) -> None:
    second = ReplicaState(Replica(APP, "-aaa", LocalPath("/aaa"), False))
    board.replicas["-aaa"] = second
    assert board.of_project(APP) == [state, second]
    assert board.projects() == [APP]
    assert texts(board) == ["local changes are being looked at"]


class Counted(dict[str, ReplicaState]):
    """Replicas that count how often all of them are gone through."""

    times = 0

    def values(self) -> Any:
        self.times += 1
        return super().values()


def test_many_projects_are_gone_through_once_for_the_whole(peer: PeerStatus) -> None:
    replicas = [
        Replica(ProjectId(f"app-{number}"), f"-app-{number}-{primary}", LocalPath("/app"), primary)
        for number in range(30)
        for primary in (False, True)
    ]
    board = Board(replicas=Counted((one.folder, ReplicaState(one)) for one in replicas), peers={"hub": peer})
    assert board.summary() == "30 projects, 30 not in step"
    assert board.attention() == []
    assert isinstance(board.replicas, Counted)
    assert board.replicas.times <= 2
    assert list(board.by_project()) == board.projects()
    for project, states in board.by_project().items():
        assert states == board.of_project(project)
