"""`knowledge apply`: what needs nobody is applied, then each change that needs a yes is asked for.

Promise: `--yes` agrees to texts alone, and to none that has further files read. That, and a setting that runs
something or widens a permission, is accepted by its own id or by an answer to its own question, and by
nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from convergenced.control.protocol import Json
from convergenced.errors import AttentionError
from convergenced.wording import plural

from ..here import connect
from ..pager import page, readable
from ..render import Terminal
from .asking import QUIT, ask, can_ask
from .calls import call_at_length, meant, planned
from .differences import NOTHING, accepting, find, name_of, needs_person, one_change
from .words import file_name, marks_in, trouble_lines, visible

if TYPE_CHECKING:
    from convergenced.control.knowledge_answers import Change, KnowledgeApplied, KnowledgeDiff

ANSWERS = {"y": "yes", "n": "no for now", "d": "decline for good", QUIT: "quit"}

_AGREED = {"large", "removed"}
"""Why a person is asked about a text that `--yes` agrees to."""


@dataclass
class _Decided:
    """Ids of changes that a person decided on."""

    accepted: list[str] = field(default_factory=list)
    declined: list[str] = field(default_factory=list)


def apply(args: argparse.Namespace) -> int:
    """Applies what may be applied; 5 where a change still waits for a person."""
    params = meant(args)
    terminal = Terminal.of(sys.stdout, os.environ)
    with connect() as daemon:
        found = planned(daemon, params)
    changes = [*found["changes"], *found["declined"]]
    decided = _decided_before(args, found)
    done = _apply(params, decided)
    if args.json:
        print(json.dumps({"schema": 1, **done}, indent=2))
        return _exit_code(done, decided)
    told = _tell(done, changes, terminal)
    if not args.yes and can_ask() and (open_ := _open(done["left"], decided)):
        answered = _ask_each(open_, terminal)
        if answered.accepted or answered.declined:
            changes = done["left"]
            done = _apply(params, answered)
            told = _tell(done, changes, terminal) or told
        decided.accepted += answered.accepted
        decided.declined += answered.declined
    _tell_left(done["left"], decided, terminal, is_all=not (told or done["trouble"]))
    print("".join(f"{line}\n" for line in trouble_lines(done["trouble"], terminal)), end="")
    return _exit_code(done, decided)


def _decided_before(args: argparse.Namespace, found: KnowledgeDiff) -> _Decided:
    accepted = find(args.accept or (), [*found["changes"], *found["declined"]])
    if args.yes:
        accepted += [one for one in found["changes"] if one["kind"] == "text" and one["consent"] in _AGREED]
    declined = {one["id"] for one in find(args.decline or (), found["changes"])}
    return _Decided(
        [one for one in dict.fromkeys(one["id"] for one in accepted) if one not in declined], list(declined)
    )


def _apply(params: dict[str, Json], decided: _Decided) -> KnowledgeApplied:
    """One request, with the decisions."""
    whole: dict[str, Json] = {
        **params,
        "accept": list[Json](decided.accepted),
        "decline": list[Json](decided.declined),
    }
    with connect() as daemon:  # not kept open while a person thinks
        return cast("KnowledgeApplied", call_at_length(daemon, "knowledge_apply", whole, "applying"))


def _open(left: Iterable[Change], decided: _Decided) -> list[Change]:
    """What still waits for a person; texts first, then settings."""
    settled = {*decided.accepted, *decided.declined}
    waits = [one for one in left if needs_person(one) and one["id"] not in settled]
    return sorted(waits, key=lambda one: one["kind"] != "text")


def _ask_each(changes: Sequence[Change], terminal: Terminal) -> _Decided:
    decided = _Decided()
    shown = readable(terminal, os.environ)
    for number, change in enumerate(changes, 1):
        print()
        page(one_change(change, shown), shown, os.environ)
        match ask(f"{number} of {len(changes)}: apply this?", ANSWERS):
            case "y":
                decided.accepted.append(change["id"])
            case "d":
                decided.declined.append(change["id"])
            case "q":
                break
    return decided


def _tell(done: KnowledgeApplied, changes: Sequence[Change], terminal: Terminal) -> bool:
    """What was done; whether that was anything."""
    by_file: dict[str, Change] = {one["local"]: one for one in changes if one["marks"]}
    by_id = {one["id"]: one for one in changes}
    for path in done["applied"]:
        print(f"applied {file_name(path)}")
        if (change := by_file.get(path)) is not None:
            for mark in marks_in(path, change["marks"]):
                print("\n".join(terminal.paragraph(f"to settle: {mark}", first="! ", indent="  ")))
    for backup in done["backups"]:
        print(f"  as it was before: {file_name(backup)}")
    for one in done["declined"]:
        name = name_of(by_id[one]) if one in by_id else visible(one)
        print(f"declined for good: {name}")
        if one in by_id:
            print(f"  to take that back: {accepting(by_id[one])}")
    return bool(done["applied"] or done["declined"])


def _tell_left(left: Sequence[Change], decided: _Decided, terminal: Terminal, *, is_all: bool) -> None:
    open_ = _open(left, decided)
    others = [one for one in left if one not in open_ and one["id"] not in decided.declined]
    for line in (*_coming(others, decided, terminal), *_waiting(open_, terminal)):
        print(line)
    if is_all and not left:
        print("\n".join(NOTHING))


def _coming(changes: Iterable[Change], decided: _Decided, terminal: Terminal) -> Iterator[str]:
    """What comes by itself."""
    for one in changes:
        agreed = "accepted, " if one["id"] in decided.accepted else ""
        why = f"held: {visible(one['held'])}" if one["held"] else "applied with the next look"
        yield from terminal.paragraph(f"{name_of(one)}: {agreed}{why}", first="· ", indent="  ")


def _waiting(changes: Sequence[Change], terminal: Terminal) -> Iterator[str]:
    if not changes:
        return
    yield (
        "1 change waits for you:" if len(changes) == 1 else f"{plural(len(changes), 'change')} wait for you:"
    )
    for one in changes:
        yield from terminal.paragraph(f"{name_of(one)}: {visible(one['text'])}", first="! ", indent="  ")
        yield f"  → {accepting(one)}"
    yield from terminal.paragraph("what they are: convergencectl knowledge diff")


def _exit_code(done: KnowledgeApplied, decided: _Decided) -> int:
    return AttentionError.exit_code if done["trouble"] or _open(done["left"], decided) else 0
