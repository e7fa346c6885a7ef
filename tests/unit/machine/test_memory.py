"""What the C library is told of memory."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from convergenced.machine import memory

FREED = """
import sys
from convergenced.machine.memory import give_back, use_one_arena
def kilobytes():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])
use_one_arena()
kept, freed = [], []
for _ in range(4_000):  # too small to be mapped alone, too large for Python's own allocator
    freed.append(bytes(40_000))
    kept.append(bytes(600))
del freed
before = kilobytes()
give_back()
print(before - kilobytes())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_what_was_freed_between_what_is_kept_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 10_000


def test_a_c_library_that_does_not_know_the_calls_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    memory.use_one_arena()
    memory.give_back()
