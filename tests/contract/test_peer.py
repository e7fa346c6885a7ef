"""What every peer does, whatever it is reached with: memory, a path, git, ssh, https."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pygit2
import pytest

from convergenced.errors import (
    BranchesRefusedError,
    MissingObjectError,
    PeerRefusedError,
    PeerUnreachableError,
)
from convergenced.model import Author, Commit, LocalPath, Oid, TreeEntry
from convergenced.ports import Peer, Store
from convergenced.store.git import GitStore
from convergenced.store.peers import Transport, is_behind, open_peer
from tests.fakes.peer import MemoryPeer
from tests.fakes.store import MemoryStore
from tests.profiles import DEEP
from tests.repositories import make_bare
from tests.servers import SshServer, WebServer, git_environ, sshd, web

__all__ = ["sshd", "web"]

X = "refs/heads/project/x"
Y = "refs/heads/project/y"
TRACK_X = "refs/convergence/hub/project/x"
TRACK_Y = "refs/convergence/hub/project/y"


@dataclass
class World:
    """One hub and any number of machines, each with a store and its own way to the hub."""

    hub: Store
    new_machine: Callable[[], tuple[Store, Peer]]
    opened: list[Peer] = field(default_factory=list)

    def machine(self) -> tuple[Store, Peer]:
        store, peer = self.new_machine()
        self.opened.append(peer)
        return store, peer


KINDS = (
    "memory",
    "path",
    "file url",
    "git on file url",
    "git over ssh",
    "git over https",
)
WITHOUT_GIT = ("libgit2 over ssh", "libgit2 over https")
"""The way of machines without the git program: the whole contract only in the deep profile."""


@pytest.fixture(params=KINDS + WITHOUT_GIT if DEEP else KINDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = _memory_world() if request.param == "memory" else _git_world(request, tmp_path)
    yield made
    for peer in made.opened:
        peer.close()


def _memory_world() -> World:
    hub = MemoryStore()

    def machine() -> tuple[Store, Peer]:
        store = MemoryStore()
        return store, MemoryPeer(store, hub)

    return World(hub, machine)


def _git_world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    environ = git_environ(tmp_path / "home")
    hub = tmp_path / "höhle der daten" / "hub.git"
    url = str(hub)
    transport: Transport = "auto"
    match request.param:
        case "file url":
            url = hub.as_uri()
        case "git on file url":
            url, transport = hub.as_uri(), "git"
        case "git over ssh":
            server: SshServer = request.getfixturevalue("sshd")
            url = server.url(hub)
            environ |= {"GIT_SSH_COMMAND": server.command()}
        case "libgit2 over ssh":
            server = request.getfixturevalue("sshd")
            url, transport = server.url(hub), "libgit2"
            request.getfixturevalue("libgit2_home")
            environ |= {"HOME": str(server.client_home)}
        case "git over https":
            site: WebServer = request.getfixturevalue("web")
            hub = site.root / tmp_path.name / "hub.git"
            url = site.url(hub)
            environ |= {"GIT_SSL_CAINFO": str(site.certificate)}
        case "libgit2 over https":
            site = request.getfixturevalue("web")
            hub = site.root / tmp_path.name / "hub.git"
            url, transport = site.url(hub), "libgit2"
            pygit2.settings.set_ssl_cert_locations(str(site.certificate), None)
    make_bare(hub, "-c", "http.receivepack=true")
    numbers = iter(range(100))

    def machine() -> tuple[Store, Peer]:
        store = make_bare(tmp_path / f"store {next(numbers)}.git")
        return GitStore(store), open_peer(url, store, name="hub", transport=transport, environ=environ)

    return World(GitStore(LocalPath(str(hub))), machine)


@pytest.fixture
def libgit2_home(sshd: SshServer) -> Iterator[None]:
    """libgit2 looks for known hosts in a home that is set for the whole process."""
    before = pygit2.settings.homedir
    pygit2.settings.homedir = str(sshd.client_home)
    yield
    if before is not None:
        pygit2.settings.homedir = before


def write(store: Store, ref: str, text: str, *others: Oid) -> Oid:
    """Commits one file on `ref`, on top of what is there; `others` are merged."""
    old = store.refs(ref).get(ref)
    tree = store.write_tree([TreeEntry("note.md", 0o100644, store.write_blob(text.encode()))])
    parents = (*((old,) if old else ()), *others)
    new = store.write_commit(
        Commit(tree, parents, Author("desktop", "desktop@convergence"), 1_700_000_000, text)
    )
    store.swap(ref, old, new)
    return new


def text_at(store: Store, oid: Oid) -> str:
    (entry,) = store.read_tree(store.read_commit(oid).tree)
    return store.read_blob(entry.oid).decode()


def test_an_empty_peer_lists_nothing(world: World) -> None:
    _, peer = world.machine()
    assert peer.list() == {}


def test_orphan_branches_arrive_under_their_own_names(world: World) -> None:
    store, peer = world.machine()
    x, y = write(store, X, "of x"), write(store, Y, "of y")

    assert peer.push([X, Y]) == {X: None, Y: None}

    assert peer.list() == {X: x, Y: y}
    assert text_at(world.hub, x) == "of x"
    assert text_at(world.hub, y) == "of y"


def test_only_branches_are_listed(world: World) -> None:
    _, peer = world.machine()
    x = write(world.hub, X, "of x")
    world.hub.swap("refs/tags/v1", None, x)
    world.hub.swap("refs/convergence/other/project/x", None, x)
    assert peer.list() == {X: x}


def test_what_is_wanted_is_fetched_with_its_history_and_nothing_else(world: World) -> None:
    store, peer = world.machine()
    first = write(world.hub, X, "first")
    second = write(world.hub, X, "second")
    unwanted = write(world.hub, Y, "of y")

    peer.fetch({X: TRACK_X})

    assert store.refs("refs/") == {TRACK_X: second}
    assert [text_at(store, oid) for oid in (first, second)] == ["first", "second"]
    with pytest.raises(MissingObjectError):
        store.read_commit(unwanted)


def test_several_branches_are_fetched_at_once(world: World) -> None:
    store, peer = world.machine()
    x, y = write(world.hub, X, "of x"), write(world.hub, Y, "of y")
    peer.fetch({X: TRACK_X, Y: TRACK_Y})
    assert store.refs("refs/convergence/") == {TRACK_X: x, TRACK_Y: y}


def test_doing_it_all_again_changes_nothing(world: World) -> None:
    store, peer = world.machine()
    x = write(store, X, "of x")
    for _ in range(2):
        assert peer.push([X]) == {X: None}
        peer.fetch({X: TRACK_X})
    assert store.refs("refs/") == {X: x, TRACK_X: x}
    assert world.hub.refs("refs/") == {X: x}


def test_a_branch_grows_from_one_machine_to_the_next(world: World) -> None:
    store, peer = world.machine()
    other_store, other_peer = world.machine()
    write(store, X, "first")
    peer.push([X])
    other_peer.fetch({X: X})  # the second machine takes it over as its own
    last = write(other_store, X, "second")

    assert other_peer.push([X]) == {X: None}
    peer.fetch({X: TRACK_X})
    assert store.refs(TRACK_X) == {TRACK_X: last}
    assert text_at(store, last) == "second"


def test_a_peer_that_moved_on_is_never_overwritten(world: World) -> None:
    store, peer = world.machine()
    theirs = write(world.hub, X, "theirs")
    write(store, X, "ours")
    y = write(store, Y, "of y")

    answer = peer.push([X, Y])

    assert answer[Y] is None
    reason = answer[X]
    assert reason is not None
    assert is_behind(reason)
    assert world.hub.refs("refs/heads/") == {X: theirs, Y: y}


def test_after_fetch_and_merge_the_push_goes_through(world: World) -> None:
    store, peer = world.machine()
    theirs = write(world.hub, X, "theirs")
    write(store, X, "ours")
    peer.fetch({X: TRACK_X})
    still_behind = peer.push([X])[X]
    assert still_behind is not None
    assert is_behind(still_behind)

    merged = write(store, X, "both", theirs)

    assert peer.push([X]) == {X: None}
    assert peer.list() == {X: merged}


def test_a_tracking_ref_follows_a_peer_that_was_rewound(world: World) -> None:
    store, peer = world.machine()
    first = write(world.hub, X, "first")
    second = write(world.hub, X, "second")
    peer.fetch({X: TRACK_X})
    world.hub.swap(X, second, None)
    world.hub.swap(X, None, first)

    peer.fetch({X: TRACK_X})

    assert store.refs(TRACK_X) == {TRACK_X: first}


def test_a_wanted_branch_that_is_gone_does_not_keep_the_others(world: World) -> None:
    store, peer = world.machine()
    y = write(world.hub, Y, "of y")
    with pytest.raises(BranchesRefusedError, match="project/x") as caught:
        peer.fetch({X: TRACK_X, Y: TRACK_Y})
    assert set(caught.value.reasons) == {X}
    assert store.refs("refs/") == {TRACK_Y: y}


def test_a_branch_that_is_not_here_is_not_pushed(world: World) -> None:
    store, peer = world.machine()
    y = write(store, Y, "of y")
    answer = peer.push([X, Y])
    reason = answer[X]
    assert reason is not None
    assert not is_behind(reason)
    assert answer[Y] is None
    assert peer.list() == {Y: y}


@pytest.mark.parametrize("there_before", [True, False])
def test_of_many_machines_that_push_at_once_exactly_one_gets_through(
    world: World, there_before: bool
) -> None:
    machines = [world.machine() for _ in range(4)]
    if there_before:
        write(world.hub, X, "start")
    tips = []
    for number, (store, peer) in enumerate(machines):
        if there_before:
            peer.fetch({X: X})
        tips.append(write(store, X, f"of machine {number}"))
    answers: dict[int, str | None] = {}
    together = threading.Barrier(len(machines))

    def push(number: int) -> None:
        together.wait(30)
        answers[number] = machines[number][1].push([X])[X]

    threads = [threading.Thread(target=push, args=(number,)) for number in range(len(machines))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    (winner,) = [number for number, reason in answers.items() if reason is None]
    assert world.hub.refs(X) == {X: tips[winner]}
    assert all(is_behind(reason) for reason in answers.values() if reason is not None)


@pytest.mark.parametrize("world", WITHOUT_GIT, indirect=True)
def test_without_the_git_program_work_goes_to_and_fro_all_the_same(world: World) -> None:
    store, peer = world.machine()
    theirs = write(world.hub, X, "theirs")
    write(store, X, "ours")
    y = write(store, Y, "of y")
    answer = peer.push([X, Y])
    assert answer[Y] is None
    assert is_behind(answer[X] or "")
    with pytest.raises(PeerRefusedError, match="project/gone"):
        peer.fetch({X: TRACK_X, "refs/heads/project/gone": "refs/convergence/hub/gone"})
    assert text_at(store, store.refs(TRACK_X)[TRACK_X]) == "theirs"
    merged = write(store, X, "both", theirs)
    assert peer.push([X]) == {X: None}
    assert peer.list() == {X: merged, Y: y}


def test_a_closed_peer_does_nothing_any_more(world: World) -> None:
    store, peer = world.machine()
    write(store, X, "of x")
    peer.close()
    for call in (peer.list, lambda: peer.fetch({X: TRACK_X}), lambda: peer.push([X])):
        with pytest.raises(PeerUnreachableError):
            call()
