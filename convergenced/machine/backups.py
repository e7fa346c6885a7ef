"""Backups of local files that were replaced: a folder per replacement, pruned per file.

Layout: `<backups>/<context folder>/<UTC time>/<path in the context folder>`. Promise: of each file the
newest `keep` backups stay.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter

from convergenced.model import LocalPath


def prune_backups(folder: LocalPath, keep: int) -> int:
    """Removes all but the newest `keep` backups of each file below `folder`; tells how many went.

    `folder` is that of one context folder. Names of replacements sort by time.
    """
    try:
        moments = sorted(os.listdir(folder), reverse=True)
    except FileNotFoundError:
        return 0
    kept: Counter[str] = Counter()
    removed = 0
    for moment in moments:
        top = os.path.join(folder, moment)
        for place, folders, names in os.walk(top, topdown=False):
            for name in names:
                path = os.path.join(place, name)
                relative = os.path.relpath(path, top)
                kept[relative] += 1
                if kept[relative] > keep:
                    os.unlink(path)
                    removed += 1
            del folders
            with contextlib.suppress(OSError):  # not empty: something in it is kept
                os.rmdir(place)
    return removed
