"""Files of this machine that somebody else wrote, or that a bad disk changed: none stops the rest."""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convergenced.control.status import iso
from convergenced.errors import ConfigError, ConvergenceError
from convergenced.machine.activity import read_activity
from convergenced.machine.checkouts import GitCheckouts
from convergenced.machine.claude import RealProcesses
from convergenced.machine.settings import (
    add_peer,
    default_config_text,
    load_settings,
    parse_settings,
    set_value,
    unset_value,
)
from convergenced.machine.state import FileNote, Notice, ReplicaNote, State
from convergenced.model import LocalPath, Oid, ProjectId, Snapshot
from tests.fuzz.mutation import mutate
from tests.repositories import run_git

pytestmark = pytest.mark.timeout(1800)  # for the deep profile

on_disk = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
seeds = st.integers(0, 1 << 32)

CONFIG = default_config_text("box").encode() + b'[[peers]]\nname = "hub"\nurl = "git@h:x.git"\n'
WORDS = (
    b"[[",
    b"]]",
    b"'''",
    b'"""',
    b"=",
    b"#",
    b"1979-05-27",
    b"1979-99-99T99:99:99Z",
    b"0x",
    b"inf",
    b"nan",
    b"1e999",
    b"true",
    b"9" * 5000,
    b"[" * 2000,
    b"{",
    b"\\u",
    b"\\UFFFFFFFF",
    b"\\ud800",
    b"\n[ingest]\n",
    b"a.b.c=1\n",
    b"\r",
)

EDITS: tuple[Callable[[str], str], ...] = (
    lambda text: set_value(text, "ingest.quiet", "3s"),
    lambda text: unset_value(text, "machine.name"),
    lambda text: add_peer(text, "other", "/srv/x"),
)


@given(seeds)
def test_settings_are_read_or_refused_and_edits_never_break_them(seed: int) -> None:
    rng = random.Random(seed)
    data = CONFIG
    for _ in range(3):
        data = mutate(data, rng, 5000)
        at = rng.randint(0, len(data))
        text = (data[:at] + rng.choice(WORDS) + data[at:]).decode("utf-8", "replace")
        try:
            parse_settings(text, "config.toml")
        except ConfigError:
            for edit in EDITS:
                with pytest.raises(ConfigError):
                    edit(text)
        else:
            for edit in EDITS:
                try:
                    edited = edit(text)
                except ConfigError:
                    continue
                parse_settings(edited, "config.toml")


@on_disk
@given(st.binary(max_size=100))
def test_a_config_file_of_any_bytes(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(data)
    with contextlib.suppress(ConfigError):
        load_settings(LocalPath(str(file)))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=8),
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 1e308, "\ud800", "\0", "/", "", [], {}, [[]]]),
    st.sampled_from(
        ["Fri Nov 20 18:48:35 2026", "Fri Nov 99 18:48:35 99999", "Fri Nov 1 1:1:1 0", "1" * 400]
    ),
    st.integers(1, 10**9).map(lambda day: f"Fri Nov {day} 18:48:35 2026"),
    st.integers(300, 400).map(lambda size: f"Fri Nov {'9' * size} 18:48:35 2026"),
)
FIELDS = ("sessionId", "cwd", "procStart", "updatedAt", "startedAt", "pidDomain")
PIDS = st.sampled_from([os.getpid(), 1, 0, 4_000_000, 9_999_999_999])


