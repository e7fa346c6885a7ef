"""What disks and people do to a store and a state database, and what the real daemon makes of it.

Each case begins at the moment of `tests.crash.pairs`. Where the local files, the peers and the rest of the
store have everything, the end is the same as if nothing had happened, and nobody did anything for it.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.pairs import DEEP, Files, Pair, lose_all_but_files, once
from tests.e2e.machines import Machine, git

Fault = Callable[[Pair], None]

PROJECT = "refs/heads/project/proj"
TRACKING = "refs/peers/hub/project/proj"
JUNK = bytes(range(255, 0, -1)) * 64


def replica_ref(machine: Machine) -> str:
    """The one ref of the machine's one context folder."""
    return git("-C", machine.store, "for-each-ref", "--format=%(refname)", "refs/convergence/local").strip()


def left_over_lock(name: str) -> Fault:
    return lambda pair: (pair.desktop.store / f"{_named(pair, name)}.lock").touch()


def emptied(name: str) -> Fault:
    return lambda pair: _rewrite(pair.desktop.store / _named(pair, name), lambda _: b"")


def _named(pair: Pair, name: str) -> str:
    return replica_ref(pair.desktop) if name == "replica" else name


def _rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Gives a file other bytes, without touching the inode that the kept moment has as well."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(change(data))


def packed_refs(change: Callable[[bytes], bytes]) -> Fault:
    def fault(pair: Pair) -> None:
        git("-C", pair.desktop.store, "pack-refs", "--all")
        _rewrite(pair.desktop.store / "packed-refs", change)

    return fault


def state(change: Callable[[bytes], bytes], suffix: str = "") -> Fault:
    return lambda pair: _change(pair.desktop.conv / f"state.sqlite{suffix}", change)


def _change(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes() if path.exists() else b""))


def no_state(pair: Pair) -> None:
    for path in pair.desktop.conv.glob("state.sqlite*"):
        path.unlink()


def foreign_state(pair: Pair) -> None:
    no_state(pair)
    with sqlite3.connect(pair.desktop.conv / "state.sqlite") as database:
        database.execute("CREATE TABLE file (something TEXT)")
    database.close()


def state_is_a_folder(pair: Pair) -> None:
    no_state(pair)
    (pair.desktop.conv / "state.sqlite").mkdir()


def no_head(pair: Pair) -> None:
    (pair.desktop.store / "HEAD").unlink()


def store_set_back(pair: Pair) -> None:
    """As after a restored backup: what the desktop committed since is gone, its state knows better."""
    older = pair.top / "older.git"
    shutil.copytree(pair.desktop.store, older)
    _once_alone(pair.desktop)
    shutil.rmtree(pair.desktop.store)
    older.rename(pair.desktop.store)


def refs_set_back(pair: Pair) -> None:
    """The same where the newer objects survived."""
    older = pair.top / "older"
    shutil.copytree(pair.desktop.store / "refs", older)
    _once_alone(pair.desktop)
    shutil.rmtree(pair.desktop.store / "refs")
    older.rename(pair.desktop.store / "refs")


def _once_alone(machine: Machine) -> None:
    hubs, machine.hubs = machine.hubs, ()
    machine.configure()
    once(machine)
    machine.hubs = hubs
    machine.configure()


HEALED: dict[str, Fault] = {
    "branch locked": left_over_lock(PROJECT),
    "replica's ref locked": left_over_lock("replica"),
    "tracking ref locked": left_over_lock(TRACKING),
    "HEAD locked": left_over_lock("HEAD"),
    "packed-refs locked": left_over_lock("packed-refs"),
    "config locked": left_over_lock("config"),
    "branch empty": emptied(PROJECT),
    "tracking ref empty": emptied(TRACKING),
    "HEAD empty": emptied("HEAD"),
    "HEAD gone": no_head,
    "config empty": emptied("config"),
    "packed-refs cut": packed_refs(lambda data: data[:-1]),
    "packed-refs cut in the middle": packed_refs(lambda data: data[: len(data) // 2]),
    "store set back": store_set_back,
    "refs set back": refs_set_back,
    "state gone": no_state,
    "state foreign": foreign_state,
    "state is a folder": state_is_a_folder,
    "state empty": state(lambda _: b""),
    "state junk": state(lambda _: JUNK),
    "state cut": state(lambda data: data[: len(data) // 2]),
    "state page junk": state(lambda data: data[:4096] + b"Z" * 3000 + data[7096:]),
    "state pages junk": state(lambda data: data[:8192] + b"Z" * (len(data) - 8192)),
    "wal junk": state(lambda _: JUNK, "-wal"),
    "shm junk": state(lambda _: JUNK, "-shm"),
}
"""Faults after which everything ends as if there had been none."""

SELECTED = (
    *("branch locked", "HEAD locked", "branch empty", "tracking ref empty", "HEAD gone", "packed-refs cut"),
    *("store set back", "refs set back", "state foreign", "state pages junk", "wal junk"),
)


@pytest.mark.parametrize("name", HEALED if DEEP else SELECTED)
def test_a_fault_that_heals_by_itself_leaves_no_trace(pair: Pair, undisturbed: Files, name: str) -> None:
    HEALED[name](pair)
    for machine in pair.machines:
        once(machine)
    pair.check_equal(undisturbed)


def no_store(pair: Pair) -> None:
    shutil.rmtree(pair.desktop.store)


def empty_folder(pair: Pair) -> None:
    no_store(pair)
    pair.desktop.store.mkdir()


def empty_repository(pair: Pair) -> None:
    no_store(pair)
    git("init", "-q", "--bare", pair.desktop.store)


def no_refs(pair: Pair) -> None:
    shutil.rmtree(pair.desktop.store / "refs")


BEGUN_ANEW: dict[str, Fault] = {
    "store gone": no_store,
    "store an empty folder": empty_folder,
    "store an empty repository": empty_repository,
    "store and state gone": lambda pair: lose_all_but_files(pair.desktop),
    "refs gone": no_refs,
    "replica's ref empty": emptied("replica"),
    "packed-refs junk": packed_refs(lambda _: JUNK),
}
"""Faults after which it is not known any more which memory was edited since."""

SELECTED_ANEW = ("store gone", "refs gone", "replica's ref empty", "packed-refs junk")


@pytest.mark.parametrize("name", BEGUN_ANEW if DEEP else SELECTED_ANEW)
def test_what_was_lost_is_rebuilt_from_local_files_and_peers(
    pair: Pair, undisturbed_anew: Files, name: str
) -> None:
    BEGUN_ANEW[name](pair)
    for machine in pair.machines:
        once(machine)
    pair.check_equal(undisturbed_anew)


def test_rebuilding_keeps_both_sides_of_what_was_edited(undisturbed: Files, undisturbed_anew: Files) -> None:
    for name, files in undisturbed_anew.items():
        assert {path: data for path, data in files.items() if not path.startswith("memory/")} == {
            path: data for path, data in undisturbed[name].items() if not path.startswith("memory/")
        }
        assert files["memory/gone.md"] == b"for a while\n"
        lines = files["memory/edited.md"].split(b"\n")
        assert {b"FIRST", b"first", b"middle", b"LAST", b"last"} <= set(lines)
