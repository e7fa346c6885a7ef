"""How `doctor` runs in a daemon: looks, repairs, lets what was repaired take effect, and looks again.

Workers do what blocks; the engine itself takes up what a repair left to do (reading files again,
exchanging with peers).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from convergenced.control.answers import Diagnosis
from convergenced.control.doctor import TURNS, Asked, Doctor, Mended, diagnosis, mend
from convergenced.model import Finding, LocalPath
from convergenced.sync.board import Missing
from convergenced.sync.engine import Engine

LANE = "doctor"
"""Other requests need not wait for it."""
SETTLE_S = 60.0
"""How long the engine gets to take up what a repair left to do."""


class Examination:
    """One `doctor` in a daemon. Everything here is called in the control thread."""

    def __init__(
        self,
        engine: Engine,
        doctor: Doctor,
        path: LocalPath | None,
        *,
        deep: bool,
        fix: bool,
        done: Callable[[Diagnosis], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._engine = engine
        self._doctor = doctor
        self._path = path
        self._deep = deep
        self._done = done
        self._failed = failed
        self._turns = TURNS if fix else 0
        self._mended = Mended()

    def start(self) -> None:
        """Looks as soon as it is known what takes part; the answer comes later."""
        clock = self._engine.desk.clock
        deadline = clock.monotonic() + SETTLE_S

        def is_ready(_: list[Missing]) -> bool:
            if not self._engine.ready and clock.monotonic() < deadline:
                return False
            self._look()
            return True

        self._engine.wait(None, 0.0, SETTLE_S, is_ready)

    def _look(self) -> None:
        asked = self._asked()
        self._engine.desk.submit(LANE, lambda: self._doctor.look(asked), self._looked, self._failed)

    def _asked(self) -> Asked:
        engine, board = self._engine, self._engine.board
        known = [Finding("daemon", "problem", one.text, fix=one.fix) for one in board.degraded.values()]
        if board.halted is not None:
            fix = "bring the folder back; nothing is deleted meanwhile"
            known.append(Finding("daemon", "problem", f"nothing is synced: {board.halted}", fix=fix))
        if not known:
            known.append(Finding("daemon", "ok", f"convergenced runs (pid {os.getpid()})"))
        return Asked(
            replicas=tuple(state.replica for state in board.replicas.values()),
            refusals=tuple(board.refusals),
            settings=engine.settings,
            peers=engine.peer_openers(),
            path=self._path,
            deep=self._deep,
            in_use=True,
            known=tuple(known),
            set_aside=tuple(self._set_aside()),
        )

    def _set_aside(self) -> Iterator[Finding]:
        for state in self._engine.board.replicas.values():
            for refusal in state.result.refusals if state.result is not None else ():
                text = f"{refusal.where} {refusal.reason}"
                yield Finding("quarantine", "warning", text, state.replica.project, refusal.remedy)

    def _looked(self, findings: list[Finding]) -> None:
        if self._turns == 0 or all(one.repair is None for one in findings):
            self._done(diagnosis(findings, self._mended))
            return
        self._turns -= 1
        self._engine.desk.submit(LANE, lambda: mend(findings), self._repaired, self._failed)

    def _repaired(self, mended: Mended) -> None:
        self._mended.done += mended.done
        self._mended.failed = mended.failed
        if not mended.done:
            self._turns = 0
        clock = self._engine.desk.clock
        since = self._engine.look_at_everything()
        deadline = clock.monotonic() + SETTLE_S

        def settled(missing: list[Missing]) -> bool:
            if any(one.cause == "work" for one in missing) and clock.monotonic() < deadline:
                return False
            self._look()
            return True

        self._engine.wait(None, since, SETTLE_S, settled)
