"""Exchanges that break off, hang, or meet a hub that answers nonsense, has no room or says no.

The daemons talk to the hub with the git program, over a line that tests cut at any byte. While the fault
lasts it is told with a remedy and nothing counts as synced that was not taken; when it is over, all is in
step without hands, at one commit.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from convergenced.errors import TimedOutError
from tests.crash.cluster import OTHER, PROJ, Cluster, copy_of, make_cluster
from tests.crash.wire import Wire
from tests.e2e.machines import await_true, git, stop_all
from tests.profiles import DEEP
from tests.servers import SshServer, WebServer, sshd, web

__all__ = ["sshd", "web"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Cluster, Wire]]]:
    """The cluster that tests share; a test that fails leaves a new one to the next."""
    found: list[tuple[Cluster, Wire]] = []
    yield found
    for cluster, _ in found:
        stop_all(list(cluster.machines))


@pytest.fixture
def both(kept: list[tuple[Cluster, Wire]], tmp_path: Path) -> tuple[Cluster, Wire]:
    if not kept or not kept[-1][0].whole:
        folder = tmp_path / "cluster"
        folder.mkdir()
        wire = Wire.lay(folder)
        made = make_cluster(folder, urls=(wire.url(folder / "hub.git"),), environ=wire.environ)
        kept.append((made, wire))
    kept[-1][0].whole = False
    return kept[-1]


@pytest.fixture
def cluster(both: tuple[Cluster, Wire]) -> Cluster:
    """Two machines in step with a hub at the other end of a line."""
    return both[0]


@pytest.fixture
def wire(both: tuple[Cluster, Wire]) -> Iterator[Wire]:
    yield both[1]
    both[1].mend()


def check_failing(cluster: Cluster, *words: str) -> None:
    """The desktop says that and why the hub fails, and calls nothing synced."""
    misses = cluster.desktop.sync()
    assert {miss.partition(":")[0] for miss in misses} == {PROJ, OTHER}
    status = cluster.desktop.status()
    assert [peer["state"] for peer in status["peers"]] == ["failing"]
    error = status["peers"][0]["error"]
    assert all(word in error for word in words), error
    # Of the same answer: the next attempt may fail in other words.
    assert any(error in one["text"] and one["fix"] for one in status["attention"])
    assert "synced" not in cluster.desktop.states().values()


FETCH_CUTS = tuple(range(0, 4000, 37)) if DEEP else (3, 300, 900, 1700)
PUSH_CUTS = tuple(range(0, 2500, 29)) if DEEP else (4, 900)
"""After so many bytes the line breaks: in the listing, in what is asked, in the pack."""


@pytest.mark.parametrize("bytes_", FETCH_CUTS)
def test_a_line_that_breaks_while_fetching(cluster: Cluster, wire: Wire, bytes_: int) -> None:
    cluster.say(cluster.laptop, times=3)
    cluster.laptop.sync()
    cluster.say(cluster.desktop)
    before = cluster.tip(cluster.hub)
    wire.disturb(sends=f'sh -c "$command" | {{ dd bs=1 count={bytes_} status=none; kill -9 $$; }}')
    check_failing(cluster)
    assert cluster.tip(cluster.hub) == before
    wire.mend()
    cluster.settle()


@pytest.mark.parametrize("bytes_", PUSH_CUTS)
def test_a_line_that_breaks_while_pushing(cluster: Cluster, wire: Wire, bytes_: int) -> None:
    cluster.say(cluster.desktop, times=3)
    before = cluster.tip(cluster.hub)
    wire.disturb(takes=f'dd bs=1 count={bytes_} status=none | sh -c "$command"; exit 255')
    check_failing(cluster, "broke off")
    assert cluster.tip(cluster.hub) == before
    wire.mend()
    cluster.settle()


@pytest.mark.parametrize("hook", ["pre-receive", "update"])
def test_the_server_is_killed_before_it_took_a_push(cluster: Cluster, wire: Wire, hook: str) -> None:
    program = install_hook(cluster.hub, hook, "kill -9 $PPID; exit 1")
    cluster.say(cluster.desktop, times=2)
    before = cluster.tip(cluster.hub)
    check_failing(cluster, "broke off")
    assert cluster.tip(cluster.hub) == before
    program.unlink()
    cluster.settle()


def test_the_server_is_killed_after_it_took_a_push(cluster: Cluster, wire: Wire) -> None:
    dead = "kill -9 $$"  # and stays so: another look would find that it has everything
    program = install_hook(
        cluster.hub,
        "reference-transaction",
        f"test \"$1\" != committed || {{ echo '{dead}' >'{wire.path}.sends'; kill -9 $PPID; }}; exit 0",
    )
    cluster.say(cluster.desktop, times=2)
    check_failing(cluster)
    assert cluster.tip(cluster.hub) == cluster.tip(cluster.desktop.store)
    program.unlink()
    wire.mend()
    cluster.settle()


NONSENSE = ("echo welcome to this machine", "head -c 100000 /dev/urandom", "exit 0", "printf '0008NAK\\n'")


@pytest.mark.parametrize("side", ["sends", "takes"])
def test_a_hub_that_answers_nonsense(cluster: Cluster, wire: Wire, side: str) -> None:
    cluster.say(cluster.desktop)
    for nonsense in NONSENSE:
        wire.disturb(**{side: nonsense})
        check_failing(cluster)
    wire.mend()
    cluster.settle()


def test_a_hub_whose_listing_is_stale_is_told_of_and_given_everything_later(
    cluster: Cluster, wire: Wire, tmp_path: Path
) -> None:
    stale = copy_of(cluster.hub, tmp_path / "stale.git")
    cluster.say(cluster.laptop)
    cluster.laptop.sync()
    cluster.say(cluster.desktop)
    wire.disturb(sends=f"git-upload-pack '{stale}'")
    misses = cluster.desktop.sync()
    assert [miss.partition(":")[0] for miss in misses] == [PROJ]
    assert "has commits that are not here yet" in misses[0]
    assert any("tried again" in one["fix"] for one in cluster.desktop.status()["attention"])
    assert cluster.desktop.states() == {PROJ: "ahead", OTHER: "synced"}
    wire.mend()
    cluster.settle()


def test_while_a_hub_hangs_the_daemon_answers_commits_and_stops(
    cluster: Cluster, wire: Wire, tmp_path: Path
) -> None:
    fifo = tmp_path / "silence"
    os.mkfifo(fifo)
    wire.disturb(sends=f"cat '{fifo}'")
    desktop, tip = cluster.desktop, cluster.tip(cluster.desktop.store)
    cluster.say(desktop)
    desktop.ask("sync")
    await_true(lambda: cluster.tip(desktop.store) != tip, "the commit")
    assert desktop.states()[PROJ] != "synced"
    with pytest.raises(TimedOutError, match="not synced in time"):
        desktop.ask("sync", wait=True, timeout=0.5)
    assert desktop.stop() == 0
    wire.mend()
    desktop.start()
    cluster.settle()


@pytest.mark.skipif(not DEEP, reason="waits for as long as a person would have to")
@pytest.mark.parametrize("side", ["sends", "takes"])
def test_a_hub_that_hangs_is_left_in_time(cluster: Cluster, wire: Wire, tmp_path: Path, side: str) -> None:
    fifo = tmp_path / "silence"
    os.mkfifo(fifo)
    wire.disturb(**{side: f"cat '{fifo}'"})
    cluster.say(cluster.desktop)
    cluster.desktop.ask("sync")
    await_true(lambda: cluster.desktop.status()["peers"][0]["state"] == "failing", "an end", 120)
    assert "broken off" in cluster.desktop.status()["peers"][0]["error"]
    wire.mend()
    cluster.settle()


def test_a_hook_that_declines_one_branch_does_not_keep_the_other(cluster: Cluster, wire: Wire) -> None:
    program = install_hook(
        cluster.hub, "update", f'test "$1" != refs/heads/project/{PROJ} || {{ echo not that one; exit 1; }}'
    )
    for project in cluster.said:
        cluster.say(cluster.desktop, project)
    misses = cluster.desktop.sync()
    assert [miss.partition(":")[0] for miss in misses] == [PROJ]
    assert "not that one" in misses[0]
    assert any("not that one" in text for text in cluster.desktop.told())
    assert cluster.desktop.states() == {PROJ: "ahead", OTHER: "synced"}
    program.unlink()
    cluster.settle()


def test_a_hub_that_may_only_be_read_is_told_of(cluster: Cluster, wire: Wire) -> None:
    with mounted(cluster.hub, "--bind", "-o", "ro,bind"):
        cluster.say(cluster.desktop)
        misses = cluster.desktop.sync()
        assert misses
        assert "synced" not in cluster.desktop.states()[PROJ]
        assert cluster.desktop.told()
    cluster.settle()


@pytest.mark.parametrize("over", ["line", "path"])
def test_a_hub_without_room_is_told_of_and_filled_later(
    cluster: Cluster, wire: Wire, tmp_path: Path, over: str
) -> None:
    full = tmp_path / "full"
    copy_of(cluster.hub, tmp_path / "aside.git")
    with mounted(full, "-t", "tmpfs", "-o", "size=1m", "tmpfs"):
        small = copy_of(cluster.hub, full / "hub.git")
        filler = full / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
            while stream.write(b"x" * 4096):
                pass
        change_hub(cluster, str(small) if over == "path" else wire.url(small))
        cluster.say(cluster.desktop, times=40)
        misses = cluster.desktop.sync()
        assert any("no room" in miss for miss in misses), misses
        assert any("free space" in one["fix"] for one in cluster.desktop.status()["attention"])
        assert cluster.desktop.states()[PROJ] != "synced"
        filler.unlink()
        assert cluster.desktop.sync() == []
        assert cluster.tip(small) == cluster.tip(cluster.desktop.store)
        assert git("-C", small, "fsck", "--strict", "--no-dangling") == ""
        change_hub(cluster, wire.url(cluster.hub))
    cluster.settle()


@pytest.mark.skipif(not DEEP, reason="the same as with the line that stands in for ssh, only slower")
@pytest.mark.parametrize("way", ["ssh", "https"])
def test_a_real_server_that_dies_is_told_of_and_used_again(
    tmp_path: Path, way: str, request: pytest.FixtureRequest
) -> None:
    web: WebServer | None = None
    if way == "ssh":
        server: SshServer = request.getfixturevalue("sshd")
        folder, url = tmp_path, server.url(tmp_path / "hub.git")
        environ = {"GIT_SSH_COMMAND": server.command()}
    else:
        web = request.getfixturevalue("web")
        folder = web.root / tmp_path.name
        folder.mkdir()
        url, environ = web.url(folder / "hub.git"), {"GIT_SSL_CAINFO": str(web.certificate)}
    cluster = make_cluster(folder, urls=(url,), environ=environ)
    try:
        program = install_hook(cluster.hub, "pre-receive", "kill -9 $PPID; exit 1")
        cluster.say(cluster.desktop)
        check_failing(cluster)
        program.unlink()
        cluster.settle()
        if web is not None:
            cluster.say(cluster.laptop)
            cluster.laptop.sync()
            web.truncate_packs = True
            check_failing(cluster, "broke off")
            web.truncate_packs = False
            cluster.settle()
    finally:
        stop_all(list(cluster.machines))


def change_hub(cluster: Cluster, url: str) -> None:
    """Has the desktop use another hub."""
    cluster.desktop.hubs = (url,)
    cluster.desktop.configure()
    cluster.desktop.ask("reload")


@contextlib.contextmanager
def mounted(at: Path, *how: str) -> Iterator[None]:
    """Something mounted at a path; skips where that is not allowed."""
    at.mkdir(exist_ok=True)
    source = [str(at)] if "--bind" in how else []
    if subprocess.run(["mount", *how, *source, str(at)], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def install_hook(hub: Path, name: str, script: str) -> Path:
    """Has the hub's git run this."""
    path = hub / "hooks" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path
