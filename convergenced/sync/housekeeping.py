"""Housekeeping: the store is packed now and then, in a lane of its own, when much has gathered.

Promise: nothing waits for it, and what goes wrong in it is told and tried again; it is not on the way of
any record.
"""

from __future__ import annotations

from convergenced.sync.desk import Desk

FIRST_LOOK = 60.0
"""Seconds after the start until is first looked whether there is enough to do: an import may be under way."""
LOOK = 600.0
"""Seconds between looks."""
PART = "upkeep"


class Housekeeping:
    """Decides when the store's keeper gets to work."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._due: float | None = desk.clock.monotonic() + FIRST_LOOK

    @property
    def due(self) -> float | None:
        """When is looked next; None while work is under way."""
        return self._due

    def start_due(self) -> None:
        """Starts what is due."""
        desk = self._desk
        if self._due is None or desk.clock.monotonic() < self._due:
            return
        self._due = None
        desk.submit(PART, desk.surroundings.keeper.run, self._done, self._failed)

    def _done(self, text: str | None) -> None:
        self._again()
        self._desk.restore(PART)
        if text is not None:
            self._desk.note("upkeep", None, text)

    def _failed(self, error: Exception) -> None:
        self._again()
        self._desk.degrade(PART, error)

    def _again(self) -> None:
        self._due = self._desk.clock.monotonic() + LOOK
