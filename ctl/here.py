"""What the commands share about this machine: where things are, and how to reach the daemon."""

from __future__ import annotations

import fcntl
import os
import sys
from typing import TYPE_CHECKING, cast

from convergenced.errors import NoDaemonError, UsageError

from .client import Connection

if TYPE_CHECKING:
    from convergenced.control.answers import Status
    from convergenced.control.protocol import Json
    from convergenced.machine.locations import Locations


def locations() -> Locations:
    """Where config, store, state and socket are, as the environment says."""
    from convergenced.machine.locations import Locations

    return Locations.from_environment(os.environ, os.path.expanduser("~"))


def connect() -> Connection:
    """A connection to the daemon. Raises `NoDaemonError` where none runs or can be reached."""
    where = locations()
    try:
        return Connection(where.socket)
    except NoDaemonError:
        pid = None if os.path.lexists(where.socket) else _holder(where.lock_file)
        if pid is None:
            raise
        raise NoDaemonError(
            f"convergenced runs (pid {pid}), but its socket is gone",
            "it makes it again within seconds: try again, or restart it",
        ) from None


def _holder(lock_file: str) -> int | None:
    """The pid of the daemon that holds the lock, None where none does."""
    try:
        with open(lock_file, "rb") as lock:
            pid = int(lock.read(32))
            os.kill(pid, 0)
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return pid
    except (OSError, ValueError):
        return None
    return None


def read_status(project: str | None = None) -> tuple[Status, bool]:
    """The daemon's status, or what the store knows, and whether a daemon gave it.

    Says on stderr when no daemon runs. Raises `UsageError` for an unknown project.
    """
    try:
        with connect() as daemon:
            params: dict[str, Json] = {} if project is None else {"project": project}
            return cast("Status", daemon.call("status", params)), True
    except NoDaemonError as error:
        print(f"{error.summary}; this is what the store holds\n  {error.hint}", file=sys.stderr)
    from convergenced.control.offline import offline_status  # opens the store with pygit2

    found = offline_status(locations(), os.environ)
    if project is not None:
        kept = [one for one in found["projects"] if project in {one["id"], one["root"]}]
        if not kept:
            raise UsageError(f"no project {project!r} is tracked here", "see: convergencectl projects")
        found["projects"] = kept
        found["attention"] = [one for one in found["attention"] if one["project"] in {None, kept[0]["id"]}]
    return found, False
