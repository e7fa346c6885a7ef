"""What requests share that end in a file being written here: may it, is it, and why not yet."""

from __future__ import annotations

from convergenced.errors import ConvergenceError
from convergenced.model import ProjectId
from convergenced.sync.board import ReplicaState, held_text
from convergenced.sync.desk import Desk

SETTLE_S = 30.0
"""How long the engine gets to write what was asked for."""


def find_stop(desk: Desk, project: ProjectId) -> ConvergenceError | None:
    """Why nothing is written for a project, whatever is asked for."""
    if desk.board.halted is not None:
        return ConvergenceError(f"nothing is synced: {desk.board.halted}", "bring it back first")
    if desk.board.is_paused(project):
        return ConvergenceError(f"{project} is paused", f"convergencectl resume {project}")
    return None


def was_looked_at(state: ReplicaState, since: float) -> bool:
    """Whether a pass over the folder has ended that began at `since` (monotonic) or later."""
    return not state.busy and (state.started_at >= since or state.error is not None)


def why_it_waits(state: ReplicaState) -> str | None:
    """Why a folder does not hold what its branch has yet; None where it does."""
    if state.error is not None or state.result is None:
        return f"it is not written here yet: {state.error or 'the folder is still looked at'}"
    localized = state.result.localize
    if localized is None:
        return f"it is not written here: {state.result.ingest.halted or 'the folder is gone'}"
    if localized.held:
        return f"it is written here when Claude Code has ended ({held_text(state.result)})"
    return None if localized.settled else "it is not written here yet; see: convergencectl status"
