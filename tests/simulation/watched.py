"""Stores and files that are looked at while they work.

Owns the safety invariants of one machine: each is checked at the very moment at which it could be broken,
and what is broken is kept in `Findings`, because an engine survives whatever its jobs raise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from convergenced.machine.growth import MOST
from convergenced.merge.layout import read_folder, read_project
from convergenced.merge.segments import read_transcript
from convergenced.model import EMPTY_TREE, LocalPath, Oid, Snapshot
from convergenced.store.branch import LOCAL, PROJECTS
from tests.fakes.files import MemoryFiles
from tests.fakes.store import MemoryStore

Marks = frozenset[str]

_MARK = re.compile(rb'"(?:uuid|text)":"([^"]+)"|(note-\d+-\w+)')


class Findings:
    """What was found broken, in words. Never cleared."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, text: str) -> None:
        """An invariant does not hold."""
        self.found.append(text)


def marks_in(data: bytes) -> list[str]:
    """What tells the complete records of a transcript, or the lines of a note, from all others, in order."""
    return [(one or other).decode() for one, other in _MARK.findall(data)]


def conversation_in(data: bytes) -> tuple[bytes, ...]:
    """The uuids of a transcript's complete records of the conversation, in order."""
    lines = (line for line in data.split(b"\n")[:-1] if line.startswith(b'{"type":"user"'))
    # What a crash tore is not of the conversation.
    return tuple(json.loads(line)["uuid"].encode() for line in lines if line.endswith(b"}}"))


class Holdings:
    """What commits hold, remembered by object id, which means the same in every store."""

    def __init__(self) -> None:
        self._transcripts: dict[Oid, Marks] = {}
        self._trees: dict[Oid, Marks] = {}

    def of_transcript(self, store: MemoryStore, transcript: Oid) -> Marks:
        """The records of one transcript."""
        if transcript not in self._transcripts:
            data = b"".join(read_transcript(store, transcript))
            self._transcripts[transcript] = frozenset(marks_in(data))
        return self._transcripts[transcript]

    def of_commit(self, store: MemoryStore, commit: Oid | None) -> Marks:
        """All records that a commit's tree holds."""
        if commit is None:
            return frozenset()
        tree = store.read_commit(commit).tree
        if tree not in self._trees:
            project, _ = read_project(store, tree)
            found: set[str] = set()
            for session in project.sessions.values():
                if session.transcript is not None:
                    found |= self.of_transcript(store, session.transcript)
                if session.folder is not None:
                    for oid in read_folder(store, session.folder, "")[0].values():
                        found.update(marks_in(store.read_blob(oid)))
            self._trees[tree] = frozenset(found)
        return self._trees[tree]


class StoreWatch:
    """Holds one store to: refs move to descendants, name what is there, and never hold fewer records."""

    def __init__(self, who: str, store: MemoryStore, holdings: Holdings, findings: Findings) -> None:
        self._who = who
        self._store = store
        self._holdings = holdings
        self._findings = findings
        self._complete: set[Oid] = {EMPTY_TREE}
        self.committed: set[str] = set()
        """Every record that a branch or a replica's ref ever held here."""
        self.notes: set[Oid] = set()
        """Every version of a note that was ever committed here."""
        store.moved = self._moved

    def _moved(self, ref: str, old: Oid | None, new: Oid | None) -> None:
        if new is None:
            if ref.startswith((PROJECTS, LOCAL)):
                self._say(f"{ref} was taken away")
            return
        missing = self._first_missing(new)
        if missing is not None:
            self._say(f"{ref} moved to {new}, of which {missing} is not there")
            return
        if not ref.startswith((PROJECTS, LOCAL)):
            return
        store, holdings = self._store, self._holdings
        if old is not None and not descends(store, new, old):
            self._say(f"{ref} moved from {old} to {new}, which is no descendant")
        now = holdings.of_commit(store, new)
        lost = holdings.of_commit(store, old) - now
        if lost:
            self._say(f"{ref} lost {sorted(lost)}")
        self.committed |= now
        self.notes.update(read_project(store, store.read_commit(new).tree)[0].memory.values())

    def _say(self, text: str) -> None:
        self._findings.add(f"store of {self._who}: {text}")

    def _first_missing(self, tip: Oid) -> Oid | None:
        pending = [tip]
        while pending:
            oid = pending.pop()
            if oid in self._complete:
                continue
            if oid not in self._store.objects:
                return oid
            self._complete.add(oid)
            pending += _named_by(*self._store.objects[oid])
        return None


@lru_cache(maxsize=50_000)
def _named_by(kind: str, data: bytes) -> tuple[Oid, ...]:
    store = MemoryStore()
    if kind == "blob":
        return ()
    oid = Oid("x")
    store.objects[oid] = (kind, data)  # type: ignore[assignment]
    if kind == "tree":
        return tuple(entry.oid for entry in store.read_tree(oid))
    commit = store.read_commit(oid)
    return commit.tree, *commit.parents


