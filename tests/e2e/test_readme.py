"""The README's first quarter of an hour: its commands do what it says, word for word."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.quarter import MACHINES, Stage, agrees, steps

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def stage() -> Iterator[Stage]:
    # A short path: each machine has a socket of its own.
    top = Path(tempfile.mkdtemp(prefix="q-")).resolve()
    one = Stage(top)
    yield one
    one.end()
    shutil.rmtree(top)


@pytest.mark.skipif(sys.platform != "linux", reason="the folders are named as on Linux")
def test_the_commands_of_the_first_quarter_of_an_hour(stage: Stage) -> None:
    for step in steps(README.read_text(encoding="utf-8")):
        stage.perform(step)
    assert not stage.socket("laptop").exists(), "it was stopped"
    assert stage.socket("desktop").exists()


def test_it_is_about_both_machines() -> None:
    found = steps(README.read_text(encoding="utf-8"))
    assert {step.machine for step in found} == set(MACHINES)
    assert [step.answer for step in found].count("y") == 1
    assert len(found) > 12


@pytest.mark.parametrize(
    ("said", "shown", "same"),
    [
        ("at 14:02, 3 min ago, 1.3 kB", "at 09:41, just now, 812 B", True),
        ("4583d1b815  Tue 14:02\nstopped (pid 1)", "a2c6f03e71  May 4 14:02\n\nstopped (pid 22)", True),
        ("first\n…\nlast", "first\nmore\nand more\nlast", True),
        ("first\n…\nlast", "first\nlast", True),
        ("first\n…", "second", False),
        ("2 sessions", "3 sessions", False),
        ("all synced", "all synced\nand more", False),
    ],
)
def test_only_what_changes_each_time_may_differ(said: str, shown: str, same: bool) -> None:
    assert agrees(said, shown) is same
