"""`convergencectl knowledge` at a terminal and on a pipe, with the daemon behind it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from tests.e2e.cli import OnTerminal
from tests.e2e.knowing import HOUSE, Knower, machines, read, settle, start, write

HOOK = [{"hooks": [{"type": "command", "command": "notify-send done"}]}]


def at_terminal(machine: Knower, words: str, columns: int = 100) -> OnTerminal:
    """`convergencectl knowledge` on a terminal of that machine."""
    environ = {**machine.environ, "TERM": "xterm", "PAGER": "cat"}
    command = f"{sys.executable} -m convergencectl knowledge {words}"
    return OnTerminal.start_shell(command, environ, machine.home, columns)


def test_it_is_switched_on_and_applied_at_a_terminal(tmp_path: Path) -> None:
    with machines(tmp_path, "desktop", "laptop") as (one, other):
        one.knowledge["enabled"] = False
        one.configure()
        write(other.claude_md, HOUSE)
        write(other.settings, json.dumps({"hooks": {"Stop": HOOK}, "permissions": {"allow": ["Bash(ls:*)"]}}))
        assert other.run_daemon("--once").returncode == 0
        write(one.claude_md, "# Mine\n")
        start(one)
        one.sync()
        assert "off" in one.do("knowledge", "status")

        asked = at_terminal(one, "enable")
        asked.read_until("Go on?")
        asked.type("n\n")
        assert asked.end()[0] == 1
        assert one.told("knowledge", "status")["enabled"] is False
        asked = at_terminal(one, "enable")
        shown = asked.read_until("Go on?")
        assert "~/.claude/CLAUDE.md" in shown
        assert "hub" in shown
        asked.type("y\n")
        assert asked.end()[0] == 0
        settle(one)
        both = read(one.claude_md)
        assert both == "# Mine\n"
        kept = one.changes()
        assert {change["consent"] for change in kept} == {"large", "runs"}

        # One question after the other: the text, then what runs something.
        asked = at_terminal(one, "apply")
        asked.read_until("1 of 3")
        asked.type("y\n")
        shown = asked.read_until("2 of 3")
        assert "notify-send done" in shown
        asked.type("d\n")
        asked.read_until("3 of 3")
        asked.type("q\n")
        code, _ = asked.end()
        assert code == 5
        text = read(one.claude_md)
        assert text is not None
        assert "# Mine\n" in text
        assert "- Rule 29.\n" in text
        assert not one.settings.exists()
        assert [change["setting"] for change in one.changes()] == ["permissions.allow"]


def test_what_it_says_fits_the_terminal_and_has_no_colour_on_a_pipe(tmp_path: Path) -> None:
    with machines(tmp_path, "desktop", "laptop") as (one, other):
        write(other.claude_md, f"{HOUSE}\n## Style\n\nTabs.\n")
        write(other.settings, json.dumps({"hooks": {"Stop": HOOK}}))
        assert other.run_daemon("--once").returncode == 0
        write(one.claude_md, f"{HOUSE}\n## Style\n\nSpaces.\n")
        write(one.home / "src" / "note.txt", "nothing of it\n")
        start(one)
        settle(one)
        planned = one.told("knowledge", "synthesize", "--dry-run")
        assert (planned["planned"], planned["done"]) == ([], [])
        for columns in (60, 100):
            for words in ("status", "synthesize --dry-run"):
                code, shown = at_terminal(one, words, columns).end()
                assert code in (0, 5)
                lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown).splitlines()
                assert max(map(len, lines)) <= columns, shown
        for action in ("status", "diff", "apply"):
            done = one.ctl("knowledge", action)
            assert done.returncode == 5
            assert "\x1b" not in done.stdout
        assert "CONFLICT" in one.ctl("knowledge", "status").stdout
        assert one.ctl("knowledge", "status", "--project", "nothing").returncode == 2
        done = one.ctl("knowledge", "status", "--global-only", "--json")
        assert [scope["scope"] for scope in json.loads(done.stdout)["scopes"]] == ["global"]
