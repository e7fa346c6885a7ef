"""Checkouts of real repositories: worktrees, submodules, dotfiles, damage; and how URLs are compared."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergenced.machine import checkouts
from convergenced.machine.checkouts import GitCheckouts, normalize_git_url, repository_name
from convergenced.model import LocalPath


def git(folder: Path, *words: str, date: str = "2026-01-01T00:00:00Z") -> str:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Ann",
        "GIT_AUTHOR_EMAIL": "ann@example.org",
        "GIT_COMMITTER_NAME": "Ann",
        "GIT_COMMITTER_EMAIL": "ann@example.org",
        "GIT_AUTHOR_DATE": date,
        "GIT_COMMITTER_DATE": date,
    }
    answer = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", *words],
        cwd=folder,
        env=environ,
        check=True,
        capture_output=True,
        text=True,
    )
    return answer.stdout.strip()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return Path(os.path.realpath(tmp_path))


@pytest.fixture
def found(home: Path) -> GitCheckouts:
    return GitCheckouts(LocalPath(str(home)))


def repository(folder: Path, remote: str | None = None) -> str:
    """A repository with one commit; the answer is its id."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    git(folder, "commit", "-q", "--allow-empty", "-m", folder.name)
    if remote is not None:
        git(folder, "remote", "add", "origin", remote)
    return git(folder, "rev-parse", "HEAD")


def at(path: Path) -> LocalPath:
    return LocalPath(str(path))


def test_a_linked_worktree_knows_its_main_one(found: GitCheckouts, home: Path) -> None:
    first = repository(home / "proj", "https://example.org/ann/proj")
    git(home / "proj", "worktree", "add", "-q", str(home / "feature"))
    checkout = found.inspect(at(home / "feature"))
    assert checkout is not None
    assert (checkout.root, checkout.main_root) == (at(home / "feature"), at(home / "proj"))
    assert checkout.is_worktree
    assert (checkout.git_url, checkout.first_commit) == ("example.org/ann/proj", first)


def test_worktrees_of_a_bare_repository_share_its_folder_as_their_main_root(
    found: GitCheckouts, home: Path
) -> None:
    repository(home / "proj")
    git(home, "clone", "-q", "--bare", "proj", "proj.git")
    git(home / "proj.git", "worktree", "add", "-q", str(home / "one"), "-b", "one")
    checkout = found.inspect(at(home / "one"))
    assert checkout is not None
    assert checkout.main_root == at(home / "proj.git")
    assert found.inspect(at(home / "proj.git")) is None


def test_a_submodule_is_a_repository_of_its_own(found: GitCheckouts, home: Path) -> None:
    inner = repository(home / "lib")
    repository(home / "proj")
    git(home / "proj", "submodule", "--quiet", "add", str(home / "lib"), "vendor")
    checkout = found.inspect(at(home / "proj" / "vendor"))
    assert checkout is not None
    assert (checkout.root, checkout.main_root, checkout.first_commit) == (
        at(home / "proj" / "vendor"),
        at(home / "proj" / "vendor"),
        inner,
    )


def test_a_repository_of_dotfiles_is_not_the_code_of_everything_at_home(
    found: GitCheckouts, home: Path
) -> None:
    git(home, "init", "-q")
    (home / "notes").mkdir()
    assert found.inspect(at(home / "notes")) is None
    checkout = found.inspect(at(home))
    assert checkout is not None
    assert checkout.root == at(home)


def test_a_symlink_leads_to_the_checkout_it_points_into(found: GitCheckouts, home: Path) -> None:
    repository(home / "proj")
    (home / "link").symlink_to(home / "proj")
    checkout = found.inspect(at(home / "link"))
    assert checkout is not None
    assert checkout.root == at(home / "proj")


def test_an_empty_repository_has_neither_url_nor_first_commit(found: GitCheckouts, home: Path) -> None:
    (home / "proj").mkdir()
    git(home / "proj", "init", "-q")
    checkout = found.inspect(at(home / "proj"))
    assert checkout is not None
    assert (checkout.git_url, checkout.first_commit) == (None, None)


