"""Memory files that hold both sides: which, who wrote each side, and settling them.

A settled file is one more edit on top of the project's tip, so it travels and merges like any other.
Promises: nothing is settled by guessing (whose side is whose comes from the history, or it is an error),
and what was edited locally meanwhile is committed first. Looking back through the history is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from convergenced.errors import ConvergenceError, RefMovedError
from convergenced.merge.conflict import Conflict, Lines, Part, has_conflict, parse_conflicts
from convergenced.merge.layout import CONTEXT, ProjectTree, read_folder, write_project
from convergenced.model import Author, Commit, Oid, ProjectId
from convergenced.ports import Store
from convergenced.store.branch import MERGER, commit_tree, project_at, project_ref, walk_back
from convergenced.sync.ingest import IngestReport, ingest, policy_of
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.scan import MEMORY, is_set_aside
from convergenced.sync.tips import MAX_TRIES, tip_of

LOOK_BACK = 2_000
"""Commits in which the writers of a conflict's sides are looked for, at most."""

Take = Literal["ours", "theirs", "both"]

_EDGE = b"\n"
"""Stands before the first line and behind the last one; no line is like it."""
_BLOCK = b"\n\n"
"""Stands in the place of a conflict among lines."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the alternatives. `author` and `at` (Unix seconds) are None where they cannot be told."""

    lines: Lines
    author: Author | None = None
    at: int | None = None


@dataclass(frozen=True, slots=True)
class ConflictedFile:
    """A memory file with conflicts: `path` as in the context folder, and the sides of each conflict."""

    project: ProjectId
    path: str
    conflicts: tuple[tuple[Side, ...], ...]

    @property
    def name(self) -> str:
        """What a person calls it by."""
        return f"{self.project}:{self.path}"


def names_in_conflict(store: Store, tree: ProjectTree) -> list[str]:
    """The names of the memory files that hold conflicts."""
    return [name for name, oid in tree.memory.items() if has_conflict(store.read_blob(oid))]


def find_conflicts(store: Store, project: ProjectId, tip: Oid) -> list[ConflictedFile]:
    """The project's memory files that hold both sides, with who wrote each side."""
    tree, _ = project_at(store, tip)
    texts = {name: _parts_of(store.read_blob(tree.memory[name])) for name in names_in_conflict(store, tree)}
    wanted = {(name, passage) for name, parts in texts.items() for passage in _passages(parts)}
    writers = _Writers(store).find(tip, wanted)
    found = []
    for name, parts in texts.items():
        sides = iter([_side(passage, writers.get((name, passage))) for passage in _passages(parts)])
        conflicts = [
            tuple(next(sides) for _ in part.alternatives) for part in parts if isinstance(part, Conflict)
        ]
        found.append(ConflictedFile(project, f"{MEMORY}/{name}", tuple(conflicts)))
    return found


@dataclass(slots=True)
class Settled:
    """What settling did: `commit` where it was still to be done, and what ingest found before."""

    commit: Oid | None
    ingested: list[IngestReport]


def settle(parts: Parts, replicas: Iterable[Replica], project: ProjectId, name: str, take: Take) -> Settled:
    """Takes one side (or both) of every conflict in a memory file, for all machines.

    `name` is relative to the memory folder, `replicas` are this machine's folders of the project. Belongs
    into the project's lane. Raises `ConvergenceError` where it cannot be told whose side is whose.
    """
    settled = Settled(None, [])
    for replica in replicas:
        report = ingest(parts, replica, policy_of(parts, replica))
        settled.ingested.append(report)
        path = f"{MEMORY}/{name}"
        if report.retry or is_set_aside(path, {refusal.where for refusal in report.refusals}):
            raise ConvergenceError(
                f"{replica.path(parts.machine, path)} cannot be read as it is now",
                "try again; if this stays, see: convergencectl status",
            )
    for _ in range(MAX_TRIES):
        tip = tip_of(parts.store, project)
        tree, _ = project_at(parts.store, tip)
        oid = tree.memory.get(name)
        if tip is None or oid is None or not has_conflict(data := parts.store.read_blob(oid)):
            return settled  # an edit did it
        text = _Settling(parts, project, tip, name, take).text_of(data)
        memory = {**tree.memory, name: parts.store.write_blob(text)}
        oid = write_project(parts.store, replace(tree, memory=memory))
        now = int(parts.clock.now())
        author, ref = parts.machine.author, project_ref(project)
        try:
            settled.commit = commit_tree(
                parts.store, ref, oid, (tip,), author, now, "settled a memory conflict"
            )
        except RefMovedError:
            continue
        return settled
    raise RefMovedError(f"{project_ref(project)} kept moving", "try again")


