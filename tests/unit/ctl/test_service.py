from __future__ import annotations

import configparser
import importlib.resources
import os
import plistlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from convergenced.errors import ConvergenceError
from ctl import service
from ctl.launchd import LABEL, Launchd, launch_agent
from ctl.service import detect, inherited, tail
from ctl.systemd import CHOSEN, DENIED, FOREIGN, SANDBOX, UNIT, SystemdUser, systemd_unit

AWKWARD = {"PATH": "/usr/bin:/opt/my tools/bin", "CLAUDE_CONFIG_DIR": '/home/ann/100% "mine"\\$x'}


DOCUMENTED = {
    "Label": str,
    "ProgramArguments": list,
    "EnvironmentVariables": dict,
    "RunAtLoad": bool,
    "KeepAlive": dict,
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "ProcessType": str,
    "LowPriorityIO": bool,
    "Nice": int,
    "Umask": int,
    "StandardErrorPath": str,
}
"""Keys of launchd.plist(5) that may be used here, and their types."""


class Told:
    """Stands in for the manager's programs: writes down what they were told and answers as arranged."""

    def __init__(
        self, code: int = 0, stderr: str = "", *, sandbox: bool = True, said: dict[str, str] | None = None
    ) -> None:
        self.commands: list[str] = []
        self.code, self.stderr, self.sandbox, self.said = code, stderr, sandbox, said or {}

    def __call__(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        words = " ".join(command)
        self.commands.append(words)
        code = self.code if command[0] != "systemd-run" else int(not self.sandbox)
        out = next((text for part, text in self.said.items() if part in words), "said\n")
        return subprocess.CompletedProcess(list(command), code, out, self.stderr)


def test_both_definitions_ship_with_the_program() -> None:
    shipped = {one.name for one in importlib.resources.files("convergencectl.service_units").iterdir()}
    assert {UNIT, SANDBOX, f"{LABEL}.plist"} <= shipped


def test_the_unit_keeps_its_promises() -> None:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(systemd_unit("/usr/bin/python3", {}))
    unit, body = dict(parser["Unit"]), dict(parser["Service"])
    assert body["Type"] == "notify"
    assert body["NotifyAccess"] == "main"
    assert (body["WatchdogSec"], body["TimeoutStopSec"]) == ("60", "15")
    assert (body["Restart"], body["RestartSec"]) == ("on-failure", "10")
    assert unit["StartLimitIntervalSec"] == "0", "it is never given up"
    assert body["UMask"] == "0077"
    assert body["ExecStart"] == '"/usr/bin/python3" -P -m convergenced'
    assert body["PrivateUsers"] == "yes"
    assert not {"PrivateTmp", "ProtectProc", "ProcSubset", "MemoryDenyWriteExecute"} & body.keys()


def test_newer_managers_wait_longer_with_each_restart() -> None:
    text = systemd_unit("/usr/bin/python3", {}, version=254)
    assert "RestartMaxDelaySec=300" in text
    assert "RestartMaxDelaySec" not in systemd_unit("/usr/bin/python3", {}, version=253)


def test_without_a_sandbox_only_what_needs_none_is_left() -> None:
    text = systemd_unit("/usr/bin/python3", {}, without_sandbox=DENIED)
    assert DENIED in text
    assert "NoNewPrivileges=yes" in text
    assert "PrivateUsers=" not in text
    assert "ProtectSystem=" not in text


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("without", [None, CHOSEN, DENIED], ids=["sandbox", "chosen", "denied"])
@pytest.mark.parametrize("environment", [{}, AWKWARD], ids=["bare", "awkward"])
def test_systemd_finds_nothing_wrong_with_the_unit(
    tmp_path: Path, environment: dict[str, str], without: str | None
) -> None:
    unit = tmp_path / UNIT
    writable = ['/data/100% "mine"\\x']
    unit.write_text(systemd_unit(sys.executable, environment, without_sandbox=without, writable=writable))
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
    assert not re.search("@[A-Z]+@", text)


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
    assert {key: type(value) for key, value in agent.items()}.items() <= DOCUMENTED.items(), (
        "launchd passes over a key that it does not know"
    )


def test_a_service_inherits_where_things_are_and_no_secrets() -> None:
    shell = {
        "PATH": "/bin:bin::.:/usr/bin",
        "CLAUDE_CONFIG_DIR": "/c",
        "XDG_DATA_HOME": "/d",
        "https_proxy": "http://proxy:3128",
        "HTTP_PROXY": "http://ann:secret@proxy:3128",
        "ANTHROPIC_API_KEY": "secret",
        "XDG_STATE_HOME": "",
        "GIT_SSH_COMMAND": "ssh\n-v",
        "XDG_CONFIG_HOME": "/odd/\udcff",
        "SSL_CERT_DIR": "/größer/証明書",
    }
    assert inherited(shell) == {
        "PATH": "/bin:/usr/bin",
        "CLAUDE_CONFIG_DIR": "/c",
        "XDG_DATA_HOME": "/d",
        "https_proxy": "http://proxy:3128",
        "SSL_CERT_DIR": "/größer/証明書",
    }


def test_only_an_agent_that_outlives_the_shell_is_passed_on() -> None:
    runtime = {"XDG_RUNTIME_DIR": "/run/user/1000"}
    assert "SSH_AUTH_SOCK" in inherited(runtime | {"SSH_AUTH_SOCK": "/run/user/1000/keyring/ssh"})
    assert "SSH_AUTH_SOCK" not in inherited(runtime | {"SSH_AUTH_SOCK": "/tmp/ssh-x/agent.7"})


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a login with a systemd user manager."""
    monkeypatch.setenv("HOME", str(tmp_path))
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
    assert [manager.install(), manager.install()] == [True, False]
    manager.start()
    assert told.commands[-1] == f"systemctl --user restart --no-block {UNIT}"
    assert manager.installed()
    assert told.commands.count("systemctl --user daemon-reload") == 1
    assert SystemdUser(login | {"CLAUDE_CONFIG_DIR": "/elsewhere"}, told).install()
    assert told.commands.count("systemctl --user daemon-reload") == 2
    assert manager.last_words() == "said\n"
    manager.uninstall()
    assert not manager.installed()
    assert "systemctl --user disable --now" in " ".join(told.commands)


def test_a_sandbox_that_is_denied_is_left_out_and_one_that_is_not_wanted_stays_out(
    login: dict[str, str],
) -> None:
    SystemdUser(login, Told(sandbox=False)).install()
    allowing = SystemdUser(login, Told())
    assert DENIED in allowing.path.read_text()
    assert (allowing.state().sandbox or "").startswith("none: this system")
    assert allowing.install(), "what was denied is tried again"
    assert "PrivateUsers=yes" in allowing.path.read_text()
    assert allowing.state().sandbox == "full"
    assert allowing.install(sandbox=False)
    assert not allowing.install(), "what was chosen is remembered"
    assert CHOSEN in allowing.path.read_text()
    assert allowing.install(sandbox=True)
    assert "PrivateUsers=yes" in allowing.path.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_where_ssh_would_refuse_its_configuration_there_is_no_sandbox(
    login: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh/config.d").mkdir(parents=True)
    included = tmp_path / ".ssh/config.d/work"
    included.touch()
    manager = SystemdUser(login, Told())
    manager.install()
    assert manager.state().sandbox == "full"
    os.chown(included, 1234, 1234)
    assert manager.install()
    assert FOREIGN in manager.path.read_text()
    assert (manager.state().sandbox or "").startswith("none: ssh would refuse")


def test_what_may_be_written_is_known(
    login: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    manager = SystemdUser(login | {"XDG_DATA_HOME": '/odd/100% "x"'}, Told())
    manager.install(writable=["/data/hub.git", "/home/ann/hub.git"])
    may = [
        "/data/hub.git",
        "/data/hub.git/refs",
        "/home/ann/x",
        "/srv/hub.git",
        "/tmp/x",
        '/odd/100% "x"/convergence',
    ]
    assert [folder for folder in may if not manager.can_write(folder)] == []
    assert [
        folder for folder in ("/data", "/data/hub", "/home/bob", "/etc") if manager.can_write(folder)
    ] == []
    manager.install(sandbox=False)
    assert manager.can_write("/etc")


def test_what_systemd_says_of_the_service_is_understood(login: dict[str, str]) -> None:
    said = {
        "show convergenced": "ActiveState=active\nMainPID=42\nStatusText=all synced\nNRestarts=3\n"
        "UnitFileState=enabled\nActiveEnterTimestampMonotonic=5000000\n",
        "loginctl": "no\n",
    }
    manager = SystemdUser(login, Told(said=said))
    state = manager.state()
    assert (state.state, state.enabled, state.pid, state.restarts) == ("running", True, 42, 3)
    assert (state.text, state.lingers, state.sandbox) == ("all synced", False, None)
    assert state.since is not None
    assert SystemdUser(login, Told()).state().state == "stopped"


def test_of_two_machines_on_one_host_each_meets_only_its_own_service(
    login: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    log, home = tmp_path / "log", {"CONVERGENCE_HOME": '/two/100% "x"'}
    assert detect(login | home, log, Told()) is None, "only where a person asks"
    second = detect(login | home, log, Told(), asked=True)
    assert second is not None
    second.install()
    assert detect(login | home, log, Told()) is not None
    assert detect(login, log, Told()) is None
    with pytest.raises(ConvergenceError, match="belongs to the machine in CONVERGENCE_HOME=/two") as raised:
        detect(login, log, Told(), asked=True)
    assert "service uninstall" in raised.value.hint
    second.uninstall()
    assert detect(login, log, Told()) is not None


def test_what_systemd_says_is_passed_on(login: dict[str, str]) -> None:
    with pytest.raises(ConvergenceError, match="no bus"):
        SystemdUser(login, Told(1, "no bus")).install()


def test_launchd_loads_starts_disables_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    told = Told()
    home = {"PATH": "/bin", "CONVERGENCE_HOME": "/two"}
    manager = Launchd(home, tmp_path / "state" / "daemon.log", told)
    assert manager.home() is None
    assert [manager.install(), manager.install()] == [True, False]
    assert manager.home() == "/two"
    assert plistlib.loads(manager.path.read_bytes())["ProgramArguments"][0] == sys.executable
    domain = f"gui/{os.getuid()}"
    manager.start()
    assert told.commands[-1] == f"launchctl bootstrap {domain} {manager.path}"
    manager.stop()
    assert told.commands[-1] == f"launchctl disable {domain}/{LABEL}"
    manager.uninstall()
    assert not manager.path.exists()
    with pytest.raises(ConvergenceError, match="Bootstrap failed"):
        Launchd({}, tmp_path / "log", Told(5, "Bootstrap failed")).start()


@pytest.mark.parametrize(
    ("printed", "state", "pid"),
    [
        ("\tstate = running\n\tpid = 42\n", "running", 42),
        ("\tstate = not running\n\tlast exit code = 0\n", "stopped", None),
        ("\tstate = not running\n\tlast exit code = 78: EX_CONFIG\n", "failed", None),
        ("\tstate = not running\n\tlast exit code = (never exited)\n", "stopped", None),
        ("", "stopped", None),
    ],
)
def test_what_launchd_says_of_the_agent_is_understood(
    tmp_path: Path, printed: str, state: str, pid: int | None
) -> None:
    found = Launchd({}, tmp_path / "log", Told(said={"print": printed})).state()
    assert (found.state, found.pid) == (state, pid)


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
