"""The real Claude Code client, offline: a pinned version from npm and a scripted Messages API on loopback.

The scripts and the API come from the harness that lies beside the project; it is used from a copy.
Nothing of the client's own text is looked at: only ids, paths, and what the scripts made it say.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.e2e.machines import PATIENCE, Machine, await_true

VERSION = "2.1.329"
HARNESS = Path(__file__).resolve().parents[3] / "shared" / "lab"
INSTALL_PATIENCE = 120.0
MAX_STARTS = 3
"""How often a port is looked for: another process may take a free one first."""

CLIENT = """
. "$LAB/harness/env.sh"
home=$1; shift
exec $(cc_env "$home" CLAUDE_CODE_TMPDIR="$LAB/scratch") "$CLAUDE" --dangerously-skip-permissions "$@"
"""
"""Becomes the client, in the harness's clean environment: the process started is the client itself."""

WAIT_AT_GATE = [
    [{"type": "tool_use", "name": "Bash", "input": {"command": "cat {{CWD}}/gate", "description": "wait"}}],
    [{"type": "text", "text": "The gate of {{CWD}} was opened."}],
]
"""A script whose tool call lasts until the test lets it through."""

PRINT_MUCH = [
    [{"type": "tool_use", "name": "Bash", "input": {"command": "seq -f '{{CWD}}/file-%g' 4000"}}],
    [{"type": "text", "text": "Much was printed in {{CWD}}."}],
]
"""A script whose tool result is too big for a transcript."""


class UnavailableError(Exception):
    """The client or what it needs cannot be had here."""


def install_client() -> Path:
    """The folder with the pinned client, installed through npm where an earlier run did not.

    Raises `UnavailableError`.
    """
    if not HARNESS.is_dir():
        raise UnavailableError("the offline harness is not beside the project")
    if shutil.which("npm") is None:
        raise UnavailableError("npm is not installed")
    cache = Path(tempfile.gettempdir()) / f"convergence-tests-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    found = cache.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UnavailableError(f"{cache} belongs to someone else")
    installed = cache / f"client-{VERSION}"
    if not installed.exists():
        with tempfile.TemporaryDirectory(dir=cache) as made:
            _run_setup(Path(made))
            try:
                (Path(made) / "client").rename(installed)
            except OSError:
                assert installed.exists()  # another run was faster
    return installed


