"""Asking the service manager where a process is, in place of a kernel that does not say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from convergenced.machine.claude import RealProcesses
from convergenced.machine.outside import HOLDS_S, MAX_KEPT, Outside
from convergenced.model import LocalPath


class Asked:
    """Stands in for the service manager."""

    def __init__(self, answer: str | None) -> None:
        self.answer = answer
        self.commands: list[str] = []
        self.now = 0.0

    def __call__(self, command: Sequence[str]) -> str | None:
        self.commands.append(" ".join(command))
        return self.answer

    def outside(self, folder: Path, uid_map: bytes = b"      1000       1000          1\n") -> Outside:
        (folder / "uid_map").write_bytes(uid_map)
        return Outside(self, lambda: self.now, LocalPath(str(folder / "uid_map")))


def test_an_answer_holds_for_a_while_and_for_that_process_only(tmp_path: Path) -> None:
    asked = Asked("/home/ann/src")
    outside = asked.outside(tmp_path)
    assert [outside.folder_of(7, "100"), outside.folder_of(7, "100")] == ["/home/ann/src"] * 2
    assert len(asked.commands) == 1
    assert asked.commands[0].endswith("readlink --no-newline -- /proc/7/cwd")
    outside.folder_of(7, "200")
    assert len(asked.commands) == 2, "the pid was used again"
    asked.now = HOLDS_S
    outside.folder_of(7, "100")
    assert len(asked.commands) == 3


def test_nobody_is_asked_where_the_kernel_tells_all(tmp_path: Path) -> None:
    asked = Asked("/home/ann/src")
    assert asked.outside(tmp_path, b"         0          0 4294967295\n").folder_of(7, "100") is None
    assert Outside(asked, uid_map=LocalPath(str(tmp_path / "absent"))).folder_of(7, "100") is None
    assert asked.outside(tmp_path).folder_of(7, None) is None
    assert asked.commands == []


@pytest.mark.parametrize("answer", [None, "", "relative"])
def test_no_answer_is_none_and_not_asked_for_at_once_again(tmp_path: Path, answer: str | None) -> None:
    asked = Asked(answer)
    outside = asked.outside(tmp_path)
    assert [outside.folder_of(7, "100"), outside.folder_of(7, "100")] == [None, None]
    assert len(asked.commands) == 1


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    asked = Asked("/x")
    outside = asked.outside(tmp_path)
    for pid in range(MAX_KEPT + 5):
        outside.folder_of(pid, "1")
    assert len(outside._known) <= MAX_KEPT


def test_a_manager_that_is_not_there_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "uid_map").write_text("1000 1000 1\n")
    assert Outside(uid_map=LocalPath(str(tmp_path / "uid_map"))).folder_of(7, "100") is None


def test_a_client_whose_folder_is_hidden_is_where_the_manager_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(process: psutil.Process) -> str:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "cwd", denied)
    processes = RealProcesses(LocalPath(str(tmp_path)), outside=Asked(str(tmp_path)).outside(tmp_path))
    here = psutil.Process()
    assert {one.cwd for one in processes._located(here, None, None)} == {str(tmp_path)}
    asked = Asked("/elsewhere")
    processes = RealProcesses(LocalPath(str(tmp_path)), outside=asked.outside(tmp_path))
    assert {one.cwd for one in processes._located(here, str(tmp_path), None)} == {str(tmp_path)}
    assert asked.commands == [], "its session file has told"