def test_the_only_remote_counts_where_there_is_no_origin(found: GitCheckouts, home: Path) -> None:
    repository(home / "proj")
    git(home / "proj", "remote", "add", "fork", "git@example.org:ann/proj.git")
    one = found.inspect(at(home / "proj"))
    git(home / "proj", "remote", "add", "other", "git@example.org:bob/proj.git")
    two = found.inspect(at(home / "proj"))
    git(home / "proj", "remote", "add", "origin", "git@example.org:team/proj.git")
    three = found.inspect(at(home / "proj"))
    assert [checkout and checkout.git_url for checkout in (one, two, three)] == [
        "example.org/ann/proj",
        None,
        "example.org/team/proj",
    ]


def test_the_oldest_of_several_roots_is_the_first_commit(found: GitCheckouts, home: Path) -> None:
    proj = home / "proj"
    proj.mkdir()
    git(proj, "init", "-q")
    git(proj, "commit", "-q", "--allow-empty", "-m", "younger", date="2026-02-02T00:00:00Z")
    git(proj, "checkout", "-q", "--orphan", "other")
    git(proj, "commit", "-q", "--allow-empty", "-m", "older", date="2020-01-01T00:00:00Z")
    older = git(proj, "rev-parse", "HEAD")
    git(proj, "checkout", "-q", "main")
    git(
        proj, "merge", "-q", "--allow-unrelated-histories", "-m", "join", "other", date="2026-03-03T00:00:00Z"
    )
    checkout = found.inspect(at(proj))
    assert checkout is not None
    assert checkout.first_commit == older


