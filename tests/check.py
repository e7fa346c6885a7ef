"""Everything a change must pass: `python -m tests.check`. Lint, layers, types, then the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent

STEPS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("lint-imports",),
    ("mypy", "convergenced", "ctl", "tests"),
)

WORKERS = min(os.cpu_count() or 1, 7) + 1
"""Much of what the tests do is waiting for processes, so there is one more than there are cores."""

SIDE_BY_SIDE = ("-n", str(WORKERS), "--dist", "loadfile", "--no-loadscope-reorder")
"""File by file in the order they are found: the slow ones come first. `tests.conftest` says more."""


def main(arguments: list[str]) -> int:
    """Runs every step, stops at the first that fails; further arguments go to pytest."""
    programs = Path(sys.executable).parent
    for name, *rest in STEPS:
        words = [str(programs / name), *rest]
        print("+", name, *rest, flush=True)
        code = subprocess.run(words, cwd=TOP, check=False).returncode
        if code != 0:
            return code
    arguments = [*SIDE_BY_SIDE, *arguments]
    print("+ pytest", *arguments, flush=True)
    words = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(words, cwd=TOP, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
