"""`down`: the daemon ends, and the service with it, until the next `up`."""

from __future__ import annotations

import argparse
import os

from .. import launch, service
from ..arguments import Parser, example
from ..here import locations


def configure(parser: Parser) -> None:
    """Help; there are no arguments."""
    parser.description = (
        "Stops the daemon; it finishes what it is writing first. A service stays off until the next `up`.\n"
        "Nothing that happens meanwhile is missed."
    )
    parser.epilog = example("convergencectl down")


def run(args: argparse.Namespace) -> int:
    """Ends both and says what there was."""
    where = locations()
    pid = launch.stop(where)
    manager = service.detect(os.environ, launch.daemon_log(where))
    if manager is not None and manager.installed():
        manager.stop()
    print("convergenced did not run" if pid is None else f"stopped convergenced (pid {pid})")
    return 0
