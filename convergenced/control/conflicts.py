"""`conflicts` and `conflict resolve`: what is listed, what a path means, and how settling runs in a daemon.

Promise: only a conflict that is there is settled, in the lane of its project, and the answer comes once the
file was written here or it is known why it waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from convergenced.canon.rewrite import Rewriter
from convergenced.control import answers
from convergenced.control.status import iso
from convergenced.control.writing import SETTLE_S, find_stop, was_looked_at, why_it_waits
from convergenced.errors import UsageError
from convergenced.model import Content, LocalPath, Oid, ProjectId
from convergenced.store.branch import project_at
from convergenced.sync.board import Missing
from convergenced.sync.conflicts import (
    ConflictedFile,
    Settled,
    Side,
    Take,
    find_conflicts,
    names_in_conflict,
    settle,
)
from convergenced.sync.divergences import Divergence, find_divergences
from convergenced.sync.engine import Engine
from convergenced.sync.ingest import policy_of
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.scan import MEMORY
from convergenced.sync.tips import tip_of

SCHEMA = 1
RECENT = 30 * 86_400.0
"""Seconds for which sessions that became two are listed."""
MAX_SIDE = 16 * 1024
"""Bytes of one side that are shown, at most."""
MAX_SHOWN = 1024 * 1024
"""Bytes of all sides that are shown, at most."""
MAX_NAMED = 20
"""Files in conflict that an error names, at most."""


# -- listing


def list_conflicts(
    parts: Parts, projects: Iterable[ProjectId], replicas: Sequence[Replica]
) -> answers.Conflicts:
    """What is in conflict in these projects, and which of their sessions became two of late.

    `replicas` are the folders that take part here; texts are shown with their paths.
    """
    listing = _Listing(parts, replicas)
    for project in sorted(projects):
        tip = tip_of(parts.store, project)
        if tip is not None:
            listing.add(project, tip)
    return {"schema": SCHEMA, "conflicts": listing.files, "divergences": listing.divergences}


class _Listing:
    def __init__(self, parts: Parts, replicas: Sequence[Replica]) -> None:
        self._parts = parts
        self._replicas = sorted(replicas, key=lambda replica: not replica.primary)
        self._room = MAX_SHOWN
        self.files: list[answers.ConflictFile] = []
        self.divergences: list[answers.Divergence] = []

    def add(self, project: ProjectId, tip: Oid) -> None:
        replica = next((one for one in self._replicas if one.project == project), None)
        rewriter = None
        if replica is not None:
            rewriter = replica.rewriter(self._parts.machine, policy_of(self._parts, replica).rewrite_home)
        for file in find_conflicts(self._parts.store, project, tip):
            self.files.append(self._file(file, replica, rewriter))
        since = self._parts.clock.now() - RECENT
        for one in find_divergences(self._parts.store, project, tip, since=since):
            self.divergences.append(_divergence(one))

    def _file(
        self, file: ConflictedFile, replica: Replica | None, rewriter: Rewriter | None
    ) -> answers.ConflictFile:
        return {
            "project": file.project,
            "path": file.path,
            "name": file.name,
            "local": None if replica is None else replica.path(self._parts.machine, file.path),
            "conflicts": [[self._side(side, rewriter) for side in sides] for sides in file.conflicts],
        }

    def _side(self, side: Side, rewriter: Rewriter | None) -> answers.ConflictSide:
        data = b"\n".join(side.lines)
        if rewriter is not None:
            data = rewriter.localize(data, Content.TEXT)
        shown = data[: min(MAX_SIDE, self._room)]
        self._room -= len(shown)
        author = side.author
        return {
            "machine": None if author is None else author.name,
            "ours": author is not None and author.email == self._parts.machine.author.email,
            "at": iso(side.at),
            "text": shown.decode("utf-8", "replace"),
            "cut": len(shown) < len(data),
        }


def _divergence(one: Divergence) -> answers.Divergence:
    return {
        "project": one.project,
        "session": one.session,
        "fork": one.fork,
        "at": iso(one.at),
        "session_by": one.session_by,
        "fork_by": one.fork_by,
    }


# -- settling


def locate(parts: Parts, replicas: Sequence[Replica], text: str, local: str) -> tuple[ProjectId, str]:
    """The project and the name below its memory folder that a person means.

    `text` is what was typed, `local` the same as an absolute path. Raises `UsageError` where no conflict or
    more than one is meant.
    """
    names = {
        (project, name)
        for project in {replica.project for replica in replicas}
        for name in names_in_conflict(parts.store, project_at(parts.store, tip_of(parts.store, project))[0])
    }
    wanted = os.path.realpath(local)
    meant = {
        (replica.project, name)
        for replica in replicas
        for project, name in names
        if project == replica.project
        and os.path.realpath(replica.path(parts.machine, f"{MEMORY}/{name}")) == wanted
    }
    meant = meant or {one for one in names if text in (_shown(*one), f"{MEMORY}/{one[1]}")}
    if len(meant) == 1:
        (one,) = meant
        return one
    listed = sorted(_shown(*one) for one in meant or names)
    if meant:
        raise UsageError(f"{text} is in conflict in {len(meant)} projects", _one_of(listed))
    raise UsageError(f"{text} is no memory file that holds both sides", _one_of(listed))


def _shown(project: ProjectId, name: str) -> str:
    return f"{project}:{MEMORY}/{name}"


def _one_of(names: Sequence[str]) -> str:
    if not names:
        return "there is no conflict here; see: convergencectl conflicts"
    more = [f"  and {len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
    return "\n".join(["in conflict:", *(f"  {name}" for name in names[:MAX_NAMED]), *more])


class Settlement:
    """One `conflict resolve` in a daemon. Everything here is called in the control thread."""

    def __init__(
        self,
        engine: Engine,
        text: str,
        local: LocalPath,
        take: Take,
        *,
        done: Callable[[answers.Settled], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._engine = engine
        self._text = text
        self._local = local
        self._take = take
        self._done = done
        self._failed = failed

    def start(self) -> None:
        """Finds what is meant and settles it; the answer comes later."""
        parts = self._engine.desk.parts
        replicas = [state.replica for state in self._engine.board.replicas.values()]
        self._engine.background(
            lambda: locate(parts, replicas, self._text, self._local), self._settle, self._failed
        )

    def _settle(self, meant: tuple[ProjectId, str]) -> None:
        project, name = meant
        desk, take = self._engine.desk, self._take
        if (stop := find_stop(desk, project)) is not None:
            self._failed(stop)
            return
        replicas = [state.replica for state in desk.board.of_project(project)]
        desk.submit(
            desk.lane_of(project),
            lambda: settle(desk.parts, replicas, project, name, take),
            lambda settled: self._settled(project, name, settled),
            self._failed,
        )

    def _settled(self, project: ProjectId, name: str, settled: Settled) -> None:
        desk = self._engine.desk
        for report in settled.ingested:
            if report.commit is not None:
                desk.note("commit", project, f"committed {report.message}")
        since = self._engine.look_at_everything([project])
        deadline = desk.clock.monotonic() + SETTLE_S

        def is_written(_: list[Missing]) -> bool:
            states = desk.board.of_project(project)
            if desk.clock.monotonic() < deadline and not all(was_looked_at(one, since) for one in states):
                return False
            self._done(
                {
                    "project": project,
                    "path": f"{MEMORY}/{name}",
                    "name": _shown(project, name),
                    "edited": settled.commit is None,
                    "waits": next(filter(None, map(why_it_waits, states)), None),
                }
            )
            return True

        self._engine.wait([project], since, SETTLE_S, is_written)
