"""Opens peers: which way leads to which URL.

Owns the choice of transport. Promise: a `Peer` is only made for a URL that cannot be taken for an
option, a helper program or a relative place, and everything it raises names the peer and no secret.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Literal

import pygit2

from convergenced.errors import PeerRefusedError, UsageError
from convergenced.model import LocalPath
from convergenced.ports import Peer
from convergenced.store.refusals import Place, is_behind
from convergenced.store.transport_git import GitPeer, Timeouts
from convergenced.store.transport_libgit2 import Libgit2Peer
from convergenced.store.transport_path import PathPeer
from convergenced.urls import UrlKind, classify_url

__all__ = ["Timeouts", "Transport", "is_behind", "open_peer"]

Transport = Literal["auto", "git", "libgit2"]


def open_peer(
    url: str,
    store_path: LocalPath,
    *,
    name: str,
    transport: Transport = "auto",
    environ: Mapping[str, str],
    timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
) -> Peer:
    """The peer at `url` for the store at `store_path`; contacts nobody yet.

    "auto" takes the git program for ssh and https where it exists (it knows the user's ssh
    configuration and credentials) and this process for everything else (milliseconds faster).
    Raises `UsageError` for a URL that is not allowed, `PeerRefusedError` where "git" is asked for
    and there is none.
    """
    parts = classify_url(url)
    path = ""
    if parts.kind in (UrlKind.PATH, UrlKind.FILE):
        path = _expand(parts.path, environ)
    place = Place(name, parts, path)
    pygit2.settings.enable_fsync_gitdir(True)
    program = None if transport == "libgit2" or (transport == "auto" and path) else _find_git(environ)
    if program is not None:
        return GitPeer(place, store_path, program=program, environ=environ, timeouts=timeouts)
    if transport == "git":
        raise PeerRefusedError("there is no git program on the PATH", "install git, or let transport be auto")
    if path:
        return PathPeer(place, store_path)
    return Libgit2Peer(place, store_path, environ=environ, connect=timeouts.connect, silence=timeouts.stall)


def _find_git(environ: Mapping[str, str]) -> str | None:
    return shutil.which("git", path=environ.get("PATH", os.defpath))


def _expand(path: str, environ: Mapping[str, str]) -> str:
    if not path.startswith("~"):
        return path
    home = environ.get("HOME", "")
    if not home.startswith("/"):
        raise UsageError(f"{path} cannot be a peer: there is no HOME to look in", "write the whole path")
    return home.rstrip("/") + path[1:]
