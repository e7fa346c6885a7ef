"""What a request asks for, read with suspicion, and the way to say that it failed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from convergenced.control.protocol import Json
from convergenced.control.server import Reply
from convergenced.errors import ConvergenceError
from convergenced.model import LocalPath

log = logging.getLogger(__name__)

MAX_SECONDS = 100 * 366 * 86_400.0
"""A hundred years; what is longer is no time that a calendar could show."""


Method = Callable[[dict[str, Json], Reply], None]
"""What answers one kind of request, in the control thread."""


class ParamsError(Exception):
    """A parameter is missing or of the wrong kind."""


def text_in(params: dict[str, Json], key: str, otherwise: str | None) -> str | None:
    """A text, or `otherwise` where there is none."""
    value = params.get(key)
    if value is None:
        return otherwise
    if not isinstance(value, str):
        raise ParamsError(f"{key} must be text")
    return value


def required_in(params: dict[str, Json], key: str) -> str:
    """A text that must be there."""
    value = text_in(params, key, None)
    if not value:
        raise ParamsError(f"{key} is missing")
    return value


def path_in(params: dict[str, Json], key: str) -> LocalPath:
    """A path with its symbolic links followed."""
    try:
        return LocalPath(os.path.realpath(required_in(params, key)))
    except ValueError as error:  # NUL, or a character that no name can hold
        raise ParamsError(f"{key} is no path: {error}") from error


def texts_in(params: dict[str, Json], key: str) -> list[str]:
    """A list of texts; empty where there is none."""
    value = params.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ParamsError(f"{key} must be a list of texts")
    return [_element(one, key) for one in value]


def _element(value: Json, key: str) -> str:
    if not isinstance(value, str):
        raise ParamsError(f"{key} must be a list of texts")
    return value


def truth_in(params: dict[str, Json], key: str, *, otherwise: bool = False) -> bool:
    """True or false."""
    value = params.get(key, otherwise)
    if not isinstance(value, bool):
        raise ParamsError(f"{key} must be true or false")
    return value


def number_in(params: dict[str, Json], key: str) -> float | None:
    """Seconds or a count, None where there is none."""
    value = params.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_SECONDS:
        raise ParamsError(f"{key} must be a number of seconds, {MAX_SECONDS:.0f} at most")
    return float(value)


def fail(reply: Reply, error: Exception) -> None:
    """Answers with what a job met."""
    if isinstance(error, ConvergenceError):
        reply.error(error)
        return
    log.error("a request failed", exc_info=error)
    reply.error(ConvergenceError(str(error) or type(error).__name__, "see the daemon's log"))
