"""Shared knowledge without a model: what several machines of one user end with, whatever each does."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.knowing import (
    HOUSE,
    REVIEW,
    SPACES,
    STYLE,
    TESTS,
    all_objects,
    check_out,
    machines,
    read,
    settle,
    start,
    tip_of,
    write,
)
from tests.e2e.machines import await_true, git
from tests.messages_api import MessagesApi, merging
from tests.profiles import deep


def test_the_same_is_on_all_machines_and_what_each_does_to_it_goes_around(tmp_path: Path) -> None:
    with (
        MessagesApi(merging("nobody asks")) as api,
        machines(tmp_path, "desktop", "laptop", extra=api.environ) as (one, other),
    ):
        write(one.claude_md, one.of_home(HOUSE + STYLE + TESTS))
        write(other.claude_md, HOUSE + SPACES + REVIEW)
        start(one, other)
        settle(one, other)
        text = read(one.claude_md)
        assert text is not None
        heads = [line for line in text.splitlines() if line.startswith("## ")]
        assert heads[:2] == ["## House", "## Style"]
        assert {*heads[2:]} == {"## Tests", "## Review"}
        marks = [number for number, line in enumerate(text.splitlines(), 1) if "CONFLICT" in line]
        assert len(marks) == 1
        assert all(part in text for part in ("Tabs.", "Spaces.", one.of_home(TESTS), REVIEW))
        assert read(other.claude_md) == text.replace(str(one.home), str(other.home))
        for machine in (one, other):
            (mark,) = machine.document()["marks"]
            assert mark.startswith(f"line {marks[0]}: CONFLICT: ")
            told = machine.ctl("knowledge", "status")
            assert (told.returncode, f"~/.claude/CLAUDE.md:{marks[0]}: " in told.stdout) == (5, True)

        # Settled by hand on one machine, and a section less: that is what the other has next.
        write(other.claude_md, HOUSE + STYLE + REVIEW)
        settle(other, one)
        assert read(one.claude_md) == read(other.claude_md) == HOUSE + STYLE + REVIEW
        assert one.ctl("knowledge", "status").returncode == 0
        assert one.ctl("status").returncode == 0

        # Each changes something else at the same time.
        write(one.claude_md, HOUSE.replace("Rule 3.", "Rule three.") + STYLE + REVIEW)
        write(other.claude_md, HOUSE + STYLE + REVIEW.replace("Two", "Three"))
        settle(one, other)
        both = HOUSE.replace("Rule 3.", "Rule three.") + STYLE + REVIEW.replace("Two", "Three")
        assert read(one.claude_md) == read(other.claude_md) == both

        # And then nothing happens any more.
        hub = tmp_path / "hub.git"
        before = [tip_of(hub), all_objects(hub), one.claude_md.stat(), other.claude_md.stat()]
        settle(one, other)
        for machine in (one, other):
            machine.do("sync", "--wait")
            machine.do("wait", "--for", "synced", "--timeout", "60")
        assert before == [tip_of(hub), all_objects(hub), one.claude_md.stat(), other.claude_md.stat()]

        # What is removed here is removed here alone, and comes back when that is wanted.
        other.claude_md.unlink()
        settle(other, one)
        assert other.document()["state"] == "removed"
        write(one.claude_md, both + TESTS)
        settle(one, other)
        assert not other.claude_md.exists()
        assert read(one.claude_md) == both + TESTS
        assert other.ctl("knowledge", "apply").returncode == 5
        assert not other.claude_md.exists()
        other.do("knowledge", "apply", "--yes")
        assert read(other.claude_md) == both + TESTS
        assert api.requests == []


@deep("tests/property/test_knowledge_stories.py holds it without daemons")
def test_a_machine_that_comes_later_brings_its_own(tmp_path: Path) -> None:
    with machines(tmp_path, "desktop", "laptop", "server") as (one, other, late):
        write(one.claude_md, one.of_home(HOUSE + TESTS))
        for machine in (one, other):
            done = machine.run_daemon("--once")
            assert done.returncode == 0, done.stderr
        assert read(other.claude_md) == other.of_home(HOUSE + TESTS)
        # It is alone at first, so that it takes its own for what all know.
        hubs, late.hubs = late.hubs, ()
        late.configure()
        write(late.claude_md, HOUSE + REVIEW)
        for _ in range(2):
            assert late.run_daemon("--once").returncode == 0
        late.hubs = hubs
        late.configure()
        for machine in (late, other, one, late):
            done = machine.run_daemon("--once")
            assert done.returncode == 0, done.stderr
        for machine in (late, other, one):
            text = read(machine.claude_md)
            assert text in (
                machine.of_home(HOUSE + TESTS + REVIEW),
                machine.of_home(HOUSE + REVIEW + TESTS),
            ), text


def test_files_of_a_project_go_to_its_other_checkouts_unless_git_brings_them(tmp_path: Path) -> None:
    with machines(tmp_path, "desktop", "laptop") as (one, other):
        one.project_name, other.project_name = "src/proj", "work/app"
        for machine in (one, other):
            check_out(machine.project)
            check_out(machine.home / "src" / "lib", "git@example.org:team/lib.git")
        nested = one.project / ".claude" / "CLAUDE.md"
        write(one.project / "CLAUDE.md", f"{HOUSE}Build in {one.project}/out.\n")
        write(nested, "Be brief.\n")
        write(one.project / "CLAUDE.local.md", "only here\n")
        tracked = one.home / "src" / "lib" / "CLAUDE.md"
        write(tracked, "Brought by git.\n")
        git("-C", tracked.parent, "add", "CLAUDE.md")
        start(one, other)
        for project in (one.project, one.home / "src" / "lib"):
            one.do("init", str(project))
        settle(one, other)
        for project in (other.project, other.home / "src" / "lib"):
            other.do("join", str(project))
        settle(one, other)
        assert read(other.project / "CLAUDE.md") == f"{HOUSE}Build in {other.project}/out.\n"
        assert read(other.project / ".claude" / "CLAUDE.md") == "Be brief.\n"
        assert not (other.project / "CLAUDE.local.md").exists()
        assert not (other.home / "src" / "lib" / "CLAUDE.md").exists()
        hub = tmp_path / "hub.git"
        assert b"Brought by git." not in all_objects(hub)
        assert b"only here" not in all_objects(hub)
        # It belongs to git from now on, there.
        git("-C", other.project, "add", ".claude/CLAUDE.md")
        write(nested, "Be very brief.\n")
        write(one.project / "CLAUDE.md", f"{HOUSE}Build in {one.project}/target.\n")
        settle(one, other)
        assert read(other.project / "CLAUDE.md") == f"{HOUSE}Build in {other.project}/target.\n"
        assert read(other.project / ".claude" / "CLAUDE.md") == "Be brief.\n"
        assert git("-C", other.project, "status", "--porcelain").split("\n")[0] == "A  .claude/CLAUDE.md"


def test_nothing_is_shared_or_written_while_it_is_off_or_paused(tmp_path: Path) -> None:
    with machines(tmp_path, "desktop", "laptop") as (one, other):
        hub = tmp_path / "hub.git"
        write(one.claude_md, HOUSE)
        start(one, other)
        settle(one, other)
        assert read(other.claude_md) == HOUSE

        other.do("knowledge", "disable")
        tip = tip_of(hub)
        write(other.claude_md, HOUSE + REVIEW)
        other.sync()
        other.stop()
        start(other)
        other.sync()
        assert tip_of(hub) == tip
        assert other.ctl("knowledge", "push").returncode == 1
        assert other.told("knowledge", "status")["enabled"] is False
        write(one.claude_md, HOUSE + STYLE)
        one.sync()
        other.sync()
        assert tip_of(hub) != tip
        assert read(other.claude_md) == HOUSE + REVIEW

        other.do("pause")
        other.do("knowledge", "enable", "--yes")
        tip = tip_of(hub)
        assert other.ctl("knowledge", "synthesize", "--wait").returncode == 1
        other.stop()
        start(other)
        assert other.ctl("knowledge", "apply").returncode == 1
        assert (tip_of(hub), read(other.claude_md)) == (tip, HOUSE + REVIEW)

        other.do("resume")
        settle(other, one)
        for machine in (one, other):
            assert read(machine.claude_md) in (HOUSE + STYLE + REVIEW, HOUSE + REVIEW + STYLE)


def test_what_comes_arrives_without_anybody_asking(tmp_path: Path) -> None:
    with machines(tmp_path, "desktop", "laptop") as (one, other):
        start(one, other)
        settle(one, other)
        write(one.claude_md, HOUSE)
        other.await_text(other.claude_md, HOUSE)
        write(other.claude_md, HOUSE + STYLE)
        one.await_text(one.claude_md, HOUSE + STYLE)
        await_true(lambda: one.document()["state"] == "same", "it to be known as applied")
