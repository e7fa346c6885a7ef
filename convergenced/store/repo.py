"""Opening the store, making it where there is none.

Owns the repository's settings and its `main` branch, a page for people. Promise: an opened store has
on the disk what its refs name, knows its schema, and is free of what a crash left behind.
"""

from __future__ import annotations

import os

import pygit2
from pygit2.enums import Option

from convergenced.errors import NewerSchemaError, StoreError
from convergenced.model import MODE_BLOB, SCHEMA, Author, Commit, LocalPath, Refusal, TreeEntry
from convergenced.store.damage import recover_refs
from convergenced.store.git import GitStore
from convergenced.store.packfile import sweep_unfinished

__all__ = ["MAIN", "GitStore", "open_store", "write_readme"]

README = """\
# Claude Code context, kept in step

This repository is written by convergence. Each branch `project/<id>` holds the sessions and the
memory of one project, in a form that belongs to no machine. Nothing here is meant to be edited by
hand, and nothing here should be public: transcripts hold what was said and done.

    git log project/<id>             what changed, and on which machine
    convergencectl sessions          the same for people
"""

MAIN = "refs/heads/main"
_README_AUTHOR = Author("convergence", "convergence@localhost")
_README_TIME = 1_700_000_000
"""Fixed, so that every machine makes the same first commit and they can share a hub."""

_SETTINGS = {
    "gc.auto": "0",  # the daemon packs, when nothing else is going on
    "maintenance.auto": "false",
    "core.fsync": "committed,reference",  # for what the git program writes here
    "core.logAllRefUpdates": "false",
}
_SCHEMA_KEY = "convergence.schema"
_CACHE_BYTES = 16 * 1024 * 1024
"""What libgit2 may keep of commits and trees, all handles together."""
_WINDOW_BYTES = 1024 * 1024
"""How much of a pack libgit2 maps at a time."""
_MAPPED_BYTES = 16 * _WINDOW_BYTES
"""What it may have mapped of all packs: by itself it maps all it reads, and takes as much memory for it."""


def open_store(path: LocalPath, *, recover: bool = True) -> GitStore:
    """The store at `path`, made where there is none.

    `recover` sets aside left-over locks and broken refs; only the process that holds the daemon's
    lock may do so. Without it an absent store is not made either. Raises `NewerSchemaError` for a
    store of a newer version, `StoreError` where it cannot be opened.
    """
    pygit2.option(Option.ENABLE_FSYNC_GITDIR, 1)
    pygit2.option(Option.SET_CACHE_MAX_SIZE, _CACHE_BYTES)
    pygit2.option(Option.SET_MWINDOW_SIZE, _WINDOW_BYTES)
    pygit2.option(Option.SET_MWINDOW_MAPPED_LIMIT, _MAPPED_BYTES)
    recovered: tuple[Refusal, ...] = ()
    try:
        if recover:
            if not os.path.exists(os.path.join(path, "objects")):
                _make(path)
            os.makedirs(os.path.join(path, "refs"), exist_ok=True)
            recovered = recover_refs(path)
            sweep_unfinished(path)
            if not os.path.exists(os.path.join(path, "HEAD")):
                _write_head(path)
        _check_schema(path)
        store = GitStore(path, recovered)
        if recover and MAIN not in store.refs(MAIN):
            write_readme(store)
    except (OSError, KeyError, ValueError, pygit2.GitError) as error:
        raise StoreError(f"the store {path} cannot be opened: {error}", "is it a git repository?") from error
    return store


def _make(path: LocalPath) -> None:
    if os.path.isdir(path) and os.listdir(path):
        raise StoreError(f"{path} is not empty and no git repository", "move it away")
    os.makedirs(path, mode=0o700, exist_ok=True)
    os.chmod(path, 0o700)
    repo = pygit2.init_repository(path, bare=True, initial_head="main")
    for key, value in {**_SETTINGS, _SCHEMA_KEY: str(SCHEMA)}.items():
        repo.config[key] = value


def _write_head(path: LocalPath) -> None:
    """HEAD is what makes a folder a repository for git, so it cannot be written through git."""
    with open(os.path.join(path, "HEAD"), "w", encoding="ascii") as stream:
        stream.write(f"ref: {MAIN}\n")
        stream.flush()
        os.fsync(stream.fileno())


def _check_schema(path: LocalPath) -> None:
    config = pygit2.Repository(path).config
    schema = config.get_int(_SCHEMA_KEY) if _SCHEMA_KEY in config else 0
    if schema > SCHEMA:
        raise NewerSchemaError(
            f"the store {path} was written by a newer version (schema {schema}, this one knows {SCHEMA})",
            "update convergence on this machine",
        )


def write_readme(store: GitStore) -> None:
    """Makes the `main` branch where there is none, and again the objects that it begins with."""
    tree = store.write_tree([TreeEntry("README.md", MODE_BLOB, store.write_blob(README.encode()))])
    commit = store.write_commit(Commit(tree, (), _README_AUTHOR, _README_TIME, "What this repository is"))
    if MAIN not in store.refs(MAIN):
        store.swap(MAIN, None, commit)
    store.settle()
