"""The commands by name. Only the module of the command that runs is ever imported.

Each module offers `configure(parser)`, which sets description, example and arguments, and
`run(args) -> int`, which does the work and returns the exit code; `args.command` is the name it was
called by.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """Where a command lives and what the overview says of it."""

    module: str
    summary: str


COMMANDS: dict[str, Command] = {
    "up": Command("up", "set up if need be, start the daemon, show how things are"),
    "down": Command("down", "stop the daemon, until the next `up`"),
    "status": Command("status", "how things are, and what needs you"),
    "watch": Command("watch", "the same, live"),
    "pause": Command("pause", "stop syncing for a while"),
    "resume": Command("pause", "go on syncing"),
    "sync": Command("sync", "sync now instead of at the next interval"),
    "wait": Command("wait", "wait until all is synced"),
    "log": Command("log", "what was done"),
    "init": Command("track", "start tracking a project"),
    "join": Command("track", "take part in a project that peers have"),
    "projects": Command("projects", "list the projects"),
    "project": Command("project", "follow a moved checkout, stop tracking, find checkouts"),
    "peers": Command("peers", "list the peers"),
    "peer": Command("peers", "add or remove a peer"),
    "sessions": Command("sessions", "what was talked about: title, project, machine, age"),
    "session": Command("session", "read a session, its history and backups; bring it back"),
    "conflicts": Command("conflicts", "memory files that hold both sides, and sessions that became two"),
    "conflict": Command("conflict", "settle a memory file that holds both sides"),
    "scan": Command("scan", "look for secrets in what is shared; say which are fine"),
    "doctor": Command("doctor", "what can and cannot be synced; check and repair everything"),
    "knowledge": Command("knowledge", "share CLAUDE.md and settings: merged, and applied with care"),
    "config": Command("config", "read and change the configuration"),
    "hook": Command("hook", "have Claude Code itself tell when there is something to sync"),
    "service": Command("service", "the user service that keeps the daemon running"),
    "completion": Command("completion", "complete commands and names with the Tab key"),
    "version": Command("version", "versions of client and daemon"),
    "demo": Command("demo", "see it work: two machines in a temporary directory"),
}
