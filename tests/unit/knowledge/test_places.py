"""Which files are shared as knowledge, whatever stands in their place."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from convergenced.knowledge.places import KEPT_S, PlaceFinder, _Search, places, sweep_places
from convergenced.machine.durable import temporary_name
from convergenced.merge.knowledge import GLOBAL, SETTINGS, Scope
from convergenced.model import Content, LocalPath
from tests.unit.knowledge.machines import APP, CLAUDE, NESTED, KnowingMachine

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


def named(machine: KnowingMachine) -> dict[str, str]:
    """The places by name, with where they are."""
    return {place.name: place.local for place in machine.look()[0]}


def refused(machine: KnowingMachine) -> dict[str, str]:
    found, refusals = machine.look()
    assert not {place.name for place in found} & {one.where for one in refusals}
    assert all(one.remedy for one in refusals)
    return {one.where: one.reason for one in refusals}


def git(folder: Path, *words: str) -> None:
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, env=environment)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder outside of home and project."""
    made = tmp_path / "elsewhere"
    made.mkdir()
    return made


def test_a_place_is_there_before_its_file(ann: KnowingMachine) -> None:
    assert named(ann) == {
        "global/CLAUDE.md": f"{ann.config}/CLAUDE.md",
        "global/settings.json": f"{ann.config}/settings.json",
        "projects/app/CLAUDE.md": f"{ann.root}/CLAUDE.md",
        "projects/app/.claude/CLAUDE.md": f"{ann.root}/.claude/CLAUDE.md",
    }


def test_what_is_meant_for_one_machine_has_no_place(ann: KnowingMachine) -> None:
    before = named(ann)
    (ann.root / "CLAUDE.local.md").write_text("x")
    (ann.config / "settings.local.json").write_text("{}")
    (ann.config / "CLAUDE.local.md").write_text("x")
    assert named(ann) == before


def test_notes_are_found_in_the_context_folder(ann: KnowingMachine) -> None:
    (ann.memory / "deep").mkdir(parents=True)
    for name in ("MEMORY.md", "deep/build.md", "other.txt"):
        (ann.memory / name).write_text("x")
    notes = {place.path: place for place in ann.look()[0] if place.is_memory}
    assert sorted(notes) == ["memory/MEMORY.md", "memory/deep/build.md"]
    assert all(place.scope == APP and place.content is Content.TEXT for place in notes.values())


