from __future__ import annotations

import configparser
import importlib.resources
import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from convergenced.errors import ConvergenceError
from ctl import service
from ctl.service import LABEL, UNIT, Launchd, SystemdUser, detect, inherited, launch_agent, systemd_unit, tail

AWKWARD = {"PATH": "/usr/bin:/opt/my tools/bin", "CLAUDE_CONFIG_DIR": '/home/ann/100% "mine"\\$x'}


class Told:
    """Stands in for the manager's program: writes down what it was told and answers as arranged."""

    def __init__(self, code: int = 0, stderr: str = "") -> None:
        self.commands: list[str] = []
        self.code, self.stderr = code, stderr

    def __call__(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self.commands.append(" ".join(command))
        return subprocess.CompletedProcess(list(command), self.code, "said\n", self.stderr)


def test_both_definitions_ship_with_the_program() -> None:
    shipped = {one.name for one in importlib.resources.files("convergencectl.service_units").iterdir()}
    assert {UNIT, f"{LABEL}.plist"} <= shipped


def test_the_unit_keeps_its_promises() -> None:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(systemd_unit("/usr/bin/python3", {}))
    unit, body = dict(parser["Unit"]), dict(parser["Service"])
    assert body["Type"] == "notify"
    assert body["NotifyAccess"] == "main"
    assert (body["WatchdogSec"], body["TimeoutStopSec"]) == ("60", "15")
    assert (body["Restart"], body["RestartSec"]) == ("on-failure", "5")
    assert {"StartLimitIntervalSec", "StartLimitBurst"} <= unit.keys()
    assert body["UMask"] == "0077"
    assert body["ExecStart"] == '"/usr/bin/python3" -P -m convergenced'
    assert not {"ProtectSystem", "PrivateTmp", "ProtectHome", "MemoryDenyWriteExecute"} & body.keys()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("environment", [{}, {"PATH": "/usr/bin"}, AWKWARD], ids=["bare", "plain", "awkward"])
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, environment: dict[str, str]) -> None:
    unit = tmp_path / UNIT
    unit.write_text(systemd_unit(sys.executable, environment))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(unit)],
        env={"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_environment_survives_the_units_quoting() -> None:
    text = systemd_unit("/opt/my python$/bin/python3", AWKWARD)
    assert 'ExecStart="/opt/my python$$/bin/python3" -P' in text
    assert 'Environment="PATH=/usr/bin:/opt/my tools/bin"' in text
    assert 'Environment="CLAUDE_CONFIG_DIR=/home/ann/100%% \\"mine\\"\\\\$x"' in text
    assert "@" not in text.replace("@ signs", "").replace("@system-service", "")


def test_the_launch_agent_keeps_its_promises(tmp_path: Path) -> None:
    agent = plistlib.loads(launch_agent("/opt/a & b/python3", AWKWARD, tmp_path / "log"))
    assert agent["Label"] == LABEL
    assert agent["ProgramArguments"] == ["/opt/a & b/python3", "-P", "-m", "convergenced"]
    assert agent["EnvironmentVariables"] == AWKWARD
    assert agent["StandardErrorPath"] == str(tmp_path / "log")
    assert agent["RunAtLoad"] is True
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["ProcessType"] == "Background"
    assert agent["LowPriorityIO"] is True
    assert agent["Umask"] == 0o077
    assert agent["ThrottleInterval"] >= 5


def test_a_service_inherits_where_things_are_and_no_secrets() -> None:
    shell = {
        "PATH": "/bin",
        "CLAUDE_CONFIG_DIR": "/c",
        "XDG_DATA_HOME": "/d",
        "ANTHROPIC_API_KEY": "secret",
        "XDG_STATE_HOME": "",
        "GIT_SSH_COMMAND": "ssh\n-v",
    }
    assert inherited(shell) == {"PATH": "/bin", "CLAUDE_CONFIG_DIR": "/c", "XDG_DATA_HOME": "/d"}


def test_only_an_agent_that_outlives_the_shell_is_passed_on() -> None:
    runtime = {"XDG_RUNTIME_DIR": "/run/user/1000"}
    assert "SSH_AUTH_SOCK" in inherited(runtime | {"SSH_AUTH_SOCK": "/run/user/1000/keyring/ssh"})
    assert "SSH_AUTH_SOCK" not in inherited(runtime | {"SSH_AUTH_SOCK": "/tmp/ssh-x/agent.7"})


@pytest.fixture
def login(tmp_path: Path) -> dict[str, str]:
    """The environment of a login with a systemd user manager."""
    (tmp_path / "run/systemd").mkdir(parents=True)
    (tmp_path / "run/systemd/private").touch()
    (tmp_path / "bin").mkdir()
    for name in ("systemctl", "launchctl"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return {
        "PATH": str(tmp_path / "bin"),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }


def test_the_service_manager_of_a_login_is_found(
    login: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert isinstance(detect(login, tmp_path / "log"), SystemdUser)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert isinstance(detect(login, tmp_path / "log"), Launchd)


@pytest.mark.parametrize(
    "without",
    [
        {"CONVERGENCE_HOME": "/somewhere"},
        {"CONVERGENCE_NO_SERVICE": "1"},
        {"PATH": "/nonexistent"},
        {"XDG_RUNTIME_DIR": ""},
        {"XDG_RUNTIME_DIR": "/nonexistent"},
    ],
)
def test_where_there_is_none_or_none_is_wanted_none_is_found(
    login: dict[str, str], tmp_path: Path, without: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert detect(login | without, tmp_path / "log") is None


def test_systemd_reloads_only_for_a_unit_that_changed(login: dict[str, str]) -> None:
    told = Told()
    manager = SystemdUser(login, told)
    assert not manager.installed()
    manager.start()
    manager.start()
    assert manager.installed()
    assert told.commands.count("systemctl --user daemon-reload") == 1
    SystemdUser(login | {"CLAUDE_CONFIG_DIR": "/elsewhere"}, told).start()
    assert told.commands.count("systemctl --user daemon-reload") == 2
    assert manager.last_words() == "said\n"


def test_what_systemd_says_is_passed_on(login: dict[str, str]) -> None:
    with pytest.raises(ConvergenceError, match="no bus"):
        SystemdUser(login, Told(1, "no bus")).start()


def test_launchd_loads_starts_and_disables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    told = Told()
    manager = Launchd({"PATH": "/bin"}, tmp_path / "state" / "daemon.log", told)
    manager.start()
    assert manager.installed()
    assert plistlib.loads(manager.path.read_bytes())["ProgramArguments"][0] == sys.executable
    domain = f"gui/{os.getuid()}"
    assert told.commands[-1] == f"launchctl bootstrap {domain} {manager.path}"
    manager.stop()
    assert told.commands[-1] == f"launchctl disable {domain}/{LABEL}"
    with pytest.raises(ConvergenceError, match="Bootstrap failed"):
        Launchd({}, tmp_path / "log", Told(5, "Bootstrap failed")).start()


def test_a_manager_that_hangs_or_is_absent_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConvergenceError, match="could not be run"):
        service.run([str(tmp_path / "absent")])
    monkeypatch.setattr(service, "COMMAND_TIMEOUT", 0.1)
    with pytest.raises(ConvergenceError, match="could not be run"):
        service.run([sys.executable, "-c", "import threading; threading.Event().wait(60)"])


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == ""
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(5000)) + b"\xff")
    assert tail(log).splitlines()[-2:] == ["line 4999", "\N{REPLACEMENT CHARACTER}"]
    assert len(tail(log).splitlines()) == 15
