"""Whatever lies in the folders or comes from a peer: set aside alone, said clearly, nothing stopped."""

from __future__ import annotations

import hashlib
import os
import subprocess
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.machines import Machine, await_true, git, make_hub, record, stop_all


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    one = Machine(tmp_path / "one", "desktop", (make_hub(tmp_path / "hub.git"),))
    git("init", "-q", one.project)
    git("-C", one.project, "remote", "add", "origin", "git@example.org:team/proj.git")
    yield one
    stop_all([one])


def session_id() -> str:
    return str(uuid.uuid4())


def attention(machine: Machine) -> list[dict[str, str]]:
    found: list[dict[str, str]] = machine.status()["attention"]
    return found


def mentions(machine: Machine, *words: str) -> bool:
    """Whether one line of attention holds all the words and says what to do."""
    return any(all(word in one["text"] for word in words) and one["fix"] for one in attention(machine))


def test_odd_files_are_reported_each_and_the_rest_is_synced(machine: Machine) -> None:
    good, invalid, half, torn, empty = (session_id() for _ in range(5))
    folder, link, fifo = (session_id() for _ in range(3))
    machine.append(good, record(good, machine.project, 0))
    machine.append(invalid, record(invalid, machine.project, 0) + b'{"type":"user","x":"\xff\xfe \xc3"}\n')
    machine.append(half, record(half, machine.project, 0) + b'{"type":"user","mess\n' + b"no json at all\n")
    machine.append(torn, record(torn, machine.project, 0) + b'{"type":"user"')
    machine.append(empty, b"")
    (machine.context / f"{folder}.jsonl").mkdir()
    (machine.context / f"{link}.jsonl").symlink_to("/etc/hostname")
    os.mkfifo(machine.context / f"{fifo}.jsonl")
    (machine.context / "memory").mkdir()
    (machine.context / "memory" / "secret.md").symlink_to("/etc/hostname")
    lonely = machine.projects / "-somewhere-without-transcripts"
    (lonely / "memory").mkdir(parents=True)
    (lonely / "memory" / "a.md").write_text("a note\n")
    machine.start()
    machine.do("sync", "--wait", "--timeout", "30")
    assert mentions(machine, f"{folder}.jsonl", "folder")
    assert mentions(machine, f"{link}.jsonl", "link")
    assert mentions(machine, f"{fifo}.jsonl", "special")
    assert mentions(machine, "memory/secret.md", "link")
    assert mentions(machine, lonely.name, "which project")
    assert machine.ctl("status").returncode == 5
    committed = git("-C", machine.store, "ls-tree", "-r", "--name-only", "project/proj")
    for sid in (good, invalid, half, torn):
        assert f"segments/{sid}/0000/00" in committed
    for sid in (empty, folder, link, fifo):
        assert sid not in committed
    shown = subprocess.run(
        ["git", "-C", machine.store, "show", f"project/proj:segments/{invalid}/0000/00"],
        capture_output=True,
        check=True,
    )
    assert b'"\xff\xfe \xc3"}\n' in shown.stdout
    assert git("-C", machine.store, "show", f"project/proj:segments/{torn}/0000/00").count("\n") == 1
    machine.append(torn, b',"whole":true}\n')
    await_true(
        lambda: git("-C", machine.store, "show", f"project/proj:segments/{torn}/0000/00").count("\n") == 2,
        "the torn record to be committed once it is whole",
    )


def test_a_transcript_that_shrinks_never_shortens_the_store(machine: Machine) -> None:
    sid = session_id()
    lines = [record(sid, machine.project, number) for number in range(10)]
    path = machine.append(sid, b"".join(lines))
    machine.start()
    machine.wait_synced()
    path.write_bytes(b"".join(lines[:4]))
    machine.append(sid, record(sid, machine.project, 10, "after it"))
    machine.wait_synced()
    shown = git("-C", machine.store, "show", f"project/proj:segments/{sid}/0000/00")
    assert shown.count("\n") == 11
    assert "after it" in shown.splitlines()[-1]


