"""Our hooks in the text of Claude Code's settings.json. Pure; the rest of the text is nobody's business.

`install` and `uninstall` undo each other byte for byte. So that this needs no memory beside the file, a
shell comment at the end of each command says what had to be made to hold it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from convergenced.canon import jsontext
from convergenced.canon.own_hooks import NUDGE, is_own
from convergenced.errors import UsageError

State = Literal["installed", "elsewhere", "missing"]

EVENTS = ("Stop", "SessionStart")
TIMEOUT = 5
"""Seconds after which Claude Code ends the hook. It ends by itself long before."""
BARE = "{\n}\n"
"""A settings.json that was made for the hooks, without them."""

_MADE = re.compile(r" # convergencectl hook install(?: \(made (.*)\))?\Z")
_FILE = "settings.json"


@dataclass(frozen=True, slots=True)
class Found:
    """One of our commands in the text, and the places of the containers around it."""

    event: str
    command: str
    top: int
    hooks: int
    groups: int
    group: int
    inner: int
    indexes: tuple[int, int, int, int]
    """Of the hooks object in the top one, the event's array, the group in it, the command in that."""

    @property
    def made(self) -> str | None:
        """What was made to hold it: the event's array, `hooks`, the whole file; None for nothing."""
        found = _MADE.search(self.command)
        return found[1] if found else None

    @property
    def call(self) -> str:
        """The command without the comment."""
        return _MADE.sub("", self.command)


def call_of(python: str, home: str | None) -> str:
    """The command for that interpreter and CONVERGENCE_HOME.

    It cannot fail where the interpreter or the program has gone, and imports nothing of the folder
    that the session works in.
    """
    place = f" {shlex.quote(home)}" if home else ""
    return f"{shlex.quote(python)} -EP {NUDGE}{place} >/dev/null 2>&1 || true"


def find(text: str) -> list[Found]:
    """Our commands, in their order. `text` is a checked object."""
    return list(_walk(text))


def state_of(found: list[Found], event: str, call: str) -> State:
    """Whether the event has our hook, and whether it is that of this installation."""
    calls = {one.call for one in found if one.event == event}
    return "missing" if not calls else "installed" if calls == {call} else "elsewhere"


def install(text: str | None, call: str, where: str) -> str:
    """The text with our hooks; None stands for no file.

    Raises `UsageError`, which calls the file `where`, where the text is none that hooks can be put into.
    """
    new = text is None
    text = BARE if text is None else text
    jsontext.check_object(text, where)
    for event in EVENTS:
        mine = [one for one in find(text) if one.event == event]
        text = _point(text, mine, call) if mine else _add(text, event, call, new, where)
    return text


def uninstall(text: str, where: str) -> str | None:
    """The text without our hooks; None where the file was made for them and holds nothing else.

    Raises `UsageError` where the text is not understood.
    """
    jsontext.check_object(text, where)
    made_file = any(one.made == _FILE for one in find(text))
    while found := find(text):
        text = _remove(text, found[-1])
    return None if made_file and not jsontext.items(text, jsontext.first_value(text)) else text


def _add(text: str, event: str, call: str, new: bool, where: str) -> str:
    top = jsontext.first_value(text)
    hooks = _container(text, top, "hooks", "{", where)
    if hooks is None:
        made = _FILE if new else "hooks"
        return jsontext.append(text, top, {event: [_group(call, made)]}, "hooks")
    groups = _container(text, hooks, event, "[", where)
    if groups is None:
        return jsontext.append(text, hooks, [_group(call, event)], event)
    return jsontext.append(text, groups, _group(call, None))


def _container(text: str, at: int, key: str, opening: str, where: str) -> int | None:
    """Where the value of `key` begins; of several the last, which is the one that counts."""
    named = [one for one in jsontext.items(text, at) if one.key == key]
    if not named:
        return None
    if text[named[-1].value] != opening:
        kind = "object" if opening == "{" else "list"
        raise UsageError(f'{where}: "{key}" is no {kind}; nothing was changed', "correct it, then try again")
    return named[-1].value


def _group(call: str, made: str | None) -> dict[str, object]:
    comment = " # convergencectl hook install" + (f" (made {made})" if made else "")
    return {"hooks": [{"type": "command", "command": call + comment, "timeout": TIMEOUT}]}


def _point(text: str, mine: list[Found], call: str) -> str:
    """Has each of these commands call `call`; what is not to be changed stays."""
    for one in reversed(mine):
        if one.call != call:
            for item in jsontext.items(text, one.inner):
                if item.key == "command":
                    text = jsontext.replace(text, item, call + one.command[len(one.call) :])
                    break
    return text


def _remove(text: str, one: Found) -> str:
    in_top, in_hooks, in_groups, in_group = one.indexes
    text = jsontext.cut(text, one.group, in_group)
    if jsontext.items(text, one.group):
        return text
    text = jsontext.cut(text, one.groups, in_groups)
    if one.made is None or jsontext.items(text, one.groups):
        return text
    text = jsontext.cut(text, one.hooks, in_hooks)
    if one.made not in ("hooks", _FILE) or jsontext.items(text, one.hooks):
        return text
    return jsontext.cut(text, one.top, in_top)


def _walk(text: str) -> Iterator[Found]:
    top = jsontext.first_value(text)
    for in_top, hooks in enumerate(_items(text, top, "{")):
        if hooks.key != "hooks":
            continue
        for in_hooks, event in enumerate(_items(text, hooks.value, "{")):
            for in_groups, group in enumerate(_items(text, event.value, "[")):
                for listed in _items(text, group.value, "{"):
                    if listed.key != "hooks":
                        continue
                    for in_group, inner in enumerate(_items(text, listed.value, "[")):
                        command = _command(text, inner.value)
                        if command is not None and is_own(command):
                            yield Found(
                                event.key or "",
                                command,
                                top,
                                hooks.value,
                                event.value,
                                listed.value,
                                inner.value,
                                (in_top, in_hooks, in_groups, in_group),
                            )


def _items(text: str, at: int, opening: str) -> list[jsontext.Item]:
    return jsontext.items(text, at) if text[at] == opening else []


def _command(text: str, at: int) -> str | None:
    for item in _items(text, at, "{"):
        if item.key == "command":
            command = jsontext.value_at(text, item.value)
            return command if isinstance(command, str) else None
    return None
