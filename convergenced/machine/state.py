"""What this machine remembers between runs, in sqlite: a cache, never the truth.

Owns the notes that make a second look cheap (which bytes of which file are already accounted
for) and the switches that survive a restart (pauses, folders that were joined by hand). Deleting
the database costs time: everything about content is rebuilt from the local files and the store. So a
row that makes no sense counts as none.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from convergenced.errors import NewerSchemaError
from convergenced.machine.state_upgrade import upgrade
from convergenced.model import LocalPath, Oid, ProjectId, SessionId, Snapshot

SCHEMA = 1
BUSY_MS = 5_000
PAGE_BYTES = 2048
"""A commit writes three pages, so they are small."""

_TABLES = """
CREATE TABLE IF NOT EXISTS file (
  folder TEXT NOT NULL, path TEXT NOT NULL,
  device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
  consumed INTEGER NOT NULL, window BLOB NOT NULL, oid TEXT NOT NULL, form BLOB NOT NULL,
  PRIMARY KEY (folder, path)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS replica (
  folder TEXT PRIMARY KEY, project TEXT NOT NULL, root TEXT NOT NULL, by_hand INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS head (folder TEXT PRIMARY KEY, oid TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS said (project TEXT PRIMARY KEY, words TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pause (project TEXT PRIMARY KEY, until REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stranger (peer TEXT, project TEXT, tip TEXT, PRIMARY KEY (peer, project))
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS told (project TEXT PRIMARY KEY, tip TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notice (
  project TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, at REAL NOT NULL,
  PRIMARY KEY (project, kind, text)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alerted (matter TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS wanted (folder TEXT, session TEXT, PRIMARY KEY (folder, session)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS secret (
  folder TEXT, path TEXT, fingerprint TEXT, rule TEXT NOT NULL, shown TEXT NOT NULL,
  start INTEGER NOT NULL, size INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (folder, path, fingerprint)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS allowed (fingerprint TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cataloged (project TEXT PRIMARY KEY, tip TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS catalog (
  project TEXT NOT NULL, session TEXT NOT NULL, transcript TEXT NOT NULL, folder TEXT NOT NULL,
  title TEXT NOT NULL, prompt TEXT NOT NULL, began REAL, ended REAL, size INTEGER NOT NULL,
  records INTEGER NOT NULL, is_exact INTEGER NOT NULL, machine TEXT, origin TEXT,
  PRIMARY KEY (project, session)
) WITHOUT ROWID;
"""
_DECIDED = ("replica", "pause", "wanted", "allowed")
"""Tables that hold what a person decided: they outlive a change of their columns."""
_CATALOG_COLUMNS = (
    "session, transcript, folder, title, prompt, began, ended, size, records, is_exact, machine, origin"
)
_LOOKS = (
    "SELECT folder, path, device, inode, size, mtime_ns, consumed, window, oid, form FROM file LIMIT 0",
    "SELECT folder, project, root, by_hand FROM replica LIMIT 0",
    "SELECT folder, oid FROM head LIMIT 0",
    "SELECT project, words FROM said LIMIT 0",
    "SELECT project, until FROM pause LIMIT 0",
    "SELECT peer, project, tip FROM stranger LIMIT 0",
    "SELECT project, tip FROM told LIMIT 0",
    "SELECT project, kind, text, at FROM notice LIMIT 0",
    "SELECT matter, at FROM alerted LIMIT 0",
    "SELECT folder, session FROM wanted LIMIT 0",
    "SELECT folder, path, fingerprint, rule, shown, start, size, digest FROM secret LIMIT 0",
    "SELECT fingerprint, at FROM allowed LIMIT 0",
    "SELECT project, tip FROM cataloged LIMIT 0",
    f"SELECT {_CATALOG_COLUMNS} FROM catalog LIMIT 0",  # noqa: S608 - a constant
)
"""What fails where a table is not what it should be."""


@dataclass(frozen=True, slots=True)
class FileNote:
    """What of one local file is accounted for.

    `consumed` is how many of its leading bytes are (complete records only), `window` a digest of
    the last of those bytes, by which a rewrite in place is told from an append, and `oid` their
    canonical form in the store: a tree of segments for a transcript, a blob for any other file.
    `form` names the local form (`Rewriter.form`) in which `oid` is those bytes exactly; empty where it
    is not known to be.
    """

    snapshot: Snapshot
    consumed: int
    window: bytes
    oid: Oid
    form: bytes = b""


@dataclass(frozen=True, slots=True)
class ReplicaNote:
    """That a context folder takes part in a project. `by_hand` where the user said so."""

    folder: str
    project: ProjectId
    root: LocalPath
    by_hand: bool


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to know that needs nobody. `at` is when it was first told, Unix seconds."""

    kind: str
    project: ProjectId
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class SecretNote:
    """An apparent secret in a local file, without the secret.

    It stands in the lines that begin at byte `start` and have `size` bytes; `digest` tells whether they still
    stand there. `rule`, `shown` and `fingerprint` are as `canon.secrets` has them.
    """

    path: str
    fingerprint: str
    rule: str
    shown: str
    start: int
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class CatalogNote:
    """What a listing tells of one session, as canonical text; empty where there is nothing to tell.

    `transcript` and `folder` name the objects that it was read from. `began` and `ended` are the times of
    the first and last record, Unix seconds. `records` is an estimate where not `is_exact`. `machine` wrote
    last, as far as is known; `origin` is the session that this one was made from.
    """

    transcript: str
    folder: str
    title: str
    prompt: str
    began: float | None
    ended: float | None
    size: int
    records: int
    is_exact: bool
    machine: str | None = None
    origin: SessionId | None = None


_SOUND_CATALOG = (
    f"SELECT {_CATALOG_COLUMNS} FROM catalog"  # noqa: S608 - a constant
    " WHERE project = ? AND typeof(session) = 'text' AND typeof(transcript) = 'text'"
    " AND typeof(folder) = 'text' AND typeof(title) = 'text' AND typeof(prompt) = 'text'"
    " AND typeof(began) IN ('real', 'null') AND typeof(ended) IN ('real', 'null')"
    " AND typeof(size) = 'integer' AND typeof(records) = 'integer' AND typeof(is_exact) = 'integer'"
    " AND typeof(machine) IN ('text', 'null') AND typeof(origin) IN ('text', 'null')"
)
_SOUND_FILES = (
    "SELECT path, device, inode, size, mtime_ns, consumed, window, oid, form FROM file WHERE folder = ?"
    " AND typeof(path) IN ('text', 'blob') AND typeof(window) = 'blob' AND typeof(oid) = 'text'"
    " AND typeof(form) = 'blob'"
    " AND typeof(device) = 'integer' AND typeof(inode) = 'integer' AND typeof(size) = 'integer'"
    " AND typeof(mtime_ns) = 'integer' AND typeof(consumed) = 'integer' AND consumed BETWEEN 0 AND size"
)
_SOUND_SECRETS = (
    "SELECT path, fingerprint, rule, shown, start, size, digest FROM secret WHERE folder = ?"
    " AND typeof(path) IN ('text', 'blob') AND typeof(fingerprint) = 'text' AND typeof(rule) = 'text'"
    " AND typeof(shown) = 'text' AND typeof(start) = 'integer' AND typeof(size) = 'integer'"
    " AND typeof(digest) = 'blob' AND start >= 0 AND size >= 0 ORDER BY path, start, fingerprint"
)
_SOUND_REPLICAS = (
    "SELECT folder, project, root, by_hand FROM replica WHERE typeof(folder) = 'text'"
    " AND typeof(project) = 'text' AND typeof(root) IN ('text', 'blob') AND typeof(by_hand) = 'integer'"
    " ORDER BY folder"
)


def _lenient(raw: bytes) -> str:
    """Text that a damaged page holds is text all the same, and nobody's name."""
    return raw.decode("utf-8", "surrogateescape")


def _note(row: Sequence[Any]) -> FileNote:
    return FileNote(Snapshot(*row[1:5]), row[5], row[6], Oid(row[7]), row[8])


def _text(path: str) -> str | bytes:
    """Sqlite refuses lone surrogates (undecodable file names); those are kept as bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogateescape")
    return path


def _path(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


def _cataloged(row: Sequence[Any]) -> CatalogNote:
    _, transcript, folder, title, prompt, began, ended, size, records, is_exact, machine, origin = row
    return CatalogNote(
        *(transcript, folder, title, prompt, began, ended, size, records, bool(is_exact), machine, origin)
    )


def _catalog_row(note: CatalogNote) -> tuple[object, ...]:
    fields = (note.title, note.prompt, note.began, note.ended, note.size, note.records)
    return (note.transcript, note.folder, *fields, int(note.is_exact), note.machine, note.origin)


class State:
    """The database. Safe to use from several threads; one writer at a time."""

    def __init__(self, path: str) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(
            path, check_same_thread=False, timeout=BUSY_MS / 1000, isolation_level=None
        )
        self._db.text_factory = _lenient
        self._db.execute(f"PRAGMA page_size={PAGE_BYTES}")  # counts where the file is made
        # Nobody else opens it while the daemon runs; shared memory for others would dirty the disk at idle.
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode=WAL")
        # Losing the last transactions in a power cut is harmless: the notes are a cache.
        self._db.execute("PRAGMA synchronous=OFF")
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA:
            self._db.close()
            raise NewerSchemaError(
                f"the state database {path} was written by a newer version (schema {version})",
                "upgrade convergence, or move the file away: it is only a cache",
            )
        upgrade(self._db, _TABLES, _DECIDED)
        self._db.executescript(_TABLES)
        self._check()
        self._db.execute(f"PRAGMA user_version={SCHEMA}")

    def _check(self) -> None:
        """Raises `sqlite3.DatabaseError` for damage that a first look at the file does not show."""
        for look in _LOOKS:
            self._db.execute(look)
        found = str(self._db.execute("PRAGMA quick_check(1)").fetchone()[0])
        if found != "ok":
            raise sqlite3.DatabaseError(found)

    def find_damage(self) -> str | None:
        """What is wrong with the database as a file, in sqlite's words; None where nothing is."""
        with self._lock:
            try:
                rows = self._db.execute("PRAGMA quick_check(1)").fetchall()
            except sqlite3.DatabaseError as error:
                return str(error)
        return None if rows == [("ok",)] else str(rows[0][0])

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            self._db.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Makes the writes inside one transaction."""
        with self._lock:
            self._db.execute("BEGIN")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def files(self, folder: str) -> dict[str, FileNote]:
        """The notes of one context folder, by path relative to it."""
        with self._lock:
            rows = self._db.execute(_SOUND_FILES, (folder,)).fetchall()
        return {_path(row[0]): _note(row) for row in rows}

    def file(self, folder: str, path: str) -> FileNote | None:
        """The note of one file."""
        with self._lock:
            row = self._db.execute(f"{_SOUND_FILES} AND path = ?", (folder, _text(path))).fetchone()
        return _note(row) if row else None

    def note_file(self, folder: str, path: str, note: FileNote) -> None:
        """Remembers a file."""
        snapshot = note.snapshot
        with self._lock:
            self._db.execute(
                "INSERT OR REPLACE INTO file VALUES (?,?,?,?,?,?,?,?,?,?)",
                (
                    *(folder, _text(path), snapshot.device, snapshot.inode, snapshot.size, snapshot.mtime_ns),
                    *(note.consumed, note.window, note.oid, note.form),
                ),
            )

    def forget_file(self, folder: str, path: str) -> None:
        """Forgets a file that is gone."""
        with self._lock:
            self._db.execute("DELETE FROM file WHERE folder = ? AND path = ?", (folder, _text(path)))

    def forget_files(self, folder: str) -> None:
        """Forgets all notes of a folder, so that everything in it is read again."""
        with self._lock:
            self._db.execute("DELETE FROM file WHERE folder = ?", (folder,))
            self._db.execute("DELETE FROM head WHERE folder = ?", (folder,))

    def head(self, folder: str) -> Oid | None:
        """The commit at which the folder's notes were last brought up to date."""
        with self._lock:
            row = self._db.execute("SELECT oid FROM head WHERE folder = ?", (folder,)).fetchone()
        return Oid(str(row[0])) if row else None

    def note_head(self, folder: str, commit: Oid) -> None:
        """Remembers which commit the folder's notes belong to: without it they mean nothing."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO head VALUES (?,?)", (folder, commit))

    def said(self, project: str) -> str | None:
        """What the machine last said of itself in a project."""
        with self._lock:
            row = self._db.execute("SELECT words FROM said WHERE project = ?", (project,)).fetchone()
        return str(row[0]) if row else None

    def note_said(self, project: str, words: str) -> None:
        """Remembers what the machine says of itself."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO said VALUES (?,?)", (project, words))

    def replicas(self) -> list[ReplicaNote]:
        """The folders that take part in projects."""
        with self._lock:
            rows = self._db.execute(_SOUND_REPLICAS).fetchall()
        return [
            ReplicaNote(folder, ProjectId(project), LocalPath(_path(root)), bool(by_hand))
            for folder, project, root, by_hand in rows
        ]

    def note_replica(self, note: ReplicaNote) -> None:
        """Remembers that a folder takes part in a project."""
        with self._lock:
            self._db.execute(
                "INSERT OR REPLACE INTO replica VALUES (?,?,?,?)",
                (note.folder, note.project, _text(note.root), int(note.by_hand)),
            )

    def forget_replica(self, folder: str) -> None:
        """Forgets that a folder takes part."""
        with self._lock:
            self._db.execute("DELETE FROM replica WHERE folder = ?", (folder,))

    def forget_project(self, project: str) -> None:
        """Forgets all that is known of a project and of its folders, but not that it is paused."""
        with self.together():
            folders = self._db.execute("SELECT folder FROM replica WHERE project = ?", (project,)).fetchall()
            for table in ("file", "head", "wanted", "secret"):
                self._db.executemany(f"DELETE FROM {table} WHERE folder = ?", folders)  # noqa: S608
            for table in ("replica", "said", "stranger", "told", "notice", "cataloged", "catalog"):
                self._db.execute(f"DELETE FROM {table} WHERE project = ?", (project,))  # noqa: S608

    def pauses(self) -> dict[str, float | None]:
        """What is paused (a project id, or `*` for all) and until when, Unix seconds."""
        with self._lock:
            return dict(
                self._db.execute(
                    "SELECT project, until FROM pause"
                    " WHERE typeof(project) = 'text' AND typeof(until) IN ('real', 'null')"
                ).fetchall()
            )

    def pause(self, project: str, until: float | None) -> None:
        """Pauses a project (`*`: all), for ever where `until` is None."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO pause VALUES (?,?)", (project, until))

    def resume(self, project: str) -> None:
        """Ends a pause."""
        with self._lock:
            self._db.execute("DELETE FROM pause WHERE project = ?", (project,))

    def stranger(self, peer: str, project: str) -> str | None:
        """The tip at which a peer's project was found to be other code than ours."""
        with self._lock:
            row = self._db.execute(
                "SELECT tip FROM stranger WHERE peer = ? AND project = ?", (peer, project)
            ).fetchone()
        return str(row[0]) if row else None

    def note_stranger(self, peer: str, project: str, tip: str) -> None:
        """Remembers that a peer's project is not ours, so that it is fetched no more."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO stranger VALUES (?,?,?)", (peer, project, tip))

    def told(self, project: str) -> Oid | None:
        """The tip up to which the log tells what became of a project."""
        with self._lock:
            row = self._db.execute(
                "SELECT tip FROM told WHERE project = ? AND typeof(tip) = 'text'", (project,)
            ).fetchone()
        return Oid(row[0]) if row else None

    def note_told(self, project: str, tip: Oid) -> None:
        """Remembers that the log tells all up to a tip."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO told VALUES (?,?)", (project, tip))

    def notices(self) -> list[Notice]:
        """What is to be shown for a while, the oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT kind, project, text, at FROM notice WHERE typeof(project) = 'text'"
                " AND typeof(kind) = 'text' AND typeof(text) = 'text' AND typeof(at) = 'real'"
                " AND at BETWEEN 0 AND 253402300799"
                " ORDER BY at, text"
            ).fetchall()
        return [Notice(kind, ProjectId(project), text, at) for kind, project, text, at in rows]

    def note_notice(self, notice: Notice, expired: float) -> None:
        """Remembers a notice, and forgets those told at `expired` (Unix seconds) or before."""
        with self.together():
            self._db.execute("DELETE FROM notice WHERE at <= ?", (expired,))
            self._db.execute(
                "INSERT OR REPLACE INTO notice VALUES (?,?,?,?)",
                (notice.project, notice.kind, notice.text, float(notice.at)),
            )

    def alerted(self) -> dict[str, float]:
        """The matters that a person was told of on the desktop, and when each was last there."""
        with self._lock:
            return dict(
                self._db.execute(
                    "SELECT matter, at FROM alerted WHERE typeof(matter) = 'text' AND typeof(at) = 'real'"
                ).fetchall()
            )

    def note_alerted(self, matters: Iterable[str], at: float, expired: float) -> None:
        """Remembers that matters were told and are there, and forgets those last there at `expired`."""
        with self.together():
            self._db.execute("DELETE FROM alerted WHERE at <= ?", (expired,))
            self._db.executemany(
                "INSERT OR REPLACE INTO alerted VALUES (?,?)",
                [(matter, float(at)) for matter in matters],
            )

    # -- sessions that people ask for

    def wanted(self, folder: str) -> frozenset[SessionId]:
        """The sessions that a person wants back in a context folder."""
        with self._lock:
            rows = self._db.execute(
                "SELECT session FROM wanted WHERE folder = ? AND typeof(session) = 'text'", (folder,)
            ).fetchall()
        return frozenset(SessionId(row[0]) for row in rows)

    def want(self, folder: str, session: SessionId) -> None:
        """Remembers that a session is wanted back, until `unwant`."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO wanted VALUES (?,?)", (folder, session))

    def unwant(self, folder: str, session: SessionId) -> None:
        """Forgets it: the session is there."""
        with self._lock:
            self._db.execute("DELETE FROM wanted WHERE folder = ? AND session = ?", (folder, session))

    # -- apparent secrets

    def secrets(self, folder: str) -> list[SecretNote]:
        """The apparent secrets that were met in a context folder's files, in the order of their places."""
        with self._lock:
            rows = self._db.execute(_SOUND_SECRETS, (folder,)).fetchall()
        return [SecretNote(_path(path), *rest) for path, *rest in rows]

    def note_secrets(self, folder: str, path: str, notes: Iterable[SecretNote]) -> None:
        """Remembers the apparent secrets of a file, and no others of it."""
        with self._lock:
            self._db.execute("DELETE FROM secret WHERE folder = ? AND path = ?", (folder, _text(path)))
            self._db.executemany(
                "INSERT OR REPLACE INTO secret VALUES (?,?,?,?,?,?,?,?)",
                [
                    (
                        folder,
                        _text(path),
                        one.fingerprint,
                        one.rule,
                        one.shown,
                        one.start,
                        one.size,
                        one.digest,
                    )
                    for one in notes
                ],
            )

    def allowed(self) -> dict[str, float]:
        """The fingerprints of what a person says is fine, and when that was, Unix seconds."""
        with self._lock:
            return dict(
                self._db.execute(
                    "SELECT fingerprint, at FROM allowed WHERE typeof(fingerprint) = 'text'"
                    " AND typeof(at) = 'real' AND at BETWEEN 0 AND 253402300799 ORDER BY at, fingerprint"
                ).fetchall()
            )

    def allow(self, fingerprints: Iterable[str], at: float) -> None:
        """Remembers that these are fine; on the disk when this returns, for nobody else knows it."""
        with self._durably():
            self._db.executemany(
                "INSERT OR IGNORE INTO allowed VALUES (?,?)", [(one, float(at)) for one in fingerprints]
            )

    def disallow(self, fingerprints: Iterable[str]) -> None:
        """Takes that back."""
        with self._durably():
            self._db.executemany(
                "DELETE FROM allowed WHERE fingerprint = ?", [(one,) for one in fingerprints]
            )

    @contextmanager
    def _durably(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("PRAGMA synchronous=FULL")
            try:
                with self.together():
                    yield
            finally:
                self._db.execute("PRAGMA synchronous=OFF")

    # -- the catalog

    def cataloged(self, project: str) -> Oid | None:
        """The tip up to which the catalog knows who wrote what."""
        with self._lock:
            row = self._db.execute(
                "SELECT tip FROM cataloged WHERE project = ? AND typeof(tip) = 'text'", (project,)
            ).fetchone()
        return Oid(row[0]) if row else None

    def catalog(self, project: str) -> dict[SessionId, CatalogNote]:
        """What is known of a project's sessions."""
        with self._lock:
            rows = self._db.execute(_SOUND_CATALOG, (project,)).fetchall()
        return {SessionId(row[0]): _cataloged(row) for row in rows}

    def note_catalog(self, project: str, tip: Oid, notes: Mapping[SessionId, CatalogNote]) -> None:
        """Remembers what was found out of sessions, and that the catalog is at `tip`."""
        rows = [(project, sid, *_catalog_row(note)) for sid, note in notes.items()]
        with self.together():
            self._db.executemany("INSERT OR REPLACE INTO catalog VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", rows)
            self._db.execute("INSERT OR REPLACE INTO cataloged VALUES (?,?)", (project, tip))
