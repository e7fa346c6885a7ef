"""`knowledge` on a real terminal, in a process of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from convergenced.machine.locations import Locations
from tests.e2e.cli import OnTerminal, environment, run
from tests.fakes.daemon import FakeDaemon
from tests.unit.ctl import knowledge as answers

SETTING = answers.setting()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def daemon(home: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(Locations.from_environment(environment(home), str(home))) as one:
        one.answers["knowledge_diff"] = answers.json({"changes": [SETTING], "declined": []})
        one.answers["knowledge_apply"] = answers.json(answers.applied(left=[SETTING]))
        yield one


def times_applied(daemon: FakeDaemon) -> int:
    return [method for method, _ in daemon.asked].count("knowledge_apply")


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_setting_is_shown_and_asked_for(
    home: Path, daemon: FakeDaemon, environ: dict[str, str], coloured: bool
) -> None:
    terminal = OnTerminal.start(home, "knowledge", "apply", environ={"PAGER": "", **environ}, columns=60)
    shown = terminal.read_until("[q]uit: ")
    assert '+  {"command": "make check"}' in shown
    assert ('\x1b[32m+  {"command": "make check"}\x1b[0m' in shown) == coloured
    assert ("\x1b[1m" in shown) == coloured
    daemon.answers["knowledge_apply"] = answers.json(answers.applied(applied=[str(home / "settings.json")]))
    terminal.type("y\n")
    code, shown = terminal.end()
    assert code == 0
    assert shown.endswith("applied ~/settings.json\r\n")
    assert daemon.params("knowledge_apply")["accept"] == [SETTING["id"]]


def test_an_interrupt_at_the_question_applies_nothing(home: Path, daemon: FakeDaemon) -> None:
    terminal = OnTerminal.start(home, "knowledge", "apply", environ={"PAGER": ""})
    terminal.read_until("[q]uit: ")
    code, shown = terminal.end(signal.SIGINT)
    assert code == 130
    assert "nothing of this was changed" in shown
    assert "Traceback" not in shown
    assert times_applied(daemon) == 1


@pytest.mark.usefixtures("daemon")
def test_differences_are_paged_on_a_terminal_alone(home: Path) -> None:
    environ = {"PAGER": "sed s/^/paged:/"}
    terminal = OnTerminal.start(home, "knowledge", "diff", environ=environ)
    code, shown = terminal.end()
    assert code == 5
    assert 'paged:+  {"command": "make check"}' in shown
    assert "\x1b" not in shown
    done = run(home, "knowledge", "diff", environ=environ)
    assert done.code == 5
    assert "paged:" not in done.out


def test_yes_asks_nothing_on_a_terminal_either(home: Path, daemon: FakeDaemon) -> None:
    code, shown = OnTerminal.start(home, "knowledge", "apply", "--yes").end()
    assert code == 5
    assert f"--accept {SETTING['id']}" in shown
    assert times_applied(daemon) == 1
