"""One status for each way that things can stand, in a home folder with a name that is not ASCII."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from convergenced.control.answers import Status
from tests.fakes.daemon import synced

HOME = "/home/änne"


def _change(shape: object, **changes: object) -> None:
    cast("dict[str, object]", shape).update(changes)


def _status(**project: object) -> Status:
    status = synced()
    _change(
        status["projects"][0],
        root=f"{HOME}/src/proj",
        context_dir=f"{HOME}/.claude/projects/-home--nne-src-proj",
        **project,
    )
    return status


def _needing(status: Status, kind: str, text: str, fix: str, project: str | None = "proj") -> Status:
    _change(status, attention=[{"kind": kind, "project": project, "text": text, "fix": fix}])
    return status


def _daemon(status: Status, **changes: object) -> Status:
    _change(status["daemon"], **changes)
    return status


def _peer(status: Status, **changes: object) -> Status:
    _change(status["peers"][0], **changes)
    return status


def _with_laptop() -> Status:
    status = _status()
    laptop = synced()["peers"][0]
    _change(
        laptop,
        name="laptop",
        url="ssh://anne@laptop.local/~/context.git",
        state="failing",
        away=True,
        last_fetch="2031-05-04T12:02:00Z",
        error="laptop: cannot be reached: no route to host",
    )
    status["peers"].append(laptop)
    return _needing(
        status,
        "unreachable",
        "laptop: cannot be reached: no route to host",
        "it is tried again by itself",
        None,
    )


def _nothing() -> Status:
    status = _status()
    _change(status, projects=[])
    return status


def _halted() -> Status:
    gone = f"{HOME}/.claude/projects is gone"
    status = _daemon(_nothing(), state="halted", reasons=[gone])
    fix = "bring it back, or stop here: convergencectl down"
    return _needing(status, "halted", f"nothing is synced: {gone}", fix, None)


def _unwatched() -> Status:
    text = (
        "54 folders are not watched, changes there are found by the rescan: the limit of watches is "
        "used up (the system allows 8192)"
    )
    status = _daemon(_status(), state="degraded", reasons=[text])
    fix = "raise it: sudo sysctl fs.inotify.max_user_watches=524288"
    return _needing(status, "degraded", text, fix, None)


def _failing() -> Status:
    error = "permission denied: git@example.com does not let you in"
    status = _peer(
        _status(state="ahead", ahead=3, waits_for="peer"),
        state="failing",
        away=False,
        error=error,
        failing_since="2031-05-04T11:02:00Z",
    )
    return _needing(status, "peer", f"hub: {error}", "try: ssh -T git@example.com", None)


def _alone() -> Status:
    error = "cannot be reached: no route to host"
    status = _peer(
        _status(state="pending", waits_for="peer"),
        state="failing",
        away=True,
        error=error,
        last_fetch="2031-05-04T09:02:00Z",
    )
    return _needing(status, "unreachable", f"hub: {error}", "it is tried again by itself", None)


STATES: dict[str, Callable[[], Status]] = {
    "synced": _status,
    "pending": lambda: _status(state="pending", waits_for="look"),
    "ahead": lambda: _status(state="ahead", ahead=3, waits_for="exchange"),
    "behind": lambda: _status(state="behind", behind=2, waits_for="exchange"),
    "held": lambda: _status(
        state="held", waits_for="claude", held={"sessions": 2, "pid": 4242, "reason": "Claude Code runs"}
    ),
    "paused": lambda: _daemon(
        _status(state="paused", paused_until=None), state="paused", paused_until="2031-05-04T14:00:00Z"
    ),
    "quarantined": lambda: _needing(
        _status(state="quarantined"),
        "quarantine",
        "tool-results/aux.txt has a name that Windows cannot hold; it stays on this machine",
        "rename it",
    ),
    "conflict": lambda: _needing(
        _status(state="conflict"),
        "conflict",
        "memory/größe.md was edited in two places and holds both sides",
        "convergencectl conflict resolve proj:memory/größe.md --take ours|theirs|both",
    ),
    "halted": _halted,
    "watches used up": _unwatched,
    "a peer refuses": _failing,
    "one of two peers is away": _with_laptop,
    "the only peer is away": _alone,
    "not exchanged yet": lambda: _peer(
        _status(state="pending", waits_for="exchange"), state="untried", last_fetch=None, last_push=None
    ),
    "nothing tracked": _nothing,
    "starting": lambda: _daemon(_nothing(), ready=False),
    "first import": lambda: _status(
        state="pending",
        waits_for="look",
        progress={"done": 310_000_000, "of": 1_024_000_000},
        sessions=0,
        bytes=0,
        last_ingest=None,
    ),
    "no daemon": lambda: _daemon(
        _status(state="pending"), pid=None, version=None, state="halted", reasons=["the daemon does not run"]
    ),
}
