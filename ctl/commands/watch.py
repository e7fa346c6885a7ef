"""`watch`: the status, live, with what just happened.

Promises that the terminal is as it was on every way out: Ctrl-C, Ctrl-Z, SIGTERM, SIGHUP, an error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import cast

from convergenced.control.answers import Status
from convergenced.errors import ConvergenceError

from .. import verdict
from ..activity import Follower, describe, read
from ..arguments import Parser, example
from ..gauge import Gauge
from ..here import connect
from ..render import Terminal, clip

REDRAW_EVERY = 1.0
"""Seconds between two looks at the daemon."""
COUNT_EVERY = 10.0
"""Seconds between two lines in a pipe that differ in numbers alone."""
_NUMBER = re.compile(r"[\d,.]+")
_RECENT = 8
_STATUS_TIMEOUT = 10.0


def configure(parser: Parser) -> None:
    """Help; there are no arguments."""
    parser.description = (
        "The status, live, with what just happened and how far long work is. Ctrl-C ends it.\n"
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
    gauge = Gauge()
    with _alternate_screen() as redraw:
        while True:
            redraw.clear()
            terminal = Terminal.of(sys.stdout, os.environ)
            rows = shutil.get_terminal_size().lines
            sys.stdout.write(frame(_screen(terminal, rows, gauge), rows))
            sys.stdout.flush()
            redraw.wait(REDRAW_EVERY)


def frame(lines: list[str], rows: int) -> str:
    """What draws `lines` over the last frame: each row is erased before it is written.

    Erasing after a line that fills its row would take its last character away.
    """
    return "\x1b[H" + "".join(f"\x1b[2K{line}\n" for line in lines[: rows - 1]) + "\x1b[J"


def _screen(terminal: Terminal, rows: int, gauge: Gauge) -> list[str]:
    now = time.time()
    try:
        status = _status()
        lines = with_gauge(verdict.lines(status, terminal, now), gauge.lines(status, terminal, now))
    except ConvergenceError as error:
        lines = [terminal.style(clip(error.summary, terminal.width), "bold", "red"), error.hint]
    room = max(0, min(_RECENT, rows - len(lines) - 3))
    recent = [line for one in read(room) for line in describe(one, terminal, now)] if room else []
    if recent:
        return [*lines, "", terminal.style("just now", "dim"), *recent[-room:]]
    return cut(lines, rows - 1, terminal)


def with_gauge(lines: list[str], gauges: list[str]) -> list[str]:
    """The status with how far long work is, right below the verdict."""
    if not gauges:
        return lines
    end = lines.index("") if "" in lines else len(lines)
    return [*lines[:end], "", *gauges, *lines[end:]]


def cut(lines: list[str], room: int, terminal: Terminal) -> list[str]:
    """What fits, with a word of what does not."""
    if len(lines) <= room:
        return lines
    more = clip(f"… {len(lines) - room + 1} more lines: convergencectl status", terminal.width)
    return [*lines[: room - 1], terminal.style(more, "dim")]


def _into_pipe() -> None:
    follower, said, said_at = Follower(), "", 0.0
    terminal = Terminal.of(sys.stdout, os.environ)
    while True:
        now = time.time()
        try:
            line = verdict.verdict(_status(), now)
        except ConvergenceError as error:
            line = error.summary
        if line != said and (now - said_at >= COUNT_EVERY or _NUMBER.sub("", line) != _NUMBER.sub("", said)):
            print(line)
            said, said_at = line, now
        for one in follower.fresh():
            print("\n".join(describe(one, terminal, now)))
        sys.stdout.flush()
        time.sleep(REDRAW_EVERY)


@contextlib.contextmanager
def _alternate_screen() -> Iterator[threading.Event]:
    """Another screen than the shell's; the event tells that it has to be drawn anew."""
    redraw = threading.Event()

    def suspend(_: int, __: FrameType | None) -> None:
        _write(_LEAVE)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here it goes on once it was continued.
        signal.signal(signal.SIGTSTP, suspend)
        _write(_ENTER)
        redraw.set()

    before = {
        signal.SIGTSTP: signal.signal(signal.SIGTSTP, suspend),
        signal.SIGWINCH: signal.signal(signal.SIGWINCH, lambda *_: redraw.set()),
    }
    _write(_ENTER)
    try:
        yield redraw
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        sys.stdout.flush()
        _write(_LEAVE)


# No cursor, and no automatic wrap: a line that is too long must not push the others away.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"


def _write(text: str) -> None:
    """Past the buffer: a signal's handler may have interrupted a write to it."""
    os.write(sys.stdout.fileno(), text.encode())


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
