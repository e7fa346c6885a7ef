"""`service`: every action and exit code, with stand-ins for the daemon and for the service manager."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from ctl import launch
from tests.e2e.cli import OnTerminal, fake_program, run
from tests.e2e.test_cli_up_down import FAKE, as_user, ctl, home, pid_of, where
from tests.fakes.daemon import FakeDaemon

__all__ = ["home"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd runs on Linux only")

STARTS = f'case "$*" in *restart*) exec {sys.executable} {FAKE} >/dev/null 2>&1 & esac'
SHOWS = 'case "$*" in *show*) cat "$HOME/shown" 2>/dev/null;; esac'
UNIT = ".config/systemd/user/convergenced.service"


@pytest.fixture
def user(home: Path) -> dict[str, str]:
    """An environment with a service manager whose `show` says what stands in `shown`."""
    return as_user(home, f"{SHOWS}\n{STARTS}")


def show(home: Path, **properties: str) -> None:
    (home / "shown").write_text("".join(f"{name}={value}\n" for name, value in properties.items()))


def set_up(home: Path, user: dict[str, str]) -> int:
    """A machine whose daemon runs as a service; its pid."""
    assert ctl(home, "up", "--yes", **user).code == 0
    status = json.loads(ctl(home, "service", "status", "--json", **user).out)
    pid = int(status["pid"])
    show(home, ActiveState="active", MainPID=str(pid), UnitFileState="enabled", StatusText="all synced")
    return pid


def test_help_of_each_action_shows_an_example(home: Path) -> None:
    for action in ("install", "uninstall", "status", "logs"):
        done = run(home, "service", action, "-h")
        assert done.code == 0
        assert f"convergencectl service {action}" in done.out.partition("example")[2]
    assert run(home, "service").code == 2
    assert run(home, "service", "start").code == 2
    assert run(home, "service", "install", "--sandbox", "--no-sandbox").code == 2
    assert run(home, "service", "logs", "-n", "many").code == 2


def test_nothing_is_installed_before_a_machine_is_set_up(home: Path, user: dict[str, str]) -> None:
    done = ctl(home, "service", "install", **user)
    assert done.code == 1
    assert "convergencectl up" in done.err
    assert not (home / UNIT).exists()


def test_install_changes_nothing_where_all_is_as_it_should_be(home: Path, user: dict[str, str]) -> None:
    pid = set_up(home, user)
    before = (home / UNIT).read_bytes()
    done = ctl(home, "service", "install", **user)
    assert (done.code, done.err) == (0, "")
    assert f"runs (pid {pid}); nothing was changed" in done.out
    assert (home / UNIT).read_bytes() == before


def test_install_takes_over_from_a_daemon_that_was_started_without_it(
    home: Path, user: dict[str, str]
) -> None:
    without = user | {"CONVERGENCE_NO_SERVICE": "1"}
    assert ctl(home, "up", "--yes", **without).code == 0
    detached = json.loads(ctl(home, "service", "status", "--json", **user).out)
    assert (detached["installed"], detached["manager"]) == (False, "systemd")
    assert f"runs without one (pid {detached['pid']})" in ctl(home, "service", "status", **user).out
    show(home, ActiveState="inactive", MainPID="0")
    done = ctl(home, "service", "install", **user)
    assert done.code == 0, done.err
    assert f"pid {detached['pid']})" not in done.out
    assert (home / UNIT).exists()


def test_without_a_service_manager_install_says_how_to_do_without(home: Path) -> None:
    done = ctl(home, "service", "install", CONVERGENCE_NO_SERVICE="1")
    assert done.code == 1
    assert "convergencectl up" in done.err
    assert ctl(home, "service", "uninstall", CONVERGENCE_NO_SERVICE="1").out == "no service is installed\n"


def test_status_says_how_the_service_is(home: Path, user: dict[str, str]) -> None:
    pid = set_up(home, user)
    done = ctl(home, "service", "status", **user)
    assert done.code == 0
    assert done.out.splitlines() == [
        f"the systemd service runs (pid {pid})",
        "  says      all synced",
        f"  defined   in ~/{UNIT}",
        "  sandbox   full",
        "  starts    with your login",
        "  ends      when you log out; to keep it: loginctl enable-linger",
    ]
    found = json.loads(ctl(home, "service", "status", "--json", **user).out)
    assert {key: found[key] for key in ("schema", "manager", "installed", "enabled", "state", "pid")} == {
        "schema": 1, "manager": "systemd", "installed": True, "enabled": True, "state": "running", "pid": pid,
    }  # fmt: skip
    show(home, ActiveState="active", MainPID="1", UnitFileState="enabled", NRestarts="4")
    done = ctl(home, "service", "status", **user)
    assert f"(pid {pid}): convergencectl down" in done.out
    assert "restarts  4" in done.out
    narrow = ctl(home, "service", "status", COLUMNS="60", **user).out
    assert max(map(len, narrow.splitlines())) <= 60
    assert narrow.split() == done.out.split()


def test_status_of_what_does_not_run_has_an_exit_code_of_its_own(home: Path, user: dict[str, str]) -> None:
    assert ctl(home, "service", "status", **user).code == 3
    set_up(home, user)
    ctl(home, "down", **user)
    show(home, ActiveState="inactive", MainPID="0", UnitFileState="disabled")
    done = ctl(home, "service", "status", **user)
    assert done.code == 3
    assert "not by itself: convergencectl up" in done.out
    show(home, ActiveState="failed", MainPID="0", UnitFileState="enabled")
    done = ctl(home, "service", "status", **user)
    assert done.code == 6
    assert "convergencectl service logs" in done.out


def test_uninstall_leaves_all_data(home: Path, user: dict[str, str]) -> None:
    pid = set_up(home, user)
    done = ctl(home, "service", "uninstall", **user)
    assert done.code == 0
    assert not (home / UNIT).exists()
    assert not os.path.exists(f"/proc/{pid}/root") or pid_of(home) is None
    assert (home / ".config/convergence/config.toml").exists()
    assert "--user daemon-reload" in (home / "told").read_text().splitlines()[-2:]
    assert ctl(home, "service", "uninstall", **user).out == "no service is installed\n"


def test_a_machine_under_convergence_home_gets_the_service_that_it_asks_for(
    home: Path, user: dict[str, str]
) -> None:
    second = user | {"CONVERGENCE_HOME": str(home / "second")}
    (home / "second").mkdir()
    (home / "second/config.toml").write_text("")
    assert ctl(home, "service", "install", **second).code == 0
    assert f'Environment="CONVERGENCE_HOME={home}/second"' in (home / UNIT).read_text()
    done = ctl(home, "service", "uninstall", **user)
    assert done.code == 1
    assert f"CONVERGENCE_HOME={home}/second convergencectl service uninstall" in done.err
    told = len((home / "told").read_text().splitlines())
    assert ctl(home, "up", "--yes", **user).code == 0, "beside it, without a service"
    assert ctl(home, "down", **user).code == 0
    assert len((home / "told").read_text().splitlines()) == told, "the other's service was not touched"
    assert ctl(home, "service", "uninstall", **second).code == 0


def test_logs_come_from_the_journal_or_from_the_file(home: Path, user: dict[str, str]) -> None:
    done = ctl(home, "service", "logs", CONVERGENCE_NO_SERVICE="1")
    assert (done.code, done.out) == (0, "")
    assert "nothing was logged yet" in done.err
    with FakeDaemon(where(home)):
        log = launch.daemon_log(where(home))
        log.write_text("".join(f"line {number}\n" for number in range(100)))
        done = ctl(home, "service", "logs", "-n", "2")
        assert (done.code, done.out) == (0, "line 98\nline 99\n")
    set_up(home, user)
    fake_program(home / "bin", "journalctl", 'echo "asked $*"')
    done = ctl(home, "service", "logs", "-n", "7", "-f", **user)
    assert done.out == "asked --user -u convergenced.service -n 7 -f\n"
    fake_program(home / "bin", "journalctl", "exit 3")
    assert ctl(home, "service", "logs", **user).code == 1


def test_following_the_log_ends_with_ctrl_c(home: Path) -> None:
    log = launch.daemon_log(where(home))
    log.write_text("the first line\n")
    terminal = OnTerminal.start(home, "service", "logs", "-f")
    terminal.read_until("the first line")
    with log.open("a") as file:
        file.write("one more\n")
    terminal.read_until("one more")
    code, shown = terminal.end(signal.SIGINT)
    assert code == 130
    assert "Traceback" not in shown
