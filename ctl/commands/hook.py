"""`hook`: has Claude Code tell the daemon when a session begins or pauses."""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from dataclasses import dataclass

from convergenced.canon import jsontext
from convergenced.errors import UsageError
from convergenced.machine.durable import explained, read_bounded, write_durably
from convergenced.machine.locations import MAX_CLAUDE_SETTINGS, ClaudeLocations
from convergenced.machine.runtime import folder_of_all
from convergenced.model import LocalPath

from .. import hooks
from ..arguments import Parser, example
from ..render import Terminal, clean, tilde

_BOM = b"\xef\xbb\xbf"
_WORDS = {
    "installed": "installed",
    "elsewhere": "belongs to another installation",
    "missing": "not installed",
}


def configure(parser: Parser) -> None:
    """Arguments and help of the three ways to use it."""
    parser.description = (
        "Two hooks of Claude Code that make syncing quicker: when Claude has answered (Stop), the project\n"
        "is synced at once; when a session starts (SessionStart), what is on its way gets up to 2 seconds\n"
        "to arrive. They say nothing, cannot fail, and do nothing where no daemon runs. Syncing works\n"
        "without them too, a few seconds later."
    )
    parser.epilog = example("convergencectl hook install", "convergencectl hook status")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser(
        "install",
        help="put them into Claude Code's settings.json",
        description=(
            "Adds the hooks to settings.json in Claude Code's folder (CLAUDE_CONFIG_DIR, else ~/.claude);\n"
            "every other byte of it stays. Run again, it changes nothing; hooks of another installation\n"
            "are pointed at this one. Sessions that start from now on use them."
        ),
        epilog=example(
            "convergencectl hook install", "CLAUDE_CONFIG_DIR=~/work/.claude convergencectl hook install"
        )
        + "\n\nexit codes: 0 they are installed, 2 settings.json is not understood and was left alone",
    )
    actions.add_parser(
        "uninstall",
        help="take them out again",
        description="Takes the hooks out of settings.json, which is then what it was before.",
        epilog=example("convergencectl hook uninstall")
        + "\n\nexit codes: 0 they are gone, 2 settings.json is not understood and was left alone",
    )
    status = actions.add_parser(
        "status",
        help="whether they are installed, and of which installation",
        description="Whether the hooks are installed, and whether they are those of this installation.",
        epilog=example("convergencectl hook status", "convergencectl hook status --json | jq .hooks")
        + "\n\nexit codes: 0 installed, 1 not installed, or not those of this installation",
    )
    status.add_argument("--json", action="store_true", help="machine-readable, schema 1")


def run(args: argparse.Namespace) -> int:
    """Does one of the three."""
    home = os.path.expanduser("~")
    file = _File.read(ClaudeLocations.from_environment(os.environ, home).settings)
    call = hooks.call_of(sys.executable, folder_of_all(os.environ, home))
    match args.action:
        case "install":
            changed = file.write(hooks.install(file.text, call, file.path))
            told = f"installed the hooks in {tilde(file.path)}"
            print(told if changed else f"the hooks are installed in {tilde(file.path)}; nothing was changed")
        case "uninstall":
            changed = file.text is not None and file.write(hooks.uninstall(file.text, file.path))
            print(f"removed the hooks from {tilde(file.path)}" if changed else "no hooks are installed")
        case _:
            return _status(file, call, as_json=args.json)
    return 0


def _status(file: _File, call: str, *, as_json: bool) -> int:
    if file.text is not None:
        jsontext.check_object(file.text, file.path)
    found = hooks.find(file.text) if file.text is not None else []
    states = {event: hooks.state_of(found, event, call) for event in hooks.EVENTS}
    is_off = file.text is not None and json.loads(file.text).get("disableAllHooks") is True
    if as_json:
        listed = [
            {"event": event, "state": state, "commands": [one.call for one in found if one.event == event]}
            for event, state in states.items()
        ]
        answer = {"schema": 1, "settings": file.path, "hooks": listed, "disabled": is_off}
        print(json.dumps(answer, indent=2))
    else:
        terminal = Terminal.of(sys.stdout, os.environ)
        for event, state in states.items():
            print(f"{event:<12}  {_WORDS[state]}")
        print(f"{'settings':<12}  {tilde(file.path)}{'' if file.text is not None else ' (does not exist)'}")
        if is_off:
            print("\n".join(terminal.paragraph("disableAllHooks is set there: Claude Code runs no hooks")))
        foreign = {one.call for one in found if one.call != call}
        for one in sorted(foreign):
            print("\n".join(terminal.paragraph(clean(one), indent=" " * 14, first="elsewhere     ")))
        if set(states.values()) != {"installed"}:
            print("install them: convergencectl hook install")
    return 0 if set(states.values()) == {"installed"} else 1


@dataclass(frozen=True, slots=True)
class _File:
    """settings.json as it was read; `text` None where there is none."""

    path: LocalPath
    bom: bytes
    text: str | None
    mode: int

    @classmethod
    def read(cls, path: LocalPath) -> _File:
        """Raises `RefusedInputError`, or `UsageError` where it is no text."""
        raw = read_bounded(path, MAX_CLAUDE_SETTINGS)
        if raw is None:
            return cls(path, b"", None, 0o600)
        bom = _BOM if raw.startswith(_BOM) else b""
        try:
            text = raw[len(bom) :].decode("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8; nothing was changed", "save it as UTF-8") from error
        return cls(path, bom, text, stat.S_IMODE(os.stat(path).st_mode))

    def write(self, text: str | None) -> bool:
        """Puts `text` in its place, None for no file; whether that changed anything."""
        if text == self.text:
            return False
        if text is None:
            with explained(f"cannot remove {self.path}"):
                os.unlink(os.path.realpath(self.path))
        else:
            write_durably(self.path, self.bom + text.encode("utf-8"), self.mode)
        return True
