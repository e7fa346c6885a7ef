"""Which git repository a folder lies in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pygit2
import pytest

from convergenced.machine.repositories import open_repository


def init(folder: Path, *words: str) -> Path:
    subprocess.run(["git", "init", "-q", *words, folder], check=True, capture_output=True)
    return folder


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return Path(os.path.realpath(tmp_path))


def found(folder: Path, ceiling: Path | None = None) -> str | None:
    """The repository's own folder."""
    repository = open_repository(str(folder), str(ceiling) if ceiling else None)
    return None if repository is None else repository.path.rstrip("/")


def test_a_folder_and_all_below_lie_in_it(top: Path) -> None:
    deep = init(top / "app") / "a" / "b"
    deep.mkdir(parents=True)
    assert found(top / "app") == found(deep) == f"{top}/app/.git"
    assert found(top) is None


def test_the_nearest_one_counts_and_half_a_repository_is_none(top: Path) -> None:
    inner = init(init(top / "app") / "inner")
    assert found(inner) == f"{inner}/.git"
    (inner / ".git" / "HEAD").unlink()
    assert found(inner) == f"{top}/app/.git"


def test_the_search_ends_below_the_ceiling_but_not_on_it(top: Path) -> None:
    init(top)
    (top / "app").mkdir()
    assert found(top / "app", ceiling=top) is None
    assert found(top, ceiling=top) == f"{top}/.git"
    assert found(top / "app") == f"{top}/.git"


def test_a_bare_one_is_found(top: Path) -> None:
    hub = init(top / "hub.git", "--bare")
    assert found(hub) == found(hub / "refs") == str(hub)


def test_one_that_cannot_be_opened_is_an_error(top: Path) -> None:
    (top / ".git").write_text("gitdir: nowhere\n")
    with pytest.raises(pygit2.GitError):
        found(top)


def test_a_folder_that_is_not_there_is_an_error(top: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        found(top / "nowhere")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="None is never released")
def test_looking_in_vain_costs_no_reference(top: Path) -> None:
    before = sys.getrefcount(None)
    for _ in range(1000):
        assert found(top) is None
    assert sys.getrefcount(None) > before - 100
