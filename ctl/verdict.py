"""What a status means: the one true line, the exit code, the tables, and what needs a person."""

from __future__ import annotations

from convergenced.control.answers import Attention, Peer, Project, Status
from convergenced.errors import AttentionError, DegradedError
from convergenced.wording import plural

from .render import (
    Column,
    Terminal,
    clean,
    clock,
    parse_time,
    portion,
    size,
    span,
    table,
    tilde,
    when,
)

NARROW = 80
"""Columns below which times are shown without the time of day."""
_UNSETTLED = {"conflict", "quarantined"}
SELF_HELP = {"unreachable", "outpaced"}
"""Kinds of what is told but comes right by itself."""
_MOVING = {
    "look": "to commit",
    "exchange": "to exchange",
    "ahead": "to send",
    "behind": "to take in",
}
_PROJECT_COLUMNS = (
    Column("PROJECT", least=12),
    Column("STATE"),
    Column("SESSIONS", right=True, drop=1),
    Column("SIZE", right=True, drop=2),
    Column("CHANGED"),
    Column("ROOT", least=16, path=True, drop=3),
)
_PEER_COLUMNS = (
    Column("PEER", least=8),
    Column("STATE"),
    Column("FETCHED"),
    Column("PUSHED", drop=1),
    Column("URL", least=16, path=True, drop=2),
)


def exit_code(status: Status) -> int:
    """0 when all is well, 5 when a person has to settle something, 6 when the daemon is not whole."""
    if _daemon_state(status) in {"degraded", "halted"} and status["daemon"].get("pid") is not None:
        return DegradedError.exit_code
    if _needing(status) or any(one["state"] in _UNSETTLED for one in status["projects"]):
        return AttentionError.exit_code
    return 0


def _needing(status: Status) -> list[Attention]:
    """What waits for a person. A peer that cannot be reached is told, but may come back by itself."""
    return [one for one in status["attention"] if one["kind"] not in SELF_HELP]


def _is_told(one: Attention, status: Status) -> bool:
    """Whether the verdict says it in words of its own, so that it need not be counted too."""
    if one["kind"] == "peer":
        return True
    broken = _daemon_state(status) in {"degraded", "halted"} and status["daemon"]["pid"] is not None
    return (
        broken
        and one["project"] is None
        and (one["kind"] == "halted" or one["text"] in status["daemon"]["reasons"])
    )


def verdict(status: Status, now: float) -> str:
    """How things are in one line, the gravest first."""
    clauses = [
        *_about_daemon(status, now),
        *_about_projects(status),
        *(_about_peer(peer, now) for peer in _failing(status) if not peer.get("away")),
        *_about_moving(status),
    ]
    away = [
        _about_away(peer, now, alone=len(status["peers"]) == 1)
        for peer in _failing(status)
        if peer.get("away")
    ]
    return "; ".join([*(clauses or [_all_well(status)]), *away])


def lines(status: Status, terminal: Terminal, now: float) -> list[str]:
    """The whole of `status`: verdict, projects, peers, what needs a person."""
    shown = terminal.paragraph(verdict(status, now))
    colour = {0: "green", DegradedError.exit_code: "red"}.get(exit_code(status), "yellow")
    if colour == "green" and verdict(status, now) != _all_well(status):
        colour = "yellow"
    out = [terminal.style(line, "bold", colour) for line in shown]
    for part in (
        project_table(status["projects"], terminal, now),
        peer_table(status["peers"], terminal, now),
        _available(status, terminal),
        _attention(status["attention"], terminal),
        _notices(status, terminal, now),
        _live(status, terminal, now),
    ):
        if part:
            out += ["", *part]
    return out


