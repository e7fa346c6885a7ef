"""The service under a real `systemd --user`: one boot, and what the unit promises."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from convergenced.control.configured import KEPT
from tests.service.lab import Lab, boot, environment_of, make, shut, until, why_not

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
]

UNIT = ".config/systemd/user/convergenced.service"
CONFIG = ".config/convergence/config.toml"
DROP_IN = f"{UNIT}.d/test.conf"
HUB = "ssh://ann@127.0.0.1/~/hub.git"
EXPOSURE = 2.0
SEEN = "55555555-5555-4555-8555-555555555555"
FIRST, SECOND = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"

HANG = """\
import signal, threading
def hang(number, frame):
    threading.Event().wait()
signal.signal(signal.SIGUSR2, hang)
"""
"""Signals are handled in the main thread, which is the control thread: SIGUSR2 hangs it, and it alone."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    kept = os.environ.get("CONVERGENCE_TEST_SYSTEMD_ROOT")
    # Not below pytest's folder, which is kept: the tree has hundreds of megabytes.
    folder = Path(tempfile.mkdtemp(prefix="convergence-systemd-"))
    root = Path(kept) if kept else folder / "root"
    try:
        yield from _booted(root)
    finally:
        shutil.rmtree(folder)


def _booted(root: Path) -> Iterator[Lab]:
    make(root)
    machine = boot(root)
    try:
        _furnish(machine)
        yield machine
    finally:
        shut(machine)
        until(lambda: not Path(f"/proc/{machine.pid}").exists(), "the machine's end")


def _furnish(lab: Lab) -> None:
    """A home with a hub that is reached by ssh, and two checkouts with a session each."""
    lab.as_root("rm -rf /data && mkdir -p /data && chown ann:ann /data")
    lab.ok("git config --global user.name ann; git config --global user.email ann@example.com")
    lab.ok(
        "mkdir -m 700 ~/.ssh; ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519;"
        "cp ~/.ssh/id_ed25519.pub ~/.ssh/authorized_keys;"
        "ssh -o StrictHostKeyChecking=accept-new 127.0.0.1 git init -q --bare hub.git"
    )
    lab.file(".ssh/config", "Host 127.0.0.1\n  IdentitiesOnly yes\n")
    for name, session in (("proj", FIRST), ("other", SECOND)):
        lab.ok(f"mkdir -p src/{name}; cd src/{name}; git init -q; git commit -q --allow-empty -m {name}")
        _write_session(lab, "claude", name, session)


def _write_session(lab: Lab, config_dir: str, project: str, session: str) -> None:
    record = {
        "type": "user",
        "uuid": f"aaaaaaaa{session[8:]}",
        "parentUuid": None,
        "sessionId": session,
        "cwd": f"/home/ann/src/{project}",
        "timestamp": "2031-05-04T10:00:00.000Z",
        "message": {"role": "user", "content": f"about {project}"},
    }
    lab.file(f"{config_dir}/projects/-home-ann-src-{project}/{session}.jsonl", json.dumps(record) + "\n")


def up(lab: Lab, *arguments: str) -> str:
    """`up` as it is called in this user's shell."""
    done = lab.ctl(
        "up", "--yes", "--peer", HUB, *arguments,
        CLAUDE_CONFIG_DIR="/home/ann/claude", SSH_AUTH_SOCK="/run/user/1000/agent",
    )  # fmt: skip
    assert done.code == 0, done.err
    return done.err


@pytest.fixture
def service(lab: Lab) -> Lab:
    """The machine with the service running as installed."""
    up(lab)
    return lab


@contextmanager
def drop_in(lab: Lab, lines: str) -> Iterator[None]:
    """Settings of the unit that hold for a while, as `systemctl --user edit` makes them."""
    lab.file(DROP_IN, f"[Service]\n{lines}\n")
    try:
        lab.ok("systemctl --user daemon-reload; systemctl --user restart convergenced")
        yield
    finally:
        lab.ok(f"rm -r {DROP_IN.rpartition('/')[0]}; systemctl --user daemon-reload")
        lab.ok("systemctl --user restart convergenced")


