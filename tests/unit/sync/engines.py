"""What tests of the whole engine share: how to look at it, and somebody who waits."""

from __future__ import annotations

from convergenced.model import ProjectId
from convergenced.sync.board import Missing
from tests.unit.sync.world import APP, FakeMachine, sid

S = sid(1)
INTERVAL = 60.0


def state(machine: FakeMachine, project: str = APP) -> str:
    one = ProjectId(project)
    return machine.engine.board.state_of(one, machine.engine.distance(one))


def is_ready(machine: FakeMachine) -> bool:
    return machine.engine.ready


def halted(machine: FakeMachine) -> str | None:
    return machine.engine.board.halted


def missing(machine: FakeMachine) -> list[str]:
    return [miss.text for miss in machine.engine.unsynced(None, -1.0)]


class Waiter:
    """Somebody who waits until nothing is missing, and keeps every answer."""

    def __init__(self) -> None:
        self.answers: list[list[Missing]] = []

    def __call__(self, found: list[Missing]) -> bool:
        self.answers.append(found)
        return not found


def broken(*_: object, **__: object) -> None:
    raise ZeroDivisionError
