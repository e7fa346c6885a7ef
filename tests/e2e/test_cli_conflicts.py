"""`conflicts` and `conflict resolve` on two machines with real daemons."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients import start_client
from tests.e2e.machines import Machine, await_true, git, make_hub, record, stop_all

NAME = "proj:memory/notes.md"
Pair = tuple[Machine, Machine]


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Pair]:
    """Both machines edited a note and went on with a session, each while its daemon was down."""
    hub = make_hub(tmp_path / "hub.git")
    one = Machine(tmp_path / "one", "desktop", (hub,))
    other = Machine(tmp_path / "other", "laptop", (hub,), project_name="code/proj")
    sid = str(uuid.uuid4())
    for machine in (one, other):
        git("init", "-q", machine.project)
        git("-C", machine.project, "remote", "add", "origin", "git@example.org:team/proj.git")
    for machine in (one, other):
        machine.append(sid, record(sid, machine.project, 0) + record(sid, machine.project, 1))
        machine.append(sid, record(sid, machine.project, 2, f"{machine.name} goes on"))
        machine.write("memory/notes.md", f"top\nsaid on {machine.name} of {machine.project}\nend\n".encode())
    for machine in (one, other):
        machine.start()
    await_true(lambda: is_marked(one) and is_marked(other), "both sides on both machines")
    yield one, other
    stop_all([one, other])


def note(machine: Machine) -> bytes:
    return (machine.context / "memory/notes.md").read_bytes()


def is_marked(machine: Machine) -> bool:
    return b"<<<<<<< convergence" in note(machine)


def said_on(machine: Machine) -> Callable[[Machine], bytes]:
    """The note with one machine's side, as another has it."""
    return lambda here: f"top\nsaid on {machine.name} of {here.project}\nend\n".encode()


def test_both_sides_are_shown_settled_and_gone_everywhere(apart: Pair) -> None:
    one, other = apart
    one.wait_synced()
    shown = one.ctl("conflicts")
    assert shown.returncode == 5
    assert f"\n{NAME}\n" in shown.stdout
    assert "  desktop (ours), " in shown.stdout
    assert f"│ said on laptop of {one.project}\n" in shown.stdout
    assert f"  → convergencectl conflict resolve {NAME} --take ours|theirs|both\n" in shown.stdout
    assert "1 session went on in two places and became two" in shown.stdout
    found = json.loads(other.ctl("conflicts", "--json").stdout)
    ((sides,),) = (file["conflicts"] for file in found["conflicts"])
    assert [(side["machine"], side["ours"]) for side in sides] == [("desktop", False), ("laptop", True)]
    status = one.ctl("status")
    assert status.returncode == 5
    assert f"  → convergencectl conflict resolve {NAME} --take ours|theirs|both\n" in status.stdout
    assert "went on in two places" in status.stdout

    mistyped = one.ctl("conflict", "resolve", "memory/note.md", "--take", "ours")
    assert mistyped.returncode == 2
    assert mistyped.stderr.endswith(f"  in conflict:\n    {NAME}\n")

    local = str(other.context / "memory" / "notes.md")
    assert other.do("conflict", "resolve", local, "--take", "theirs") == f"settled {NAME}\n"
    assert note(other) == said_on(one)(other)
    await_true(lambda: note(one) == said_on(one)(one), "the settled note on the other machine")
    one.wait_synced()
    for machine in apart:
        done = machine.ctl("conflicts")
        assert done.returncode == 0
        assert done.stdout.startswith("no conflict\n\n1 session went on in two places")
        log = machine.do("log", "-n", "100")
        assert log.count("holds both sides") == log.count("is settled") == 1
        assert log.count("went on in two places (") == 1


def test_while_claude_runs_it_is_settled_and_written_later(apart: Pair) -> None:
    one, _ = apart
    client = start_client(one.top, str(one.project))
    try:
        settled = one.do("conflict", "resolve", "memory/notes.md", "--take", "ours")
        assert settled.startswith(f"settled {NAME}; it is written here when Claude Code has ended (")
        assert f"(pid {client.pid})" in settled
        assert is_marked(one)
    finally:
        client.kill()
    await_true(lambda: note(one) == said_on(one)(one), "the note, now that Claude Code has ended")


def test_without_a_daemon_the_store_is_read_and_nothing_settled(apart: Pair) -> None:
    one, _ = apart
    one.wait_synced()
    one.stop()
    shown = one.ctl("conflicts")
    assert shown.returncode == 5
    assert "this is what the store holds" in shown.stderr
    assert f"│ said on laptop of {one.project}\n" in shown.stdout
    assert "  desktop (ours), " in shown.stdout
    resolved = one.ctl("conflict", "resolve", NAME, "--take", "ours")
    assert resolved.returncode == 3
    assert "convergencectl up" in resolved.stderr
