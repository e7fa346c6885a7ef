"""Which files of this machine are shared as knowledge, and where they are.

Owns the list of them. Promises: nothing that is meant for one machine alone is ever on it
(`CLAUDE.local.md`, `settings.local.json`); what a git repository carries is not, unless that is wanted;
a file that is reached through a symlink is the user's own and lies where the user's things are, or it is
set aside with a reason; no file is there twice.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from posixpath import join, splitext

from convergenced.canon.rewrite import Rewriter
from convergenced.errors import RefusedInputError
from convergenced.machine.files import RealFiles
from convergenced.machine.folders import sweep_temporaries
from convergenced.machine.tracked import is_tracked
from convergenced.merge.knowledge import GLOBAL, SETTINGS, DocumentPath, Scope, project_scope
from convergenced.model import Anchors, Content, LocalPath, Refusal
from convergenced.ports import Files
from convergenced.sync.replica import Machine, Replica
from convergenced.sync.scan import MEMORY, Scan, scan_memory

CLAUDE_MD = DocumentPath("CLAUDE.md")
NESTED_CLAUDE_MD = DocumentPath(".claude/CLAUDE.md")

KEPT_S = 120.0
"""Seconds for which places are believed where nothing hints at a change."""

LEFTOVER_S = 60.0
"""Seconds after which a temporary file beside a document is what a crash left."""


@dataclass(frozen=True, slots=True)
class Place:
    """One document's place on this machine, whether or not a file is there.

    `local` is the file itself: no part of it was a symlink when the place was found.
    """

    scope: Scope
    path: DocumentPath
    local: LocalPath
    rewriter: Rewriter
    content: Content

    @property
    def name(self) -> str:
        """The document, as the commands name it."""
        return f"{self.scope}/{self.path}"

    @property
    def is_memory(self) -> bool:
        """Whether it is one of a project's notes, which its own branch brings to other machines."""
        return self.path.startswith(f"{MEMORY}/")


@dataclass(frozen=True, slots=True)
class Found:
    """The places of this machine, what had to be set aside, and what reads and writes the files."""

    places: tuple[Place, ...]
    refusals: tuple[Refusal, ...]
    files: Files


