"""Who is at the other end of a Unix socket, as the kernel tells it.

Imports no more than it must: a hook of every session asks.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_SOL_LOCAL = 0
_LOCAL_PEERCRED = 0x001
_LOCAL_PEERPID = 0x002
# struct xucred of <sys/ucred.h>: version, uid, number of groups, 16 groups.
_XUCRED = struct.Struct("@IIh16I")
_UCRED = struct.Struct("@iII")


class Credentials(NamedTuple):
    """User and process at the other end; the pid is None where the system does not tell."""

    uid: int
    pid: int | None


def peer_credentials(connection: socket.socket) -> Credentials | None:
    """Who connected (or, on the client's side, who listens). None where it cannot be known."""
    so_peercred: int | None = getattr(socket, "SO_PEERCRED", None)
    try:
        if so_peercred is not None:
            pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, so_peercred, _UCRED.size))
            return Credentials(uid, pid if pid > 0 else None)
        raw = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size)
        (pid,) = struct.unpack("@i", connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4))
        return Credentials(_XUCRED.unpack(raw)[1], pid)
    except (OSError, struct.error):
        return None
