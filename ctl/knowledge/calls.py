"""How `knowledge` speaks with the daemon: which documents are meant, and what is told while one waits."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import TYPE_CHECKING, cast

from convergenced.errors import NoDaemonError

from ..here import connect, locations
from ..progress import Progress
from ..render import Terminal
from .words import visible

if TYPE_CHECKING:
    from convergenced.control.knowledge_answers import KnowledgeDiff, KnowledgeStatus
    from convergenced.control.protocol import Json

    from ..client import Connection

TIMEOUT = 120.0
"""Seconds that looking at all documents may take."""
_LOOK_TIMEOUT = 2.0


def meant(args: argparse.Namespace) -> dict[str, Json]:
    """The parameters that say which documents: all, those of no project, or those of one."""
    if args.global_only:
        return {"global_only": True}
    if args.project is not None:
        return {"project": args.project, "path": os.getcwd()}
    return {}


def as_options(args: argparse.Namespace) -> str:
    """The same as a person would type it, with a space before it; empty for all."""
    if args.global_only:
        return " --global-only"
    return "" if args.project is None else f" --project {shlex.quote(args.project)}"


def read_status(params: dict[str, Json]) -> KnowledgeStatus:
    """How shared knowledge is, from the daemon or else from the store."""
    try:
        with connect() as daemon:
            return cast("KnowledgeStatus", daemon.call("knowledge_status", params, timeout=TIMEOUT))
    except NoDaemonError as error:
        _say_offline(error)
    # Opens the store with pygit2.
    from convergenced.control.offline_knowledge import offline_knowledge_status

    return offline_knowledge_status(locations(), os.environ, params)


def read_diff(params: dict[str, Json]) -> KnowledgeDiff:
    """What `knowledge apply` would change, from the daemon or else from the store."""
    try:
        with connect() as daemon:
            return planned(daemon, params)
    except NoDaemonError as error:
        _say_offline(error)
    # Opens the store with pygit2.
    from convergenced.control.offline_knowledge import offline_knowledge_diff

    return offline_knowledge_diff(locations(), os.environ, params)


def planned(daemon: Connection, params: dict[str, Json]) -> KnowledgeDiff:
    """What the daemon would change."""
    return cast("KnowledgeDiff", daemon.call("knowledge_diff", params, timeout=TIMEOUT))


def call_at_length(
    daemon: Connection, method: str, params: dict[str, Json], what: str, timeout: float | None = None
) -> Json:
    """The answer to what may take long. `what` is told meanwhile, with what is waited for."""
    progress = Progress(locations().socket, what, Terminal.of(sys.stderr, os.environ), look=_waits_for)
    try:
        return daemon.call(method, params, timeout=timeout, each_tick=progress.tick)
    finally:
        progress.done()


def _waits_for(daemon: Connection) -> str:
    status = cast("KnowledgeStatus", daemon.call("knowledge_status", timeout=_LOOK_TIMEOUT))
    return f": {visible('; '.join(status['waiting']))}" if status["waiting"] else ""


def _say_offline(error: NoDaemonError) -> None:
    print(f"{error.summary}; this is what the store holds\n  {error.hint}", file=sys.stderr)
