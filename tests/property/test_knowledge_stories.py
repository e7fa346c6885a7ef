"""Machines with stores of their own, a hub between them, and everything that happens to both: what somebody
wrote and nobody took out is on every machine in the end, and all comes to rest.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from convergenced.knowledge.branch import KNOWLEDGE_REF, commit_knowledge
from convergenced.knowledge.librarian import KnowledgeBranch
from convergenced.knowledge.snapshot import Snapshots
from convergenced.knowledge.synthesis import ScopeTask, gather, record, synthesize
from convergenced.merge.contributions import due_scopes, inputs_of
from convergenced.merge.knowledge import Inputs, Knowledge, Scope
from convergenced.sync.exchange import exchange
from tests.fakes.peer import MemoryPeer
from tests.fakes.store import MemoryStore
from tests.unit.knowledge.machines import KnowingMachine

ROUNDS = 20
"""Rounds after which machines that nobody edits must agree."""

WHAT = [
    "edit",
    "edit",
    "edit",
    "cut",
    "look",
    "exchange",
    "apply",
    "begin",
    "end",
    "merge",
    "save",
    "restore",
]
TURNS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([*WHAT, "hub saved", "hub rewound"]), st.integers(0, 3)),
    max_size=30,
)


@dataclass
class Saved:
    """A machine as a backup has it."""

    text: str
    store: MemoryStore
    said: str | None


class Story:
    def __init__(self, top: Path) -> None:
        self.hub = MemoryStore()
        self.hub_saved = dict(self.hub.ref_targets)
        self.machines = [KnowingMachine(top / name, MemoryStore()) for name in ("ann", "bob", "cyd")]
        self.saved: dict[int, Saved] = {}
        self.begun: dict[int, list[tuple[Scope, Inputs, ScopeTask]]] = {}
        self.written: list[str] = []
        self.gone: set[str] = set()

    def path(self, who: int) -> Path:
        return self.machines[who].root / "CLAUDE.md"

    def text(self, who: int) -> str:
        return self.path(who).read_text() if self.path(who).exists() else ""

    def do(self, who: int, what: str, number: int) -> None:
        machine = self.machines[who]
        match what:
            case "edit":
                self.edit(who, f"## Title {number}")
            case "cut":
                self.cut(who, number)
            case "look":
                machine.take()
            case "exchange":
                exchange(
                    machine.store,
                    MemoryPeer(machine.store, self.hub),
                    "hub",
                    {},
                    (),
                    sides=[KnowledgeBranch()],
                )
            case "apply":
                self.apply(who, everything=number == 0)
            case "merge":
                self.do(who, "begin", number)
                self.do(who, "end", number)
            case "begin":
                known = machine.knowledge
                self.begun[who] = [
                    (scope, inputs_of(known, scope), gather(machine.store, known, scope))
                    for scope in due_scopes(known)
                ]
            case "end":
                self.end(who)
            case "save":
                machine.take()
                said = machine.parts.state.said(KNOWLEDGE_REF)
                self.saved[who] = Saved(self.text(who), machine.store.copy(), said)
            case "restore":
                self.restore(who)
            case "hub saved":
                self.hub_saved = dict(self.hub.ref_targets)
            case "hub rewound":
                self.hub.ref_targets = dict(self.hub_saved)

    def edit(self, who: int, title: str) -> None:
        """One more line, in a section that may be there."""
        line = f"- said {len(self.written)} by {who}"
        self.written.append(line)
        lines = self.text(who).splitlines()
        at = lines.index(title) + 2 if title in lines else len(lines)
        lines[at:at] = [line] if title in lines else [title, "", line, ""]
        self.path(who).write_text("\n".join(lines) + "\n")

    def cut(self, who: int, number: int) -> None:
        lines = self.text(who).splitlines()
        said = [line for line in lines if line in self.written]
        if said:
            line = said[number % len(said)]
            self.gone.add(line)
            lines.remove(line)
            self.path(who).write_text("\n".join(lines) + "\n")

    def apply(self, who: int, *, everything: bool) -> None:
        machine = self.machines[who]
        machine.take()
        report = machine.apply({change.id for change in machine.plan().changes} if everything else ())
        machine.clock.advance(1.0)
        assert not report.refusals
        machine.take()

    def end(self, who: int) -> None:
        machine = self.machines[who]
        for _, used, task in self.begun.pop(who, []):
            result = synthesize(task, None, reject_above=3, budget=0.0)

            def change(former: Knowledge, result: object = result, used: object = used) -> Knowledge:
                return record(machine.store, former, result, used, "none", machine.machine.id, 1)  # type: ignore[arg-type]

            commit_knowledge(machine.store, change, machine.machine.author, 1, "synthesis")

    def restore(self, who: int) -> None:
        """What never left the machine went with its disk."""
        machine, saved = self.machines[who], self.saved.get(who)
        if saved is None:
            return
        self.path(who).write_text(saved.text)
        elsewhere = self.known_elsewhere(who)
        self.gone |= {line for line in self.written if line not in saved.text and line not in elsewhere}
        machine.store.objects, machine.store.ref_targets = (
            dict(saved.store.objects),
            dict(saved.store.ref_targets),
        )
        machine.parts.state.forget_project(KNOWLEDGE_REF)
        if saved.said is not None:
            machine.parts.state.note_said(KNOWLEDGE_REF, saved.said)
        machine.snapshots = Snapshots(machine.parts)
        self.begun.pop(who, None)

    def known_elsewhere(self, who: int) -> str:
        others = [other for other in range(len(self.machines)) if other != who]
        stores = [self.hub, *(self.machines[other].store for other in others)]
        blobs = [data.decode() for store in stores for kind, data in store.objects.values() if kind == "blob"]
        return "\n".join([*blobs, *map(self.text, others)])

    def settle(self) -> None:
        for _ in range(ROUNDS):
            tips = self.tips()
            for who in range(len(self.machines)):
                self.do(who, "exchange", 0)
                self.apply(who, everything=True)
                self.do(who, "merge", 0)
                self.apply(who, everything=True)
                self.do(who, "exchange", 0)
            if self.tips() == tips and len(set(tips)) == 1:
                return
        raise AssertionError("they do not come to rest")

    def tips(self) -> list[str | None]:
        return [self.hub.ref_targets.get(KNOWLEDGE_REF), *(machine.tip for machine in self.machines)]


FROM_A_BACKUP = [(0, "edit", 0), (0, "merge", 0), (0, "apply", 0), (0, "exchange", 0), (0, "save", 0)]
LATER = [(1, "exchange", 0), (1, "apply", 0), (1, "edit", 1), (1, "look", 0), (1, "merge", 0)]
UNMERGED = [(0, "edit", 0), (0, "save", 0), (0, "edit", 1), (0, "look", 0), (0, "exchange", 0)]
GOES_ON = [(1, "exchange", 0), (0, "exchange", 0), (0, "apply", 0), (0, "exchange", 0)]


@given(TURNS)
@example([(0, "save", 0), (0, "edit", 0), (0, "look", 0), (0, "exchange", 0), (0, "restore", 0)])
@example([*UNMERGED, (1, "exchange", 0), (1, "merge", 0), (1, "exchange", 0), (0, "restore", 0)])
@example([*UNMERGED, (0, "restore", 0), (0, "exchange", 0), (0, "look", 0), (0, "edit", 1), (0, "look", 0)])
@example([*FROM_A_BACKUP, *LATER, *GOES_ON, (0, "restore", 0)])
@example([*FROM_A_BACKUP, (0, "edit", 2), (0, "look", 0), (0, "exchange", 0), (0, "restore", 0)])
def test_what_nobody_took_out_is_everywhere_in_the_end(turns: list[tuple[int, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as top:
        story = Story(Path(top))
        for turn in turns:
            story.do(*turn)
        story.settle()
        (text,) = {story.text(who) for who in range(3)}
        assert [line for line in story.written if line not in story.gone and line not in text] == []
        for machine in story.machines:
            assert {one.state for one in machine.plan().documents} <= {"same"}
