"""`hook`, and what it installs, run as Claude Code runs it: by a shell, with JSON on its input."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from convergenced.control.protocol import Json
from convergenced.errors import UsageError
from convergenced.machine.locations import Locations
from tests.e2e.cli import PATIENCE, Done, environment, run
from tests.fakes.daemon import FakeDaemon

TOKEN = "messaging-token-8f3a"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "hömé 家"
    (folder / "claude").mkdir(parents=True)
    return folder


@pytest.fixture
def locations(home: Path) -> Locations:
    return Locations.from_environment(environment(home), str(home))


@pytest.fixture
def daemon(locations: Locations) -> Iterator[FakeDaemon]:
    with FakeDaemon(locations) as one:
        yield one


@pytest.fixture
def settings(home: Path) -> Path:
    return home / "claude" / "settings.json"


def told(home: Path, event: str, **more: str) -> dict[str, str]:
    transcript = home / "claude" / "projects" / "-src-proj" / "0a.jsonl"
    return {
        "session_id": "0a",
        "transcript_path": str(transcript),
        "cwd": "/",
        "hook_event_name": event,
    } | more


def command(settings: Path, event: str) -> str:
    (group,) = json.loads(settings.read_bytes())["hooks"][event]
    return str(group["hooks"][0]["command"])


def fire(
    home: Path, settings: Path, event: str, *, environ: Mapping[str, str] | None = None, **more: str
) -> Done:
    """Runs the installed hook as a session would, which does not know where the daemon's files are."""
    return feed(home, command(settings, event), json.dumps(told(home, event, **more)), environ=environ)


def feed(home: Path, line: str, text: str, *, environ: Mapping[str, str] | None = None) -> Done:
    known = {name: value for name, value in environment(home).items() if name != "CONVERGENCE_HOME"}
    done = subprocess.run(
        ["sh", "-c", line],
        input=text,
        env=known | {"CLAUDE_CODE_TOKEN": TOKEN} | dict(environ or {}),
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


SILENT = Done(0, "", "")


def test_the_stop_hook_has_the_project_synced_and_does_not_wait(
    home: Path, settings: Path, daemon: FakeDaemon
) -> None:
    assert run(home, "hook", "install").code == 0
    assert fire(home, settings, "Stop") == SILENT
    folder = str(home / "claude" / "projects" / "-src-proj")
    assert daemon.asked == [("sync", {"projects": [folder], "wait": False})]


@pytest.mark.parametrize(("source", "waits"), [("startup", True), ("resume", True), ("compact", False)])
def test_the_start_of_a_session_waits_two_seconds_at_most(
    home: Path, settings: Path, daemon: FakeDaemon, source: str, waits: bool
) -> None:
    run(home, "hook", "install")
    assert fire(home, settings, "SessionStart", source=source) == SILENT
    asked = daemon.params("sync")
    assert asked["wait"] is waits
    assert asked.get("timeout") == (2.0 if waits else None)


def test_nothing_of_the_session_but_its_folder_is_told(
    home: Path, settings: Path, daemon: FakeDaemon
) -> None:
    run(home, "hook", "install")
    fire(home, settings, "Stop", last_assistant_message="the plan is secret", session_id="0a-private")
    assert "secret" not in str(daemon.asked)
    assert "private" not in str(daemon.asked)
    assert TOKEN not in str(daemon.asked)
    kept = [path for path in home.rglob("*") if path.is_file()]
    assert not [path for path in kept if TOKEN in path.read_text() or "secret" in path.read_text()]


def test_no_daemon_an_error_and_an_unknown_project_are_nothing_to_a_session(
    home: Path, settings: Path, locations: Locations
) -> None:
    run(home, "hook", "install")
    assert fire(home, settings, "Stop") == SILENT
    with FakeDaemon(locations) as daemon:
        daemon.answers["sync"] = UsageError("there is no project here")
        assert fire(home, settings, "SessionStart", source="startup") == SILENT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"hook_event_name": "Stop"}',
        '{"hook_event_name": 3, "transcript_path": 4}',
        "[" * 99_999,
    ],
)
def test_input_that_makes_no_sense_is_nothing_to_a_session(home: Path, settings: Path, text: str) -> None:
    run(home, "hook", "install")
    assert feed(home, command(settings, "Stop"), text) == SILENT


@pytest.mark.parametrize("event", ["Stop", "SessionStart"])
def test_a_socket_that_hangs_is_left(home: Path, settings: Path, locations: Locations, event: str) -> None:
    run(home, "hook", "install")
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(locations.socket)
        deaf.listen(0)
        assert fire(home, settings, event, source="startup") == SILENT
        if event == "Stop":
            assert fire(home, settings, event) == SILENT  # whatever its queue holds by now


