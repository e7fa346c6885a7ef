"""Searching in a process beside: the same answers, in order, whatever becomes of the process."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from itertools import islice

import pytest

from convergenced.canon.secrets import Secret, find_secrets
from convergenced.sync import searcher
from convergenced.sync.searcher import Searcher, serve
from tests.labelled import positives

SALT = b"salt"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little there is to search, it is searched beside."""
    monkeypatch.setattr(searcher, "WORTHWHILE", 0)


def texts() -> list[bytes]:
    """Records, some with an apparent secret."""
    return [one.data for one in islice(positives(1, 1), 6)] + [b'{"type":"user"}\n']


def asked(beside: Searcher, *, break_at: int | None = None) -> list[list[Secret]]:
    found: list[list[Secret]] = []
    for number, text in enumerate(texts()):
        if number == break_at:
            assert beside._process is not None
            os.kill(beside._process.pid, signal.SIGKILL)
            beside._process.wait()
        beside.ask(text, found.append)
    beside.close()
    return found


def test_it_answers_as_a_search_here_does() -> None:
    assert asked(Searcher(SALT)) == [find_secrets(text, SALT) for text in texts()]


@pytest.mark.parametrize("break_at", [1, 3])
def test_a_process_that_ends_is_done_without(break_at: int) -> None:
    assert asked(Searcher(SALT), break_at=break_at) == [find_secrets(text, SALT) for text in texts()]


def test_a_process_that_cannot_be_started_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert asked(Searcher(SALT)) == [find_secrets(text, SALT) for text in texts()]


def test_for_little_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searcher, "WORTHWHILE", 1_000_000)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert asked(Searcher(SALT)) == [find_secrets(text, SALT) for text in texts()]


def test_nothing_is_left_of_it_when_it_is_closed() -> None:
    beside, found = Searcher(SALT), list[Secret]()
    beside.ask(texts()[0], found.extend)
    process = beside._process
    assert process is not None
    beside.close()
    assert process.returncode is not None
    assert found == find_secrets(texts()[0], SALT)
    beside.close()


def test_it_ends_with_what_it_reads_from() -> None:
    sink = io.BytesIO()
    serve(SALT, io.BytesIO(b"\0\0\0\0\0\0\0\x05abc"), sink)
    assert sink.getvalue() == b""
