"""What would be shared: a look at Claude Code's folders that reads names and sizes, never contents."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_DEPTH = 6
"""Levels below a project's folder that are looked at."""
MAX_FILES = 200_000
"""Files that are counted in all; a survey of more says so by being incomplete, never by hanging."""

_TRANSCRIPT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.jsonl\Z")


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
        for file, depth in _files(entry.path, left):
            status = file.stat(follow_symlinks=False)
            files += 1
            sessions += depth == 0 and _TRANSCRIPT.match(file.name) is not None
            size += status.st_size
            newest = max(newest, status.st_mtime)
        left -= files
        if files:
            found.append(Folder(entry.name, sessions, size, newest))
    return sorted(found, key=lambda one: -one.newest)


def _files(folder: str, most: int) -> Iterator[tuple[os.DirEntry[str], int]]:
    pending = [(folder, 0)]
    while pending:
        path, depth = pending.pop()
        for entry in _entries(path):
            if entry.is_dir(follow_symlinks=False):
                if depth < MAX_DEPTH:
                    pending.append((entry.path, depth + 1))
            elif entry.is_file(follow_symlinks=False) and most > 0:
                most -= 1
                yield entry, depth


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
