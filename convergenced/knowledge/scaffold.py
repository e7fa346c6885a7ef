"""Writes into a hub what its CI needs in order to merge, as one more commit on the hub's `main`.

That commit is made in a store of its own that is gone afterwards: what else a hub has on its `main` is not
ours, and has no business at other hubs. Promises: nothing is forced and nothing of the hub's `main` is lost;
another file of that name is only replaced where that is asked for; what is written holds no secret.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from convergenced.errors import PeerRefusedError, RefusedInputError, UsageError
from convergenced.knowledge.keys import SERVICE
from convergenced.knowledge.providers import github, gitlab
from convergenced.knowledge.providers.hubs import Forge, Hosted, hosted_at
from convergenced.machine.settings_schema import KnowledgeSettings, PeerSettings
from convergenced.model import EMPTY_TREE, MODE_BLOB, MODE_TREE, Author, Commit, LocalPath, Oid, TreeEntry
from convergenced.ports import Objects, Peer, Store
from convergenced.store.branch import peer_ref
from convergenced.store.peers import is_behind
from convergenced.store.repo import MAIN, open_store
from convergenced.sync.tips import ref_of

MAX_TURNS = 4
"""How often it is written anew because somebody else pushed to `main` in between."""
MAX_SHOWN = 64 * 1024
"""Bytes of another file that are shown."""

PATHS: dict[Forge, str] = {"github": github.WORKFLOW_PATH, "gitlab": gitlab.PIPELINE_PATH}

_THEIRS = peer_ref("hub", "main")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,200}")


@dataclass(frozen=True, slots=True)
class Scaffolded:
    """What became of it. Without `written` the file is there already: the same, or `existing` is another.

    `next` is what a person still has to do, a line each.
    """

    file: str
    text: str
    written: bool
    commit: Oid | None
    existing: str | None
    next: tuple[str, ...]


def scaffold(
    kind: Literal["github", "gitlab"],
    named: PeerSettings,
    settings: KnowledgeSettings,
    author: Author,
    time: int,
    open_at: Callable[[LocalPath], Peer],
    *,
    force: bool = False,
) -> Scaffolded:
    """Writes the file of `kind` into the hub that the settings call `named`.

    `open_at` opens that peer for the store at a path; it is closed here. Raises `PeerError` where the hub
    does not take it, `RefusedInputError` where its tree has no room for it.
    """
    with tempfile.TemporaryDirectory(prefix="convergence-") as folder:
        store = open_store(LocalPath(os.path.join(folder, "store.git")))
        with contextlib.closing(open_at(store.path)) as peer:
            file, text = PATHS[kind], workflow(kind, settings)
            written, commit, existing = _write(store, peer, named.name, file, text, author, time, force)
    return Scaffolded(file, text, written, commit, existing, next_steps(kind, named))


def _write(
    store: Store, peer: Peer, name: str, file: str, text: str, author: Author, time: int, force: bool
) -> tuple[bool, Oid | None, str | None]:
    """Whether it was written, the commit, and another file that was left alone."""
    data = text.encode()
    for _ in range(MAX_TURNS):
        theirs = _fetch_main(store, peer)
        tree = EMPTY_TREE if theirs is None else store.read_commit(theirs).tree
        found = _find(store, tree, file.split("/"))
        if found is not None:
            is_long = store.blob_size(found) > MAX_SHOWN
            if not is_long and store.read_blob(found) == data:
                return False, None, None
            if not force:
                return False, None, store.read_blob(found)[:MAX_SHOWN].decode("utf-8", "replace")
        commit = _commit(store, theirs, file, data, author, time)
        reason = peer.push([MAIN]).get(MAIN, "it did not say what became of it")
        if reason is None:
            return True, commit, None
        if not is_behind(reason):
            raise _refused(name, file, reason)
    raise PeerRefusedError(f"{name} was always ahead", "try again when nobody else pushes to its main")


def _fetch_main(store: Store, peer: Peer) -> Oid | None:
    """Where the hub's `main` is, with all it holds; None where it has none."""
    if MAIN not in peer.list():
        return None
    peer.fetch({MAIN: _THEIRS})
    return ref_of(store, _THEIRS)


def _commit(store: Store, theirs: Oid | None, file: str, data: bytes, author: Author, time: int) -> Oid:
    """A commit with the file on top of the hub's `main`, or of our own page; `main` is moved there."""
    ours = ref_of(store, MAIN)
    below = ours if theirs is None else theirs
    tree = EMPTY_TREE if below is None else store.read_commit(below).tree
    tree = _with_file(store, tree, file.split("/"), store.write_blob(data))
    parents = () if below is None else (below,)
    commit = store.write_commit(Commit(tree, parents, author, time, f"Have the CI merge knowledge: {file}"))
    if ours is not None:
        store.swap(MAIN, ours, None)  # the page that every store begins with need not be in its history
    store.swap(MAIN, None, commit)
    return commit


def _find(store: Objects, tree: Oid, path: Sequence[str]) -> Oid | None:
    """The blob at `path`, None where nothing is there."""
    entry = next((one for one in store.read_tree(tree) if one.name == path[0]), None)
    if entry is None:
        return None
    if entry.is_tree != (len(path) > 1):
        raise RefusedInputError(
            f"{path[0]} in the hub's main is {'a folder' if entry.is_tree else 'a file'}",
            "move it away there",
        )
    return _find(store, entry.oid, path[1:]) if entry.is_tree else entry.oid


