"""The bench comes out with figures. Nothing here says how large they are: `python -m tests.bench` does."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator

import pytest

from tests.bench import __main__, canonical, daemon, importing, passes, secrets, transfer, upkeep
from tests.bench.corpus import DESKTOP, LAPTOP, Scribe
from tests.bench.desk import MEMORY_DISK
from tests.bench.measure import Row, exponent, percentile, share

TINY = 0.0005


def test_the_table_for_programs_can_be_read_and_tells_what_holds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        Row("group", "kept", 1.0, "x", 2.0),
        Row("group", "missed", 1.0, "x", 2.0, "least"),
        Row("group", "told", 1.0, "x"),
    ]

    def measure(scale: float) -> Iterator[Row]:
        assert scale == 0.5
        yield from rows

    monkeypatch.setattr(canonical, "measure", measure)
    words = ["--only", "canonical", "--scale", "0.5"]
    assert __main__.main([*words, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(row["what"], row["holds"]) for row in found] == [
        ("kept", True),
        ("missed", False),
        ("told", None),
    ]
    assert __main__.main(words) == 1
    assert "MISSED" in capsys.readouterr().out
    rows.pop(1)
    assert __main__.main(words) == 0


def test_each_group_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    if MEMORY_DISK.is_dir():  # what a disk takes is not asked here
        monkeypatch.setattr(tempfile, "tempdir", str(MEMORY_DISK))
    found = [
        *canonical.measure(TINY),
        *secrets.measure(TINY),
        *passes.among_projects(TINY),
        *transfer.first_push(TINY),
        *upkeep.against_repack(TINY),
        *upkeep.day_of_work(TINY),
        *importing.measure(TINY),
        *daemon.from_write_to_file(TINY, (1e6,)),
    ]
    assert len({row.what for row in found}) == len(found) > 12
    for row in found:
        assert math.isfinite(row.value), row


def test_a_cost_that_is_flat_has_no_exponent_and_one_that_is_proportional_has_one() -> None:
    assert exponent([1, 10, 100], [3, 3, 3]) == pytest.approx(0)
    assert exponent([1, 10, 100], [5, 50, 500]) == pytest.approx(1)


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.95) == 3.0
    assert share(1000, 0.1) == 100
    assert share(10, 0.01, 5) == 5


def test_a_scribe_writes_the_same_for_the_same_seed_and_speaks_of_its_own_place() -> None:
    records = list(Scribe(LAPTOP, "s").records(200_000))
    assert records == list(Scribe(LAPTOP, "s").records(200_000))
    data = b"".join(records)
    assert data.count(LAPTOP.root.encode()) > len(records)
    assert DESKTOP.home.encode() not in data
    assert all(json.loads(record)["sessionId"] == "s" for record in records)
