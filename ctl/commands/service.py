"""`service install|uninstall|status|logs`: the user service by itself."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from convergenced.errors import ConvergenceError, NoDaemonError

from .. import configuration, launch, service
from ..arguments import Parser, example
from ..here import locations
from ..render import Terminal, clean, iso, tilde, when

if TYPE_CHECKING:
    from convergenced.machine.locations import Locations

DEFAULT_LINES = 50
MOST_LINES = 10_000


def configure(parser: Parser) -> None:
    """Arguments and help."""
    parser.description = (
        "Looks after the user service (systemd or launchd) that keeps the daemon running. `up` installs it\n"
        "where there is a service manager; nothing else ever touches it."
    )
    parser.epilog = example(
        "convergencectl service status", "convergencectl service logs -f", "convergencectl service install"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    install = actions.add_parser(
        "install",
        help="install, or bring up to date, and start it",
        description=(
            "Writes the service with the PATH and the folders of this shell, has it start with the login\n"
            "and starts it. Run again, it changes nothing; what changed is put in force by a restart."
        ),
        epilog=example(
            "convergencectl service install",
            "CLAUDE_CONFIG_DIR=~/work/.claude convergencectl service install",
        )
        + "\n\nexit codes: 0 it runs, 1 it could not be installed or started",
    )
    choice = install.add_mutually_exclusive_group()
    choice.add_argument(
        "--no-sandbox",
        dest="sandbox",
        action="store_const",
        const=False,
        help="let the service see and write what you can (systemd); remembered until --sandbox",
    )
    choice.add_argument("--sandbox", action="store_const", const=True, help="with a sandbox after all")
    actions.add_parser(
        "uninstall",
        help="stop and remove it; all data stays",
        description="Stops the daemon and removes the service. Configuration, store and state stay.",
        epilog=example("convergencectl service uninstall")
        + "\n\nexit codes: 0 it is gone, 1 it could not be",
    )
    status = actions.add_parser(
        "status",
        help="whether it runs, and how",
        description="Whether the service is installed and runs, since when, and where its files are.",
        epilog=example("convergencectl service status", "convergencectl service status --json | jq .state")
        + "\n\nexit codes: 0 it runs, 3 it does not, 6 it failed",
    )
    status.add_argument("--json", action="store_true", help="machine-readable, schema 1")
    logs = actions.add_parser(
        "logs",
        help="what the daemon logged",
        description="The daemon's own log: the journal under systemd, else a file. What was synced: `log`.",
        epilog=example("convergencectl service logs -n 200", "convergencectl service logs -f"),
    )
    logs.add_argument(
        "-n",
        dest="lines",
        metavar="N",
        type=_count,
        default=DEFAULT_LINES,
        help=f"lines to show ({DEFAULT_LINES})",
    )
    logs.add_argument("-f", "--follow", action="store_true", help="go on showing what is logged")


def run(args: argparse.Namespace) -> int:
    """Does what the action says."""
    where = locations()
    actions: dict[str, Callable[[], int]] = {
        "install": lambda: _install(where, args.sandbox),
        "uninstall": lambda: _uninstall(where),
        "status": lambda: _status(where, args.json),
        "logs": lambda: _logs(where, args.lines, args.follow),
    }
    return actions[args.action]()


def _install(where: Locations, sandbox: bool | None) -> int:
    manager = service.detect(os.environ, launch.daemon_log(where), asked=True)
    if manager is None:
        raise ConvergenceError(
            "there is no service manager for this login (or CONVERGENCE_NO_SERVICE is set)",
            "the daemon runs without one: convergencectl up",
        )
    settings = configuration.settings(where)
    if not os.path.exists(where.config_file) and not os.path.exists(where.store):
        raise ConvergenceError("nothing is set up on this machine yet", "set it up: convergencectl up")
    changed = manager.install(sandbox=sandbox, writable=launch.hubs(settings))
    state, running = manager.state(), launch.ping(where)
    if running is not None and state.pid != running["pid"]:
        launch.stop(where)  # it was started without the service, which takes over
        running = None
    if running is not None and not changed:
        print(f"the {manager.name} service is installed and runs (pid {running['pid']}); nothing was changed")
        return 0
    manager.start()
    ready = launch.await_service(where, manager, after=running)
    print(f"installed {tilde(str(manager.path))}, runs (pid {ready['pid']})")
    return 0


def _uninstall(where: Locations) -> int:
    manager = service.detect(os.environ, launch.daemon_log(where), asked=True)
    if manager is None or not manager.installed():
        print("no service is installed")
        return 0
    launch.stop(where)
    manager.uninstall()
    print(f"removed {tilde(str(manager.path))}; configuration, store and state stay")
    return 0


def _status(where: Locations, as_json: bool) -> int:
    manager = service.detect(os.environ, launch.daemon_log(where))
    installed = manager is not None and manager.installed()
    running = launch.ping(where)
    state = manager.state() if manager is not None and installed else _without_service(running is not None)
    pid = running["pid"] if running else state.pid
    own = running is not None and installed and state.pid == running["pid"]
    if as_json:
        answer = {
            "schema": 1,
            "manager": manager.name if manager else None,
            "installed": installed,
            "enabled": state.enabled,
            "state": state.state,
            "pid": pid,
            "since": None if state.since is None else iso(state.since),
            "text": state.text,
            "restarts": state.restarts,
            "sandbox": state.sandbox,
            "lingers": state.lingers,
            "definition": str(manager.path) if manager and installed else None,
            "detached_pid": running["pid"] if running and not own else None,
        }
        print(json.dumps(answer, indent=2))
    elif manager is None or not installed:
        terminal = Terminal.of(sys.stdout, os.environ)
        how = f"convergenced runs without one (pid {pid})" if running else "convergenced does not run"
        kind = f"{manager.name} could have one" if manager else "there is no service manager for this login"
        print("\n".join(terminal.paragraph(f"no service is installed ({kind}); {how}")))
    else:
        print("\n".join(_told(manager, state, None if own else pid if running else None)))
    if running is None and state.state == "failed":
        return 6
    return 0 if running is not None or state.state == "running" else NoDaemonError.exit_code


def _without_service(runs: bool) -> service.ServiceState:
    return service.ServiceState("running" if runs else "stopped", enabled=False)


def _told(manager: service.ServiceManager, state: service.ServiceState, beside: int | None) -> list[str]:
    terminal = Terminal.of(sys.stdout, os.environ)
    since = f" since {when(iso(state.since), time.time())}" if state.since else ""
    pid = f" (pid {state.pid})" if state.pid else ""
    lines = terminal.paragraph(f"the {manager.name} service {_WORDS[state.state]}{since}{pid}")

    def row(label: str, text: str) -> None:
        lines.extend(terminal.paragraph(text, indent=" " * 12, first=f"  {label:<10}"))

    if state.text:
        row("says", clean(state.text))
    row("defined", f"in {tilde(str(manager.path))}")
    if state.sandbox:
        row("sandbox", state.sandbox)
    row("starts", "with your login" if state.enabled else "not by itself: convergencectl up")
    if state.lingers is False:
        row("ends", "when you log out; to keep it: loginctl enable-linger")
    if state.restarts:
        row("restarts", f"{state.restarts}; why: convergencectl service logs")
    if beside is not None:
        row("beside it", f"a daemon runs that it did not start (pid {beside}): convergencectl down")
    if state.state == "failed":
        row("to do", "see why: convergencectl service logs; then start it: convergencectl up")
    return lines


_WORDS = {
    "running": "runs",
    "starting": "is starting",
    "stopping": "is stopping",
    "failed": "failed",
    "stopped": "is stopped",
}


def _logs(where: Locations, lines: int, follow: bool) -> int:
    log = launch.daemon_log(where)
    manager = service.detect(os.environ, log)
    if manager is not None and manager.installed():
        command = manager.log_command(lines, follow=follow)
    elif log.exists() or follow:
        command = service.file_log_command(log, lines, follow=follow)
    else:
        print(f"nothing was logged yet ({tilde(str(log))} does not exist)", file=sys.stderr)
        return 0
    code = subprocess.run(command, check=False).returncode
    return 1 if code > 0 else 0


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text) <= MOST_LINES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number up to {MOST_LINES}")
    return int(text)
