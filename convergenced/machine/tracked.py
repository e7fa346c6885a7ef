"""Owns the answer to whether a git repository carries a file: then git brings it to other machines.

Promise: nothing is written to a repository. What is no repository, or none that can be opened, carries
nothing; one whose list of files cannot be read may carry anything.
"""

from __future__ import annotations

import os

import pygit2

from convergenced.machine.repositories import open_repository
from convergenced.model import LocalPath


def is_tracked(path: LocalPath) -> bool:
    """Whether the repository that `path` lies in has it in its index.

    A symlink is asked for itself, as git keeps it; those in its folder's path are followed.
    """
    folder, name = os.path.split(path)
    real = os.path.realpath(folder)
    try:
        repository = open_repository(_nearest(real))
        if repository is None or repository.is_bare or not repository.workdir:
            return False
        within = os.path.relpath(os.path.join(real, name), os.path.realpath(repository.workdir))
    except (pygit2.GitError, OSError, KeyError, ValueError):
        return False  # not owned by this user, half a repository, an unknown extension …
    if within.startswith(os.pardir + os.sep):
        return False
    try:
        return within in repository.index
    except (pygit2.GitError, OSError, KeyError, ValueError):
        return True


def _nearest(folder: str) -> str:
    """The folder, or the one above it that is there: what git carries may have been deleted."""
    while not os.path.isdir(folder) and folder != os.sep:
        folder = os.path.dirname(folder)
    return folder
