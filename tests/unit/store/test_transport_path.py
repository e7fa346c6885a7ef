"""A folder of this machine as a peer: what is not a repository, not ours to write, or not sound."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pygit2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pygit2.enums import ConfigLevel

from convergenced.errors import (
    BranchesRefusedError,
    PeerRefusedError,
    PeerUnreachableError,
    StoreError,
    UsageError,
)
from convergenced.model import Author, Commit, LocalPath, Oid, TreeEntry
from convergenced.ports import Peer
from convergenced.store import transport_path
from convergenced.store.git import GitStore
from convergenced.store.objects import object_id
from convergenced.store.peers import is_behind, open_peer
from convergenced.store.transfer import copy_history, is_dangerous
from tests.repositories import make_bare, run_git

X = "refs/heads/project/x"
Y = "refs/heads/project/y"
TRACK_X = "refs/convergence/hub/x"
TRACK_Y = "refs/convergence/hub/y"
PERSON = Author("desktop", "desktop@convergence")


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    return GitStore(make_bare(tmp_path / "store.git"))


@pytest.fixture
def hub(tmp_path: Path) -> GitStore:
    return GitStore(make_bare(tmp_path / "hub.git"))


def peer_at(path: str, store: GitStore, **environ: str) -> Peer:
    return open_peer(path, store.path, name="hub", environ=environ)


def write(store: GitStore, ref: str, *entries: TreeEntry, text: str = "note") -> Oid:
    entries = entries or (TreeEntry("note.md", 0o100644, store.write_blob(text.encode())),)
    old = store.refs(ref).get(ref)
    commit = Commit(store.write_tree(entries), (old,) if old else (), PERSON, 1_700_000_000, text)
    new = store.write_commit(commit)
    store.swap(ref, old, new)
    return new


def test_a_path_that_is_not_there_comes_with_the_command_that_makes_it(
    tmp_path: Path, store: GitStore
) -> None:
    path = tmp_path / "no hub.git"
    with pytest.raises(PeerRefusedError, match="is not a git repository") as caught:
        peer_at(str(path), store).list()
    assert f"git init --bare '{path}'" in caught.value.hint


@pytest.mark.parametrize("what", ["an empty folder", "a file", "a folder in a repository"])
def test_something_else_is_not_taken_for_a_repository(tmp_path: Path, store: GitStore, what: str) -> None:
    path = tmp_path / "thing"
    if what == "a file":
        path.write_text("not a repository")
    elif what == "an empty folder":
        path.mkdir()
    else:
        run_git("init", "--quiet", str(tmp_path))
        path.mkdir()
    with pytest.raises(PeerRefusedError, match="is not a git repository"):
        peer_at(str(path), store).push([X])


def test_a_repository_with_a_work_tree_takes_project_branches(tmp_path: Path, store: GitStore) -> None:
    run_git("init", "--quiet", "--initial-branch=main", str(tmp_path / "checkout"))
    peer = peer_at(str(tmp_path / "checkout"), store)
    x = write(store, X)
    assert peer.push([X]) == {X: None}
    assert peer.list() == {X: x}


def test_a_branch_that_is_checked_out_there_is_left_alone(tmp_path: Path, store: GitStore) -> None:
    run_git("init", "--quiet", "--initial-branch=project/x", str(tmp_path / "checkout"))
    checkout = GitStore(LocalPath(str(tmp_path / "checkout" / ".git")))
    before = write(checkout, X)
    store_peer = peer_at(str(tmp_path / "checkout"), store)
    store_peer.fetch({X: X})
    write(store, X, text="more")
    reason = store_peer.push([X])[X]
    assert reason is not None
    assert "checked out there" in reason
    assert checkout.refs(X) == {X: before}


def test_a_path_may_begin_with_the_home(tmp_path: Path, store: GitStore, hub: GitStore) -> None:
    x = write(hub, X)
    assert peer_at("~/hub.git", store, HOME=str(tmp_path)).list() == {X: x}
    with pytest.raises(UsageError, match="HOME"):
        peer_at("~/hub.git", store)


def test_a_path_with_a_colon_is_not_taken_for_a_host(tmp_path: Path, store: GitStore) -> None:
    path = make_bare(tmp_path / "a:b.git")
    x = write(store, X)
    assert peer_at(path, store).push([X]) == {X: None}
    assert peer_at(path, store).list() == {X: x}


def test_a_broken_ref_of_the_peer_hides_only_itself(store: GitStore, hub: GitStore) -> None:
    y = write(hub, Y)
    Path(hub.path, "refs/heads/project/x").write_text("")
    Path(hub.path, "refs/heads/project/z").write_text("nonsense\n")
    assert peer_at(hub.path, store).list() == {Y: y}


def test_a_lock_somebody_left_is_named(
    store: GitStore, hub: GitStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_path, "LOCK_PAUSE", 0.001)
    write(hub, X)
    peer = peer_at(hub.path, store)
    peer.fetch({X: X})
    write(store, X, text="more")
    lock = Path(hub.path, "refs/heads/project/x.lock")
    lock.write_text("")
    reason = peer.push([X])[X]
    assert reason is not None
    assert str(lock) in reason
    assert not is_behind(reason)
    lock.unlink()
    assert peer.push([X]) == {X: None}


def test_a_branch_in_the_way_is_told_and_not_tried_for_ever(store: GitStore, hub: GitStore) -> None:
    write(hub, "refs/heads/project")
    write(store, X)
    reason = peer_at(hub.path, store).push([X])[X]
    assert reason is not None
    assert not is_behind(reason)


def _loose(repository: GitStore, oid: Oid) -> Path:
    return Path(repository.path, "objects", oid[:2], oid[2:])


def plant(repository: GitStore, oid: Oid, kind: bytes, data: bytes) -> None:
    """Puts bytes where git looks for the object of that id."""
    path = _loose(repository, oid)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(zlib.compress(b"%s %d\0" % (kind, len(data)) + data))


def objects_in(repository: GitStore) -> set[str]:
    return {f"{path.parent.name}{path.name}" for path in Path(repository.path, "objects").glob("??/*")}


@pytest.mark.parametrize("damage", ["absent", "torn", "another's bytes", "another kind"])
def test_damage_at_the_peer_does_not_come_in(store: GitStore, hub: GitStore, damage: str) -> None:
    blob = hub.write_blob(b"the right bytes")
    write(hub, X, TreeEntry("note.md", 0o100644, blob))
    y = write(hub, Y)
    match damage:
        case "absent":
            _loose(hub, blob).unlink()
        case "torn":
            torn = _loose(hub, blob).read_bytes()[:10]
            _loose(hub, blob).unlink()
            _loose(hub, blob).write_bytes(torn)
        case "another's bytes":
            plant(hub, blob, b"blob", b"the wrong bytes")
        case "another kind":
            plant(hub, blob, b"tree", b"")

    with pytest.raises(PeerRefusedError, match="project/x") as caught:
        peer_at(hub.path, store).fetch({X: TRACK_X, Y: TRACK_Y})

    assert "git fsck" in caught.value.hint
    assert store.refs("refs/") == {TRACK_Y: y}
    run_git("-C", store.path, "fsck", "--strict")


def raw_tree(repository: GitStore, *lines: bytes) -> Oid:
    blob = bytes.fromhex(repository.write_blob(b"harmless"))
    data = b"".join(line + b"\0" + blob for line in lines)
    oid = object_id("tree", data)
    plant(repository, oid, b"tree", data)
    return oid


@pytest.mark.parametrize(
    "lines",
    [
        (b"100644 .git",),
        (b"100644 .GiT",),
        (b"100644 git~1",),
        (b"100644 .g\xe2\x80\x8cit",),
        (b"40000 ..",),
        (b"100644 .",),
        (b"100644 a/b",),
        (b"100644 b", b"100644 a"),
        (b"100644 a", b"100644 a"),
        (b"0100644 a",),
    ],
)
@pytest.mark.parametrize("transport", ["auto", "git"])
def test_a_tree_that_a_strict_hub_would_refuse_does_not_come_in(
    store: GitStore, hub: GitStore, lines: tuple[bytes, ...], transport: str
) -> None:
    commit = Commit(raw_tree(hub, *lines), (), PERSON, 1_700_000_000, "hostile")
    hub.swap(X, None, hub.write_commit(commit))
    y = write(hub, Y)
    peer = open_peer(
        Path(hub.path).as_uri(),
        store.path,
        name="hub",
        transport="git" if transport == "git" else "auto",
        environ={"PATH": os.environ["PATH"], "HOME": "/nowhere"},
    )
    with pytest.raises(BranchesRefusedError, match="not allowed") as caught:
        peer.fetch({X: TRACK_X, Y: TRACK_Y})
    assert set(caught.value.reasons) == {X}
    assert store.refs("refs/") == {TRACK_Y: y}
    run_git("-C", store.path, "fsck", "--strict")


def test_what_is_named_is_written_before_what_names_it(store: GitStore, hub: GitStore) -> None:
    for number in range(3):
        write(hub, X, text=f"note {number}")
    source, target = pygit2.Repository(hub.path), pygit2.Repository(store.path)
    tip = source.references[X].target
    assert isinstance(tip, pygit2.Oid)
    for allowed in range(200):
        budget = iter(range(allowed))

        def check() -> None:
            if next(budget, None) is None:  # noqa: B023 - used up within the round
                raise InterruptedError

        try:
            copy_history(source, target, tip, check)
        except InterruptedError:
            run_git("-C", store.path, "fsck", "--strict")  # complains of anything that names what is absent
        else:
            break
    assert objects_in(store) == objects_in(hub)


def test_only_what_is_new_is_written(store: GitStore, hub: GitStore) -> None:
    write(store, X, text="first")
    peer = peer_at(hub.path, store)
    peer.push([X])
    before = objects_in(hub)
    write(store, X, text="second")
    peer.push([X])
    assert len(objects_in(hub) - before) == 3  # a commit, its tree, one blob


def test_a_peer_that_is_closed_in_the_middle_breaks_off(store: GitStore, hub: GitStore) -> None:
    write(store, X)
    peer = peer_at(hub.path, store)
    peer.close()
    with pytest.raises(PeerUnreachableError, match="stops"):
        peer.push([X])
    assert objects_in(hub) == set()


def test_a_store_that_cannot_be_opened_is_not_the_peers_fault(tmp_path: Path, hub: GitStore) -> None:
    peer = open_peer(hub.path, LocalPath(str(tmp_path / "none")), name="hub", environ={})
    with pytest.raises(StoreError):
        peer.push([X])


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of this machine can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="convergence-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


NOBODY = 65534


@contextlib.contextmanager
def as_somebody() -> Iterator[None]:
    """Root may write anywhere, so for a while the process is not root."""
    if os.geteuid() != 0:
        yield
        return
    configs = pygit2.settings.search_path[ConfigLevel.GLOBAL]
    pygit2.settings.search_path[ConfigLevel.GLOBAL] = "/nowhere"  # root's own cannot be read then
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        pygit2.settings.search_path[ConfigLevel.GLOBAL] = configs


def git_as_somebody(folder: Path) -> str:
    """A PATH with a git that is not root either."""
    if os.geteuid() != 0:
        return os.environ["PATH"]
    setpriv, real = shutil.which("setpriv"), shutil.which("git")
    if setpriv is None:
        pytest.skip("root cannot become somebody else without setpriv")
    folder.mkdir()
    (folder / "git").write_text(f'#!/bin/sh\nexec {setpriv} --reuid={NOBODY} --clear-groups {real} "$@"\n')
    (folder / "git").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("transport", ["libgit2", "git"])
def test_a_hub_that_may_only_be_read_says_so(open_folder: Path, transport: str) -> None:
    store = GitStore(make_bare(open_folder / "store.git"))
    hub = make_bare(open_folder / "hub.git")
    write(store, X)
    environ = {"PATH": git_as_somebody(open_folder / "bin"), "HOME": str(open_folder)}
    if os.geteuid() == 0:
        for path in Path(hub if transport == "git" else open_folder).rglob("*"):
            os.chown(path, NOBODY, NOBODY)
        os.chown(hub, NOBODY, NOBODY)
    for path in [Path(hub), *Path(hub).rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    peer = open_peer(
        hub, store.path, name="hub", transport="git" if transport == "git" else "auto", environ=environ
    )
    try:
        with as_somebody() if transport != "git" else contextlib.nullcontext():
            assert peer.list() == {}
            with pytest.raises(PeerRefusedError, match="does not let this user write"):
                peer.push([X])
    finally:
        for path in [Path(hub), *Path(hub).rglob("*")]:
            path.chmod(0o755)


@given(st.text(max_size=8))
def test_an_ordinary_name_is_not_dangerous(name: str) -> None:
    assert not is_dangerous(f"note-{name.replace(chr(92), '')}")
