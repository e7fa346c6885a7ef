"""What leaves the machine: bytes and time of a push and a fetch, against git on the same files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median

import pytest

from convergenced.store.branch import project_ref
from convergenced.store.peers import open_peer
from tests.bench.desk import APPENDS_A_SEGMENT, Desk, desk_at, folder, in_haste
from tests.bench.measure import Row, exponent, share, side_by_side, timed
from tests.bench.resources import size_of
from tests.bench.wire import Wire, wire

TRANSCRIPT = 36e6
SIZES = (1e6, 36e6, 200e6)
PROJECTS = (1, 20, 200)
STORE = 150e6
SESSIONS = 30
"""Of which a store is made that is pushed as a whole."""
TURNS = 5
LIMIT_KB = 25

GROUP = "transfer"


def measure(scale: float = 1.0) -> Iterator[Row]:
    """The rows; `scale` makes the data smaller."""
    yield from by_path(scale)
    yield from by_ssh(scale)
    yield from first_push(scale)
    yield from against_git(scale)
    yield from among_projects(scale)


def by_path(scale: float) -> Iterator[Row]:
    """Push and fetch of a small commit where the hub is a folder: bytes of the new objects."""
    sizes = [share(size, scale, 2e5 * (1 + number)) for number, size in enumerate(SIZES)]
    pushed, fetched = zip(*(_small_commit_by_path(size) for size in sizes), strict=True)
    for what, amounts in (("push", pushed), ("fetch", fetched)):
        kilobytes = [amount / 1e3 for amount in amounts]
        note = ", ".join(f"{one:.1f}" for one in kilobytes) + " KB"
        yield Row(GROUP, f"{what} of 2 KB to a path, 36 MB transcript", kilobytes[1], "KB", LIMIT_KB)
        yield Row(
            GROUP,
            f"{what}, bytes over transcript size",
            exponent(sizes, kilobytes),
            "exponent",
            0.1,
            note=note,
        )


def by_ssh(scale: float) -> Iterator[Row]:
    """The same with the git program over ssh: bytes on the wire."""
    with folder() as top:
        try:
            with wire(top / "wire") as ssh:
                yield from _small_commit_by_ssh(top, ssh, share(TRANSCRIPT, scale, 2e5))
        except pytest.skip.Exception:
            return


def first_push(scale: float) -> Iterator[Row]:
    """A whole store to a new hub, by us and by the git program."""
    size = share(STORE, scale, 1e6)
    with _two_and_hub() as (one, _, hub):
        for number in range(SESSIONS):
            one.fill(number, size / SESSIONS)
        with in_haste():
            one.converge()
        ref = project_ref(one.replica.project)
        peer = open_peer(str(hub), one.store, name="hub", environ=os.environ)
        ours = timed(lambda: peer.push([ref]))
        peer.close()
        theirs = timed(
            lambda: _git("--git-dir", one.store, "push", "-q", _bare(hub.with_name("theirs.git")), ref)
        )
        hubs = hub, hub.with_name("theirs.git")
        sizes = " against ".join(f"{size_of(one) / 1e6:.1f} MB" for one in hubs)
    note = f"{size / 1e6:.0f} MB of transcripts: {ours:.1f} s against {theirs:.1f} s, {sizes} in the hub"
    yield Row(GROUP, "first push to a path, against the git program", ours / theirs, "x", 1.5, note=note)


def against_git(scale: float) -> Iterator[Row]:
    """Append, commit and push, by us and with `git add && git commit && git push` of the same file."""
    with _two_and_hub() as (one, _, hub):
        one.fill(0, share(TRANSCRIPT, scale, 2e5))
        with in_haste():
            one.converge()
            one.exchange(str(hub))
        work, their_hub = one.top / "work", _bare(one.top / "theirs.git")
        _git("init", "-q", work)
        shutil.copy(one.transcript(0), work / "transcript.jsonl")
        turns = iter(range(1_000))

        def ours() -> None:
            one.append(0, next(turns))
            one.converge()
            one.exchange(str(hub))

        def theirs() -> None:
            shutil.copyfile(one.transcript(0), work / "transcript.jsonl")
            _git("-C", work, "add", ".")
            _git("-C", work, "commit", "-q", "-m", "turn")
            _git("-C", work, "push", "-q", their_hub, "HEAD:refs/heads/main")

        theirs()
        before = size_of(hub), size_of(their_hub)
        mine, git = side_by_side(ours, theirs, turns=TURNS)
        grown = [
            (size_of(path) - then) / (TURNS + 1) / 1e3
            for path, then in zip((hub, their_hub), before, strict=True)
        ]
    yield Row(
        GROUP,
        "append, commit, push, against git add, commit, push",
        mine / git,
        "x",
        note=f"{mine * 1e3:.0f} ms against {git * 1e3:.0f} ms",
    )
    yield Row(
        GROUP,
        "the same, bytes that the hub grows by",
        grown[0] / grown[1],
        "x",
        note=f"{grown[0]:.1f} KB against {grown[1]:.0f} KB",
    )


def among_projects(scale: float) -> Iterator[Row]:
    """A round in which one of many projects changed."""
    numbers = [share(number, scale, 1 + turn) for turn, number in enumerate(PROJECTS)]
    costs = [_round_among(number) for number in numbers]
    note = ", ".join(f"{cost * 1e3:.1f}" for cost in costs) + f" ms with {', '.join(map(str, numbers))}"
    yield Row(
        GROUP, "round with one change, over projects", exponent(numbers, costs), "exponent", 0.1, note=note
    )


@contextmanager
def _two_and_hub() -> Iterator[tuple[Desk, Desk, Path]]:
    with folder() as top, desk_at(top / "one") as one, desk_at(top / "other") as other:
        yield one, other, _bare(top / "hub.git")


def _small_commit_by_path(size: int) -> tuple[float, float]:
    """Mean bytes by which the hub and the other machine's store grow."""
    with _two_and_hub() as (one, other, hub):
        _meet(one, other, size, lambda machine: machine.exchange(str(hub)))
        pushed, fetched = [], []
        with in_haste():
            for turn in range(APPENDS_A_SEGMENT):
                one.append(0, turn)
                one.converge()
                pushed.append(_growth(hub, lambda: one.exchange(str(hub))))
                fetched.append(_growth(other.store, lambda: other.exchange(str(hub))))
        return mean(pushed), mean(fetched)


