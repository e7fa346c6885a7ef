"""Running `convergencectl` as a person does: a process of its own, on a pipe or on a terminal."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 30.0
PROGRAM = [sys.executable, "-m", "convergencectl"]


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


def run(home: Path, *arguments: str, stdin: str = "", environ: Mapping[str, str] | None = None) -> Done:
    """The command on pipes."""
    done = subprocess.run(
        [*PROGRAM, *arguments],
        input=stdin,
        env=environment(home) | dict(environ or {}),
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def environment(home: Path) -> dict[str, str]:
    """An environment whose every place is below `home`."""
    return {
        "CONVERGENCE_HOME": str(home),
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / "claude"),
        "PATH": os.environ.get("PATH", os.defpath),
        "TZ": "UTC",
        "LANG": "C.UTF-8",
        # So that a coverage run counts what the commands do.
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
    }


@dataclass
class OnTerminal:
    """The command on a terminal of its own, `rows` by `columns`."""

    process: subprocess.Popen[bytes]
    master: int
    seen: bytearray = field(default_factory=bytearray)

    @classmethod
    def start(
        cls,
        home: Path,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        columns: int = 100,
        rows: int = 30,
    ) -> OnTerminal:
        variables = environment(home) | {"TERM": "xterm"} | dict(environ or {})
        return cls._begin([*PROGRAM, *arguments], variables, home.parent, columns, rows)

    @classmethod
    def start_shell(
        cls, command: str, environ: Mapping[str, str], cwd: Path, columns: int = 100
    ) -> OnTerminal:
        """A command line of a shell's, with exactly that environment."""
        return cls._begin(["bash", "-c", command], environ, cwd, columns, 30)

    @classmethod
    def _begin(
        cls, words: list[str], environ: Mapping[str, str], cwd: Path, columns: int, rows: int
    ) -> OnTerminal:
        master, slave = pty.openpty()
        import fcntl
        import struct
        import termios

        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        process = subprocess.Popen(
            words,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ,
            cwd=cwd,
            start_new_session=True,
        )
        os.close(slave)
        return cls(process, master)

    def read_until(self, wanted: str) -> str:
        """What was written so far, once it holds `wanted`."""
        until = time.monotonic() + PATIENCE
        while wanted.encode() not in self.seen:
            assert time.monotonic() < until, f"{wanted!r} did not come: {bytes(self.seen)!r}"
            assert self._read(), f"{wanted!r} did not come before the end: {bytes(self.seen)!r}"
        return self.seen.decode("utf-8", "replace")

    def resize(self, rows: int, columns: int) -> None:
        """As a person who drags the window's corner."""
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self, signal_number: signal.Signals | None = None) -> tuple[int, str]:
        """Sends the signal, if any, and waits for the end: exit code and all that was written."""
        if signal_number is not None:
            self.process.send_signal(signal_number)
        while self._read():
            pass
        code = self.process.wait(PATIENCE)
        os.close(self.master)
        return code, self.seen.decode("utf-8", "replace")

    def _read(self) -> bool:
        ready, _, _ = select.select([self.master], [], [], PATIENCE)
        assert ready, f"nothing more came: {bytes(self.seen)!r}"
        try:
            chunk = os.read(self.master, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            return False
        self.seen += chunk
        return bool(chunk)


def fake_program(folder: Path, name: str, script: str) -> Path:
    """An executable `name` in `folder` that runs a shell script."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!{shutil.which('sh')}\n{script}\n")
    path.chmod(0o755)
    return path


def python(
    home: Path, code: str, arguments: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Done:
    """A Python process in the command's environment, from the top of the source tree."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(home) | dict(environ or {}),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)
