"""One full pass of everything, for `convergenced --once`."""

from __future__ import annotations

import logging

from convergenced.ports import Clock
from convergenced.sync.board import Missing
from convergenced.sync.engine import Engine

log = logging.getLogger(__name__)

DRAIN_SECONDS = 60.0
DEGRADED = 6


def one_pass(engine: Engine, clock: Clock) -> int:
    """Ingests, exchanges, merges and localizes until nothing more can be done; returns the exit code.

    6 where a peer or a folder kept something from being in step; held and paused work is no failure.
    """
    left: list[Missing] = []

    def answer(missing: list[Missing]) -> bool:
        if any(miss.cause == "work" for miss in missing):
            return False
        left.extend(missing)
        engine.stop()
        return True

    engine.post(lambda: engine.wait(None, clock.monotonic(), None, answer))
    engine.run()
    engine.close(DRAIN_SECONDS)
    for miss in left:
        log.warning("%s%s", f"{miss.project}: " if miss.project else "", miss.text)
    return DEGRADED if any(miss.cause in ("person", "peer") for miss in left) else 0
