"""`version`: of the client and of the daemon that runs."""

from __future__ import annotations

import argparse
from typing import cast

from convergenced import __version__
from convergenced.control.answers import Ping
from convergenced.errors import NoDaemonError

from ..arguments import Parser, example
from ..here import connect
from ..render import clean
from ..versions import mismatch


def configure(parser: Parser) -> None:
    """Help; there are no arguments."""
    parser.description = "Versions of convergencectl and of the daemon that runs."
    parser.epilog = example("convergencectl version")


def run(args: argparse.Namespace) -> int:
    """Prints both."""
    print(f"convergencectl {__version__}")
    try:
        with connect() as daemon:
            ping = cast("Ping", daemon.call("ping"))
    except NoDaemonError as error:
        print(f"{error.summary} ({error.hint})")
        return 0
    print(f"convergenced {clean(ping['version'])} (pid {ping['pid']})")
    if (different := mismatch(ping["version"])) is not None:
        print(different)
    return 0
