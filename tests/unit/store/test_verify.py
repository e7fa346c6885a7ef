"""`store.verify`: each kind of flaw is found, and nothing else is taken for one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pygit2
import pytest

from convergenced.model import MODE_BLOB, MODE_TREE, Author, Commit, LocalPath, Oid, TreeEntry
from convergenced.store.git import GitStore
from convergenced.store.loose import loose_file
from convergenced.store.repo import open_store
from convergenced.store.verify import Flaw, verify
from tests.repositories import run_git

REF = "refs/heads/project/app"
AUTHOR = Author("ann", "ann@example.org")


def commit(store: GitStore, content: bytes, parent: Oid | None = None) -> Oid:
    blob = store.write_blob(content)
    folder = store.write_tree([TreeEntry("a", MODE_BLOB, blob)])
    root = store.write_tree([TreeEntry("context", MODE_TREE, folder)])
    made = store.write_commit(Commit(root, () if parent is None else (parent,), AUTHOR, 1_700_000_000, "m"))
    store.swap(REF, parent, made)
    return made


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    store = open_store(LocalPath(str(tmp_path / "store.git")))
    commit(store, b"second " * 9000, commit(store, b"first " * 9000))
    return store


def oid_of(store: GitStore, name: str) -> Oid:
    return Oid(run_git("-C", store.path, "rev-parse", name).strip())


def pack_of(store: GitStore) -> Path:
    run_git("-C", store.path, "repack", "-adq")
    (pack,) = Path(store.path, "objects", "pack").glob("*.pack")
    pack.chmod(0o600)
    return pack


def change(path: Path | str, how: Callable[[bytes], bytes]) -> None:
    os.chmod(path, 0o600)
    data = Path(path).read_bytes()
    Path(path).write_bytes(how(data))


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def found(store: GitStore) -> list[tuple[str, Oid | None]]:
    return [(flaw.kind, flaw.oid) for flaw in verify(store)]


@pytest.mark.parametrize("packed", [False, True])
def test_a_whole_store_has_no_flaw(store: GitStore, packed: bool) -> None:
    if packed:
        pack_of(store)
    assert list(verify(store)) == []


@pytest.mark.parametrize(
    "name", [REF, f"{REF}^{{tree}}", f"{REF}:context", f"{REF}:context/a", f"{REF}~1:context/a"]
)
@pytest.mark.parametrize("how", [lambda data: data[: len(data) // 2], flip, lambda _: b""])
def test_a_damaged_object(store: GitStore, name: str, how: Callable[[bytes], bytes]) -> None:
    oid = oid_of(store, name)
    change(loose_file(store.path, oid), how)
    assert found(store) == [("damaged", oid)]


def test_a_folder_in_an_objects_place(store: GitStore) -> None:
    oid = oid_of(store, f"{REF}:context/a")
    os.unlink(loose_file(store.path, oid))
    os.mkdir(loose_file(store.path, oid))
    assert found(store) == [("damaged", oid)]


def test_a_missing_object_is_told_with_its_place(store: GitStore) -> None:
    oid = oid_of(store, f"{REF}:context/a")
    os.unlink(loose_file(store.path, oid))
    assert list(verify(store)) == [Flaw("missing", REF, oid, f"blob {oid} (context/a) is missing")]


def test_an_object_of_another_kind(store: GitStore) -> None:
    blob = store.write_blob(b"no tree")
    bad = store.write_tree([TreeEntry("context", MODE_TREE, blob)])
    made = store.write_commit(Commit(bad, (), AUTHOR, 1, "m"))
    store.swap("refs/heads/project/other", None, made)
    assert found(store) == [("damaged", blob)]


def test_what_git_would_not_accept(store: GitStore) -> None:
    blob = store.write_blob(b"x")
    repository = pygit2.Repository(store.path)
    data = b"100644 .git\0" + bytes.fromhex(blob)
    tree = Oid(str(repository.odb.write(pygit2.enums.ObjectType.TREE, data)))
    store.swap("refs/heads/project/other", None, store.write_commit(Commit(tree, (), AUTHOR, 1, "m")))
    assert found(store) == [("malformed", tree)]


@pytest.mark.parametrize("how", [lambda data: data[: len(data) - 60], flip])
def test_a_torn_pack(store: GitStore, how: Callable[[bytes], bytes]) -> None:
    pack = pack_of(store)
    change(pack, how)
    first, *others = verify(store)
    assert (first.kind, first.where) == ("pack", f"objects/pack/{pack.name}")
    assert others


@pytest.mark.parametrize("ending", [".pack", ".idx"])
def test_half_a_pack(store: GitStore, ending: str) -> None:
    pack = pack_of(store)
    pack.with_suffix(ending).unlink()
    left = pack.with_suffix(".idx" if ending == ".pack" else ".pack")
    assert ("pack", f"objects/pack/{left.name}") in [(flaw.kind, flaw.where) for flaw in verify(store)]


def test_refs_and_locks(store: GitStore) -> None:
    Path(store.path, "refs/heads/project/empty").touch()
    Path(store.path, f"{REF}.lock").touch()
    assert [(flaw.kind, flaw.where) for flaw in verify(store)] == [
        ("ref", "refs/heads/project/empty"),
        ("lock", f"{REF}.lock"),
    ]


def test_only_what_is_asked_for(store: GitStore) -> None:
    os.unlink(loose_file(store.path, oid_of(store, f"{REF}:context/a")))
    assert list(verify(store, ["refs/heads/main"])) == []


def test_it_can_be_broken_off(store: GitStore) -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        list(verify(store, check=stop))
