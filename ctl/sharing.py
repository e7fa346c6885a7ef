"""What would be shared: a look at Claude Code's folders that reads names and sizes, never contents."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from convergenced.sync.scan import content_of

MAX_DEPTH = 6
"""Levels below a project's folder that are looked at."""
MAX_FILES = 200_000
"""Files that are counted in all; a survey of more says so by being incomplete, never by hanging."""


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder of Claude Code's projects. `newest` is the latest mtime in Unix seconds."""

    name: str
    sessions: int
    bytes: int
    newest: float


def survey(projects: str) -> list[Folder]:
    """The folders below `projects` that hold anything to share, the newest first."""
    found, left = [], MAX_FILES
    for entry in _entries(projects):
        if not entry.is_dir(follow_symlinks=False):
            continue
        sessions = size = files = 0
        newest = 0.0
        for path, file in _files(entry.path, left):
            left -= 1
            if content_of(path) is None:
                continue
            status = file.stat(follow_symlinks=False)
            files += 1
            sessions += "/" not in path
            size += status.st_size
            newest = max(newest, status.st_mtime)
        if files:
            found.append(Folder(entry.name, sessions, size, newest))
    return sorted(found, key=lambda one: -one.newest)


def _files(folder: str, most: int) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Regular files below `folder`, `most` at the most, with their `/`-separated way from there."""
    pending = [""]
    while pending:
        below = pending.pop()
        for entry in _entries(os.path.join(folder, below)):
            if entry.is_dir(follow_symlinks=False):
                if below.count("/") < MAX_DEPTH:
                    pending.append(f"{below}{entry.name}/")
            elif entry.is_file(follow_symlinks=False) and most > 0:
                most -= 1
                yield below + entry.name, entry


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
