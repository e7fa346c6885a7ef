"""Machines that are not what they seem: copied, with clocks decades away, with a hub that goes away midway.

Each run is one whole pass of the real daemon.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from convergenced import steps
from convergenced.model import LocalPath, Oid
from convergenced.store.branch import ahead_behind
from convergenced.store.git import GitStore
from tests.crash.cluster import OTHER, PROJ, Cluster, Host, read_sessions
from tests.crash.pairs import Files, Pair, once
from tests.e2e.machines import PATIENCE, Machine, git, make_hub, stop_all
from tests.profiles import DEEP

PROGRAM = Path(__file__).with_name("disturbed.py")
YEAR = 365.25 * 86_400
DEGRADED = 6

MIDWAY = ("exchange.listed", "exchange.merged")


def disturbed(machine: Machine, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One pass of everything by a daemon with which something is wrong."""
    words = [sys.executable, "-W", "error", str(PROGRAM), *arguments, "--once"]
    top = str(PROGRAM.parents[2])
    environ = {**machine.environ, "PYTHONPATH": top}
    return subprocess.run(words, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize("step", [one for one in steps.STEPS if one in MIDWAY or DEEP])
def test_a_hub_that_goes_away_midway_loses_nothing_and_is_told_of(
    pair: Pair, undisturbed: Files, step: str
) -> None:
    aside = pair.hub.with_name("aside.git")
    done = disturbed(pair.desktop, "at", step, f"mv '{pair.hub}' '{aside}'")
    if done.returncode != 0:  # else the hub was not needed any more
        assert done.returncode == DEGRADED, done.stderr
        assert "is not a git repository" in done.stderr
    aside.rename(pair.hub)
    for machine in pair.machines:
        once(machine)
    pair.check_equal(undisturbed)


@pytest.mark.parametrize("step", MIDWAY if DEEP else MIDWAY[1:])
def test_a_hub_that_is_rewound_midway_ends_with_everything(pair: Pair, undisturbed: Files, step: str) -> None:
    branch = "refs/heads/project/proj"
    first = git("-C", pair.hub, "rev-list", "--max-parents=0", branch).split()[0]
    disturbed(pair.desktop, "at", step, f"git -C '{pair.hub}' update-ref {branch} {first}")
    pair.settle()
    pair.check_equal(undisturbed)


CLOCKS = {"1970": -time.time() + 86_400.0, "2099": 73 * YEAR}


@pytest.mark.parametrize("which", CLOCKS)
def test_a_clock_decades_away_makes_no_difference_to_what_is_kept(
    pair: Pair, undisturbed: Files, which: str
) -> None:
    desktop, laptop = pair.machines
    offset = str(CLOCKS[which])
    behind = git("-C", laptop.store, "rev-parse", "project/proj").strip()
    for _ in range(2):
        done = disturbed(desktop, "clock", offset)
        assert done.returncode == 0, done.stderr
        once(laptop)
    for machine in pair.machines:
        check_same_records(machine.files(), undisturbed[machine.name])
        for path in machine.context.rglob("*"):
            assert 0 < path.stat().st_mtime < time.time() + 74 * YEAR
    assert len({git("-C", one, "rev-parse", "refs/heads/project/proj") for one in pair.repositories}) == 1
    pair.check_whole()
    store, tip = GitStore(LocalPath(str(laptop.store))), Oid(laptop.tip())
    counted = git("-C", laptop.store, "rev-list", "--count", f"{behind}..{tip}").strip()
    assert ahead_behind(store, tip, Oid(behind)) == (int(counted), 0)
    assert store.merge_base(tip, Oid(behind)) == behind


def check_same_records(files: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """The same files with the same lines."""
    assert files.keys() == expected.keys()
    for path, data in files.items():
        assert sorted(data.splitlines()) == sorted(expected[path].splitlines()), path


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[Cluster]:
    """Two machines, the second of which was made from a copy of the first: machine id, store, local files.

    Both lie on this host, so the second has other paths; what the state says of the first's is no use there.
    """
    hub = make_hub(tmp_path / "hub.git")
    first = Host(tmp_path / "first" / "machine", "desktop", (hub,), interval="10m")
    first.prepare()
    cluster = Cluster(tmp_path, first, first, (hub,))
    for project in cluster.said:
        cluster.say(first, project, times=2)
    once(first)
    second = Host(tmp_path / "second" / "machine", "desktop", (hub,), interval="10m")
    shutil.rmtree(second.top)
    shutil.copytree(first.top, second.top, symlinks=True)
    for path in second.conv.glob("state.sqlite*"):
        path.unlink()
    for folder, name in ((second.context, "src/proj"), (second.folders[OTHER], "src/projer")):
        old = first.context if name == "src/proj" else first.folders[OTHER]
        (second.projects / old.name).rename(folder)
        for path in folder.glob("*.jsonl"):
            path.write_bytes(path.read_bytes().replace(str(first.top).encode(), str(second.top).encode()))
    cluster.laptop = second
    yield cluster
    stop_all(list(cluster.machines))


def test_machines_with_one_machine_id_lose_nothing_and_end_in_step(copied: Cluster) -> None:
    first, second = copied.machines
    shared = next(iter(copied.said[PROJ]))
    for machine in copied.machines:
        machine.start()
    assert first.status()["machine"]["id"] == second.status()["machine"]["id"]
    for machine in copied.machines:
        copied.say(machine)
        copied.say(machine, OTHER)
    copied.say(second, session=shared)
    for _ in range(4):
        copied.sync()
    for machine in copied.machines:
        for project, sessions in copied.said.items():
            assert read_sessions(machine.folders[project]) == sessions, (machine.name, project)
    told = [text for machine in copied.machines for text in machine.told()]
    assert any("the id of this machine is used by another machine too" in text for text in told)
    tips = git("-C", copied.hub, "for-each-ref")
    for _ in range(3):
        copied.sync()
    assert git("-C", copied.hub, "for-each-ref") == tips
