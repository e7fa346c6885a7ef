"""The README's first command: it succeeds, and leaves nothing behind, also when interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e.machines import PATIENCE, await_true

DEMO = [sys.executable, "-m", "convergencectl", "demo"]


def environ(tmp_path: Path) -> dict[str, str]:
    """An environment in which only `tmp_path` can be written to, and no git is found."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home").mkdir()
    return {
        "PATH": str(tmp_path),
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "NO_COLOR": "1",
    }


def daemons_of(folder: Path) -> list[psutil.Process]:
    """The daemons that belong to a demo below `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CONVERGENCE_HOME", "").startswith(str(folder)):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def test_the_demo_succeeds_without_git_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        DEMO, env=environ(tmp_path), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demo: success" in done.stdout
    assert "fix the cart total in /home/ann/src/webshop/cart.py" in done.stdout
    assert "fix the cart total in /Users/ann/code/webshop/cart.py" in done.stdout
    assert done.stdout.count('ends with: "now the desktop\'s idea"') == 2
    assert done.stdout.count('ends with: "now the laptop\'s idea"') == 2
    assert done.stderr == ""
    assert os.listdir(tmp_path / "tmp") == []
    assert os.listdir(tmp_path / "home") == []
    assert daemons_of(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_its_daemons_and_removes_its_files(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(DEMO, env=environ(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    await_true(lambda: daemons_of(tmp_path), "the demo's daemons")
    process.send_signal(number)
    _, complaints = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert complaints == b""
    assert os.listdir(tmp_path / "tmp") == []
    assert daemons_of(tmp_path) == []
