"""The whole of `status` in every state, at 100 and at 60 columns, as it stands in `status_states.txt`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctl.render import Terminal, parse_time, width
from ctl.verdict import exit_code, lines
from tests.unit.ctl.states import HOME, STATES

NOW = parse_time("2031-05-04T12:05:00Z") or 0.0
GOLDEN = Path(__file__).with_name("status_states.txt")


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("HOME", HOME)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def shown(name: str, columns: int) -> str:
    status = STATES[name]()
    out = lines(status, Terminal(columns, colour=False, interactive=False), NOW)
    commands = [line for line in out if line.startswith("  → ")]
    assert all(width(line) <= columns for line in out if line not in commands)
    return "\n".join([f"=== {name}, {columns} columns, exit code {exit_code(status)}", *out]) + "\n"


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("columns", [100, 60])
@pytest.mark.parametrize("name", STATES)
def test_status_reads_as_it_is_written_down(name: str, columns: int) -> None:
    wanted = shown(name, columns)
    golden = GOLDEN.read_text(encoding="utf-8")
    found = golden[golden.index(wanted.partition("\n")[0]) :]
    following = found.find("\n=== ")
    assert wanted == (found if following < 0 else found[: following + 1])


def test_nothing_else_is_written_down() -> None:
    golden = GOLDEN.read_text(encoding="utf-8")
    assert golden.count("=== ") == 2 * len(STATES)
