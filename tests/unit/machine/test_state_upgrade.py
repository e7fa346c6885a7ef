"""State databases of other versions."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from convergenced.control.assembly import open_state
from convergenced.errors import NewerSchemaError
from convergenced.machine.state import SCHEMA, ReplicaNote, State
from convergenced.machine.state_upgrade import upgrade
from convergenced.model import LocalPath, ProjectId

FIRST = """
CREATE TABLE file (
  folder TEXT NOT NULL, path TEXT NOT NULL,
  device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
  consumed INTEGER NOT NULL, window BLOB NOT NULL, oid TEXT NOT NULL,
  PRIMARY KEY (folder, path)
) WITHOUT ROWID;
CREATE TABLE replica (
  folder TEXT PRIMARY KEY, project TEXT NOT NULL, root TEXT NOT NULL, by_hand INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE pause (project TEXT PRIMARY KEY, until REAL) WITHOUT ROWID;
CREATE TABLE stranger (peer TEXT, project TEXT, tip TEXT, PRIMARY KEY (peer, project)) WITHOUT ROWID;
PRAGMA user_version=1;
INSERT INTO file VALUES ('/c', 'a.jsonl', 1, 2, 3, 4, 3, x'00', 'aa');
INSERT INTO replica VALUES ('/c', 'proj', '/src/proj', 1);
INSERT INTO pause VALUES ('proj', NULL);
"""
"""The first shape of the database, with a row of each kind."""

OURS = ReplicaNote("/c", ProjectId("proj"), LocalPath("/src/proj"), by_hand=True)


def make(path: Path, script: str) -> LocalPath:
    database = sqlite3.connect(path)
    database.executescript(script)
    database.close()
    return LocalPath(str(path))


def test_what_a_person_decided_outlives_an_older_shape_and_the_cache_is_made_anew(tmp_path: Path) -> None:
    path = make(tmp_path / "state.sqlite", FIRST)
    for _ in range(2):
        state = open_state(path)
        assert state.replicas() == [OURS]
        assert state.pauses() == {"proj": None}
        assert state.files("/c") == {}
        state.close()
    assert [one.name for one in tmp_path.iterdir()] == ["state.sqlite"], "nothing was taken for damage"


def test_so_it_does_a_shape_of_a_later_version_that_has_more_columns(tmp_path: Path) -> None:
    later = "root TEXT NOT NULL, by_hand INTEGER NOT NULL, colour TEXT NOT NULL"
    script = FIRST.replace("root TEXT NOT NULL, by_hand INTEGER NOT NULL", later)
    path = make(tmp_path / "state.sqlite", script.replace("'/src/proj', 1", "'/src/proj', 1, 'red'"))
    state = open_state(path)
    assert state.replicas() == [OURS]
    state.note_replica(OURS)
    state.close()


def test_a_schema_of_a_later_version_is_left_alone_with_a_clear_word(tmp_path: Path) -> None:
    path = make(tmp_path / "state.sqlite", f"{FIRST} PRAGMA user_version={SCHEMA + 1};")
    before = Path(path).read_bytes()
    with pytest.raises(NewerSchemaError, match="newer version") as raised:
        open_state(path)
    assert "upgrade convergence" in raised.value.hint
    assert Path(path).read_bytes()[100:] == before[100:]


def test_a_column_that_is_new_is_empty_where_it_must_have_a_value(tmp_path: Path) -> None:
    path = make(tmp_path / "state", "CREATE TABLE a (x TEXT); INSERT INTO a VALUES ('1');")
    database = sqlite3.connect(path, isolation_level=None)
    tables = "CREATE TABLE IF NOT EXISTS a (x TEXT, y INTEGER NOT NULL, z REAL, w BLOB NOT NULL);"
    assert upgrade(database, tables, ["a"]) == ["a"]
    assert database.execute("SELECT * FROM a").fetchall() == [("1", 0, None, b"")]
    assert upgrade(database, tables, ["a"]) == []
    database.close()


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path) -> None:
    script = "CREATE TABLE a (x TEXT); INSERT INTO a VALUES ('1'); CREATE TABLE outgrown_a (x TEXT);"
    database = sqlite3.connect(make(tmp_path / "state", script), isolation_level=None)
    with pytest.raises(sqlite3.DatabaseError):
        upgrade(database, "CREATE TABLE IF NOT EXISTS a (x TEXT, y TEXT);", ["a"])
    assert database.execute("SELECT * FROM a").fetchall() == [("1",)]
    database.close()


def test_a_new_database_needs_no_upgrade() -> None:
    state = State(":memory:")
    assert state.replicas() == []
    state.close()
