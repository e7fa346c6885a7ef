"""Each corruption planted in a real store, state or folder: `doctor` finds exactly it, and repairs it.

Every case begins with two machines and a hub in step, and ends, where it can be repaired, with a doctor
that finds nothing and with the same local files as before.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from convergenced.control.answers import Diagnosis
from convergenced.control.offline_doctor import examine_offline
from convergenced.machine.locations import Locations
from convergenced.machine.state import State
from convergenced.merge.layout import ProjectTree, SessionTree, write_project
from convergenced.merge.segments import read_transcript, write_transcript
from convergenced.model import Author, Commit, LocalPath, Oid, ProjectId, SessionId
from convergenced.store.branch import project_at, project_ref
from convergenced.store.git import GitStore
from tests.crash.pairs import OURS, SHARED, Pair, make_pair, once
from tests.e2e.machines import Machine, git, record

PROJ = ProjectId("proj")
BRANCH = project_ref(PROJ)
SOMEBODY = Author("somebody", "somebody@example.org")
DAY = 86_400

Faults = set[tuple[str, str]]
NO_DAEMON: Faults = {("daemon", "warning")}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two machines in step, as any test may have left them."""
    pair = make_pair(tmp_path_factory.mktemp("doctor"))
    pair.settle()
    once(pair.laptop)
    git("-C", pair.laptop.store, "repack", "-q", "-a", "-d")  # so that going back takes less time
    pair.keep()
    return pair


@pytest.fixture
def desktop(kept: Pair) -> Machine:
    """One of two machines in step."""
    kept.restore()
    return kept.desktop


def examine(machine: Machine, *, deep: bool = True, fix: bool = False, path: str | None = None) -> Diagnosis:
    """What `doctor` says without a daemon."""
    locations = Locations.from_environment(machine.environ, str(machine.home))
    return examine_offline(
        locations,
        machine.environ,
        str(machine.home),
        None if path is None else LocalPath(path),
        deep=deep,
        fix=fix,
    )


def faults(found: Diagnosis) -> Faults:
    """What is not well, but that no daemon runs."""
    told: Faults = {(one["check"], one["state"]) for one in found["findings"] if one["state"] != "ok"}
    return told - NO_DAEMON


def check_repaired(machine: Machine, before: dict[str, bytes]) -> Diagnosis:
    """`--fix` says what it did; nothing is left to find, and no local file changed."""
    fixed = examine(machine, fix=True)
    assert fixed["fixed"], fixed
    assert faults(fixed) == set(), fixed
    again = examine(machine, fix=True)
    assert (faults(again), again["fixed"]) == (set(), []), again
    assert machine.files() == before
    return fixed


# -- what is planted


def store_of(machine: Machine) -> GitStore:
    return GitStore(LocalPath(str(machine.store)))


def tip_of(machine: Machine) -> Oid:
    return store_of(machine).refs(BRANCH)[BRANCH]


def put(path: Path, data: bytes) -> None:
    """Writes a file anew: its bytes are shared with the moment that is gone back to."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    path.chmod(0o600)


def loose(machine: Machine) -> Path:
    """The file of an object which the tip needs: a session's first segment."""
    store = store_of(machine)
    tree, _ = project_at(store, tip_of(machine))
    transcript = tree.sessions[SessionId(OURS)].transcript
    assert transcript is not None
    folder = store.read_tree(transcript)[0].oid
    oid = store.read_tree(folder)[0].oid
    return machine.store / "objects" / oid[:2] / oid[2:]


def commit_by_hand(
    machine: Machine, change: Callable[[ProjectTree], ProjectTree], *more: Oid, when: int | None = None
) -> None:
    """A commit on the branch as another tool might make it."""
    store, tip = store_of(machine), tip_of(machine)
    tree = write_project(store, change(project_at(store, tip)[0]))
    when = store.read_commit(tip).time if when is None else when
    store.swap(BRANCH, tip, store.write_commit(Commit(tree, (tip, *more), SOMEBODY, when, "by hand")))


def shorten_session(machine: Machine) -> None:
    store = store_of(machine)

    def change(tree: ProjectTree) -> ProjectTree:
        transcript = tree.sessions[SessionId(OURS)].transcript
        assert transcript is not None
        first = b"".join(read_transcript(store, transcript)).splitlines(keepends=True)[0]
        shortened = write_transcript(store, [first])
        store.settle()
        return replace(tree, sessions={**tree.sessions, SessionId(OURS): SessionTree(shortened)})

    commit_by_hand(machine, change)


def remove_session(machine: Machine) -> None:
    commit_by_hand(
        machine,
        lambda tree: replace(
            tree, sessions={sid: one for sid, one in tree.sessions.items() if sid != SHARED}
        ),
    )


