"""What `convergencectl -h` prints: the commands, those that belong together side by side."""

from __future__ import annotations

import os
import sys
import textwrap

from .commands import COMMANDS

GROUPS: dict[str, tuple[str, ...]] = {
    "run and look": ("up", "down", "status", "watch", "log"),
    "sync": ("sync", "wait", "pause", "resume"),
    "projects and peers": ("projects", "project", "init", "join", "peers", "peer"),
    "sessions": ("sessions", "session", "conflicts", "conflict"),
    "knowledge": ("knowledge",),
    "check": ("doctor", "scan"),
    "set up": ("config", "service", "hook", "completion"),
    "else": ("version", "demo"),
}
EXIT_CODES = (
    "exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 no daemon runs, 4 a peer refused us, "
    "5 something needs you, 6 degraded, 7 timed out, 130 interrupted"
)
_WIDEST = 100
_NARROWEST = 40


def overview(program: str) -> str:
    """All of it, at the width of the terminal."""
    wide = max(map(len, COMMANDS)) + 4
    room = min(max(_columns(), _NARROWEST), _WIDEST)
    lines: list[str] = []
    for title, names in GROUPS.items():
        lines += ["", f"{title}:"]
        for name in names:
            if name in COMMANDS:
                summary = textwrap.wrap(COMMANDS[name].summary, room - wide)
                lines.append(f"  {name:<{wide - 2}}{summary[0]}")
                lines += [" " * wide + line for line in summary[1:]]
    return (
        f"usage: {program} COMMAND [ARGUMENT …]\n\n"
        + "\n".join(
            textwrap.wrap("Keeps Claude Code sessions and memory in step across your machines.", room)
        )
        + "\n"
        + "\n".join(lines)
        + "\n\nexample:\n"
        + f"  {program} up --peer git@github.com:you/context.git\n\n"
        + "\n".join(textwrap.wrap(EXIT_CODES, room))
        + "\n\n"
        + f"`{program} COMMAND -h` says more about one of them.\n"
    )


def _columns() -> int:
    """The terminal's width. What `shutil` has for it takes longer to import than all of this."""
    told = os.environ.get("COLUMNS", "")
    if told.isascii() and told.isdigit() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _WIDEST
    except (OSError, ValueError, AttributeError):
        return _WIDEST
