"""Processes that look like a running Claude Code: a program called `claude`, a session file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Client:
    """One process; `kill` ends it as SIGKILL does, so that its session file stays."""

    process: subprocess.Popen[bytes]
    cwd: str

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """Ends it and waits until it is gone."""
        self.process.kill()
        self.process.wait()

    def start_ticks(self) -> str:
        """Field 22 of its `/proc/<pid>/stat`."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[19]

    def write_session_file(self, sessions: Path, session: str, **changed: object) -> None:
        """The `sessions/<pid>.json` that the client would write, some fields changed (None: left out)."""
        value: dict[str, object] = {
            "pid": self.pid,
            "sessionId": session,
            "cwd": self.cwd,
            "startedAt": int(time.time() * 1000),
            "procStart": self.start_ticks(),
            "status": "idle",
            "updatedAt": int(time.time() * 1000),
        }
        value |= changed
        value = {name: field for name, field in value.items() if field is not None}
        (sessions / f"{self.pid}.json").write_text(json.dumps(value))


def start_client(programs: Path, cwd: str, name: str = "claude") -> Client:
    """Starts a program called `name` that waits in `cwd`. End it with `kill`."""
    program = programs / name
    if not program.exists():
        sleep = shutil.which("sleep")
        assert sleep is not None
        shutil.copy(sleep, program)
    return Client(subprocess.Popen([str(program), "600"], cwd=cwd), os.path.realpath(cwd))
