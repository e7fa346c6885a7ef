"""Consolidated documents that are written by a real process, which is killed between backup and write.

Whatever the moment: each file is the old or the new one, what was replaced has a backup, and doing it again
completes it, without hands and with nothing left over.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from convergenced import steps
from convergenced.knowledge.places import sweep_places
from convergenced.knowledge.snapshot import Snapshots
from convergenced.machine.backups import list_backups
from convergenced.machine.clock import SystemClock
from convergenced.machine.durable import TEMPORARY_PREFIX
from convergenced.merge.knowledge import GLOBAL, SETTINGS
from convergenced.model import LocalPath
from convergenced.store.repo import open_store
from tests.fakes.store import MemoryStore
from tests.profiles import DEEP
from tests.unit.knowledge.machines import APP, CLAUDE, KnowingMachine

OLD = {
    "CLAUDE.md": "".join(f"global {number}\n" for number in range(9)),
    "settings.json": '{\n  "theme": "dark",\n  "apiKeyHelper": "/mine"\n}\n',
    "app/CLAUDE.md": "".join(f"project {number}\n" for number in range(9)),
}
NEW = {
    "CLAUDE.md": OLD["CLAUDE.md"] + "and more\n",
    "settings.json": OLD["settings.json"].replace("dark", "light"),
    "app/CLAUDE.md": OLD["app/CLAUDE.md"] + "and more\n",
}
SHARED = json.dumps({"theme": "light"}, indent=2) + "\n"
STEPS = ("replace.written", "replace.kept", "replace.published")
KILLED_AT = [(step, turn) for step in STEPS for turn in (1, 2, 3) if DEEP or turn == 1 + STEPS.index(step)]
PATIENCE = 60.0


def machine_at(top: Path) -> KnowingMachine:
    """The machine as one process knows it, with a store on the disk."""
    store = open_store(LocalPath(str(top / "store.git")))
    made = KnowingMachine(top / "ann", cast("MemoryStore", store))
    made.parts = replace(made.parts, clock=SystemClock())
    made.snapshots = Snapshots(made.parts)
    return made


def paths(machine: KnowingMachine) -> dict[str, Path]:
    return {
        "CLAUDE.md": machine.config / "CLAUDE.md",
        "settings.json": machine.config / "settings.json",
        "app/CLAUDE.md": machine.root / "CLAUDE.md",
    }


def texts(machine: KnowingMachine) -> dict[str, str]:
    return {name: path.read_text() for name, path in paths(machine).items()}


def backups(machine: KnowingMachine) -> set[str]:
    """What the backups hold."""
    found = list_backups(machine.machine.backups_dir, [f"knowledge/{scope}" for scope in (GLOBAL, APP)])
    return {Path(one.path).read_text() for one in found}


def temporaries(machine: KnowingMachine) -> list[str]:
    folders = (machine.config, machine.root)
    return [name for folder in folders for name in os.listdir(folder) if name.startswith(TEMPORARY_PREFIX)]


def work(top: str) -> None:
    """What the process does: look, write what may be written, look again."""
    steps.arm(os.environ)
    machine = machine_at(Path(top))
    sweep_places(machine.look()[0], machine.parts.clock.now() + 3600.0)
    machine.apply()
    machine.take()


def run(top: Path, kill_at: str | None = None) -> int:
    """The exit code of a process that does the work."""
    words = [sys.executable, "-c", f"from {__name__} import work; work({str(top)!r})"]
    environment = {name: value for name, value in os.environ.items() if name != steps.VARIABLE}
    if kill_at is not None:
        environment[steps.VARIABLE] = kill_at
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = root
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


@pytest.fixture
def ann(tmp_path: Path) -> KnowingMachine:
    """A machine that is in step, where three documents are about to be written."""
    machine = machine_at(tmp_path)
    for name, path in paths(machine).items():
        path.write_text(OLD[name])
        path.chmod(0o644)
    machine.take()
    machine.consolidate(NEW["CLAUDE.md"].encode(), CLAUDE, GLOBAL)
    machine.consolidate(SHARED.encode(), SETTINGS, GLOBAL)
    machine.consolidate(NEW["app/CLAUDE.md"].encode(), CLAUDE, APP)
    return machine


@pytest.mark.parametrize(("step", "turn"), KILLED_AT)
def test_killed_while_writing(ann: KnowingMachine, tmp_path: Path, step: str, turn: int) -> None:
    assert run(tmp_path, f"{step}:{turn}") == -signal.SIGKILL
    between = texts(ann)
    done = turn if step == "replace.published" else turn - 1
    assert sum(between[name] == NEW[name] for name in NEW) == done
    assert sum(between[name] == OLD[name] for name in OLD) == len(OLD) - done
    kept = done + (step == "replace.kept")
    assert backups(ann) <= set(OLD.values())
    assert len(backups(ann)) == kept
    assert run(tmp_path) == 0
    assert texts(ann) == NEW
    assert backups(ann) == set(OLD.values())
    assert temporaries(ann) == []
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in paths(ann).values())
    assert {one.state for one in ann.plan().documents} == {"same"}
    assert machine_at(tmp_path).take().commit is None


def test_an_edit_after_the_crash_stays(ann: KnowingMachine, tmp_path: Path) -> None:
    assert run(tmp_path, "replace.kept:3") == -signal.SIGKILL
    edited = OLD["app/CLAUDE.md"] + "mine\n"
    paths(ann)["app/CLAUDE.md"].write_text(edited)
    assert run(tmp_path) == 0
    assert texts(ann) == {**NEW, "app/CLAUDE.md": edited}
    assert ann.shared() == edited.encode()
