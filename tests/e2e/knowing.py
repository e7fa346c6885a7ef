"""Machines that share what they know, each with processes of its own.

Nothing is written beneath a running Claude Code, wherever on the machine it runs. So that the clients of
other tests hold nobody here, each machine's daemon runs in a pid namespace of its own where the kernel
allows that; `Knower.run_client` starts a client in there.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from convergenced import steps
from convergenced.control.protocol import Json
from convergenced.machine.locations import Locations
from ctl.client import Connection
from tests.clients import start_client
from tests.e2e.machines import DAEMON, PATIENCE, Machine, await_true, git, make_hub

URL = "git@example.org:team/proj.git"
REF = "refs/heads/knowledge"
MAX_ROUNDS = 10
NO_MORE: Mapping[str, str] = {}

HOUSE = "# Rules\n\n## House\n\n" + "".join(f"- Rule {number}.\n" for number in range(30))
"""So much that a section more or less is no large change."""
STYLE, SPACES = "\n## Style\n\nTabs.\n", "\n## Style\n\nSpaces.\n"
TESTS, REVIEW = "\n## Tests\n\nRun HOME/bin/pytest.\n", "\n## Review\n\nTwo people.\n"
DEPLOY, AT_NOON = "\n## Deploy\n\nOn Mondays.\n", "\n## Deploy\n\nAt noon.\n"

DESKTOP, LAPTOP = HOUSE + STYLE + TESTS, HOUSE + SPACES + DEPLOY
"""What two machines start with: three sections each, and one contradiction."""
UNION = HOUSE + STYLE + "Spaces.\n" + TESTS + AT_NOON
"""What a model makes of it, with one invention."""
DIFFER, INVENTED = ("Tabs.", "tabs or spaces"), ("At noon.", "deploys are at noon")
MARKED = UNION.replace("Tabs.\n", "Tabs.\n<!-- CONFLICT: tabs or spaces — resolve manually -->\n").replace(
    "noon.\n", "noon.\n<!-- UNVERIFIED: deploys are at noon -->\n"
)


@cache
def _apart() -> tuple[str, ...] | None:
    """What runs a program as the first of a new pid namespace; None where that cannot be had."""
    user = () if os.getuid() == 0 else ("--user", "--map-current-user")
    words = ("unshare", *user, "--pid", "--fork", "--kill-child", "--mount-proc")
    with suppress(OSError):
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
            return words
    return None


@dataclass
class Knower(Machine):
    """A machine with `[knowledge]` in its config.toml."""

    knowledge: dict[str, str | float] = field(default_factory=lambda: {"enabled": True})
    more: str = ""
    """Further lines of config.toml."""
    _space: psutil.Process | None = None
    _clients: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (words := _apart()) is not None:
            self._make_space(words)

    def _make_space(self, words: tuple[str, ...]) -> None:
        keeper = subprocess.Popen(
            [*words, "sleep", "infinity"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._clients.append(keeper)
        above = psutil.Process(keeper.pid)
        await_true(above.children, "the namespace to be there")
        (self._space,) = above.children()
        await_true(lambda: self._space is not None and self._space.name() == "sleep", "it to be complete")

    @property
    def claude_md(self) -> Path:
        return self.home / ".claude" / "CLAUDE.md"

    @property
    def settings(self) -> Path:
        return self.home / ".claude" / "settings.json"

    @property
    def _inside(self) -> tuple[str, ...]:
        if self._space is None:
            return ()
        user = () if os.getuid() == 0 else ("--user", "--preserve-credentials")
        return ("nsenter", "--target", str(self._space.pid), *user, "--pid")

    @property
    def wrap_daemon(self) -> tuple[str, ...]:
        return (*self._inside, "--mount", "--") if self._inside else ()

    def signal_daemon(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        if self._space is None:
            super().signal_daemon(process, number)
            return
        for daemon in psutil.Process(process.pid).children():
            daemon.send_signal(number)

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(self._socket) == 0

    @property
    def _socket(self) -> str:
        return Locations.from_environment(self.environ, str(self.home)).socket

    def configure(self) -> None:
        super().configure()
        shared = "".join(f"{name} = {json.dumps(value)}\n" for name, value in self.knowledge.items())
        with (self.conv / "config.toml").open("a") as file:
            file.write(f"[knowledge]\n{shared}{self.more}")

    def run_client(self) -> psutil.Process:
        """A program called `claude` on this machine, in no project; it ends when it is killed."""
        folder = self.top / "elsewhere"
        folder.mkdir(exist_ok=True)
        if self._space is None:
            return psutil.Process(start_client(folder, str(folder)).pid)
        other = start_client(folder, str(folder))  # makes the program
        other.kill()
        words = [*self._inside, "--", str(folder / "claude"), "600"]
        above = subprocess.Popen(words, cwd=folder, stdin=subprocess.DEVNULL)
        self._clients.append(above)
        process = psutil.Process(above.pid)
        await_true(lambda: [one for one in process.children() if one.name() == "claude"], "a client to run")
        return process.children()[0]

    def die_at(self, step: str) -> None:
        """Runs the daemon until it is killed at that step."""
        self.extra[steps.VARIABLE] = step
        with (self.top / "daemon.log").open("ab") as log:
            words = [*self.wrap_daemon, *DAEMON]
            daemon = subprocess.Popen(words, env=self.environ, stderr=log, stdin=subprocess.DEVNULL)
        try:
            assert daemon.wait(PATIENCE) in (-signal.SIGKILL, 128 + signal.SIGKILL), self.log()
        finally:
            del self.extra[steps.VARIABLE]

    def close(self) -> None:
        """Ends whatever still runs here."""
        self.kill()
        for process in self._clients:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()

    # -- asking

    def told(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """What `convergencectl … --json` answers; it must end with that code."""
        done = self.ctl(*arguments, "--json")
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr, self.log())
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def call(self, method: str, **params: Json) -> Any:
        """What the daemon answers on its socket, without the start of a program."""
        with Connection(self._socket) as daemon:
            return daemon.call(method, params, timeout=PATIENCE)

    def sync(self) -> None:
        """Takes in what the peers have, and shares what is here."""
        unsynced = self.call("sync", wait=True)["unsynced"]
        assert unsynced == [], (unsynced, self.log())

    def changes(self) -> list[dict[str, Any]]:
        """What `knowledge diff` shows."""
        found: list[dict[str, Any]] = self.call("knowledge_diff")["changes"]
        return found

    def synthesize(self, *options: str, code: int = 0) -> list[dict[str, Any]]:
        """What became of the scopes that were due."""
        done = self.told("knowledge", "synthesize", "--wait", *options, code=code)["done"]
        assert isinstance(done, list)
        return done

    def document(self, scope: str = "global", path: str = "CLAUDE.md") -> dict[str, Any]:
        """How a document stands here, as `knowledge status` says."""
        return next(
            one
            for found in self.call("knowledge_status")["scopes"]
            for one in found["documents"]
            if (one["scope"], one["path"]) == (scope, path)
        )

    def await_text(self, path: Path, text: str) -> None:
        """Waits until a file holds exactly that."""
        await_true(lambda: read(path) == text, f"{path} to be\n{text}\nit is\n{read(path)}\n{self.log()}")

    def of_home(self, text: str) -> str:
        """A text with this machine's home for `HOME`."""
        return text.replace("HOME", str(self.home))


