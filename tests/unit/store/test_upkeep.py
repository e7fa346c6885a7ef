"""Upkeep: fewer and smaller files, and every object readable at every moment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pygit2
import pytest

from convergenced.errors import StoreError
from convergenced.model import Author, Commit, LocalPath, Oid, TreeEntry
from convergenced.store import upkeep
from convergenced.store.git import GitStore
from convergenced.store.intake import FEW_OBJECTS
from convergenced.store.repo import open_store
from convergenced.store.upkeep import Upkeep, Upkept, _to_join

AUTHOR = Author("ann", "ann@example.org")
REF = "refs/heads/project/app"


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    return open_store(LocalPath(str(tmp_path / "store.git")))


def grow(store: GitStore, start: int, number: int, line: bytes = b"line %d of a growing file %d\n") -> Oid:
    """Commits a file that gets one more line each time, and one that never changes."""
    fixed = store.write_blob(b"fixed")
    tip = store.refs(REF).get(REF)
    for turn in range(start, start + number):
        lines = b"".join(line % (one, one * 7919 % 1000) for one in range(turn + 1))
        below = store.write_tree([TreeEntry("0000", 0o100644, store.write_blob(lines))])
        tree = store.write_tree([TreeEntry("fixed", 0o100644, fixed), TreeEntry("segments", 0o040000, below)])
        commit = store.write_commit(
            Commit(tree, (tip,) if tip else (), AUTHOR, 1_700_000_000 + turn, f"{turn}")
        )
        store.swap(REF, tip, commit)
        tip = commit
    assert tip is not None
    return tip


def objects(store: GitStore) -> dict[str, bytes]:
    """Everything that is in the store, read anew."""
    repo = pygit2.Repository(store.path)
    return {str(oid): bytes(repo.odb.read(oid)[1]) for oid in repo.odb}


def files(store: GitStore, suffix: str) -> list[str]:
    folder = os.path.join(store.path, "objects", "pack")
    return sorted(name for name in os.listdir(folder) if name.endswith(suffix))


def loose(store: GitStore) -> int:
    folders = (entry for entry in os.scandir(os.path.join(store.path, "objects")) if len(entry.name) == 2)
    return sum(len(os.listdir(folder)) for folder in folders)


def size(path: str) -> int:
    return sum(os.path.getsize(os.path.join(top, name)) for top, _, names in os.walk(path) for name in names)


def fsck(store: GitStore) -> str:
    done = subprocess.run(
        ["git", "-C", store.path, "fsck", "--strict", "--full", "--no-dangling"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


def test_loose_objects_go_into_a_pack_and_stay_what_they_were(store: GitStore) -> None:
    tip = grow(store, 0, 30)
    before = objects(store)
    assert Upkeep(store.path).run() == Upkept(packed=len(before))
    assert objects(store) == before
    assert loose(store) == 0
    assert store.read_commit(tip).time == 1_700_000_029  # by a handle that was opened before
    assert fsck(store) == ""


def test_what_no_ref_names_is_kept_too(store: GitStore) -> None:
    grow(store, 0, 3)
    stray = store.write_blob(b"nobody names me yet")
    lone_tree = store.write_tree([TreeEntry("a", 0o100644, stray)])
    Upkeep(store.path).run()
    assert loose(store) == 0
    assert store.read_blob(stray) == b"nobody names me yet"
    assert store.read_tree(lone_tree)[0].oid == stray


def test_it_packs_as_small_as_git_does(store: GitStore, tmp_path: Path) -> None:
    grow(store, 0, 100, b"%040d" * 1 + b" and %d\n")
    subprocess.run(["cp", "-r", store.path, tmp_path / "other.git"], check=True)
    Upkeep(store.path).run()
    subprocess.run(["git", "-C", tmp_path / "other.git", "repack", "-adq"], check=True)
    assert size(f"{store.path}/objects") <= 1.1 * size(str(tmp_path / "other.git" / "objects"))


def test_packs_of_one_size_are_joined_and_the_old_ones_go_a_run_later(store: GitStore) -> None:
    keeper = Upkeep(store.path)
    grow(store, 0, 20)
    keeper.run()
    grow(store, 20, 20)
    reader = GitStore(store.path)
    reader.read_commit(reader.refs(REF)[REF])
    before = objects(store)
    assert keeper.run().joined == 2
    assert len(files(store, ".pack")) == 3
    keeper.run()
    assert len(files(store, ".pack")) == len(files(store, ".idx")) == 1
    assert objects(store) == before
    for oid, data in before.items():
        if reader._repo.odb.read_header(oid)[0] == pygit2.enums.ObjectType.BLOB:
            assert reader.read_blob(Oid(oid)) == data
    assert fsck(store) == ""


@pytest.mark.parametrize(
    ("sizes", "joined"),
    [
        ({}, ""),
        ({"a": 10}, ""),
        ({"a": 10, "b": 20}, ""),
        ({"a": 10, "b": 19}, "ab"),
        ({"a": 10, "b": 20, "c": 60, "d": 500}, ""),
        ({"a": 10, "b": 20, "c": 59, "d": 500}, "abc"),
        ({"a": 10, "b": 10, "c": 500}, "ab"),
    ],
)
def test_a_pack_is_left_alone_while_it_outweighs_all_smaller_ones(sizes: dict[str, int], joined: str) -> None:
    assert "".join(_to_join(sizes)) == joined


def test_the_work_of_a_long_life_grows_with_the_store_and_not_with_its_square(store: GitStore) -> None:
    keeper = Upkeep(store.path)
    written = 0
    for turn in range(16):
        grow(store, turn * 3, 3, b"%d %d" + os.urandom(40).hex().encode() + b"\n")
        before = set(files(store, ".pack"))
        keeper.run()
        fresh = set(files(store, ".pack")) - before
        written += sum(os.path.getsize(os.path.join(store.path, "objects", "pack", name)) for name in fresh)
    keeper.run()
    assert len(files(store, ".pack")) <= 6
    assert written <= 8 * size(os.path.join(store.path, "objects", "pack"))


def test_it_is_due_only_when_much_is_loose(store: GitStore, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Upkeep(store.path)
    assert not keeper.is_due()
    grow(store, 0, 10)
    assert not keeper.is_due()
    monkeypatch.setattr(upkeep, "LOOSE_LIMIT", 20)
    grow(store, 10, 60)
    assert keeper.is_due()
    keeper.run()
    assert not keeper.is_due()


class BrokenOffError(Exception):
    """Breaks off."""


def test_broken_off_at_any_point_nothing_is_lost_and_the_next_run_ends_the_work(store: GitStore) -> None:
    before: dict[str, bytes] = {}
    for turn in range(2000):
        left = turn

        def check() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise BrokenOffError

        try:
            Upkeep(store.path, check).run()
        except BrokenOffError:
            assert all(objects(store)[oid] == data for oid, data in before.items())
        else:
            break
        if turn == 0:
            grow(store, 0, 2)
            before = objects(store)
    assert turn > 2
    assert loose(store) == 0
    assert os.listdir(os.path.join(store.path, "objects")) != []
    assert not os.path.exists(os.path.join(store.path, "objects", "upkeep"))


def test_a_damaged_object_stays_where_it_is_and_the_others_are_packed(store: GitStore) -> None:
    grow(store, 0, 5)
    oid = store.write_blob(b"to be damaged")
    store.settle()
    path = os.path.join(store.path, "objects", oid[:2], oid[2:])
    os.chmod(path, 0o600)
    Path(path).write_bytes(b"no zlib at all")
    Upkeep(store.path).run()
    assert loose(store) == 1
    assert Path(path).read_bytes() == b"no zlib at all"
    assert len(files(store, ".pack")) == 1


def test_an_object_damaged_behind_its_header_stops_nothing_else(store: GitStore) -> None:
    grow(store, 0, 5)
    oid = store.write_blob(os.urandom(5000))
    store.settle()
    path = os.path.join(store.path, "objects", oid[:2], oid[2:])
    data = bytearray(Path(path).read_bytes())
    data[2500] ^= 0xFF
    os.chmod(path, 0o600)
    Path(path).write_bytes(data)
    Upkeep(store.path).run()
    assert loose(store) == 1


def test_a_disk_that_refuses_is_told(store: GitStore) -> None:
    grow(store, 0, 3)
    Path(store.path, "objects", "upkeep").write_text("a file in the way")
    with pytest.raises(StoreError, match="could not be packed"):
        Upkeep(store.path).run()


def test_many_packs_are_due_to_be_joined(store: GitStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "PACK_LIMIT", 3)
    for turn in range(3):
        keeper = Upkeep(store.path)
        assert not keeper.is_due()
        for number in range(2 * FEW_OBJECTS):
            store.write_blob(b"%d of turn %d" % (number, turn))
        store.settle()
    before = objects(store)
    assert keeper.is_due()
    assert keeper.run().joined == 4  # with what was loose
    assert not keeper.is_due()
    keeper.run()
    assert len(files(store, ".pack")) == 1
    assert objects(store) == before