@on_disk
@given(PIDS, st.dictionaries(st.sampled_from(FIELDS), VALUES), seeds)
def test_session_files_of_any_content(tmp_path: Path, pid: int, fields: dict[str, object], seed: int) -> None:
    file = tmp_path / f"{pid}.json"
    text = json.dumps(fields).encode()
    file.write_bytes(text if seed % 2 else mutate(text, random.Random(seed), 4000))
    for process in RealProcesses(LocalPath(str(tmp_path))).claude():
        assert process.cwd is None or os.path.isabs(process.cwd)
    file.unlink()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a remote, a packed ref and a worktree beside it."""
    top = tmp_path_factory.mktemp("fuzz") / "top"
    run_git("init", "-q", "-b", "main", str(top))
    name = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org")
    run_git("-C", str(top), *name, "commit", "-q", "--allow-empty", "-m", "first")
    run_git("-C", str(top), "remote", "add", "origin", "git@host.example:you/x.git")
    run_git("-C", str(top), "worktree", "add", "-q", str(top.parent / "beside"))
    run_git("-C", str(top), "pack-refs", "--all")
    return top


PLACES = (
    "top/.git/config",
    "top/.git/HEAD",
    "top/.git/packed-refs",
    "top/.git/index",
    "beside/.git",
    "top/.git/worktrees/beside/commondir",
    "top/.git/worktrees/beside/gitdir",
    "top/.git/worktrees/beside/HEAD",
    "top/.git/shallow",
    "top/.git/objects/info/alternates",
)
GIT_WORDS = (
    b"[core]\n\tbare = true\n",
    b"[include]\n\tpath = config\n",
    b"worktree = /\n",
    b"../" * 50,
    b"gitdir: .git\n",
    b"gitdir: /dev/zero\n",
    b"ref: refs/heads/../../x\n",
    b'[remote "origin"]\n\turl = \xff\n',
    b"\0",
    b"[extensions]\n\tx = 1\n[core]\n\trepositoryformatversion = 9\n",
    b"ref: " + b"a" * 3000,
)


@pytest.mark.parametrize("place", PLACES)
@on_disk
@given(seed=seeds)
def test_git_folders_of_any_content(repository: Path, place: str, seed: int) -> None:
    file = repository.parent / place
    before = file.read_bytes() if file.exists() else None
    rng = random.Random(seed)
    data = mutate(before or b"0" * 40 + b"\n", rng, 5000)
    at = rng.randint(0, len(data))
    file.write_bytes(rng.choice((data, data[:at] + rng.choice(GIT_WORDS) + data[at:], rng.choice(GIT_WORDS))))
    try:
        checkouts = GitCheckouts(LocalPath(str(repository.parent)))
        for folder in ("top", "beside"):
            found = checkouts.inspect(LocalPath(str(repository.parent / folder)))
            assert found is None or (os.path.isabs(found.root) and os.path.isabs(found.main_root))
        list(checkouts.find([LocalPath(str(repository.parent))]))
    finally:
        file.unlink()
        if before is not None:
            file.write_bytes(before)


@on_disk
@given(seeds)
def test_an_activity_log_of_any_content(tmp_path: Path, seed: int) -> None:
    good = b'{"time":"2026-01-01T00:00:00.000Z","kind":"ingest","project":"p","text":"2 sessions"}\n'
    file = tmp_path / "activity.jsonl"
    damaged = mutate(good * 3, random.Random(seed), 4000)
    file.write_bytes(damaged + b"\n" + good)
    read = read_activity(LocalPath(str(file)), 1000)
    assert read[-1].event.text == "2 sessions"
    assert all(isinstance(value, str) for activity in read for value in (activity.time, activity.event.kind))


CELLS = st.one_of(
    st.none(), st.text(max_size=5), st.binary(max_size=5), st.integers(-(2**63), 2**63 - 1), st.floats()
)
COLUMNS = [
    *(("file", name) for name in ("path", "device", "size", "mtime_ns", "consumed", "window", "oid")),
    *(("replica", name) for name in ("folder", "project", "root", "by_hand")),
    *(("pause", "project"), ("pause", "until"), ("stranger", "tip"), ("told", "tip")),
    *(("notice", name) for name in ("project", "kind", "text", "at")),
]


@on_disk
@given(st.lists(st.tuples(st.sampled_from(COLUMNS), CELLS, st.booleans()), max_size=4))
def test_rows_of_any_content_in_the_state(
    tmp_path: Path, changes: list[tuple[tuple[str, str], object, bool]]
) -> None:
    path = str(tmp_path / "state.db")
    state = State(path)
    state.note_file("f", "a.jsonl", FileNote(Snapshot(1, 2, 3, 4), 3, b"w", Oid("1" * 40)))
    state.note_replica(ReplicaNote("f", ProjectId("p"), LocalPath("/p"), by_hand=True))
    state.pause("p", 1.0)
    state.note_stranger("hub", "p", "1" * 40)
    state.note_told("p", Oid("1" * 40))
    state.note_notice(Notice("fork", ProjectId("p"), "text", 5.0), 1.0)
    state.close()
    with sqlite3.connect(path) as database:
        for (table, column), value, as_text in changes:
            change = f"UPDATE OR IGNORE {table} SET {column} = {'CAST(? AS TEXT)' if as_text else '?'}"
            try:
                database.execute(change, (value,))
            except sqlite3.IntegrityError:
                continue  # what the schema forbids, a bad disk might do, and then the file is no database
    database.close()
    state = State(path)
    for name, note in state.files("f").items():
        assert isinstance(name, str)
        assert 0 <= note.consumed <= note.snapshot.size
        assert isinstance(note.window, bytes)
    assert all(
        isinstance(value, str)
        for note in state.replicas()
        for value in (note.folder, note.project, note.root)
    )
    assert all(until is None or isinstance(until, float) for until in state.pauses().values())
    assert isinstance(state.stranger("hub", "p"), str | None)
    assert isinstance(state.told("p"), str | None)
    for notice in state.notices():
        assert all(isinstance(value, str) for value in (notice.kind, notice.project, notice.text))
        assert iso(notice.at) is not None
    state.close()
    Path(path).unlink()


@on_disk
@given(st.binary(min_size=1, max_size=200))
def test_a_state_database_of_any_bytes(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "state.db"
    file.write_bytes(data)
    with contextlib.suppress(sqlite3.DatabaseError, ConvergenceError):
        state = State(str(file))  # a few bytes count as an empty database
        assert state.files("f") == {}
        state.close()
    for left in tmp_path.iterdir():
        left.unlink()