def _small_commit_by_ssh(top: Path, ssh: Wire, size: int) -> Iterator[Row]:
    with desk_at(top / "one") as one, desk_at(top / "other") as other:
        url = ssh.url(_bare(top / "hub.git"))
        _meet(one, other, size, lambda machine: machine.exchange(url, ssh.environ))
        ssh.counted()
        pushed, fetched, listed = list[float](), list[float](), list[float]()
        for turn in range(TURNS):
            one.append(0, turn)
            one.converge()
            for amounts, machine in ((pushed, one), (fetched, other), (listed, other)):
                machine.exchange(url, ssh.environ)
                amounts.append(ssh.counted() / 1e3)
    for what, kilobytes in (("push", pushed), ("fetch", fetched)):
        yield Row(GROUP, f"{what} of 2 KB over ssh, 36 MB transcript", median(kilobytes), "KB", LIMIT_KB)
    yield Row(GROUP, "round over ssh with nothing new", median(listed), "KB")


def _meet(one: Desk, other: Desk, size: int, exchange: Callable[[Desk], None]) -> None:
    """Gives both machines the same transcript."""
    with in_haste():
        one.fill(0, size)
        one.converge()
        exchange(one)
        exchange(other)
        other.converge()
        exchange(other)
        exchange(one)
        one.converge()


def _round_among(number: int) -> float:
    with _two_and_hub() as (one, _, hub):
        others = [one.beside(f"proj-{other}") for other in range(1, number)]
        with in_haste():
            for project in (one, *others):
                project.fill(0, 1_000)
                project.converge()
            one.exchange(str(hub), beside=others)
        seconds = []
        for turn in range(TURNS + 1):
            one.append(0, turn)
            one.converge()
            seconds.append(timed(lambda: one.exchange(str(hub), beside=others)))
        return median(seconds[1:])


def _growth(path: Path | str, work: Callable[[], None]) -> int:
    before = size_of(path)
    work()
    return size_of(path) - before


def _bare(path: Path) -> Path:
    _git("init", "-q", "--bare", path)
    return path


def _git(*arguments: object) -> None:
    """Runs git without anybody's settings."""
    environ = os.environ | {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "bench" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    subprocess.run(["git", *map(str, arguments)], check=True, env=environ, capture_output=True)
