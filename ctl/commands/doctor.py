"""`doctor`: what can and cannot be synced, and every invariant that can be checked."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, cast

from convergenced import __version__
from convergenced.errors import AttentionError, DegradedError, NoDaemonError
from convergenced.wording import plural

from ..arguments import Parser, example
from ..here import connect, locations
from ..progress import Progress
from ..render import Terminal, clean
from ..wellbeing import service_finding

if TYPE_CHECKING:
    from convergenced.control.answers import Diagnosis, FindingAnswer, Ping
    from convergenced.control.protocol import Json

_MARKS = {"ok": "✓", "warning": "!", "problem": "✗"}
_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}
_WORST_LAST = ("ok", "warning", "problem")
MAX_IN_FULL = 4
"""Groups of findings up to which what is well is told line by line for each project."""


def configure(parser: Parser) -> None:
    """Arguments and help."""
    parser.description = (
        "Checks this machine, each project (or the one at PATH), and the peers: what can and cannot be\n"
        "synced, and why. --deep reads the whole store and checks every promise that can be checked.\n"
        "--fix repairs what can be repaired without losing anything; it touches no file of Claude Code's.\n"
        "Exits 0 when all is well, 5 when something needs you, 6 when something is broken."
    )
    parser.epilog = example(
        "convergencectl doctor", "convergencectl doctor ~/src/proj", "convergencectl doctor --deep --fix"
    )
    parser.add_argument("path", nargs="?", metavar="PATH", type=_path, help="a project's folder; none: all")
    parser.add_argument("--deep", action="store_true", help="verify the whole store and every invariant")
    parser.add_argument("--fix", action="store_true", help="repair what can be repaired")
    parser.add_argument("--json", action="store_true", help="machine-readable, schema 1")


def run(args: argparse.Namespace) -> int:
    """Prints the findings; the exit code says how grave they are."""
    found = _examine(args.path, deep=args.deep, fix=args.fix)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(_lines(found, Terminal.of(sys.stdout, os.environ))))
    states = {one["state"] for one in found["findings"]}
    if "problem" in states:
        return DegradedError.exit_code
    return AttentionError.exit_code if "warning" in states else 0


def _examine(path: str | None, *, deep: bool, fix: bool) -> Diagnosis:
    try:
        with connect() as daemon:
            ping = cast("Ping", daemon.call("ping"))
            params: dict[str, Json] = {"path": path, "deep": deep, "fix": fix}
            progress = Progress(locations().socket, "checking", Terminal.of(sys.stderr, os.environ))
            try:
                answer = daemon.call("doctor", params, timeout=None, each_tick=progress.tick)
            finally:
                progress.done()
            found = cast("Diagnosis", answer)
            own = [_version(ping["version"]), service_finding(locations(), ping["pid"])]
            found["findings"][:0] = own
            return found
    except NoDaemonError as error:
        print(f"{error.summary}; this is what files and store tell\n  {error.hint}", file=sys.stderr)
    from convergenced.control.offline_doctor import examine_offline  # opens the store with pygit2
    from convergenced.model import LocalPath

    found = examine_offline(
        locations(),
        os.environ,
        os.path.expanduser("~"),
        None if path is None else LocalPath(path),
        deep=deep,
        fix=fix,
    )
    found["findings"].insert(0, service_finding(locations(), None))
    return found


def _version(running: str) -> FindingAnswer:
    same = running == __version__
    return {
        "check": "version",
        "state": "ok" if same else "warning",
        "project": None,
        "text": f"daemon and command are of version {running}"
        if same
        else f"the daemon is of version {running}, this command of {__version__}",
        "fix": "" if same else "convergencectl down && convergencectl up",
        "fixable": False,
    }


def _lines(found: Diagnosis, terminal: Terminal) -> list[str]:
    out = []
    for repaired in found["fixed"]:
        out += terminal.paragraph(
            _named(repaired["project"], repaired["text"]), first="repaired: ", indent="  "
        )
    findings = found["findings"]
    groups = list(dict.fromkeys(one["project"] for one in findings))
    groups.sort(key=lambda project: (project is not None, project or ""))
    brief = len(groups) > MAX_IN_FULL
    for project in groups:
        ours = [one for one in findings if one["project"] == project]
        well = [one for one in ours if one["state"] == "ok"]
        out += ["", terminal.style(clean(project) if project is not None else "this machine", "bold")]
        if brief and project is not None and well:
            out.append(_marked("ok", [f"  {plural(len(well), 'check')}: all well"], terminal)[0])
            ours = [one for one in ours if one["state"] != "ok"]
        for one in sorted(ours, key=lambda one: _WORST_LAST.index(one["state"])):
            out += _shown(one, terminal)
    return [*out, "", *terminal.paragraph(_verdict(found))]


def _shown(one: FindingAnswer, terminal: Terminal) -> list[str]:
    text = f"{clean(one['check'])}: {clean(one['text'])}"
    shown = _marked(one["state"], terminal.paragraph(text, first="  ", indent="    "), terminal)
    # Whole, however long: a command with a line break in it cannot be copied.
    return [*shown, f"    → {clean(one['fix'])}"] if one["fix"] and one["state"] != "ok" else shown


def _marked(state: str, lines: list[str], terminal: Terminal) -> list[str]:
    """The lines with the state's mark in place of the first one's first space."""
    return [terminal.style(_MARKS[state], _COLOURS[state]) + lines[0][1:], *lines[1:]]


def _verdict(found: Diagnosis) -> str:
    counts = [sum(one["state"] == state for one in found["findings"]) for state in _WORST_LAST]
    fixable = sum(one["fixable"] for one in found["findings"])
    if not counts[1] and not counts[2]:
        return f"all well: {plural(counts[0], 'check')}"
    parts = [plural(counts[2], "problem")] if counts[2] else []
    parts += [plural(counts[1], "warning")] if counts[1] else []
    text = f"{' and '.join(parts)}, {plural(counts[0], 'check')} well"
    return f"{text}; --fix can repair {fixable} of them" if fixable else text


def _named(project: str | None, text: str) -> str:
    return f"{clean(project)}: {clean(text)}" if project else clean(text)


def _path(text: str) -> str:
    return os.path.realpath(os.path.expanduser(text))
