"""The real daemon, killed at every step that has a name, and started again.

Each case begins at the moment of `tests.crash.pairs` and must end exactly as a run that nobody
disturbed: the same bytes on both machines, one tip, nothing left over, without hands.
"""

from __future__ import annotations

import json
import signal
import subprocess
import uuid
from pathlib import Path

import pytest

from convergenced import steps
from convergenced.steps import STEPS
from convergenced.sync.ingest import STEP_BYTES
from tests.crash.pairs import (
    NEW_HERE,
    NEW_THERE,
    OURS,
    SHARED,
    THEIRS,
    TORN,
    Files,
    Pair,
    lose_all_but_files,
    once,
)
from tests.e2e.machines import DAEMON, PATIENCE, Machine, git, record
from tests.profiles import DEEP

KILLED = -signal.SIGKILL

ONCE_A_PASS = (
    *("ingest.committed", "ingest.noted"),
    *("localize.planned", "localize.removed", "localize.settled"),
    *(step for step in STEPS if step.startswith("exchange.")),
)
"""Steps that one pass from this moment takes only once, or for all that is known: rounds take turns."""

OTHERS = (*STEPS[7:], *STEPS[:7])
DURING_RECOVERY = (
    [(one, other) for one in STEPS for other in STEPS] if DEEP else list(zip(STEPS, OTHERS, strict=True))[::6]
)
TWICE = STEPS if DEEP else STEPS[1::6]
SECOND_TIME = [step for step in STEPS if step not in ONCE_A_PASS][:: 1 if DEEP else 6]
BEGUN_ANEW = [step for step in STEPS if step != "localize.removed"][:: 1 if DEEP else 6]
"""What has no past has nothing to remove."""
LIVE = STEPS if DEEP else ("ingest.committed", "exchange.pushed", "replace.published")


def test_the_undisturbed_end_holds_every_record_once(pair: Pair, undisturbed: Files) -> None:
    for machine in pair.machines:
        files = undisturbed[machine.name]
        complete = b"".join(data[: data.rfind(b"\n") + 1] for data in files.values())
        records = [json.loads(line) for line in complete.split(b"\n") if line.startswith(b'{"parent')]
        texts = [entry["message"]["content"].partition(" in ")[0] for entry in records]
        turns = {text: texts.count(text) for text in texts}
        for number in (21, 22, 23, 31, 32):
            assert turns[f"turn {number}"] == 1
        assert turns["went on at the laptop"] == turns["went on at the desktop"] == 1
        # The session that went on in two places became two, with its first two records in each.
        ids = {path.removesuffix(".jsonl") for path in files if path.endswith(".jsonl") and "/" not in path}
        assert ids > {SHARED, OURS, THEIRS, NEW_HERE, NEW_THERE}
        assert len(ids) == 6
        assert turns == {**turns, "turn 0": 3, "turn 1": 3, "turn 2": 1}
        assert files["memory/edited.md"] == b"FIRST\n\nmiddle\n\nLAST\n"
        assert "memory/gone.md" not in files
        assert files["memory/new.md"] == b"something new\n"
    assert undisturbed["desktop"][f"{OURS}.jsonl"].endswith(TORN)
    assert not undisturbed["laptop"][f"{OURS}.jsonl"].endswith(TORN)


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(pair: Pair, undisturbed: Files, step: str) -> None:
    before = pair.desktop.files()
    assert _die_at(pair.desktop, step)
    _check_each_file_is_old_or_new(pair.desktop, before, undisturbed)
    _recover(pair, undisturbed)


@pytest.mark.parametrize("step", SECOND_TIME)
def test_killed_the_second_time_a_step_is_reached(pair: Pair, undisturbed: Files, step: str) -> None:
    before = pair.desktop.files()
    assert _die_at(pair.desktop, f"{step}:2")
    _check_each_file_is_old_or_new(pair.desktop, before, undisturbed)
    _recover(pair, undisturbed)


