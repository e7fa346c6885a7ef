"""What following a run in a CI has in common, whoever's CI it is: how often to look, and what a log says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from convergenced.knowledge.markers import Trouble, read_ending
from convergenced.knowledge.provider import ProviderError
from convergenced.knowledge.providers.http import Pace

FIRST_LOOK_S = 2.0
LAST_LOOK_S = 20.0
QUEUED_S = 900.0
"""Seconds after which a run that nobody begins is given up."""
LOG_TAIL = 64 * 1024
"""Bytes of a job's log that are read: its end."""

AGAIN = "try again: convergencectl knowledge synthesize"

_REFUSED_PUSH = re.compile(
    r"not allowed to (?:push|upload)|Permission to \S+ denied to|Write access to repository not granted|"
    r"unable to access '[^']*': The requested URL returned error: 403|protected branch",
    re.IGNORECASE,
)


def default_branch(repository: object) -> str:
    """The branch that a forge's answer about a repository names."""
    branch = repository.get("default_branch") if isinstance(repository, dict) else None
    return branch if isinstance(branch, str) and branch else "main"


def no_repository(where: str, rights: str) -> ProviderError:
    """What a forge means that knows no such repository; `rights` are those that a token needs."""
    return ProviderError(f"there is no {where} that the token may see", f"check the token: {rights}")


@dataclass(frozen=True, slots=True)
class Remedies:
    """What a person does about each kind of trouble, in the words of one forge."""

    push: str
    key: str
    fetch: str
    runner: str


def looks() -> Iterator[float]:
    """Seconds to wait before each look at a run: soon at first, then ever more rarely."""
    seconds = FIRST_LOOK_S
    while True:
        yield seconds
        seconds = min(seconds * 1.5, LAST_LOOK_S)


Phase = Literal["queued", "running", "over"]


def follow(look: Callable[[], tuple[Phase, str]], pace: Pace, tell: Callable[[str], None]) -> bool:
    """Looks until the run is over, telling of each new state in words. False where nobody begins it.

    Raises what `look` raises, `StoppedError` and `OutOfTimeError`.
    """
    told = ""
    queued_at = pace.clock.monotonic()
    for seconds in looks():
        phase, words = look()
        if words != told:
            tell(words)
            told = words
        if phase == "over":
            return True
        waited = pace.clock.monotonic() - queued_at
        if phase == "queued" and (waited >= QUEUED_S or pace.left() <= 0):
            return False
        if phase == "running":
            queued_at = pace.clock.monotonic()
        pace.pause(seconds)
    raise AssertionError("looking has no end of its own")


def diagnose(log: str, where: str, remedies: Remedies, otherwise: str) -> ProviderError:
    """Why a job failed, from the end of its log. `where` is the run's address.

    `otherwise` says what is known without the log.
    """
    ending = read_ending(log)
    if ending is not None and ending.trouble is not None:
        summary, hint = _explain(ending.trouble, remedies)
        return ProviderError(f"{summary}: {ending.text}" if ending.text else summary, hint or f"see {where}")
    if _REFUSED_PUSH.search(log):
        return ProviderError("the CI may not push to the hub", remedies.push)
    return ProviderError(otherwise, f"see {where}")


def _explain(trouble: Trouble, remedies: Remedies) -> tuple[str, str]:
    match trouble:
        case "no-key":
            return "the CI has no key for the model", remedies.key
        case "push-denied":
            return "the CI may not push to the hub", remedies.push
        case "fetch-denied":
            return "the CI cannot read the hub", remedies.fetch
        case "raced":
            return "others kept pushing meanwhile", AGAIN
        case "newer":
            return "the CI runs an older version of convergence than one of the machines", (
                "have it install a newer one: see the workflow's `pip install`"
            )
        case "provider":
            return "the model could not be asked", ""
        case "scopes":
            return "not everything could be merged", ""
        case "other":
            return "the merge failed there", ""
