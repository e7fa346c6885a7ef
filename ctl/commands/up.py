"""`up`: from nothing to a daemon that runs, in one command that may be repeated at will."""

from __future__ import annotations

import argparse
import os
import sys
import time

from convergenced import __version__
from convergenced.control.answers import Ping
from convergenced.errors import ConvergenceError, UsageError
from convergenced.machine.locations import ClaudeLocations, Locations
from convergenced.machine.settings import (
    PeerSettings,
    Settings,
    add_peer,
    default_config_text,
    parse_settings,
)
from convergenced.urls import classify_url, redact_url
from convergenced.wording import plural

from .. import configuration, launch, service, verdict
from ..arguments import Parser, example, url_argument
from ..client import Connection
from ..here import locations, read_status
from ..peering import ANYWAY, refuse_public
from ..render import Column, Terminal, clean, iso, size, table, tilde, when
from ..sharing import survey
from ..versions import is_outdated

_SHOWN = 15
"""Folders that are listed; the rest is counted."""


def configure(parser: Parser) -> None:
    """Arguments and help."""
    parser.description = (
        "Writes a configuration if there is none, adds the peer, shows what will be shared and asks, starts\n"
        "the daemon (as a service of yours where there is a service manager) and shows how things are.\n"
        "Run again, it changes nothing. Without a peer everything is kept in the store on this machine.\n\n"
        "exit codes: 0 it runs, 1 it does not or you said no, 2 usage, 130 interrupted at the question"
    )
    parser.epilog = example(
        "convergencectl up --peer git@github.com:you/context.git", "convergencectl up --yes --foreground"
    )
    parser.add_argument(
        "--peer", metavar="URL", type=url_argument, help="a git repository that you can push to"
    )
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument(ANYWAY, action="store_true", help="share also with a peer that anybody can read")
    parser.add_argument("--foreground", action="store_true", help="become the daemon instead of starting it")


def run(args: argparse.Namespace) -> int:
    """Does what is still to be done, then prints the status."""
    where = locations()
    text = configuration.read(where)
    settings = parse_settings(text or "", where.config_file)
    peer = _new_peer(settings, args.peer)
    running = launch.ping(where)
    if running is not None and args.foreground:
        raise ConvergenceError(
            f"convergenced runs already (pid {running['pid']})", "end it first: convergencectl down"
        )
    if peer is not None and not args.yes_public:
        refuse_public(peer.url)
    # What ran here before was agreed to then; a new peer is a new question.
    agreed = peer is None and (running is not None or os.path.exists(where.store))
    if not agreed and not args.yes and not _consent(where, settings, peer):
        print("nothing was changed", file=sys.stderr)
        return 1
    _configure_machine(where, text, peer, runs=running is not None)
    if args.foreground:
        sys.stdout.flush()
        command = launch.command()
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    manager = service.detect(os.environ, launch.daemon_log(where))
    if running is not None and (why := _outgrown(where, running, manager)):
        print(f"{why}; restarting", file=sys.stderr)
        launch.stop(where)
        running = None
    if running is None or not running["ready"]:
        manager = None if running else manager
        print("starting convergenced" + (f" as a {manager.name} service" if manager else ""), file=sys.stderr)
        launch.start(where, manager, runs=running is not None)
    status, _ = read_status()
    print("\n".join(verdict.lines(status, Terminal.of(sys.stdout, os.environ), time.time())))
    return 0


def _new_peer(settings: Settings, url: str | None) -> PeerSettings | None:
    """The peer to add, None where there is none or it is known already."""
    if url is None:
        return None
    classify_url(url)
    if any(peer.url == url for peer in settings.peers):
        return None
    names = {peer.name for peer in settings.peers}
    if "hub" not in names:
        return PeerSettings("hub", url)
    return PeerSettings(next(name for n in range(2, 1000) if (name := f"peer{n}") not in names), url)


def _outgrown(where: Locations, running: Ping, manager: service.ServiceManager | None) -> str | None:
    """Why the daemon that runs has to start anew; None where it has not."""
    if is_outdated(running["version"]):
        return f"the daemon is version {clean(running['version'])}, this is {__version__}"
    if manager is None or not manager.installed():
        return None
    hubs = launch.hubs(configuration.settings(where))
    shut = [folder for folder in hubs if not manager.can_write(folder)]
    return f"the service could not write to {clean(shut[0])}" if shut else None


def _configure_machine(where: Locations, text: str | None, peer: PeerSettings | None, *, runs: bool) -> None:
    if text is None:
        configuration.write(where, default_config_text(peers=[peer] if peer else []))
        print(f"wrote {tilde(where.config_file)}", file=sys.stderr)
        if runs:
            configuration.apply(where)
    elif peer is not None and runs:
        with Connection(where.socket) as daemon:
            daemon.call("peer_add", {"name": peer.name, "url": peer.url})
    elif peer is not None:
        configuration.write(where, add_peer(text, peer.name, peer.url))


def _consent(where: Locations, settings: Settings, peer: PeerSettings | None) -> bool:
    """Shows what will be shared, and with whom, and asks. Raises `UsageError` where nobody can answer."""
    if not sys.stdin.isatty():
        raise UsageError(
            "there is no terminal to ask whether your sessions may be shared",
            "say yes beforehand: convergencectl up --yes",
        )
    terminal = Terminal.of(sys.stdout, os.environ)
    print("\n".join(_what(settings, terminal)))
    known = [*settings.peers, *([peer] if peer else [])]
    names = ", ".join(f"{one.name} ({clean(redact_url(one.url))})" for one in known)
    shared = f" and shared with {names}." if names else ", and nowhere else as long as there is no peer."
    print()
    print("\n".join(terminal.paragraph(f"It is kept in {tilde(where.store)}{shared}")))
    try:
        print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in {"y", "yes"}
    except KeyboardInterrupt:
        print("\nnothing was changed", file=sys.stderr)
        raise


def _what(settings: Settings, terminal: Terminal) -> list[str]:
    if settings.projects.track == "listed":
        return ['Only the projects that you name are taken in (projects.track = "listed").']
    claude = ClaudeLocations.from_environment(os.environ, os.path.expanduser("~"))
    folders = survey(claude.projects)
    if not folders:
        return [f"There is nothing in {tilde(claude.projects)} yet; what is written there will be kept."]
    now = time.time()
    rows = [
        (clean(one.name), str(one.sessions), size(one.bytes), when(iso(one.newest), now, short=True))
        for one in folders[:_SHOWN]
    ]
    columns = (
        Column("FOLDER", least=16, path=True),
        Column("SESSIONS", right=True),
        Column("SIZE", right=True),
        Column("NEWEST"),
    )
    sessions, whole = sum(one.sessions for one in folders), sum(one.bytes for one in folders)
    more = f"… and {plural(len(folders) - _SHOWN, 'folder')} more; " if len(folders) > _SHOWN else ""
    return [
        f"What Claude Code keeps in {tilde(claude.projects)}:",
        "",
        *table(columns, rows, terminal.width),
        f"{more}{plural(sessions, 'session')}, {size(whole)} in all",
        *(["left out: " + ", ".join(settings.projects.exclude)] if settings.projects.exclude else []),
    ]