def test_up_installs_and_starts_the_service_and_changes_nothing_the_second_time(lab: Lab) -> None:
    assert "as a systemd service" in up(lab)
    shown = lab.show("ActiveState", "StatusText", "UnitFileState", "Type", "NRestarts")
    assert (shown["ActiveState"], shown["UnitFileState"], shown["NRestarts"]) == ("active", "enabled", "0")
    assert shown["Type"] == "notify", "so it is active because READY came"
    assert shown["StatusText"]
    pid = lab.main_pid()
    before = {
        path: ((lab.home / path).read_bytes(), (lab.home / path).stat().st_mtime_ns)
        for path in (UNIT, CONFIG)
    }
    assert up(lab) == ""
    after = {
        path: ((lab.home / path).read_bytes(), (lab.home / path).stat().st_mtime_ns)
        for path in (UNIT, CONFIG)
    }
    assert after == before
    assert lab.main_pid() == pid
    told = lab.ctl(
        "service", "install", CLAUDE_CONFIG_DIR="/home/ann/claude", SSH_AUTH_SOCK="/run/user/1000/agent"
    )
    assert "nothing was changed" in told.out
    assert lab.main_pid() == pid


def test_the_environment_that_matters_reaches_the_service(service: Lab) -> None:
    found = environment_of(service, service.main_pid())
    assert found["CLAUDE_CONFIG_DIR"] == "/home/ann/claude"
    assert found["SSH_AUTH_SOCK"] == "/run/user/1000/agent"
    assert {"/opt/venv/bin", "/usr/bin"} <= set(found["PATH"].split(":"))


def test_it_is_exposed_no_more_than_it_has_to_be(service: Lab) -> None:
    said = service.ok("systemd-analyze security --user --no-pager convergenced.service")
    assert float(said.rpartition("service:")[2].split()[0]) <= EXPOSURE, said
    bounds = service.as_root(
        f"grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/{service.main_pid()}/status"
    ).split()
    assert set(bounds) == {"CapBnd:", "0000000000000000", "NoNewPrivs:", "1", "Seccomp:", "2"}


def test_it_sees_what_is_written_pushes_over_ssh_and_knows_where_claude_code_runs(service: Lab) -> None:
    assert service.ctl("wait", "--timeout", "30").code == 0
    assert {"project/proj", "project/other"} <= set(service.ok("git -C hub.git branch").split())
    _write_session(service, "claude", "proj", SEEN)
    until(
        lambda: SEEN in service.ok("git -C hub.git ls-tree -r --name-only project/proj"), "what was written"
    )
    # A client without a session file: nothing but its folder tells where it is.
    service.ok("mkdir -p bin; cp /usr/bin/sleep bin/claude")
    service.ok(
        "systemd-run --user -q --unit=client --working-directory=/home/ann/src/proj /home/ann/bin/claude 600"
    )
    # Another machine of this user's has more to say about both projects.
    for name in ("proj", "other"):
        _write_session(service, "claude2", name, f"3{FIRST[1:]}" if name == "proj" else f"4{FIRST[1:]}")
    service.file("two/config.toml", '[[peers]]\nname = "hub"\nurl = "/home/ann/hub.git"\n')
    service.ok("CONVERGENCE_HOME=~/two CLAUDE_CONFIG_DIR=~/claude2 python -m convergenced --once")
    service.ctl("sync")
    arrived = service.home / f"claude/projects/-home-ann-src-other/4{FIRST[1:]}.jsonl"
    until(arrived.exists, "what another machine wrote")
    until(lambda: "held" in service.ctl("status").out, "a session held")
    status = json.loads(service.ctl("status", "--json").out)
    held = {one["id"]: one["held"] for one in status["projects"]}
    assert held["other"] is None, "the client runs elsewhere"
    assert held["proj"]["pid"] == int(service.show("MainPID", unit="client.service")["MainPID"])
    service.ok("systemctl --user stop client")
    until((service.home / f"claude/projects/-home-ann-src-proj/3{FIRST[1:]}.jsonl").exists, "what was held")


