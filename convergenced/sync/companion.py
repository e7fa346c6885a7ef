"""A part of the daemon that works beside the syncing of projects, in the same control thread.

The engine asks it when it has something to do, and for nothing else: what it does is its own matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from convergenced.sync.board import Attention, Missing


class Companion(Protocol):
    """Everything is called in the control thread, and never blocks."""

    @property
    def due(self) -> float | None:
        """The monotonic time at which it has something to start; None for nothing."""
        ...

    def start_due(self) -> None:
        """Starts what is due."""
        ...

    def look(self) -> None:
        """Has everything looked at now: somebody asked for a sync."""
        ...

    def settings_changed(self) -> None:
        """Other settings are in force."""
        ...

    def missing(self, since: float) -> Sequence[Missing]:
        """Why its matters are not in step, looking only at what was looked at after `since`."""
        ...

    def attention(self) -> Sequence[Attention]:
        """What of it needs a person."""
        ...

    def close(self) -> None:
        """Breaks off what runs; nothing is started any more."""
        ...
