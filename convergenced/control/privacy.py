"""Who else can read what a peer is given: strangers on the web, other users of this machine.

Promise: nothing is sent but a stranger's question, and where nobody can tell nothing is claimed.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Mapping

from convergenced.errors import ConvergenceError
from convergenced.machine.settings import PeerSettings, expand_home
from convergenced.model import Finding
from convergenced.store.openness import answers_anybody
from convergenced.urls import PeerUrl, UrlKind, classify_url

_OTHERS = stat.S_IROTH | stat.S_IXOTH


def check_privacy(peers: Iterable[PeerSettings], environ: Mapping[str, str], home: str) -> Iterator[Finding]:
    """A warning for each peer that others can read, or one word for all that is well. May take seconds."""
    wrong = False
    for peer in peers:
        try:
            url = classify_url(peer.url)
            readers = _readers(url, environ, home)
        except (ConvergenceError, OSError):
            continue  # that it cannot be reached is told elsewhere
        if readers is not None:
            wrong = True
            who, fix = readers
            yield Finding("privacy", "warning", f"peer {peer.name} can be read by {who}", fix=fix)
    if not wrong:
        yield Finding("privacy", "ok", "no peer answers strangers")


def _readers(url: PeerUrl, environ: Mapping[str, str], home: str) -> tuple[str, str] | None:
    """Who can read the peer, and what ends that; None where nobody else is known to."""
    if url.kind is UrlKind.WEB:
        if not answers_anybody(url, environ):
            return None
        return (
            "anybody on the web, and so can your sessions",
            "make that repository private where it is hosted",
        )
    if url.kind not in {UrlKind.PATH, UrlKind.FILE}:
        return None
    folder = os.path.realpath(expand_home(url.path, home))
    if not _is_open(folder):
        return None
    return "all users of this machine", f"chmod -R go-rwx {shlex.quote(folder)}"


def _is_open(folder: str) -> bool:
    """Whether every user can come to the folder and list it."""
    if os.stat(folder).st_mode & _OTHERS != _OTHERS:
        return False
    above = os.path.dirname(folder)
    while os.stat(above).st_mode & stat.S_IXOTH:
        if above == os.path.dirname(above):
            return True
        above = os.path.dirname(above)
    return False
