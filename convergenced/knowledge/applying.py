"""Consolidated documents → the files of this machine, when no Claude Code runs here at all.

Promises: what is replaced was exactly what the plan saw, and is kept as a backup; at every instant a file is
the old one or the complete new one; what needs a person is written only with that person's yes to that very
change. A crash at any point is healed by the next snapshot and the next plan.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from posixpath import join

from convergenced.errors import ConvergenceError, FileChangedError, HeldError
from convergenced.knowledge.local import LocalDocument
from convergenced.knowledge.places import Place
from convergenced.knowledge.standing import Plan, PlannedChange, Said, Standing, held_by, holder
from convergenced.machine.backups import STAMP
from convergenced.merge.client_settings import apply_settings
from convergenced.merge.knowledge import GLOBAL
from convergenced.model import LocalPath, Refusal
from convergenced.ports import Files
from convergenced.sync.replica import Parts

SHELF = "knowledge"
"""Below the backups: `knowledge/<scope>/<UTC time>/<path>`."""

PRIVATE = 0o600
SHARED = 0o664
"""Permissions that a new file beside code may have, as far as its folder has them too."""


@dataclass(slots=True)
class AppliedReport:
    """What was written and what was not.

    `applied` are the ids of changes that were made. `held` says why writing ended, and `pid` who holds it,
    0 where that is unknown. `changed` are files that were edited since the plan: they are left alone, and
    planned again. `shelves` are folders below the backups that got one, to be pruned.
    """

    written: list[LocalPath] = field(default_factory=list)
    backups: list[LocalPath] = field(default_factory=list)
    shelves: list[str] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)
    left: list[PlannedChange] = field(default_factory=list)
    changed: list[LocalPath] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    held: str = ""
    pid: int | None = None


def apply_changes(parts: Parts, files: Files, plan: Plan, said: Said) -> AppliedReport:
    """Makes the changes of the plan that need nobody's yes or have it; what remains is told.

    Only what was planned is made, and only where the file still is what the plan saw.
    """
    return _Applying(parts, files, said).run(plan)


class _Applying:
    def __init__(self, parts: Parts, files: Files, said: Said) -> None:
        self._parts = parts
        self._files = files
        self._said = said
        self._report = AppliedReport()
        self._stamp = datetime.fromtimestamp(parts.clock.now(), UTC).strftime(STAMP)

    def run(self, plan: Plan) -> AppliedReport:
        report = self._report
        for standing in plan.documents:
            chosen = [change for change in standing.changes if self._said.allows(change)]
            made = self._try(standing, chosen) if chosen and not report.held else []
            report.left += [change for change in standing.changes if change not in made]
        return report

    def _try(self, standing: Standing, chosen: list[PlannedChange]) -> list[PlannedChange]:
        """Writes one file; the answer is which changes were made."""
        report, place = self._report, chosen[0].place
        try:
            self._guard()
            self._write(standing, place, chosen)
        except HeldError as error:
            report.held, report.pid = error.summary, error.pid
        except FileChangedError:
            report.changed.append(place.local)
        except ConvergenceError as error:
            report.refusals.append(Refusal(place.name, error.summary, error.hint))
        else:
            report.applied += [change.id for change in chosen]
            return chosen
        return []

    def _guard(self) -> None:
        running = holder(self._parts)
        if running is not None:
            raise HeldError(held_by(running), "it is written when that ends", running.pid or None)

    def _check(self, place: Place, former: LocalDocument | None) -> None:
        """Once more, right before the rename: nobody runs, and nothing was edited within a clock's tick."""
        self._guard()
        if former is not None and self._files.read(place.local, 0, len(former.data) + 1) != former.data:
            raise FileChangedError(f"{place.local} was edited meanwhile", "it is planned again")

    def _write(self, standing: Standing, place: Place, chosen: list[PlannedChange]) -> None:
        parts, report, former = self._parts, self._report, standing.document
        settings = [change.setting for change in chosen if change.setting is not None]
        wanted = apply_settings(former.data if former else b"", settings) if settings else chosen[0].wanted
        shelf = join(SHELF, place.scope)
        backup = LocalPath(join(parts.machine.backups_dir, shelf, self._stamp, place.path))
        self._files.replace(
            place.local,
            iter([wanted]),
            expect=former.snapshot if former else None,
            mtime_ns=int(parts.clock.now() * 1e9),
            backup=backup,
            guard=lambda: self._check(place, former),
            mode=None if former else _fresh_mode(place),
        )
        report.written.append(place.local)
        if former is not None:
            report.backups.append(backup)
            if shelf not in report.shelves:
                report.shelves.append(shelf)


def _fresh_mode(place: Place) -> int:
    """The permissions of a new file: this user's alone, or beside code those that its folder gives."""
    folder = os.path.dirname(place.local)
    while place.scope != GLOBAL and folder != os.sep:
        try:
            return stat.S_IMODE(os.stat(folder).st_mode) & SHARED | PRIVATE
        except OSError:
            folder = os.path.dirname(folder)
    return PRIVATE
