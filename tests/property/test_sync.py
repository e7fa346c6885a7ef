"""Machines that do whatever they like, in any order: nothing is lost, and in the end all agree."""

from __future__ import annotations

import json
from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis import given, note

from convergenced.merge.segments import read_transcript
from convergenced.model import SessionId
from tests.unit.sync.world import FakeMachine, World, sid

SESSIONS = 3
NOTES = ("MEMORY.md", "a.md")
ROUNDS = 6
"""Rounds in which everything must have come to rest, for three machines on one hub."""

Step = Callable[[World, list[FakeMachine], dict[str, bytes]], None]


def say(who: int, session: int, elsewhere: int) -> Step:
    """The conversation goes on, and mentions the places of a machine."""

    def step(world: World, machines: list[FakeMachine], written: dict[str, bytes]) -> None:
        machine, other = machines[who], machines[elsewhere]
        world.clock.advance(1)
        text = f"see {other.root}/x, {other.home}/y and {machine.root}"
        record = machine.say(sid(session), text)
        written[json.loads(record)["uuid"]] = record

    return step


def jot(who: int, session: int, text: str) -> Step:
    """The client keeps its books."""

    def step(world: World, machines: list[FakeMachine], written: dict[str, bytes]) -> None:
        machines[who].jot(sid(session), text)

    return step


def remember(who: int, name: str, lines: list[str]) -> Step:
    """A note is written anew."""

    def step(world: World, machines: list[FakeMachine], written: dict[str, bytes]) -> None:
        machine = machines[who]
        machine.remember(name, "".join(f"{line} {machine.home}\n" for line in lines))

    return step


def forget(who: int, name: str) -> Step:
    """A note is deleted."""

    def step(world: World, machines: list[FakeMachine], written: dict[str, bytes]) -> None:
        if name in machines[who].notes():
            machines[who].files.unlink(machines[who].memory(name))

    return step


def attach(who: int, session: int, text: str) -> Step:
    """A subagent goes on, and a title is given."""

    def step(world: World, machines: list[FakeMachine], written: dict[str, bytes]) -> None:
        machine = machines[who]
        folder = f"{machine.context()}/{sid(session)}"
        record = json.dumps({"type": "user", "uuid": f"{who}{text}{world.number()}", "cwd": machine.root})
        machine.files.append(f"{folder}/subagents/agent-1.jsonl", record.encode() + b"\n")
        machine.files.write(f"{folder}/custom-title.json", json.dumps({"title": text}).encode())

    return step


def tear(who: int, session: int) -> Step:
    """A transcript is looked at in the middle of a write."""

    def step(world: World, machines: list[FakeMachine], written: dict[str, bytes]) -> None:
        machine = machines[who]
        world.clock.advance(1)
        record = machine.spoken(sid(session), f"torn at {machine.root}")
        path = machine.transcript(sid(session))
        machine.files.append(path, record[:30])
        machine.ingest()
        machine.files.append(path, record[30:])
        written[json.loads(record)["uuid"]] = record

    return step


def rewind(who: int, session: int) -> Step:
    """The client takes the last record out of a transcript again."""

    def step(world: World, machines: list[FakeMachine], written: dict[str, bytes]) -> None:
        machine = machines[who]
        if sid(session) in machine.sessions():
            data = machine.local_bytes(sid(session))
            kept = data[: data.rfind(b"\n", 0, len(data) - 1) + 1]
            machine.ingest()
            machine.files.write(machine.transcript(sid(session)), kept)

    return step


def converge(who: int) -> Step:
    return lambda _world, machines, _written: None if machines[who].converge() else None


def exchange(who: int) -> Step:
    return lambda _world, machines, _written: None if machines[who].exchange() else None


def lose_state(who: int) -> Step:
    return lambda _world, machines, _written: machines[who].lose_state()