class _Settling:
    """One file at one tip."""

    def __init__(self, parts: Parts, project: ProjectId, tip: Oid, name: str, take: Take) -> None:
        self._parts = parts
        self._project = project
        self._tip = tip
        self._name = name
        self._take = take

    def text_of(self, data: bytes) -> bytes:
        """The file without conflicts."""
        if self._take == "both":
            while has_conflict(data):  # a side may hold markers of its own
                data = _without(data, lambda conflict: [line for one in conflict for line in one])
            return data
        files = find_conflicts(self._parts.store, self._project, self._tip)
        (sides,) = (one.conflicts for one in files if one.path == f"{MEMORY}/{self._name}")
        chosen = iter([self._choose(conflict) for conflict in sides])
        data = _without(data, lambda _: next(chosen))
        if has_conflict(data):
            raise self._unclear("a side of it holds markers itself")
        return data

    def _choose(self, sides: Sequence[Side]) -> Lines:
        email = self._parts.machine.author.email
        ours = [side for side in sides if side.author is not None and side.author.email == email]
        theirs = [side for side in sides if side not in ours]
        if len(ours) != 1:
            by = ", ".join(side.author.name if side.author is not None else "unknown" for side in sides)
            which = "neither side was" if not ours else "more than one side was"
            raise self._unclear(f"{which} written on this machine, as far as can be told (written by: {by})")
        if self._take == "ours":
            return ours[0].lines
        if len(theirs) != 1:
            raise self._unclear(f"there are {len(theirs)} other sides")
        return theirs[0].lines

    def _unclear(self, why: str) -> ConvergenceError:
        file = f"{MEMORY}/{self._name}"
        return ConvergenceError(
            f"cannot take {self._take} for {self._project}:{file}: {why}",
            "take both, or edit the file and remove the markers",
        )


def _without(data: bytes, choose: Callable[[tuple[Lines, ...]], Iterable[bytes]]) -> bytes:
    """The text with what was chosen in the place of each conflict."""
    lines: list[bytes] = []
    for part in _parts_of(data):
        lines += choose(part.alternatives) if isinstance(part, Conflict) else [part]
    return b"\n".join(lines)


def _parts_of(data: bytes) -> list[Part]:
    return parse_conflicts(data.split(b"\n"))


# -- who wrote what


@dataclass(frozen=True, slots=True)
class _Passage:
    """Lines, and what stands right before and behind them; None where that is a conflict."""

    lines: Lines
    before: bytes | None
    behind: bytes | None

    def stands_in(self, text: Sequence[bytes], *, exactly: bool) -> bool:
        """Whether a text holds the lines, together and, if `exactly`, between the same neighbours."""
        wanted = list(self.lines)
        if exactly or not wanted:
            wanted = [one for one in (self.before, *wanted, self.behind) if one is not None]
        last = len(text) - len(wanted)
        return bool(wanted) and any(text[at : at + len(wanted)] == wanted for at in range(last + 1))


def _passages(parts: Sequence[Part]) -> Iterator[_Passage]:
    """Every alternative in a text, in order."""
    around = [_EDGE, *(_BLOCK if isinstance(part, Conflict) else part for part in parts), _EDGE]
    for at, part in enumerate(parts):
        if isinstance(part, Conflict):
            before, behind = (None if one == _BLOCK else one for one in (around[at], around[at + 2]))
            for lines in part.alternatives:
                yield _Passage(lines, before, behind)


def _side(passage: _Passage, commit: Commit | None) -> Side:
    if commit is None:
        return Side(passage.lines)
    return Side(passage.lines, commit.author, commit.time)


_Wanted = tuple[str, _Passage]


class _Writers:
    """Finds the newest commits of machines that brought passages into memory files."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folders: dict[Oid, dict[str, Oid]] = {}
        self._texts: dict[Oid, list[bytes]] = {}

    def find(self, tip: Oid, wanted: set[_Wanted]) -> Mapping[_Wanted, Commit]:
        """The commit of each passage that was found, looking back from `tip`."""
        exact: dict[_Wanted, Commit] = {}
        loose: dict[_Wanted, Commit] = {}
        for _, commit in walk_back(self._store, tip, limit=LOOK_BACK):
            missing = [one for one in wanted if one not in exact]
            if not missing:
                break
            if commit.author == MERGER:
                continue
            now = self._memory(commit.tree)
            before = [self._memory(self._store.read_commit(parent).tree) for parent in commit.parents]
            for one in missing:
                if self._brought(one, now, before, exactly=True):
                    exact[one] = commit
                elif one not in loose and self._brought(one, now, before, exactly=False):
                    loose[one] = commit
        return {**loose, **exact}

    def _brought(
        self, wanted: _Wanted, now: Mapping[str, Oid], before: Sequence[Mapping[str, Oid]], *, exactly: bool
    ) -> bool:
        name, passage = wanted
        oid, former = now.get(name), [one.get(name) for one in before]
        if oid is None or oid in former or not passage.stands_in(self._text(oid), exactly=exactly):
            return False
        return not any(
            passage.stands_in(self._text(one), exactly=exactly) for one in former if one is not None
        )

    def _memory(self, tree: Oid) -> Mapping[str, Oid]:
        for name in (CONTEXT, MEMORY):
            below = (entry for entry in self._store.read_tree(tree) if entry.name == name and entry.is_tree)
            entry = next(below, None)
            if entry is None:
                return {}
            tree = entry.oid
        if tree not in self._folders:
            self._folders[tree] = read_folder(self._store, tree, f"{CONTEXT}/{MEMORY}")[0]
        return self._folders[tree]

    def _text(self, oid: Oid) -> list[bytes]:
        if oid not in self._texts:
            parts = _parts_of(self._store.read_blob(oid))
            inner = (_BLOCK if isinstance(part, Conflict) else part for part in parts)
            self._texts[oid] = [_EDGE, *inner, _EDGE]
        return self._texts[oid]
