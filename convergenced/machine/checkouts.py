"""Owns the answer to which code lies in a folder (`ports.Checkouts`), read from its git repository.

Promise: nothing is written to a user's repository, and a repository that is damaged, bare or somebody
else's counts as none: it can make a project a stranger to its peers, never stop the rest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote, urlsplit

import pygit2

from convergenced.machine.repositories import open_repository
from convergenced.model import Checkout, LocalPath

MAX_COMMITS = 200_000
"""Commits looked at for the first one; a longer history has none that we know."""

MAX_DEPTH = 4
"""Folders below a root that `find` descends."""

MAX_FOLDERS = 10_000
"""Folders that one `find` looks into."""

MAX_KNOWN_HISTORIES = 10_000
"""First commits remembered, by the commit the search began at."""

_SKIPPED = frozenset({"node_modules"})


class GitCheckouts:
    """`ports.Checkouts` through libgit2: the git program may be absent.

    `home` keeps a repository of dotfiles, whose work tree is the home folder itself, from counting as
    the code of everything below it.
    """

    def __init__(self, home: LocalPath) -> None:
        self._home = os.path.realpath(home)
        self._first: dict[str, str | None] = {}

    def inspect(self, path: LocalPath) -> Checkout | None:
        """The checkout that `path` lies in; None where there is none or it cannot be read."""
        real = os.path.realpath(path)
        try:
            repository = open_repository(real, self._home)
            if repository is None or repository.is_bare or not repository.workdir:
                return None
            root = os.path.realpath(repository.workdir)
            if root == self._home != real:
                return None
            return Checkout(
                root=LocalPath(root),
                main_root=LocalPath(_main_root(repository, root)),
                git_url=_remote(repository),
                first_commit=self._first_commit(repository),
            )
        except (pygit2.GitError, OSError, KeyError, ValueError):
            # Not owned by this user, half a repository, an unknown extension …: no checkout.
            return None

    def find(self, roots: Sequence[LocalPath]) -> Iterator[Checkout]:
        """Checkouts below `roots`, shallow ones first, each once, bounded in depth and number.

        Hidden folders, `node_modules`, symlinks, other file systems and what lies inside a checkout are left
        out; a root may be a checkout itself and is still searched.
        """
        level = [os.path.realpath(root) for root in roots]
        devices = {_device(root) for root in level}
        seen: set[str] = set()
        looked = 0
        for depth in range(MAX_DEPTH + 1):
            below: list[str] = []
            for folder in level:
                if folder in seen or looked >= MAX_FOLDERS or _device(folder) not in devices:
                    continue
                seen.add(folder)
                looked += 1
                folders, is_checkout = _look(folder)
                if is_checkout and (checkout := self.inspect(LocalPath(folder))) is not None:
                    yield checkout
                    if depth > 0:
                        continue
                below += folders
            level = below

    def _first_commit(self, repository: pygit2.Repository) -> str | None:
        """The oldest commit without parents that HEAD leads to; None where there is none or it is cut off."""
        if repository.head_is_unborn or repository.is_shallow:
            return None
        known = str(repository.head.target)
        if known not in self._first:
            if len(self._first) >= MAX_KNOWN_HISTORIES:
                self._first.clear()
            self._first[known] = _oldest_root(repository, known)
        return self._first[known]


def _oldest_root(repository: pygit2.Repository, head: str) -> str | None:
    roots: list[tuple[int, str]] = []
    for number, commit in enumerate(repository.walk(head, pygit2.enums.SortMode.NONE)):
        if number >= MAX_COMMITS:
            return None
        if not commit.parent_ids:
            roots.append((commit.commit_time, str(commit.id)))
    return min(roots)[1] if roots else None


def _main_root(repository: pygit2.Repository, root: str) -> str:
    """The root of the main worktree: `root`, except in a linked worktree.

    Where the main repository is bare there is no main worktree, and its own folder stands for it.
    """
    try:
        with open(
            os.path.join(repository.path, "commondir"), encoding="utf-8", errors="surrogateescape"
        ) as file:
            shared = file.read(4096).strip()
    except FileNotFoundError:
        return root
    common = os.path.realpath(os.path.join(repository.path, shared))
    workdir = pygit2.Repository(common).workdir
    return os.path.realpath(workdir) if workdir else common


def _remote(repository: pygit2.Repository) -> str | None:
    """The normalized URL of `origin`, else of the only remote that there is."""
    names = list(repository.remotes.names())
    name = "origin" if "origin" in names else names[0] if len(names) == 1 else None
    if name is None:
        return None
    url = repository.remotes[name].url
    return normalize_git_url(url) if url else None


def _device(folder: str) -> int | None:
    """The file system that a folder is on, None where nothing is there."""
    try:
        return os.lstat(folder).st_dev
    except OSError:
        return None


def _look(folder: str) -> tuple[list[str], bool]:
    """The folders to search below `folder`, sorted, and whether it has a `.git`."""
    folders: list[str] = []
    is_checkout = False
    try:
        with os.scandir(folder) as found:
            for item in found:
                if item.name == ".git":
                    is_checkout = True
                elif item.name.startswith(".") or item.name in _SKIPPED:
                    continue
                elif item.is_dir(follow_symlinks=False):
                    folders.append(item.path)
    except OSError:
        return [], False  # gone or not ours to read
    return sorted(folders), is_checkout


_DEFAULT_PORTS = {"ssh": 22, "https": 443, "http": 80, "git": 9418}
_SCHEMES = {"git+ssh": "ssh", "ssh+git": "ssh", "git+https": "https", "git+http": "http"}
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
_SCP = re.compile(r"(?:[^@:/\\]+@)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[^@:/\\\[\]]{2,}):(?P<path>.*)\Z", re.DOTALL)


def normalize_git_url(url: str) -> str | None:
    """What tells that two remotes are the same code: `host/path`, or the path for one on this machine.

    `git@github.com:you/x.git`, `ssh://git@github.com:22/you/x` and `https://token@GitHub.com/you/x/` are all
    `github.com/you/x`. None for what names no place of its own: a relative path, a helper, an empty one.
    """
    url = url.strip()
    if "\n" in url or "\0" in url:
        return None
    if scheme := _URL.match(url):
        return _from_url(
            _SCHEMES.get(scheme["scheme"].lower(), scheme["scheme"].lower()), url[scheme.end() :]
        )
    if url.startswith("/"):
        return _join("", url)
    if "::" in url.partition("/")[0] and "[" not in url:
        return None  # a helper program's own address
    if found := _SCP.match(url):
        return _join(found["host"].lower(), found["path"])
    return None


def _from_url(scheme: str, rest: str) -> str | None:
    if scheme == "file":
        host, _, path = rest.partition("/")
        return _join("" if host.lower() == "localhost" else host.lower(), unquote("/" + path))
    if scheme not in _DEFAULT_PORTS:
        return None
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    if not host:
        return None
    if ":" in host:
        host = f"[{host}]"
    if port is not None and port != _DEFAULT_PORTS[scheme]:
        host = f"{host}:{port}"
    return _join(host, unquote(parts.path))


def _join(host: str, path: str) -> str | None:
    """Host and path without empty steps and without `.git` at the end."""
    steps = [step for step in path.split("/") if step not in ("", ".")]
    if steps and steps[-1].endswith(".git"):
        steps[-1] = steps[-1][:-4]
        if not steps[-1]:
            del steps[-1]  # …/x/.git is the repository of …/x
    if not steps or ".." in steps:
        return None
    return "/".join([host, *steps])


def repository_name(url: str) -> str:
    """The last step of a remote's URL, without `.git`: what people call the repository. May be empty."""
    last = re.split(r"[/:\\]", url.strip().rstrip("/"))[-1]
    return last.removesuffix(".git")
