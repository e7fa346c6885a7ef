"""Owns the word to the service manager (sd_notify): ready, status, still alive, stopping.

Promise: without a service manager every call does nothing, and none ever blocks or fails the daemon.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

MAX_STATUS = 200
"""Characters of a status line; `systemctl status` shows one line."""


class Notifier:
    """Tells the service manager how the daemon is, over `$NOTIFY_SOCKET` (see sd_notify(3))."""

    def __init__(self, address: str | None, watchdog_interval: float | None = None) -> None:
        self._address = address
        self.watchdog_interval = watchdog_interval
        """Seconds between two `watchdog` calls; None where nobody waits for them."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Notifier:
        """What the service manager put into the environment; says nothing where it put nothing."""
        path = environ.get("NOTIFY_SOCKET", "")
        if path.startswith("@"):
            return cls("\0" + path[1:], _watchdog_interval(environ))
        if path.startswith("/"):
            return cls(path, _watchdog_interval(environ))
        return cls(None)

    @property
    def is_heard(self) -> bool:
        """Whether there is a service manager."""
        return self._address is not None

    def ready(self) -> None:
        """The daemon serves."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for people."""
        line = " ".join(text.split())[:MAX_STATUS]
        self._send(f"STATUS={line}")

    def watchdog(self) -> None:
        """The daemon is alive; due every `watchdog_interval` seconds."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The daemon finishes what it began and ends."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)
            try:
                line.sendto(message.encode("utf-8", errors="replace"), self._address)
            except OSError:
                # A manager that went away or has a full queue is its own trouble: it notices by itself
                # that it hears nothing, and the daemon's work does not depend on it.
                return


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Half of what the manager waits for; None where the watchdog is off or meant for another process."""
    pid = environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return microseconds / 2_000_000 if microseconds > 0 else None