def test_a_history_that_is_cut_off_or_too_long_has_no_first_commit(
    found: GitCheckouts, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(home / "proj")
    git(home / "proj", "commit", "-q", "--allow-empty", "-m", "second")
    git(home, "clone", "-q", "--depth=1", f"file://{home}/proj", "shallow")
    shallow = found.inspect(at(home / "shallow"))
    assert shallow is not None
    assert shallow.first_commit is None
    monkeypatch.setattr(checkouts, "MAX_COMMITS", 1)
    long = found.inspect(at(home / "proj"))
    assert long is not None
    assert long.first_commit is None


def test_a_damaged_repository_counts_as_none(found: GitCheckouts, home: Path) -> None:
    repository(home / "proj")
    (home / "proj" / ".git" / "config").write_text("[core\nnonsense")
    assert found.inspect(at(home / "proj")) is None


def test_a_repository_without_its_objects_counts_as_none(found: GitCheckouts, home: Path) -> None:
    first = repository(home / "proj")
    (home / "proj" / ".git" / "objects" / first[:2] / first[2:]).unlink()
    assert found.inspect(at(home / "proj")) is None


def test_a_git_file_that_leads_nowhere_counts_as_none(found: GitCheckouts, home: Path) -> None:
    (home / "proj").mkdir()
    (home / "proj" / ".git").write_text("gitdir: /nowhere/at/all\n")
    assert found.inspect(at(home / "proj")) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_repository_of_somebody_else_counts_as_none(found: GitCheckouts, home: Path) -> None:
    repository(home / "proj")
    for path in (home / "proj", home / "proj" / ".git"):
        os.chown(path, 12345, 12345)
    assert found.inspect(at(home / "proj")) is None


def test_finding_leaves_out_what_is_hidden_linked_deep_or_inside(
    found: GitCheckouts, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    src = home / "src"
    repository(src / "a" / "b" / "c" / "d")
    for name in ("a/b/c/x/e", ".hidden/p", "node_modules/p"):
        repository(src / name)
    repository(src / "outer")
    repository(src / "outer" / "inner")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "p"
    repository(elsewhere)
    (src / "link").symlink_to(elsewhere)
    assert [checkout.root for checkout in found.find([at(src)])] == [
        at(src / "outer"),
        at(src / "a" / "b" / "c" / "d"),
    ]


def test_a_root_that_is_a_checkout_is_searched_all_the_same(found: GitCheckouts, home: Path) -> None:
    repository(home / "src")
    repository(home / "src" / "proj")
    assert [checkout.root for checkout in found.find([at(home / "src")])] == [
        at(home / "src"),
        at(home / "src" / "proj"),
    ]


def test_finding_ends_after_so_many_folders(
    found: GitCheckouts, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        repository(home / "src" / name)
    monkeypatch.setattr(checkouts, "MAX_FOLDERS", 3)
    assert [checkout.root for checkout in found.find([at(home / "src")])] == [
        at(home / "src" / "a"),
        at(home / "src" / "b"),
    ]


# ---------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    "url",
    [
        "git@github.com:you/x.git",
        "git@GitHub.com:you/x",
        "github.com:/you/x/",
        "ssh://git@github.com/you/x.git",
        "ssh://git@github.com:22/you/x.git/",
        "git+ssh://github.com/you/x",
        "https://github.com/you/x",
        "https://ann:secret@github.com:443/you/x.git",
        "https://token@github.com//you//x.git",
        "http://github.com:80/you/x?ref=main#top",
        "git://github.com:9418/you/x",
        "HTTPS://github.com/you/%78",
        " https://github.com/you/x\n",
    ],
)
def test_the_same_code_has_one_normalized_url(url: str) -> None:
    assert normalize_git_url(url) == "github.com/you/x"


@pytest.mark.parametrize(
    ("url", "normalized"),
    [
        ("ssh://git@example.org:2222/x.git", "example.org:2222/x"),
        ("ssh://git@[::1]:2222/x", "[::1]:2222/x"),
        ("git@[::1]:x", "[::1]/x"),
        ("/srv/git/x.git", "/srv/git/x"),
        ("/srv/git/x.git/", "/srv/git/x"),
        ("/home/ann/x/.git", "/home/ann/x"),
        ("file:///srv/git/x.git", "/srv/git/x"),
        ("file://localhost/srv/git/x", "/srv/git/x"),
        ("https://example.org/Team/Proj", "example.org/Team/Proj"),
        ("ssh://host/~ann/x.git", "host/~ann/x"),
    ],
)
def test_a_url_is_normalized(url: str, normalized: str) -> None:
    assert normalize_git_url(url) == normalized


@pytest.mark.parametrize(
    "url",
    [
        "",
        "../x.git",
        "x.git",
        "C:\\src\\x",
        "c:/src/x",
        "ext::sh -c evil",
        "codecommit::eu-west-1://x",
        "ftp://example.org/x",
        "https://",
        "https://example.org",
        "https://example.org/",
        "https://example.org:port/x",
        "https://[::1/x",
        "git@host:",
        "https://example.org/../x",
        "/",
    ],
)
def test_what_names_no_place_of_its_own_has_no_normalized_url(url: str) -> None:
    assert normalize_git_url(url) is None


@given(st.text(max_size=60))
def test_no_text_breaks_the_normalizing(url: str) -> None:
    normalized = normalize_git_url(url)
    assert normalized is None or (not normalized.endswith("/") and "//" not in normalized)


PART = st.text(st.sampled_from("abcXYZ019-_"), min_size=1, max_size=8)


@given(PART, PART, PART, st.sampled_from(["", ".git", ".git/", "/"]))
def test_every_spelling_of_one_place_is_the_same(host: str, user: str, name: str, end: str) -> None:
    host = f"{host}.org"
    spellings = {
        normalize_git_url(url)
        for url in (
            f"git@{host}:{user}/{name}{end}",
            f"{host.upper()}:{user}/{name}{end}",
            f"ssh://git@{host}/{user}/{name}{end}",
            f"https://u:p@{host}:443/{user}/{name}{end}",
        )
    }
    assert spellings == {f"{host.lower()}/{user}/{name}"}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("git@github.com:you/x.git", "x"),
        ("https://github.com/you/x.y/", "x.y"),
        ("github.com/you/x", "x"),
        ("host:x.git", "x"),
        ("/srv/git/x.git/", "x"),
        ("C:\\src\\x", "x"),
        ("", ""),
    ],
)
def test_a_repository_is_called_by_the_last_step(url: str, name: str) -> None:
    assert repository_name(url) == name


def test_other_file_systems_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here/a", "mounted/b"):
        (tmp_path / name).mkdir(parents=True)
        git(tmp_path / name, "init", "-q")

    def device(folder: str) -> int:
        return 2 if folder.startswith(str(tmp_path / "mounted")) else 1

    monkeypatch.setattr(checkouts, "_device", device)
    found = GitCheckouts(LocalPath("/nowhere")).find([LocalPath(str(tmp_path))])
    assert [os.path.basename(one.root) for one in found] == ["a"]
    both = [LocalPath(str(tmp_path / name)) for name in ("here", "mounted")]
    named = GitCheckouts(LocalPath("/nowhere")).find(both)
    assert [os.path.basename(one.root) for one in named] == ["a", "b"], "a root may be one"