def test_the_projects_folder_going_away_halts_everything_and_says_so(machine: Machine) -> None:
    sid = session_id()
    machine.append(sid, record(sid, machine.project, 0))
    machine.start()
    machine.wait_synced()
    tip = machine.tip()
    aside = machine.projects.rename(machine.home / "aside")
    machine.ctl("sync", "--wait", "--timeout", "10")
    assert machine.status()["daemon"]["state"] == "halted"
    assert mentions(machine, "projects", "missing")
    assert machine.ctl("status").returncode == 6
    assert machine.tip() == tip
    aside.rename(machine.projects)
    machine.append(sid, record(sid, machine.project, 1))
    machine.do("sync", "--wait", "--timeout", "30")
    assert machine.status()["daemon"]["state"] == "running"
    assert machine.tip() != tip


def test_peers_that_are_no_repository_or_cannot_be_reached_do_not_stop_the_good_one(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    machine.hubs = (*machine.hubs, tmp_path / "plain", "ssh://nobody@127.0.0.1:1/context.git")
    machine.configure()
    sid = session_id()
    machine.append(sid, record(sid, machine.project, 0))
    machine.start()
    await_true(
        lambda: [peer["state"] for peer in machine.status()["peers"]] == ["ok", "failing", "failing"],
        "two peers to fail and one to work",
    )
    branch = "refs/heads/project/proj"
    await_true(
        lambda: machine.tip() in git("-C", tmp_path / "hub.git", "for-each-ref", branch),
        "the push to the good one",
    )
    assert mentions(machine, "hub1", "not a git repository")
    assert mentions(machine, "hub2")
    assert machine.ctl("wait", "--timeout", "1").returncode == 7


def test_hostile_entries_of_a_peers_tree_are_left_out_and_nothing_is_written_outside(
    machine: Machine, tmp_path: Path
) -> None:
    sid, theirs = session_id(), session_id()
    machine.append(sid, record(sid, machine.project, 0))
    machine.start()
    machine.wait_synced()
    hub = tmp_path / "hub.git"
    _push_tree(hub, _hostile_tree(hub, theirs))
    machine.ctl("sync", "--wait", "--timeout", "20")
    await_true(lambda: f"{theirs}.jsonl" in machine.files(), "the good session to arrive")
    # The machine's next commit puts the branch in order again, so the log is what keeps the word on it.
    log = machine.do("log", "-n", "100")
    for word in ("symbolic link", "submodule", "collides", "roster"):
        assert word in log, (word, log)
    machine.wait_synced()
    assert "sub.md" not in git("-C", hub, "ls-tree", "-r", "--name-only", "project/proj")
    assert sorted(machine.files()) == sorted(
        [f"{sid}.jsonl", f"{theirs}.jsonl", "memory/Note.md", "memory/good.md"]
    )


def test_a_tree_that_leads_out_of_itself_never_enters_the_store(machine: Machine, tmp_path: Path) -> None:
    sid = session_id()
    machine.append(sid, record(sid, machine.project, 0))
    machine.start()
    machine.wait_synced()
    hub = tmp_path / "hub.git"
    note = _object(hub, "blob", b"a note\n")
    up = _tree(hub, ("40000", "..", _tree(hub, ("100644", "evil.md", note))))
    tip = machine.tip()
    _push_tree(hub, _tree(hub, ("40000", "context", up)))
    machine.ctl("sync", "--wait", "--timeout", "20")
    await_true(lambda: mentions(machine, "proj"), "the branch to be reported")
    assert machine.tip() == tip
    assert machine.status()["projects"][0]["state"] == "quarantined"
    assert not list(machine.top.rglob("evil.md"))


def _push_tree(hub: Path, tree: str) -> str:
    """Puts a commit with this tree on the project's branch of the hub."""
    parent = git("-C", hub, "rev-parse", "project/proj").strip()
    author = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    commit = git(*author, "-C", hub, "commit-tree", tree, "-p", parent, "-m", "by somebody").strip()
    git("-C", hub, "update-ref", "refs/heads/project/proj", commit)
    return commit


def _hostile_tree(hub: Path, sid: str) -> str:
    note = _object(hub, "blob", b"a note\n")
    records = _object(hub, "blob", record(sid, "{{CC_PROJECT_ROOT}}", 0))
    memory = _tree(
        hub,
        ("100644", "Note.md", note),
        ("100644", "good.md", note),
        ("120000", "link.md", note),
        ("100644", "note.md", note),
        ("160000", "sub.md", "1" * 40),
    )
    segments = _tree(
        hub, ("40000", sid, _tree(hub, ("40000", "0000", _tree(hub, ("100644", "00", records)))))
    )
    return _tree(
        hub,
        ("40000", "context", _tree(hub, ("40000", "memory", memory))),
        ("100644", "roster.json", _object(hub, "blob", b"{not json")),
        ("40000", "segments", segments),
    )


def _tree(hub: Path, *entries: tuple[str, str, str]) -> str:
    raw = b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(oid) for mode, name, oid in entries)
    return _object(hub, "tree", raw)


