"""Whether a repository on the web answers anybody: what is pushed there, everybody can read.

Promise: it is asked as a stranger would ask, without password, credential helper, cookie, `.netrc` or
header of the user's; bounded in time; nothing is sent but the question.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping

import pygit2

from convergenced.errors import ConvergenceError
from convergenced.model import LocalPath
from convergenced.store.program import Limits, Programs
from convergenced.store.refusals import Place
from convergenced.store.transport_libgit2 import Libgit2Peer
from convergenced.urls import PeerUrl, UrlKind, classify_url

SECONDS = 10.0
"""How long the answer may take; one that takes longer counts as none."""
_KEPT = ("http.proxy", "http.sslCAInfo", "http.sslCAPath", "http.sslVerify")
"""What a stranger on this machine needs in order to reach the server at all."""
_PASSED = ("PATH", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH")


def answers_anybody(url: PeerUrl, environ: Mapping[str, str], *, seconds: float = SECONDS) -> bool:
    """Whether `url` lists its branches to a stranger. False also where nobody can tell."""
    if url.kind is not UrlKind.WEB:
        return False
    git = shutil.which("git", path=environ.get("PATH", os.defpath))
    with tempfile.TemporaryDirectory(prefix="convergence-") as home:
        if git is None:
            return _asked_by_libgit2(url, home, seconds)
        return _asked_by_git(git, url, home, environ, seconds)


def _asked_by_git(git: str, url: PeerUrl, home: str, environ: Mapping[str, str], seconds: float) -> bool:
    programs, limits = Programs(), Limits(seconds, seconds)
    options = ["-c", "credential.helper=", "-c", "protocol.allow=never", "-c", "protocol.https.allow=always"]
    if url.bare.lower().startswith("http:"):  # to this machine itself; no other is a peer
        options += ["-c", "protocol.http.allow=always"]
    for key in _KEPT:
        asked = [git, "-C", home, "config", "--get-urlmatch", key, url.bare]
        found = programs.run(asked, environ={**environ, "LC_ALL": "C"}, limits=limits)
        if found.end == "exit" and found.code == 0:
            options += ["-c", f"{key}={found.out.decode('utf-8', 'surrogateescape').rstrip()}"]
    stranger = {name: environ[name] for name in _PASSED if name in environ}
    stranger |= {name: value for name, value in environ.items() if name.lower().endswith("_proxy")}
    stranger |= {
        "HOME": home,
        "XDG_CONFIG_HOME": home,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": "/",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "LC_ALL": "C",
    }
    command = [git, "-C", home, *options, "ls-remote", "--heads", "--", url.bare]
    done = programs.run(command, environ=stranger, limits=limits)
    return done.end == "exit" and done.code == 0


def _asked_by_libgit2(url: PeerUrl, home: str, seconds: float) -> bool:
    bare = LocalPath(os.path.join(home, "asks.git"))
    pygit2.init_repository(bare, bare=True)
    place = Place("hub", classify_url(url.bare), "")
    try:
        Libgit2Peer(place, bare, environ={"HOME": home}, connect=seconds, silence=seconds).list()
    except ConvergenceError:
        return False
    return True
