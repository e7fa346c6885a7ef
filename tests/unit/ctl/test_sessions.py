"""What `sessions` and `session` show."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from convergenced.canon.conversation import Entry
from convergenced.control.answers import Backup, Restored, Session, SessionChange
from ctl import pager
from ctl.commands.session import backup_lines, history_lines, restored_lines
from ctl.commands.sessions import lines
from ctl.conversation import lines as conversation
from ctl.render import Terminal, fold, parse_time, width

pytestmark = pytest.mark.usefixtures("utc")

NOW = parse_time("2031-05-07T12:05:00Z") or 0.0
ONE = "2af1d7f8-1206-438d-b660-8b22937b7f38"
TWO = "9fae7791-06e5-41f7-864b-f9212d050af9"


def plain(columns: int) -> Terminal:
    return Terminal(columns, colour=False, interactive=False)


def session(number: str, title: str, at: str | None, **more: object) -> Session:
    found: Session = {
        "id": number,
        "project": "proj",
        "title": title,
        "machine": "laptop",
        "at": at,
        "began": at,
        "bytes": 1_400_000,
        "records": 3_100,
        "exact": False,
        "origin": None,
        "state": "here",
        "path": None,
        "open_on": [],
    }
    return found | more  # type: ignore[return-value]


FOUND = [
    session(ONE, "Fix the login redirect after the session expired", "2031-05-07T11:02:00Z"),
    session(TWO, "日本語 and \x1b[31mred", "2031-05-06T14:02:00Z", state="removed", machine=None),
    session("0" * 8 + ONE[8:], "", None, bytes=812, records=2, exact=True, state="store", project="a\x07b"),
]


def test_the_listing_at_100_columns() -> None:
    assert (
        "\n".join(lines(FOUND, 3, plain(100), NOW))
        == """\