def set_branch_back(machine: Machine) -> None:
    put(machine.store / BRANCH, first_commit(machine).encode() + b"\n")


def first_commit(machine: Machine) -> str:
    return git("-C", machine.store, "rev-list", "--max-parents=0", BRANCH).split()[0]


def lie_in_a_note(machine: Machine) -> None:
    """A record that a note takes for committed."""
    path = machine.context / f"{SHARED}.jsonl"
    put(path, path.read_bytes() + record(SHARED, machine.project, 50, "never committed"))
    found = path.stat()
    values = (found.st_size, found.st_size, found.st_mtime_ns, found.st_ino)
    change_notes(machine, "size = ?, consumed = ?, mtime_ns = ?, inode = ?", *values)


def change_notes(machine: Machine, setting: str, *values: object) -> None:
    with sqlite3.connect(machine.conv / "state.sqlite") as db:
        changed = db.execute(f"UPDATE file SET {setting} WHERE path = ?", (*values, f"{SHARED}.jsonl"))
        assert changed.rowcount == 1
    db.close()


def scribble_over_state(machine: Machine) -> None:
    path = machine.conv / "state.sqlite"
    data = bytearray(path.read_bytes())
    data[4096:] = random.Random(1).randbytes(len(data) - 4096)
    path.write_bytes(data)


def test_nothing_is_wrong_with_machines_in_step(desktop: Machine, kept: Pair) -> None:
    for machine in kept.machines:
        stored = sorted(str(path) for path in machine.conv.rglob("*"))
        found = examine(machine)
        assert faults(found) == set(), found
        assert found["fixed"] == []
        assert sorted(str(path) for path in machine.conv.rglob("*")) == stored, "looking leaves no trace"
    checks = {one["check"] for one in examine(desktop)["findings"]}
    assert checks >= {
        *("config", "permissions", "socket", "space", "programs", "watches", "leftovers", "backups"),
        *("state", "clock", "projects", "files", "round-trip", "records", "residue", "peers"),
        *("store", "history.apart", "history.tree", "history.merges", "history.kept", "history.contains"),
        *("local.notes", "local.kept", "peers.history"),
    }
    plain = {one["check"] for one in examine(desktop, deep=False)["findings"]}
    assert not {one for one in plain if one.startswith(("history", "local", "store"))}


