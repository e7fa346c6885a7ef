"""What was written and is not on the disk yet: readable at once, durable together, never half."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pygit2
import pytest

from convergenced.errors import MissingObjectError, StoreError
from convergenced.model import MODE_BLOB, Author, Commit, LocalPath, Oid, TreeEntry
from convergenced.store import intake, loose, packfile
from convergenced.store.git import GitStore
from convergenced.store.peers import open_peer
from convergenced.store.repo import open_store
from convergenced.store.transfer import copy_history

REF = "refs/heads/project/app"


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    return open_store(LocalPath(str(tmp_path / "store.git")))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What makes the disk take everything again; until then it makes nothing durable."""

    def refuse(_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    return monkeypatch.undo


def commit(store: GitStore, *blobs: bytes) -> Oid:
    entries = [TreeEntry(f"{n:04}", MODE_BLOB, store.write_blob(blob)) for n, blob in enumerate(blobs)]
    return store.write_commit(Commit(store.write_tree(entries), (), Author("a", "a@b"), 1, "one"))


def many(start: int = 0) -> list[bytes]:
    return [b"blob %d " % number * 50 for number in range(start, start + 2 * intake.FEW_OBJECTS)]


def packs(store: GitStore) -> list[str]:
    return sorted(os.listdir(Path(store.path, "objects", "pack")))


@pytest.mark.parametrize(
    "blobs",
    [
        [b"one", b"two"],
        many(),
        [os.urandom(intake.FEW_BYTES), b"", b"x"],
        [b"%d" % number * (packfile.BYTES_AHEAD // 2) for number in range(6)],
    ],
)
def test_what_is_written_can_be_read_before_and_after_it_is_on_the_disk(
    store: GitStore, blobs: list[bytes]
) -> None:
    oids = [store.write_blob(blob) for blob in blobs]

    def check(one: GitStore) -> None:
        assert [one.read_blob(oid) for oid in oids] == blobs
        assert [one.blob_size(oid) for oid in oids] == [len(blob) for blob in blobs]

    check(store)
    store.settle()
    check(store)
    check(GitStore(store.path))
    assert [store.write_blob(blob) for blob in blobs] == oids


def test_few_objects_are_loose_and_many_are_one_pack_that_git_finds_whole(store: GitStore) -> None:
    store.swap(REF, None, commit(store, b"a few"))
    assert packs(store) == []
    store.swap(f"{REF}2", None, commit(store, *many()))
    assert [Path(name).suffix for name in packs(store)] == [".idx", ".pack"]
    git = ("git", "--git-dir", store.path)
    subprocess.run([*git, "fsck", "--strict", "--full"], check=True, capture_output=True)
    (pack,) = (name for name in packs(store) if name.endswith(".pack"))
    listed = subprocess.run(
        [*git, "verify-pack", "-v", f"{store.path}/objects/pack/{pack}"], check=True, capture_output=True
    )
    assert listed.stdout.count(b" blob ") == len(many())


def test_another_kind_of_object_is_not_read(store: GitStore) -> None:
    blob = store.write_blob(b"no tree")
    tree = store.write_tree([TreeEntry("a", MODE_BLOB, blob)])
    for wrong in (
        lambda: store.read_tree(blob),
        lambda: store.read_blob(tree),
        lambda: store.blob_size(tree),
    ):
        with pytest.raises(MissingObjectError):
            wrong()


def test_what_is_there_is_not_written_again(store: GitStore) -> None:
    store.swap(REF, None, commit(store, *many()))
    before = packs(store)
    assert commit(GitStore(store.path), *many()) == store.refs(REF)[REF]
    again = GitStore(store.path)
    again.swap(f"{REF}2", None, commit(again, *many()))
    assert packs(store) == before


@pytest.mark.parametrize("blobs", [[b"few"], many()])
def test_a_disk_that_refuses_moves_no_ref_and_leaves_nothing_behind(
    store: GitStore, blobs: list[bytes], full_disk: Callable[[], None]
) -> None:
    files = sorted(Path(store.path).rglob("*"))
    with pytest.raises(StoreError, match="Input/output error"):
        store.swap(REF, None, commit(store, *blobs))
    assert [path for path in sorted(Path(store.path).rglob("*")) if path.is_file()] == [
        path for path in files if path.is_file()
    ]
    full_disk()
    tip = commit(store, *blobs)
    store.swap(REF, None, tip)
    assert GitStore(store.path).read_commit(tip).message == "one\n"


def test_a_thread_whose_objects_another_one_lost_moves_no_ref(
    store: GitStore, full_disk: Callable[[], None]
) -> None:
    tip = commit(store, b"mine")

    def lose() -> None:
        with pytest.raises(StoreError):
            store.swap(f"{REF}-theirs", None, commit(store, b"mine", b"theirs"))

    other = threading.Thread(target=lose)
    other.start()
    other.join()
    full_disk()
    with pytest.raises(StoreError, match="lost"):
        store.swap(REF, None, tip)
    assert store.refs("refs/heads/project/") == {}
    store.swap(REF, None, commit(store, b"mine"))
    assert pygit2.Repository(store.path)[store.refs(REF)[REF]].peel(pygit2.Tree)[0].data == b"mine"  # type: ignore[union-attr]


def test_many_threads_write_into_one_pack(store: GitStore) -> None:
    def work(number: int) -> None:
        for turn in range(3):
            ref = f"{REF}-{number}-{turn}"
            store.swap(ref, None, commit(store, *many(number * 100 + turn)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.refs("refs/heads/project/")) == 12
    subprocess.run(
        ["git", "--git-dir", store.path, "fsck", "--strict", "--full"], check=True, capture_output=True
    )


def test_a_pack_that_a_crash_left_unfinished_is_swept(store: GitStore) -> None:
    commit(store, *many())
    assert [name.startswith(packfile.TEMPORARY) for name in packs(store)] == [True]
    open_store(store.path)
    assert packs(store) == []


def test_a_large_pack_is_finished_early(store: GitStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "PACK_BYTES", 10_000)
    tip = commit(store, *[os.urandom(500) for _ in range(3 * intake.FEW_OBJECTS)])
    assert len([name for name in packs(store) if name.endswith(".idx")]) >= 2
    store.swap(REF, None, tip)


def test_a_store_that_went_away_is_not_made_again(store: GitStore, tmp_path: Path) -> None:
    os.rename(store.path, tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        loose.write_loose(store.path, Oid("0" * 40), "blob", b"")
    assert not Path(store.path).exists()


def test_a_crash_between_two_names_leaves_whole_histories(
    store: GitStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = commit(store, b"one", b"two")
    plain, left = os.replace, [2]

    def replace(source: str, target: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EIO, "the machine went off")
        plain(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(StoreError):
        store.settle()
    repository = pygit2.Repository(store.path)
    assert tip not in repository
    assert all(Oid(str(pygit2.hash(data))) in repository for data in (b"one", b"two"))


def test_a_long_history_gets_to_a_path_as_one_pack(store: GitStore, tmp_path: Path) -> None:
    hub = pygit2.init_repository(str(tmp_path / "hub.git"), bare=True)
    store.swap(REF, None, commit(store, *many()))
    peer = open_peer(hub.path, store.path, name="hub", environ={})
    assert peer.push([REF]) == {REF: None}
    folder = Path(hub.path, "objects", "pack")
    assert sorted(path.suffix for path in folder.iterdir()) == [".idx", ".pack"]
    assert {path.stat().st_mode & 0o222 for path in folder.iterdir()} == {0}
    subprocess.run(
        ["git", "--git-dir", hub.path, "fsck", "--strict", "--full"], check=True, capture_output=True
    )


def test_a_push_that_is_broken_off_leaves_nothing_behind(store: GitStore, tmp_path: Path) -> None:
    hub = pygit2.init_repository(str(tmp_path / "hub.git"), bare=True)
    tip = commit(store, *many())
    store.swap(REF, None, tip)
    turns = iter(range(intake.FEW_OBJECTS + 10))

    def check() -> None:
        if next(turns, None) is None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        copy_history(pygit2.Repository(store.path), hub, pygit2.Oid(hex=tip), check)
    gc.collect()
    assert [path for path in Path(hub.path, "objects").rglob("*") if path.is_file()] == []
