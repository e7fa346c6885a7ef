from __future__ import annotations

import re
from typing import cast

import pytest

from convergenced.control.answers import Attention, Status
from ctl.render import Terminal, parse_time, width
from ctl.verdict import exit_code, lines, verdict
from tests.fakes.daemon import synced

pytestmark = pytest.mark.usefixtures("utc")

NOW = parse_time("2031-05-04T12:05:00Z") or 0.0


def plain(columns: int) -> Terminal:
    return Terminal(columns, colour=False, interactive=False)


def change(shape: object, **changes: object) -> None:
    """Sets keys of one of the answer's objects."""
    cast("dict[str, object]", shape).update(changes)


def project(status: Status, **changes: object) -> None:
    """Changes the first project."""
    change(status["projects"][0], **changes)


def busy() -> Status:
    """A status with one of everything."""
    status = synced()
    project(status, state="held", held={"sessions": 2, "pid": 4242, "reason": "Claude Code runs"})
    other = synced()["projects"][0]
    change(
        other,
        id="日本語のとても長い名前のプロジェクト",
        root="/home/ann/clients/a-rather-long-folder-name/with/日本語/inside",
        state="conflict",
        sessions=1234,
        bytes=987_654_321,
        last_ingest=None,
    )
    status["projects"].append(other)
    failing = synced()["peers"][0]
    change(
        failing,
        name="nas",
        url="ssh://ann@nas.local/~/context.git",
        state="failing",
        last_push=None,
        error="Permission denied (publickey).",
        failing_since="2031-05-04T11:02:00Z",
    )
    status["peers"].append(failing)
    status["available"] = [{"id": "thesis", "machines": ["laptop"]}]
    status["attention"] = [
        {
            "kind": "conflict",
            "project": "proj",
            "text": "memory/notes.md was changed on desktop and on laptop in the same place",
            "fix": "convergencectl conflict resolve memory/notes.md --take both",
        }
    ]
    return status


def test_all_synced() -> None:
    assert verdict(synced(), NOW) == "all synced"
    assert exit_code(synced()) == 0


def test_what_is_only_to_be_known_needs_nobody_and_is_shown() -> None:
    status = synced()
    status["notices"] = [
        {"kind": "fork", "project": "proj", "text": "session a \x1b[2J", "at": "2031-05-04T12:02:00Z"}
    ]
    assert verdict(status, NOW) == "all synced"
    assert exit_code(status) == 0
    assert lines(status, plain(100), NOW)[-2:] == [
        "",
        "· proj: session a \N{REPLACEMENT CHARACTER}[2J (3 min ago)",
    ]


def test_what_another_machine_has_open_needs_nobody_and_is_shown() -> None:
    status = synced()
    status["live"] = [
        {
            "project": "proj",
            "session": "0b5c0f6e-5b0a-4c55-8f1e-111111111111",
            "machine": "laptop\x1b[2J",
            "machine_id": "laptop-1",
            "since": since,
        }
        for since in ("2031-05-04T11:02:00Z", None)
    ]
    assert verdict(status, NOW) == "all synced"
    assert exit_code(status) == 0
    told = "session 0b5c0f6e of proj is live on laptop\N{REPLACEMENT CHARACTER}[2J"
    assert lines(status, plain(100), NOW)[-3:] == ["", f"· {told} (since 11:02)", f"· {told}"]
    assert all(width(line) <= 60 for line in lines(status, plain(60), NOW)[-4:])


def test_without_a_peer_it_is_not_called_synced() -> None:
    status = synced()
    status["peers"] = []
    assert verdict(status, NOW).startswith("all committed here; no peer yet")
    assert exit_code(status) == 0


def test_before_the_first_exchange_it_is_not_called_synced() -> None:
    status = synced()
    status["peers"][0]["state"] = "untried"
    assert "first exchange is still to come" in verdict(status, NOW)


def test_without_projects_there_is_nothing_to_sync() -> None:
    status = synced()
    status["projects"] = []
    assert verdict(status, NOW).startswith("nothing to sync yet")


def test_held_work_names_the_process_that_holds_it() -> None:
    status = synced()
    project(status, state="held", held={"sessions": 2, "pid": 4242, "reason": "?"})
    assert verdict(status, NOW) == "2 sessions held: Claude Code runs in ~/src/proj (pid 4242)"
    assert exit_code(status) == 0


def test_held_work_without_a_known_process_says_why() -> None:
    status = synced()
    project(
        status,
        state="held",
        held={"sessions": 1, "pid": None, "reason": "a Claude Code cannot be told apart"},
    )
    assert verdict(status, NOW) == "1 session held: a Claude Code cannot be told apart"