def test_only_primary_replicas_whose_root_is_there_have_places(ann: KnowingMachine, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    ann.replicas = [ann.replica("app", ann.root, primary=False), ann.replica("gone", tmp_path / "gone")]
    assert {place.scope for place in ann.look()[0]} == {GLOBAL}
    ann.replicas.append(ann.replica("other", other))
    assert {place.scope for place in ann.look()[0]} == {GLOBAL, "projects/other"}


def test_the_global_scope_knows_the_home_folder_alone(ann: KnowingMachine) -> None:
    place = next(place for place in ann.look()[0] if place.scope == GLOBAL and place.path == CLAUDE)
    text = f"{ann.home}/x and {ann.root}/y".encode()
    assert place.rewriter.canonicalize(text, place.content) == b"{{CC_HOME}}/x and {{CC_HOME}}/src/app/y"
    settings = next(place for place in ann.look()[0] if place.path == SETTINGS)
    assert settings.content is Content.JSON


def test_a_home_folder_that_is_a_project_has_its_files_once(ann: KnowingMachine) -> None:
    ann.replicas = [ann.replica("home", ann.home)]
    found = named(ann)
    assert found["global/CLAUDE.md"] == f"{ann.config}/CLAUDE.md"
    assert "projects/home/.claude/CLAUDE.md" not in found
    assert found["projects/home/CLAUDE.md"] == f"{ann.home}/CLAUDE.md"


def test_a_link_to_dotfiles_leads_to_the_file_itself(ann: KnowingMachine) -> None:
    dotfiles = ann.home / "dotfiles"
    dotfiles.mkdir()
    (dotfiles / "claude.md").write_text("x")
    (ann.config / "CLAUDE.md").symlink_to(dotfiles / "claude.md")
    assert named(ann)["global/CLAUDE.md"] == f"{dotfiles}/claude.md"
    assert refused(ann) == {}


def test_a_link_above_is_followed(ann: KnowingMachine) -> None:
    (ann.home / "shared").mkdir()
    (ann.root / ".claude").symlink_to(ann.home / "shared")
    assert named(ann)["projects/app/.claude/CLAUDE.md"] == f"{ann.home}/shared/CLAUDE.md"


def test_two_names_of_one_file_are_one_place(ann: KnowingMachine) -> None:
    (ann.root / ".claude").mkdir()
    (ann.root / ".claude" / "CLAUDE.md").write_text("x")
    (ann.root / "CLAUDE.md").symlink_to(ann.root / ".claude" / "CLAUDE.md")
    found = named(ann)
    assert found["projects/app/CLAUDE.md"] == f"{ann.root}/.claude/CLAUDE.md"
    assert "projects/app/.claude/CLAUDE.md" not in found


def test_a_link_out_of_home_and_project_is_set_aside(ann: KnowingMachine, elsewhere: Path) -> None:
    (elsewhere / "CLAUDE.md").write_text("x")
    (ann.root / "CLAUDE.md").symlink_to(elsewhere / "CLAUDE.md")
    (ann.root / ".claude").symlink_to(elsewhere)
    found = refused(ann)
    assert set(found) == {"projects/app/CLAUDE.md", "projects/app/.claude/CLAUDE.md"}
    assert f"leads to {elsewhere}/CLAUDE.md, outside your home folder" in found["projects/app/CLAUDE.md"]


def test_a_project_outside_of_home_has_its_own_files(ann: KnowingMachine, elsewhere: Path) -> None:
    (elsewhere / "docs").mkdir()
    (elsewhere / "docs" / "agents.md").write_text("x")
    (elsewhere / "CLAUDE.md").symlink_to("docs/agents.md")
    ann.replicas = [ann.replica("app", elsewhere)]
    assert named(ann)["projects/app/CLAUDE.md"] == f"{elsewhere}/docs/agents.md"


def test_a_link_to_nothing_to_a_folder_or_to_a_pipe_is_set_aside(ann: KnowingMachine) -> None:
    (ann.root / "CLAUDE.md").symlink_to(ann.home / "nothing.md")
    (ann.root / ".claude" / "CLAUDE.md").mkdir(parents=True)
    os.mkfifo(ann.config / "CLAUDE.md")
    (ann.config / "settings.json").symlink_to(ann.config / "settings.json")
    assert {where: reason.rpartition(", ")[2] for where, reason in refused(ann).items()} == {
        "projects/app/CLAUDE.md": "where nothing is",
        "projects/app/.claude/CLAUDE.md": f"{ann.root}/.claude/CLAUDE.md is no regular file",
        "global/CLAUDE.md": f"{ann.config}/CLAUDE.md is no regular file",
        "global/settings.json": f"{ann.config}/settings.json is no regular file",
    }


@as_root
def test_a_file_of_another_user_is_set_aside(ann: KnowingMachine) -> None:
    (ann.root / "CLAUDE.md").write_text("x")
    os.chown(ann.root / "CLAUDE.md", 65534, 65534)
    assert "belongs to another user" in refused(ann)["projects/app/CLAUDE.md"]


def test_a_link_that_came_with_code_cannot_point_at_the_users_things(ann: KnowingMachine) -> None:
    (ann.home / ".ssh").mkdir()
    (ann.home / ".ssh" / "id_ed25519").write_text("x")
    (ann.home / "private.md").write_text("x")
    (ann.root / "CLAUDE.md").symlink_to(ann.home / ".ssh" / "id_ed25519")
    assert "may be something else" in refused(ann)["projects/app/CLAUDE.md"]
    (ann.root / "CLAUDE.md").unlink()
    (ann.root / "CLAUDE.md").symlink_to(ann.home / "private.md")
    assert refused(ann) == {}  # the user's own link
    git(ann.root, "init", "-q")
    git(ann.root, "add", "CLAUDE.md")
    assert refused(ann) == {}
    assert "projects/app/CLAUDE.md" not in named(ann)
    ann.tracked_files = True
    assert "may be something else" in refused(ann)["projects/app/CLAUDE.md"]


def test_what_git_carries_is_left_alone_unless_it_is_wanted(ann: KnowingMachine) -> None:
    (ann.root / ".claude").mkdir()
    (ann.root / "CLAUDE.md").write_text("x")
    (ann.root / ".claude" / "CLAUDE.md").write_text("x")
    git(ann.root, "init", "-q")
    git(ann.root, "add", "CLAUDE.md")
    assert "projects/app/CLAUDE.md" not in named(ann)
    assert "projects/app/.claude/CLAUDE.md" in named(ann)
    ann.tracked_files = True
    assert "projects/app/CLAUDE.md" in named(ann)


def test_a_link_into_dotfiles_that_git_carries_is_left_alone(ann: KnowingMachine) -> None:
    dotfiles = ann.home / "dotfiles"
    dotfiles.mkdir()
    (dotfiles / "CLAUDE.md").write_text("x")
    (dotfiles / "settings.json").write_text("{}")
    git(dotfiles, "init", "-q")
    git(dotfiles, "add", "CLAUDE.md")
    for name in ("CLAUDE.md", "settings.json"):
        (ann.config / name).symlink_to(dotfiles / name)
    assert "global/CLAUDE.md" not in named(ann)
    assert named(ann)["global/settings.json"] == f"{dotfiles}/settings.json"
    ann.tracked_files = True
    assert named(ann)["global/CLAUDE.md"] == f"{dotfiles}/CLAUDE.md"


def test_a_config_folder_behind_a_link_is_the_users_own(ann: KnowingMachine, elsewhere: Path) -> None:
    config = ann.home / "config"
    config.symlink_to(elsewhere)
    found, refusals = places(ann.machine, LocalPath(str(config)), [], tracked_files=False)
    assert [place.local for place in found] == [f"{elsewhere}/CLAUDE.md", f"{elsewhere}/settings.json"]
    assert refusals == []


def test_what_a_crash_left_beside_documents_is_swept(ann: KnowingMachine) -> None:
    below = ann.root / "deep"
    below.mkdir()
    left = [ann.root / temporary_name(), ann.config / temporary_name()]
    others = [below / temporary_name(), ann.root / temporary_name(), ann.root / "CLAUDE.md"]
    for path in (*left, *others):
        path.write_text("x")
        os.utime(path, (1000.0, 1000.0))
    os.utime(others[1], (5000.0, 5000.0))
    assert sweep_places(ann.look()[0], 5030.0) == 2
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)


