"""What of a context folder is synced, and what stands there now.

One rule decides by name (`content_of`): transcripts, a session's subagents, tool results and
title, and Markdown memory. Nothing else, ever. What has such a name but is no regular file is
refused and reported, and does not stop the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from posixpath import join

from convergenced.errors import RefusedInputError
from convergenced.merge.names import collision_key, find_fault, is_session_id
from convergenced.model import Content, Kind, LocalPath, Refusal, SessionId, Snapshot
from convergenced.ports import Files

MEMORY = "memory"
TRANSCRIPT_SUFFIX = ".jsonl"
MAX_DEPTH = 12
MAX_FILES = 200_000
MAX_FILE_BYTES = 64 * 1024 * 1024
"""Hubs refuse blobs over 100 MB; only transcripts are cut into segments."""

_SESSION_FOLDERS = ("subagents", "tool-results")
TITLE = "custom-title.json"
"""The file in a session's folder that holds the name its user gave it."""


def session_of(name: str) -> SessionId | None:
    """The session a name belongs to: `<sid>.jsonl` or `<sid>`; None for any other name."""
    stem = name.removesuffix(TRANSCRIPT_SUFFIX)
    return SessionId(stem) if is_session_id(stem) else None


def content_of(path: str) -> Content | None:
    """How a file of the context folder is spelled; None for what is never synced.

    `path` is relative to the context folder, `/`-separated.
    """
    parts = path.split("/")
    if parts[0] == MEMORY:
        return Content.TEXT if len(parts) > 1 and path.endswith(".md") else None
    if len(parts) == 1:
        return Content.JSON if path.endswith(TRANSCRIPT_SUFFIX) and session_of(path) else None
    if not is_session_id(parts[0]):
        return None
    if parts[1:] == [TITLE] or (len(parts) > 2 and parts[1] in _SESSION_FOLDERS):
        return Content.JSON if path.endswith((".json", ".jsonl")) else Content.TEXT
    return None


def is_set_aside(path: str, refused: Collection[str]) -> bool:
    """Whether a file, or a folder that it lies in, was refused: then it may well still be there."""
    return any(path == one or path.startswith(f"{one}/") for one in refused)


