"""What disks and people do to a store and a state database, and what the real daemon makes of it.

Each case begins at the moment of `tests.crash.pairs`. Where the local files, the peers and the rest of the
store have everything, the end is the same as if nothing had happened, and nobody did anything for it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convergenced.machine.durable import TEMPORARY_PREFIX
from tests.crash.pairs import Files, Pair, lose_all_but_files, once, session
from tests.e2e.machines import Machine, await_true, git, make_hub, record
from tests.profiles import DEEP

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
    *("branch locked", "branch empty", "HEAD gone", "packed-refs cut"),
    *("store set back", "refs set back", "state foreign", "state pages junk", "wal junk"),
)


@pytest.mark.parametrize("name", HEALED if DEEP else SELECTED)
def test_a_fault_that_heals_by_itself_leaves_no_trace(pair: Pair, undisturbed: Files, name: str) -> None:
    HEALED[name](pair)
    for machine in pair.machines:
        once(machine)
    pair.check_equal(undisturbed)


def test_what_was_set_aside_is_told_in_the_log(pair: Pair) -> None:
    left_over_lock("HEAD")(pair)
    emptied(TRACKING)(pair)
    once(pair.desktop)
    told = pair.desktop.do("log", "--json")
    assert "HEAD.lock" in told
    assert TRACKING in told
    assert str(pair.desktop.store / "set-aside") in told


def test_a_folder_without_objects_is_left_alone_and_told_of(pair: Pair) -> None:
    shutil.rmtree(pair.desktop.store / "objects")
    left = {path: path.stat().st_mtime_ns for path in pair.desktop.store.rglob("*")}
    before = pair.desktop.files()
    done = pair.desktop.run_daemon("--once")
    assert done.returncode == 1
    assert "move it away" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in pair.desktop.store.rglob("*")} == left
    assert pair.desktop.files() == before


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

LAPTOP_FIRST = b"FIRST\n\nmiddle\n\n<<<<<<< convergence\nLAST\n=======\nlast\n>>>>>>> convergence\n"
"""The note where the laptop's word came before the desktop's own was read."""

SELECTED_ANEW = ("store gone", "replica's ref empty", "packed-refs junk")


@pytest.mark.parametrize("name", BEGUN_ANEW if DEEP else SELECTED_ANEW)
def test_what_was_lost_is_rebuilt_from_local_files_and_peers(
    pair: Pair, undisturbed: Files, undisturbed_anew: Files, name: str
) -> None:
    BEGUN_ANEW[name](pair)
    for machine in pair.machines:
        once(machine)
    if name == "replica's ref empty":
        # The branch is left: it matters for notes whether the laptop's word of them comes first.
        here = pair.desktop.files()
        known = [one["desktop"]["memory/edited.md"] for one in (undisturbed, undisturbed_anew)]
        assert here["memory/edited.md"] in (*known, LAPTOP_FIRST)
        assert here["memory/new.md"] == undisturbed_anew["desktop"]["memory/new.md"]
        notes = {path: data for path, data in here.items() if path.startswith("memory/")}
        undisturbed_anew = {
            machine: {path: data for path, data in files.items() if not path.startswith("memory/")} | notes
            for machine, files in undisturbed_anew.items()
        }
    pair.check_equal(undisturbed_anew)


def test_rebuilding_keeps_both_sides_of_what_was_edited(undisturbed: Files, undisturbed_anew: Files) -> None:
    for name, files in undisturbed_anew.items():
        assert {path: data for path, data in files.items() if not path.startswith("memory/")} == {
            path: data for path, data in undisturbed[name].items() if not path.startswith("memory/")
        }
        assert files["memory/gone.md"] == b"for a while\n"
        lines = files["memory/edited.md"].split(b"\n")
        assert {b"FIRST", b"first", b"middle", b"LAST", b"last"} <= set(lines)


# -- while the daemon runs


@contextlib.contextmanager
def mounted(place: Path, *words: str) -> Iterator[None]:
    """Something mounted at `place`; skips where that is not allowed."""
    done = subprocess.run(["mount", *words, place], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A small file system of its own at `place`, with what lies there now."""
    kept = place.with_name(f"{place.name}.kept")
    shutil.copytree(place, kept, symlinks=True)
    with mounted(place, "-t", "tmpfs", "-o", f"size={size},mode=0700", "none"):
        shutil.copytree(kept, place, symlinks=True, dirs_exist_ok=True)
        yield


