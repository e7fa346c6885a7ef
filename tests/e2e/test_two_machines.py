"""Two machines, two real daemons, one bare hub: what a user gets."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import start_client
from tests.e2e.machines import Machine, await_true, git, make_hub, record, stop_all


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    hub = make_hub(tmp_path / "hub.git")
    one = Machine(tmp_path / "one", "desktop", (hub,))
    other = Machine(tmp_path / "other", "laptop", (hub,), project_name="code/proj")
    for machine in (one, other):
        git("init", "-q", machine.project)
        git("-C", machine.project, "remote", "add", "origin", "git@example.org:team/proj.git")
    yield one, other
    stop_all([one, other])


def session_id() -> str:
    return str(uuid.uuid4())


def settle(*machines: Machine) -> None:
    """Lets all machines exchange until each has what the others had."""
    for _ in range(2):
        for machine in machines:
            machine.wait_synced()


def localized(data: bytes, source: Machine, target: Machine) -> bytes:
    """The bytes with the source's anchors replaced by the target's."""
    return data.replace(str(source.project).encode(), str(target.project).encode()).replace(
        str(source.home).encode(), str(target.home).encode()
    )


def test_a_session_written_on_one_machine_appears_on_the_other_with_its_paths(
    pair: tuple[Machine, Machine],
) -> None:
    one, other = pair
    sid = session_id()
    lines = b"".join(record(sid, one.project, number) for number in range(5))
    one.append(sid, lines)
    one.write(f"{sid}/subagents/agent-1.jsonl", record(sid, one.project, 1))
    one.write(f"{sid}/tool-results/big.txt", f"output of {one.project}/x\n".encode())
    one.write("memory/MEMORY.md", f"- lives in {one.project}\n".encode())
    started = session_id()
    other.append(started, record(started, other.project, 0))
    one.start()
    other.start()
    settle(one, other)
    for relative, data in one.files().items():
        assert other.files()[relative] == localized(data, one, other), relative
    assert str(one.top).encode() not in b"".join(other.files().values())
    assert one.tip() == other.tip()


def test_two_hundred_appends_on_each_side_end_byte_identical_and_then_nothing_happens(
    pair: tuple[Machine, Machine], tmp_path: Path
) -> None:
    one, other = pair
    sessions = {machine.name: [session_id() for _ in range(4)] for machine in pair}
    for machine in pair:
        machine.append(sessions[machine.name][0], record(sessions[machine.name][0], machine.project, 0))
        machine.start()
    for number in range(1, 200):
        for machine in pair:
            sid = sessions[machine.name][number % 4]
            machine.append(sid, record(sid, machine.project, number))
    settle(one, other)
    assert one.tip() == other.tip()
    names = [f"{sid}.jsonl" for sid in (*sessions["desktop"], *sessions["laptop"])]
    assert sorted(one.files()) == sorted(names) == sorted(other.files())
    for name in names:
        assert other.files()[name] == localized(one.files()[name], one, other)
        assert one.files()[name].count(b"\n") == 50
    for repository in (one.store, other.store, tmp_path / "hub.git"):
        assert git("-C", repository, "fsck", "--strict", "--full") == ""
    before = _traces(pair, tmp_path / "hub.git")
    rounds = [machine.status()["peers"][0]["last_fetch"] for machine in pair]
    await_true(
        lambda: all(
            machine.status()["peers"][0]["last_fetch"] > last
            for machine, last in zip(pair, rounds, strict=True)
        ),
        "further rounds with the hub",
    )
    assert _traces(pair, tmp_path / "hub.git") == before


def _traces(machines: tuple[Machine, ...], hub: Path) -> dict[str, int]:
    """Every file of the stores, the hub and the context folders, and when it was written."""
    tops = [hub, *(machine.store for machine in machines), *(machine.context for machine in machines)]
    return {str(path): path.stat().st_mtime_ns for top in tops for path in top.rglob("*")}


def test_what_is_written_while_paused_is_committed_after_resume_and_not_before(
    pair: tuple[Machine, Machine],
) -> None:
    one, _ = pair
    sid = session_id()
    one.append(sid, record(sid, one.project, 0))
    one.start()
    one.wait_synced()
    tip = one.tip()
    one.do("pause")
    for number in range(1, 20):
        one.append(sid, record(sid, one.project, number))
    one.stop()
    one.start()
    assert one.status()["daemon"]["state"] == "paused"
    assert one.tip() == tip
    one.do("resume")
    one.wait_synced()
    shown = git("-C", one.store, "show", f"project/proj:segments/{sid}/0000/00")
    assert shown.count("\n") == 20


def test_killing_the_daemon_in_the_middle_of_it_all_loses_and_doubles_nothing(
    pair: tuple[Machine, Machine],
) -> None:
    one, other = pair
    sid = session_id()
    expected = b""
    number = 0
    for _ in range(4):
        one.start()
        for _ in range(25):
            line = record(sid, one.project, number)
            one.append(sid, line)
            expected += line
            number += 1
        one.kill()
    started = session_id()
    other.append(started, record(started, other.project, 0))
    one.start()
    other.start()
    settle(one, other)
    assert other.files()[f"{sid}.jsonl"] == localized(expected, one, other)
    assert git("-C", one.store, "fsck", "--strict", "--full", "--no-dangling") == ""


def test_memory_edited_in_different_paragraphs_on_both_machines_keeps_both_edits(
    pair: tuple[Machine, Machine],
) -> None:
    one, other = pair
    note = "# Facts\n\nfirst paragraph\n\nmiddle paragraph\n\nlast paragraph\n"
    for machine in pair:
        sid = session_id()
        machine.append(sid, record(sid, machine.project, 0))
    one.write("memory/facts.md", note.encode())
    one.start()
    other.start()
    settle(one, other)
    one.stop()
    other.stop()
    one.write("memory/facts.md", note.replace("first", "FIRST").encode())
    other.write("memory/facts.md", note.replace("last", "LAST").encode())
    one.start()
    other.start()
    settle(one, other)
    both = note.replace("first", "FIRST").replace("last", "LAST").encode()
    assert one.files()["memory/facts.md"] == both
    assert other.files()["memory/facts.md"] == both


def test_a_session_continued_on_both_machines_becomes_two(pair: tuple[Machine, Machine]) -> None:
    one, other = pair
    sid = session_id()
    for machine in pair:
        first = session_id()
        machine.append(first, record(first, machine.project, 0))
    one.append(sid, record(sid, one.project, 0) + record(sid, one.project, 1))
    one.start()
    other.start()
    settle(one, other)
    one.stop()
    other.stop()
    one.append(sid, record(sid, one.project, 2, "continued on the desktop"))
    other.append(sid, record(sid, other.project, 3, "continued on the laptop"))
    one.start()
    other.start()
    settle(one, other)
    assert sorted(one.files()) == sorted(other.files())
    lineages = {name: data for name, data in one.files().items() if b"turn 1 in" in data}
    assert len(lineages) == 2
    assert sum(b"continued on the desktop" in data for data in lineages.values()) == 1
    assert sum(b"continued on the laptop" in data for data in lineages.values()) == 1
    for name, data in lineages.items():
        assert data.count(b'"sessionId":"' + name.removesuffix(".jsonl").encode()) == 3
        assert other.files()[name] == localized(data, one, other)


def test_a_session_deleted_locally_is_not_brought_back(pair: tuple[Machine, Machine]) -> None:
    one, other = pair
    sid, kept = session_id(), session_id()
    one.append(sid, record(sid, one.project, 0))
    other.append(kept, record(kept, other.project, 0))
    one.start()
    other.start()
    settle(one, other)
    other.stop()
    (other.context / f"{sid}.jsonl").unlink()
    (other.conv / "state.sqlite").unlink()
    other.start()
    one.append(sid, record(sid, one.project, 1))
    settle(one, other)
    assert f"{sid}.jsonl" not in other.files()
    assert one.files()[f"{sid}.jsonl"].count(b"\n") == 2


def test_deleting_the_state_loses_and_doubles_nothing(pair: tuple[Machine, Machine]) -> None:
    one, other = pair
    sid = session_id()
    one.append(sid, b"".join(record(sid, one.project, number) for number in range(3)))
    started = session_id()
    other.append(started, record(started, other.project, 0))
    one.start()
    other.start()
    settle(one, other)
    tip = one.tip()
    for machine in pair:
        machine.kill()
        for path in machine.conv.glob("state.sqlite*"):
            path.unlink()
        machine.start()
    settle(one, other)
    assert one.tip() == tip == other.tip()


def test_incoming_work_waits_while_claude_code_runs_there_and_goes_in_when_it_ends(
    pair: tuple[Machine, Machine], tmp_path: Path
) -> None:
    one, other = pair
    sid = session_id()
    one.append(sid, record(sid, one.project, 0))
    started = session_id()
    other.append(started, record(started, other.project, 0))
    one.start()
    other.start()
    settle(one, other)
    client = start_client(tmp_path, str(other.project))
    try:
        one.append(sid, record(sid, one.project, 1))
        settle(one)
        await_true(lambda: other.status()["projects"][0]["held"], "the session to be held")
        held = other.status()["projects"][0]
        assert held["state"] == "held"
        assert held["held"]["pid"] == client.pid
        assert other.files()[f"{sid}.jsonl"].count(b"\n") == 1
        assert f"pid {client.pid}" in other.do("status")
    finally:
        client.kill()
    await_true(lambda: other.files()[f"{sid}.jsonl"].count(b"\n") == 2, "the session to go in by itself")


def test_a_second_hub_and_one_that_fails_do_not_disturb_each_other(
    pair: tuple[Machine, Machine], tmp_path: Path
) -> None:
    one, other = pair
    spare = make_hub(tmp_path / "spare.git")
    one.hubs = (tmp_path / "gone.git", spare)
    other.hubs = (spare, *other.hubs)
    for machine in pair:
        machine.configure()
    sid, started = session_id(), session_id()
    one.append(sid, record(sid, one.project, 0))
    other.append(started, record(started, other.project, 0))
    one.start()
    other.start()
    await_true(lambda: f"{sid}.jsonl" in other.files(), "the session to come by way of the spare hub")
    await_true(lambda: f"{started}.jsonl" in one.files(), "the other session to come the same way")
    states = {peer["name"]: peer["state"] for peer in one.status()["peers"]}
    assert states == {"hub": "failing", "hub1": "ok"}
    branch = "refs/heads/project/proj"
    await_true(
        lambda: other.tip() in git("-C", tmp_path / "hub.git", "for-each-ref", branch), "the first hub"
    )
