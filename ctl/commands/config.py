"""`config`: read and change config.toml; what is changed is checked first and applied at once."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from convergenced.errors import ConfigError, UsageError
from convergenced.machine.locations import Locations
from convergenced.machine.settings import default_config_text, get_value, set_value, unset_value
from convergenced.machine.settings_schema import SECTIONS

from .. import configuration
from ..arguments import Parser, example
from ..here import locations

LATER = "machine.name"
"""The key that a daemon reads only once: its commits are made by that name."""


def configure(parser: Parser) -> None:
    """Arguments and help of the five ways to use it."""
    parser.description = (
        "Reads and changes config.toml. A change is checked, keeps your comments, and applies at once."
    )
    parser.epilog = example(
        "convergencectl config get exchange.interval",
        "convergencectl config set exchange.interval 5m",
        'convergencectl config set projects.exclude "~/clients/**,~/private"',
        "convergencectl config edit",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    get = actions.add_parser("get", help="print a value in force, or all of them")
    get.description = "Prints the value in force for a key, or for all keys: the file's, else the default."
    get.add_argument("key", nargs="?", metavar="KEY", help="SECTION.KEY, such as exchange.interval")
    get.epilog = example("convergencectl config get exchange.interval")
    put = actions.add_parser("set", help="change a value")
    put.description = (
        "Changes a value in config.toml and applies it at once. A value that is not allowed is refused with\n"
        "what is; comments and everything else in the file stay. Exits 2 where nothing was changed."
    )
    put.add_argument("key", metavar="KEY", help="SECTION.KEY, such as exchange.interval")
    put.add_argument("value", metavar="VALUE", help="the new value; lists separated by commas")
    put.epilog = example("convergencectl config set localize.hold machine")
    unset = actions.add_parser("unset", help="go back to the default")
    unset.description = "Takes a key out of config.toml, so that its default holds, at once."
    unset.add_argument("key", metavar="KEY", help="SECTION.KEY, such as exchange.interval")
    unset.epilog = example("convergencectl config unset localize.hold")
    edit = actions.add_parser("edit", help="open it in $VISUAL or $EDITOR")
    edit.description = (
        "Opens config.toml in $VISUAL or $EDITOR and checks what was saved before it counts. What is wrong\n"
        "is named with its line, waits beside the file, and the next `config edit` goes on with it."
    )
    edit.epilog = example("EDITOR=nano convergencectl config edit")
    path = actions.add_parser("path", help="print where the file is")
    path.description = "Prints where config.toml is, whether or not it exists."
    path.epilog = example('cat "$(convergencectl config path)"')


def run(args: argparse.Namespace) -> int:
    """Does one of the five."""
    where = locations()
    match args.action:
        case "path":
            print(where.config_file)
        case "get":
            _get(where, args.key)
        case "set":
            _change(where, set_value(_text(where), args.key, args.value), args.key)
        case "unset":
            _change(where, unset_value(_text(where), args.key), args.key)
        case _:
            _edit(where)
    return 0


def _text(where: Locations) -> str:
    text = configuration.read(where)
    return default_config_text() if text is None else text


def _get(where: Locations, key: str | None) -> None:
    configuration.settings(where)  # a wrong file is reported by its own name
    text = configuration.read(where) or ""
    if key is not None:
        print(get_value(text, key))
        return
    for section, (_, keys) in SECTIONS.items():
        for name in keys:
            print(f"{section}.{name} = {get_value(text, f'{section}.{name}')}")


def _change(where: Locations, text: str, key: str = "") -> None:
    configuration.write(where, text)
    if not configuration.apply(where):
        print("saved; no daemon runs, it counts from the next start", file=sys.stderr)
    elif key == LATER:
        print("saved; the name counts from the daemon's next start", file=sys.stderr)


def _edit(where: Locations) -> None:
    """Opens a copy, so that the daemon never sees half an edit; a wrong one is kept beside the file."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    before = _text(where)
    draft = Path(f"{where.config_file}.edit.toml")
    draft.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not draft.exists():  # else the last attempt was wrong: go on with that
        draft.touch(mode=0o600)
        draft.write_text(before, "utf-8")
    try:
        code = subprocess.run([*shlex.split(editor), str(draft)], check=False).returncode
    except (OSError, ValueError) as error:
        draft.unlink()
        raise UsageError(f"the editor {editor!r} does not start: {error}", "set VISUAL or EDITOR") from error
    if code != 0:
        draft.unlink()
        raise UsageError(f"the editor ended with exit code {code}; nothing was changed", "try again")
    text = draft.read_text("utf-8")
    if text != before or configuration.read(where) is None:
        try:
            _change(where, text)
        except ConfigError as error:
            hint = f"{error.hint}; your edit waits in {draft}: convergencectl config edit goes on with it"
            raise ConfigError(error.summary, hint) from error
    draft.unlink()
