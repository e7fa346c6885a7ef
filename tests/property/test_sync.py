"""Machines that do whatever they like, in any order: nothing is lost, and in the end all agree."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from convergenced.merge.segments import read_transcript
from convergenced.model import Content, Oid
from convergenced.sync.scan import content_of
from tests.unit.sync.world import FakeMachine, World, sid

NAMES = ("ann", "bob", "cyd")
SESSIONS = 3
NOTES = ("MEMORY.md", "a.md")
ROUNDS = 6
"""Rounds in which everything must have come to rest, for three machines on one hub."""

Step = tuple[Any, ...]
"""The name of a method of `Story` and its arguments."""


class CrashError(BaseException):
    """The machine loses its power."""


class Story:
    """What happens on some machines. `written` are the uuids of all records of the conversation."""

    def __init__(self, machines: int) -> None:
        self.world = World()
        self.machines = [self.world.machine(name) for name in NAMES[:machines]]
        self.written: set[str] = set()
        for number, _ in enumerate(self.machines):
            # A folder that holds nothing at all any more is left alone, and a person is asked.
            self.say(number, SESSIONS + 1 + number, number)

    def say(self, who: int, session: int, elsewhere: int) -> None:
        """The conversation goes on, and mentions the places of a machine."""
        machine, other = self.machines[who], self.machines[elsewhere]
        self.world.clock.advance(1)
        record = machine.say(sid(session), f"see {other.root}/x, {other.home}/y and {machine.root}")
        self.written.add(json.loads(record)["uuid"])

    def jot(self, who: int, session: int, text: str) -> None:
        """The client keeps its books."""
        self.machines[who].jot(sid(session), text)

    def remember(self, who: int, name: str, lines: list[str]) -> None:
        """A note is written anew."""
        machine = self.machines[who]
        machine.remember(name, "".join(f"{line} {machine.home}\n" for line in lines))

    def forget(self, who: int, name: str) -> None:
        """A note is deleted."""
        machine = self.machines[who]
        if name in machine.notes():
            machine.files.unlink(machine.memory(name))

    def attach(self, who: int, session: int, text: str) -> None:
        """A subagent goes on, and a title is given."""
        machine = self.machines[who]
        folder = f"{machine.context()}/{sid(session)}"
        record = {"type": "user", "uuid": f"{self.world.number()}", "cwd": machine.root}
        machine.files.append(f"{folder}/subagents/agent-1.jsonl", json.dumps(record).encode() + b"\n")
        machine.files.write(f"{folder}/custom-title.json", json.dumps({"title": text}).encode())

    def tear(self, who: int, session: int) -> None:
        """A transcript is looked at in the middle of a write."""
        machine = self.machines[who]
        self.world.clock.advance(1)
        record = machine.spoken(sid(session), f"torn at {machine.root}")
        path = machine.transcript(sid(session))
        machine.files.append(path, record[:30])
        machine.ingest()
        machine.files.append(path, record[30:])
        self.written.add(json.loads(record)["uuid"])

    def converge(self, who: int) -> None:
        """One pass."""
        self.machines[who].converge()

    def exchange(self, who: int) -> None:
        """One round."""
        self.machines[who].exchange()

    def lose_state(self, who: int) -> None:
        """The state is only a cache."""
        self.machines[who].lose_state()

    def hold(self, who: int) -> None:
        """A client starts in the project, or the one that runs ends."""
        processes = self.machines[who].processes
        running = processes.claude()
        if running:
            processes.end(running[0].pid)
        else:
            processes.begin(self.machines[who].root)

    def crash(self, who: int, after: int) -> None:
        """The power goes in the middle of a pass, after so many looks at files or moves of refs."""
        machine = self.machines[who]
        left = [after]

        def count(*_: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise CrashError

        swap = machine.store.swap

        def counted_swap(ref: str, old: Oid | None, new: Oid | None) -> None:
            count()
            swap(ref, old, new)

        machine.files.before = count
        machine.store.swap = counted_swap  # type: ignore[method-assign]
        with suppress(CrashError):
            machine.converge()
        machine.files.before = lambda _verb, _path: None
        machine.store.swap = swap  # type: ignore[method-assign]

    def come_to_rest(self) -> None:
        """All clients end, and every machine exchanges what it has until nobody has news."""
        for machine in self.machines:
            for process in machine.processes.claude():
                machine.processes.end(process.pid)
        for _ in range(ROUNDS):
            for machine in self.machines:
                machine.sync()


def steps(machines: int) -> st.SearchStrategy[list[Step]]:
    who = st.integers(0, machines - 1)
    session = st.integers(1, SESSIONS)
    text = st.sampled_from(["x", "y"])
    lines = st.lists(st.sampled_from(["one", "two", "three"]), max_size=3)
    kinds: list[st.SearchStrategy[Step]] = [
        st.tuples(st.just("say"), who, session, who),
        st.tuples(st.just("say"), who, session, who),
        st.tuples(st.just("jot"), who, session, text),
        st.tuples(st.just("remember"), who, st.sampled_from(NOTES), lines),
        st.tuples(st.just("forget"), who, st.sampled_from(NOTES)),
        st.tuples(st.just("attach"), who, session, text),
        st.tuples(st.just("tear"), who, session),
        st.tuples(st.just("converge"), who),
        st.tuples(st.just("converge"), who),
        st.tuples(st.just("exchange"), who),
        st.tuples(st.just("exchange"), who),
        st.tuples(st.just("lose_state"), who),
        st.tuples(st.just("hold"), who),
        st.tuples(st.just("crash"), who, st.integers(0, 25)),
    ]
    return st.lists(st.one_of(kinds), max_size=25)


def stored_records(machine: FakeMachine) -> dict[str, set[bytes]]:
    """How each record that the tip holds is spelled, by uuid; in whichever lineage."""
    found: dict[str, set[bytes]] = {}
    for name, session in machine.tree().sessions.items():
        if session.transcript is not None:
            data = b"".join(read_transcript(machine.store, session.transcript))
            for record in data.replace(name.encode(), b"SID").split(b"\n")[:-1]:
                found.setdefault(json.loads(record).get("uuid"), set()).add(record)
    return found


def check(story: Story) -> None:
    first = story.machines[0]
    assert len({machine.tip() for machine in story.machines}) == 1, "all tips are equal"
    stored = stored_records(first)
    assert story.written <= stored.keys(), "nothing is lost"
    assert {name for name in story.written if len(stored[name]) > 1} == set(), "nothing is spelled anew"
    for machine in story.machines:
        check_files(machine)
    before = first.tip()
    for machine in story.machines:
        machine.sync()
        assert machine.tip() == before, "it does not come to rest"


def check_files(machine: FakeMachine) -> None:
    """The files here say what the tip says, in local form."""
    assert machine.head() == machine.tip()
    rewriter = machine.app.rewriter(machine.machine, True)
    sessions = machine.tree().sessions
    told = {session for session, one in sessions.items() if one.transcript is not None}
    assert machine.sessions() == told
    for session in told:
        stored = machine.stored(session)
        assert machine.local_bytes(session) == rewriter.localize(stored, Content.JSON)
    for session in sessions:
        for name, data in machine.stored_folder(session).items():
            if content_of(f"{session}/{name}") is None:
                continue  # the loser of two titles has a name that the client does not know
            local = machine.files.content(f"{machine.context()}/{session}/{name}")
            assert local == rewriter.localize(data, Content.JSON)
    memory = machine.stored_memory()
    assert machine.notes() == {
        name: rewriter.localize(data, Content.TEXT).decode() for name, data in memory.items()
    }


def tell(machines: int, plan: list[Step]) -> None:
    story = Story(machines)
    for verb, *details in plan:
        getattr(story, verb)(*details)
    story.come_to_rest()
    check(story)


@given(steps(2))
def test_two_machines_agree_in_the_end_and_lose_nothing(plan: list[Step]) -> None:
    tell(2, plan)


@given(steps(3))
def test_three_machines_agree_in_the_end_and_lose_nothing(plan: list[Step]) -> None:
    tell(3, plan)
