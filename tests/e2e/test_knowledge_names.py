"""Projects of other code that go by one name: what is known of one never stands in the other's files."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.knowing import Knower, check_out, machines, read, settle, start, write
from tests.e2e.machines import git, record

SESSIONS = "11111111-2222-4333-8444-55555555555"


def test_other_code_of_the_same_name_keeps_its_own_documents(tmp_path: Path) -> None:
    with machines(tmp_path, "desktop", "laptop") as (one, other):
        for number, machine in enumerate((one, other)):
            check_out(machine.project, f"git@example.org:team{number}/proj.git")
            machine.context.mkdir(parents=True)
            session = f"{SESSIONS}{number}"
            (machine.context / f"{session}.jsonl").write_bytes(record(session, machine.project, 0))
            write(machine.project / "CLAUDE.md", said_by(machine))
        start(one)
        settle(one)
        start(other)
        settle(other, one)
        settle(other, one)
        for machine in (one, other):
            assert read(machine.project / "CLAUDE.md") == said_by(machine)
        listed = git("-C", tmp_path / "hub.git", "ls-tree", "-r", "--name-only", "knowledge").split()
        shared = sorted(path.split("/")[-2] for path in listed if path.startswith("consolidated/projects/"))
        assert len(shared) == 2
        assert shared[0] == "proj"
        assert sorted(path.split("/")[-2] for path in listed if path.endswith("CLAUDE.md")) == sorted(
            2 * shared
        )


def said_by(machine: Knower) -> str:
    return f"# Rules\n\nOnly for {machine.name}.\n\n## Build\n\nmake {machine.name}\n"
