"""Names for the moments at which a crash must lose nothing, so that tests can crash exactly there.

Owns the list of steps and one hook. Without a hook, reaching a step costs one comparison. The hook is
set by tests in this process, or by `arm` from the environment variable `CONVERGENCE_TEST_KILL_AT`, which
is how tests end a real daemon: `NAME` kills at the first time the step is reached, `NAME:3` at the third.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from itertools import count

from convergenced.errors import UsageError

VARIABLE = "CONVERGENCE_TEST_KILL_AT"

STEPS = (
    "ingest.read",  # the new bytes are in the store, no tree names them
    "ingest.committed",  # the replica's own ref names the commit
    "ingest.advanced",  # the project's branch does
    "ingest.noted",  # the state knows
    "merge.written",  # the merge commit is in the store, no ref names it
    "merge.advanced",
    "exchange.listed",
    "exchange.fetched",
    "exchange.merged",
    "exchange.pushed",  # the peer answered, the tracking ref does not say so yet
    "exchange.noted",
    "localize.planned",
    "replace.written",  # the temporary file is complete and durable
    "replace.kept",  # the old file has its second name among the backups
    "replace.published",  # the new file has its name, its folder is not synced yet
    "grow.checked",  # the file is about to grow in place
    "grow.written",  # it has grown, which is not durable yet
    "localize.written",  # the file is durable, the state does not know
    "localize.noted",
    "localize.removed",
    "localize.settled",  # the replica's ref says that the folder is in step
)
"""Every step, in the order in which a record passes them."""

BY_REQUEST = (
    "move.begun",  # what was removed at the old place is in the store, the new folder does not take part
    "move.forgotten",  # the old folder takes part no more, its files stand there
    "move.emptied",  # one of them went among the backups
    "leave.excluded",  # the settings leave the project's roots out, its folders take part
    "purge.ref",  # one of the project's refs is gone, its branch first
    "purge.forgotten",  # the state knows nothing of the project either
)
"""Steps of what happens only when a person asks for it."""

hook: Callable[[str], None] | None = None
"""Called with the name of each step that is reached."""


def reached(step: str) -> None:
    """The step is reached."""
    if hook is not None:
        hook(step)


def arm(environ: Mapping[str, str]) -> None:
    """Has this process end by SIGKILL where the environment says so.

    Raises `UsageError` for an unknown step.
    """
    global hook  # noqa: PLW0603 - the one hook of this process
    wanted = environ.get(VARIABLE)
    if not wanted:
        return
    name, _, turn = wanted.partition(":")
    known = (*STEPS, *BY_REQUEST)
    if name not in known:
        raise UsageError(f"{VARIABLE} names no step: {name}", f"one of {', '.join(known)}")
    turns = count(1)

    def kill(step: str) -> None:
        if step == name and next(turns) == int(turn or 1):
            os.kill(os.getpid(), signal.SIGKILL)

    hook = kill
