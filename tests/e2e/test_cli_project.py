"""`project move`, `remove` and `discover` on real daemons, repositories and git, with kills on the way."""

from __future__ import annotations

import json
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from convergenced import steps
from convergenced.canon.folder import encode_folder_name
from tests.clients import start_client
from tests.e2e.machines import Machine, await_true, git, make_hub, record, stop_all
from tests.profiles import DEEP

URL = "git@example.org:team/proj.git"
Pair = tuple[Machine, Machine]


def checkout(place: Path, url: str = URL) -> Path:
    """A repository of that code."""
    place.mkdir(parents=True, exist_ok=True)
    git("init", "-q", place)
    git("-C", place, "remote", "add", "origin", url)
    return place


def context_of(machine: Machine, root: Path) -> Path:
    return machine.projects / encode_folder_name(str(root))


def sessions_in(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.jsonl")}


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Machine]:
    """A machine with a hub and a project in step: two sessions and a note; a third session was removed."""
    made = Machine(tmp_path / "one", "desktop", (make_hub(tmp_path / "hub.git"),))
    checkout(made.project)
    for number in range(3):
        sid = str(uuid.uuid5(uuid.NAMESPACE_OID, f"session {number}"))
        made.append(sid, record(sid, made.project, 0) + record(sid, made.project, 1))
    made.write("memory/notes.md", f"see {made.project}\n".encode())
    made.start()
    made.wait_synced()
    (made.context / f"{sid}.jsonl").unlink()
    made.do("sync", "--wait", "--full")
    yield made
    stop_all([made])


def second(machine: Machine, tmp_path: Path) -> Machine:
    """Another machine with the same hub and code, in step with the first."""
    other = Machine(tmp_path / "other", "laptop", machine.hubs, project_name="code/proj")
    checkout(other.project)
    other.start()
    other.do("join", str(other.project))
    other.wait_synced()
    return other


def refs(machine: Machine, project: str = "proj") -> list[str]:
    """What the store has of a project."""
    names = git("-C", machine.store, "for-each-ref", "--format=%(refname)").split()
    return [name for name in names if f"/{project}/" in f"{name}/"]


# -- move


def test_a_moved_checkout_takes_its_sessions_along(one: Machine) -> None:
    old, new = one.project, one.home / "code" / "proj"
    kept = sessions_in(one.context)
    assert len(kept) == 2
    new.parent.mkdir()
    old.rename(new)
    told = one.do("project", "move", str(old), str(new))
    assert "proj is in ~/code/proj now, with 2 sessions to resume there\n" in told
    assert "3 files of the old context folder went among the backups:\n" in told
    there = context_of(one, new)
    assert sessions_in(there) == kept, "what was removed stays removed"
    text = next(there.glob("*.jsonl")).read_bytes()
    assert f'"cwd":"{new}"'.encode() in text
    assert str(old).encode() not in text
    assert (there / "memory/notes.md").read_text() == f"see {new}\n"
    assert not one.context.exists()
    backups = list((one.conv).rglob("backups/**/*.jsonl"))
    assert {path.stem for path in backups} == kept
    one.wait_synced()
    commits = git("-C", one.store, "log", "--format=%H", one.tip()).split()
    cards = {
        card for one_ in commits for card in git("-C", one.store, "ls-tree", "-r", one_, "machines/").split()
    }
    for card in (word for word in cards if len(word) == 40):
        assert '"git_url": "example.org/team/proj"' in git("-C", one.store, "cat-file", "-p", card)
    status = one.status()
    assert [(project["root"], project["sessions"]) for project in status["projects"]] == [(str(new), 2)]
    tip = one.tip()
    again = one.ctl("project", "move", str(old), str(new))
    assert again.returncode == 2, "the old place is known no more"
    assert f"nothing that is tracked was at {old}" in again.stderr
    one.do("sync", "--wait", "--full")
    assert one.tip() == tip
    assert one.ctl("doctor", "--deep").returncode == 0


def test_the_checkout_itself_is_moved_where_that_is_asked(one: Machine) -> None:
    old, new = one.project, one.home / "src" / "renamed"
    git("-C", old, "config", "user.email", "a@example.org")
    git("-C", old, "config", "user.name", "a")
    git("-C", old, "commit", "-q", "--allow-empty", "-m", "first")
    git("-C", old, "worktree", "add", "-q", one.home / "src" / "tree")
    client = start_client(one.top, str(old))
    held = one.ctl("project", "move", "--rename-dir", str(old), str(new))
    assert held.returncode == 1
    assert f"Claude Code runs in {old} (pid {client.pid})" in held.stderr
    assert old.is_dir()
    client.kill()
    moved = one.ctl("project", "move", "--rename-dir", str(old), str(new))
    assert moved.returncode == 0, moved.stderr
    assert "moved ~/src/proj to ~/src/renamed" in moved.stderr
    assert f"  → git -C {new} worktree repair\n" in moved.stdout
    assert not old.exists()
    assert len(sessions_in(context_of(one, new))) == 2
    assert not one.context.exists()


