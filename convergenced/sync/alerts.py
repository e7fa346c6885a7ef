"""Tells the person at the desktop what needs them, where they asked for that.

Promises: each matter is told once, also across restarts; several that come together are told together;
what comes right by itself, or passes within `PATIENCE`, is not told; nothing waits for the desktop, and
its failures are nobody's trouble.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import sqlite3
from collections.abc import Sequence

from convergenced.sync.board import COMES_RIGHT, Attention
from convergenced.sync.desk import Desk

log = logging.getLogger(__name__)

PATIENCE = 3.0
"""Seconds that something has to need a person before they are told; between two looks at the same time."""
FORGOTTEN_AFTER = 86_400.0
"""Seconds after which a matter that was settled would be a new one if it came again."""
NOTED_EVERY = 3_600.0
"""Seconds after which is noted again that a matter is still there."""
LANE = "desktop"
MAX_LINES = 3

_COUNTING = {"degraded", "error", "peer"}
"""Kinds whose words may hold numbers that change; in those of the others a number is part of a name."""
_TOGETHER = {"secret"}
"""Kinds of which a project's are one matter: one command shows them all, and there may soon be more."""
_NUMBER = re.compile(r"\d+")


class Alerts:
    """Owns what was told."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._told: dict[str, float] | None = None
        """When each matter was last noted to be there, Unix seconds; None before the first look."""
        self._pending: dict[str, float] = {}
        """Matters that were not told yet, and when (monotonic) each was first seen."""
        self._look_at = 0.0
        self._is_put_off = False
        """Whether something may have changed since the last look."""

    @property
    def due(self) -> float | None:
        """When is to be looked by itself; None where there is nothing to look for."""
        return self._look_at if self._pending or self._is_put_off else None

    def start_due(self) -> None:
        """Looks, at most every `PATIENCE`, and tells what is due. Costs nothing where it is switched off."""
        desk = self._desk
        if not desk.settings.notify.desktop:
            self._pending.clear()
            self._is_put_off = False
            return
        now = desk.clock.monotonic()
        self._is_put_off = now < self._look_at
        if self._is_put_off:
            return
        self._look_at = now + PATIENCE
        matters = {matter_of(one): one for one in desk.board.attention() if one.kind not in COMES_RIGHT}
        told = self._remember(matters)
        self._pending = {key: self._pending.get(key, now) for key in matters if key not in told}
        ripe = [key for key, since in self._pending.items() if now - since >= PATIENCE]
        if not ripe:
            return
        for key in ripe:
            del self._pending[key]
        self._note(ripe)
        title, text = in_words([matters[key] for key in ripe])
        show = desk.surroundings.show
        desk.submit(LANE, lambda: show(title, text), lambda _: None, _failed)

    def _remember(self, matters: dict[str, Attention]) -> dict[str, float]:
        """What was told, with those that are still there noted again now and then."""
        if self._told is None:
            self._told = {}
            with contextlib.suppress(sqlite3.Error):
                self._told = self._desk.parts.state.alerted()
        now = self._desk.clock.now()
        self._told = {key: at for key, at in self._told.items() if at > now - FORGOTTEN_AFTER}
        before = now - NOTED_EVERY
        stale = [key for key in matters if self._told.get(key, before) < before]
        if stale:
            self._note(stale)
        return self._told

    def _note(self, keys: list[str]) -> None:
        assert self._told is not None
        now = self._desk.clock.now()
        self._told |= dict.fromkeys(keys, now)
        with contextlib.suppress(sqlite3.Error):  # then it may be told once more after a restart
            self._desk.parts.state.note_alerted(keys, now, now - FORGOTTEN_AFTER)


def matter_of(attention: Attention) -> str:
    """What makes it one matter, however a count in its words changes: a digest that tells nothing."""
    text = _NUMBER.sub("#", attention.text) if attention.kind in _COUNTING else attention.text
    text = "" if attention.kind in _TOGETHER else text
    words = "\n".join((attention.kind, attention.project or "", text))
    return hashlib.sha256(words.encode("utf-8", "backslashreplace")).hexdigest()


def in_words(ones: Sequence[Attention]) -> tuple[str, str]:
    """Title and text for some matters: what `status` says of them, and how to see it."""
    count = len(ones)
    title = "convergence: 1 thing needs you" if count == 1 else f"convergence: {count} things need you"
    lines = [f"{one.project}: {one.text}" if one.project else one.text for one in ones[:MAX_LINES]]
    more = [f"and {count - MAX_LINES} more"] if count > MAX_LINES else []
    return title, "\n".join([*lines, *more, "see: convergencectl status"])


def _failed(error: Exception) -> None:
    log.debug("nothing could be shown on the desktop: %s", error)
