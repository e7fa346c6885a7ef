"""Shows a person something on the desktop, by the program that the system has for it.

Promises: bounded in time, nothing is read from what the program says, and where there is no desktop or no
such program nothing happens.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

TIMEOUT_S = 2.0
MAX_TEXT = 300
"""Characters of title and text each: the desktop shows a few lines."""
_APPLE = (
    *("-e", "on run argv"),
    *("-e", "display notification (item 2 of argv) with title (item 1 of argv)"),
    *("-e", "end run"),
)
_MARKUP = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def program_for(environ: Mapping[str, str], platform: str = sys.platform) -> str | None:
    """The program that shows notifications here; None where the PATH has none."""
    name = "osascript" if platform == "darwin" else "notify-send"
    return shutil.which(name, path=environ.get("PATH", os.defpath))


def show_on_desktop(title: str, text: str, environ: Mapping[str, str], platform: str = sys.platform) -> bool:
    """Shows it; tells whether it was taken. Blocks for `TIMEOUT_S` at the most, and never raises."""
    program = program_for(environ, platform)
    if program is None:
        return False
    words = [_plain(title), _plain(text)]
    if platform == "darwin":
        command = [program, *_APPLE, *words]
    else:
        # The text may hold markup there, so that what looks like some is spelled out.
        words[1] = "".join(_MARKUP.get(character, character) for character in words[1])
        command = [program, "--app-name=convergence", "--", *words]
    try:
        done = subprocess.run(
            command,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _plain(text: str) -> str:
    """Without control characters but line breaks, without what cannot be encoded, and not too long."""
    kept = "".join(one if one.isprintable() or one == "\n" else " " for one in text)
    sound = kept.encode("utf-8", "replace").decode("utf-8")
    return sound if len(sound) <= MAX_TEXT else sound[: MAX_TEXT - 1] + "…"