@contextlib.contextmanager
def full(place: Path) -> Iterator[None]:
    """No byte is left on the file system of `place`."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        for piece in (b"x" * 4096, b"x"):
            with contextlib.suppress(OSError):
                while True:
                    stream.write(piece)
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def read_only(place: Path) -> Iterator[None]:
    """Nothing can be written at `place` any more."""
    with mounted(place, "--bind", str(place)):
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
        yield


@contextlib.contextmanager
def forbidden(mode: int, *folders: Path) -> Iterator[None]:
    """The user has only the rights of `mode` in these folders."""
    former = [folder.stat().st_mode for folder in folders]
    for folder in folders:
        folder.chmod(mode)
    try:
        yield
    finally:
        for folder, rights in zip(folders, former, strict=True):
            folder.chmod(rights)


def tells_of_trouble(machine: Machine) -> bool:
    """Whether somebody who asks is told; then nothing may be called synced."""
    status = machine.status()
    if not status["attention"] and status["daemon"]["state"] == "running":
        return False
    assert status["projects"][0]["state"] != "synced"
    assert machine.ctl("wait", "--for", "synced", "--timeout", "0.1").returncode != 0
    return True


SID = session("disk")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users can get at, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="disk") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def lone(place: Path) -> Iterator[Machine]:
    """A machine with one session and a hub."""
    machine = Machine(place / "lone", "desktop", (make_hub(place / "hub.git"),))
    machine.append(SID, record(SID, machine.project, 0))
    yield machine
    machine.kill()


def _commits_once_it_can(machine: Machine, fault: contextlib.AbstractContextManager[None]) -> None:
    """A record written during the fault is told to be stuck, and goes in when the fault is over."""
    machine.wait_synced()
    with fault:
        transcript = machine.append(SID, record(SID, machine.project, 1))
        before = transcript.read_bytes()
        await_true(lambda: tells_of_trouble(machine), "the trouble to be told")
        assert transcript.read_bytes() == before
    machine.wait_synced()
    assert machine.status()["projects"][0]["state"] == "synced"
    if DEEP:  # what was told of a store is taken back when it was looked at again
        await_true(lambda: machine.status()["attention"] == [], "nothing to be left to tell")
    assert transcript.read_bytes() == before
    for repository in (machine.store, Path(machine.hubs[0])):
        # It may belong to another user by now.
        look = ("-c", "safe.directory=*", "-C", repository)
        assert git(*look, "fsck", "--strict", "--full", "--no-dangling") == ""
        shown = git(*look, "show", f"project/proj:segments/{SID}/0000/00")
        assert shown.count("\n") == 2


def test_a_full_disk_under_store_and_state(lone: Machine) -> None:
    with small_disk(lone.conv, "3m"):
        lone.start()
        _commits_once_it_can(lone, full(lone.conv))
        lone.stop()


def test_a_store_that_becomes_read_only(lone: Machine) -> None:
    lone.start()
    _commits_once_it_can(lone, read_only(lone.store))


@contextlib.contextmanager
def away(folder: Path) -> Iterator[None]:
    """The folder is not there, as that of a disk that was taken out."""
    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(folder)


def test_a_store_that_goes_away_and_comes_back(lone: Machine) -> None:
    lone.start()
    _commits_once_it_can(lone, away(lone.store))


def test_a_store_that_is_set_back_under_a_running_daemon(lone: Machine) -> None:
    lone.start()
    lone.wait_synced()
    older = lone.conv / "older.git"
    shutil.copytree(lone.store, older)
    lone.append(SID, record(SID, lone.project, 1))
    lone.wait_synced()
    # The hub shall not be the one that helps.
    shutil.rmtree(lone.hubs[0])
    make_hub(Path(lone.hubs[0]))
    shutil.rmtree(lone.store)
    older.rename(lone.store)
    lone.do("sync", "--wait")
    shown = git("-C", lone.hubs[0], "show", f"project/proj:segments/{SID}/0000/00")
    assert shown.count("\n") == 2


def test_a_store_that_may_not_be_written(lone: Machine, place: Path) -> None:
    _hand_over(lone, place)
    lone.start()
    lone.wait_synced()
    objects = lone.store / "objects"
    _commits_once_it_can(lone, forbidden(0o555, objects, *objects.iterdir()))


def test_a_context_folder_that_may_not_be_read(lone: Machine, place: Path) -> None:
    _hand_over(lone, place)
    lone.start()
    _commits_once_it_can(lone, forbidden(0o300, lone.context))


def _hand_over(machine: Machine, place: Path) -> None:
    """Has the machine belong to a user whom permissions stop."""
    if os.geteuid() != 0:
        return
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not here, and permissions do not stop root")
    machine.wrap = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    subprocess.run(["chown", "-R", "65534:65534", place], check=True)
    if machine.run_daemon("--version").returncode != 0:
        pytest.skip("another user cannot run the daemon from where it is installed")


def _arrives_once_it_can(
    pair: Pair, end: Files, fault: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    """What comes for the laptop waits while its folder cannot take it, and is told to."""
    laptop = pair.laptop
    before = laptop.files()
    laptop.start()
    try:
        with fault():
            once(pair.desktop)
            await_true(lambda: tells_of_trouble(laptop), "the trouble to be told")
            for path, data in laptop.files().items():
                if path != "filler" and not path.startswith(TEMPORARY_PREFIX):
                    assert data in (before.get(path), end["laptop"].get(path)), path
            # It tries again and again meanwhile.
            await_true(lambda: not list(laptop.projects.rglob(f"{TEMPORARY_PREFIX}*")), "nothing left over")
        laptop.wait_synced()
        assert laptop.status()["attention"] == []
    finally:
        laptop.stop()
    once(pair.desktop)
    pair.check_equal(end)


def test_a_full_disk_under_the_projects_folder(pair: Pair, undisturbed: Files) -> None:
    with small_disk(pair.laptop.projects, "1m"):
        _arrives_once_it_can(pair, undisturbed, lambda: full(pair.laptop.projects))


def test_a_projects_folder_that_becomes_read_only(pair: Pair, undisturbed: Files) -> None:
    _arrives_once_it_can(pair, undisturbed, lambda: read_only(pair.laptop.projects))


# -- what reaches the disk


def _traced(*words: str) -> tuple[str, ...]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not here")
    wrap = ("strace", "-f", "-qq", *words)
    if subprocess.run([*wrap, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("strace is not allowed to trace here")
    return wrap


@pytest.mark.parametrize("when", ["1", "2", "4", "8", "16", "1+", "3+", "9+"] if DEEP else ["1+"])
def test_a_disk_that_cannot_sync_ends_in_nothing_that_is_not_durable(
    pair: Pair, undisturbed: Files, when: str, tmp_path: Path
) -> None:
    desktop = pair.desktop
    before = desktop.files()
    inject = f"inject=fsync,fdatasync:error=EIO:when={when}"
    desktop.wrap = _traced("-o", str(tmp_path / "trace"), "-e", "trace=fsync,fdatasync", "-e", inject)
    try:
        done = desktop.run_daemon("--once")
    finally:
        desktop.wrap = ()
    assert "INJECTED" in (tmp_path / "trace").read_text()
    assert done.returncode != 0 or not when.endswith("+"), done.stderr
    for path, data in desktop.files().items():
        assert data in (before.get(path), undisturbed["desktop"].get(path)), path
    pair.check_whole()
    for machine in pair.machines:
        once(machine)
    pair.check_equal(undisturbed)


def test_everything_is_on_the_disk_before_it_has_its_name(pair: Pair, tmp_path: Path) -> None:
    desktop = pair.desktop
    calls = "trace=fsync,fdatasync,rename,renameat,renameat2,link,linkat"
    desktop.wrap = _traced("-y", "-o", str(tmp_path / "trace"), "-s", "4096", "-e", calls)
    try:
        once(desktop)
    finally:
        desktop.wrap = ()
    synced: set[Path] = set()
    unsynced: dict[Path, str] = {}
    """Folders with a new name in them, and the thread that gave it: another may be in its work."""
    named = {"objects": 0, "refs": 0, "projects": 0, "backups": 0}
    for thread, name, arguments in _calls((tmp_path / "trace").read_text()):
        source, *target = _paths(arguments)
        if not target:
            synced.add(source)
            unsynced.pop(source, None)
            continue
        kind = next(one for one in named if one in target[0].parts)
        named[kind] += 1
        # A backup is another name for what the client wrote; all else we wrote ourselves.
        assert source in synced or kind == "backups", (name, arguments)
        if kind == "refs":
            repository = Path(*target[0].parts[: target[0].parts.index("refs")])
            mine = [folder for folder, by in unsynced.items() if by == thread]
            assert not [folder for folder in mine if folder.is_relative_to(repository)], arguments
        unsynced[target[0].parent] = thread
    assert all(named.values()), named
    assert unsynced == {}


def _paths(arguments: str) -> list[Path]:
    """The paths that a call is about: what a descriptor stands for, and the name in it where one follows."""
    found: list[Path] = []
    for folder, name in re.findall(r'(?:(?:\d+|AT_FDCWD)<([^>]*)>)?(?:, )?(?:"([^"]*)")?', arguments):
        if folder or name:
            found.append(Path(folder or "/", name))
    return found


def _calls(trace: str) -> Iterator[tuple[str, str, str]]:
    """Thread, name and arguments of each call that was successful, in the order in which they ended."""
    begun: dict[str, tuple[str, str]] = {}
    for line in trace.splitlines():
        pid, _, text = line.partition(" ")
        if whole := re.fullmatch(r" *(\w+)\((.*)\) += 0", text):
            yield pid, whole[1], whole[2]
        elif unfinished := re.fullmatch(r" *(\w+)\((.*) <unfinished \.\.\.>", text):
            begun[pid] = unfinished[1], unfinished[2]
        elif re.fullmatch(r" *<\.\.\. \w+ resumed>.*\) += 0", text):
            yield pid, *begun[pid]
