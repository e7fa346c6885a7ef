"""What is said on stderr while a command waits."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import cast

from convergenced.control.answers import Project, Status
from convergenced.errors import ConvergenceError

from .client import Connection
from .render import Terminal, clean, clip, portion, span

_STATUS_TIMEOUT = 2.0
_SHOWN = 5
_SETTLED = {"synced", "paused"}


class Progress:
    """Tells what is still missing: on a terminal in one changing line, else a line per change.

    `look` asks the daemon what that is; it comes behind `what`, with a colon of its own.
    """

    def __init__(
        self, socket_path: str, what: str, terminal: Terminal, look: Callable[[Connection], str] | None = None
    ) -> None:
        self._path = socket_path
        self._what = what
        self._terminal = terminal
        self._look = _unsynced if look is None else look
        self._began = time.monotonic()
        self._said = ""

    def tick(self) -> None:
        """Looks once at what is missing and says it."""
        missing = self._missing()
        if self._terminal.interactive:
            text = f"{self._what}, {span(time.monotonic() - self._began)}{missing}"
            sys.stderr.write("\r" + clip(text, self._terminal.width - 1) + "\x1b[K")
            sys.stderr.flush()
        elif missing != self._said:
            print(f"{self._what}{missing}", file=sys.stderr)
        self._said = missing

    def done(self) -> None:
        """Takes the line away again."""
        if self._terminal.interactive:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _missing(self) -> str:
        try:
            with Connection(self._path) as daemon:
                return self._look(daemon)
        except ConvergenceError:
            return ""  # the request that is being waited for will say what is wrong


def _unsynced(daemon: Connection) -> str:
    status = cast("Status", daemon.call("status", timeout=_STATUS_TIMEOUT))
    left = [_left(one) for one in status["projects"] if one["state"] not in _SETTLED]
    more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
    return f": {', '.join(left[:_SHOWN])}{more}" if left else ""


def _left(project: Project) -> str:
    progress = project.get("progress")
    what = project["state"] if progress is None else f"importing {portion(progress['done'], progress['of'])}"
    return f"{clean(project['id'])} {what}"