def flip_a_bit(machine: Machine) -> None:
    data = bytearray(loose(machine).read_bytes())
    data[len(data) // 2] ^= 0x10
    put(loose(machine), bytes(data))


def tear_a_pack(machine: Machine) -> None:
    git("-C", machine.store, "repack", "-q", "-a", "-d")
    (pack,) = machine.store.glob("objects/pack/*.pack")
    data = pack.read_bytes()
    put(pack, data[: len(data) // 2])


def lose_an_object_everywhere(machine: Machine) -> None:
    name = loose(machine).relative_to(machine.store)
    for repository in (machine.store, *machine.hubs):
        (Path(repository) / name).unlink()


DAMAGED: Faults = {("store", "problem"), ("history", "warning")}
REPAIRABLE: dict[str, tuple[Callable[[Machine], object], Faults]] = {
    "the branch set back": (
        set_branch_back,
        {("history.contains", "problem"), ("local.kept", "problem")},
    ),
    "the branch gone": (
        lambda one: (one.store / BRANCH).unlink(),
        {("history.contains", "problem")},
    ),
    "a transcript shortened by a commit": (
        shorten_session,
        {("history.kept", "problem"), ("local.kept", "problem")},
    ),
    "a session removed by a commit": (
        remove_session,
        {("history.kept", "problem"), ("local.kept", "problem")},
    ),
    "a note of a record that was not committed": (lie_in_a_note, {("local.notes", "problem")}),
    "a note that names nothing": (
        lambda one: change_notes(one, "oid = ?", "12" * 20),
        {("local.notes", "problem")},
    ),
    "a damaged state database": (scribble_over_state, {("state", "problem")}),
    "a lock on the branch": (
        lambda one: (one.store / f"{BRANCH}.lock").write_bytes(b""),
        DAMAGED,
    ),
    "a lock on the packed refs": (
        lambda one: (one.store / "packed-refs.lock").write_bytes(b""),
        DAMAGED,
    ),
    "a flipped bit": (flip_a_bit, DAMAGED),
    "a truncated object": (lambda one: put(loose(one), loose(one).read_bytes()[:20]), DAMAGED),
    "a missing object": (lambda one: loose(one).unlink(), DAMAGED),
    "an object that no peer has any more": (lose_an_object_everywhere, DAMAGED | {("peers", "problem")}),
    "a torn pack": (tear_a_pack, DAMAGED),
    "a store that others can read": (lambda one: one.store.chmod(0o755), {("permissions", "problem")}),
    "a state that others can read": (
        lambda one: (one.conv / "state.sqlite").chmod(0o644),
        {("permissions", "problem")},
    ),
    "a configuration that others can read": (
        lambda one: (one.conv / "config.toml").chmod(0o640),
        {("permissions", "problem")},
    ),
    "a half-written transcript": (
        lambda one: (one.context / ".convergence-0123456789abcdef").write_bytes(b"half"),
        {("leftovers", "warning")},
    ),
    "a half-written file of our own": (
        lambda one: (one.conv / ".convergence-0123456789abcdef").write_bytes(b"half"),
        {("leftovers", "warning")},
    ),
}


@pytest.mark.parametrize("name", REPAIRABLE)
def test_a_corruption_is_found_and_repaired(desktop: Machine, name: str) -> None:
    plant, expected = REPAIRABLE[name]
    before = desktop.files()
    plant(desktop)
    if name == "a note of a record that was not committed":
        before = desktop.files()
    before.pop(".convergence-0123456789abcdef", None)
    assert faults(examine(desktop)) == expected
    check_repaired(desktop, before)


def test_an_empty_branch_is_set_aside_and_made_again(desktop: Machine) -> None:
    before, tip = desktop.files(), tip_of(desktop)
    put(desktop.store / BRANCH, b"")
    assert ("store", "problem") in faults(examine(desktop))
    check_repaired(desktop, before)
    assert tip_of(desktop) == tip, git("-C", desktop.store, "log", "--stat", f"{tip}..{BRANCH}")


def test_what_was_dropped_from_the_notes_is_committed_again(desktop: Machine) -> None:
    lie_in_a_note(desktop)
    once(desktop)
    assert b"never committed" not in git_show(desktop)
    examine(desktop, fix=True)
    assert b"never committed" in git_show(desktop)


def git_show(machine: Machine) -> bytes:
    store = store_of(machine)
    tree, _ = project_at(store, tip_of(machine))
    transcript = tree.sessions[SessionId(SHARED)].transcript
    assert transcript is not None
    return b"".join(read_transcript(store, transcript))


def mix_in(machine: Machine) -> None:
    store = store_of(machine)
    other = store.write_commit(Commit(write_project(store, ProjectTree()), (), SOMEBODY, 1, "other code"))
    store.swap(project_ref(ProjectId("zoo")), None, other)
    commit_by_hand(machine, lambda tree: tree, other)


def make_unknown_folder(machine: Machine) -> None:
    folder = machine.projects / "-nobody-knows"
    folder.mkdir()
    (folder / f"{OURS}.jsonl").write_bytes(b'{"type":"mode"}\n')


def set_hub_back(machine: Machine) -> None:
    git("-C", machine.hubs[0], "update-ref", BRANCH, first_commit(machine))


FOR_A_PERSON: dict[str, tuple[Callable[[Machine], object], Faults]] = {
    "history of another project mixed in": (
        mix_in,
        {("history.apart", "problem")},
    ),
    "a commit from the future": (
        lambda one: commit_by_hand(one, lambda tree: tree, when=int(time.time()) + DAY),
        {("clock", "warning")},
    ),
    "a broken configuration": (
        lambda one: (one.conv / "config.toml").write_text("[machine\n"),
        {("config", "problem")},
    ),
    "a link in place of a transcript": (
        lambda one: (one.context / f"{'0' * 8}-0000-0000-0000-{'0' * 12}.jsonl").symlink_to("/etc/passwd"),
        {("files", "warning")},
    ),
    "a folder of which nobody knows the project": (
        make_unknown_folder,
        {("projects", "warning")},
    ),
    "a hub that is away": (
        lambda one: Path(one.hubs[0]).rename(f"{one.hubs[0]}.away"),
        {("peers", "problem")},
    ),
    "a hub that was set back": (
        set_hub_back,
        {("peers.history", "warning")},
    ),
    "a hub that lost the branch": (
        lambda one: git("-C", one.hubs[0], "update-ref", "-d", BRANCH),
        {("peers.history", "warning")},
    ),
}


@pytest.mark.parametrize("name", FOR_A_PERSON)
def test_what_a_person_has_to_settle_is_told_with_its_remedy(desktop: Machine, name: str) -> None:
    plant, expected = FOR_A_PERSON[name]
    plant(desktop)
    for found in (examine(desktop), examine(desktop, fix=True)):
        assert faults(found) == expected, found
        assert [one for one in found["findings"] if one["state"] != "ok" and not one["fix"]] == []
        assert found["fixed"] == []


def test_one_project_and_one_that_takes_no_part_yet(desktop: Machine, tmp_path: Path) -> None:
    projects = {one["project"] for one in examine(desktop, path=str(desktop.project / "src"))["findings"]}
    assert projects == {None, "proj"}
    found = examine(desktop, path=str(tmp_path))["findings"]
    assert any("takes no part yet" in one["text"] for one in found)


def test_without_a_store_it_looks_and_makes_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "new", "new")
    machine.append(SHARED, record(SHARED, machine.project, 0))
    before = sorted(machine.top.rglob("*"))
    for fix in (False, True):
        found = examine(machine, fix=fix)
        assert faults(found) == set(), found
        assert {one["project"] for one in found["findings"]} == {None, "proj"}
    assert sorted(machine.top.rglob("*")) == before


def test_permissions_are_repaired_also_without_a_store(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "new", "new")
    (machine.conv / "config.toml").chmod(0o644)
    fixed = examine(machine, fix=True)
    assert faults(fixed) == set(), fixed
    assert [one["check"] for one in fixed["fixed"]] == ["permissions"]


def break_machine_id(machine: Machine) -> None:
    put(machine.conv / "machine-id", b"garbage\n")


def write_newer_schema(machine: Machine) -> None:
    config = machine.store / "config"
    put(config, config.read_bytes().replace(b"schema = 1", b"schema = 99"))


@pytest.mark.parametrize("plant", [break_machine_id, write_newer_schema])
def test_what_keeps_a_daemon_from_starting_is_a_finding(
    desktop: Machine, plant: Callable[[Machine], None]
) -> None:
    plant(desktop)
    for fix in (False, True):
        found = examine(desktop, fix=fix)
        assert faults(found) == {("start", "problem")}
        assert found["findings"][0]["fix"]


def test_with_a_daemon_it_goes_through_the_daemon(desktop: Machine) -> None:
    lie_in_a_note(desktop)
    set_hub_back(desktop)
    (desktop.store).chmod(0o755)
    desktop.hubs, hubs = (), desktop.hubs
    desktop.configure()  # so that it does not put the hub right by itself
    desktop.start()
    try:
        desktop.hubs = hubs
        found = desktop.ctl("doctor", "--deep", "--json")
        answer = json.loads(found.stdout)
        assert found.returncode == 6
        assert faults(answer) == {("local.notes", "problem"), ("permissions", "problem")}
        assert not any(one["check"] == "daemon" and one["state"] != "ok" for one in answer["findings"])
        told = desktop.ctl("doctor", "--deep", "--fix")
        assert told.returncode == 0, (told.stdout, told.stderr)
        assert "repaired: proj: 1 file is read again" in told.stdout
        assert b"never committed" in git_show(desktop)
        assert json.loads(desktop.ctl("doctor", "--deep", "--fix", "--json").stdout)["fixed"] == []
    finally:
        desktop.stop()


def test_a_daemon_gives_a_hub_its_history_again(desktop: Machine) -> None:
    desktop.interval = "1h"
    desktop.configure()
    desktop.start()
    try:
        desktop.wait_synced()
        set_hub_back(desktop)
        assert desktop.ctl("doctor").returncode == 0
        assert desktop.ctl("doctor", "--deep").returncode == 5
        told = desktop.ctl("doctor", "--deep", "--fix")
        assert told.returncode == 0, told.stdout
        assert "exchanged with hub again" in told.stdout
        assert git("-C", desktop.hubs[0], "rev-parse", BRANCH).strip() == tip_of(desktop)
    finally:
        desktop.stop()


def test_the_command_without_a_daemon(desktop: Machine) -> None:
    done = desktop.ctl("doctor")
    assert done.returncode == 5
    assert "does not run" in done.stderr
    assert "→ convergencectl up" in done.stdout
    set_branch_back(desktop)
    done = desktop.ctl("doctor", "--deep")
    assert done.returncode == 6
    assert "✗ history.contains: " in done.stdout
    assert "--fix can repair" in done.stdout


def test_the_state_is_not_touched_by_looking(desktop: Machine) -> None:
    scribble_over_state(desktop)
    path = desktop.conv / "state.sqlite"
    data = path.read_bytes()
    examine(desktop)
    assert path.read_bytes() == data
    examine(desktop, fix=True)
    state = State(str(path))
    assert [note.project for note in state.replicas()] == ["proj"]
    state.close()
    assert os.path.exists(f"{path}.damaged")
