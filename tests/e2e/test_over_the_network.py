"""Two daemons and a hub that is reached by ssh and by https, with the ordinary git program."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e.machines import Machine, await_true, git, make_hub, record, stop_all
from tests.servers import SshServer, WebServer, sshd, web

__all__ = ["sshd", "web"]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Machine]]:
    found = [Machine(tmp_path / name, name) for name in ("desktop", "laptop")]
    yield found
    stop_all(found)


def has_all(machine: Machine, names: list[str]) -> bool:
    return sorted(machine.files()) == sorted(names)


def write_and_meet(machines: list[Machine], hub: Path) -> None:
    """Each writes a session; both end with both, and the hub with the branch."""
    sessions = []
    for machine in machines:
        sid = str(uuid.uuid4())
        sessions.append(f"{sid}.jsonl")
        machine.append(sid, record(sid, machine.project, 0))
        machine.start()
    for machine in machines:
        await_true(partial(has_all, machine, sessions), f"all on {machine.name}")
    for machine in machines:
        machine.wait_synced()
    assert machines[0].tip() == machines[1].tip()
    assert git("-C", hub, "rev-parse", "project/proj").strip() == machines[0].tip()


def test_machines_meet_at_a_hub_behind_ssh(machines: list[Machine], sshd: SshServer) -> None:
    hub = make_hub(sshd.folder / f"{uuid.uuid4()}.git")
    for machine in machines:
        machine.hubs = (sshd.url(hub),)
        machine.extra = {"GIT_SSH_COMMAND": sshd.command()}
        machine.configure()
    write_and_meet(machines, hub)


def test_machines_meet_at_a_hub_behind_https(machines: list[Machine], web: WebServer) -> None:
    hub = make_hub(web.root / f"{uuid.uuid4()}.git")
    git("-C", hub, "config", "http.receivepack", "true")
    for machine in machines:
        machine.hubs = (web.url(hub),)
        machine.extra = {"GIT_SSL_CAINFO": str(web.certificate)}
        machine.configure()
    write_and_meet(machines, hub)
    for machine in machines:
        shown = machine.do("status", "--json") + machine.do("peers") + machine.do("log") + machine.log()
        assert web.password not in shown
        assert quote(web.password, safe="") not in shown


def test_a_hub_that_does_not_know_our_key_is_told_of_and_does_not_stop_anything(
    machines: list[Machine], sshd: SshServer
) -> None:
    machine = machines[0]
    machine.hubs = (sshd.url(make_hub(sshd.folder / f"{uuid.uuid4()}.git")),)
    machine.extra = {"GIT_SSH_COMMAND": sshd.command(key=sshd.other_key)}
    machine.configure()
    sid = str(uuid.uuid4())
    machine.append(sid, record(sid, machine.project, 0))
    machine.start()
    await_true(lambda: machine.status()["peers"][0]["state"] == "failing", "the refusal")
    assert "does not accept this machine's ssh key" in machine.status()["peers"][0]["error"]
    assert machine.ctl("status").returncode == 5
    assert machine.tip()
