"""A daemon without an engine: the real control server over answers that a test arranges.

Run as a program it stands in for `convergenced`: it serves the socket that CONVERGENCE_HOME implies
until it is told to shut down. FAKE_DAEMON=dies and FAKE_DAEMON=unready make it fail at its start, and
FAKE_DAEMON=version=X makes it of another version.
"""

from __future__ import annotations

import copy
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeAlias, cast

from convergenced import __version__
from convergenced.control.answers import Status
from convergenced.control.protocol import METHOD_NOT_FOUND, Json, Request
from convergenced.control.server import ControlServer, Reply
from convergenced.errors import ConvergenceError, UsageError
from convergenced.machine.locations import Locations

PATIENCE = 20.0

SYNCED: Status = {
    "schema": 1,
    "machine": {"id": "desktop-0a1b2c3d", "name": "desktop"},
    "daemon": {"pid": 4000, "version": __version__, "uptime_s": 61.0, "state": "running", "reasons": []},
    "peers": [
        {
            "name": "hub",
            "url": "git@example.com:ann/context.git",
            "state": "ok",
            "last_fetch": "2031-05-04T12:00:00Z",
            "last_push": "2031-05-04T11:58:00Z",
            "error": None,
            "next_try": None,
        }
    ],
    "projects": [
        {
            "id": "proj",
            "root": "/home/ann/src/proj",
            "context_dir": "/home/ann/.claude/projects/-home-ann-src-proj",
            "tip": "a" * 40,
            "state": "synced",
            "sessions": 12,
            "bytes": 3_400_000,
            "ahead": 0,
            "behind": 0,
            "held": None,
            "last_ingest": "2031-05-04T11:57:00Z",
            "last_exchange": "2031-05-04T12:00:00Z",
        }
    ],
    "available": [],
    "attention": [],
}


def synced() -> Status:
    """A fresh status in which all is well."""
    return copy.deepcopy(SYNCED)


Answer: TypeAlias = "Json | ConvergenceError"


class FakeDaemon:
    """Serves what `answers` and `status` hold, and remembers what was asked."""

    def __init__(self, locations: Locations, pid: int | None = None) -> None:
        self.locations = locations
        self.pid = os.getpid() if pid is None else pid
        self.ready = True
        self.version = __version__
        self.status = synced()
        self.answers: dict[str, Answer | Callable[[dict[str, Json]], Answer]] = {}
        self.asked: list[tuple[str, dict[str, Json]]] = []
        self.ended = threading.Event()
        self.changed = threading.Condition()
        self.waiting: list[Reply] = []
        self._server = ControlServer(locations.socket, self._handle)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def params(self, method: str) -> dict[str, Json]:
        """What the newest request of that method held."""
        return next(params for name, params in reversed(self.asked) if name == method)

    def was_asked(self, method: str, times: int = 1) -> bool:
        """Whether `method` was asked so often, waiting for it a while."""
        with self.changed:
            return self.changed.wait_for(
                lambda: sum(name == method for name, _ in self.asked) >= times, PATIENCE
            )

    def _handle(self, request: Request, reply: Reply) -> None:
        with self.changed:
            self.asked.append((request.method, request.params))
            self.changed.notify_all()
        arranged = self.answers.get(request.method)
        if callable(arranged):
            arranged = arranged(request.params)
        if isinstance(arranged, ConvergenceError):
            reply.error(arranged)
        elif arranged is not None:
            reply.result(arranged)
        else:
            self._answer(request, reply)

    def _answer(self, request: Request, reply: Reply) -> None:
        params = request.params
        match request.method:
            case "ping":
                reply.result({"pid": self.pid, "version": self.version, "ready": self.ready})
            case "status":
                named = params.get("project")
                if named is not None and named not in {one["id"] for one in self.status["projects"]}:
                    raise UsageError(f"there is no project {named}", "see: convergencectl projects")
                reply.result(cast("Json", self.status))
            case "projects":
                found = {"projects": self.status["projects"], "available": self.status["available"]}
                reply.result(cast("Json", found))
            case "pause" | "resume":
                reply.result({"projects": params["projects"] or ["proj"]})
            case "sync":
                reply.result({"actions": [], "state": "synced", "unsynced": []})
            case "wait" if "wait" in self.answers:
                self.waiting.append(reply)
            case "wait":
                reply.result({"state": "synced"})
            case "init" | "join":
                reply.result({"id": params.get("id") or "proj", "root": params["path"], "context_dir": "/c"})
            case "peer_add" | "peer_remove" | "reload":
                reply.result({})
            case "shutdown":
                reply.result({})
                self.ended.set()
                self._server.stop()
            case other:
                reply.refuse(METHOD_NOT_FOUND, f"there is no method {other}")


def main() -> int:
    """Serves until `shutdown`."""
    mode = os.environ.get("FAKE_DAEMON", "")
    print("fake daemon starting", file=sys.stderr, flush=True)
    if mode == "dies":
        print("config.toml, line 3: unknown key", file=sys.stderr)
        return 2
    daemon = FakeDaemon(Locations.from_environment(os.environ, os.path.expanduser("~")))
    daemon.ready = mode != "unready"
    daemon.version = mode.removeprefix("version=") if mode.startswith("version=") else daemon.version
    daemon.status["daemon"]["version"] = daemon.version
    daemon.start()
    daemon.ended.wait()
    daemon.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
