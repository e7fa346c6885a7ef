"""The desktop's own program is run with words that mean nothing else to it, and its failures are silent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convergenced.machine import desktop
from convergenced.machine.desktop import MAX_TEXT, program_for, show_on_desktop
from tests.e2e.cli import fake_program


def stand_in(folder: Path, name: str, script: str = "") -> dict[str, str]:
    """An environment whose PATH has a program that writes each word it got into a file of its own."""
    log = folder / "words"
    fake_program(folder, name, f'for word in "$@"; do printf "%s\\0" "$word"; done >{log}\n{script}')
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def words(folder: Path) -> list[str]:
    return (folder / "words").read_text(encoding="utf-8").split("\0")[:-1]


def test_linux_gets_no_markup_and_no_option_out_of_a_text(tmp_path: Path) -> None:
    environ = stand_in(tmp_path, "notify-send")
    assert show_on_desktop("-title", "<b>&\x1b[2J\ud800\nsecond", environ, "linux")
    assert words(tmp_path) == [
        "--app-name=convergence",
        "--",
        "-title",
        "&lt;b&gt;&amp; [2J \nsecond",
    ]


def test_macos_gets_the_words_as_arguments_of_a_fixed_script(tmp_path: Path) -> None:
    environ = stand_in(tmp_path, "osascript")
    text = '" & (do shell script "rm -rf ~") & "'
    assert show_on_desktop("title", text, environ, "darwin")
    assert words(tmp_path)[-2:] == ["title", text]
    assert all(text not in word for word in words(tmp_path)[:-1])


def test_a_long_text_is_cut(tmp_path: Path) -> None:
    assert show_on_desktop("title", "x" * 10_000, stand_in(tmp_path, "notify-send"), "linux")
    assert len(words(tmp_path)[-1]) == MAX_TEXT


def test_without_a_program_or_with_one_that_fails_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program_for({"PATH": str(tmp_path)}) is None
    assert not show_on_desktop("title", "text", {"PATH": str(tmp_path)}, "linux")
    assert not show_on_desktop("title", "text", stand_in(tmp_path, "notify-send", "exit 1"), "linux")
    fake_program(tmp_path, "osascript", "exec sleep 60")
    monkeypatch.setattr(desktop, "TIMEOUT_S", 0.05)
    environ = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    assert not show_on_desktop("title", "text", environ, "darwin")