@dataclass(slots=True)
class Scan:
    """The synced files of one context folder at one moment, by path relative to it."""

    transcripts: dict[SessionId, Snapshot] = field(default_factory=dict)
    attached: dict[str, Snapshot] = field(default_factory=dict)
    """Files of the sessions' own folders."""
    memory: dict[str, Snapshot] = field(default_factory=dict)
    has_memory_folder: bool = False
    refusals: list[Refusal] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing that is synced stands there."""
        return not (self.transcripts or self.attached or self.memory)

    def holds(self, path: str) -> bool:
        """Whether a synced file stands at the path."""
        return self.snapshot(path) is not None

    def snapshot(self, path: str) -> Snapshot | None:
        """The synced file at the path; None where none stands."""
        sid = session_of(path) if "/" not in path else None
        if sid is not None:
            return self.transcripts.get(sid)
        return self.attached.get(path) or self.memory.get(path)

    def with_neighbours(self, paths: Collection[str]) -> frozenset[str]:
        """The synced ones of these files, and those that are committed together with them."""
        found = {path for path in paths if self.holds(path)}
        folders = {path.partition("/")[0] for path in found if path in self.attached}
        if folders:
            found.update(path for path in self.attached if path.partition("/")[0] in folders)
        if not found.isdisjoint(self.memory):
            found.update(self.memory)
        return frozenset(found)

    def lost_memory(self, known: Collection[str]) -> bool:
        """Whether memory is gone as a whole, which is more often an accident than a wish.

        `known` are the notes there should be; the only one that goes is taken for deleted. A memory
        folder that was refused is not lost.
        """
        if not known or any(refusal.where == MEMORY for refusal in self.refusals):
            return False
        return not self.has_memory_folder or (len(known) > 1 and not self.memory)

    @property
    def hollow(self) -> frozenset[SessionId]:
        """The transcripts that are empty; one that had records was emptied by accident, not by the client."""
        return frozenset(sid for sid, snapshot in self.transcripts.items() if snapshot.size == 0)

    @property
    def size(self) -> int:
        """Bytes of all synced files."""
        everything = (*self.transcripts.values(), *self.attached.values(), *self.memory.values())
        return sum(snapshot.size for snapshot in everything)


@dataclass(frozen=True, slots=True)
class Glance:
    """What is known of a folder without looking at all of it: a whole scan, and what may have changed since.

    `changed` are paths relative to the context folder.
    """

    scan: Scan
    changed: frozenset[str]


def scan_folder(files: Files, context_dir: LocalPath) -> Scan | None:
    """Looks at a context folder without reading any file; None where it is not there."""
    top = files.list(context_dir)
    if top is None:
        return None
    scan = Scan()
    for entry in top:
        if entry.name == MEMORY:
            if entry.kind is Kind.FOLDER:
                scan.has_memory_folder = scan_memory(files, context_dir, scan)
            else:
                scan.refusals.append(_not_regular(entry.name, entry.kind, "a folder"))
            continue
        session = session_of(entry.name)
        if session is None:
            continue
        if entry.name.endswith(TRANSCRIPT_SUFFIX):
            if entry.kind is Kind.FILE and entry.snapshot is not None:
                scan.transcripts[session] = entry.snapshot
            else:
                scan.refusals.append(_not_regular(entry.name, entry.kind, "a regular file"))
        elif entry.kind is Kind.FOLDER:
            _walk(files, context_dir, entry.name, scan.attached, scan, 1)
        else:
            scan.refusals.append(_not_regular(entry.name, entry.kind, "a folder"))
    return scan


def scan_memory(files: Files, context_dir: LocalPath, scan: Scan) -> bool:
    """Puts the notes of a context folder into `scan`; tells whether there is a folder of them."""
    return _walk(files, context_dir, MEMORY, scan.memory, scan, 1)


def scan_again(files: Files, context_dir: LocalPath, former: Scan, paths: Iterable[str]) -> Scan | None:
    """`former` with what stands at `paths` now, without looking at anything else.

    None where only a whole scan can tell: something is gone, or is new and must be judged beside others.
    """
    if former.refusals:
        return None
    scan = replace(former, transcripts=dict(former.transcripts), refusals=[])
    for path in paths:
        if content_of(path) is None:
            if path and session_of(path.partition("/")[0]) is None and path.partition("/")[0] != MEMORY:
                continue
            return None
        snapshot = files.stat(LocalPath(join(context_dir, path)))
        sid = session_of(path)
        found = scan.memory if path.startswith(f"{MEMORY}/") else scan.attached
        if snapshot is None or (sid is None and (path not in found or snapshot.size > MAX_FILE_BYTES)):
            return None
        if sid is not None:
            scan.transcripts[sid] = snapshot
        elif found is scan.memory:
            scan.memory = {**scan.memory, path: snapshot}
        else:
            scan.attached = {**scan.attached, path: snapshot}
    return scan


def _walk(
    files: Files, context_dir: LocalPath, folder: str, found: dict[str, Snapshot], scan: Scan, depth: int
) -> bool:
    """Finds the synced files below `folder`; tells whether the folder is there."""
    if depth > MAX_DEPTH:
        scan.refusals.append(Refusal(folder, f"more than {MAX_DEPTH} folders deep", "move it up"))
        return True
    taken: dict[str, str] = {}
    try:
        listing = files.list(LocalPath(join(context_dir, folder)))
    except RefusedInputError as error:
        scan.refusals.append(Refusal(folder, error.summary, error.hint))
        return True
    for entry in listing or ():
        path = f"{folder}/{entry.name}"
        fault = find_fault(entry.name)
        if fault is None and (twin := taken.setdefault(collision_key(entry.name), entry.name)) != entry.name:
            fault = f"cannot be told from {twin!r} on every machine"
        if fault is not None:
            if entry.kind is Kind.FOLDER or content_of(path) is not None:
                scan.refusals.append(Refusal(path, f"its name {fault}", "give it another name"))
        elif entry.kind is Kind.FOLDER:
            if _may_hold(path):
                _walk(files, context_dir, path, found, scan, depth + 1)
        elif content_of(path) is None:
            continue
        elif entry.snapshot is None:
            scan.refusals.append(_not_regular(path, entry.kind, "a regular file"))
        elif entry.snapshot.size > MAX_FILE_BYTES:
            limit = MAX_FILE_BYTES // (1024 * 1024)
            scan.refusals.append(Refusal(path, f"larger than {limit} MiB", "it stays on this machine only"))
        elif len(found) >= MAX_FILES:
            scan.refusals.append(Refusal(folder, f"more than {MAX_FILES} files", "the rest stays local"))
            break
        else:
            found[path] = entry.snapshot
    return listing is not None


def _may_hold(path: str) -> bool:
    """Whether files below this folder can be synced."""
    parts = path.split("/")
    return parts[0] == MEMORY or parts[1] in _SESSION_FOLDERS


def _not_regular(path: str, kind: Kind, wanted: str) -> Refusal:
    what = {Kind.FILE: "a file", Kind.FOLDER: "a folder", Kind.LINK: "a symbolic link"}.get(
        kind, "a special file"
    )
    return Refusal(path, f"is {what}, not {wanted}", "replace or remove it; it is not synced")