def test_a_failing_peer_is_named_with_its_beginning_and_its_reason() -> None:
    status = synced()
    change(
        status["peers"][0], state="failing", error="no route to host", failing_since="2031-05-04T11:02:00Z"
    )
    assert verdict(status, NOW) == "exchange with hub fails since 11:02: no route to host"


@pytest.mark.parametrize(
    ("until", "said"), [("2031-05-04T16:00:00Z", "paused until 16:00"), (None, "paused until `")]
)
def test_a_pause_says_until_when(until: str | None, said: str) -> None:
    status = synced()
    change(status["daemon"], state="paused", paused_until=until)
    assert verdict(status, NOW).startswith(said)
    assert exit_code(status) == 0


def test_a_paused_project_is_counted() -> None:
    status = synced()
    project(status, state="paused", paused_until="2031-05-04T16:00:00Z")
    assert verdict(status, NOW) == "1 project paused"
    assert "paused until 16:00" in "\n".join(lines(status, plain(100), NOW))


@pytest.mark.parametrize(
    ("state", "said"), [("pending", "to commit"), ("ahead", "to send"), ("behind", "to take in")]
)
def test_what_is_under_way_is_said(state: str, said: str) -> None:
    status = synced()
    project(status, state=state, ahead=3, behind=3)
    assert verdict(status, NOW) == f"syncing: 1 project {said}"
    assert exit_code(status) == 0


def test_a_long_import_says_how_far_it_is() -> None:
    status = synced()
    project(status, state="pending", progress={"done": 310_000_000, "of": 1_024_000_000})
    assert verdict(status, NOW) == "importing proj: 310 of 1,024 MB"
    assert "importing 30 %" in "\n".join(lines(status, plain(100), NOW))


@pytest.mark.parametrize("state", ["degraded", "halted"])
def test_a_daemon_that_is_not_whole_comes_first_and_exits_6(state: str) -> None:
    status = busy()
    change(status["daemon"], state=state, reasons=["the watch limit is reached"])
    assert verdict(status, NOW).startswith(f"{state}: the watch limit is reached")
    assert exit_code(status) == 6


def test_what_needs_a_person_exits_5() -> None:
    assert exit_code(busy()) == 5
    for state in ("conflict", "quarantined"):
        status = synced()
        project(status, state=state)
        assert exit_code(status) == 5
        assert verdict(status, NOW) == "1 thing needs you"


def test_a_peer_that_cannot_be_reached_is_told_but_needs_nobody() -> None:
    status = synced()
    away = "hub: cannot be reached"
    status["attention"] = [{"kind": "unreachable", "project": None, "text": away, "fix": "nothing"}]
    assert exit_code(status) == 0
    assert "needs you" not in verdict(status, NOW)
    assert away in "\n".join(lines(status, plain(100), NOW))


def test_without_a_daemon_the_store_alone_is_no_failure() -> None:
    status = synced()
    status["daemon"] = {"pid": None, "version": None, "uptime_s": 0, "state": "halted", "reasons": []}
    assert exit_code(status) == 0
    project(status, state="pending")
    assert verdict(status, NOW) == "no daemon runs, nothing is synced"


AT_100 = """\
1 thing needs you; 2 sessions held: Claude Code runs in ~/src/proj (pid 4242); exchange with nas
fails since 11:02: Permission denied (publickey).

PROJECT                               STATE     SESSIONS    SIZE  CHANGED           ROOT
proj                                  held            12  3.4 MB  11:57, 8 min ago  ~/src/proj
日本語のとても長い名前のプロジェクト  conflict      1234  988 MB  never             ~/cli…語/inside

PEER  STATE    FETCHED           PUSHED            URL
hub   ok       12:00, 5 min ago  11:58, 7 min ago  git@example.com:ann/context.git
nas   failing  12:00, 5 min ago  never             ssh://ann@nas.local/~/context.git

1 project of your other machines can be joined (convergencectl join PATH --id ID): thesis

! proj: memory/notes.md was changed on desktop and on laptop in the same place
  → convergencectl conflict resolve memory/notes.md --take both
"""

AT_60 = """\
1 thing needs you; 2 sessions held: Claude Code runs in
~/src/proj (pid 4242); exchange with nas fails since 11:02:
Permission denied (publickey).

PROJECT                STATE     SESSIONS    SIZE  CHANGED
proj                   held            12  3.4 MB  8 min ago
日本語のとても長い名…  conflict      1234  988 MB  never

PEER  STATE    FETCHED    PUSHED     URL
hub   ok       5 min ago  7 min ago  git@exa…ann/context.git
nas   failing  5 min ago  never      ssh://a…l/~/context.git

1 project of your other machines can be joined
(convergencectl join PATH --id ID): thesis

! proj: memory/notes.md was changed on desktop and on laptop
  in the same place
  → convergencectl conflict resolve memory/notes.md --take both
"""


