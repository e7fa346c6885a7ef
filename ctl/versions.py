"""Client and daemon of different versions: which is the older, and what to do."""

from __future__ import annotations

import re

from convergenced import __version__

from .render import clean


def is_outdated(daemon: str) -> bool:
    """Whether a restart would make that daemon this client's version: it is another, and no newer one."""
    return daemon != __version__ and _numbers(daemon) <= _numbers(__version__)


def mismatch(daemon: str) -> str | None:
    """What to say and do about a daemon of that version; None where it is the client's own."""
    if daemon == __version__:
        return None
    both = f"the daemon is version {clean(daemon)}, this is {__version__}"
    if is_outdated(daemon):
        return f"{both}; restart it: convergencectl up"
    return f"{both}; update convergencectl, or look which one the PATH finds"


def _numbers(version: str) -> list[int]:
    found = re.match(r"\d{1,9}(\.\d{1,9})*", version)
    return [int(part) for part in found[0].split(".")] if found else []
