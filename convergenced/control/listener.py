"""The control socket's file: made so that only this user can ever reach it.

Promises: a file that nobody serves any more is replaced; one that is served is an error that names
the daemon; nothing that is not a socket is ever removed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from convergenced.control.credentials import peer_credentials
from convergenced.errors import ConvergenceError
from convergenced.machine.locations import make_socket_folder
from convergenced.model import LocalPath

_BACKLOG = 128
_PROBE_TIMEOUT = 1.0
"""Seconds that a daemon which may serve the socket gets to take a connection."""


def listen(path: str) -> socket.socket:
    """A listening socket at `path`, 0600 in a directory of this user, 0700.

    Raises `ConvergenceError` where another daemon answers there or the file cannot be made.
    """
    make_socket_folder(LocalPath(path))
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # A Unix socket is created with the mode the umask leaves, and connectable from that moment.
    mask = os.umask(0o077)
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise ConvergenceError(
            f"cannot open the control socket {path}: {error.strerror or error}",
            "set CONVERGENCE_HOME or XDG_RUNTIME_DIR to a short path that you can write to",
        ) from error
    finally:
        os.umask(mask)
    Path(path).chmod(0o600)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _remove_stale(path: str) -> None:
    """Removes a socket that nobody serves any more."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConvergenceError(f"{path} is in the way of the control socket", f"move {path} away")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(_PROBE_TIMEOUT)
    with probe:
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except OSError:
            who = None
        else:
            who = peer_credentials(probe)
    pid = f" (pid {who.pid})" if who is not None and who.pid else ""
    raise ConvergenceError(f"another convergenced{pid} serves {path}", "stop it first: convergencectl down")
