"""Steps: the list is what the code reaches, and the hook ends a process at one of them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from convergenced import steps
from convergenced.errors import UsageError

PACKAGE = Path(steps.__file__).parent
REACHED = re.compile(r'steps\.reached\("([^"]+)"\)')


def test_every_step_is_reached_in_one_place_and_every_place_is_listed() -> None:
    found = Counter(name for path in PACKAGE.rglob("*.py") for name in REACHED.findall(path.read_text()))
    assert found == Counter((*steps.STEPS, *steps.BY_REQUEST))


def test_without_the_variable_nothing_is_armed() -> None:
    steps.arm({})
    assert steps.hook is None


def test_an_unknown_step_is_told() -> None:
    with pytest.raises(UsageError, match="names no step"):
        steps.arm({steps.VARIABLE: "ingest.nowhere"})


@pytest.mark.parametrize(("wanted", "survives"), [("ingest.noted", 0), ("ingest.noted:3", 2)])
def test_the_process_ends_by_itself_when_the_step_is_reached(wanted: str, survives: int) -> None:
    script = f"""
from convergenced import steps
steps.arm({{{steps.VARIABLE!r}: {wanted!r}}})
for turn in range(5):
    steps.reached("ingest.read")
    steps.reached("ingest.noted")
    print(turn, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -9
    assert done.stdout.split() == [str(turn) for turn in range(survives)]