def test_an_input_that_does_not_end_is_left(home: Path, settings: Path) -> None:
    run(home, "hook", "install")
    endless = subprocess.Popen(
        ["sh", "-c", command(settings, "Stop")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(home),
    )
    try:
        assert endless.wait(PATIENCE) == 0
        assert endless.stdin is not None
        assert endless.stdout is not None
        assert endless.stdout.read() == b""
    finally:
        endless.kill()
        endless.communicate()


def test_an_interrupted_hook_says_nothing_either(home: Path, locations: Locations) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(locations.socket)
        deaf.listen(1)
        nudge = subprocess.Popen(
            [sys.executable, "-EP", "-m", "convergencectl.nudge"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(home),
        )
        assert nudge.stdin is not None
        nudge.stdin.write(json.dumps(told(home, "SessionStart", source="startup")).encode())
        nudge.stdin.close()
        nudge.stdin = None
        deaf.settimeout(PATIENCE)
        accepted, _ = deaf.accept()
        nudge.send_signal(signal.SIGINT)
        printed, _ = nudge.communicate(timeout=PATIENCE)
        accepted.close()
    assert (nudge.returncode, printed) == (0, b"")


def test_code_of_the_project_is_not_run(home: Path, settings: Path, daemon: FakeDaemon) -> None:
    run(home, "hook", "install")
    trap = 'open("trapped", "w").close()\n'
    for name in ("json.py", "socket.py", "sitecustomize.py"):
        (home.parent / name).write_text(trap)
    package = home.parent / "convergencectl"
    package.mkdir()
    (package / "__init__.py").write_text(trap)
    elsewhere = {"PYTHONPATH": str(home.parent), "PYTHONSTARTUP": str(home.parent / "json.py")}
    assert fire(home, settings, "Stop", environ=elsewhere) == SILENT
    assert not (home.parent / "trapped").exists()
    assert daemon.was_asked("sync")


def test_a_socket_of_another_user_is_told_nothing(home: Path, daemon: FakeDaemon) -> None:
    code = (
        "from convergencectl import nudge\n"
        "from convergenced.control.credentials import Credentials\n"
        "nudge.peer_credentials = lambda _: Credentials(12345, 1)\n"
        "raise SystemExit(nudge.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-EPc", code],
        input=json.dumps(told(home, "Stop")).encode(),
        env=environment(home),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert daemon.asked == []


BEFORE = b'\xef\xbb\xbf{\r\n   "model" : "opus",  "x":1, "x":2,\r\n "hooks":{"Stop":[ ]}}\r\n\r\n'


def test_a_linked_settings_file_is_written_through_and_comes_back_as_it_was(
    home: Path, settings: Path
) -> None:
    dotfiles = home / "dotfiles.json"
    dotfiles.write_bytes(BEFORE)
    dotfiles.chmod(0o644)
    settings.symlink_to(dotfiles)
    done = run(home, "hook", "install")
    assert (done.code, done.out) == (0, "installed the hooks in ~/claude/settings.json\n")
    again = run(home, "hook", "install")
    assert (again.code, "nothing was changed" in again.out) == (0, True)
    assert settings.is_symlink()
    assert dotfiles.read_bytes() != BEFORE
    assert run(home, "hook", "status").code == 0
    assert run(home, "hook", "uninstall").code == 0
    assert dotfiles.read_bytes() == BEFORE
    assert dotfiles.stat().st_mode & 0o777 == 0o644
    assert run(home, "hook", "uninstall").out == "no hooks are installed\n"


def test_where_there_was_no_file_there_is_none_again(home: Path, settings: Path) -> None:
    assert run(home, "hook", "uninstall").out == "no hooks are installed\n"
    run(home, "hook", "install")
    assert settings.exists()
    assert run(home, "hook", "uninstall").code == 0
    assert os.listdir(settings.parent) == []


def test_a_file_that_is_not_understood_is_left_alone(home: Path, settings: Path) -> None:
    for content in (b"{\n  // a comment\n}", b"\xff\xfe{\0}\0", b""):
        settings.write_bytes(content)
        for action in ("install", "uninstall", "status"):
            done = run(home, "hook", action)
            assert done.code == 2, done
            assert str(settings) in done.err
        assert settings.read_bytes() == content


def test_status_tells_this_installation_from_others(home: Path, settings: Path) -> None:
    none = run(home, "hook", "status")
    assert (none.code, "not installed" in none.out, "hook install" in none.out) == (1, True, True)
    run(home, "hook", "install")
    here: dict[str, Json] = json.loads(run(home, "hook", "status", "--json").out)
    assert (here["schema"], here["settings"], here["disabled"]) == (1, str(settings), False)
    text = settings.read_text().replace(sys.executable, "/gone/bin/python")
    settings.write_text(text.replace('{"', '{"disableAllHooks": true, "', 1) if "\n" not in text else text)
    moved = run(home, "hook", "status")
    assert (moved.code, "another installation" in moved.out, "/gone/bin/python" in moved.out) == (
        1,
        True,
        True,
    )
    assert run(home, "hook", "install").code == 0
    assert run(home, "hook", "status").code == 0
    settings.write_text(settings.read_text().replace("{", '{"disableAllHooks": true,', 1))
    assert "runs no hooks" in run(home, "hook", "status").out


def test_the_hook_imports_next_to_nothing(home: Path) -> None:
    slow = {"argparse", "platformdirs", "dataclasses", "hashlib", "shutil", "tempfile", "pygit2", "tomlkit"}
    code = f"import convergencectl.nudge, sys; print(sorted({slow!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-EPc", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
