"""Everything a change must pass: `python -m tests.check`. Lint, layers, types, then the tests."""

from __future__ import annotations

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


def main(arguments: list[str]) -> int:
    """Runs every step, stops at the first that fails; further arguments go to pytest."""
    programs = Path(sys.executable).parent
    for name, *rest in STEPS:
        words = [str(programs / name), *rest]
        print("+", name, *rest, flush=True)
        code = subprocess.run(words, cwd=TOP, check=False).returncode
        if code != 0:
            return code
    print("+ pytest", *arguments, flush=True)
    words = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(words, cwd=TOP, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
