"""A state database of another version is brought into this one's shape.

Promise: what a person decided is carried over; what is only a cache is made anew where its columns are
others. A table of the right shape is not touched, and it all happens or nothing does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

_EMPTY = {"TEXT": "''", "INTEGER": "0", "REAL": "0.0", "BLOB": "x''"}


def upgrade(db: sqlite3.Connection, tables: str, kept: Sequence[str]) -> list[str]:
    """The names of the tables that were brought into the shape that the script `tables` gives them.

    Of the tables in `kept` the rows stay, with what they do not say left empty; of the others none do.
    Raises `sqlite3.DatabaseError` where the database is damaged.
    """
    if db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None:
        return []  # it has just been made
    wanted = _shapes(tables)
    there = {name: shape for name in wanted if (shape := _columns(db, name))}
    outgrown = [name for name, shape in there.items() if shape != wanted[name]]
    if not outgrown:
        return []
    db.execute("BEGIN IMMEDIATE")
    try:
        for name in outgrown:
            db.execute(f'ALTER TABLE "{name}" RENAME TO "outgrown_{name}"')
        for statement in tables.split(";"):
            db.execute(statement)
        for name in outgrown:
            if name in kept:
                _carry_over(db, name, there[name], wanted[name])
            db.execute(f'DROP TABLE "outgrown_{name}"')
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
    return outgrown


_Columns = dict[str, tuple[str, bool]]
"""Per column its type and whether it has to have a value."""


def _carry_over(db: sqlite3.Connection, name: str, before: _Columns, now: _Columns) -> None:
    values = [
        f'"{column}"' if column in before else _EMPTY.get(kind, "''") if must else "NULL"
        for column, (kind, must) in now.items()
    ]
    columns = ", ".join(f'"{column}"' for column in now)
    source = f'SELECT {", ".join(values)} FROM "outgrown_{name}"'  # noqa: S608 - names of our own
    db.execute(f'INSERT OR IGNORE INTO "{name}" ({columns}) {source}')


def _shapes(tables: str) -> dict[str, _Columns]:
    memory = sqlite3.connect(":memory:")
    try:
        memory.executescript(tables)
        names = [str(row[0]) for row in memory.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: _columns(memory, name) for name in names}
    finally:
        memory.close()


def _columns(db: sqlite3.Connection, table: str) -> _Columns:
    rows = db.execute(f'PRAGMA table_info("{table}")').fetchall()
    return {str(name): (str(kind).upper(), bool(must)) for _, name, kind, must, _, _ in rows}
