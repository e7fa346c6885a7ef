"""The demo's stage: two machines in a temporary directory, each with a real daemon of its own.

Promise: whatever happens, the daemons are ended and the directory is removed, also on Ctrl-C and
SIGTERM; nothing outside the directory is read or written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, cast

from convergenced.canon.folder import encode_folder_name
from convergenced.errors import ConvergenceError, NoDaemonError, TimedOutError
from convergenced.machine.locations import Locations

from .client import Connection
from .launch import command
from .service import tail

if TYPE_CHECKING:
    from convergenced.control.protocol import Json

PATIENCE = 15.0
"""Seconds that any one step may take."""
ENDING = 5.0
_LOOK_EVERY = 0.02
REMOTE = "git@example.org:team/webshop.git"

_CONFIG = """\
[machine]
name = "{name}"
[projects]
roots = ["{roots}"]
[ingest]
quiet = "200ms"
max_wait = "1s"
[exchange]
interval = "1s"
[[peers]]
name = "hub"
url = "{hub}"
"""


@dataclass(slots=True)
class Machine:
    """One machine of the demo, with everything it has below `top`."""

    interrupts: Interrupts
    name: str
    top: Path
    home: Path
    project: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def context(self) -> Path:
        """Where Claude Code keeps the project's sessions on this machine."""
        return self.home / ".claude" / "projects" / encode_folder_name(str(self.project))

    @property
    def locations(self) -> Locations:
        """Where this machine's daemon keeps its files."""
        return Locations.from_environment(self._environ(), str(self.home))

    def call(self, method: str, params: dict[str, Json] | None = None) -> Json:
        """Asks this machine's daemon."""
        with Connection(self.locations.socket) as daemon:
            return daemon.call(method, params or {})

    def start(self) -> None:
        """Starts the daemon; `await_ready` waits for it."""
        with open(self.top / "daemon.log", "wb") as log, self.interrupts.put_off():
            self.process = subprocess.Popen(
                command(),
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                # A Ctrl-C in the terminal is for the demo, which then ends the daemons in order.
                start_new_session=True,
            )

    def await_ready(self) -> None:
        """Waits until the daemon answers. Raises `ConvergenceError` with its last words."""
        await_true(self._is_ready, f"the daemon of {self.name}")

    def _is_ready(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            words = tail(self.top / "daemon.log")
            raise ConvergenceError(f"the daemon of {self.name} ended with {self.process.returncode}", words)
        try:
            ping = self.call("ping")
        except NoDaemonError:
            return False
        return isinstance(ping, dict) and bool(ping["ready"])

    def _environ(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key in {"PATH", "LANG", "LC_ALL", "TZ"}}
        return {**kept, "HOME": str(self.home), "CONVERGENCE_HOME": str(self.top / "convergence")}

    def end(self) -> None:
        """Ends the daemon, in order if it can."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def append(self, session: str, *texts: tuple[str, str]) -> None:
        """Writes turns (role, text) into a transcript, as Claude Code does."""
        self.context.mkdir(parents=True, exist_ok=True)
        lines = b"".join(self._record(session, role, text) for role, text in texts)
        descriptor = os.open(self.context / f"{session}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, lines)
        finally:
            os.close(descriptor)

    def _record(self, session: str, role: str, text: str) -> bytes:
        record = {
            "parentUuid": None,
            "isSidechain": False,
            "type": role,
            "message": {"role": role, "content": text},
            "uuid": str(uuid.uuid4()),
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
            "cwd": str(self.project),
            "sessionId": session,
        }
        return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def turns(self, session: str) -> list[str]:
        """What was said in a session, as this machine has it."""
        try:
            data = (self.context / f"{session}.jsonl").read_bytes()
        except FileNotFoundError:
            return []
        return [cast("str", json.loads(line)["message"]["content"]) for line in data.split(b"\n") if line]

    def sessions(self) -> list[str]:
        """The sessions that `claude --resume` would list here."""
        return sorted(path.stem for path in self.context.glob("*.jsonl"))


def await_true(condition: Callable[[], object], what: str) -> None:
    """Waits until the condition holds. Raises `TimedOutError`."""
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() >= until:
            raise TimedOutError(f"{what} did not come within {PATIENCE:.0f} s", "is the machine very busy?")
        time.sleep(_LOOK_EVERY)


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[Path, Machine, Machine]]:
    """A hub and two machines that have the same code checked out at different places."""
    interrupts = Interrupts()
    with interrupts.handled(), contextlib.ExitStack() as stack:
        with interrupts.put_off():
            top = Path(tempfile.mkdtemp(prefix="convergence-demo-")).resolve()
            machines = [
                _machine(interrupts, top / "desktop", "home/ann", "src/webshop"),
                _machine(interrupts, top / "laptop", "Users/ann", "code/webshop"),
            ]
            stack.callback(_put_away, interrupts, top, machines)
        _set_up(top, machines)
        yield top, machines[0], machines[1]


def _put_away(interrupts: Interrupts, top: Path, machines: list[Machine]) -> None:
    with interrupts.put_off():
        for machine in machines:
            machine.end()
        shutil.rmtree(top, ignore_errors=True)


def _machine(interrupts: Interrupts, top: Path, home: str, project: str) -> Machine:
    return Machine(interrupts, top.name, top, top / home, top / home / project)


def _set_up(top: Path, machines: list[Machine]) -> None:
    import pygit2  # 60 ms that no other command needs

    hub = top / "hub.git"
    pygit2.init_repository(str(hub), bare=True)
    for machine in machines:
        machine.project.mkdir(parents=True)
        pygit2.init_repository(str(machine.project)).remotes.create("origin", REMOTE)
        (machine.home / ".claude" / "projects").mkdir(parents=True)
        config = machine.locations.config_file
        os.makedirs(os.path.dirname(config), mode=0o700)
        text = _CONFIG.format(name=machine.name, hub=hub, roots=machine.project.parent)
        Path(config).write_text(text, encoding="utf-8")


class Interrupts:
    """SIGINT, SIGTERM and SIGHUP as KeyboardInterrupt, but never in the middle of starting or ending."""

    def __init__(self) -> None:
        self._put_off = 0
        self._came = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handles the signals inside the block."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        former = {number: signal.signal(number, self._interrupt) for number in numbers}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def put_off(self) -> Iterator[None]:
        """Lets an interrupt wait until the block is done."""
        self._put_off += 1
        try:
            yield
        finally:
            self._put_off -= 1
        if self._came and not self._put_off:
            self._came = False
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._put_off:
            raise KeyboardInterrupt
        self._came = True