def descends(store: MemoryStore, new: Oid, old: Oid) -> bool:
    """Whether `old` is `new` or one of its ancestors."""
    return old in ancestors(store, [new])


def ancestors(store: MemoryStore, tips: Iterable[Oid]) -> set[Oid]:
    """The commits and all that went before them."""
    seen: set[Oid] = set()
    waiting = list(tips)
    while waiting:
        oid = waiting.pop()
        if oid not in seen:
            seen.add(oid)
            waiting += store.read_commit(oid).parents
    return seen


class WatchedFiles(MemoryFiles):
    """Holds convergence to what it may do with files.

    It asks for a guard and has it called with the new file complete; it writes only below the projects
    folder; what it replaces is kept and accounted for.
    """

    def __init__(self, findings: Findings) -> None:
        super().__init__()
        self._findings = findings
        self.who = ""
        self.writes = 0
        self.runs_at: Callable[[str], bool] = lambda _path: False
        """Whether a client runs where a file belongs."""
        self.is_held: Callable[[str, bytes], bool] = lambda _path, _data: True
        """Whether the store has all that a file says."""
        self.projects_dir = self.backups_dir = ""

    def replace(
        self,
        path: LocalPath,
        chunks: Iterator[bytes],
        *,
        expect: Snapshot | None,
        mtime_ns: int,
        backup: LocalPath | None,
        guard: Callable[[], None],
        kept: int = 0,
        mode: int | None = 0o600,
    ) -> Snapshot:
        self._check_place(path, backup)
        guarded = _Guard(guard, lambda: self._guarded(path))
        data = b"".join(chunks)
        with _Taken(self, path, backup) as taken:
            taken.grows = expect is not None and 0 < kept == expect.size and len(data) <= MOST
            made = super().replace(
                path,
                iter([data]),
                expect=expect,
                mtime_ns=mtime_ns,
                backup=backup,
                guard=guarded,
                kept=kept,
                mode=mode,
            )
            if path.endswith(".jsonl") and _torn_line(data) not in (b"", _torn_line(taken.old or b"")):
                self._say(f"an incomplete transcript for {path}")
        if not guarded.asked:
            self._say(f"{path} was written unguarded")
        return made

    def remove(
        self, path: LocalPath, *, expect: Snapshot, backup: LocalPath | None, guard: Callable[[], None]
    ) -> None:
        self._check_place(path, backup)
        guarded = _Guard(guard, lambda: self._guarded(path))
        with _Taken(self, path, backup):
            super().remove(path, expect=expect, backup=backup, guard=guarded)
        if not guarded.asked:
            self._say(f"{path} was removed unguarded")

    def old(self, path: str) -> bytes | None:
        """What stands at a path, None for nothing."""
        try:
            return self.content(path)
        except FileNotFoundError:
            return None

    def gone(self, path: str, old: bytes | None, backup: str | None) -> None:
        """Convergence replaced or removed what stood at `path`."""
        self.writes += 1
        if old is None:
            return
        if not self.is_held(path, old):
            self._say(f"{path} was replaced, and the store does not have all it said")
        kept = () if backup is None else self.paths(backup.rpartition("/")[0])
        if not any(one.startswith(backup or "?") and self.content(one) == old for one in kept):
            self._say(f"{path} was replaced, and no backup was kept")

    def _guarded(self, path: str) -> None:
        if self.runs_at(path):
            self._say(f"{path} is written while a client runs there")

    def _check_place(self, path: str, backup: str | None) -> None:
        if not path.startswith(self.projects_dir + "/") or not (backup or self.backups_dir).startswith(
            self.backups_dir
        ):
            self._say(f"{path} is written, or its backup {backup}, which is no place for it")

    def _say(self, text: str) -> None:
        self._findings.add(f"files of {self.who}: {text}")


class _Guard:
    """Calls the guard, and looks for itself where the guard let it pass."""

    def __init__(self, guard: Callable[[], None], passed: Callable[[], None]) -> None:
        self._guard = guard
        self._passed = passed
        self.asked = False

    def __call__(self) -> None:
        self._guard()
        self.asked = True
        self._passed()


class _Taken:
    """Looks at what stood at a path, right before and after it was replaced, crash or not."""

    def __init__(self, files: WatchedFiles, path: str, backup: str | None) -> None:
        self._files = files
        self._path = path
        self._backup = backup
        self.old: bytes | None = None
        self.grows = False
        """Whether it only gets longer: then nothing of it is replaced."""

    def __enter__(self) -> _Taken:
        settle = self._files.between

        def look(path: LocalPath) -> None:
            settle(path)
            self.old = self._files.old(path)

        self._settle, self._files.between = settle, look
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._files.between = self._settle
        if not self.grows and (kind is None or self._files.old(self._path) != self.old):
            self._files.gone(self._path, self.old, self._backup)


def _torn_line(data: bytes) -> bytes:
    return data[data.rfind(b"\n") + 1 :]
