"""`scan`: looks for apparent secrets in all that is here, and in the sessions that only the store has.

Promises: nothing is changed; however much there is, little of it is in memory; what cannot be read is named
and does not hide the rest; no secret is in the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from convergenced.canon.secrets import WHAT, find_secrets
from convergenced.control import answers
from convergenced.control.sessions import list_sessions
from convergenced.errors import ConvergenceError
from convergenced.merge.segments import read_transcript
from convergenced.model import EMPTY_TREE, LocalPath, ProjectId, SessionId, Snapshot
from convergenced.store.branch import project_at
from convergenced.sync.replica import Parts, Replica, lineage_of
from convergenced.sync.scan import TRANSCRIPT_SUFFIX, scan_folder, session_of
from convergenced.sync.screening import salt_of
from convergenced.sync.tips import tip_of

SCHEMA = 1
READ_BYTES = 1024 * 1024
LONGEST = 4 * READ_BYTES
"""Bytes of a line, or of a note, that are searched at once, at most."""
OVERLAP = 32 * 1024
"""Bytes of what is longer that are searched twice, so that no secret is cut."""
MAX_FOUND = 10_000

Tell = Callable[[str, int, int], None]
"""Hears of the project that is looked at, the bytes that were searched, and how many there are."""


@dataclass(frozen=True, slots=True)
class _Source:
    """One text to be searched. `name` is relative to the context folder; `path` is None in the store."""

    project: ProjectId
    name: str
    path: str | None
    session: SessionId | None
    size: int
    pieces: Callable[[], Iterator[bytes]]


def scan_secrets(
    parts: Parts, replicas: Iterable[Replica], only: ProjectId | None, tell: Tell
) -> answers.Secrets:
    """All apparent secrets of all projects, or of one. `replicas` are the folders that take part."""
    return _Scan(parts, [one for one in replicas if only in (None, one.project)], only, tell).run()


class _Scan:
    def __init__(self, parts: Parts, replicas: list[Replica], only: ProjectId | None, tell: Tell) -> None:
        self._parts = parts
        self._replicas = replicas
        self._only = only
        self._tell = tell
        self._allowed = parts.state.allowed()
        self._salt = salt_of(parts.machine.id)
        self._found: dict[tuple[str, str, str], answers.Secret] = {}
        self._unreadable: list[answers.ProjectText] = []

    def run(self) -> answers.Secrets:
        listing = list_sessions(self._parts, self._replicas, self._only)
        self._unreadable.extend(listing["unreadable"])
        titles = {(one["project"], one["id"]): one["title"] for one in listing["sessions"]}
        sources = list(self._local())
        here = {(one.project, one.session) for one in sources if session_of(one.name)}
        away = [one for one in listing["sessions"] if (one["project"], one["id"]) not in here]
        sources.extend(self._stored(away))
        done, of = 0, sum(one.size for one in sources)
        for source in sources:
            self._tell(source.project, done, of)
            title = titles.get((source.project, source.session or ""), "")
            try:
                self._search(source, title)
            except (ConvergenceError, OSError) as error:
                text = error.summary if isinstance(error, ConvergenceError) else str(error)
                self._unreadable.append({"project": source.project, "text": f"{source.name}: {text}"})
            done += source.size
        self._tell("", of, of)
        return {
            "schema": SCHEMA,
            "secrets": list(self._found.values()),
            "files": len(sources),
            "bytes": of,
            "whole": len(self._found) < MAX_FOUND,
            "unreadable": self._unreadable,
        }

    def _local(self) -> Iterator[_Source]:
        parts = self._parts
        for replica in self._replicas:
            scan = scan_folder(parts.files, replica.context_dir(parts.machine))
            if scan is None:
                continue
            files = {f"{sid}{TRANSCRIPT_SUFFIX}": snapshot for sid, snapshot in scan.transcripts.items()}
            for name, snapshot in (files | scan.attached | scan.memory).items():
                path = replica.path(parts.machine, name)
                session = session_of(name.partition("/")[0])
                yield _Source(
                    *(replica.project, name, path, session, snapshot.size), self._reader(path, snapshot)
                )

    def _reader(self, path: LocalPath, snapshot: Snapshot) -> Callable[[], Iterator[bytes]]:
        def pieces() -> Iterator[bytes]:
            for at in range(0, snapshot.size, READ_BYTES):
                yield self._parts.files.read(path, at, min(READ_BYTES, snapshot.size - at))

        return pieces

    def _stored(self, listed: Iterable[answers.Session]) -> Iterator[_Source]:
        store = self._parts.store
        trees = {}
        for one in listed:
            project, sid = ProjectId(one["project"]), SessionId(one["id"])
            if project not in trees:
                trees[project] = project_at(store, tip_of(store, project))[0]
            lineage = lineage_of(store, sid, trees[project].sessions[sid])
            yield _Source(
                *(project, f"{sid}{TRANSCRIPT_SUFFIX}", None, sid, one["bytes"]),
                lambda lineage=lineage: read_transcript(store, lineage or EMPTY_TREE),  # type: ignore[misc]
            )

    def _search(self, source: _Source, title: str) -> None:
        seen: set[tuple[str, int]] = set()
        is_lines = source.name.endswith(TRANSCRIPT_SUFFIX)
        for data, first in _whole(source.pieces(), is_lines=is_lines):
            for secret in find_secrets(data, self._salt):
                line = first + data.count(b"\n", 0, secret.start)
                if (secret.fingerprint, line) in seen:
                    continue  # met twice where two windows overlap, or twice in a line
                seen.add((secret.fingerprint, line))
                key = (source.project, source.path or source.name, secret.fingerprint)
                if key in self._found:
                    self._found[key]["count"] += 1
                elif len(self._found) < MAX_FOUND:
                    self._found[key] = {
                        "project": source.project,
                        "session": source.session,
                        "title": title,
                        "name": source.name,
                        "path": source.path,
                        "line": line,
                        "count": 1,
                        "rule": secret.rule,
                        "what": WHAT[secret.rule],
                        "shown": secret.shown,
                        "fingerprint": secret.fingerprint,
                        "allowed": secret.fingerprint in self._allowed,
                    }


def _whole(pieces: Iterable[bytes], *, is_lines: bool) -> Iterator[tuple[bytes, int]]:
    """Whole lines (else the whole text), and the number of the first, from pieces that may end anywhere.

    What is longer than `LONGEST` comes in windows that overlap.
    """
    rest, line = b"", 1
    for piece in pieces:
        rest += piece
        cut = rest.rfind(b"\n") + 1 if is_lines else 0
        if not cut and len(rest) > LONGEST:
            yield rest, line
            cut = len(rest) - OVERLAP
        elif cut:
            yield rest[:cut], line
        line += rest.count(b"\n", 0, cut)
        rest = rest[cut:]
    if rest:
        yield rest, line
