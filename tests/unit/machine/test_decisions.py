"""What a person said of changes: the last word counts, and what cannot be read says nothing."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from convergenced.machine.decisions import MAX_DECISIONS, MAX_ID, Decisions
from convergenced.model import LocalPath


@pytest.fixture
def path(tmp_path: Path) -> LocalPath:
    return LocalPath(str(tmp_path / "state" / "knowledge.json"))


@pytest.fixture
def decisions(path: LocalPath) -> Decisions:
    return Decisions(path)


def said(decisions: Decisions) -> tuple[set[str], set[str]]:
    return set(decisions.accepted()), set(decisions.declined())


def test_the_last_word_counts(decisions: Decisions, path: LocalPath) -> None:
    assert said(decisions) == (set(), set())
    decisions.accept(["a", "b", "a"])
    decisions.decline(["b", "c"])
    again = Decisions(path)
    assert said(again) == ({"a"}, {"b", "c"})
    decisions.accept(["c"])
    assert said(again) == ({"a", "c"}, {"b"})


def test_what_is_over_is_forgotten(decisions: Decisions) -> None:
    decisions.accept(["a", "b"])
    decisions.decline(["c", "d"])
    decisions.forget(["b", "c", "x"])
    assert said(decisions) == ({"b"}, {"c"})


def test_nobody_else_can_read_it(decisions: Decisions, path: LocalPath) -> None:
    decisions.accept(["a"])
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_nothing_is_written_where_nothing_is_new(decisions: Decisions, path: LocalPath) -> None:
    decisions.forget([])
    decisions.accept([])
    assert not os.path.exists(path)
    decisions.accept(["a"])
    before = os.stat(path).st_ino
    decisions.forget(["a", "b"])
    assert os.stat(path).st_ino == before


def test_it_is_bounded(decisions: Decisions, path: LocalPath) -> None:
    longest = [f"{number:0{MAX_ID}}" for number in range(MAX_DECISIONS + 1)]
    decisions.accept([*longest, "x" * (MAX_ID + 1), "", "é\n"])
    assert decisions.accepted() == set(longest[1:])
    decisions.decline([f"{number:x<{MAX_ID}}" for number in range(MAX_DECISIONS)])
    assert len(Decisions(path).declined()) == len(Decisions(path).accepted()) == MAX_DECISIONS
    decisions.accept(["new"])
    assert decisions.accepted() == {*longest[2:], "new"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"accepted": "abc", "declined": {"d": 1}}',
        b'{"accepted": [1, null, ["a"], ""]}',
        b" " * 1_000_000,
        json.dumps({"accepted": ["a"], "declined": ["a"]}).encode(),
    ],
)
def test_a_damaged_file_says_nothing_and_is_written_anew(
    decisions: Decisions, path: LocalPath, data: bytes
) -> None:
    os.makedirs(os.path.dirname(path))
    Path(path).write_bytes(data)
    assert said(decisions) == (set(), set())
    decisions.accept(["b"])
    assert Decisions(path).accepted() == {"b"}


def test_what_is_no_file_says_nothing(decisions: Decisions, path: LocalPath) -> None:
    os.makedirs(os.path.dirname(path))
    os.mkfifo(path)
    assert decisions.accepted() == frozenset()
    decisions.accept(["b"])
    assert decisions.accepted() == {"b"}