def test_a_hub_outside_the_usual_places_is_named_with_its_remedy(service: Lab) -> None:
    service.ok("git init -q --bare /srv/hub.git 2>/dev/null || true")
    service.ok("git init -q --bare /data/hub.git")
    added = service.ctl("peer", "add", "disk", "/data/hub.git")
    assert added.code == 0, added.err
    assert "convergencectl service install" in added.err
    assert service.ctl("sync", "--wait", "--timeout", "30").code == 6
    assert "keeps it from being written: convergencectl up" in " ".join(service.ctl("status").out.split())
    done = service.ctl("service", "install", CLAUDE_CONFIG_DIR="/home/ann/claude")
    assert done.code == 0, done.err
    assert service.ctl("sync", "--wait", "--timeout", "30").code == 0
    assert "project/proj" in service.ok("git -C /data/hub.git branch")
    assert service.ctl("peer", "remove", "disk").code == 0


def test_the_log_has_priorities(service: Lab) -> None:
    config = (service.home / CONFIG).read_text()
    service.file(CONFIG, f"nonsense = 1\n{config}")
    (service.home / ".local/state/convergence" / KEPT).unlink()
    done = service.do("systemctl --user restart convergenced")
    assert done.code != 0, "a configuration that is wrong from the start keeps it from starting"
    service.file(CONFIG, config)
    entries = service.ok("journalctl --user -u convergenced.service -o json --no-pager").splitlines()
    said = [one for one in map(json.loads, entries) if one.get("SYSLOG_IDENTIFIER") == "convergenced"]
    priorities = {one["MESSAGE"].partition(" ")[0]: one["PRIORITY"] for one in said}
    assert (priorities["started"], priorities["convergenced:"]) == ("6", "3")
    assert int(service.show("NRestarts")["NRestarts"]) == 0, "nothing but a person puts that right"
    assert service.ctl("service", "status").code == 6
    up(service)
    logs = service.ctl("service", "logs", "-n", "500")
    assert logs.code == 0
    assert "nonsense" in logs.out


def test_a_hung_control_thread_is_restarted(service: Lab) -> None:
    site = next((service.root / "opt/venv/lib").glob("python3*/site-packages"))
    (site / "hang_when_told.py").write_text(HANG)
    (site / "hang_when_told.pth").write_text("import hang_when_told\n")
    with drop_in(service, "WatchdogSec=4\nRestartSec=1"):
        pid = service.main_pid()
        service.ok(f"kill -USR2 {pid}")
        until(lambda: service.main_pid() not in {0, pid}, "a restart by the watchdog")
        assert "Watchdog timeout" in service.ok("journalctl --user -u convergenced -n 50 --no-pager")
        until(lambda: service.show("ActiveState")["ActiveState"] == "active", "a daemon that is ready again")
    (site / "hang_when_told.py").unlink()
    (site / "hang_when_told.pth").unlink()


def test_a_daemon_that_crashes_is_never_given_up_and_started_at_a_quiet_pace(service: Lab) -> None:
    pace = service.show("RestartUSec", "StartLimitIntervalUSec")
    assert pace == {"RestartUSec": "10s", "StartLimitIntervalUSec": "0"}
    service.ok("systemctl --user reset-failed convergenced")
    began = int(service.show("NRestarts")["NRestarts"])
    service.ok(f"kill -KILL {service.main_pid()}")
    assert service.show("SubState", "MainPID") == {"SubState": "auto-restart", "MainPID": "0"}
    assert service.ctl("service", "status").code == 3
    up(service)  # waits for no pause
    assert service.ctl("service", "status").code == 0
    with drop_in(service, "RestartSec=100ms"):
        began = int(service.show("NRestarts")["NRestarts"])
        for crash in range(1, 7):
            pid = service.main_pid()
            service.ok(f"kill -KILL {pid}")
            until(lambda pid=pid: service.main_pid() not in {0, pid}, "a restart")  # type: ignore[misc]
            assert int(service.show("NRestarts")["NRestarts"]) == began + crash, "one start for each crash"
        until(lambda: service.show("ActiveState")["ActiveState"] == "active", "a daemon that is ready again")
        assert "restarts  6" in service.ctl("service", "status").out