def project_table(projects: list[Project], terminal: Terminal, now: float) -> list[str]:
    """One row a project."""
    short = terminal.width < NARROW
    rows = [
        (
            clean(one["id"]),
            _state_of(one, now),
            "…" if _is_unread(one) else str(one["sessions"]),
            "…" if _is_unread(one) else size(one["bytes"]),
            when(one["last_ingest"], now, short=short),
            clean(tilde(one["root"] or "(unknown)")),
        )
        for one in projects
    ]
    return _headed(table(_PROJECT_COLUMNS, rows, terminal.width), terminal) if rows else []


def peer_table(peers: list[Peer], terminal: Terminal, now: float) -> list[str]:
    """One row a peer."""
    short = terminal.width < NARROW
    rows = [
        (
            clean(one["name"]),
            "away" if one["state"] == "failing" and one.get("away") else one["state"],
            when(one["last_fetch"], now, short=short),
            when(one["last_push"], now, short=short),
            clean(tilde(one["url"])),
        )
        for one in peers
    ]
    return _headed(table(_PEER_COLUMNS, rows, terminal.width), terminal) if rows else []


def _is_unread(project: Project) -> bool:
    """Whether nobody has counted yet what lies in the project's folder."""
    counted = project["last_ingest"] is not None or project["sessions"] or project["bytes"]
    return project["state"] == "pending" and not counted


def _headed(rows: list[str], terminal: Terminal) -> list[str]:
    return [terminal.style(rows[0], "dim"), *rows[1:]]


def _daemon_state(status: Status) -> str:
    return status["daemon"]["state"]


def _state_of(project: Project, now: float) -> str:
    state = project["state"]
    if (progress := project.get("progress")) is not None:
        return f"importing {100 * progress['done'] // max(1, progress['of'])} %"
    if state == "paused" and (until := parse_time(project.get("paused_until") or "")) is not None:
        return f"paused until {clock(until, now)}"
    if state in {"ahead", "behind"}:
        return f"{state} {project['ahead' if state == 'ahead' else 'behind']}"
    return state


def _about_daemon(status: Status, now: float) -> list[str]:
    daemon = status["daemon"]
    if daemon.get("pid") is None:
        return ["no daemon runs, nothing is synced"]
    reasons = "; ".join(clean(reason) for reason in daemon["reasons"])
    match daemon["state"]:
        case "halted" | "degraded":
            return [f"{daemon['state']}: {reasons or 'see convergencectl log'}"]
        case "paused":
            until = parse_time(daemon.get("paused_until") or "")
            if until is not None:
                return [f"paused until {clock(until, now)}"]
            return ["paused until `convergencectl resume`"]
        case "running":
            return [] if daemon.get("ready", True) else ["starting: your projects are being looked at"]


def _about_projects(status: Status) -> list[str]:
    clauses = []
    settle = sum(not _is_told(one, status) for one in _needing(status))
    settle = settle or sum(one["state"] in _UNSETTLED for one in status["projects"])
    if settle:
        clauses.append("1 thing needs you" if settle == 1 else f"{settle} things need you")
    for project in status["projects"]:
        held = project["held"]
        if held is not None:
            where = tilde(project["root"]) if project["root"] else project["id"]
            runs = f"Claude Code runs in {clean(where)} (pid {held['pid']})"
            reason = runs if held["pid"] is not None else clean(held["reason"])
            clauses.append(f"{plural(held['sessions'], 'session')} held: {reason}")
    paused = [one["id"] for one in status["projects"] if one["state"] == "paused"]
    if paused and _daemon_state(status) != "paused":
        clauses.append(f"{plural(len(paused), 'project')} paused")
    return clauses


def _about_peer(peer: Peer, now: float) -> str:
    since = parse_time(peer.get("failing_since") or "")
    tail = f" since {clock(since, now)}" if since is not None else ""
    why = clean(peer["error"]) if peer["error"] else "no reason given"
    return f"exchange with {clean(peer['name'])} fails{tail}: {why}"


def _failing(status: Status) -> list[Peer]:
    return [peer for peer in status["peers"] if peer["state"] == "failing"]


