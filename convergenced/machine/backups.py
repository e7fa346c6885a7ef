"""Backups of local files that were replaced: a folder per replacement, pruned per file.

Layout: `<backups>/<context folder>/<UTC time>/<path in the context folder>`. Promise: of each file the
newest `keep` backups stay, and each that was written to after it was made: a program that still had the
file open then wrote what may stand nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from convergenced.errors import ConvergenceError
from convergenced.model import LocalPath

STAMP = "%Y%m%dT%H%M%S.%fZ"
"""How the folder of a replacement is named: the time when it was planned, in UTC."""


@dataclass(frozen=True, slots=True)
class Backup:
    """One file as it was before it was replaced.

    `folder` is the context folder it was in, `stamp` names the replacement, made at `at` (Unix seconds);
    `name` is its path in the context folder, `path` where the backup is. `is_late`: it was written to after
    it was made.
    """

    folder: str
    stamp: str
    at: float
    name: str
    path: LocalPath
    size: int
    is_late: bool


def list_backups(top: LocalPath, folders: Iterable[str]) -> list[Backup]:
    """The backups of files of these context folders, the newest first; `top` is where all backups are."""
    found: list[Backup] = []
    for folder in folders:
        place = os.path.join(top, folder)
        try:
            stamps = os.listdir(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for stamp in stamps:
            if (at := _time_of(stamp)) is not None:
                found.extend(_backups_in(folder, stamp, at, os.path.join(place, stamp)))
    return sorted(found, key=lambda one: (-one.at, one.folder, one.name))


def _backups_in(folder: str, stamp: str, at: float, top: str) -> Iterator[Backup]:
    for place, _, names in os.walk(top):
        for name in names:
            path = LocalPath(os.path.join(place, name))
            with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
                found = os.lstat(path)
                if stat.S_ISREG(found.st_mode):
                    relative = os.path.relpath(path, top)
                    yield Backup(folder, stamp, at, relative, path, found.st_size, found.st_mtime > at)


def prune_backups(folder: LocalPath, keep: int) -> int:
    """Removes all but the newest `keep` backups of each file below `folder`; tells how many went.

    `folder` is that of one context folder. Names of replacements sort by time. Raises
    `ConvergenceError`, when all is done, where a backup was written to after it was made.
    """
    try:
        moments = sorted(os.listdir(folder), reverse=True)
    except FileNotFoundError:
        return 0
    kept: Counter[str] = Counter()
    late: list[str] = []
    removed = 0
    for moment in moments:
        top, made = os.path.join(folder, moment), _time_of(moment)
        for place, folders, names in os.walk(top, topdown=False):
            for name in names:
                path = os.path.join(place, name)
                if made is not None and os.lstat(path).st_mtime > made:
                    late.append(path)
                    continue
                relative = os.path.relpath(path, top)
                kept[relative] += 1
                if kept[relative] > keep:
                    os.unlink(path)
                    removed += 1
            del folders
            with contextlib.suppress(OSError):  # not empty: something in it is kept
                os.rmdir(place)
    if late:
        raise ConvergenceError(
            f"a program wrote to a file that had been replaced already; its lines are in {late[-1]}"
            + (f" and {len(late) - 1} more" if late[1:] else ""),
            "look at it (convergencectl session backups), bring back what is missed, then move it away",
        )
    return removed


def _time_of(moment: str) -> float | None:
    try:
        return datetime.strptime(moment, STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
