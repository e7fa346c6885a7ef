"""What could stand at the cursor of a command line.

Everything comes from the parsers themselves, so it cannot differ from what they take; which projects,
sessions and peers there are is asked of the daemon, else read from the store.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from convergenced.errors import NoDaemonError

from .arguments import actions_of, command_parser
from .commands import COMMANDS

if TYPE_CHECKING:
    from convergenced.control.answers import Sessions

FOLDERS, FILES = ":folders", ":files"
"""Stand for the shell's own completion of paths."""
MOST_SESSIONS = 500
"""The newest sessions that are offered."""


class Candidate(NamedTuple):
    """A word that could stand there, and what it means."""

    word: str
    text: str = ""


def candidates(words: Sequence[str]) -> list[Candidate]:
    """What may stand in the place of the last of `words`, which may be empty. The program's name is left out.

    Raises `ConvergenceError` where what exists cannot be asked.
    """
    *before, current = _joined(words)
    if not before:
        found: Iterable[Candidate] = [Candidate(name, one.summary) for name, one in COMMANDS.items()]
        if current.startswith("-"):
            found = [Candidate("-h", "show the commands"), Candidate("--help", "show the commands")]
    elif before[0] not in COMMANDS:
        found = []
    else:
        parser, _ = command_parser(before[0])
        found = _in_command(parser, before[1:], current)
    return [one for one in found if one.word.startswith(current) or one.word in (FOLDERS, FILES)]


def _joined(words: Sequence[str]) -> list[str]:
    """Bash takes `--take=ours` for three words."""
    joined: list[str] = []
    rest = iter(words)
    for word in rest:
        is_sign = word == "=" and joined and joined[-1].startswith("--")
        joined.append(next(rest, "") if is_sign else word)
    return joined or [""]


def _in_command(parser: argparse.ArgumentParser, before: Sequence[str], current: str) -> Iterable[Candidate]:
    """Follows the words to the argument that the current one belongs to."""
    options = parser._option_string_actions
    positionals = [one for one in parser._actions if not one.option_strings]
    given: list[str] = []
    waiting: argparse.Action | None = None
    for index, word in enumerate(before):
        if waiting is not None:
            waiting = None
        elif word.startswith("-") and word != "-":
            option = options.get(word)
            waiting = option if option is not None and option.nargs != 0 else None
        elif (chosen := actions_of(parser)) is not None:
            below = chosen.choices.get(word)
            return [] if below is None else _in_command(below, before[index + 1 :], current)
        else:
            given.append(word)
    if waiting is not None:
        return _values(waiting, given)
    if current.startswith("-"):
        used = {action for word in before if (action := options.get(word)) is not None}
        return [
            Candidate(option, action.help or "")
            for option, action in options.items()
            if action not in used and action.help != argparse.SUPPRESS
        ]
    action = _at(positionals, len(given))
    return [] if action is None else _values(action, given)


def _at(positionals: Sequence[argparse.Action], index: int) -> argparse.Action | None:
    """The positional argument that takes the word of that number."""
    for number, action in enumerate(positionals):
        if number == index or action.nargs in ("*", "+"):
            return action
    return None


def _values(action: argparse.Action, given: Sequence[str]) -> Iterable[Candidate]:
    if isinstance(action, argparse._SubParsersAction):
        return [Candidate(one.dest, one.help or "") for one in action._choices_actions]
    if action.choices is not None:
        return [Candidate(str(one)) for one in action.choices]
    names = str(action.metavar or "").split("|")
    return [found for name in names for found in KINDS.get(name, _nothing)(given) if found.word not in given]


def _projects(_: Sequence[str]) -> Iterator[Candidate]:
    from .here import read_status  # opens the store where no daemon runs

    for one in read_status()[0]["projects"]:
        yield Candidate(one["id"], one["root"] or "")


def _peers(_: Sequence[str]) -> Iterator[Candidate]:
    from .here import read_status

    for one in read_status()[0]["peers"]:
        yield Candidate(one["name"], one["url"])


def _ids(given: Sequence[str]) -> Iterator[Candidate]:
    """Projects here, and those that peers have."""
    from .here import read_status

    del given
    status = read_status()[0]
    for one in status["projects"]:
        yield Candidate(one["id"], one["root"] or "")
    for other in status["available"]:
        yield Candidate(other["id"], "not here yet")


def _sessions(_: Sequence[str]) -> Iterator[Candidate]:
    from .here import connect, locations

    try:
        with connect() as daemon:
            found = cast("Sessions", daemon.call("sessions", {"limit": MOST_SESSIONS}))
    except NoDaemonError:
        from convergenced.control.offline import offline_sessions  # opens the store with pygit2

        found = offline_sessions(locations(), os.environ, None)
    for one in found["sessions"][:MOST_SESSIONS]:
        yield Candidate(one["id"], f"{one['title']} ({one['project']})")


def _changes(_: Sequence[str]) -> Iterator[Candidate]:
    from .knowledge.calls import read_diff
    from .knowledge.differences import name_of

    for one in read_diff({})["changes"]:
        yield Candidate(one["id"], name_of(one))


def _keys(given: Sequence[str]) -> Iterator[Candidate]:
    from convergenced.machine.settings_schema import SECTIONS

    del given
    for section, (_, keys) in SECTIONS.items():
        for name, key in keys.items():
            yield Candidate(f"{section}.{name}", key.comment)


def _allowed(given: Sequence[str]) -> Iterator[Candidate]:
    """The values that the key before may have, where they are few."""
    from convergenced.machine.settings_schema import SECTIONS

    section, _, name = given[0].partition(".") if given else ("", "", "")
    key = SECTIONS[section][1].get(name) if section in SECTIONS else None
    return map(Candidate, key.kind.choices if key is not None else ())


def _folders(_: Sequence[str]) -> Iterator[Candidate]:
    yield Candidate(FOLDERS)


def _files(_: Sequence[str]) -> Iterator[Candidate]:
    yield Candidate(FILES)


def _nothing(_: Sequence[str]) -> Iterator[Candidate]:
    return iter(())


KINDS: dict[str, Callable[[Sequence[str]], Iterator[Candidate]]] = {
    "PROJECT": _projects,
    "ID": _ids,
    "SID": _sessions,
    "PEER": _peers,
    "CHANGE": _changes,
    "KEY": _keys,
    "VALUE": _allowed,
    "OLD": _folders,
    "NEW": _folders,
    "ROOT": _folders,
    "PATH": _files,
    "URL": _folders,
    **dict.fromkeys(("NAME", "N", "S", "SPAN", "COMMIT", "STAMP", "FINGERPRINT", "MODEL", "USD"), _nothing),
}
"""What stands for the values of an argument, by its name in the help."""
