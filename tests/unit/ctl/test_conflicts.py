"""What `conflicts` shows."""

from __future__ import annotations

import pytest

from convergenced.control.answers import Conflicts, ConflictSide
from ctl.commands.conflicts import lines
from ctl.render import Terminal, parse_time

pytestmark = pytest.mark.usefixtures("utc")

NOW = parse_time("2031-05-04T12:05:00Z") or 0.0


def side(machine: str | None, text: str, *, ours: bool = False, cut: bool = False) -> ConflictSide:
    at = None if machine is None else "2031-05-04T12:02:00Z"
    return {"machine": machine, "ours": ours, "at": at, "text": text, "cut": cut}


def found(*conflicts: list[ConflictSide], name: str = "memory/a b.md") -> Conflicts:
    return {
        "schema": 1,
        "conflicts": [
            {
                "project": "proj",
                "path": name,
                "name": f"proj:{name}",
                "local": None,
                "conflicts": [*conflicts],
            }
        ],
        "divergences": [],
    }


def shown(answer: Conflicts) -> str:
    return "\n".join(lines(answer, Terminal(80, colour=False, interactive=False), NOW)) + "\n"


def test_nothing_is_in_conflict() -> None:
    assert shown({"schema": 1, "conflicts": [], "divergences": []}) == "no conflict\n"


def test_both_sides_with_their_writers_and_what_settles_them() -> None:
    answer = found(
        [side("desktop", "one\ntwo", ours=True), side("laptop", "")],
        [side(None, "long", cut=True), side("laptop", "x")],
    )
    answer["divergences"] = [
        {
            "project": "proj",
            "session": "s-1",
            "fork": "s-2",
            "at": "2031-05-04T12:02:00Z",
            "session_by": "desktop",
            "fork_by": "laptop",
        },
        {"project": "proj", "session": "s-3", "fork": "s-4", "at": None, "session_by": None, "fork_by": None},
    ]
    assert (
        shown(answer)
        == """\
1 memory file to settle

proj:memory/a b.md
  1 of 2
  desktop (ours), 12:02, 3 min ago
    │ one
    │ two
  laptop, 12:02, 3 min ago
    │ (nothing)
  2 of 2
  unknown
    │ long
    │ …
  laptop, 12:02, 3 min ago
    │ x
  → convergencectl conflict resolve 'proj:memory/a b.md' --take ours|theirs|both

2 sessions went on in two places and became two (nothing to do; both can be
resumed)
  proj: s-1 (desktop) and s-2 (laptop), 12:02, 3 min ago
  proj: s-3 and s-4, time unknown
"""
    )


def test_no_text_from_outside_moves_the_cursor() -> None:
    hostile = found([side("\x1b[2J", "\x1b]0;x\x07\r"), side("b", "\x9b31m")], name="memory/\x1b[1m.md")
    assert not {"\x1b", "\x07", "\x9b", "\r"} & set(shown(hostile))