def test_a_context_folder_that_was_moved_along_by_hand_is_put_right(one: Machine) -> None:
    old, new = one.project, one.home / "src" / "moved"
    kept, there = sessions_in(one.context), context_of(one, new)
    one.stop()
    old.rename(new)
    one.context.rename(there)
    one.start()
    await_true(lambda: one.status()["attention"], "the daemon to tell")
    assert f"convergencectl project move {old} {new}" in [fix["fix"] for fix in one.status()["attention"]]
    assert "with 2 sessions to resume there" in one.do("project", "move", str(old), str(new))
    assert sessions_in(there) == kept
    assert (there / "memory/notes.md").read_text() == f"see {new}\n"
    assert not one.context.exists()
    assert one.ctl("status").returncode == 0


def test_where_claude_runs_the_sessions_arrive_once_it_has_ended(one: Machine) -> None:
    old, new = one.project, one.home / "code" / "proj"
    new.parent.mkdir()
    old.rename(new)
    client = start_client(one.top, str(new))
    try:
        told = " ".join(one.do("project", "move", str(old), str(new)).split())
        assert "its sessions arrive there later: 3 held: Claude Code runs in" in told
        assert f"(pid {client.pid})" in told
        assert "the old context folder stays" in told
        assert len(sessions_in(one.context)) == 2
    finally:
        client.kill()
    await_true(lambda: len(sessions_in(context_of(one, new))) == 2, "the sessions at the new place")
    assert len(sessions_in(one.context)) == 2
    assert "went among the backups" in one.do("project", "move", str(old), str(new)), (
        "asked again, it is put away"
    )
    assert not one.context.exists()


def test_the_same_repository_at_a_new_path_is_followed_by_itself(one: Machine) -> None:
    old, new = one.project, one.home / "src" / "elsewhere"
    old.rename(new)
    one.do("sync")
    await_true(lambda: len(sessions_in(context_of(one, new))) == 2, "the sessions at the new place")
    one.wait_synced()
    assert len(sessions_in(one.context)) == 2, "what happens by itself takes nothing away"
    log = "".join(one.do("log", "-n", "50").split())
    assert f"proj:{old}isnow{new}" in log


def test_moves_that_make_no_sense_are_refused(one: Machine) -> None:
    old, src = one.project, one.home / "src"
    other = checkout(src / "other", "git@example.org:team/other.git")
    cases = {
        (str(old), str(src / "nowhere")): "is not a folder",
        (str(old), str(old / "below")): "lies in",
        (str(old), str(other)): "holds other code than project proj",
        (str(src / "unknown"), str(other)): "nothing that is tracked was at",
        ("--rename-dir", str(old), str(other)): "is there already",
        ("--rename-dir", str(old), str(src / "no" / "such")): "is not a folder",
        ("--rename-dir", str(src / "unknown"), str(src / "x")): "is not a folder",
    }
    for arguments, words in cases.items():
        done = one.ctl("project", "move", *arguments)
        assert (done.returncode, words in done.stderr) == (2, True), (arguments, done.stderr)
    twin = checkout(src / "twin")
    both = one.ctl("project", "move", str(old), str(twin))
    assert (both.returncode, "is still there" in both.stderr) == (2, True)
    assert len(sessions_in(one.context)) == 2
    one.stop()
    assert one.ctl("project", "move", str(old), str(twin)).returncode == 3


@pytest.mark.parametrize(
    "step", ["move.begun", "move.forgotten", "move.emptied", "localize.written"] if DEEP else ["move.emptied"]
)
def test_a_move_that_was_killed_is_ended_by_asking_again(one: Machine, step: str) -> None:
    old, new = one.project, one.home / "code" / "proj"
    kept, memory = sessions_in(one.context), (one.context / "memory/notes.md").read_bytes()
    one.stop()
    one.extra[steps.VARIABLE] = step
    one.start()
    new.parent.mkdir()
    old.rename(new)
    broken = one.ctl("project", "move", str(old), str(new))
    assert broken.returncode == 3
    assert one.process is not None
    assert one.process.wait(30) == -signal.SIGKILL
    del one.extra[steps.VARIABLE]
    one.start()
    again = one.ctl("project", "move", str(old), str(new))
    assert again.returncode in (0, 2), again.stderr
    one.wait_synced()
    there = context_of(one, new)
    assert sessions_in(there) == kept
    assert (there / "memory/notes.md").read_bytes() == memory.replace(bytes(old), bytes(new))
    assert sessions_in(one.context) in (set(), kept)
    stored = git("-C", one.store, "ls-tree", "-r", "--name-only", one.tip())
    assert "context/memory/notes.md" in stored
    assert len({line.split("/")[1] for line in stored.splitlines() if line.startswith("segments/")}) == 3
    assert one.ctl("doctor", "--deep").returncode == 0


