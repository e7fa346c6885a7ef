"""Long text through the user's pager.

Promises: only a terminal is paged; a pager that is not there, or that ends early, is no error; whatever
happens, the pager has ended and the terminal is its own again before this returns.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace

from .render import Terminal

OTHERWISE = ("less", "more")
"""What is tried where PAGER is not set."""
LESS = "FRX"
"""What less is told where the user tells it nothing: text that fits is printed, colours are kept."""


def find_pager(environ: Mapping[str, str]) -> list[str]:
    """The command; empty where text is to be printed as it is."""
    wanted = environ.get("PAGER")
    if wanted is not None:
        with contextlib.suppress(ValueError):  # a quote that is never closed
            words = shlex.split(wanted)
            return words if words and words != ["cat"] and shutil.which(words[0]) else []
        return []
    return next(([name] for name in OTHERWISE if shutil.which(name)), [])


def readable(terminal: Terminal, environ: Mapping[str, str]) -> Terminal:
    """The terminal as seen through the pager: without colour where that would show colours as text."""
    words = find_pager(environ)
    if not words:
        return terminal
    obeys = os.path.basename(words[0]) == "less" and "R" in environ.get("LESS", LESS).upper()
    return terminal if obeys else replace(terminal, colour=False)


def page(lines: Iterable[str], terminal: Terminal, environ: Mapping[str, str]) -> None:
    """Shows the lines as they come. Raises what `lines` raises, once the pager has ended."""
    words = find_pager(environ) if terminal.interactive else []
    if not words:
        for line in lines:
            print(line)
        return
    sys.stdout.flush()
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        env={"LESS": LESS, **environ},
        encoding="utf-8",
        errors="backslashreplace",
    ) as pager:
        assert pager.stdin is not None
        # An interrupt is the pager's business: were we to end first, both would read the terminal.
        former = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with contextlib.suppress(BrokenPipeError), pager.stdin as text:
                for line in lines:
                    text.write(line + "\n")
        finally:
            pager.wait()
            signal.signal(signal.SIGINT, former)
