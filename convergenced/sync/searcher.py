"""Searches for apparent secrets in a process beside the one that imports, where there is much to search.

One question is under way at a time: whoever asks the next takes the last answer first. A process that cannot
be started, or that ends, is done without: the search then takes place here. It inherits the priority of the
thread that starts it, and ends with the pipe it reads from.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple
from typing import IO

from convergenced.canon.secrets import Secret, find_secrets

Answer = Callable[[list[Secret]], object]

WORTHWHILE = 4 * 1024 * 1024
"""Bytes from which on a process costs less than it saves."""

_LENGTH = struct.Struct(">Q")


class Searcher:
    """Answers later: with the next question, or when it is closed."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._waiting: tuple[bytes, Answer] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: int | None = 0
        """Bytes so far; None once there is, or was, or cannot be a process."""

    def ask(self, data: bytes, answer: Answer) -> None:
        """Has `answer` called with what `find_secrets` finds in the data."""
        self.settle()
        self._start_when_worthwhile(len(data))
        if self._process is not None:
            try:
                _write(_stream(self._process.stdin), data)
            except OSError:
                self._end()
            else:
                self._waiting = data, answer
                return
        answer(find_secrets(data, self._salt))

    def close(self) -> None:
        """Gives the last answer and ends the process."""
        self.settle()
        self._end()

    def _start_when_worthwhile(self, size: int) -> None:
        if self._asked is None:
            return
        self._asked += size
        if self._asked < WORTHWHILE:
            return
        self._asked = None
        with suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "convergenced.sync.searcher", self._salt.hex()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )

    def settle(self) -> None:
        """Gives the answer that is not given yet."""
        if self._waiting is None:
            return
        (data, answer), self._waiting = self._waiting, None
        found: list[Secret] | None = None
        if self._process is not None:
            with suppress(OSError, ValueError, TypeError):
                found = [Secret(*fields) for fields in json.loads(_read(_stream(self._process.stdout)))]
        if found is None:
            self._end()
            found = find_secrets(data, self._salt)
        answer(found)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            for stream in (process.stdin, process.stdout):
                with suppress(OSError):
                    _stream(stream).close()
            process.kill()
            process.wait()


def serve(salt: bytes, source: IO[bytes], sink: IO[bytes]) -> None:
    """Answers until the source ends."""
    while data := _read(source):
        _write(sink, json.dumps([astuple(one) for one in find_secrets(data, salt)]).encode())


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _write(sink: IO[bytes], data: bytes) -> None:
    sink.write(_LENGTH.pack(len(data)))
    sink.write(data)
    sink.flush()


def _read(source: IO[bytes]) -> bytes:
    """The next message; empty where there is none, or only a part of one."""
    head = source.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return b""
    (length,) = _LENGTH.unpack(head)
    data = source.read(length)
    return data if len(data) == length else b""


if __name__ == "__main__":
    serve(bytes.fromhex(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