def test_where_users_may_have_no_namespace_the_service_runs_without_its_sandbox(service: Lab) -> None:
    manager = service.system_file(
        "/etc/systemd/system/user@.service.d/test.conf", "[Service]\nRestrictNamespaces=~user\n"
    )
    service.as_root("systemctl daemon-reload; systemctl restart user@1000")
    try:
        until(lambda: service.do("systemctl --user show-environment").code == 0, "the user's manager")
        done = service.ctl("service", "install", CLAUDE_CONFIG_DIR="/home/ann/claude")
        assert done.code == 0, done.err
        found = json.loads(service.ctl("service", "status", "--json").out)
        assert (found["state"], found["sandbox"][:4]) == ("running", "none")
    finally:
        manager.unlink()
        service.as_root("systemctl daemon-reload; systemctl restart user@1000")
        until(lambda: service.do("systemctl --user show-environment").code == 0, "the user's manager")
    up(service)


def test_where_ssh_would_refuse_its_configuration_the_service_runs_without_its_sandbox(service: Lab) -> None:
    service.as_root("mv /home/ann/.ssh/config /etc/ann-ssh; chown root /etc/ann-ssh; chmod 644 /etc/ann-ssh")
    service.ok("ln -s /etc/ann-ssh ~/.ssh/config")
    done = service.ctl("service", "install", CLAUDE_CONFIG_DIR="/home/ann/claude")
    assert done.code == 0, done.err
    assert "sandbox   none: ssh would refuse" in service.ctl("service", "status").out
    assert service.ctl("sync", "--wait", "--timeout", "30").code == 0
    service.as_root("rm /home/ann/.ssh/config; chown ann /etc/ann-ssh; mv /etc/ann-ssh /home/ann/.ssh/config")
    assert service.ctl("service", "install", CLAUDE_CONFIG_DIR="/home/ann/claude").code == 0
    assert "sandbox   full" in service.ctl("service", "status").out
    assert service.ctl("sync", "--wait", "--timeout", "30").code == 0


def test_down_stops_and_disables_it_and_uninstall_leaves_nothing_but_data(service: Lab) -> None:
    pid = service.main_pid()
    done = service.ctl("down")
    assert (done.code, done.out) == (0, f"stopped convergenced (pid {pid})\n")
    shown = service.show("ActiveState", "UnitFileState", "Result")
    assert shown == {"ActiveState": "inactive", "UnitFileState": "disabled", "Result": "success"}
    assert service.ctl("service", "status").code == 3
    service.ok("systemctl --user daemon-reload")
    assert service.main_pid() == 0
    up(service)
    service.ok("systemctl --user stop convergenced")
    shown = service.show("Result", "ExecMainStatus")
    assert shown == {"Result": "success", "ExecMainStatus": "0"}, "it ended by itself within its limit"
    up(service)
    assert service.ctl("service", "uninstall").code == 0
    assert service.ctl("service", "uninstall").out == "no service is installed\n"
    assert service.show("LoadState")["LoadState"] == "not-found"
    left = service.ok(
        "find ~ /run/user/1000 -name '*convergence*' -not -path '*.git/*' 2>/dev/null || true"
    ).split()
    assert sorted(left) == [
        "/home/ann/.config/convergence",
        "/home/ann/.local/share/convergence",
        "/home/ann/.local/state/convergence",
        "/run/user/1000/convergence",
    ]
    assert service.ok("ls -A /run/user/1000/convergence") == ""
    assert service.ok("systemctl --user --failed --quiet --no-legend") == ""
