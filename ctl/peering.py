"""What is looked at before a repository becomes a peer: who else can read it, and who may write there."""

from __future__ import annotations

import os
import sys

from convergenced.errors import UsageError
from convergenced.machine.locations import Locations
from convergenced.machine.settings import expand_home
from convergenced.urls import UrlKind, classify_url, redact_url

from . import launch, service
from .render import clean

ANYWAY = "--yes-public"


def refuse_public(url: str) -> None:
    """Raises `UsageError` where the repository answers anybody, as a public one does."""
    parts = classify_url(url)
    if parts.kind is not UrlKind.WEB:
        return
    from convergenced.store.openness import answers_anybody  # with pygit2

    if answers_anybody(parts, os.environ):
        raise UsageError(
            f"{clean(redact_url(url))} can be read by anybody, and your sessions would be as well",
            f"make the repository private; if this is meant, say so: {ANYWAY}",
        )


def warn_where_unwritable(where: Locations, url: str) -> None:
    """Says on stderr where the service, as it is installed, may not write to a peer that is a folder."""
    parts = classify_url(url)
    if parts.kind not in {UrlKind.PATH, UrlKind.FILE}:
        return
    manager = service.detect(os.environ, launch.daemon_log(where))
    folder = expand_home(parts.path, os.path.expanduser("~"))
    if manager is not None and manager.installed() and not manager.can_write(folder):
        print(f"the service may not write to {clean(folder)} yet", file=sys.stderr)
        print("  let it: convergencectl service install", file=sys.stderr)
