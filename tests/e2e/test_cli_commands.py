"""Every command and every exit code, in processes of their own against a daemon without an engine."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from convergenced import __version__
from convergenced.errors import (
    AttentionError,
    ConfigError,
    ConvergenceError,
    DegradedError,
    PeerRefusedError,
    TimedOutError,
    UsageError,
)
from convergenced.machine.activity import ActivityLog, Event
from convergenced.machine.clock import SystemClock
from convergenced.machine.locations import Locations
from convergenced.model import ProjectId
from ctl.commands import COMMANDS
from tests.e2e.cli import PROGRAM, OnTerminal, environment, run
from tests.fakes.daemon import FakeDaemon

ALTERNATE_ON, ALTERNATE_OFF = "\x1b[?1049h", "\x1b[?1049l"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def locations(home: Path) -> Locations:
    return Locations.from_environment(environment(home), str(home))


@pytest.fixture
def daemon(locations: Locations) -> Iterator[FakeDaemon]:
    with FakeDaemon(locations) as one:
        yield one


def log_event(locations: Locations, text: str, project: str | None = "proj") -> None:
    event = Event("commit", text, None if project is None else ProjectId(project), (("tip", "abc"),))
    ActivityLog(locations.activity_log, SystemClock()).append(event)


# -- finding one's way


def test_without_a_command_the_overview_and_exit_2(home: Path) -> None:
    done = run(home)
    assert done.code == 2
    assert "run and look:" in done.err


def test_the_overview_names_every_command(home: Path) -> None:
    done = run(home, "-h")
    assert done.code == 0
    assert all(f"\n  {name} " in done.out for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_help_of_every_command_shows_an_example(home: Path, name: str) -> None:
    done = run(home, name, "-h")
    assert done.code == 0
    assert "example" in done.out
    assert f"convergencectl {name}" in done.out.split("example", 1)[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["peer", "add"],
        ["peer", "remove"],
        ["conflict", "resolve"],
        *(["config", one] for one in ("get", "set", "unset", "edit", "path")),
    ],
)
def test_the_help_of_every_action_shows_an_example(home: Path, arguments: list[str]) -> None:
    done = run(home, *arguments, "-h")
    assert done.code == 0
    assert "example" in done.out


def test_a_mistyped_command_is_answered_with_what_was_meant(home: Path) -> None:
    done = run(home, "stauts")
    assert done.code == 2
    assert done.err == "convergencectl: there is no command 'stauts'\n  did you mean: convergencectl status\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--nonsense"],
        ["pause", "--for", "soon"],
        ["log", "-n", "many"],
        ["sync", "--timeout", "-4"],
        ["wait", "--for", "godot"],
        ["peer"],
        ["peer", "add", "hub"],
        ["conflict"],
        ["conflict", "resolve", "memory/a.md"],
        ["conflict", "resolve", "memory/a.md", "--take", "mine"],
        ["init", "no/such/folder"],
        ["config", "get", "exchange.intervall"],
        ["config", "set", "exchange.interval", "often"],
        ["up", "--peer", "ext::sh -c true"],
    ],
)
def test_wrong_usage_exits_2_with_a_hint(home: Path, arguments: list[str]) -> None:
    done = run(home, *arguments)
    assert done.code == 2
    assert done.out == ""
    lines = done.err.splitlines()
    assert lines[0].startswith("convergencectl: ")
    assert lines[1].startswith("  ")


# -- without a daemon


@pytest.mark.parametrize(
    "arguments",
    [
        ["pause"],
        ["resume"],
        ["sync"],
        ["wait"],
        ["watch"],
        ["init", "."],
        ["join", "."],
        ["peer", "add", "a", "/b"],
        ["peer", "remove", "a"],
    ],
)
def test_what_needs_a_daemon_exits_3_and_says_how_to_start_it(home: Path, arguments: list[str]) -> None:
    done = run(home, *arguments)
    assert (done.code, done.out) == (3, "")
    assert done.err == "convergencectl: convergenced does not run\n  start it with: convergencectl up\n"


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["projects"], ["peers"]])
def test_what_only_reads_reads_the_store_and_says_so(home: Path, arguments: list[str]) -> None:
    done = run(home, *arguments)
    assert done.code == 0
    assert "does not run" in done.err
    assert done.out


def test_an_unknown_project_is_unknown_without_a_daemon_too(home: Path) -> None:
    assert run(home, "status", "nowhere").code == 2


def test_version_and_log_need_no_daemon(home: Path, locations: Locations) -> None:
    done = run(home, "version")
    assert done.code == 0
    assert done.out.splitlines()[0] == f"convergencectl {__version__}"
    log_event(locations, "1 session +3 records")
    assert "proj: 1 session +3 records" in run(home, "log").out


# -- reading


def test_status_is_a_verdict_and_tables(home: Path, daemon: FakeDaemon) -> None:
    done = run(home, "status")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == "all synced"
    assert "\x1b" not in done.out


def test_status_json_is_the_daemons_own_answer(home: Path, daemon: FakeDaemon) -> None:
    assert json.loads(run(home, "status", "--json").out) == daemon.status


def test_status_asks_for_one_project(home: Path, daemon: FakeDaemon) -> None:
    assert run(home, "status", "proj").code == 0
    assert daemon.params("status") == {"project": "proj"}
    assert run(home, "status", "nowhere").code == 2


def test_a_project_given_as_a_path_is_made_absolute(home: Path, daemon: FakeDaemon) -> None:
    run(home, "status", "./here")
    assert daemon.params("status") == {"project": str(home.parent / "here")}


def test_status_exits_5_for_what_needs_a_person(home: Path, daemon: FakeDaemon) -> None:
    fix = "convergencectl conflict resolve memory/a.md --take both"
    daemon.status["attention"] = [{"kind": "conflict", "project": "proj", "text": "both changed", "fix": fix}]
    done = run(home, "status")
    assert done.code == 5
    assert fix in done.out


@pytest.mark.parametrize("state", ["degraded", "halted"])
def test_status_exits_6_for_a_daemon_that_is_not_whole(home: Path, daemon: FakeDaemon, state: str) -> None:
    daemon.status["daemon"]["state"] = "degraded" if state == "degraded" else "halted"
    daemon.status["daemon"]["reasons"] = ["the disk is full"]
    done = run(home, "status", "--json")
    assert done.code == 6
    assert run(home, "status").out.startswith(f"{state}: the disk is full")


def test_projects_and_what_can_be_joined(home: Path, daemon: FakeDaemon) -> None:
    daemon.status["available"] = [{"id": "thesis", "machines": ["laptop", "nas"]}]
    assert "proj" in run(home, "projects").out
    assert "laptop, nas" in run(home, "projects", "--available").out
    assert daemon.params("projects") == {"available": True}
    assert json.loads(run(home, "projects", "--json").out)["projects"] == daemon.status["projects"]


def test_peers_say_why_they_fail(home: Path, daemon: FakeDaemon) -> None:
    daemon.status["peers"][0].update({"state": "failing", "error": "no route to host"})
    done = run(home, "peers")
    assert done.code == 0
    assert "hub: no route to host" in done.out
    assert json.loads(run(home, "peers", "--json").out) == daemon.status["peers"]


def test_version_tells_a_daemon_of_another_version(home: Path, daemon: FakeDaemon) -> None:
    daemon.answers["ping"] = {"pid": 77, "version": "0.0.9", "ready": True}
    done = run(home, "version")
    assert "convergenced 0.0.9 (pid 77)" in done.out
    assert "restart it" in done.out


# -- acting


def test_pause_and_resume(home: Path, daemon: FakeDaemon) -> None:
    assert "everything" in run(home, "pause").out
    assert daemon.params("pause") == {"projects": [], "seconds": None}
    assert "paused until " in run(home, "pause", "proj", "--for", "2h").out
    assert daemon.params("pause") == {"projects": ["proj"], "seconds": 7200}
    assert run(home, "resume", "proj").out == "resumed: proj\n"
    assert daemon.params("resume") == {"projects": ["proj"]}


def test_sync_returns_at_once_and_says_so_on_stderr(home: Path, daemon: FakeDaemon) -> None:
    done = run(home, "sync")
    assert (done.code, done.out) == (0, "")
    assert "watch" in done.err
    expected = {"projects": [], "wait": False, "full": False, "dry_run": False, "timeout": None}
    assert daemon.params("sync") == expected


def test_sync_dry_run_says_what_would_happen(home: Path, daemon: FakeDaemon) -> None:
    daemon.answers["sync"] = {
        "actions": [{"project": "proj", "text": "commit 2 sessions"}],
        "state": "",
        "unsynced": [],
    }
    assert run(home, "sync", "--dry-run").out == "proj: commit 2 sessions\n"
    daemon.answers["sync"] = {"actions": [], "state": "synced", "unsynced": []}
    assert run(home, "sync", "--dry-run").out == "nothing to do\n"


def test_sync_wait_passes_everything_on(home: Path, daemon: FakeDaemon) -> None:
    done = run(home, "sync", "proj", "--wait", "--full", "--timeout", "2m")
    assert (done.code, done.out) == (0, "all synced\n")
    expected = {"projects": ["proj"], "wait": True, "full": True, "dry_run": False, "timeout": 120}
    assert daemon.params("sync") == expected


def test_sync_wait_that_leaves_something_exits_6_and_names_it(home: Path, daemon: FakeDaemon) -> None:
    unsynced = [{"project": "proj", "text": "held by Claude Code (pid 7)"}]
    daemon.answers["sync"] = {"actions": [], "state": "held", "unsynced": unsynced}  # type: ignore[dict-item]
    done = run(home, "sync", "--wait")
    assert done.code == 6
    assert "not synced: proj: held by Claude Code (pid 7)" in done.err


def test_wait_returns_when_all_is_synced(home: Path, daemon: FakeDaemon) -> None:
    assert run(home, "wait", "--timeout", "5").out == "all synced\n"
    assert daemon.params("wait") == {"for": "synced", "timeout": 5}


def test_wait_that_takes_too_long_exits_7_and_says_what_is_missing(home: Path, daemon: FakeDaemon) -> None:
    daemon.answers["wait"] = TimedOutError(
        "not synced after 5 s: proj is ahead 2", "see: convergencectl status"
    )
    done = run(home, "wait", "--timeout", "5")
    assert done.code == 7
    assert "proj is ahead 2" in done.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConvergenceError("s", "h"), 1),
        (UsageError("s", "h"), 2),
        (ConfigError("s", "h"), 2),
        (PeerRefusedError("s", "h"), 4),
        (AttentionError("s", "h"), 5),
        (DegradedError("s", "h"), 6),
        (TimedOutError("s", "h"), 7),
    ],
)
def test_the_daemons_error_becomes_the_exit_code(
    home: Path, daemon: FakeDaemon, error: ConvergenceError, code: int
) -> None:
    daemon.answers["sync"] = error
    done = run(home, "sync", "--wait")
    assert done.code == code
    assert "convergencectl: s\n  h\n" in done.err


def test_init_and_join_send_the_real_path(home: Path, daemon: FakeDaemon) -> None:
    folder = home / "src"
    folder.mkdir()
    link = home.parent / "link"
    link.symlink_to(folder)
    assert run(home, "init", str(link)).out == "tracking proj in ~/src\n"
    assert daemon.params("init") == {"path": str(folder), "rewrite_home": True}
    run(home, "init", str(link), "--id", "notes", "--no-rewrite-home")
    assert daemon.params("init") == {"path": str(folder), "id": "notes", "rewrite_home": False}
    assert run(home, "join", str(link), "--id", "notes").out == "joined notes in ~/src\n"
    assert daemon.params("join") == {"path": str(folder), "id": "notes"}


def test_peers_come_and_go(home: Path, daemon: FakeDaemon) -> None:
    (home.parent / "hub.git").mkdir()
    done = run(home, "peer", "add", "hub", "hub.git")
    assert done.out == f"added hub ({home.parent}/hub.git)\n"
    assert daemon.params("peer_add") == {"name": "hub", "url": str(home.parent / "hub.git")}
    assert run(home, "peer", "remove", "hub").out == "removed hub\n"
    assert daemon.params("peer_remove") == {"name": "hub"}


def test_a_password_is_not_printed(home: Path, daemon: FakeDaemon) -> None:
    done = run(home, "peer", "add", "hub", "https://ann:hunter2@example.com/x.git")
    assert done.code == 0
    assert "hunter2" not in done.out + done.err


# -- configuration


def test_config_changes_apply_at_once_and_keep_comments(
    home: Path, daemon: FakeDaemon, locations: Locations
) -> None:
    config = Path(locations.config_file)
    config.write_text('# mine\n[exchange]\ninterval = "60s" # often\n')
    done = run(home, "config", "set", "exchange.interval", "5m")
    assert (done.code, done.err) == (0, "")
    assert daemon.was_asked("reload")
    assert "# mine" in config.read_text()
    assert "# often" in config.read_text()
    assert run(home, "config", "get", "exchange.interval").out == "5m\n"
    assert run(home, "config", "unset", "exchange.interval").code == 0
    assert run(home, "config", "get", "exchange.interval").out == "60s\n"
    assert config.stat().st_mode & 0o777 == 0o600
    assert "next start" in run(home, "config", "set", "machine.name", "desktop").err


def test_config_works_without_a_daemon_and_says_so(home: Path, locations: Locations) -> None:
    assert run(home, "config", "path").out == f"{locations.config_file}\n"
    done = run(home, "config", "set", "backups.keep", "3")
    assert done.code == 0
    assert "no daemon runs" in done.err
    assert "backups.keep = 3\n" in run(home, "config", "get").out


def test_a_wrong_value_changes_nothing(home: Path, daemon: FakeDaemon, locations: Locations) -> None:
    Path(locations.config_file).write_text("[backups]\nkeep = 3\n")
    assert run(home, "config", "set", "backups.keep", "0").code == 2
    assert Path(locations.config_file).read_text() == "[backups]\nkeep = 3\n"
    assert not [name for name, _ in daemon.asked if name == "reload"]


def test_a_wrong_file_is_reported_with_its_line(home: Path, locations: Locations) -> None:
    Path(locations.config_file).write_text("[backups]\nkeeep = 3\n")
    done = run(home, "config", "get", "backups.keep")
    assert done.code == 2
    assert f"{locations.config_file}, line 2" in done.err


def editing(locations: Locations, home: Path, script: str) -> dict[str, str]:
    editor = home / "editor"
    editor.write_text(f"#!/bin/sh\n{script}\n")
    editor.chmod(0o755)
    return {"EDITOR": str(editor), "VISUAL": ""}


def test_config_edit_checks_before_it_saves(home: Path, daemon: FakeDaemon, locations: Locations) -> None:
    good = editing(locations, home, 'printf "[backups]\\nkeep = 7\\n" > "$1"')
    assert run(home, "config", "edit", environ=good).code == 0
    assert run(home, "config", "get", "backups.keep").out == "7\n"
    assert daemon.was_asked("reload")


def test_a_wrong_edit_is_kept_for_the_next_attempt(home: Path, locations: Locations) -> None:
    wrong = editing(locations, home, 'printf "[backups]\\nkeep = -7\\n" > "$1"')
    done = run(home, "config", "edit", environ=wrong)
    assert done.code == 2
    assert "goes on with it" in done.err
    assert not Path(locations.config_file).exists()
    mend = editing(locations, home, 'sed -i.bak s/-7/8/ "$1"')
    assert run(home, "config", "edit", environ=mend).code == 0
    assert run(home, "config", "get", "backups.keep").out == "8\n"


def test_an_editor_that_fails_changes_nothing(home: Path, locations: Locations) -> None:
    failing = editing(locations, home, 'echo "[backups]" > "$1"; exit 3')
    assert run(home, "config", "edit", environ=failing).code == 2
    assert run(home, "config", "edit", environ={"EDITOR": str(home / "absent"), "VISUAL": ""}).code == 2
    assert not Path(locations.config_file).exists()


# -- the log


def test_log_shows_the_newest_lines_last(home: Path, locations: Locations) -> None:
    for number in range(5):
        log_event(locations, f"event {number}")
    shown = run(home, "log", "-n", "2").out.splitlines()
    assert [line[-7:] for line in shown] == ["event 3", "event 4"]
    (entry,) = map(json.loads, run(home, "log", "-n", "1", "--json").out.splitlines())
    assert (entry["kind"], entry["project"], entry["text"], entry["tip"]) == (
        "commit",
        "proj",
        "event 4",
        "abc",
    )
    assert entry["time"].endswith("Z")


def test_log_follows_until_interrupted(home: Path, locations: Locations) -> None:
    log_event(locations, "the first")
    with subprocess.Popen(
        [*PROGRAM, "log", "-f"], env=environment(home), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "the first" in process.stdout.readline()
        log_event(locations, "the second", None)
        assert "the second" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_a_reader_that_has_seen_enough_is_no_error(home: Path, locations: Locations) -> None:
    for number in range(3000):
        log_event(locations, f"event {number} " + "x" * 80)
    command = " ".join(PROGRAM) + " log -n 3000 | head -1; echo ${PIPESTATUS[0]}"
    done = subprocess.run(
        ["bash", "-c", command],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "0"


# -- live


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_watch_gives_the_terminal_back(
    home: Path, daemon: FakeDaemon, locations: Locations, ending: signal.Signals
) -> None:
    log_event(locations, "1 session +3 records")
    terminal = OnTerminal.start(home, "watch")
    assert terminal.read_until("+3 records").startswith(ALTERNATE_ON)
    code, shown = terminal.end(ending)
    assert code == 130
    assert shown.rstrip().endswith(ALTERNATE_OFF)
    assert "\x1b[?25h" in shown
    assert "Traceback" not in shown


def test_watch_leaves_the_terminal_to_the_shell_while_it_is_suspended(home: Path, daemon: FakeDaemon) -> None:
    terminal = OnTerminal.start(home, "watch")
    terminal.read_until("all synced")
    terminal.process.send_signal(signal.SIGTSTP)
    shown = terminal.read_until(ALTERNATE_OFF)
    assert shown.endswith(ALTERNATE_OFF) or ALTERNATE_ON in shown.rpartition(ALTERNATE_OFF)[2]
    terminal.process.send_signal(signal.SIGCONT)
    del terminal.seen[:]
    terminal.read_until("all synced")
    assert terminal.end(signal.SIGINT)[0] == 130


def test_watch_draws_anew_when_the_terminal_is_resized(home: Path, daemon: FakeDaemon) -> None:
    daemon.status["projects"][0].update({"id": "a-rather-long-name-of-a-project"})
    terminal = OnTerminal.start(home, "watch", columns=120)
    terminal.read_until("ROOT\x1b[0m")
    terminal.resize(30, 50)
    terminal.read_until("CHANGED\x1b[0m")
    assert terminal.end(signal.SIGINT)[0] == 130


def test_watch_shows_how_far_an_import_is(home: Path, daemon: FakeDaemon) -> None:
    daemon.status["projects"][0]["progress"] = {"done": 310_000_000, "of": 1_024_000_000}
    terminal = OnTerminal.start(home, "watch")
    terminal.read_until("░  30 %  310 of 1,024 MB")
    daemon.status["projects"][0]["progress"] = {"done": 800_000_000, "of": 1_024_000_000}
    terminal.read_until(" MB/s, ")
    daemon.status["projects"][0]["progress"] = None
    terminal.read_until("all synced")
    assert terminal.end(signal.SIGINT)[0] == 130


def test_watch_follows_the_daemon(home: Path, daemon: FakeDaemon) -> None:
    terminal = OnTerminal.start(home, "watch")
    terminal.read_until("all synced")
    daemon.status["daemon"].update({"state": "degraded", "reasons": ["the disk is full"]})
    terminal.read_until("the disk is full")
    daemon.stop()
    terminal.read_until("does not run")
    assert terminal.end(signal.SIGINT)[0] == 130


def test_watch_into_a_pipe_prints_what_changes(home: Path, daemon: FakeDaemon, locations: Locations) -> None:
    with subprocess.Popen(
        [*PROGRAM, "watch"], env=environment(home), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "all synced\n"
        log_event(locations, "something new")
        assert "something new" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
        assert process.stdout.read() == ""


def test_interrupting_a_wait_is_quiet_and_exits_130(home: Path, daemon: FakeDaemon) -> None:
    daemon.answers["wait"] = lambda _: None
    terminal = OnTerminal.start(home, "wait")
    assert daemon.was_asked("wait")
    terminal.read_until("waiting")
    code, shown = terminal.end(signal.SIGINT)
    assert code == 130
    assert "Traceback" not in shown


def test_status_on_a_terminal_has_colour_unless_told_otherwise(home: Path, daemon: FakeDaemon) -> None:
    assert "\x1b[1;32mall synced" in OnTerminal.start(home, "status").end()[1]
    assert "\x1b" not in OnTerminal.start(home, "status", environ={"NO_COLOR": "1"}).end()[1]
    assert "\x1b" not in OnTerminal.start(home, "status", environ={"TERM": "dumb"}).end()[1]


def test_status_fits_a_terminal_of_60_columns(home: Path, daemon: FakeDaemon) -> None:
    shown = OnTerminal.start(home, "status", environ={"NO_COLOR": "1"}, columns=60).end()[1]
    assert all(len(line.rstrip()) <= 60 for line in shown.splitlines())
    assert "all synced" in shown
