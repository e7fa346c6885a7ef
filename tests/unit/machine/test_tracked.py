"""Which files a git repository carries, in repositories of every shape."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from convergenced.machine.tracked import is_tracked
from convergenced.model import LocalPath

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "ann",
    "GIT_AUTHOR_EMAIL": "ann@example.org",
    "GIT_COMMITTER_NAME": "ann",
    "GIT_COMMITTER_EMAIL": "ann@example.org",
}


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, env=ENVIRONMENT)


def tracked(path: Path) -> bool:
    return is_tracked(LocalPath(str(path)))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository that carries `CLAUDE.md` and `.claude/CLAUDE.md`, and not `own.md`."""
    made = tmp_path / "app"
    (made / ".claude").mkdir(parents=True)
    git(made, "init", "-q")
    for name in ("CLAUDE.md", ".claude/CLAUDE.md", "own.md"):
        (made / name).write_text("x")
    git(made, "add", "CLAUDE.md", ".claude/CLAUDE.md")
    return made


def test_what_is_in_the_index_is_carried(repository: Path) -> None:
    assert tracked(repository / "CLAUDE.md")
    assert tracked(repository / ".claude" / "CLAUDE.md")
    assert not tracked(repository / "own.md")
    assert not tracked(repository / "nothing.md")
    assert not tracked(repository / "no folder" / "CLAUDE.md")


def test_what_was_removed_from_the_index_is_not(repository: Path) -> None:
    git(repository, "rm", "-q", "--cached", "CLAUDE.md")
    assert not tracked(repository / "CLAUDE.md")


def test_a_deleted_file_is_carried_still(repository: Path) -> None:
    (repository / "CLAUDE.md").unlink()
    assert tracked(repository / "CLAUDE.md")
    shutil.rmtree(repository / ".claude")
    assert tracked(repository / ".claude" / "CLAUDE.md")


def test_without_a_repository_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "CLAUDE.md").write_text("x")
    assert not tracked(tmp_path / "CLAUDE.md")


def test_a_link_that_git_keeps_is_carried_whatever_it_leads_to(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "AGENTS.md").write_text("x")
    (repository / "linked.md").symlink_to(tmp_path / "AGENTS.md")
    git(repository, "add", "linked.md")
    assert tracked(repository / "linked.md")
    assert not tracked(tmp_path / "AGENTS.md")


def test_a_folder_that_is_reached_through_a_link_is_the_same(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(repository)
    assert tracked(tmp_path / "other" / "CLAUDE.md")
    assert not tracked(tmp_path / "other" / "own.md")


def test_each_worktree_has_its_own_index(repository: Path, tmp_path: Path) -> None:
    git(repository, "commit", "-q", "-m", "first")
    git(repository, "worktree", "add", "-q", str(tmp_path / "linked"))
    git(tmp_path / "linked", "rm", "-q", "--cached", "CLAUDE.md")
    assert not tracked(tmp_path / "linked" / "CLAUDE.md")
    assert tracked(tmp_path / "linked" / ".claude" / "CLAUDE.md")
    assert tracked(repository / "CLAUDE.md")


def test_a_submodule_counts_for_itself(repository: Path, tmp_path: Path) -> None:
    git(repository, "commit", "-q", "-m", "first")
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(repository), "app")
    (outer / "app" / "own.md").write_text("x")
    assert tracked(outer / "app" / "CLAUDE.md")
    assert not tracked(outer / "app" / "own.md")
    assert not tracked(outer / "CLAUDE.md")


def test_a_bare_repository_carries_no_file(repository: Path, tmp_path: Path) -> None:
    git(repository, "clone", "-q", "--bare", str(repository), str(tmp_path / "hub.git"))
    (tmp_path / "hub.git" / "CLAUDE.md").write_text("x")
    assert not tracked(tmp_path / "hub.git" / "CLAUDE.md")


def test_a_broken_repository_is_none(repository: Path) -> None:
    (repository / ".git" / "HEAD").unlink()
    assert not tracked(repository / "CLAUDE.md")
    shutil.rmtree(repository / ".git")
    (repository / ".git").write_text("gitdir: nowhere\n")
    assert not tracked(repository / "CLAUDE.md")


def test_an_index_that_cannot_be_read_may_carry_anything(repository: Path) -> None:
    (repository / ".git" / "index").write_bytes(b"DIRC and then nothing that makes sense")
    assert tracked(repository / "own.md")


def test_a_name_that_is_no_utf8_can_be_asked_for(repository: Path) -> None:
    name = os.fsdecode(b"\xff.md")
    (repository / name).write_text("x")
    assert not tracked(repository / name)
    git(repository, "add", name)
    assert tracked(repository / name)
