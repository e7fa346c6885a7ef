"""What the doctor says of the service."""

from __future__ import annotations

from pathlib import Path

import pytest

from convergenced.machine.locations import Locations
from ctl.service import RunState, ServiceState
from ctl.wellbeing import _judge, service_finding

PID = 4242


def a_state(
    state: RunState = "running", *, enabled: bool = True, pid: int | None = PID, restarts: int = 0
) -> ServiceState:
    return ServiceState(state, enabled=enabled, pid=pid, restarts=restarts)


@pytest.mark.parametrize(
    ("state", "verdict", "words"),
    [
        (a_state(), "ok", "the systemd service runs"),
        (a_state("failed", pid=None), "problem", "the systemd service failed"),
        (a_state(pid=7), "warning", "did not start (pid 4242)"),
        (a_state(restarts=3), "warning", "was restarted 3 times"),
        (a_state(enabled=False), "warning", "does not start with your login"),
    ],
)
def test_each_trouble_with_the_service_has_its_remedy(state: ServiceState, verdict: str, words: str) -> None:
    found = _judge("systemd", state, PID)
    assert found["state"] == verdict
    assert words in found["text"]
    assert bool(found["fix"]) == (verdict != "ok")


def test_without_a_service_manager_nothing_is_wrong(tmp_path: Path) -> None:
    environ = {"CONVERGENCE_NO_SERVICE": "1", "CONVERGENCE_HOME": str(tmp_path)}
    where = Locations.from_environment(environ, str(tmp_path))
    assert service_finding(where, PID, environ)["state"] == "ok"
