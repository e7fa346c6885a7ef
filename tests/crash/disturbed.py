"""`convergenced` with a line of shell that is run when a step is first reached, or with a wrong clock.

    disturbed.py at STEP COMMAND ARGUMENTS…
    disturbed.py clock SECONDS ARGUMENTS…

A program of its own, so that what is disturbed is a whole daemon: the seconds are added to what its wall
clock says.
"""

from __future__ import annotations

import subprocess
import sys

from convergenced import steps
from convergenced.__main__ import main
from convergenced.machine.clock import SystemClock


def _run_at(step: str, command: str) -> None:
    waiting = [command]

    def run(reached: str) -> None:
        if reached == step and waiting:
            subprocess.run(waiting.pop(), shell=True, check=True)

    steps.hook = run


def _shift(seconds: float) -> None:
    real = SystemClock.now

    def now(self: SystemClock) -> float:
        return real(self) + seconds

    SystemClock.now = now  # type: ignore[method-assign]


if __name__ == "__main__":
    how, one, other = sys.argv[1:4]
    if how == "at":
        _run_at(one, other)
        sys.exit(main(sys.argv[4:]))
    _shift(float(one))
    sys.exit(main(sys.argv[3:]))
