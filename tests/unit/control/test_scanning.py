"""What is searched comes whole however it is read, with line numbers, in bounded pieces."""

from __future__ import annotations

import pytest

from convergenced.control import scanning
from convergenced.control.scanning import LONGEST, OVERLAP, scan_secrets
from convergenced.model import LocalPath
from tests.labelled import KEYS, SHAPES, Lot
from tests.unit.sync.world import FakeMachine, World, sid

S = sid(1)
LOT = Lot(20260108)
TOKEN = SHAPES["github"][0](LOT)
KEY = KEYS["private-key"][0](LOT)


@pytest.fixture
def ann() -> FakeMachine:
    return World().machine("ann")


def scan(machine: FakeMachine) -> list[tuple[str, int, int]]:
    """What is found: file, first line, how many lines."""
    told: list[tuple[str, int, int]] = []
    found = scan_secrets(machine.parts, [machine.app], None, lambda *words: told.append(words))
    assert told[-1] == ("", found["bytes"], found["bytes"])
    assert found["unreadable"] == []
    return [(one["name"], one["line"], one["count"]) for one in found["secrets"]]


@pytest.mark.parametrize("piece", [1, 7, 100, 5000])
def test_lines_come_whole_however_they_are_read(piece: int) -> None:
    text = b"".join(b"%d\n" % (number * 7919) for number in range(700)) + b"no end"
    pieces = [text[at : at + piece] for at in range(0, len(text), piece)]
    lines = [
        (first + at, line)
        for data, first in scanning._whole(pieces, is_lines=True)
        for at, line in enumerate(data.splitlines())
    ]
    assert lines == list(enumerate(text.splitlines(), 1))
    assert list(scanning._whole(pieces, is_lines=False)) == [(text, 1)]


def test_a_line_is_numbered_and_a_secret_counted_once_a_line(ann: FakeMachine) -> None:
    for number in range(5):
        ann.say(S, f"hello {number}" + f" {TOKEN} and {TOKEN}" * (number % 2))
    ann.remember("a.md", f"# one\n\n{KEY}")
    ann.ingest()
    assert scan(ann) == [(f"{S}.jsonl", 2, 2), ("memory/a.md", 3, 1)]


@pytest.mark.parametrize("shift", [-OVERLAP, -40, -20, 0])
def test_what_is_longer_than_a_window_is_searched_across_its_end(ann: FakeMachine, shift: int) -> None:
    ann.say(S, "one")
    ann.ingest()
    text = "x " * (LONGEST // 2 + 600_000)
    at = LONGEST + scanning.READ_BYTES + shift
    ann.say(S, f"{text[:at]} {TOKEN} {text[at:]}")
    assert scan(ann) == [(f"{S}.jsonl", 2, 1)]


def test_what_cannot_be_read_is_named_and_hides_nothing(ann: FakeMachine) -> None:
    ann.say(S, TOKEN)
    ann.say(sid(2), TOKEN)
    ann.ingest()
    plain, bad = ann.files.read, ann.transcript(sid(2))

    def read(path: LocalPath, offset: int, length: int) -> bytes:
        if path == bad:
            raise OSError("the disk is on fire")
        return plain(path, offset, length)

    ann.files.read = read  # type: ignore[method-assign]
    found = scan_secrets(ann.parts, [ann.app], None, lambda *_: None)
    assert [one["name"] for one in found["secrets"]] == [f"{S}.jsonl"]
    assert [one["text"] for one in found["unreadable"]] == [f"{sid(2)}.jsonl: the disk is on fire"]


def test_no_more_than_so_many_are_kept(ann: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "MAX_FOUND", 3)
    for _ in range(5):
        ann.say(S, SHAPES["npm"][0](LOT))
    ann.ingest()
    found = scan_secrets(ann.parts, [ann.app], None, lambda *_: None)
    assert (len(found["secrets"]), found["whole"]) == (3, False)
