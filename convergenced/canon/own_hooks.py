"""How a hook of ours in Claude Code's settings is told from everybody else's. Pure."""

from __future__ import annotations

NUDGE = "-m convergencectl.nudge"
"""What each command of ours runs, whichever interpreter it names."""


def is_own(command: object) -> bool:
    """Whether the `command` of a hook is one that `convergencectl hook install` wrote."""
    return isinstance(command, str) and NUDGE in command