def canonical(text: str) -> str:
    """A text with `HOME` in it as the branch has it, and as a model sees and writes it."""
    return text.replace("HOME", "{{CC_HOME}}")


def read(path: Path) -> str | None:
    """A file's text; None where there is none."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def write(path: Path, text: str) -> None:
    """Writes a file as an editor does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def check_out(place: Path, url: str = URL) -> Path:
    """A repository of that code."""
    place.mkdir(parents=True, exist_ok=True)
    git("init", "-q", place)
    git("-C", place, "remote", "add", "origin", url)
    return place


def files_below(top: Path) -> dict[str, bytes]:
    """Every file, by its path."""
    return {
        str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()
    }


def tip_of(repository: Path) -> str:
    """The commit of shared knowledge there; empty for none."""
    return git("-C", repository, "for-each-ref", "--format=%(objectname)", REF).strip()


def all_objects(repository: Path) -> bytes:
    """The content of every object, reachable or not."""
    words = ["git", "-C", str(repository), "cat-file", "--batch-all-objects", "--batch"]
    return subprocess.run(words, check=True, capture_output=True).stdout


@contextmanager
def machines(
    top: Path, *names: str, extra: Mapping[str, str] = NO_MORE, **knowledge: str | float
) -> Iterator[list[Knower]]:
    """Machines of one user with a hub in common, not started yet; `knowledge` is in all their settings."""
    hub = make_hub(top / "hub.git")
    made: list[Knower] = []
    try:
        for name in names:
            wanted = {"enabled": True, **knowledge}
            made.append(Knower(top / name, name, (hub,), extra=dict(extra), knowledge=wanted))
        yield made
    finally:
        for machine in made:
            machine.close()


def start(*them: Knower) -> None:
    """Starts all daemons."""
    for machine in them:
        machine.begin()
    for machine in them:
        await_true(machine.is_ready, f"daemon of {machine.name} to be ready")


def settle(*them: Knower) -> None:
    """Lets machines exchange until each has what the others had, and has done with it what it may."""
    for _ in range(MAX_ROUNDS):
        for machine in them:
            machine.sync()
        if len({tip_of(machine.store) for machine in them}) == 1:
            return
    raise AssertionError(f"they do not end with the same: {[machine.log() for machine in them]}")
