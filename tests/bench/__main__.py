"""`python -m tests.bench`: the table of what everything costs. `--json` for programs, `--only` for a part."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from tests.bench.measure import Row

GROUPS = ("canonical", "secrets", "passes", "transfer", "upkeep", "importing", "daemon")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", choices=GROUPS, action="append", help="measure this part only")
    parser.add_argument("--scale", type=float, default=1.0, help="make the data smaller, such as 0.1")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    rows = []
    for row in _measure(arguments.only or GROUPS, arguments.scale):
        rows.append(row)
        if not arguments.json:
            print(_line(row), flush=True)
    if arguments.json:
        json.dump([asdict(row) | {"holds": row.holds} for row in rows], sys.stdout, indent=1)
        print()
    return 1 if any(row.holds is False for row in rows) else 0


def _measure(groups: Sequence[str], scale: float) -> Iterator[Row]:
    for group in groups:
        yield from importlib.import_module(f"tests.bench.{group}").measure(scale)


def _line(row: Row) -> str:
    verdict = {True: "ok", False: "MISSED", None: ""}[row.holds]
    target = "" if row.target is None else f"{'>=' if row.bound == 'least' else '<='} {row.target:g}"
    return (
        f"{row.group:<16} {row.what:<58} {row.value:>9.3g} {row.unit:<9} {target:<10} {verdict:<7} {row.note}"
    )


if __name__ == "__main__":
    sys.exit(main())