def test_a_nested_place_has_its_own_name(ann: KnowingMachine) -> None:
    place = next(place for place in ann.look()[0] if place.path == NESTED)
    assert place.name == "projects/app/.claude/CLAUDE.md"
    assert not place.is_memory


class Finding:
    """A finder, and which folders it searched since it was last asked that."""

    def __init__(self, machine: KnowingMachine, monkeypatch: pytest.MonkeyPatch) -> None:
        self._machine = machine
        self._finder = PlaceFinder(machine.machine, LocalPath(str(machine.config)))
        self._searched: list[str] = []
        add = _Search._add

        def counted(search: _Search, scope: Scope, *words: Any) -> None:
            if scope not in self._searched:
                self._searched.append(scope)
            add(search, scope, *words)

        monkeypatch.setattr(_Search, "_add", counted)

    def find(self, now: float = 0.0, **named: bool) -> set[str]:
        found = self._finder.find(self._machine.replicas, **{"tracked_files": False, **named}, now=now)
        return {place.name for place in found.places}

    def searched(self) -> list[str]:
        found, self._searched = self._searched, []
        return found


def test_only_what_may_have_changed_is_searched_again(
    ann: KnowingMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    ann.memory.mkdir(parents=True)
    git(ann.root, "init", "-q")
    (ann.root / "CLAUDE.md").write_text("x")
    ann.replicas.append(ann.replica("other", tmp_path / "other"))
    finding = Finding(ann, monkeypatch)
    first = finding.find()
    assert finding.searched() == [GLOBAL, APP, "projects/other"]
    assert finding.find(KEPT_S - 1) == first
    assert finding.searched() == []
    (ann.memory / "note.md").write_text("x")
    assert finding.find() == first | {"projects/app/memory/note.md"}
    assert finding.searched() == [APP]
    git(ann.root, "add", "CLAUDE.md")
    assert "projects/app/CLAUDE.md" not in finding.find()
    assert finding.searched() == [APP]
    (ann.config / "CLAUDE.md").symlink_to("/nowhere")
    assert "global/CLAUDE.md" not in finding.find()
    assert finding.searched() == [GLOBAL]
    assert "projects/app/CLAUDE.md" in finding.find(tracked_files=True)
    assert len(finding.searched()) == 3
    finding.find(tracked_files=True, fresh=True)
    assert len(finding.searched()) == 3
    finding.find(KEPT_S, tracked_files=True)
    assert len(finding.searched()) == 3
    ann.root.rename(ann.home / "away")
    assert {name.rpartition("/")[0] for name in finding.find(KEPT_S, tracked_files=True)} == {
        "global",
        "projects/other",
        "projects/other/.claude",
    }
    assert finding.searched() == []