@pytest.mark.parametrize(("columns", "expected"), [(100, AT_100), (60, AT_60)])
def test_everything_at_once(columns: int, expected: str) -> None:
    assert "\n".join(lines(busy(), plain(columns), NOW)) + "\n" == expected


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_no_line_but_a_command_is_wider_than_the_terminal(columns: int) -> None:
    shown = lines(busy(), plain(columns), NOW)
    commands = [line for line in shown if line.startswith("  → ")]
    assert all(width(line) <= columns for line in shown if line not in commands)
    assert commands == ["  → convergencectl conflict resolve memory/notes.md --take both"]


def test_colour_changes_nothing_but_colour() -> None:
    coloured = lines(busy(), Terminal(100, colour=True, interactive=True), NOW)
    assert any("\x1b[" in line for line in coloured)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == lines(busy(), plain(100), NOW)


def test_what_waits_for_a_peer_that_is_away_is_committed_all_the_same() -> None:
    status = synced()
    project(status, state="pending", waits_for="peer")
    change(status["peers"][0], state="failing", away=True, error="cannot be reached")
    assert verdict(status, NOW) == "all committed here; hub not reached for 5 min"
    change(status["peers"][0], last_fetch=None)
    assert verdict(status, NOW) == "all committed here; hub was not reached yet: cannot be reached"
    assert exit_code(status) == 0


def test_one_peer_that_sleeps_takes_nothing_from_the_others() -> None:
    status = synced()
    laptop = synced()["peers"][0]
    change(laptop, name="laptop", state="failing", away=True, error="x", last_fetch="2031-05-04T12:02:00Z")
    status["peers"].append(laptop)
    assert verdict(status, NOW) == "all synced; laptop 3 min behind"
    project(status, state="ahead", ahead=2, waits_for="peer")
    assert verdict(status, NOW) == "all synced; laptop 3 min behind"
    project(status, state="ahead", ahead=2, waits_for="exchange")
    assert verdict(status, NOW) == "syncing: 1 project to send; laptop 3 min behind"


@pytest.mark.parametrize(
    ("waits_for", "said"),
    [
        ("look", "syncing: 1 project to commit"),
        ("exchange", "syncing: 1 project to exchange"),
        ("person", "not everything is synced yet"),
        (None, "syncing: 1 project to commit"),
    ],
)
def test_pending_says_what_for(waits_for: str | None, said: str) -> None:
    status = synced()
    project(status, state="pending", waits_for=waits_for)
    assert verdict(status, NOW) == said


def test_before_anything_was_looked_at_nothing_is_said_of_it() -> None:
    status = synced()
    status["projects"] = []
    change(status["daemon"], ready=False)
    assert verdict(status, NOW) == "starting: your projects are being looked at"


def test_a_first_exchange_under_way_is_told_from_one_to_come() -> None:
    status = synced()
    change(status["peers"][0], state="untried", busy=True)
    assert verdict(status, NOW) == "all committed here; first exchange is under way"
    status["projects"] = []
    assert verdict(status, NOW) == "no project takes part here yet; first exchange is under way"


def test_what_the_verdict_says_is_not_counted_once_more() -> None:
    text = "3 folders are not watched"
    watch = {"kind": "degraded", "project": None, "text": text, "fix": "raise it: sudo sysctl x=1"}
    status = synced()
    status["attention"] = cast("list[Attention]", [watch])
    change(status["daemon"], state="degraded", reasons=[text])
    assert verdict(status, NOW) == f"degraded: {text}"
    change(status["daemon"], state="paused")
    assert verdict(status, NOW) == "paused until `convergencectl resume`; 1 thing needs you"
    status = synced()
    change(status["peers"][0], state="failing", error="denied")
    refused = {"kind": "peer", "project": None, "text": "hub: denied", "fix": "check the key"}
    status["attention"] = cast("list[Attention]", [refused])
    assert verdict(status, NOW) == "exchange with hub fails: denied"
    assert exit_code(status) == 5


def test_a_push_that_others_outpaced_needs_nobody() -> None:
    status = synced()
    project(status, state="ahead", ahead=1, waits_for="exchange")
    outpaced = {"kind": "outpaced", "project": "proj", "text": "hub did not take it", "fix": "by itself"}
    status["attention"] = cast("list[Attention]", [outpaced])
    assert exit_code(status) == 0
    assert verdict(status, NOW) == "syncing: 1 project to send"


def test_a_hostile_name_cannot_move_the_cursor() -> None:
    status = busy()
    project(status, id="\x1b[2Jevil", root="/home/\x1b]0;x\x07")
    status["peers"][1]["error"] = "\x1b[31mred\nnext"
    status["attention"][0]["text"] = "\x9b31m"
    text = "".join(lines(status, plain(100), NOW))
    assert not {"\x1b", "\x07", "\x9b", "\n"} & set(text)