def _with_file(store: Objects, tree: Oid, path: Sequence[str], blob: Oid) -> Oid:
    """`tree` with `blob` at `path`; everything else stays."""
    entries = {one.name: one for one in store.read_tree(tree)}
    if len(path) == 1:
        entries[path[0]] = TreeEntry(path[0], MODE_BLOB, blob)
    else:
        below = entries[path[0]].oid if path[0] in entries else EMPTY_TREE
        entries[path[0]] = TreeEntry(path[0], MODE_TREE, _with_file(store, below, path[1:], blob))
    return store.write_tree(entries.values())


def _refused(name: str, file: str, reason: str) -> PeerRefusedError:
    hint = f"whoever may push to main there can write the file by hand: {file}"
    if "workflow" in reason.lower():
        hint = (
            "the credentials that push need the scope “workflow” (a fine-grained token: “Workflows: read and "
            "write”); a push by ssh needs neither"
        )
    return PeerRefusedError(f"{name} does not take main with {file}: {reason}", hint)


# -- what is written


def workflow(kind: Forge, settings: KnowledgeSettings) -> str:
    """The text of the file, with what `settings` say about cost and claims."""
    command = (
        "python -P -m convergenced.knowledge.pipeline --repository . --push {push}"
        f" --max-usd {settings.max_usd:g} --reject-above {settings.reject_above}"
    )
    if settings.model:
        if not _MODEL.fullmatch(settings.model):
            raise UsageError(
                f"knowledge.model is {settings.model!r}, which no model is called",
                "convergencectl config set knowledge.model NAME",
            )
        command += f" --model {settings.model}"
    if kind == "github":
        return _GITHUB + f"        run: {command.format(push='origin')}\n"
    return _GITLAB + f"    - {command.format(push=_GITLAB_HUB)}\n"


_HEAD = """\
# Merges CLAUDE.md and settings of all machines on the branch `knowledge`. Written by convergence;
# `convergencectl knowledge scaffold {kind}` shows what has changed since.
"""

_GITHUB = (
    _HEAD.format(kind="github")
    + """\
name: convergence
run-name: convergence ${{ inputs.nonce }}

on:
  workflow_dispatch:
    inputs:
      nonce:
        description: Tells this run from others
        type: string
        required: false
        default: ""

permissions:
  contents: write

concurrency:
  group: convergence-knowledge
  cancel-in-progress: false

jobs:
  synthesize:
    runs-on: ubuntu-latest
    timeout-minutes: 30
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - name: Install
        run: pip install 'convergenced[synthesis]'
      - name: Synthesize
        env:
          ANTHROPIC_API_KEY: ${{ secrets.ANTHROPIC_API_KEY }}
"""
)

_GITLAB_HUB = '"$CI_SERVER_URL/$CI_PROJECT_PATH.git"'

_GITLAB = (
    _HEAD.format(kind="gitlab")
    + """\
workflow:
  rules:
    - if: $CI_PIPELINE_SOURCE == "trigger" || $CI_PIPELINE_SOURCE == "api" || $CI_PIPELINE_SOURCE == "web"

synthesize:
  image: python:3.12-slim
  resource_group: convergence-knowledge
  timeout: 30 minutes
  variables:
    GIT_DEPTH: "1"
  before_script:
    - apt-get update -qq && apt-get install -y -qq git
    - pip install --quiet 'convergenced[synthesis]'
  script:
    # The job's own token, for this project alone. It stands in no file and in no list of processes.
    - git config credential.helper '!f() { echo username=gitlab-ci-token; echo "password=$CI_JOB_TOKEN"; }; f'
"""
)


# -- what is left to a person


def next_steps(kind: Forge, named: PeerSettings) -> tuple[str, ...]:
    """What a person still has to do, a line each."""
    hub = hosted_at(kind, named)
    return _github_steps(hub) if kind == "github" else _gitlab_steps(hub)


def _github_steps(hub: Hosted | None) -> tuple[str, ...]:
    page = f"{hub.site}/{hub.path}" if hub is not None else "https://github.com/OWNER/NAME"
    return (
        f"give the workflow a key, as the secret ANTHROPIC_API_KEY: {page}/settings/secrets/actions/new",
        f"main has to be the default branch: {page}/settings",
        (
            "give each machine that may start it a token for this repository alone, with the permission "
            f"“Actions: read and write”: GITHUB_TOKEN, or `python -m keyring set {SERVICE} github`"
        ),
        "have it merge: convergencectl knowledge enable --provider github",
    )


def _gitlab_steps(hub: Hosted | None) -> tuple[str, ...]:
    page = f"{hub.site}/{hub.path}/-/settings" if hub is not None else "https://gitlab.com/PATH/-/settings"
    return (
        f"give the job a key, as the masked variable ANTHROPIC_API_KEY: {page}/ci_cd (Variables)",
        f"let the job push: {page}/ci_cd (Job token permissions → Allow Git push requests to the repository)",
        f"main has to be the default branch: {page}/repository",
        (
            "give each machine that may start it a project access token with the scope “api” and the role "
            f"Developer: GITLAB_TOKEN, or `python -m keyring set {SERVICE} gitlab`"
        ),
        "have it merge: convergencectl knowledge enable --provider gitlab",
    )
