"""`store.heal`: what packs and peers have comes back, the rest is told, and nothing is deleted."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from convergenced.errors import MissingObjectError
from convergenced.model import LocalPath, Oid
from convergenced.ports import Peer
from convergenced.store.git import GitStore
from convergenced.store.heal import heal, heal_peer, set_incomplete_aside
from convergenced.store.loose import loose_file
from convergenced.store.peers import Transport, open_peer
from convergenced.store.transport_path import PathPeer
from convergenced.store.verify import verify
from tests.repositories import run_git
from tests.unit.store.test_verify import REF, change, commit, flip, oid_of, pack_of, store

__all__ = ["store"]

NAMES = (REF, f"{REF}^{{tree}}", f"{REF}:context", f"{REF}:context/a", f"{REF}~1")


@pytest.fixture
def hub(store: GitStore, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store.path, tmp_path / "hub.git"))


def peer_at(store: GitStore, hub: Path, transport: Transport = "auto") -> Peer:
    return open_peer(str(hub), store.path, name="hub", transport=transport, environ=dict(os.environ))


def is_whole(path: str | Path) -> bool:
    return run_git("-C", str(path), "fsck", "--strict", "--full", "--no-dangling") == ""


@pytest.mark.parametrize("transport", ["auto", "git"])
def test_whatever_is_missing_comes_from_a_peer(store: GitStore, hub: Path, transport: Transport) -> None:
    for name in NAMES:
        change(loose_file(store.path, oid_of_hub(hub, name)), lambda data: data[: len(data) // 2])
    healed = heal(store, list(verify(store)), [peer_at(store, hub, transport)])
    assert healed.left == []
    assert healed.sources == {"hub": 5}
    assert str(healed) == "healed 5 objects from hub"
    assert is_whole(store.path)
    assert len(os.listdir(Path(store.path, "set-aside"))) == len(NAMES)
    assert [name for name in os.listdir(store.path) if name.startswith("healing-")] == []


@pytest.mark.parametrize("is_packed", [False, True])
def test_what_names_what_nobody_has_is_set_aside_so_that_it_can_come_again(
    store: GitStore, hub: Path, is_packed: bool
) -> None:
    """A transport takes what is there to be whole: it would bring nothing of what is missing below."""
    tip, blob = oid_of_hub(hub, REF), oid_of_hub(hub, f"{REF}:context/a")
    Path(loose_file(store.path, blob)).unlink()
    if is_packed:
        wanted = "".join(f"{oid_of_hub(hub, name)}\n" for name in (REF, f"{REF}^{{tree}}", f"{REF}~1"))
        words = ["git", "pack-objects", "-q", "objects/pack/pack"]
        subprocess.run(words, cwd=store.path, input=wanted, text=True, check=True, capture_output=True)
        run_git("-C", store.path, "prune-packed", "-q")
        store.reopen()
    set_incomplete_aside(store, [REF])
    set_incomplete_aside(store, [REF])
    assert not Path(loose_file(store.path, tip)).exists()
    store.swap(REF, Oid(tip), None)
    peer_at(store, hub).fetch({REF: REF})
    assert is_whole(store.path)
    assert oid_of(store, REF) == tip


@pytest.mark.parametrize("branch", ["project/p", "knowledge"])
def test_what_only_a_peers_branch_names_comes_from_that_branch(
    store: GitStore, hub: Path, branch: str
) -> None:
    run_git("-C", str(hub), "update-ref", f"refs/heads/{branch}", REF)
    tip = oid_of(store, REF)
    store.swap(f"refs/peers/hub/{branch}", None, tip)
    oid = oid_of(store, f"{REF}:context/a")
    os.unlink(loose_file(store.path, oid))
    store.swap(REF, tip, None)
    flaws = [flaw for flaw in verify(store) if flaw.oid == oid]
    assert [flaw.where for flaw in flaws] == [f"refs/peers/hub/{branch}"]
    assert heal(store, flaws, [peer_at(store, hub, "git")]).left == []
    assert is_whole(store.path)


def oid_of_hub(hub: Path, name: str) -> Oid:
    return Oid(run_git("-C", str(hub), "rev-parse", name).strip())


def test_what_nobody_has_is_left(store: GitStore, hub: Path) -> None:
    oid = oid_of(store, f"{REF}:context/a")
    for path in (store.path, str(hub)):
        change(loose_file(path, oid), flip)
    healed = heal(store, list(verify(store)), [peer_at(store, hub)])
    assert [flaw.oid for flaw in healed.left] == [oid]
    assert healed.healed == []
    assert str(healed) == ""


def test_what_a_healed_tree_turns_out_to_miss_is_told(store: GitStore, hub: Path) -> None:
    blob, tree = oid_of(store, f"{REF}:context/a"), oid_of(store, f"{REF}:context")
    os.unlink(loose_file(store.path, tree))
    os.unlink(loose_file(store.path, blob))
    os.unlink(loose_file(str(hub), blob))
    healed = heal(store, list(verify(store)), [peer_at(store, hub)])
    assert [flaw.oid for flaw in healed.healed] == [tree]
    assert [flaw.oid for flaw in healed.left] == [blob]


@pytest.mark.parametrize("how", [None, "index gone", "index torn"])
def test_a_pack_is_unpacked_before_it_goes_aside(store: GitStore, how: str | None) -> None:
    tip = oid_of(store, REF)
    for number in range(5):  # so that there are deltas
        tip = commit(store, b"second " * 9000 + b"%d" % number, tip)
    pack = pack_of(store)
    if how is None:
        change(pack, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "index gone":
        pack.with_suffix(".idx").unlink()
    else:
        change(pack.with_suffix(".idx"), lambda data: data[: len(data) // 2])
    healed = heal(store, list(verify(store)), [])
    assert healed.left == []
    assert is_whole(store.path)
    assert os.listdir(Path(store.path, "objects/pack")) == []
    assert store.read_commit(tip).parents


def signed(body: bytes) -> bytes:
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


def test_an_object_is_healed_that_is_damaged_in_a_pack_whose_checksum_fits(
    store: GitStore, hub: Path
) -> None:
    pack = pack_of(store)
    oid = oid_of_hub(hub, f"{REF}:context/a")
    line = next(
        one
        for one in run_git("-C", store.path, "verify-pack", "-v", str(pack)).splitlines()
        if one.startswith(oid)
    )
    _, _, _, size, offset, *_ = line.split()
    at = int(offset) + int(size) - 2

    def damage(data: bytes) -> bytes:
        body = data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 : -20]
        return signed(body)

    change(pack, damage)
    change(pack.with_suffix(".idx"), lambda data: signed(data[:-40] + pack.read_bytes()[-20:]))
    flaws = list(verify(store))
    assert oid in [flaw.oid for flaw in flaws]
    assert heal(store, flaws, [peer_at(store, hub)]).left == []
    assert list(verify(store)) == []


def test_a_peer_on_this_machine_is_healed_from_our_store(store: GitStore, hub: Path) -> None:
    for name in NAMES:
        change(loose_file(str(hub), oid_of(store, name)), flip)
    peer = peer_at(store, hub)
    assert isinstance(peer, PathPeer)
    flaws = list(verify(GitStore(LocalPath(str(hub)))))
    assert heal_peer(peer, store, flaws).left == []
    assert is_whole(hub)


def test_locks_and_damaged_refs_go_aside(store: GitStore) -> None:
    Path(store.path, "refs/heads/project/empty").touch()
    Path(store.path, f"{REF}.lock").touch()
    assert heal(store, list(verify(store)), []).left == []
    assert list(verify(store)) == []
    assert sorted(os.listdir(Path(store.path, "set-aside"))) == [
        "refs+heads+project+app.lock.0",
        "refs+heads+project+empty.0",
    ]


@pytest.mark.parametrize("how", [lambda data: data[: len(data) // 2], flip, lambda _: b""])
def test_damage_is_met_by_an_error_and_never_by_waiting(
    store: GitStore, how: Callable[[bytes], bytes]
) -> None:
    tip, before = oid_of(store, REF), oid_of(store, f"{REF}~1")
    change(loose_file(store.path, before), how)
    with pytest.raises(MissingObjectError):
        GitStore(store.path).merge_base(tip, oid_of(store, "refs/heads/main"))