def _object(hub: Path, kind: str, data: bytes) -> str:
    """Writes an object that no git program would, as a hostile peer can."""
    whole = f"{kind} {len(data)}\0".encode() + data
    oid = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
    path = hub / "objects" / oid[:2] / oid[2:]
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_bytes(zlib.compress(whole))
    return oid


def test_a_newer_schema_on_a_peer_is_left_alone_with_a_clear_word(machine: Machine, tmp_path: Path) -> None:
    sid = session_id()
    machine.append(sid, record(sid, machine.project, 0))
    machine.start()
    machine.wait_synced()
    hub = tmp_path / "hub.git"
    commit = _push_tree(
        hub, _tree(hub, ("100644", "convergence.json", _object(hub, "blob", b'{"schema": 99}')))
    )
    machine.ctl("sync", "--wait", "--timeout", "20")
    await_true(lambda: mentions(machine, "newer version"), "the newer schema to be reported")
    assert git("-C", hub, "rev-parse", "project/proj").strip() == commit
    assert machine.files()[f"{sid}.jsonl"].count(b"\n") == 1
    assert machine.status()["projects"][0]["state"] != "synced"


def test_a_bad_configuration_stops_the_start_with_its_line(machine: Machine) -> None:
    config = machine.conv / "config.toml"
    config.write_text(config.read_text() + "\n[ingest2]\nquit = 3\n")
    done = machine.run_daemon()
    assert done.returncode == 2
    assert "line" in done.stderr
    assert "ingest2" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_daemon_for_the_store_exits_and_names_the_first(machine: Machine) -> None:
    sid = session_id()
    machine.append(sid, record(sid, machine.project, 0))
    machine.start()
    assert machine.process is not None
    done = machine.run_daemon()
    assert done.returncode == 1
    assert f"pid {machine.process.pid}" in done.stderr


def test_one_full_pass_commits_and_pushes_and_exits(machine: Machine, tmp_path: Path) -> None:
    sid = session_id()
    machine.append(sid, record(sid, machine.project, 0))
    done = machine.run_daemon("--once", "--log-format", "json")
    assert done.returncode == 0, done.stderr
    assert git("-C", tmp_path / "hub.git", "rev-parse", "project/proj").strip() == machine.tip()
    again = machine.run_daemon("--once", "--log-format", "json")
    assert again.returncode == 0, again.stderr
    assert '"text": "proj: committed' not in again.stderr
    assert '"text": "pushed' not in again.stderr


def test_a_damaged_state_database_is_set_aside_and_rebuilt(machine: Machine) -> None:
    sid = session_id()
    machine.append(sid, record(sid, machine.project, 0))
    machine.start()
    machine.wait_synced()
    tip = machine.tip()
    machine.kill()
    for path in machine.conv.glob("state.sqlite*"):
        path.unlink()
    (machine.conv / "state.sqlite").write_bytes(b"this is no database" * 1000)
    machine.start()
    machine.wait_synced()
    assert machine.tip() == tip
    assert list(machine.conv.glob("*.damaged*"))
