"""The patrol: looks after the watcher, and at the folders themselves while hints may be missing.

Promises: what nobody hears of is found within about a minute all the same, however much there is to look
at for a `SHARE` of the time at most; no file is read for it; and as long as all is well with the watcher
nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from posixpath import join

from convergenced.errors import ConvergenceError
from convergenced.model import Kind, LocalPath
from convergenced.ports import Files
from convergenced.sync.desk import Desk
from convergenced.sync.lookout import WATCH, Lookout
from convergenced.sync.scan import Scan, scan_folder

EVERY = 30.0
"""Seconds between two looks, at least."""
SHARE = 0.01
"""Of the time, for which is looked."""
LANE = "patrol"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What stood there: the names in the projects folder, and each context folder that was asked for."""

    names: tuple[str, ...]
    scans: Mapping[str, Scan | None]
    seconds: float
    """How long it took to look."""


class Patrol:
    """Owns what was seen last."""

    def __init__(self, desk: Desk, lookout: Lookout) -> None:
        self._desk = desk
        self._lookout = lookout
        self._seen: _Seen | None = None
        self._due: float | None = desk.clock.monotonic() + EVERY

    @property
    def due(self) -> float | None:
        """When is looked next; None while somebody looks."""
        return self._due

    def start_due(self) -> None:
        """Starts what is due."""
        desk = self._desk
        now = desk.clock.monotonic()
        if self._due is None or now < self._due:
            return
        self._due = now + EVERY
        self._lookout.check()
        if WATCH not in desk.board.degraded or desk.board.halted is not None:
            self._seen = None
            return
        self._due = None
        projects_dir, folders = desk.parts.machine.projects_dir, list(desk.board.replicas)

        def look() -> _Seen:
            started = desk.clock.monotonic()
            names, scans = _look(desk.parts.files, projects_dir, folders)
            return _Seen(names, scans, desk.clock.monotonic() - started)

        desk.submit(LANE, look, self._looked, self._failed)

    def _looked(self, seen: _Seen) -> None:
        former, self._seen = self._seen, seen
        self._again(seen.seconds)
        if former is None or former.names != seen.names:
            self._lookout.want()
        projects_dir = self._desk.parts.machine.projects_dir
        for folder, scan in seen.scans.items():
            # What was not seen before may have changed unheard: it is passed once.
            if folder in self._desk.board.replicas and (former is None or former.scans.get(folder) != scan):
                self._lookout.changed(LocalPath(join(projects_dir, folder)))

    def _failed(self, _error: Exception) -> None:
        """The survey and the passes meet the same, and tell it."""
        self._again(0.0)

    def _again(self, seconds: float) -> None:
        wait = min(max(EVERY, seconds / SHARE), max(EVERY, self._desk.pace.rescan))
        self._due = self._desk.clock.monotonic() + wait


def _look(
    files: Files, projects_dir: LocalPath, folders: list[str]
) -> tuple[tuple[str, ...], dict[str, Scan | None]]:
    names = tuple(entry.name for entry in files.list(projects_dir) or () if entry.kind is Kind.FOLDER)
    scans: dict[str, Scan | None] = {}
    for folder in folders:
        try:
            scans[folder] = scan_folder(files, LocalPath(join(projects_dir, folder)))
        except (ConvergenceError, OSError):
            scans[folder] = None  # its pass tells why
    return names, scans