def _run_setup(lab: Path) -> None:
    environ = {
        **os.environ,
        "LAB": str(lab),
        "npm_config_cache": str(lab / "npm"),
        "npm_config_fetch_retries": "1",
        "npm_config_fetch_retry_mintimeout": "1000",
    }
    words = ["bash", str(HARNESS / "setup.sh"), VERSION]
    setup = subprocess.Popen(
        words,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = setup.communicate(timeout=INSTALL_PATIENCE)
    except subprocess.TimeoutExpired as error:
        os.killpg(setup.pid, signal.SIGKILL)
        setup.communicate()
        raise UnavailableError(f"npm did not bring the client in {INSTALL_PATIENCE} s") from error
    if setup.returncode != 0 or f"{VERSION} " not in printed:
        lines = [line.strip() for line in printed.splitlines() if line.strip()]
        told = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no word")
        raise UnavailableError(f"npm cannot bring client {VERSION}: {told}")


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the client for the model's next turn."""

    session: str
    body: dict[str, Any]

    @property
    def blocks(self) -> list[tuple[str, dict[str, Any]]]:
        """Role and content block, in order."""
        found: list[tuple[str, dict[str, Any]]] = []
        for message in self.body["messages"]:
            content = message["content"]
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            found.extend((message["role"], block) for block in blocks)
        return found

    @property
    def conversation(self) -> list[tuple[str, str]]:
        """What was said and done, block by block, without what the client tells of its surroundings."""
        return [
            (role, json.dumps({**block, "cache_control": None}, ensure_ascii=False, sort_keys=True))
            for role, block in self.blocks
            if role != "system" and not block.get("text", "").startswith("<system-reminder>")
        ]

    @property
    def signed(self) -> list[str]:
        """The signed thinking, which nobody may touch."""
        return [block["thinking"] for _, block in self.blocks if block.get("signature")]

    @property
    def unsigned(self) -> str:
        """All of the request but the signed thinking."""
        messages = [block for _, block in self.blocks if not block.get("signature")]
        return json.dumps({**self.body, "messages": messages}, ensure_ascii=False)


class Gate:
    """Holds a client in its tool call until it is opened: a FIFO that the tool call reads to its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: int | None = None
        os.mkfifo(path)

    def await_client(self) -> None:
        """Waits until the client's tool call stands at the gate."""
        await_true(self._has_reader, "the client to come to the gate")

    def _has_reader(self) -> bool:
        try:
            self._writer = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            return False
        return True

    def open(self) -> None:
        """Lets the tool call end, whether or not it was waited for."""
        writer = os.open(self._path, os.O_RDWR | os.O_NONBLOCK) if self._writer is None else self._writer
        os.close(writer)
        self._writer = None


class Lab:
    """A scripted API that runs, and clients of it."""

    def __init__(self, top: Path, client: Path) -> None:
        self.top = top
        self._logs, self._scripts = top / "logs", top / "scripts"
        for folder in (self._logs, self._scripts, top / "harness", top / "scratch"):
            folder.mkdir(parents=True)
        for name in ("env.sh", "mock_api.py"):
            shutil.copyfile(HARNESS / name, top / "harness" / name)
        for path in (HARNESS / "scenarios").glob("*.json"):
            shutil.copyfile(path, self._scripts / path.name)
        (self._scripts / "gate.json").write_text(json.dumps(WAIT_AT_GATE))
        (self._scripts / "big.json").write_text(json.dumps(PRINT_MUCH))
        (top / "client").symlink_to(client)
        self._clients: list[subprocess.Popen[str]] = []
        self._gates: list[Gate] = []
        self._api, self._port = self._start_api()

    def _start_api(self) -> tuple[subprocess.Popen[bytes], int]:
        for _ in range(MAX_STARTS):
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            program, log = self.top / "harness" / "mock_api.py", (self.top / "api.log").open("ab")
            words = [sys.executable, str(program), str(port), str(self._logs), str(self._scripts)]
            api = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            log.close()
            await_true(partial(_has_settled, api, port), "the scripted API to answer, or to end")
            if api.poll() is None:
                return api, port
        raise AssertionError(f"the scripted API does not start: {(self.top / 'api.log').read_text()}")

    def close(self) -> None:
        """Ends whatever still runs."""
        for client in self._clients:
            if client.poll() is None:
                client.kill()
            client.communicate()
        for gate in self._gates:
            gate.open()
        self._api.kill()
        self._api.wait()

    def set_gate(self, machine: Machine) -> Gate:
        """Where the machine's client will wait when the script `gate` is played."""
        self._gates.append(Gate(machine.project / "gate"))
        return self._gates[-1]

    def start(self, machine: Machine, *arguments: str) -> subprocess.Popen[str]:
        """Starts the client in the machine's project; what it prints is JSON."""
        words = ["bash", "-euc", CLIENT, "client", str(machine.home), *arguments, "--output-format", "json"]
        client = subprocess.Popen(
            words,
            cwd=machine.project,
            env={"PATH": os.environ["PATH"], "LAB": str(self.top), "PORT": str(self._port)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._clients.append(client)
        return client

    def finish(self, client: subprocess.Popen[str]) -> str:
        """Waits until the client ended well; the session it worked in."""
        printed, complaint = client.communicate(timeout=PATIENCE)
        assert client.returncode == 0, (printed, complaint)
        answer = json.loads(printed)
        assert not answer["is_error"], printed
        return str(answer["session_id"])

    def run(self, machine: Machine, *arguments: str) -> tuple[str, Request]:
        """Runs the client to its end: the session it worked in, and its last request."""
        known = {path.name for path in self._logs.iterdir()}
        session = self.finish(self.start(machine, *arguments))
        made = sorted(path for path in self._logs.glob("*-msg.json") if path.name not in known)
        requests = [_read_request(path) for path in made]
        return session, next(request for request in reversed(requests) if request.session == session)


def _has_settled(api: subprocess.Popen[bytes], port: int) -> bool:
    if api.poll() is not None:
        return True
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


def _read_request(path: Path) -> Request:
    logged = json.loads(path.read_text(encoding="utf-8"))
    headers = {name.lower(): value for name, value in logged["headers"].items()}
    return Request(headers["x-claude-code-session-id"], logged["body"])
