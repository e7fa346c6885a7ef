"""The engine's board as the `status` answer of the command contract (schema 1)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from datetime import UTC, datetime

from convergenced.control import answers
from convergenced.model import ProjectId
from convergenced.sync.board import ALL, PeerStatus
from convergenced.sync.converge import Pass
from convergenced.sync.engine import Engine
from convergenced.sync.news import FRESH
from convergenced.sync.replica import Machine
from convergenced.urls import redact_url

STATUS_SCHEMA = 1


def iso(moment: float | None) -> str | None:
    """ISO 8601 in UTC, whole seconds."""
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_status(engine: Engine, machine: Machine, now: float, monotonic: float) -> answers.Status:
    """The whole answer. `now` and `monotonic` are the same moment on the two clocks."""
    board = engine.board
    return {
        "schema": STATUS_SCHEMA,
        "machine": {"id": machine.id, "name": machine.name},
        "daemon": _daemon(engine, machine, now),
        "peers": [_peer(peer, now, monotonic) for peer in board.peers.values()],
        "projects": format_projects(engine, machine),
        "available": format_available(engine),
        "attention": [
            {"kind": one.kind, "project": one.project, "text": one.text, "fix": one.fix}
            for one in board.attention()
        ],
        "notices": [
            {"kind": one.kind, "project": one.project, "text": one.text, "at": iso(one.at)}
            for one in board.notices
            if now - one.at < FRESH
        ],
        "live": format_live(engine),
    }


def format_live(engine: Engine) -> list[answers.Live]:
    """The sessions that other machines have open now."""
    return [
        {
            "project": one.project,
            "session": one.session,
            "machine": one.machine,
            "machine_id": one.machine_id,
            "since": iso(one.since),
        }
        for one in engine.roll_call.elsewhere()
    ]


def format_projects(
    engine: Engine, machine: Machine, only: Iterable[str] | None = None
) -> list[answers.Project]:
    """One object for each project this machine takes part in."""
    wanted = None if only is None else set(only)
    return [
        _project(engine, machine, project)
        for project in engine.board.projects()
        if wanted is None or project in wanted
    ]


def format_available(engine: Engine) -> list[answers.Available]:
    """Projects that peers have and this machine takes no part in."""
    mine = set(engine.board.projects())
    found = {
        project
        for peer in engine.board.peers.values()
        if peer.report is not None
        for project in peer.report.offered
        if project not in mine and project not in peer.report.absorbed
    }
    return [{"id": project, "machines": []} for project in sorted(found)]


def _daemon(engine: Engine, machine: Machine, now: float) -> answers.Daemon:
    board = engine.board
    state: answers.DaemonState = "running"
    reasons = [one.text for one in board.degraded.values()]
    if board.halted is not None:
        state, reasons = "halted", [board.halted, *reasons]
    elif ALL in board.pauses:
        state = "paused"
    elif reasons:
        state = "degraded"
    return {
        "pid": os.getpid(),
        "version": machine.version,
        "uptime_s": max(0.0, round(now - engine.started_at, 3)),
        "state": state,
        "reasons": reasons,
        "paused_until": iso(board.pauses.get(ALL)),
        "ready": engine.ready,
    }


def _peer(peer: PeerStatus, now: float, monotonic: float) -> answers.Peer:
    return {
        "name": peer.settings.name,
        "url": redact_url(peer.settings.url),
        "state": peer.state,
        "last_fetch": iso(peer.last_fetch),
        "last_push": iso(peer.last_push),
        "error": peer.error,
        # While a round is under way nothing is due yet.
        "next_try": None if math.isinf(peer.due_at) else iso(now + max(0.0, peer.due_at - monotonic)),
        "failing_since": iso(peer.failing_since),
        "away": peer.error is not None and peer.may_come_back,
        "busy": peer.busy,
    }


def _project(engine: Engine, machine: Machine, project: ProjectId) -> answers.Project:
    board = engine.board
    states = board.of_project(project)
    primary = states[0]
    held = next(
        (state for state in states if state.result and state.result.localize and state.result.localize.held),
        None,
    )
    distance = engine.distance(project)
    exchanged = [peer.last_fetch for peer in board.peers.values() if peer.last_fetch is not None]
    ingested = [state.last_ingest for state in states if state.last_ingest is not None]
    results = [state.result for state in states if state.result is not None]
    return {
        "id": project,
        "root": primary.replica.root,
        "context_dir": primary.replica.context_dir(machine),
        "tip": board.tips.get(project),
        "state": board.state_of(project, distance),
        "sessions": sum(result.ingest.sessions for result in results),
        "bytes": sum(result.ingest.size for result in results),
        "ahead": distance.ahead,
        "behind": distance.behind,
        "held": _held(held.result) if held is not None and held.result is not None else None,
        "last_ingest": iso(max(ingested, default=None)),
        "last_exchange": iso(max(exchanged, default=None)),
        "waits_for": board.waits_for(project),
        "paused_until": iso(board.pauses.get(project)),
        "progress": _progress([state.progress for state in states if state.progress is not None]),
    }


def _progress(ones: list[tuple[int, int]]) -> answers.Progress | None:
    if not ones:
        return None
    return {"done": sum(done for done, _ in ones), "of": sum(of for _, of in ones)}


def _held(result: Pass) -> answers.Held | None:
    localized = result.localize
    if localized is None:
        return None
    pid = localized.held_by.pid if localized.held_by is not None and localized.held_by.pid else None
    return {"sessions": localized.held, "pid": pid, "reason": localized.held_reason}
