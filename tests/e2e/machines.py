"""Machines for end-to-end tests: a home, Claude's folders and a real daemon each, on one host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convergenced.canon.folder import encode_folder_name

PATIENCE = 60.0
"""Seconds that anything may take before a test gives up waiting."""
PAUSE = 0.05
DAEMON = (sys.executable, "-W", "error", "-m", "convergenced")

CONFIG = """\
[machine]
name = "{name}"
[ingest]
quiet = "100ms"
max_wait = "1s"
rescan = "10m"
[exchange]
interval = "{interval}"
{peers}
"""


def await_true(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Waits until the condition holds; fails naming what was waited for."""
    pause = threading.Event()
    for _ in range(int(seconds / PAUSE)):
        if condition():
            return
        pause.wait(PAUSE)
    raise AssertionError(f"waited {seconds} s in vain: {what}")


def git(*arguments: object) -> str:
    """Runs the ordinary git program and returns what it printed."""
    words = ["git", *map(str, arguments)]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def make_hub(path: Path) -> Path:
    """An empty bare repository."""
    git("init", "-q", "--bare", path)
    return path


def record(session: str, cwd: Path | str, number: int, text: str = "", **more: object) -> bytes:
    """A conversation record as the client writes it, with its LF."""
    fields = {
        "parentUuid": None,
        "isSidechain": False,
        "type": "user" if number % 2 == 0 else "assistant",
        "message": {"role": "user", "content": text or f"turn {number} in {cwd}/src/main.py"},
        "uuid": str(uuid.uuid5(uuid.UUID(session), f"{number}{text}")),
        "timestamp": f"2026-11-20T10:{number // 60 % 60:02d}:{number % 60:02d}.000Z",
        "cwd": str(cwd),
        "sessionId": session,
        **more,
    }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


@dataclass
class Machine:
    """One machine: everything of it lies below `top`."""

    top: Path
    name: str
    hubs: tuple[Path | str, ...] = ()
    interval: str = "1s"
    project_name: str = "src/proj"
    process: subprocess.Popen[bytes] | None = None
    extra: dict[str, str] = field(default_factory=dict)
    wrap: tuple[str, ...] = ()
    """The program that runs each program of this machine."""

    def __post_init__(self) -> None:
        self.projects.mkdir(parents=True)
        self.project.mkdir(parents=True)
        self.conv.mkdir(mode=0o700)
        self.configure()

    @property
    def home(self) -> Path:
        return self.top / "home"

    @property
    def conv(self) -> Path:
        return self.top / "conv"

    @property
    def store(self) -> Path:
        return self.conv / "store.git"

    @property
    def projects(self) -> Path:
        return self.home / ".claude" / "projects"

    @property
    def project(self) -> Path:
        return self.home / self.project_name

    @property
    def context(self) -> Path:
        return self.projects / encode_folder_name(str(self.project))

    @property
    def wrap_daemon(self) -> tuple[str, ...]:
        """The program that runs the daemon of this machine."""
        return self.wrap

    @property
    def environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "CONVERGENCE_HOME": str(self.conv),
            "LANG": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            # So that a coverage run counts what the daemons do.
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
            **self.extra,
        }

    def configure(self) -> None:
        """Writes config.toml from the attributes."""
        peers = "".join(
            f'[[peers]]\nname = "hub{number or ""}"\nurl = "{hub}"\n' for number, hub in enumerate(self.hubs)
        )
        text = CONFIG.format(name=self.name, interval=self.interval, peers=peers)
        (self.conv / "config.toml").write_text(text)
        (self.conv / "config.toml").chmod(0o600)

    def start(self) -> None:
        """Starts the daemon and waits until it is ready."""
        self.begin()
        await_true(self.is_ready, f"daemon of {self.name} to be ready: {self.log()}")

    def begin(self) -> None:
        """Starts the daemon."""
        log = (self.top / "daemon.log").open("ab")
        words = [*self.wrap_daemon, *DAEMON]
        self.process = subprocess.Popen(words, env=self.environ, stderr=log, stdin=subprocess.DEVNULL)
        log.close()

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        return self.ctl("status", "--json").returncode in (0, 5, 6) and bool(self.status()["daemon"]["pid"])

    def stop(self) -> int:
        """Ends the daemon in order and returns its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the daemon with SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        process, self.process = self.process, None
        self.signal_daemon(process, number)
        return process.wait(PATIENCE)

    def signal_daemon(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Sends a signal to the daemon that was started as this process."""
        process.send_signal(number)

    def log(self) -> str:
        path = self.top / "daemon.log"
        return path.read_text() if path.exists() else ""

    def ctl(self, *arguments: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Runs convergencectl on this machine."""
        return self._run([*self.wrap, sys.executable, "-m", "convergencectl", *arguments], timeout)

    def run_daemon(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs convergenced until it ends by itself."""
        return self._run([*self.wrap_daemon, *DAEMON, *arguments], PATIENCE)

    def _run(self, words: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def do(self, *arguments: str) -> str:
        """Runs convergencectl, which must succeed, and returns what it printed."""
        done = self.ctl(*arguments)
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr, self.log())
        return done.stdout

    def status(self) -> dict[str, Any]:
        found = self.ctl("status", "--json")
        answer: dict[str, Any] = json.loads(found.stdout)
        return answer

    def wait_synced(self) -> None:
        self.do("wait", "--for", "synced", "--timeout", str(PATIENCE))

    def write(self, relative: str, data: bytes) -> Path:
        """Writes a file of the context folder."""
        path = self.context / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def append(self, session: str, data: bytes) -> Path:
        """Appends to a transcript as the client does: one write of whole lines, closed at once."""
        self.context.mkdir(parents=True, exist_ok=True)
        path = self.context / f"{session}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)
        return path

    def files(self) -> dict[str, bytes]:
        """All files of the context folder."""
        return {
            str(path.relative_to(self.context)): path.read_bytes()
            for path in sorted(self.context.rglob("*"))
            if path.is_file()
        }

    def tip(self, project: str = "proj") -> str:
        return git("-C", self.store, "rev-parse", f"refs/heads/project/{project}").strip()


def stop_all(machines: Iterator[Machine] | list[Machine]) -> None:
    """Ends whatever daemons still run."""
    for machine in machines:
        machine.kill()
