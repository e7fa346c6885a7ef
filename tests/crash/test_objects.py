"""Damaged objects and torn packs in real stores, and what the real daemon makes of them.

Each case begins at the moment of `tests.crash.pairs`. What local files or the hub have is healed by itself,
with the end the same as if nothing had happened; else that project stops and says so, untouched.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.pairs import NEW_THERE, OURS, REMOTE, Files, Pair, once, session
from tests.e2e.machines import Machine, git, make_hub, record
from tests.profiles import DEEP

TIP = "refs/heads/project/proj"
REMEDY = "convergencectl doctor --deep --fix"

Fault = Callable[[Path], None]


def _rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Gives a file other bytes, without touching the inode that the kept moment has as well."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(change(data))


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def truncated(path: Path) -> None:
    _rewrite(path, lambda data: data[: len(data) // 2])


def flipped(path: Path) -> None:
    _rewrite(path, _flip)


def missing(path: Path) -> None:
    path.unlink()


def zero_length(path: Path) -> None:
    _rewrite(path, lambda _: b"")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FAULTS: tuple[Fault, ...] = (truncated, flipped, missing, zero_length, a_folder)

OBJECTS = {
    "the tip": TIP,
    "the root tree": f"{TIP}^{{tree}}",
    "the context tree": f"{TIP}:context",
    "a segment tree": f"{TIP}:segments/{OURS}/0000",
    "a blob": f"{TIP}:segments/{OURS}/0000/00",
    "the commit before": f"{TIP}~1",
}
ALL = list(itertools.product(OBJECTS, FAULTS))
SELECTED = [
    ("the tip", truncated),
    ("the root tree", zero_length),
    ("a segment tree", missing),
    ("a blob", truncated),
    ("a blob", flipped),
    ("the context tree", a_folder),
]


def loose(repository: Path, name: str) -> Path:
    """The file of a loose object."""
    oid = git("-C", repository, "rev-parse", "--verify", name).strip()
    return repository / "objects" / oid[:2] / oid[2:]


def _named(case: tuple[str, Fault]) -> str:
    return f"{case[0]}-{case[1].__name__}".replace(" ", "_")


def _told(machine: Machine) -> str:
    return "".join(path.read_text() for path in sorted(machine.conv.glob("activity.jsonl")))


def is_whole(repository: Path) -> bool:
    return git("-C", repository, "fsck", "--strict", "--full", "--no-dangling") == ""


# -- healed from the hub


@pytest.mark.parametrize("case", ALL if DEEP else SELECTED, ids=_named)
def test_a_damaged_object_comes_from_the_hub(pair: Pair, undisturbed: Files, case: tuple[str, Fault]) -> None:
    name, fault = case
    fault(loose(pair.desktop.store, OBJECTS[name]))
    if name != "the commit before":  # which nothing reads as long as the histories meet at the tip
        once(pair.desktop)
        assert "healed 1 object from hub" in _told(pair.desktop)
        pair.settle()
        pair.check_equal(undisturbed)


PACK_FAULTS: dict[str, Callable[[Path], None]] = {
    "truncated": truncated,
    "flipped": flipped,
    "without index": lambda pack: missing(pack.with_suffix(".idx")),
    "without pack": missing,
    "index truncated": lambda pack: truncated(pack.with_suffix(".idx")),
}


def pack_all(repository: Path) -> Path:
    """Puts all objects into one pack and returns it."""
    git("-C", repository, "repack", "-adq")
    (pack,) = (repository / "objects" / "pack").glob("*.pack")
    return pack


@pytest.mark.parametrize("name", PACK_FAULTS if DEEP else ["truncated", "without pack"])
def test_a_torn_pack_is_made_up_for_by_the_hub(pair: Pair, undisturbed: Files, name: str) -> None:
    PACK_FAULTS[name](pack_all(pair.desktop.store))
    pair.settle()
    pair.check_equal(undisturbed)


# -- damaged at the hub


def test_a_damaged_hub_is_told_of_and_given_its_objects_again(pair: Pair, undisturbed: Files) -> None:
    """What only the laptop has besides the hub: the desktop can do nothing but say so and wait."""
    truncated(loose(pair.hub, f"{TIP}:segments/{NEW_THERE}/0000/00"))
    flipped(loose(pair.hub, f"{TIP}~1"))
    tip, before = pair.desktop.tip(), git("-C", pair.hub, "rev-parse", TIP)
    done = pair.desktop.run_daemon("--once")
    assert done.returncode == 6
    assert "is damaged" in done.stderr
    assert git("-C", pair.hub, "rev-parse", TIP) == before
    assert git("-C", pair.desktop.store, "merge-base", tip, TIP).strip() == tip
    found = pair.laptop.ctl("doctor", "--deep")
    assert "hub: blob" in found.stdout
    pair.laptop.ctl("doctor", "--deep", "--fix")
    assert is_whole(pair.hub)
    pair.settle()
    pair.check_equal(undisturbed)


# -- healed from local files


@pytest.fixture(scope="module")
def kept_alone(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    machine = Machine(tmp_path_factory.mktemp("alone") / "m", "alone")
    git("init", "-q", machine.project)
    git("-C", machine.project, "remote", "add", "origin", REMOTE)
    machine.append(OURS, b"".join(record(OURS, machine.project, number) for number in range(3)))
    machine.write("memory/MEMORY.md", b"- index\n")
    once(machine)
    machine.append(OURS, record(OURS, machine.project, 3))
    once(machine)
    return machine


@pytest.fixture
def alone(kept_alone: Machine) -> Machine:
    """A machine without a peer, in step, with something new to commit. Restored from its own copy."""
    kept = kept_alone.top.parent / "kept"
    if not kept.exists():
        shutil.copytree(kept_alone.top, kept, symlinks=True)
    shutil.rmtree(kept_alone.top)
    shutil.copytree(kept, kept_alone.top, symlinks=True)
    kept_alone.append(OURS, record(OURS, kept_alone.project, 4))
    return kept_alone


FROM_FILES = {
    "a segment": f"{TIP}:segments/{OURS}/0000/00",
    "a segment tree": f"{TIP}:segments/{OURS}/0000",
    "a session tree": f"{TIP}:segments/{OURS}",
    "the context tree": f"{TIP}:context",
    "a memory file": f"{TIP}:context/memory/MEMORY.md",
}
ALL_FROM_FILES = list(itertools.product(FROM_FILES, FAULTS))
SELECTED_FROM_FILES = [
    ("a session tree", truncated),
    ("the context tree", missing),
    ("a memory file", flipped),
]


@pytest.mark.parametrize("case", ALL_FROM_FILES if DEEP else SELECTED_FROM_FILES, ids=_named)
def test_a_damaged_object_comes_from_local_files(alone: Machine, case: tuple[str, Fault]) -> None:
    name, fault = case
    before = alone.files()
    tip = alone.tip()
    fault(loose(alone.store, FROM_FILES[name]))
    once(alone)
    once(alone)
    assert is_whole(alone.store)
    assert alone.files() == before
    assert git("-C", alone.store, "merge-base", tip, TIP).strip() == tip


@pytest.mark.parametrize("name", ["flipped", "without index", "index truncated"])
def test_a_torn_pack_is_unpacked_as_far_as_it_goes(alone: Machine, name: str) -> None:
    before = alone.files()
    pack = pack_all(alone.store)
    if name == "flipped":  # in what local files have as well: other objects come out of the pack
        blob = git("-C", alone.store, "rev-parse", FROM_FILES["a memory file"]).strip()
        offset = next(
            int(line.split()[4])
            for line in git("-C", alone.store, "verify-pack", "-v", pack).splitlines()
            if line.startswith(blob)
        )
        _rewrite(pack, lambda data: data[: offset + 6] + bytes([data[offset + 6] ^ 1]) + data[offset + 7 :])
    else:
        PACK_FAULTS[name](pack)
    once(alone)
    assert is_whole(alone.store)
    assert alone.files() == before


# -- healed by nobody


@pytest.mark.parametrize("case", [("the root tree", truncated), ("the tip", missing)], ids=_named)
def test_what_nobody_has_stops_that_project_alone(alone: Machine, case: tuple[str, Fault]) -> None:
    name, fault = case
    other = session("of another project")
    context = alone.projects / f"{alone.context.name}2"
    (alone.home / "src/proj2").mkdir(exist_ok=True)
    git("init", "-q", alone.home / "src/proj2")
    git("-C", alone.home / "src/proj2", "remote", "add", "origin", REMOTE.replace("proj", "proj2"))
    context.mkdir(exist_ok=True)
    (context / f"{other}.jsonl").write_bytes(record(other, alone.home / "src/proj2", 0))
    fault(loose(alone.store, OBJECTS[name]))
    before, tip = alone.files(), alone.tip()
    done = alone.run_daemon("--once")
    assert done.returncode == 6, done.stderr
    assert "the store is damaged" in done.stderr
    assert alone.files() == before
    assert alone.tip() == tip
    assert git("-C", alone.store, "rev-parse", "refs/heads/project/proj2")
    shutil.rmtree(context)
    shutil.rmtree(alone.home / "src/proj2")


def test_a_running_daemon_says_what_to_do_and_heals_once_a_peer_has_it(
    alone: Machine, tmp_path: Path
) -> None:
    hub = make_hub(tmp_path / "hub.git")
    git("-C", alone.store, "push", "-q", hub, TIP)
    truncated(loose(alone.store, OBJECTS["the root tree"]))
    try:
        alone.start()
        alone.ctl("wait", "--for", "synced", "--timeout", "5")
        (told,) = [one for one in alone.status()["attention"] if one["kind"] == "damaged"]
        assert told["project"] == "proj"
        assert told["fix"] == REMEDY
        alone.stop()
        alone.hubs = (hub,)
        alone.configure()
        alone.start()
        alone.wait_synced()
        assert [one for one in alone.status()["attention"] if one["kind"] in ("damaged", "error")] == []
    finally:
        alone.kill()
        alone.hubs = ()
        alone.configure()
    assert is_whole(alone.store)
    assert is_whole(hub)
