"""What is written into the files of a machine, and what never is without its person: on real daemons."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.knowing import (
    HOUSE,
    STYLE,
    Knower,
    all_objects,
    machines,
    read,
    settle,
    start,
    write,
)
from tests.e2e.machines import await_true
from tests.labelled import ALNUM, Lot
from tests.profiles import DEEP

STEPS = ("replace.written", "replace.kept", "replace.published") if DEEP else ("replace.kept",)
HOOK = [{"hooks": [{"type": "command", "command": "notify-send done"}]}]


def backups(machine: Knower) -> list[bytes]:
    """What stands among the backups of documents."""
    found = (machine.conv / "backups" / "knowledge").rglob("*")
    return [path.read_bytes() for path in sorted(found) if path.is_file()]


def in_step(one: Knower, other: Knower) -> None:
    """Both with the same CLAUDE.md."""
    write(one.claude_md, HOUSE)
    start(one, other)
    settle(one, other)
    assert read(other.claude_md) == HOUSE


def test_settings_that_run_something_wait_for_a_yes_to_that_very_change(tmp_path: Path) -> None:
    secret = "ghp_" + Lot(1).key(ALNUM, 36)
    with machines(tmp_path, "desktop", "laptop") as (one, other):
        theirs = {
            "theme": "light",
            "hooks": {"Stop": HOOK},
            "permissions": {"allow": ["Bash(rm:*)"]},
            "env": {"GITHUB_TOKEN": secret, "HTTPS_PROXY": "http://proxy.example"},
            "apiKeyHelper": "/opt/key-of-the-desktop",
        }
        write(one.settings, json.dumps(theirs))
        mine = (
            '{\n\t"verbose" : true,\n\n\t"permissions": { "deny": ["WebFetch"] },\n'
            '\t"apiKeyHelper": "/opt/mine"\n}\n'
        )
        write(other.settings, mine)
        start(one, other)
        settle(one, other)

        # What only changes how things look is there; everything else waits, with what it runs.
        themed = mine.replace('"/opt/mine"\n', '"/opt/mine",\n\t"theme": "light"\n')
        assert read(other.settings) == themed
        changes = {change["setting"]: change for change in other.changes()}
        assert changes.keys() == {"hooks.Stop", "permissions.allow"}
        assert {change["consent"] for change in changes.values()} == {"runs"}
        assert "notify-send done" in changes["hooks.Stop"]["text"]
        shown = other.ctl("knowledge", "diff")
        assert (shown.returncode, "notify-send done" in shown.stdout) == (5, True)
        assert "Bash(rm:*)" in shown.stdout
        assert other.ctl("status").returncode == 5
        for arguments in (("knowledge", "apply"), ("knowledge", "apply", "--yes"), ("sync", "--wait")):
            other.ctl(*arguments)
            assert read(other.settings) == themed

        # One is declined, which holds; the other is accepted by its id.
        hook, rule = changes["hooks.Stop"]["id"], changes["permissions.allow"]["id"]
        assert other.ctl("knowledge", "apply", "--decline", rule).returncode == 5
        other.stop()
        start(other)
        assert [change["id"] for change in other.changes()] == [hook]
        assert other.ctl("knowledge", "apply", "--accept", rule[:-1] + "x").returncode == 2
        other.do("knowledge", "apply", "--accept", hook)
        text = read(other.settings)
        assert text is not None
        assert text.startswith(mine.partition("\n}")[0])
        assert json.loads(text) == json.loads(themed) | {"hooks": {"Stop": HOOK}}
        assert themed.encode() in backups(other)
        settle(one, other)
        assert other.changes() == []
        assert other.ctl("status").returncode == 0
        assert read(other.settings) == text

        # Nothing of the other machine's own came to the first one, and no secret left it.
        after = json.loads(read(one.settings) or "")
        assert after.pop("verbose") is True
        assert after == theirs
        (asked,) = one.changes()
        assert (asked["setting"], asked["consent"]) == ("permissions.deny", "runs")
        content = all_objects(tmp_path / "hub.git")
        for word in (secret, "proxy.example", "/opt/key-of-the-desktop", "/opt/mine"):
            assert word.encode() not in content
        assert b"notify-send done" in content


def test_nothing_is_written_beneath_a_running_client_and_an_edit_meanwhile_is_merged(tmp_path: Path) -> None:
    with machines(tmp_path, "desktop", "laptop") as (one, other):
        in_step(one, other)
        client = other.run_client()
        write(one.claude_md, HOUSE + STYLE)
        settle(one)
        await_true(lambda: other.document()["state"] == "held", "the change to be held")
        assert "Claude Code runs in" in other.document()["text"]
        assert "Claude Code runs in" in other.do("status") + other.ctl("knowledge", "apply", "--yes").stdout
        assert read(other.claude_md) == HOUSE
        edited = HOUSE.replace("Rule 3.", "Rule three.")
        write(other.claude_md, edited)
        other.ctl("sync", "--wait", "--timeout", "0")
        await_true(lambda: read(one.claude_md) == edited + STYLE, "both to be on the other machine")
        assert read(other.claude_md) == edited
        # A daemon that starts meanwhile holds it too.
        other.stop()
        start(other)
        assert other.document()["state"] == "held"
        client.kill()
        client.wait()
        other.do("knowledge", "apply")
        assert read(other.claude_md) == edited + STYLE
        assert edited.encode() in backups(other)
        settle(one, other)
        assert read(one.claude_md) == edited + STYLE


def test_killed_between_backup_and_write_everything_ends_as_if_undisturbed(tmp_path: Path) -> None:
    with machines(tmp_path, "desktop", "laptop") as (one, other):
        in_step(one, other)
        other.stop()
        text = HOUSE
        for number, step in enumerate(STEPS):
            former, text = text, text + f"- One more, the {number}.\n"
            write(one.claude_md, text)
            settle(one)
            other.die_at(step)
            assert read(other.claude_md) == (text if step == "replace.published" else former)
            done = other.run_daemon("--once")
            assert done.returncode == 0, done.stderr
            assert read(other.claude_md) == text
            assert former.encode() in backups(other)
            settle(one)
        assert read(one.claude_md) == text
        start(other)
        settle(other, one)
        assert (read(one.claude_md), read(other.claude_md)) == (text, text)
        assert other.document()["state"] == one.document()["state"] == "same"
        assert other.ctl("status").returncode == 0


def test_a_large_change_waits_for_a_yes_and_is_there_when_the_daemon_comes_back(tmp_path: Path) -> None:
    with machines(tmp_path, "desktop", "laptop") as (one, other):
        in_step(one, other)
        write(one.claude_md, "# Everything new\n")
        settle(one, other)
        assert read(other.claude_md) == HOUSE
        other.stop()
        start(other)
        (change,) = other.changes()
        assert (change["consent"], change["removed"]) == ("large", HOUSE.count("\n"))
        assert other.ctl("knowledge", "apply").returncode == 5
        assert read(other.claude_md) == HOUSE
        other.do("knowledge", "apply", "--yes")
        assert read(other.claude_md) == "# Everything new\n"
        assert HOUSE.encode() in backups(other)