# -- remove


def test_a_removed_project_stays_out_and_comes_back_by_init(one: Machine, tmp_path: Path) -> None:
    other = second(one, tmp_path)
    try:
        told = one.do("project", "remove", str(one.project))
        assert told.startswith("proj takes part no more on this machine (~/src/proj)\n")
        assert f"  → convergencectl init {one.project}\n" in told
        assert one.do("config", "get", "projects.exclude") == '["~/src/proj"]\n'
        assert len(refs(one)) >= 3, "the store keeps what it has"
        assert len(sessions_in(one.context)) == 2
        sid = str(uuid.uuid4())
        other.append(sid, record(sid, other.project, 0))
        other.wait_synced()
        one.kill()
        one.start()
        one.do("sync", "--wait")
        assert one.status()["projects"] == []
        assert not (one.context / f"{sid}.jsonl").exists()
        one.do("init", str(one.project))
        one.wait_synced()
        assert one.do("config", "get", "projects.exclude") == "[]\n"
        assert len(sessions_in(one.context)) == 3, "what was removed by hand stays so"
        assert (one.context / f"{sid}.jsonl").exists()
    finally:
        other.kill()


def test_a_purge_says_what_goes_and_does_not_come_back_by_itself(one: Machine, tmp_path: Path) -> None:
    from tests.e2e.cli import OnTerminal

    other = second(one, tmp_path)
    try:
        unasked = one.ctl("project", "remove", "proj", "--purge")
        assert (unasked.returncode, "there is no terminal to ask" in unasked.stderr) == (2, True)
        local = {path: path.read_bytes() for path in one.context.rglob("*") if path.is_file()}
        terminal = OnTerminal.start(one.conv, "project", "remove", "proj", "--purge", environ=one.environ)
        shown = terminal.read_until("Type proj to go on: ")
        plain = " ".join(shown.split())
        assert "3 sessions of proj, their history and memory; 1 of them are not among" in plain
        assert "What stays: Claude Code's own files in ~/.claude/projects/" in plain
        assert "what peers have: hub" in plain
        terminal.type("pro\n")
        assert terminal.end()[0] == 1
        assert len(refs(one)) >= 3
        terminal = OnTerminal.start(one.conv, "project", "remove", "proj", "--purge", environ=one.environ)
        terminal.read_until("Type proj to go on: ")
        terminal.type("proj\n")
        code, shown = terminal.end()
        assert code == 0, shown
        assert "this machine's copy is gone (3 sessions)" in shown
        assert refs(one) == []
        sid = str(uuid.uuid4())
        other.append(sid, record(sid, other.project, 0))
        other.wait_synced()
        one.do("sync", "--wait")
        one.kill()
        one.start()
        one.do("sync", "--wait")
        assert refs(one) == []
        assert {path: path.read_bytes() for path in local} == local
        assert len(sessions_in(one.context)) == 2
        one.stop()
        git("-C", one.store, "gc", "-q", "--prune=now")
        assert git("-C", one.store, "count-objects").startswith("0 objects")
        one.start()
        one.do("join", str(one.project))
        one.wait_synced()
        assert sid in sessions_in(one.context)
        await_true(lambda: one.tip() == other.tip(), "both machines in step")
    finally:
        other.kill()


def test_what_would_be_nowhere_else_is_not_purged_unread(one: Machine) -> None:
    one.do("peer", "remove", "hub")
    git("-C", one.store, "update-ref", "-d", "refs/peers/hub/project/proj")
    refused = one.ctl("project", "remove", "proj", "--purge", "--yes")
    assert refused.returncode == 5
    assert "1 of 3 sessions of proj are nowhere else" in refused.stderr
    assert len(refs(one)) >= 2
    assert [project["id"] for project in one.status()["projects"]] == ["proj"]


@pytest.mark.parametrize(
    "step", ["leave.excluded", "purge.ref", "purge.ref:3", "purge.forgotten"] if DEEP else ["purge.ref"]
)
def test_a_purge_that_was_killed_is_ended_by_asking_again(one: Machine, step: str) -> None:
    local = {path: path.read_bytes() for path in one.context.rglob("*") if path.is_file()}
    one.stop()
    one.extra[steps.VARIABLE] = step
    one.start()
    assert one.ctl("project", "remove", "proj", "--purge", "--yes").returncode == 3
    assert one.process is not None
    assert one.process.wait(30) == -signal.SIGKILL
    del one.extra[steps.VARIABLE]
    one.start()
    one.do("sync", "--wait")
    again = one.ctl("project", "remove", "proj", "--purge", "--yes")
    assert again.returncode == (2 if step == "purge.forgotten" else 0), again.stderr
    assert refs(one) == []
    one.do("sync", "--wait")
    assert refs(one) == []
    assert one.status()["projects"] == []
    assert {path: path.read_bytes() for path in local} == local


