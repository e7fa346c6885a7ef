"""`sessions` and `session` on two machines with real daemons."""

from __future__ import annotations

import json
import os
import termios
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convergenced.steps import VARIABLE
from tests.clients import start_client
from tests.e2e.cli import OnTerminal
from tests.e2e.machines import Machine, await_true, git, make_hub, record, stop_all
from tests.profiles import DEEP

FIRST = "2af1d7f8-1206-438d-b660-8b22937b7f38"
SECOND = "2af1d7f9-06e5-41f7-864b-f9212d050af9"
APART = "9fae7791-06e5-41f7-864b-f9212d050af9"
DAY = 86_400.0
Pair = tuple[Machine, Machine]


def make_pair(top: Path) -> Pair:
    hub = make_hub(top / "hub.git")
    one = Machine(top / "one", "desktop", (hub,))
    other = Machine(top / "other", "laptop", (hub,), project_name="code/proj")
    for machine in (one, other):
        git("init", "-q", machine.project)
        git("-C", machine.project, "remote", "add", "origin", "git@example.org:team/proj.git")
        machine.extra["TZ"] = "UTC"
    return one, other


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """In step: a session of each, and one that went on at both, each while its daemon was down."""
    one, other = make_pair(tmp_path_factory.mktemp("pair"))
    one.append(FIRST, record(FIRST, one.project, 0, f"look at {one.project}/a.py"))
    one.append(FIRST, record(FIRST, one.project, 1, "done \x1b[2J\x1b]0;owned\x07 it"))
    one.write(f"{FIRST}/tool-results/a.txt", b"a result\n")
    other.append(SECOND, record(SECOND, other.project, 0, "what was on Tuesday"))
    for machine in (one, other):
        machine.append(APART, record(APART, machine.project, 0) + record(APART, machine.project, 1))
        machine.append(APART, record(APART, machine.project, 2, f"{machine.name} goes on"))
        machine.write("memory/notes.md", f"top\nsaid on {machine.name}\nend\n".encode())
        machine.start()
    await_true(lambda: len(sessions(one)) == len(sessions(other)) == 4, "all sessions on both machines")
    settle(one, other)
    yield one, other
    stop_all([one, other])


def settle(*machines: Machine) -> None:
    for _ in range(2):
        for machine in machines:
            machine.wait_synced()


def sessions(machine: Machine) -> dict[str, dict[str, Any]]:
    """What `sessions --json` says, by id."""
    return {one["id"]: one for one in json.loads(machine.do("sessions", "--json"))["sessions"]}


def transcript(machine: Machine, sid: str) -> Path:
    return machine.context / f"{sid}.jsonl"


def at_width(machine: Machine, columns: int, *arguments: str) -> str:
    machine.extra["COLUMNS"] = str(columns)
    try:
        return machine.do(*arguments)
    finally:
        del machine.extra["COLUMNS"]


# -- looking


def test_a_session_is_found_by_title_machine_and_day(pair: Pair) -> None:
    one, other = pair
    for machine in pair:
        found = sessions(machine)
        assert {found[FIRST]["machine"], found[SECOND]["machine"]} == {"desktop", "laptop"}
        assert found[FIRST]["title"] == f"look at {machine.project}/a.py"
        assert found[FIRST]["path"] == str(transcript(machine, FIRST))
        (fork,) = (sid for sid in found if found[sid]["origin"] == APART)
        assert {found[APART]["machine"], found[fork]["machine"]} == {"desktop", "laptop"}
        assert {found[sid]["state"] for sid in found} == {"here"}
    wide = at_width(other, 100, "sessions").splitlines()
    assert " ".join(wide[0].split()) == "SESSION TITLE PROJECT ON LAST SIZE RECORDS WHERE FROM"
    (row,) = (line for line in wide if SECOND[:8] in line)
    size = f"{found[SECOND]['bytes']} B"
    assert row.split() == [*f"{SECOND[:8]} what was on Tuesday proj laptop".split(), *row.split()[7:]]
    assert f"  {size}  " in row
    narrow = at_width(one, 60, "sessions", "proj").splitlines()
    assert max(map(len, narrow)) <= 60
    assert any(SECOND[:8] in line and "laptop" in line for line in narrow)


def test_the_conversation_with_this_machines_paths_and_nothing_for_the_terminal(pair: Pair) -> None:
    _, other = pair
    assert other.do("session", "show", FIRST[:8]) == (
        f"look at {other.project}/a.py\n"
        f"proj · {FIRST}\n"
        "\n"
        "you · Nov 20 10:00\n"
        f"  look at {other.project}/a.py\n"
        "\n"
        "claude · Nov 20 10:00\n"
        "  done �[2J�]0;owned� it\n"
    )
    said = [json.loads(line) for line in other.do("session", "show", FIRST, "--json").splitlines()]
    assert [(one["who"], one["kind"]) for one in said] == [("user", "text"), ("assistant", "text")]
    folded = at_width(other, 60, "session", "show", FIRST).splitlines()
    assert max(map(len, folded)) <= 60


