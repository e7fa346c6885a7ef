"""Owns where the control socket is. Promises to import next to nothing: a hook of every session asks.

Depends on nothing but the environment it is given, so that daemon, client and hooks agree.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping

from convergenced.errors import ConvergenceError

APP = "convergence"

MAX_SOCKET_PATH = 100
"""Bytes. Linux allows 107 and macOS 103; a little is left for a temporary name."""


def folder_of_all(environ: Mapping[str, str], home: str) -> str | None:
    """The folder that `CONVERGENCE_HOME` puts everything below; None where it is not set.

    Raises `ConvergenceError` where it is not absolute.
    """
    together = environ.get("CONVERGENCE_HOME")
    if not together:
        return None
    if together.startswith("~/"):
        together = os.path.join(home, together[2:])
    if not os.path.isabs(together):
        raise ConvergenceError(f"CONVERGENCE_HOME is not an absolute path: {together}", "give the whole path")
    return os.path.normpath(together)


def socket_path(environ: Mapping[str, str], home: str, platform: str, uid: int) -> str:
    """The control socket of that user. Raises `ConvergenceError` as `folder_of_all` does."""
    folder = folder_of_all(environ, home)
    if folder is None:
        # Not platformdirs' runtime folder: asking for it may make one and warn.
        folder = _runtime(environ, uid) or (
            os.path.join(home, "Library", "Caches", "TemporaryItems", APP)
            if platform == "darwin"
            else _private_temporary(uid)
        )
    return _short(os.path.join(folder, "control.sock"), environ, uid)


def _runtime(environ: Mapping[str, str], uid: int) -> str | None:
    """The session's runtime folder, where it exists and belongs to this user."""
    for folder in (environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"):
        if os.path.isabs(folder) and _owned(folder, uid):
            return os.path.join(os.path.normpath(folder), APP)
    return None


def _owned(folder: str, uid: int) -> bool:
    try:
        found = os.stat(folder)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG):
            return False
        raise
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid


def _private_temporary(uid: int) -> str:
    # Not $TMPDIR: it differs between a login and a service, and both must find the same socket.
    return f"/tmp/{APP}-{uid}"  # noqa: S108 (made 0700 and owner-checked by make_socket_folder)


def _short(path: str, environ: Mapping[str, str], uid: int) -> str:
    """`path`, or where it is too long for a socket a short one that depends on nothing but it."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    import hashlib  # noqa: PLC0415 (slow; only for long paths)

    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16] + ".sock"
    runtime = _runtime(environ, uid)
    if runtime is not None and len(os.fsencode(runtime)) + 1 + len(name) <= MAX_SOCKET_PATH:
        return os.path.join(runtime, name)
    return os.path.join(_private_temporary(uid), name)
