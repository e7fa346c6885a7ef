"""Machines that edit, look, merge and apply in any order: no edit is lost, and all comes to rest."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from convergenced.knowledge.branch import commit_knowledge
from convergenced.knowledge.synthesis import gather, record, synthesize
from convergenced.machine.backups import list_backups
from convergenced.merge.contributions import due_scopes, inputs_of
from convergenced.merge.knowledge import Knowledge
from tests.unit.knowledge.machines import APP, KnowingMachine

ROUNDS = 12
"""Rounds of looks and syntheses after which machines that nobody edits must agree."""

SECTIONS = st.lists(
    st.tuples(st.sampled_from(["Build", "Style", "Tests"]), st.sampled_from(["one", "two", "{home}/bin"])),
    max_size=3,
    unique_by=lambda section: section[0],
)
TURNS = st.lists(
    st.tuples(
        st.integers(0, 1), st.sampled_from(["edit", "edit", "remove", "look", "apply", "merge"]), SECTIONS
    ),
    max_size=12,
)


class Group:
    """Two machines that share a branch."""

    def __init__(self, top: Path) -> None:
        ann = KnowingMachine(top / "ann")
        self.machines = [ann, KnowingMachine(top / "bob", ann.store)]

    def do(self, who: int, what: str, sections: list[tuple[str, str]]) -> None:
        machine = self.machines[who]
        path = machine.root / "CLAUDE.md"
        if what == "edit":
            text = "".join(f"## {title}\n\n{line}\n\n" for title, line in sections)
            path.write_text(text.format(home=machine.home))
        elif what == "remove":
            path.unlink(missing_ok=True)
        elif what == "look":
            machine.take()
        elif what == "merge":
            self.merge(machine)
        else:
            self.apply(who, everything=False)

    def merge(self, machine: KnowingMachine) -> None:
        """A synthesis by a machine, without a model."""
        for scope in due_scopes(machine.knowledge):
            used = inputs_of(machine.knowledge, scope)
            result = synthesize(
                gather(machine.store, machine.knowledge, scope), None, reject_above=3, budget=0.0
            )
            assert result.outcome in ("copied", "merged"), result.text

            def change(former: Knowledge, result: object = result, used: object = used) -> Knowledge:
                return record(machine.store, former, result, used, "none", machine.machine.id, 1)  # type: ignore[arg-type]

            commit_knowledge(machine.store, change, machine.machine.author, 1, "synthesis")

    def apply(self, who: int, *, everything: bool) -> bool:
        """Tells whether something was written; what stood there is in a backup then."""
        machine = self.machines[who]
        path = machine.root / "CLAUDE.md"
        machine.take()
        before = path.read_bytes() if path.exists() else None
        accepted = {change.id for change in machine.plan().changes} if everything else set()
        report = machine.apply(accepted)
        machine.clock.advance(1.0)
        assert not report.refusals
        kept = list_backups(machine.machine.backups_dir, [f"knowledge/{APP}"])
        if before is not None and path.read_bytes() != before:
            assert before in [Path(one.path).read_bytes() for one in kept]
        machine.take()
        return bool(report.written)


@given(TURNS)
def test_machines_come_to_rest_with_all_that_was_said(
    turns: list[tuple[int, str, list[tuple[str, str]]]],
) -> None:
    with tempfile.TemporaryDirectory() as top:
        group = Group(Path(top))
        for turn in turns:
            group.do(*turn)
        for _ in range(ROUNDS):
            tip = group.machines[0].tip
            for who, machine in enumerate(group.machines):
                group.apply(who, everything=True)
                group.merge(machine)
            if group.machines[0].tip == tip:
                break
        else:
            raise AssertionError("they do not come to rest")
        shared = [machine.shared() for machine in group.machines]
        assert shared[0] == shared[1]
        assert not due_scopes(group.machines[0].knowledge)
        for machine in group.machines:
            assert {one.state for one in machine.plan().documents} <= {"same"}
