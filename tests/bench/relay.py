"""An ssh that counts: runs the ssh program and adds up the bytes on their way through it.

Imports little, as git waits for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import IO

COUNTS = "CONVERGENCE_BENCH_WIRE"
"""The variable that names the file in which each run leaves a line: bytes to the peer, bytes from it."""

CHUNK = 1 << 16


def main() -> int:
    """Runs ssh with the arguments given to this program; returns its exit code."""
    counts = [0, 0]
    with subprocess.Popen(["ssh", *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ssh:
        assert ssh.stdin is not None
        assert ssh.stdout is not None
        there = threading.Thread(target=_pass_on, args=(0, ssh.stdin, counts, 0), daemon=True)
        there.start()
        _pass_on(ssh.stdout.fileno(), None, counts, 1)
        code = ssh.wait()
        there.join(1)
    with open(os.environ[COUNTS], "a", encoding="ascii") as stream:
        stream.write(f"{counts[0]} {counts[1]}\n")
    return code


def _pass_on(source: int, target: IO[bytes] | None, counts: list[int], direction: int) -> None:
    while chunk := os.read(source, CHUNK):
        counts[direction] += len(chunk)
        if target is None:
            os.write(1, chunk)
            continue
        try:
            target.write(chunk)
            target.flush()
        except BrokenPipeError:
            return
    if target is not None:
        target.close()
