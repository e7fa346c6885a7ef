"""Starting and ending the daemon, as a service or as a detached process, and waiting for either."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from convergenced.control.answers import Ping
from convergenced.errors import ConvergenceError, NoDaemonError, TimedOutError
from convergenced.machine.locations import Locations
from convergenced.machine.settings import Settings, expand_home, load_settings
from convergenced.urls import UrlKind, classify_url

from .client import Connection
from .service import ServiceManager, tail

READY_TIMEOUT = 30.0
"""Seconds that the daemon gets until it answers and is ready."""
EXIT_TIMEOUT = 20.0
"""Seconds that it gets to drain and end; it promises ten."""
MAX_LOG = 4 * 1024 * 1024
"""Bytes of the detached daemon's log at which a start puts it aside."""
_LOOK_EVERY = 0.05
_PING_TIMEOUT = 5.0


def command() -> list[str]:
    """The command line of the daemon, by the interpreter that runs now. -P: never from the cwd."""
    return [sys.executable, "-P", "-m", "convergenced"]


def daemon_log(locations: Locations) -> Path:
    """Where a daemon without a service manager writes its stderr."""
    return Path(locations.state_dir, "daemon.log")


def ping(locations: Locations) -> Ping | None:
    """The daemon's answer, None where none runs."""
    try:
        with Connection(locations.socket) as daemon:
            return cast("Ping", daemon.call("ping", timeout=_PING_TIMEOUT))
    except NoDaemonError:
        return None


def start(locations: Locations, manager: ServiceManager | None, *, runs: bool = False) -> Ping:
    """Starts the daemon (unless it `runs`) and waits until it is ready.

    Raises `ConvergenceError` with the daemon's last words where it does not become so.
    """
    if runs:
        return _await_ready(locations, lambda: tail(daemon_log(locations)), lambda: None)
    if manager is not None:
        manager.install(writable=hubs(load_settings(locations.config_file)))
        manager.start()
        return await_service(locations, manager)
    process = _detach(locations)
    try:
        return _await_ready(locations, lambda: tail(daemon_log(locations)), process.poll)
    finally:
        process.returncode = process.poll() or 0  # it outlives us on purpose: no warning about that


def await_service(locations: Locations, manager: ServiceManager, after: Ping | None = None) -> Ping:
    """Waits until the service's daemon is ready; not the one that was there before, where it restarts."""
    pid = None if after is None else after["pid"]
    return _await_ready(locations, manager.last_words, lambda: None, but=pid)


def hubs(settings: Settings) -> list[str]:
    """The folders on this machine that are peers."""
    peers = [classify_url(peer.url) for peer in settings.peers]
    home = os.path.expanduser("~")
    return [expand_home(one.path, home) for one in peers if one.kind in {UrlKind.PATH, UrlKind.FILE}]


def _detach(locations: Locations) -> subprocess.Popen[bytes]:
    log = daemon_log(locations)
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > MAX_LOG:
        log.replace(log.with_name(log.name + ".1"))
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        return subprocess.Popen(
            command(),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def _await_ready(
    locations: Locations,
    last_words: Callable[[], str],
    ended: Callable[[], int | None],
    but: int | None = None,
) -> Ping:
    until = time.monotonic() + READY_TIMEOUT
    while time.monotonic() < until:
        code = ended()
        try:
            found = ping(locations)
        except TimedOutError:
            found = None  # it listens and is still busy with its start
        if found is not None and found["ready"] and found["pid"] != but:
            return found
        if code is not None:
            raise _failed(f"convergenced ended at once with exit code {code}", last_words())
        time.sleep(_LOOK_EVERY)
    raise _failed(f"convergenced was not ready after {READY_TIMEOUT:.0f} s", last_words())


def _failed(summary: str, words: str) -> ConvergenceError:
    if not words.strip():
        return ConvergenceError(summary, "to see why: convergencectl up --foreground")
    return ConvergenceError(
        summary, "its last words:\n" + "\n".join(f"    {line}" for line in words.splitlines())
    )


def stop(locations: Locations) -> int | None:
    """Asks the daemon to end and waits until it has; its pid, None where none ran.

    Raises `TimedOutError` where it does not end.
    """
    found = ping(locations)
    if found is None:
        return None
    try:
        with Connection(locations.socket) as daemon:
            daemon.call("shutdown")
    except NoDaemonError:
        pass  # it ended before it could answer
    until = time.monotonic() + EXIT_TIMEOUT
    while _runs(found["pid"]):
        if time.monotonic() >= until:
            raise TimedOutError(
                f"convergenced (pid {found['pid']}) did not end within {EXIT_TIMEOUT:.0f} s",
                f"look at it with `convergencectl log`, or end it: kill {found['pid']}",
            )
        time.sleep(_LOOK_EVERY)
    return found["pid"]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A process that has ended stays in the table until its parent takes notice.
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return not os.path.exists("/proc/self/stat")
    return stat.rpartition(b")")[2].split()[0] != b"Z"
