"""The real Claude Code client on two machines whose daemons sync through a bare hub: what the model gets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from convergenced.canon.folder import encode_folder_name
from tests.e2e.machines import Machine, await_true, git, make_hub, stop_all
from tests.e2e.real_client import Gate, Lab, Request, UnavailableError, install_client

pytestmark = pytest.mark.timeout(240)  # the first test also installs the client


@pytest.fixture(scope="session")
def client() -> Path:
    try:
        return install_client()
    except UnavailableError as error:
        pytest.skip(f"the real client cannot be had: {error}")


@contextmanager
def laboratory(top: Path, client: Path) -> Iterator[Lab]:
    lab = Lab(top, client)
    try:
        yield lab
    finally:
        lab.close()


@contextmanager
def two_machines(top: Path, other_project: str) -> Iterator[tuple[Machine, Machine]]:
    """A desktop and a laptop with the same code at different places, and a hub."""
    hub = make_hub(top / "hub.git")
    one = Machine(top / "desktop", "desktop", (hub,))
    other = Machine(top / "laptop", "laptop", (hub,), project_name=other_project)
    git("init", "-q", "-b", "main", one.project)
    (one.project / "README.md").write_text("# Demo\n")
    git("-C", one.project, "add", "-A")
    author = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false")
    git("-C", one.project, *author, "commit", "-q", "-m", "begin")
    git("clone", "-q", one.project, other.project)
    git("-C", one.project, "remote", "add", "origin", "git@example.org:team/proj.git")
    git("-C", other.project, "remote", "set-url", "origin", "git@example.org:team/proj.git")
    try:
        yield one, other
    finally:
        stop_all([one, other])


@pytest.fixture
def lab(tmp_path: Path, client: Path) -> Iterator[Lab]:
    with laboratory(tmp_path / "lab", client) as running:
        yield running


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    with two_machines(tmp_path, "code/proj") as machines:
        yield machines


def settle(*machines: Machine) -> None:
    """Lets all machines exchange until each has what the others had."""
    for _ in range(2):
        for machine in machines:
            machine.wait_synced()


def project(machine: Machine) -> dict[str, Any]:
    """What `status --json` says of the one project; empty as long as the machine takes no part in it."""
    found = machine.status()["projects"]
    return dict(found[0]) if found else {}


def marks(machine: Machine) -> tuple[str, str]:
    """What every path of a machine holds: as it is, and as folder names encode it."""
    return str(machine.top), encode_folder_name(str(machine.top))


def moved(text: str, source: Machine, target: Machine) -> str:
    """The text with the source's paths replaced by the target's."""
    text = text.replace(str(source.project), str(target.project)).replace(str(source.home), str(target.home))
    return text.replace(source.context.name, target.context.name)


def told(request: Request, source: Machine, target: Machine) -> list[tuple[str, str]]:
    """The request's conversation as another machine must tell it: signed thinking stays as it was signed."""
    return [
        (role, block if '"signature"' in block else moved(block, source, target))
        for role, block in request.conversation
    ]


@dataclass(frozen=True)
class Journey:
    """One session's way from the desktop to the laptop and back."""

    one: Machine
    other: Machine
    session: str
    at_home: Request
    """What the desktop's client would have sent, had it gone on there."""
    away: Request
    back: Request
    files: dict[str, bytes]
    """The laptop's context folder as it arrived."""