@pytest.mark.parametrize("step", TWICE)
def test_killed_at_the_same_step_until_it_is_not_reached_any_more(
    pair: Pair, undisturbed: Files, step: str
) -> None:
    before = pair.desktop.files()
    assert _die_at(pair.desktop, step)
    for _ in range(2):
        if not _die_at(pair.desktop, step):
            break
    _check_each_file_is_old_or_new(pair.desktop, before, undisturbed)
    _recover(pair, undisturbed)


@pytest.mark.parametrize(("step", "other"), DURING_RECOVERY)
def test_killed_again_while_it_recovers(pair: Pair, undisturbed: Files, step: str, other: str) -> None:
    before = pair.desktop.files()
    assert _die_at(pair.desktop, step)
    _die_at(pair.desktop, other)  # what the first run finished is not done again
    _check_each_file_is_old_or_new(pair.desktop, before, undisturbed)
    _recover(pair, undisturbed)


@pytest.mark.parametrize("step", BEGUN_ANEW)
def test_killed_while_a_lost_store_is_rebuilt(pair: Pair, undisturbed_anew: Files, step: str) -> None:
    lose_all_but_files(pair.desktop)
    before = pair.desktop.files()
    assert _die_at(pair.desktop, step)
    _check_each_file_is_old_or_new(pair.desktop, before, undisturbed_anew)
    _recover(pair, undisturbed_anew)


@pytest.mark.parametrize("step", LIVE)
def test_a_running_daemon_is_killed_at_a_step_and_started_again(
    pair: Pair, undisturbed: Files, step: str
) -> None:
    desktop = pair.desktop
    environ = {**desktop.environ, steps.VARIABLE: step}
    daemon = subprocess.Popen(DAEMON, env=environ, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    assert daemon.wait(PATIENCE) == KILLED
    try:
        desktop.start()
        desktop.wait_synced()
        status = desktop.status()
        assert status["daemon"]["state"] == "running"
        assert [one for one in status["attention"] if one["kind"] != "quarantine"] == []
        assert status["projects"][0]["state"] == "synced"
    finally:
        desktop.stop()
    _recover(pair, undisturbed)


@pytest.mark.parametrize("step", ["ingest.read", "ingest.committed", "ingest.noted"])
def test_killed_in_the_middle_of_a_long_import(tmp_path: Path, step: str) -> None:
    one = Machine(tmp_path / "one", "desktop")
    sids = [str(uuid.UUID(int=number)) for number in range(2)]
    for sid in sids:
        one.append(sid, record(sid, one.project, 0, "y" * 1_000) * (STEP_BYTES // 1_200))
    local = one.files()
    assert _die_at(one, f"{step}:2")
    assert len(_committed(one)) == (1 if step == "ingest.read" else 2)
    once(one)
    assert _committed(one) == set(sids)
    assert git("--git-dir", one.store, "rev-list", "--count", "project/proj").strip() == "2"
    assert git("--git-dir", one.store, "fsck", "--strict", "--no-dangling") == ""
    assert one.files() == local


def _committed(machine: Machine) -> set[str]:
    """The sessions on the replica's own ref."""
    (ref,) = git(
        "--git-dir", machine.store, "for-each-ref", "--format=%(refname)", "refs/convergence/"
    ).split()
    listed = git("--git-dir", machine.store, "ls-tree", "--name-only", f"{ref}:segments")
    return set(listed.split())


def _die_at(machine: Machine, step: str) -> bool:
    """Runs one pass that is killed at the step; False where it ended by itself without reaching it."""
    machine.extra = {steps.VARIABLE: step}
    try:
        done = machine.run_daemon("--once")
    finally:
        machine.extra = {}
    assert done.returncode in (KILLED, 0), done.stderr
    return done.returncode == KILLED


def _check_each_file_is_old_or_new(machine: Machine, before: dict[str, bytes], end: Files) -> None:
    """What a client would read at this moment."""
    after = end[machine.name]
    found = machine.files()
    assert found.keys() >= before.keys() & after.keys()
    for path, data in found.items():
        if not path.rpartition("/")[2].startswith(".convergence-"):
            assert data in (before.get(path), after.get(path)), path


def _recover(pair: Pair, end: Files) -> None:
    """Nothing but starting the daemon again brings everything to its end."""
    for machine in pair.machines:
        once(machine)
    pair.check_equal(end)
