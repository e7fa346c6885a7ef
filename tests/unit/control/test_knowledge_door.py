"""Shared knowledge is loaded when it is first needed, and answers as if it had always been there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from convergenced.control.knowledge import KnowledgeMethods
from convergenced.control.knowledge_door import METHODS, NAME, KnowledgeDoor, Surroundings
from convergenced.control.knowledge_files import KnowledgeFileMethods
from convergenced.machine.settings_schema import KnowledgeSettings
from convergenced.model import LocalPath
from tests.knowledge import ANN, commit_plain
from tests.unit.sync.world import FakeMachine, World


@pytest.fixture
def machine() -> FakeMachine:
    return World().machine("ann")


def attach(machine: FakeMachine, top: Path) -> KnowledgeDoor:
    """A daemon with the door."""
    machine.start()
    around = Surroundings(LocalPath(str(top / ".claude")), LocalPath(str(top)), cast("Mapping[str, str]", {}))
    return machine.engine.attach(NAME, lambda desk, rounds: KnowledgeDoor(desk, rounds, around))


def is_open(door: KnowledgeDoor) -> bool:
    return door._inside is not None


def enable(machine: FakeMachine, *, on: bool) -> None:
    machine.engine.apply(replace(machine.engine.settings, knowledge=KnowledgeSettings(enabled=on)))


def test_a_daemon_that_shares_no_knowledge_loads_nothing_of_it() -> None:
    script = "import sys, convergenced.__main__; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert "convergenced.control.knowledge_door" in loaded
    assert not {name for name in loaded if name.startswith("convergenced.knowledge.")}
    assert not {"urllib.request", "anthropic", "keyring"} & loaded


def test_it_is_opened_once_knowledge_is_shared_and_stays_so(machine: FakeMachine, tmp_path: Path) -> None:
    door = attach(machine, tmp_path)
    machine.world.advance(10)
    assert not is_open(door)
    assert (door.due, door.missing(-1.0), door.attention(), door.deafness()) == (None, (), (), None)
    enable(machine, on=True)
    assert is_open(door)
    assert door.missing(-1.0) != []
    enable(machine, on=False)
    assert door.due is None
    assert list(door.missing(-1.0)) == []
    door.close()


def test_where_it_was_shared_once_it_is_opened_at_once(machine: FakeMachine, tmp_path: Path) -> None:
    commit_plain(machine.store, {"machines": {ANN: {"global": {"CLAUDE.md": "x"}}}})
    assert is_open(attach(machine, tmp_path))


def test_it_knows_all_methods_by_name(machine: FakeMachine, tmp_path: Path) -> None:
    door = attach(machine, tmp_path)
    assert set(door.methods(machine.engine)) == set(METHODS)
    assert not is_open(door)
    librarian = door.open()
    behind = (
        *KnowledgeMethods(machine.engine, librarian).methods,
        *KnowledgeFileMethods(machine.engine, librarian).methods,
    )
    assert sorted(behind) == sorted(METHODS)
