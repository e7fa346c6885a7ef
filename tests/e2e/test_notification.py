"""What needs a person is shown on the desktop by a real daemon: once, also across its restarts."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cli import fake_program
from tests.e2e.machines import Machine, await_true, record, stop_all


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine whose desktop writes down what it shows, and can hang."""
    one = Machine(tmp_path / "one", "desktop")
    sid = str(uuid.uuid4())
    one.append(sid, record(sid, one.project, 0))
    fake_program(
        tmp_path / "bin",
        "notify-send",
        f'printf "%s\\n--\\n" "$*" >>{tmp_path}/shown; [ ! -e {tmp_path}/hangs ] || exec sleep 3600',
    )
    one.extra["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    yield one
    stop_all([one])


def note_with_both_sides(machine: Machine, name: str) -> None:
    machine.write(
        f"memory/{name}",
        b"<<<<<<< convergence\nours\n=======\ntheirs\n>>>>>>> convergence\n",
    )


def test_off_by_default_and_once_per_matter_when_on(machine: Machine, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    machine.start()
    note_with_both_sides(machine, "first.md")
    await_true(lambda: machine.status()["attention"], "the conflict to need a person")
    assert not shown.exists()
    machine.do("config", "set", "notify.desktop", "true")
    await_true(shown.exists, "the desktop to show it")
    assert "--app-name=convergence -- convergence: 1 thing needs you" in shown.read_text()
    assert "proj: memory/first.md was edited in two places" in shown.read_text()

    machine.stop()
    (tmp_path / "hangs").touch()
    machine.start()
    note_with_both_sides(machine, "second.md")
    await_true(lambda: "second.md" in shown.read_text(), "the second matter")
    assert shown.read_text().count("first.md") == 1
    assert machine.status()["daemon"]["state"] == "running", "a desktop that hangs holds nothing up"
