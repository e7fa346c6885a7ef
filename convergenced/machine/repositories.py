"""Owns the way from a folder to the git repository it lies in, through libgit2.

As `git` looks for it: in the folder and its parents, on one file system. pygit2's own search (1.21) releases
`None` once too often where there is no repository, which ends a Python before 3.12 after some thousand
folders; so libgit2 is asked only about what looks like one.
"""

from __future__ import annotations

import os

import pygit2


def open_repository(folder: str, ceiling: str | None = None) -> pygit2.Repository | None:
    """The repository that a folder lies in, perhaps a bare one; None where it lies in none.

    `folder` is a real path. With `ceiling`, a folder above it, the search ends below that. Raises
    `pygit2.GitError` for one that cannot be opened, `OSError` where there is no such folder.
    """
    device = os.stat(folder).st_dev
    while True:
        named = os.path.join(folder, ".git")
        if os.path.isfile(named) or _is_repository(named):
            return pygit2.Repository(named)
        if _is_repository(folder):
            return pygit2.Repository(folder)
        parent = os.path.dirname(folder)
        if parent in (folder, ceiling) or os.stat(parent).st_dev != device:
            return None
        folder = parent


def _is_repository(folder: str) -> bool:
    """Whether a folder has what each repository has."""
    if not os.path.lexists(os.path.join(folder, "HEAD")):
        return False
    if os.path.exists(os.path.join(folder, "commondir")):
        return True
    return all(os.path.isdir(os.path.join(folder, name)) for name in ("objects", "refs"))