@pytest.fixture(scope="module")
def journey(client: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    top = tmp_path_factory.mktemp("journey")
    with ExitStack() as stack:
        lab = stack.enter_context(laboratory(top / "lab", client))
        one, other = stack.enter_context(two_machines(top, "src/work/proj"))
        one.start()
        other.start()
        sid, _ = lab.run(one, "-p", "[[scn:tools1]] begin")
        for script in ("agent1", "memory1", "big"):
            assert lab.run(one, "--resume", sid, "-p", f"[[scn:{script}]] then {script}")[0] == sid
        goes_on = ("--resume", sid, "-p", "[[scn:simple]] go on")
        _, at_home = lab.run(one, *goes_on, "--no-session-persistence")
        await_true(lambda: project(other), "the laptop to join by itself")
        settle(one, other)
        files = other.files()
        _, away = lab.run(other, *goes_on)
        settle(other, one)
        _, back = lab.run(one, "--resume", sid, "-p", "[[scn:simple]] home again")
        yield Journey(one, other, sid, at_home, away, back, files)


def test_the_second_machine_sends_the_whole_history_with_its_own_paths(journey: Journey) -> None:
    assert journey.away.session == journey.session
    assert journey.away.conversation == told(journey.at_home, journey.one, journey.other)
    tools = [block for _, block in journey.away.blocks if block["type"] == "tool_use"]
    assert {"Read", "Bash", "Write", "Edit", "Agent"} <= {block["name"] for block in tools}
    answered = [block["tool_use_id"] for _, block in journey.away.blocks if block["type"] == "tool_result"]
    assert sorted(answered) == sorted(block["id"] for block in tools)


def test_the_second_machine_sends_no_path_of_the_first(journey: Journey) -> None:
    for mark in marks(journey.one):
        assert mark in journey.at_home.unsigned
        assert mark not in journey.away.unsigned
        assert mark.encode() not in b"".join(
            data for name, data in journey.files.items() if name != f"{journey.session}.jsonl"
        )


def test_signed_thinking_reaches_the_model_as_it_was_signed(journey: Journey) -> None:
    assert journey.away.signed == journey.at_home.signed != []


def test_memory_written_on_the_first_machine_is_given_to_the_model_on_the_second(journey: Journey) -> None:
    memory = journey.other.context / "memory"
    assert f"- [facts](proj_facts.md) project at {journey.other.project}" in str(journey.away.blocks)
    assert str(memory / "MEMORY.md") in journey.away.unsigned
    assert str(journey.other.project).encode() in journey.files["memory/proj_facts.md"]


def test_subagents_and_big_tool_results_arrive_with_their_session(journey: Journey) -> None:
    names = [name for name in journey.files if name.startswith(f"{journey.session}/")]
    assert any(name.startswith(f"{journey.session}/subagents/agent-") for name in names)
    results = [name for name in names if name.startswith(f"{journey.session}/tool-results/")]
    assert results
    for name in results:
        assert str(journey.other.context / name) in journey.away.unsigned
        assert f"{journey.other.project}/file-4000".encode() in journey.files[name]


def test_the_turn_made_on_the_second_machine_comes_back_to_the_first(journey: Journey) -> None:
    assert journey.back.session == journey.session
    history = told(journey.away, journey.other, journey.one)
    assert journey.back.conversation[: len(history)] == history
    answer, prompt = journey.back.conversation[len(history) :]
    assert answer[0] == "assistant"
    assert f"Simple answer about {journey.one.project}/README.md." in answer[1]
    assert prompt[0] == "user"
    assert "home again" in prompt[1]
    for mark in marks(journey.other):
        assert mark not in journey.back.unsigned


def test_incoming_sessions_wait_for_the_running_client_and_go_in_when_it_ends(
    lab: Lab, pair: tuple[Machine, Machine]
) -> None:
    one, other = pair
    one.start()
    other.start()
    gate = lab.set_gate(other)
    running = lab.start(other, "-p", "[[scn:gate]] wait")
    gate.await_client()
    arriving = [lab.run(one, "-p", f"[[scn:simple]] session {number}")[0] for number in range(2)]
    await_true(
        lambda: (project(other).get("held") or {}).get("sessions") == 2, f"two sessions held: {other.log()}"
    )
    found = project(other)
    assert found["state"] == "held"
    assert found["held"]["pid"] == running.pid
    assert str(other.project) in found["held"]["reason"]
    assert not {f"{sid}.jsonl" for sid in arriving} & set(other.files())
    gate.open()
    own = lab.finish(running)
    settle(other, one)
    assert project(other)["held"] is None
    names = {f"{sid}.jsonl" for sid in (own, *arriving)}
    assert names <= set(other.files())
    assert names <= set(one.files())
    _, request = lab.run(one, "--resume", own, "-p", "[[scn:simple]] go on")
    assert f"The gate of {one.project} was opened." in str(request.conversation)


def test_a_session_that_goes_on_elsewhere_while_its_client_runs_becomes_two_that_both_resume(
    lab: Lab, pair: tuple[Machine, Machine]
) -> None:
    one, other = pair
    one.start()
    other.start()
    sid, _ = lab.run(one, "-p", "[[scn:tools1]] begin")
    one.wait_synced()
    other.do("join", str(other.project))
    settle(one, other)
    gate = lab.set_gate(other)
    running = lab.start(other, "--resume", sid, "-p", "[[scn:gate]] on the laptop")
    gate.await_client()
    lab.run(one, "--resume", sid, "-p", "[[scn:simple]] on the desktop")
    await_true(lambda: project(other).get("held"), "the desktop's turn to be held on the laptop")
    gate.open()
    lab.finish(running)
    settle(other, one)
    settle(other, one)
    for machine in pair:
        sessions = [name.removesuffix(".jsonl") for name in machine.files() if name.endswith(".jsonl")]
        lineages = [name for name in sessions if "/" not in name]
        assert len(lineages) == 2
        assert sid in lineages
        told_by = []
        for lineage in lineages:
            resumed, request = lab.run(
                machine, "--resume", lineage, "-p", "[[scn:simple]] more", "--no-session-persistence"
            )
            assert resumed == lineage
            said = str(request.conversation)
            assert "[[scn:tools1]] begin" in said
            assert f"Done. I wrote {machine.project}/notes.txt" in said
            told_by.append(("on the desktop" in said, "on the laptop" in said))
        assert sorted(told_by) == [(False, True), (True, False)]


def test_continue_takes_the_session_that_was_worked_on_last_wherever_that_was(
    lab: Lab, pair: tuple[Machine, Machine]
) -> None:
    one, other = pair
    first, _ = lab.run(one, "-p", "[[scn:simple]] first")
    second, _ = lab.run(other, "-p", "[[scn:simple]] second")
    one.start()
    other.start()
    settle(one, other)
    assert f"{first}.jsonl" in other.files()
    go_on = ("--continue", "-p", "[[scn:simple]] go on")
    chosen, _ = lab.run(other, *go_on, "--no-session-persistence")
    assert chosen == second
    third, _ = lab.run(one, "-p", "[[scn:simple]] third")
    settle(one, other)
    chosen, request = lab.run(other, *go_on)
    assert chosen == third
    assert "[[scn:simple]] third" in str(request.conversation)


def clean_up(lab: Lab, machine: Machine, gate: Gate) -> None:
    """Has the client do what it does when its last cleanup is long ago."""
    done = machine.home / ".claude" / ".last-cleanup"
    done.unlink(missing_ok=True)
    client = lab.start(machine, "-p", "[[scn:gate]] something else")
    gate.await_client()
    await_true(done.exists, "the client to clean up")
    gate.open()
    lab.finish(client)


def test_what_the_cleanup_took_is_brought_back_to_stay_and_resumed(tmp_path: Path, lab: Lab) -> None:
    one = Machine(tmp_path / "desktop", "desktop")
    session, _ = lab.run(one, "-p", "[[scn:simple]] begin")
    transcript = one.context / f"{session}.jsonl"
    long_ago = datetime.now(UTC) - timedelta(days=60)
    said = re.sub(
        rb'"timestamp":"[^T"]*T', f'"timestamp":"{long_ago:%Y-%m-%d}T'.encode(), transcript.read_bytes()
    )
    transcript.write_bytes(said)
    os.utime(transcript, (long_ago.timestamp(), long_ago.timestamp()))
    gate = lab.set_gate(one)
    try:
        one.start()
        one.wait_synced()
        clean_up(lab, one, gate)
        await_true(lambda: not transcript.exists(), "the session to be taken by the cleanup")
        one.do("session", "restore", session[:8])
        assert transcript.read_bytes() == said
        clean_up(lab, one, gate)
        assert transcript.read_bytes() == said
        goes_on, request = lab.run(one, "--resume", session, "-p", "[[scn:simple]] go on")
    finally:
        stop_all([one])
    assert goes_on == session
    assert [role for role, _ in request.conversation] == ["user", "assistant", "user"]


def test_a_session_is_resumed_where_its_checkout_moved_to(tmp_path: Path, lab: Lab) -> None:
    one = Machine(tmp_path / "desktop", "desktop")
    git("init", "-q", one.project)
    git("-C", one.project, "remote", "add", "origin", "git@example.org:team/proj.git")
    session, _ = lab.run(one, "-p", "[[scn:tools1]] begin")
    old, new = one.project, one.home / "src" / "moved"
    try:
        one.start()
        one.wait_synced()
        one.do("project", "move", "--rename-dir", str(old), str(new))
    finally:
        stop_all([one])
    one.project_name = "src/moved"
    goes_on, request = lab.run(one, "--continue", "-p", "[[scn:simple]] go on")
    assert goes_on == session
    assert f"Done. I wrote {new}/notes.txt" in str(request.conversation)
    for place in (str(old), encode_folder_name(str(old))):
        assert place not in request.unsigned
