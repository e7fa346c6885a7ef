"""What a round met of a damage that is healed by now."""

from __future__ import annotations

from convergenced.errors import MissingObjectError
from convergenced.model import ProjectId
from convergenced.sync.healing import Outcome
from tests.unit.sync.engines import INTERVAL, S
from tests.unit.sync.world import APP, FakeMachine, World

PROJECT = ProjectId(APP)


def test_what_a_round_met_beside_the_healing_is_asked_again(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.start()
    world.advance(1.5 * INTERVAL)
    engine = ann.engine
    (peer,) = engine.board.peers.values()
    assert peer.report is not None
    peer.report.refuse(PROJECT, MissingObjectError("the store has no readable tree"))
    healing = engine._healing
    healing.suspect(PROJECT)
    case = healing._cases[PROJECT]
    healing._tried(PROJECT, case, Outcome(flaws=1))
    assert next(miss.cause for miss in engine.unsynced(None, -1.0)) == "work"
    assert PROJECT in peer.report.damaged
    healing._tried(PROJECT, case, Outcome())
    assert peer.due_at == world.clock.monotonic()
    assert engine.unsynced(None, -1.0) == []