def _about_away(peer: Peer, now: float, *, alone: bool) -> str:
    """What there is to say of a peer that is not there just now: a laptop that sleeps is no failure."""
    name, met = clean(peer["name"]), parse_time(peer["last_fetch"] or "")
    if met is None:
        return f"{name} was not reached yet: {clean(peer['error'] or 'no reason given')}"
    return f"{name} {'not reached for ' if alone else ''}{span(now - met)}{'' if alone else ' behind'}"


def _about_moving(status: Status) -> list[str]:
    if status["daemon"].get("pid") is None:
        return []
    clauses = []
    others = []
    for project in status["projects"]:
        if (progress := project.get("progress")) is None:
            others.append(_stage(project))
        else:
            clauses.append(f"importing {clean(project['id'])}: {portion(progress['done'], progress['of'])}")
    moving = {words: others.count(stage) for stage, words in _MOVING.items() if stage in others}
    if moving:
        counted = ", ".join(f"{plural(n, 'project')} {words}" for words, n in moving.items())
        clauses.append(f"syncing: {counted}")
    return clauses


def _stage(project: Project) -> str | None:
    """What goes on for a project by itself, a key of `_MOVING`."""
    state, waits_for = project["state"], project.get("waits_for")
    if state not in {"pending", "ahead", "behind"} or waits_for in {"person", "claude", "peer"}:
        return None
    return (waits_for or "look") if state == "pending" else state


def _all_well(status: Status) -> str:
    """What is said where nothing goes on and nothing is wrong with anything but peers that are away."""
    untried = [peer for peer in status["peers"] if peer["state"] == "untried"]
    if not status["projects"] and not untried:
        return "nothing to sync yet: no project takes part here (convergencectl init PATH)"
    if not status["peers"]:
        return "all committed here; no peer yet (convergencectl peer add hub URL)"
    if untried:
        stands = "all committed here" if status["projects"] else "no project takes part here yet"
        under_way = any(peer.get("busy") for peer in untried)
        return f"{stands}; first exchange is {'under way' if under_way else 'still to come'}"
    if all(peer["state"] == "failing" for peer in status["peers"]):
        return "all committed here"
    if any(one["state"] != "synced" and one.get("waits_for") != "peer" for one in status["projects"]):
        return "not everything is synced yet"
    return "all synced"


def _available(status: Status, terminal: Terminal) -> list[str]:
    if not status["available"]:
        return []
    names = ", ".join(clean(one["id"]) for one in status["available"])
    return terminal.paragraph(
        f"{plural(len(status['available']), 'project')} of your other machines can be joined "
        f"(convergencectl join PATH --id ID): {names}"
    )


def _attention(attention: list[Attention], terminal: Terminal) -> list[str]:
    out = []
    for one in attention:
        where = f"{clean(one['project'])}: " if one["project"] else ""
        mark = "·" if one["kind"] in SELF_HELP else "!"
        out += terminal.paragraph(f"{where}{clean(one['text'])}", first=f"{mark} ", indent="  ")
        # Whole, however long: a command with a line break in it cannot be copied.
        out += [f"  → {clean(one['fix'])}"] if one["fix"] else []
    return out


def _live(status: Status, terminal: Terminal, now: float) -> list[str]:
    out = []
    for one in status.get("live", []):
        since = parse_time(one["since"] or "")
        tail = f" (since {clock(since, now)})" if since is not None else ""
        text = (
            f"session {clean(one['session'])[:8]} of {clean(one['project'])} "
            f"is live on {clean(one['machine'])}{tail}"
        )
        out += terminal.paragraph(text, first="· ", indent="  ")
    return out


def _notices(status: Status, terminal: Terminal, now: float) -> list[str]:
    out = []
    for one in status.get("notices", []):
        where = f"{clean(one['project'])}: " if one["project"] else ""
        text = f"{where}{clean(one['text'])} ({when(one['at'], now, short=True)})"
        out += terminal.paragraph(text, first="· ", indent="  ")
    return out
