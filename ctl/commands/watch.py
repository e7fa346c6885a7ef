"""`watch`: the status, live, with what just happened.

Promises that the terminal is as it was on every way out: Ctrl-C, SIGTERM, SIGHUP, an error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import cast

from convergenced.control.answers import Status
from convergenced.errors import ConvergenceError

from .. import verdict
from ..activity import Follower, describe, read
from ..arguments import Parser, example
from ..here import connect
from ..render import Terminal, clip

REDRAW_EVERY = 1.0
"""Seconds between two looks at the daemon."""
_RECENT = 8
_STATUS_TIMEOUT = 10.0


def configure(parser: Parser) -> None:
    """Help; there are no arguments."""
    parser.description = (
        "The status, live, with what just happened. Ctrl-C ends it.\n"
        "Into a pipe it prints the verdict whenever it changes, and what was done."
    )
    parser.epilog = example("convergencectl watch")


def run(args: argparse.Namespace) -> int:
    """Runs until interrupted. Raises `NoDaemonError` where none runs at the start."""
    _status()
    with _ending_signals():
        if Terminal.of(sys.stdout, os.environ).interactive:
            _on_terminal()
        else:
            _into_pipe()
    return 0


def _status() -> Status:
    with connect() as daemon:
        return cast("Status", daemon.call("status", timeout=_STATUS_TIMEOUT))


def _on_terminal() -> None:
    with _alternate_screen():
        while True:
            terminal = Terminal.of(sys.stdout, os.environ)
            rows = shutil.get_terminal_size().lines
            sys.stdout.write(frame(_screen(terminal, rows), rows))
            sys.stdout.flush()
            time.sleep(REDRAW_EVERY)


def frame(lines: list[str], rows: int) -> str:
    """What draws `lines` over the last frame: each row is erased before it is written.

    Erasing after a line that fills its row would take its last character away.
    """
    return "\x1b[H" + "".join(f"\x1b[2K{line}\n" for line in lines[: rows - 1]) + "\x1b[J"


def _screen(terminal: Terminal, rows: int) -> list[str]:
    now = time.time()
    try:
        lines = verdict.lines(_status(), terminal, now)
    except ConvergenceError as error:
        lines = [terminal.style(clip(error.summary, terminal.width), "bold", "red"), error.hint]
    room = max(0, min(_RECENT, rows - len(lines) - 3))
    recent = [line for one in read(room) for line in describe(one, terminal, now)] if room else []
    return [*lines, "", terminal.style("just now", "dim"), *recent[-room:]] if recent else lines


def _into_pipe() -> None:
    follower, said = Follower(), ""
    terminal = Terminal.of(sys.stdout, os.environ)
    while True:
        now = time.time()
        try:
            line = verdict.verdict(_status(), now)
        except ConvergenceError as error:
            line = error.summary
        if line != said:
            print(line)
            said = line
        for one in follower.fresh():
            print("\n".join(describe(one, terminal, now)))
        sys.stdout.flush()
        time.sleep(REDRAW_EVERY)


@contextlib.contextmanager
def _alternate_screen() -> Iterator[None]:
    # No cursor, and no automatic wrap: a line that is too long must not push the others away.
    sys.stdout.write("\x1b[?1049h\x1b[?25l\x1b[?7l")
    try:
        yield
    finally:
        sys.stdout.write("\x1b[?7h\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


@contextlib.contextmanager
def _ending_signals() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end the command the way Ctrl-C does."""

    def end(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {one: signal.signal(one, end) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