def test_the_history_says_who_added_what(pair: Pair) -> None:
    one, _ = pair
    found = json.loads(one.do("session", "history", SECOND, "--json"))
    assert [(change["machine"], change["records"]) for change in found["changes"]] == [("laptop", 1)]
    text = at_width(one, 60, "session", "history", APART)
    assert "became also" in text
    assert max(map(len, text.splitlines())) <= 60


@pytest.mark.parametrize("action", [("show",), ("history",), ("restore",), ("backups",)])
def test_which_one_is_meant_is_asked_where_it_is_not_sure(pair: Pair, action: tuple[str, ...]) -> None:
    one, _ = pair
    several = one.ctl("session", *action, "2af1d7f")
    assert several.returncode == 2
    assert "can be any of 2 sessions" in several.stderr
    assert f"proj:{SECOND}  what was on Tuesday" in several.stderr
    mistyped = one.ctl("session", *action, "2af1d7e8")
    assert mistyped.returncode == 2
    assert f"proj:{FIRST}" in mistyped.stderr
    assert one.ctl("session", *action, "zzzz").stderr.endswith("see: convergencectl sessions\n")


def test_wrong_requests_are_answered_with_what_is_right(pair: Pair) -> None:
    one, _ = pair
    for arguments in (
        ("sessions", "nope"),
        ("session",),
        ("session", "restore", FIRST, "--at", "0000"),
        ("session", "restore", FIRST, "--backup", "1999"),
        ("session", "restore", FIRST, "--at", "1", "--backup", "1"),
    ):
        done = one.ctl(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert len(done.stderr.splitlines()) == 2, arguments


# -- on a terminal


def test_a_pager_is_used_may_end_early_and_leaves_the_terminal_as_it_was(pair: Pair) -> None:
    one, _ = pair
    for program, wanted in (
        ("head -n 2", FIRST),
        ("no-such-pager", "\x1b[1;33mclaude"),
        ("false", ""),
    ):
        terminal = OnTerminal.start(
            one.home, "session", "show", FIRST, environ={**one.environ, "PAGER": program}
        )
        before = termios.tcgetattr(terminal.master)
        if wanted:
            terminal.read_until(wanted)
        after = termios.tcgetattr(terminal.master)
        code, seen = terminal.end()
        assert code == 0, (program, seen)
        assert before == after
        assert "Traceback" not in seen
        assert "owned\x07" not in seen


def test_without_colours_there_is_no_escape_at_all(pair: Pair) -> None:
    one, _ = pair
    for arguments in (("sessions",), ("session", "show", FIRST), ("session", "history", FIRST)):
        environ = {**one.environ, "PAGER": "cat", "NO_COLOR": "1"}
        code, seen = OnTerminal.start(one.home, *arguments, environ=environ, columns=60).end()
        assert code == 0
        assert "\x1b" not in seen
        assert all(len(line) <= 60 for line in seen.replace("\r", "").splitlines())


# -- bringing back


def test_what_the_cleanup_took_comes_back_and_survives_the_next_one(pair: Pair) -> None:
    one, _ = pair
    text = transcript(one, FIRST).read_bytes()
    tip = one.tip()
    transcript(one, FIRST).unlink()
    (one.context / FIRST / "tool-results" / "a.txt").unlink()
    await_true(lambda: sessions(one)[FIRST]["state"] == "removed", "the removal to be seen")
    assert f"  → convergencectl session restore {FIRST[:8]}\n" in one.do("sessions")
    done = one.do("session", "restore", FIRST[:8])
    assert done.startswith(f"{FIRST} is back: ~/.claude/projects/")
    assert f"  → cd ~/src/proj && claude --resume {FIRST}\n" in done
    assert transcript(one, FIRST).read_bytes() == text
    assert (one.context / FIRST / "tool-results" / "a.txt").read_bytes() == b"a result\n"
    for path in (transcript(one, FIRST), one.context / FIRST / "tool-results" / "a.txt"):
        assert time.time() - path.stat().st_mtime < 29 * DAY
    again = one.do("session", "restore", FIRST)
    assert again.startswith(f"{FIRST} is here already: ")
    one.wait_synced()
    assert one.tip() == tip
    assert sessions(one)[FIRST]["state"] == "here"


def test_while_claude_code_runs_it_waits_and_comes_by_itself(pair: Pair) -> None:
    _, other = pair
    transcript(other, FIRST).unlink()
    client = start_client(other.top, str(other.project))
    try:
        done = other.do("session", "restore", FIRST)
        assert done.startswith(f"{FIRST} is wanted back; it is written here when Claude Code has ended (")
        assert f"(pid {client.pid})" in done
        assert not transcript(other, FIRST).exists()
    finally:
        client.kill()
    await_true(transcript(other, FIRST).exists, "the session, now that Claude Code has ended")


def test_an_older_state_and_a_backup_come_as_sessions_of_their_own_everywhere(pair: Pair) -> None:
    one, other = pair
    (first,) = json.loads(one.do("session", "history", SECOND, "--json"))["changes"]
    other.append(SECOND, record(SECOND, other.project, 1, "and then"))
    settle(other, one)
    restored = json.loads(one.do("session", "restore", SECOND, "--at", first["commit"][:8], "--json"))
    older = restored["session"]
    assert restored["origin"] == SECOND
    assert transcript(one, older).read_bytes() == record(
        SECOND, other.project, 0, "what was on Tuesday"
    ).replace(SECOND.encode(), older.encode()).replace(str(other.project).encode(), str(one.project).encode())
    again = one.do("session", "restore", SECOND, "--at", first["commit"])
    assert again.splitlines()[0] == f"that state of {SECOND} is session {older}"
    assert "is here already" in again

    kept = [
        (machine, json.loads(machine.do("session", "backups", APART, "--json"))["backups"])
        for machine in pair
    ]
    machine, (backup,) = next((machine, found) for machine, found in kept if found)
    assert (backup["session"], backup["name"]) == (APART, f"{APART}.jsonl")
    listed = at_width(machine, 60, "session", "backups")
    assert f"--backup {backup['stamp']}\n" in listed
    assert "memory/notes.md" in listed
    done = machine.do("session", "restore", APART, "--backup", backup["stamp"][:22])
    lost = done.splitlines()[0].split()[-1]
    data = Path(backup["path"]).read_bytes()
    assert transcript(machine, lost).read_bytes() == data.replace(APART.encode(), lost.encode())
    settle(one, other)
    for each in pair:
        assert {sessions(each)[sid]["state"] for sid in (older, lost)} == {"here"}


# -- bad moments


STEPS = ["replace.written", "replace.published"]
if DEEP:
    STEPS += ["localize.planned", "localize.written", "localize.noted"]


@pytest.mark.parametrize("step", STEPS)
def test_killed_in_the_middle_the_file_is_missing_or_whole_and_comes_by_itself(
    tmp_path: Path, step: str
) -> None:
    one = Machine(tmp_path / "one", "desktop")
    sids = [str(uuid.UUID(int=number)) for number in (1, 2)]
    for sid in sids:
        one.append(sid, record(sid, one.project, 0) * 200)
    text = transcript(one, sids[0]).read_bytes()
    try:
        one.start()
        one.wait_synced()
        one.stop()
        transcript(one, sids[0]).unlink()
        one.extra[VARIABLE] = step
        one.start()
        assert one.process is not None
        done = one.ctl("session", "restore", sids[0])
        assert done.returncode == 3
        one.process.wait()
        one.process = None
        assert not transcript(one, sids[0]).exists() or transcript(one, sids[0]).read_bytes() == text
        del one.extra[VARIABLE]
        one.start()
        await_true(transcript(one, sids[0]).exists, "the session that is wanted back")
        one.wait_synced()
        assert transcript(one, sids[0]).read_bytes() == text
        assert one.files().keys() == {f"{sid}.jsonl" for sid in sids}
        assert one.do("session", "restore", sids[0]).startswith(f"{sids[0]} is here already")
    finally:
        stop_all([one])


def test_without_a_daemon_the_store_is_read_and_nothing_brought_back(pair: Pair) -> None:
    one, _ = pair
    settle(*pair)
    said = one.do("session", "show", APART)
    one.stop()
    try:
        for arguments in (("sessions",), ("session", "history", FIRST), ("session", "backups")):
            done = one.ctl(*arguments)
            assert done.returncode == 0
            assert "this is what the store holds" in done.stderr
            assert done.stdout
        assert sessions(one)[FIRST]["state"] == "here"
        assert one.do("session", "show", APART) == said
        assert one.ctl("sessions", "nope").returncode == 2
        done = one.ctl("session", "restore", FIRST)
        assert done.returncode == 3
        assert "convergencectl up" in done.stderr
    finally:
        one.start()


def test_before_anything_is_stored_there_is_a_word_for_it(tmp_path: Path) -> None:
    one = Machine(tmp_path / "one", "desktop")
    done = one.ctl("sessions")
    assert (done.returncode, done.stdout) == (
        0,
        "no session is in the store yet; see: convergencectl status\n",
    )
    assert one.ctl("session", "show", "x").returncode == 2
    assert not os.path.exists(one.store)
