"""Opens repositories for the transports: one handle a call, as pygit2's are not for two threads."""

from __future__ import annotations

import pygit2
from pygit2.enums import RepositoryOpenFlag

from convergenced.errors import StoreError
from convergenced.model import LocalPath

GIT_FAILURES = (pygit2.GitError, OSError, KeyError, ValueError)
"""What pygit2 raises for damage, locks, permissions and absence."""


def open_exactly(path: str) -> pygit2.Repository:
    """The repository at `path`, not one further up. Raises one of `GIT_FAILURES`."""
    return pygit2.Repository(path, RepositoryOpenFlag.NO_SEARCH)


def store_handle(path: LocalPath) -> pygit2.Repository:
    """The store at `path`. Raises `StoreError`."""
    try:
        return open_exactly(path)
    except GIT_FAILURES as error:
        raise StoreError(f"the store {path} cannot be opened: {error}", "convergencectl doctor") from error


def tip(repository: pygit2.Repository, ref: str) -> pygit2.Oid | None:
    """Where a branch stands; None where there is none, or one that cannot be read."""
    try:
        target = repository.references[ref].resolve().target
    except GIT_FAILURES:
        return None
    return target if isinstance(target, pygit2.Oid) else None
