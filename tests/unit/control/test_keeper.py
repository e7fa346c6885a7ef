"""The store's keeper: works when much has gathered, steps back for others, and can be broken off."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from convergenced.control.keeper import NICE, StoreKeeper
from convergenced.control.workers import aside
from convergenced.model import LocalPath
from convergenced.store import upkeep
from convergenced.store.git import GitStore
from convergenced.store.intake import FEW_OBJECTS
from convergenced.store.repo import open_store


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    made = open_store(LocalPath(str(tmp_path / "store.git")))
    for number in range(300):
        made.write_blob(b"%d" % number)
        if number % FEW_OBJECTS == 0:
            made.settle()
    made.settle()
    return made


def loose(store: GitStore) -> int:
    folders = (entry for entry in os.scandir(os.path.join(store.path, "objects")) if len(entry.name) == 2)
    return sum(len(os.listdir(folder)) for folder in folders)


def test_little_is_left_as_it_is(store: GitStore) -> None:
    assert StoreKeeper(store.path).run() is None
    assert loose(store) >= 300


def test_much_is_packed_by_a_thread_that_steps_back(store: GitStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "LOOSE_LIMIT", 1)
    told: list[object] = []

    def work() -> None:
        told.append(StoreKeeper(store.path).run())
        told.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = loose(store)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told[0] == f"packed {before} objects of the store"
    assert loose(store) == 0
    if sys.platform == "linux":
        assert told[1] == NICE
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < NICE


def test_one_that_is_closed_leaves_the_rest_for_another_time(
    store: GitStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "LOOSE_LIMIT", 1)
    before = loose(store)
    keeper = StoreKeeper(store.path)
    keeper.close()
    assert keeper.run() is None
    assert loose(store) == before


def test_work_that_takes_long_is_done_by_a_thread_that_steps_back() -> None:
    def work() -> tuple[int, int]:
        return threading.get_ident(), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    here = os.getpriority(os.PRIO_PROCESS, 0)
    thread, priority = aside(work)
    assert thread != threading.get_ident()
    assert priority == NICE or sys.platform != "linux"
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == here
    with pytest.raises(ZeroDivisionError):
        aside(lambda: 1 // 0)