def places(
    machine: Machine, config_dir: LocalPath, replicas: Sequence[Replica], *, tracked_files: bool
) -> tuple[list[Place], list[Refusal]]:
    """The places of this machine, and what had to be set aside.

    `config_dir` is the client's own folder; of `replicas` only primary ones count, whose root is there. With
    `tracked_files` also what a git repository carries. Takes about 0.3 ms for each project: who asks again
    and again has a `PlaceFinder`.
    """
    found = PlaceFinder(machine, config_dir).find(replicas, tracked_files=tracked_files, now=0.0)
    return list(found.places), list(found.refusals)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was found for the global scope or for a project, at what time, and what that depended on."""

    basis: object
    at: float
    places: tuple[Place, ...]
    refusals: tuple[Refusal, ...]


class PlaceFinder:
    """Finds places again and again, and searches only where something may have changed."""

    def __init__(self, machine: Machine, config_dir: LocalPath) -> None:
        self._machine = machine
        self._config_dir = config_dir
        self._kept: dict[Replica | None, _Kept] = {}
        self._files: Files | None = None

    def find(
        self, replicas: Sequence[Replica], *, tracked_files: bool, now: float, fresh: bool = False
    ) -> Found:
        """The places (see `places`). `now` is monotonic seconds.

        What was found is believed for `KEPT_S` seconds as long as the folders are what they were; with
        `fresh` nothing is, as it must be before files are written.
        """
        here = [one for one in replicas if one.primary and os.path.isdir(one.root)]
        owners: list[Replica | None] = [None, *sorted(here, key=lambda one: one.project)]
        kept: dict[Replica | None, _Kept] = {}
        for owner in owners:
            basis = tracked_files, self._stamps(owner)
            known = self._kept.get(owner)
            if fresh or known is None or known.basis != basis or now - known.at >= KEPT_S:
                search = _Search(self._machine, tracked_files)
                if owner is None:
                    search.look_at_global(self._config_dir)
                else:
                    search.look_at_project(owner)
                known = _Kept(basis, now, tuple(search.found), tuple(search.refusals))
            kept[owner] = known
        files = self._files
        if files is None or kept != self._kept:
            files = files_of(self._machine, self._config_dir, here)
        self._kept, self._files = kept, files
        by_file: dict[LocalPath, Place] = {}
        for one in kept.values():
            for place in one.places:
                by_file.setdefault(place.local, place)
        return Found(
            tuple(by_file.values()),
            tuple(refusal for one in kept.values() for refusal in one.refusals),
            files,
        )

    def _stamps(self, owner: Replica | None) -> tuple[object, ...]:
        """What changes when links, notes or the list of what git carries do, nearly always."""
        if owner is None:
            return (_stamp(self._config_dir),)
        names = (".", ".claude", ".git/index")
        memory = owner.path(self._machine, MEMORY)
        return (*(_stamp(join(owner.root, name)) for name in names), _stamp(memory))


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def files_of(machine: Machine, config_dir: LocalPath, replicas: Iterable[Replica]) -> Files:
    """What reads and writes the files of `places`, and keeps backups; it writes nowhere else."""
    own = (machine.home, machine.projects_dir, machine.backups_dir)
    chosen = (config_dir, *(replica.root for replica in replicas if replica.primary))
    return RealFiles([*own, *(LocalPath(os.path.realpath(one)) for one in chosen)])


def sweep_places(found: Iterable[Place], now: float) -> int:
    """Removes the temporary files that a crash left beside documents; the answer is their number.

    `now` is Unix seconds. To be called when the daemon starts: others write there too, so what is fresh
    stays.
    """
    swept = 0
    for folder in sorted({os.path.dirname(place.local) for place in found if not place.is_memory}):
        swept += sweep_temporaries(LocalPath(folder), depth=0, before=now - LEFTOVER_S)
    return swept


class _Search:
    def __init__(self, machine: Machine, tracked_files: bool) -> None:
        self._machine = machine
        self._tracked_files = tracked_files
        self._notes_files = RealFiles([machine.projects_dir])
        self.found: list[Place] = []
        self.refusals: list[Refusal] = []

    def look_at_global(self, config_dir: LocalPath) -> None:
        machine = self._machine
        anchors = Anchors(machine.os, project_root="", context_dir="", encoded_dir="", home=machine.home)
        rewriter = Rewriter(anchors)
        for path, content in ((CLAUDE_MD, Content.TEXT), (SETTINGS, Content.JSON)):
            self._add(GLOBAL, path, rewriter, content, config_dir)

    def look_at_project(self, replica: Replica) -> None:
        scope = project_scope(replica.project)
        rewriter = replica.rewriter(self._machine, rewrite_home=True)
        for path in (CLAUDE_MD, NESTED_CLAUDE_MD):
            self._add(scope, path, rewriter, Content.TEXT, replica.root)
        for name in self._notes(replica):
            local = replica.path(self._machine, name)
            self.found.append(Place(scope, DocumentPath(name), local, rewriter, Content.TEXT))

    def _notes(self, replica: Replica) -> Iterator[str]:
        scan = Scan()
        scan_memory(self._notes_files, replica.context_dir(self._machine), scan)
        scope = project_scope(replica.project)
        self.refusals += [replace(one, where=f"{scope}/{one.where}") for one in scan.refusals]
        yield from sorted(scan.memory)

    def _add(
        self,
        scope: Scope,
        path: DocumentPath,
        rewriter: Rewriter,
        content: Content,
        top: LocalPath,
    ) -> None:
        named = LocalPath(join(top, path))
        if not self._tracked_files and is_tracked(named):
            return
        try:
            local = self._resolve(named, LocalPath(os.path.realpath(top)), is_code=scope != GLOBAL)
        except RefusedInputError as error:
            self.refusals.append(Refusal(f"{scope}/{path}", error.summary, error.hint))
            return
        if not self._tracked_files and local != named and is_tracked(local):
            return
        self.found.append(Place(scope, path, local, rewriter, content))

    def _resolve(self, named: LocalPath, top: LocalPath, *, is_code: bool) -> LocalPath:
        """The file itself. Raises `RefusedInputError` where it is none of the user's own, or none at all.

        A link may have come with somebody's code and point at anything. So it must lead to a file of the
        same kind, and one that git brought to a file of the project.
        """
        local = LocalPath(os.path.realpath(named))
        is_within = _is_below(local, top)
        if not (is_within or _is_below(local, self._machine.home)):
            raise RefusedInputError(
                f"{named} leads to {local}, outside your home folder and the project",
                "it is not shared; put the file itself there, or link to one below your home folder",
            )
        if splitext(local)[1] != splitext(named)[1] or (is_code and not is_within and is_tracked(named)):
            raise RefusedInputError(
                f"{named} is a symbolic link to {local}, which may be something else",
                "it is not shared; put the file itself there",
            )
        try:
            found = os.lstat(local)
        except OSError:
            if not os.path.islink(named):
                return local
            raise RefusedInputError(
                f"{named} is a symbolic link to {local}, where nothing is",
                "put the file back, or remove the link",
            ) from None
        if not stat.S_ISREG(found.st_mode):
            raise RefusedInputError(f"{named} is no regular file", "it is not shared; move it away")
        if found.st_uid != os.getuid():
            raise RefusedInputError(
                f"{local} belongs to another user", "it is not shared; make it your own (chown)"
            )
        return local


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")
