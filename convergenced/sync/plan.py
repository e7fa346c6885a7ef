"""When what is due. Pure: from observations to times, no clock, no effects.

All times are monotonic seconds. Waiting is always bounded: a constant writer still gets commits
(`max_wait`), a lost event costs at most the rescan interval, a failing peer is tried again after a
growing but limited time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PUSH_DELAY = 0.3
"""Seconds that a commit waits, at most, for others that are under way, to leave together with them."""
HOLD_POLL = 2.0
"""How often is looked whether the Claude Code that holds work has ended."""
RETRY_FIRST = 1.0
RETRY_LAST = 60.0
PEER_RETRY_FIRST = 5.0
PEER_RETRY_LAST = 900.0
MAX_DOUBLINGS = 20
STREAK_REST = 60.0
"""Seconds without a commit after which the next one is the first of a streak."""
STREAK_FREE = 2
"""Commits of a streak that come as soon as there is silence; then the distance doubles, up to `max_wait`."""
JITTER = 0.25
"""Share of a waiting time by which it varies, so that machines do not knock in step."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The waiting times a user can set, in seconds."""

    quiet: float
    max_wait: float
    rescan: float
    interval: float


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """What bears on when a replica is worked on next."""

    first_change: float | None = None
    """When the oldest change that is not committed was noticed."""
    last_change: float | None = None
    asked: float | None = None
    """Since when work is wanted at once (a merge came in, a person asked)."""
    retry_at: float | None = None
    held_since: float | None = None
    """When was last looked at what holds it."""
    busy: bool = False
    paused: bool = False
    committed_at: float | None = None
    streak: int = 0
    """Commits in a row that followed each other closely."""


def replica_due(view: ReplicaView, pace: Pace) -> float | None:
    """When the replica is to be ingested and localized; None where nothing is known to do."""
    if view.busy or view.paused:
        return None
    times = []
    if view.first_change is not None and view.last_change is not None:
        silent = max(view.last_change + pace.quiet, _spaced_until(view, pace))
        times.append(min(silent, view.first_change + pace.max_wait))
    if view.asked is not None:
        times.append(view.asked)
    if view.retry_at is not None:
        times.append(view.retry_at)
    if view.held_since is not None:
        times.append(view.held_since + HOLD_POLL)
    return min(times, default=None)


def _spaced_until(view: ReplicaView, pace: Pace) -> float:
    """Until when the next commit of a session that goes on and on is put off.

    A day of steady work is then some thousand commits and not one for every silence.
    """
    if view.committed_at is None or view.streak < STREAK_FREE:
        return -math.inf
    return view.committed_at + min(pace.max_wait, pace.quiet * 2.0 ** min(view.streak, MAX_DOUBLINGS))


def retry_delay(failures: int) -> float:
    """How long to wait after `failures` attempts at local work in a row went wrong."""
    return min(RETRY_LAST, RETRY_FIRST * _doubled(failures))


def peer_delay(failures: int, pace: Pace, chance: float) -> float:
    """How long to wait before the next round with a peer.

    `failures` in a row; `chance` in [0, 1) spreads machines out.
    """
    base = pace.interval if failures == 0 else min(PEER_RETRY_LAST, PEER_RETRY_FIRST * _doubled(failures))
    return base * (1.0 - JITTER + 2.0 * JITTER * chance)


def _doubled(failures: int) -> float:
    """Twice as much with each failure after the first; a peer can be away for weeks."""
    return 2.0 ** min(max(0, failures - 1), MAX_DOUBLINGS)