def hold(who: int) -> Step:
    """A client starts in the project, or the one that runs ends."""

    def step(world: World, machines: list[FakeMachine], written: dict[str, bytes]) -> None:
        processes = machines[who].processes
        running = processes.claude()
        if running:
            processes.end(running[0].pid)
        else:
            processes.begin(machines[who].root)

    return step


def steps(machines: int) -> st.SearchStrategy[list[tuple[str, Step]]]:
    who = st.integers(0, machines - 1)
    session = st.integers(1, SESSIONS)
    text = st.sampled_from(["x", "y"])
    lines = st.lists(st.sampled_from(["one", "two", "three"]), max_size=3)

    def named(name: str, make: Callable[..., Step], *args: st.SearchStrategy[object]) -> object:
        return st.tuples(*args).map(lambda given: (f"{name}{given}", make(*given)))

    return st.lists(
        st.one_of(
            named("say", say, who, session, who),
            named("say", say, who, session, who),
            named("jot", jot, who, session, text),
            named("remember", remember, who, st.sampled_from(NOTES), lines),
            named("forget", forget, who, st.sampled_from(NOTES)),
            named("attach", attach, who, session, text),
            named("tear", tear, who, session),
            named("converge", converge, who),
            named("converge", converge, who),
            named("exchange", exchange, who),
            named("exchange", exchange, who),
            named("lose_state", lose_state, who),
            named("hold", hold, who),
        ),  # type: ignore[arg-type]
        max_size=30,
    )


def come_to_rest(machines: list[FakeMachine]) -> None:
    for machine in machines:
        for process in machine.processes.claude():
            machine.processes.end(process.pid)
    for _ in range(ROUNDS):
        for machine in machines:
            machine.sync()


def stored_records(machine: FakeMachine) -> set[str]:
    """The uuids of all records that the tip holds, in whichever lineage."""
    found = set()
    for session in machine.tree().sessions.values():
        if session.transcript is not None:
            data = b"".join(read_transcript(machine.store, session.transcript))
            found |= {json.loads(record).get("uuid") for record in data.split(b"\n")[:-1]}
    return found


def check(machines: list[FakeMachine], written: dict[str, bytes], *, whole: bool = True) -> None:
    tips = {machine.tip() for machine in machines}
    assert len(tips) == 1, tips
    first = machines[0]
    assert written.keys() <= stored_records(first)
    for machine in machines:
        assert machine.tree() == first.tree()
        assert machine.head() == machine.tip()
        rewriter = machine.app.rewriter(machine.machine, True)
        from convergenced.model import Content

        with_records = {name for name, one in machine.tree().sessions.items() if one.transcript is not None}
        assert machine.sessions() == with_records
        for session in with_records if whole else ():
            stored = first.stored(session)
            assert machine.local_bytes(session) == rewriter.localize(stored, Content.JSON)
        assert machine.notes() == {
            name: rewriter.localize(data, Content.TEXT).decode()
            for name, data in first.stored_memory().items()
        }
        for session in machine.tree().sessions:
            for name, data in first.stored_folder(session).items():
                local = machine.files.content(f"{machine.context()}/{session}/{name}")
                assert local == rewriter.localize(data, Content.JSON)
        for process_record in written.values():
            assert b"\n" in process_record
    before = first.tip()
    for machine in machines:
        machine.sync()
        assert machine.tip() == before, "it does not come to rest"


def run(count: int, plan: list[tuple[str, Step]]) -> None:
    world = World()
    machines = [world.machine(name) for name in ("ann", "bob", "cyd")[:count]]
    written: dict[str, bytes] = {}
    for name, step in plan:
        note(name)
        step(world, machines, written)
    come_to_rest(machines)
    check(machines, written)


@given(steps(2))
def test_two_machines_agree_in_the_end_and_lose_nothing(plan: list[tuple[str, Step]]) -> None:
    run(2, plan)


@given(steps(3))
def test_three_machines_agree_in_the_end_and_lose_nothing(plan: list[tuple[str, Step]]) -> None:
    run(3, plan)
