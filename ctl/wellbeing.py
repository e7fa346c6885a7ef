"""What `doctor` has to say of the service, which only the client's side knows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from convergenced.errors import ConvergenceError

from . import launch, service

if TYPE_CHECKING:
    from convergenced.control.answers import FindingAnswer
    from convergenced.machine.locations import Locations

RESTLESS = 3
"""Restarts from which on there is a word about them."""


def service_finding(
    where: Locations, pid: int | None, environ: Mapping[str, str] = os.environ
) -> FindingAnswer:
    """How the service is; `pid` is the daemon that answers, None where none does."""
    try:
        manager = service.detect(environ, launch.daemon_log(where))
        if manager is None:
            return _finding("ok", "there is none here; after a restart of the machine: convergencectl up")
        if not manager.installed():
            return _finding(
                "ok", f"none is installed; to have one: convergencectl service install ({manager.name})"
            )
        return _judge(manager.name, manager.state(), pid)
    except ConvergenceError as error:
        return _finding("warning", error.summary, error.hint)


def _judge(name: str, state: service.ServiceState, pid: int | None) -> FindingAnswer:
    logs = "convergencectl service logs"
    if state.state == "failed":
        return _finding("problem", f"the {name} service failed", f"{logs}; then: convergencectl up")
    if pid is not None and state.pid != pid:
        text = f"a daemon runs that the {name} service did not start (pid {pid})"
        return _finding("warning", text, "convergencectl down && convergencectl up")
    if state.restarts and state.restarts >= RESTLESS:
        return _finding("warning", f"the {name} service was restarted {state.restarts} times", logs)
    if not state.enabled:
        return _finding("warning", f"the {name} service does not start with your login", "convergencectl up")
    ends = "; it ends when you log out (to keep it: loginctl enable-linger)" if state.lingers is False else ""
    return _finding("ok", f"the {name} service {'runs' if pid is not None else 'is installed'}{ends}")


def _finding(state: Literal["ok", "warning", "problem"], text: str, fix: str = "") -> FindingAnswer:
    return {
        "check": "service",
        "state": state,
        "project": None,
        "text": text,
        "fix": fix,
        "fixable": False,
    }
