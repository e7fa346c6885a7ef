"""`up` and `down`: from nothing to a running daemon and back, with a stand-in for the daemon."""

from __future__ import annotations

import os
import signal
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from convergenced.machine.locations import Locations
from ctl import launch
from tests.e2e.cli import Done, OnTerminal, environment, fake_program, python, run
from tests.fakes.daemon import FakeDaemon
from tests.repositories import make_bare
from tests.servers import WebServer, web

__all__ = ["web"]

FAKE = str(Path(__file__).parents[1] / "fakes" / "daemon.py")
DRIVER = f"""
import sys
from ctl import __main__, launch
launch.command = lambda: [sys.executable, {FAKE!r}]
launch.READY_TIMEOUT = float(__import__("os").environ.get("READY_TIMEOUT", "20"))
sys.exit(__main__.main(sys.argv[1:]))
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home"
    folder.mkdir()
    yield folder
    launch.stop(where(folder))
    runtime = folder / "runtime"
    if runtime.exists():  # else this would name the socket of whoever runs the tests
        launch.stop(Locations.from_environment({"XDG_RUNTIME_DIR": str(runtime)}, str(folder)))


def where(home: Path) -> Locations:
    return Locations.from_environment(environment(home), str(home))


def ctl(home: Path, *arguments: str, **environ: str) -> Done:
    """`convergencectl`, which takes the stand-in for `convergenced`."""
    done = python(home, DRIVER, arguments, environ)
    assert "Traceback" not in done.err, done.err
    return done


def pid_of(home: Path) -> int | None:
    found = launch.ping(where(home))
    return None if found is None else found["pid"]


def write_session(home: Path, folder: str, size: int) -> None:
    path = home / "claude" / "projects" / folder / f"{uuid.uuid4()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def test_up_makes_a_machine_from_nothing(home: Path) -> None:
    done = ctl(home, "up", "--yes", "--peer", "/srv/hub.git")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "all synced"
    config = Path(where(home).config_file)
    assert 'name = "hub"\nurl = "/srv/hub.git"' in config.read_text()
    assert "# " in config.read_text()
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    pid = pid_of(home)
    assert pid is not None
    assert os.getsid(pid) == pid, "it has a session of its own, so closing the terminal does not end it"
    assert launch.daemon_log(where(home)).read_text() == "fake daemon starting\n"


def test_up_again_changes_nothing(home: Path) -> None:
    assert ctl(home, "up", "--yes", "--peer", "/srv/hub.git").code == 0
    before, pid = Path(where(home).config_file).read_text(), pid_of(home)
    done = ctl(home, "up", "--peer", "/srv/hub.git")
    assert done.code == 0
    assert done.err == ""
    assert (Path(where(home).config_file).read_text(), pid_of(home)) == (before, pid)


def test_down_ends_the_daemon_and_says_so(home: Path) -> None:
    ctl(home, "up", "--yes")
    pid = pid_of(home)
    assert ctl(home, "down").out == f"stopped convergenced (pid {pid})\n"
    assert pid_of(home) is None
    done = ctl(home, "down")
    assert (done.code, done.out) == (0, "convergenced did not run\n")


def test_up_after_down_needs_no_second_consent(home: Path) -> None:
    ctl(home, "up", "--yes")
    Path(where(home).store).mkdir()  # which the real daemon makes
    ctl(home, "down")
    assert ctl(home, "up").code == 0


def test_without_a_terminal_nothing_is_shared_unasked(home: Path) -> None:
    done = ctl(home, "up")
    assert done.code == 2
    assert "--yes" in done.err
    assert not Path(where(home).config_file).exists()
    assert pid_of(home) is None


def test_a_config_written_by_hand_is_no_consent(home: Path) -> None:
    assert run(home, "config", "set", "backups.keep", "3").code == 0
    assert ctl(home, "up").code == 2


def on_terminal(home: Path, *arguments: str) -> OnTerminal:
    sitecustomize = home / "patch" / "sitecustomize.py"
    sitecustomize.parent.mkdir()
    take = f"launch.command = lambda: [sys.executable, {FAKE!r}]"
    sitecustomize.write_text(f"import sys\nfrom convergencectl import launch\n{take}\n")
    return OnTerminal.start(home, *arguments, environ={"PYTHONPATH": str(sitecustomize.parent)})


def test_up_shows_what_will_be_shared_with_whom_and_asks(home: Path) -> None:
    write_session(home, "-home-ann-src-proj", 1_500_000)
    write_session(home, "-home-ann-src-proj", 500_000)
    write_session(home, "-home-ann-notes", 10)
    terminal = on_terminal(home, "up", "--peer", "https://ann:hunter2@example.com/hub.git")
    shown = terminal.read_until("[y/N]")
    assert "-home-ann-src-proj" in shown
    assert "2.0 MB" in shown
    assert "3 sessions" in shown
    assert "example.com/hub.git" in shown
    assert "hunter2" not in shown
    assert pid_of(home) is None
    terminal.type("y\n")
    code, shown = terminal.end()
    assert code == 0
    assert "all synced" in shown
    assert pid_of(home) is not None


def test_a_no_changes_nothing(home: Path) -> None:
    terminal = on_terminal(home, "up", "--peer", "/srv/hub.git")
    terminal.read_until("[y/N]")
    terminal.type("\n")
    code, shown = terminal.end()
    assert code == 1
    assert "nothing was changed" in shown
    assert not Path(where(home).config_file).exists()
    assert pid_of(home) is None


def test_ctrl_c_at_the_question_changes_nothing(home: Path) -> None:
    terminal = on_terminal(home, "up", "--peer", "/srv/hub.git")
    terminal.read_until("[y/N]")
    code, shown = terminal.end(signal.SIGINT)
    assert code == 130
    assert shown.endswith("nothing was changed\r\n")
    assert not Path(where(home).config_file).exists()
    assert pid_of(home) is None


@pytest.fixture
def public_hub(web: WebServer) -> Iterator[str]:
    """A hub on the web that anybody can read; its URL holds a password all the same."""
    hub = web.root / "public.git"
    if not hub.exists():
        make_bare(hub)
    web.lets_anybody_in = True
    yield web.url(hub)
    web.lets_anybody_in = False


def test_a_hub_that_anybody_can_read_is_refused_unless_that_is_meant(
    home: Path, web: WebServer, public_hub: str
) -> None:
    trusting = {"GIT_SSL_CAINFO": str(web.certificate)}
    done = ctl(home, "up", "--yes", "--peer", public_hub, **trusting)
    assert done.code == 2
    assert "can be read by anybody" in done.err
    assert "--yes-public" in done.err
    assert "s3cr3t" not in done.err
    assert not Path(where(home).config_file).exists()
    assert pid_of(home) is None
    web.lets_anybody_in = False
    assert ctl(home, "up", "--yes", "--peer", public_hub, **trusting).code == 0
    web.lets_anybody_in = True
    assert ctl(home, "up", "--yes", **trusting).code == 0, "a peer that is known already is not asked about"
    other = f"{public_hub}/"
    assert ctl(home, "up", "--yes", "--peer", other, **trusting).code == 2
    assert ctl(home, "peer", "add", "more", other, **trusting).code == 2
    assert ctl(home, "peer", "add", "more", other, "--yes-public", **trusting).code == 0
    assert ctl(home, "up", "--yes", "--yes-public", "--peer", other, **trusting).code == 0


@pytest.mark.parametrize(
    ("version", "restarted", "said"),
    [("0.0.9", True, "is version 0.0.9"), ("99.1", False, "update convergencectl")],
)
def test_a_daemon_of_another_version_is_named_and_an_older_one_restarted(
    home: Path, version: str, restarted: bool, said: str
) -> None:
    assert ctl(home, "up", "--yes", FAKE_DAEMON=f"version={version}").code == 0
    pid = pid_of(home)
    assert said in ctl(home, "status").err
    assert said in ctl(home, "version").out
    done = ctl(home, "up")
    assert done.code == 0
    assert ("restarting" in done.err) is restarted
    assert (pid_of(home) != pid) is restarted
    assert pid_of(home) is not None
    assert (said in ctl(home, "status").err) is not restarted


def test_a_second_peer_gets_a_name_of_its_own(home: Path) -> None:
    ctl(home, "up", "--yes", "--peer", "/srv/hub.git")
    ctl(home, "down")
    ctl(home, "up", "--yes", "--peer", "/srv/other.git")
    text = Path(where(home).config_file).read_text()
    assert 'name = "hub"' in text
    assert 'name = "peer2"\nurl = "/srv/other.git"' in text


def test_a_new_peer_goes_to_the_daemon_that_runs(home: Path) -> None:
    with FakeDaemon(where(home)) as daemon:
        Path(where(home).config_file).write_text("")
        assert ctl(home, "up").code == 0
        assert ctl(home, "up", "--peer", "/srv/hub.git").code == 2
        assert ctl(home, "up", "--yes", "--peer", "/srv/hub.git").code == 0
        assert daemon.params("peer_add") == {"name": "hub", "url": "/srv/hub.git"}


def test_a_daemon_that_dies_is_shown_with_its_last_words(home: Path) -> None:
    done = ctl(home, "up", "--yes", FAKE_DAEMON="dies")
    assert done.code == 1
    assert "exit code 2" in done.err
    assert "config.toml, line 3: unknown key" in done.err


def test_a_daemon_that_never_gets_ready_is_given_up(home: Path) -> None:
    done = ctl(home, "up", "--yes", FAKE_DAEMON="unready", READY_TIMEOUT="1")
    assert done.code == 1
    assert "not ready after 1 s" in done.err
    assert "fake daemon starting" in done.err


def test_in_the_foreground_up_becomes_the_daemon(home: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-c", DRIVER, "up", "--yes", "--foreground"]
    top = Path(__file__).parents[2]
    with subprocess.Popen(
        command, env=environment(home), cwd=top, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while (line := process.stderr.readline()) != "fake daemon starting\n":
            assert line, "the daemon did not start"
        done = Done(-1, "", "")
        for _ in range(200):
            done = ctl(home, "up", "--foreground")
            if f"(pid {process.pid})" in done.err:
                break
        assert (done.code, f"runs already (pid {process.pid})" in done.err) == (1, True)
        assert ctl(home, "down").code == 0
        assert process.wait(20) == 0


def as_user(home: Path, script: str) -> dict[str, str]:
    """An environment with a service manager of its own: a script that writes down what it is told."""
    runtime = home / "runtime"
    (runtime / "systemd").mkdir(parents=True, exist_ok=True)
    runtime.chmod(0o700)
    (runtime / "systemd" / "private").touch()
    fake_program(home / "bin", "systemctl", f'echo "$@" >> {home}/told\n{script}')
    fake_program(home / "bin", "systemd-run", "exit 0")
    fake_program(home / "bin", "loginctl", "echo no")
    fake_program(home / "bin", "journalctl", "echo the last line of the journal")
    return {
        "CONVERGENCE_HOME": "",
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_CONFIG_HOME": str(home / ".config"),
    }


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="systemd runs on Linux only")
def test_with_a_service_manager_up_installs_a_unit_and_down_disables_it(home: Path) -> None:
    import sys

    start = f'case "$*" in *start*) exec {sys.executable} {FAKE} >/dev/null 2>&1 & esac'
    user = as_user(home, start)
    done = ctl(home, "up", "--yes", **user)
    assert done.code == 0, done.err
    assert "as a systemd service" in done.err
    unit = home / ".config/systemd/user/convergenced.service"
    assert f'Environment="CLAUDE_CONFIG_DIR={home}/claude"' in unit.read_text()
    told = (home / "told").read_text().splitlines()
    assert told == [
        "--version",
        "--user daemon-reload",
        "--user enable convergenced.service",
        "--user reset-failed convergenced.service",
        "--user restart --no-block convergenced.service",
    ]
    assert ctl(home, "up", **user).code == 0
    assert (home / "told").read_text().splitlines() == told
    assert ctl(home, "down", **user).code == 0
    assert (home / "told").read_text().splitlines()[-1] == "--user disable --now convergenced.service"


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="systemd runs on Linux only")
def test_a_service_that_cannot_start_says_why_and_how_to_do_without(home: Path) -> None:
    user = as_user(home, 'echo "Failed to connect to bus" >&2; exit 1')
    done = ctl(home, "up", "--yes", **user)
    assert done.code == 1
    assert "Failed to connect to bus" in done.err
    assert "CONVERGENCE_NO_SERVICE=1" in done.err
    quiet = as_user(home, "")
    done = ctl(home, "up", "--yes", READY_TIMEOUT="1", **quiet)
    assert done.code == 1
    assert "the last line of the journal" in done.err


def test_a_machine_under_convergence_home_never_becomes_a_service(home: Path) -> None:
    user = as_user(home, "") | {"CONVERGENCE_HOME": str(home)}
    assert ctl(home, "up", "--yes", **user).code == 0
    assert not (home / "told").exists()