SESSION   TITLE                                 PROJECT  ON      LAST         SIZE  RECORDS  WHERE
2af1d7f8  Fix the login redirect after the se…  proj     laptop  11:02      1.4 MB   ~3,100  here
9fae7791  日本語 and �[31mred                   proj     ?       Tue 14:02  1.4 MB   ~3,100  removed
00000000  (nothing was asked)                   a�b      laptop  ?           812 B        2  store
what was removed here can be brought back:
  → convergencectl session restore 9fae7791"""
    )


def test_the_listing_at_60_columns() -> None:
    assert (
        "\n".join(lines(FOUND[:2], 9_000, plain(60), NOW))
        == """\
SESSION   TITLE                   ON      LAST       WHERE
2af1d7f8  Fix the login redirec…  laptop  11:02      here
9fae7791  日本語 and �[31mred     ?       Tue 14:02  removed
the newest 2 of 9,000; --all shows all
what was removed here can be brought back:
  → convergencectl session restore 9fae7791"""
    )


def test_ids_are_shown_as_far_as_they_differ_and_forks_with_what_they_came_from() -> None:
    near = session(ONE[:9] + "f" + ONE[10:], "other", None, origin=ONE)
    out = lines([FOUND[0], near], 2, plain(120), NOW)
    assert out[0].split()[-1] == "FROM"
    assert out[1].startswith("2af1d7f8-1 ")
    assert out[2].startswith("2af1d7f8-f ")
    assert out[2].endswith(" 2af1d7f8-1")


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        ("2031-05-07T00:01:00Z", "00:01"),
        ("2031-05-01T23:59:00Z", "Thu 23:59"),
        ("2031-04-30T23:59:00Z", "Apr 30"),
        ("2031-05-08T10:00:00Z", "May 8"),
        ("2030-12-31T10:00:00Z", "2030-12-31"),
    ],
)
def test_days_are_named_as_one_remembers_them(at: str, shown: str) -> None:
    assert lines([session(ONE, "x", at)], 1, plain(100), NOW)[1].split("laptop  ")[1].startswith(f"{shown} ")


def test_a_session_that_is_open_elsewhere_says_so() -> None:
    out = lines([session(ONE, "x", None, open_on=["desktop"])], 1, plain(100), NOW)
    assert out[1].endswith("  here, open on desktop")


def test_no_session_says_where_to_look() -> None:
    assert lines([], 0, plain(80), NOW) == ["no session is in the store yet; see: convergencectl status"]


# -- one session


def change(commit: str, machine: str | None, records: int | None, size: int, **more: object) -> SessionChange:
    found: SessionChange = {
        "commit": commit * 40,
        "at": "2031-05-07T12:02:00Z",
        "machine": machine,
        "records": records,
        "bytes": size,
        "origin": None,
        "became": [],
    }
    return found | more  # type: ignore[return-value]


def test_a_history_tells_who_added_what_the_newest_last() -> None:
    out = history_lines(
        {
            "schema": 1,
            "project": "proj",
            "session": ONE,
            "title": "Fix it",
            "changes": [
                change("a", "desktop", None, 200_000_000, origin=TWO),
                change("b", "laptop", 1, 300),
                change("c", None, 3, 900, became=[TWO]),
                change("d", "laptop", -1, -20),
            ],
            "whole": False,
        },
        plain(100),
        NOW,
    )
    assert (
        "\n".join(out)
        == f"""\
Fix it
proj · {ONE}

… what came before is not looked at
COMMIT      WHEN              ON        WHAT
aaaaaaaaaa  12:02, 3 min ago  desktop   +200 MB, made from 9fae7791
bbbbbbbbbb  12:02, 3 min ago  laptop    +1 record
cccccccccc  12:02, 3 min ago  (merged)  +3 records, became also 9fae7791
dddddddddd  12:02, 3 min ago  laptop    rewritten"""
    )


def backup(name: str, session_id: str | None, *, late: bool = False) -> Backup:
    return {
        "stamp": "20310507T120000.000000Z",
        "at": "2031-05-07T12:00:00Z",
        "project": "proj",
        "session": session_id,
        "name": name,
        "path": f"/home/ann/state/back ups/{name}",
        "bytes": 812,
        "late": late,
    }


def test_backups_come_with_what_brings_them_back() -> None:
    found = [backup(f"{ONE}.jsonl", ONE, late=True), backup("memory/a.md", None)]
    out = "\n".join(backup_lines({"schema": 1, "total": 3, "backups": found}, plain(100), NOW))
    assert "20310507T120000.000000Z  5 min ago  proj     " in out
    assert "(written to since)" in out
    assert "the newest 2 of 3" in out
    assert f"  → convergencectl session restore {ONE} --backup 20310507T120000.000000Z" in out
    assert out.endswith("  → '/home/ann/state/back ups/memory/a.md'")
    none = backup_lines({"schema": 1, "total": 0, "backups": []}, plain(100), NOW)
    assert none == ["no backup is kept here"]


def restored(**more: object) -> Restored:
    found: Restored = {
        "project": "proj",
        "session": ONE,
        "origin": None,
        "root": "/home/ann/src/proj",
        "path": f"/home/ann/.claude/projects/x/{ONE}.jsonl",
        "there": False,
        "waits": None,
    }
    return found | more  # type: ignore[return-value]


def test_what_is_back_says_how_to_go_on_with_it() -> None:
    assert restored_lines(restored()) == [
        f"{ONE} is back: ~/.claude/projects/x/{ONE}.jsonl",
        f"  → cd ~/src/proj && claude --resume {ONE}",
    ]
    assert restored_lines(restored(there=True))[0].startswith(f"{ONE} is here already: ")
    assert restored_lines(restored(origin=TWO))[0] == f"that state of {TWO} is session {ONE}"
    assert restored_lines(restored(root="/home/ann/my code"))[1].startswith("  → cd '/home/ann/my code' && ")
    assert restored_lines(restored(waits="later")) == [f"{ONE} is wanted back; later"]


# -- the conversation

AT = parse_time("2031-05-06T14:02:00Z")
SAID = [
    Entry("user", "text", "Fix the login:\n\n\tindented  and spaced, with a line that goes on and on", AT),
    Entry("assistant", "thinking", "let me see", AT),
    Entry("assistant", "call", "Bash: grep -rn\nlogin src", AT),
    Entry("user", "result", "one\ntwo\nthree\nfour\nfive", AT),
    Entry("user", "result", "no such file", AT, is_error=True),
    Entry("user", "note", "a remark", AT),
    Entry("assistant", "text", "\x1b]0;owned\x07\x1b[2Jdone \u202eback", AT),
    Entry("system", "note", "the conversation was compacted here", AT),
    Entry("user", "summary", "so far", None),
]


def told(columns: int | None, *, full: bool = False) -> str:
    out = conversation(SAID, plain(columns or 100), NOW, width=columns, full=full)
    return "\n".join(out)


def test_a_conversation_is_folded_to_the_terminal_and_obeys_nothing() -> None:
    assert (
        told(40)
        == """\
you · May 6 14:02
  Fix the login:

      indented  and spaced, with a line
  that goes on and on

claude · May 6 14:02
  (thinking, 10 characters)
  ● Bash: grep -rn login src
    ⎿ one
      two
      three
      … 2 more lines
    ⎿ no such file
  �]0;owned��[2Jdone �back

system · May 6 14:02
  the conversation was compacted here

you
  (summary of what was said before, 6 characters)"""
    )


def test_in_a_pipe_lines_are_as_long_as_they_are_and_in_full_nothing_is_left_out() -> None:
    out = told(None, full=True)
    for text in ("with a line that goes on and on", "let me see", "      five", "a remark", "  so far"):
        assert text in out
    assert "\x1b" not in out


def test_folding_keeps_every_character_but_the_space_it_breaks_at() -> None:
    assert fold("    indented code", 9) == ["    inden", "ted code"]
    assert fold("one two  three", 8) == ["one two", "three"]
    assert all(width(one) <= 5 for one in fold("日本語日本語", 5))
    assert fold("", 5) == [""]


# -- the pager


def test_the_pager_is_the_users_or_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("less", "own"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pager.find_pager({}) == ["less"]
    assert pager.find_pager({"PAGER": "own -x 'a b'"}) == ["own", "-x", "a b"]
    for none in ("", "cat", "missing", "own 'unclosed"):
        assert pager.find_pager({"PAGER": none}) == []


@pytest.mark.parametrize(
    ("environ", "colour"),
    [
        ({"PAGER": "less"}, True),
        ({"PAGER": "less", "LESS": "-R"}, True),
        ({"PAGER": "less", "LESS": "-F"}, False),
        ({"PAGER": "own"}, False),
        ({"PAGER": "cat"}, True),
    ],
)
def test_colours_are_left_out_where_the_pager_would_spell_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environ: dict[str, str], colour: bool
) -> None:
    for name in ("less", "own"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pager.readable(Terminal(80, colour=True, interactive=True), environ).colour is colour


def test_a_pager_that_ends_early_is_no_error_and_interrupts_are_as_before(
    capfd: pytest.CaptureFixture[str],
) -> None:
    terminal = Terminal(80, colour=True, interactive=True)
    endless = (str(number) for number in range(10_000_000))
    pager.page(endless, terminal, {**os.environ, "PAGER": "head -n 2"})
    assert capfd.readouterr().out == "0\n1\n"
    assert int(next(endless)) < 1_000_000, "the rest was not even made"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_goes_wrong_meanwhile_is_told_when_the_pager_has_ended(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def broken() -> Iterator[str]:
        yield "first"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pager.page(broken(), Terminal(80, colour=True, interactive=True), {**os.environ, "PAGER": "sort"})
    assert capfd.readouterr().out == "first\n"


def test_without_a_terminal_nothing_is_paged(capsys: pytest.CaptureFixture[str]) -> None:
    pager.page(["a", "b"], plain(80), {"PAGER": "false"})
    assert capsys.readouterr().out == "a\nb\n"