def test_what_is_unknown_and_no_daemon(one: Machine) -> None:
    done = one.ctl("project", "remove", "nothing")
    assert (done.returncode, "the projects here:\n    proj" in done.stderr) == (2, True), done.stderr
    one.stop()
    for arguments in (("remove", "proj"), ("remove", "proj", "--purge", "--yes")):
        assert one.ctl("project", *arguments).returncode == 3


# -- discover


def test_checkouts_are_found_with_what_to_do_about_them(one: Machine, tmp_path: Path) -> None:
    other = second(one, tmp_path)
    web = checkout(other.home / "code" / "web", "git@example.org:team/web.git")
    sid = str(uuid.uuid4())
    context_of(other, web).mkdir(parents=True)
    (context_of(other, web) / f"{sid}.jsonl").write_bytes(record(sid, web, 0))
    other.wait_synced()
    other.kill()
    one.do("config", "set", "projects.auto_join", "false")
    one.do("config", "set", "projects.track", "listed")
    one.do("init", str(one.project))
    here = checkout(one.home / "work" / "deep" / "web", "git@example.org:team/web.git")
    tool = checkout(one.home / "work" / "tool", "git@example.org:team/tool.git")
    checkout(one.home / "work" / "node_modules" / "proj")
    checkout(one.home / "work" / "nothing", "git@example.org:team/nothing.git")
    context_of(one, tool).mkdir(parents=True)
    (context_of(one, tool) / f"{sid}.jsonl").write_bytes(record(sid, tool, 0))
    one.do("sync", "--wait")
    found = json.loads(one.do("project", "discover", str(one.home / "work"), str(one.home / "src"), "--json"))
    assert found["complete"] is True
    assert {(one["root"], one["project"], one["state"], one["command"]) for one in found["checkouts"]} == {
        (str(one.project), "proj", "tracked", None),
        (str(here), "web", "available", f"convergencectl join {here}"),
        (str(tool), "tool", "sessions", f"convergencectl init {tool}"),
    }
    assert one.ctl("project", "discover", str(one.home / "none")).returncode == 2
    shown = one.do("project", "discover", str(one.home / "work"))
    assert "\n2 checkouts can take part:\n" in shown
    for command in (one_["command"] for one_ in found["checkouts"] if one_["command"]):
        one.do(*command.split()[1:])
    one.wait_synced()
    assert {project["id"] for project in one.status()["projects"]} == {"proj", "web", "tool"}
    one.stop()
    offline = one.ctl("project", "discover", str(one.home / "work"))
    assert offline.returncode == 0
    assert "this is what the store holds" in offline.stderr


# -- presence


TELL = """
import os, sys
from convergenced.control.assembly import real_parts
from convergenced.machine.locations import Locations
from convergenced.machine.settings import load_settings
from convergenced.model import ProjectId, SessionId
from convergenced.sync.presence import open_sessions, tell
from convergenced.sync.replica import Replica

home = os.path.expanduser("~")
where = Locations.from_environment(os.environ, home)
with real_parts(where, load_settings(where.config_file), os.environ, home) as parts:
    (note,) = parts.state.replicas()
    replica = Replica(note.project, note.folder, note.root, primary=True)
    found = open_sessions(parts, [replica]).get(note.project, ())
    print(tell(parts, note.project, {sid: 1924992120.0 for sid in found}, renewed=False))
"""


def test_what_is_open_on_one_machine_is_shown_on_the_other(one: Machine, tmp_path: Path) -> None:
    other = second(one, tmp_path)
    try:
        sid = min(sessions_in(one.context))
        assert other.status()["live"] == []
        one.stop()
        sessions = one.home / ".claude" / "sessions"
        sessions.mkdir()
        client = start_client(one.top, str(one.project))
        client.write_session_file(sessions, sid)
        try:
            told = one._run([sys.executable, "-c", TELL], 60.0)
        finally:
            client.kill()
        assert told.returncode == 0, told.stderr
        one.start()
        one.wait_synced()
        other.do("sync", "--wait")
        (live,) = other.status()["live"]
        assert live == {
            "project": "proj",
            "session": sid,
            "machine": "desktop",
            "machine_id": one.status()["machine"]["id"],
            "since": "2031-01-01T00:02:00Z",
        }
        shown = other.ctl("status")
        assert shown.returncode == 0
        assert f"· session {sid[:8]} of proj is live on desktop (since " in shown.stdout
        assert one.status()["live"] == []
        assert one.ctl("doctor", "--deep").returncode == 0
    finally:
        other.kill()
