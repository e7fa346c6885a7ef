"""The Tab key in real shells: the printed script is loaded, and asked as the shell would ask it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from convergenced.machine.locations import Locations
from ctl.commands import COMMANDS
from tests.e2e.cli import PATIENCE, environment, fake_program, run
from tests.fakes.daemon import FakeDaemon

SID = "0a1b2c3d-0000-4000-8000-000000000001"
SESSIONS = {
    "sessions": [{"id": SID, "title": "fix: the login", "project": "proj"}],
    "total": 1,
    "unreadable": [],
}

ASK_BASH = """
source <(convergencectl completion bash)
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_convergencectl
printf '%s\\n' "${COMPREPLY[@]}"
"""
ASK_ZSH = """
compdef() { :; }
_describe() { local name=$2; printf '%s\\n' "${(@P)name}"; }
_files() { print "files $*"; }
source <(convergencectl completion zsh)
words=("$@"); CURRENT=$#
_convergencectl
"""
ASK_FISH = """
convergencectl completion fish | source
complete -C "$argv"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose PATH has the program."""
    folder = tmp_path / "home"
    folder.mkdir()
    fake_program(tmp_path / "bin", "convergencectl", f'exec "{sys.executable}" -m convergencectl "$@"')
    (tmp_path / "folder one").mkdir()
    (tmp_path / "file").touch()
    return folder


@pytest.fixture
def daemon(home: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(Locations.from_environment(environment(home), str(home))) as one:
        one.answers["sessions"] = SESSIONS  # type: ignore[assignment]
        yield one


def ask(home: Path, shell: str, *words: str) -> list[str]:
    """What that shell would offer for the last word, without the descriptions."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    line = ("convergencectl", *words)
    script, arguments = {
        "bash": (ASK_BASH, ("ask", *line)),
        "zsh": (ASK_ZSH, ("ask", *line)),
        "fish": (ASK_FISH, (" ".join(line),)),
    }[shell]
    bare = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    environ = environment(home)
    done = subprocess.run(
        [program, *bare, "-c", script, *arguments],
        env=environ | {"PATH": f"{home.parent / 'bin'}{os.pathsep}{environ['PATH']}"},
        cwd=home.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stderr == ""
    separator = {"bash": "\0", "zsh": ":", "fish": "\t"}[shell]
    return sorted(line.split(separator)[0] for line in done.stdout.splitlines() if line)


SHELLS = pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])


@SHELLS
def test_commands_options_and_choices(home: Path, shell: str) -> None:
    assert ask(home, shell, "") == sorted(COMMANDS)
    assert ask(home, shell, "project") == ["project", "projects"]
    assert ask(home, shell, "project", "re") == ["remove"]
    assert ask(home, shell, "sync", "--wait", "--") == ["--dry-run", "--full", "--help", "--timeout"]
    assert ask(home, shell, "conflict", "resolve", "x", "--take", "") == ["both", "ours", "theirs"]
    assert ask(home, shell, "config", "set", "secrets.policy", "") == ["block", "off", "warn"]
    assert ask(home, shell, "config", "get", "backups.") == ["backups.keep"]
    assert ask(home, shell, "nonsense", "") == []


@SHELLS
def test_projects_sessions_and_peers(home: Path, shell: str, daemon: FakeDaemon) -> None:
    daemon.status["available"] = [{"id": "elsewhere", "machines": []}]
    assert ask(home, shell, "sync", "") == ["proj"]
    assert ask(home, shell, "pause", "proj", "") == []
    assert ask(home, shell, "join", "--id", "") == ["elsewhere", "proj"]
    assert ask(home, shell, "session", "show", "0a") == [SID]
    assert ask(home, shell, "peer", "remove", "") == ["hub"]
    assert ask(home, shell, "peer", "add", "") == []


@SHELLS
def test_without_a_daemon_there_is_simply_nothing(home: Path, shell: str) -> None:
    assert ask(home, shell, "sync", "p") == []
    assert ask(home, shell, "session", "show", "") == []


def test_folders_and_files_are_left_to_the_shell(home: Path) -> None:
    assert ask(home, "bash", "project", "move", "fo") == ["folder one"]
    assert ask(home, "bash", "project", "move", "fi") == []
    assert ask(home, "bash", "doctor", "fi") == ["file"]
    assert ask(home, "zsh", "project", "move", "") == ["files -/"]
    assert ask(home, "fish", "project", "move", "fo") == ["folder one/"]


def test_bash_takes_an_equals_sign_for_a_word(home: Path) -> None:
    assert ask(home, "bash", "conflict", "resolve", "x", "--take", "=", "o") == ["ours"]
    assert ask(home, "bash", "conflict", "resolve", "x", "--take", "=") == ["both", "ours", "theirs"]


def test_a_daemon_that_does_not_answer_costs_two_seconds_and_gives_nothing(
    home: Path, daemon: FakeDaemon
) -> None:
    answering = daemon.answers
    answering["status"] = lambda _: daemon.ended.wait(PATIENCE)
    try:
        done = run(home, "completion", "bash", "--words", stdin="sync\n\n")
    finally:
        daemon.ended.set()
    assert (done.code, done.out) == (0, "")


@pytest.mark.parametrize(
    "stdin", ["", "\n", "--\n", "hook\n--\n", "session\n--json\nx\n\n", "config\nset\nx\n\n", "\0\n"]
)
def test_no_line_makes_it_fail(home: Path, stdin: str) -> None:
    assert run(home, "completion", "zsh", "--words", stdin=stdin).code == 0
