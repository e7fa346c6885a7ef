"""What `project move|remove|discover` show, at 60 and 100 columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from convergenced.canon.folder import encode_folder_name
from convergenced.control.answers import Moved, Moves, Removal
from convergenced.machine.checkouts import GitCheckouts
from convergenced.model import Checkout, LocalPath
from ctl import discovery, leaving, moving
from ctl.discovery import Found
from ctl.render import Terminal

pytestmark = pytest.mark.usefixtures("utc")

CLAUDE = "/home/ann/.claude/projects/"
BACKUPS = "/home/ann/.local/state/convergence/backups/-home-ann-src-proj"


def moved(
    project: str, sessions: int = 12, waits: str | None = None, files: int = 0, stays: str | None = None
) -> Moved:
    return {
        "project": project,
        "old": "/home/ann/src/proj",
        "new": "/home/ann/code/proj",
        "old_context_dir": f"{CLAUDE}-home-ann-src-proj",
        "context_dir": f"{CLAUDE}-home-ann-code-proj",
        "sessions": sessions,
        "waits": waits,
        "files": files,
        "backups": f"{BACKUPS}/20310504T120000.000000Z" if files else None,
        "stays": stays,
        "misplaced": False,
    }


MOVES: Moves = {
    "moves": [
        moved("proj", files=15),
        moved("web", 1, stays="Claude Code runs in /home/ann/src/proj/web (pid 4242)"),
        moved("tool", waits="3 held: Claude Code runs in /home/ann/code/proj (pid 4242)"),
    ]
}
REMOVAL: Removal = {
    "project": "proj",
    "roots": ["/home/ann/src/proj"],
    "context_dirs": [f"{CLAUDE}-home-ann-src-proj"],
    "sessions": 12,
    "archived": 4,
    "only_here": 1,
    "peers": ["hub", "nas"],
    "backups": [BACKUPS],
}
FOUND: list[Found] = [
    {
        "root": "/home/ann/src/proj",
        "project": "proj",
        "state": "tracked",
        "sessions": 12,
        "command": None,
    },
    {
        "root": "/home/ann/code/web shop",
        "project": "web",
        "state": "available",
        "sessions": 0,
        "command": "convergencectl join '/home/ann/code/web shop'",
    },
    {
        "root": "/home/ann/work/tool",
        "project": "tool",
        "state": "sessions",
        "sessions": 3,
        "command": "convergencectl init /home/ann/work/tool",
    },
    {
        "root": "/home/ann/clients/secret",
        "project": "secret",
        "state": "excluded",
        "sessions": 2,
        "command": None,
    },
]

MOVED = {
    60: """\
proj is in ~/code/proj now, with 12 sessions to resume there
15 files of the old context folder went among the backups:
  ~/.local/state/convergence/backups/-home-ann-src-proj/20310504T120000.000000Z
web is in ~/code/proj now, with 1 session to resume there
the old context folder stays, because Claude Code runs in
  /home/ann/src/proj/web (pid 4242):
  ~/.claude/projects/-home-ann-src-proj
tool is in ~/code/proj now; its sessions arrive there later:
  3 held: Claude Code runs in /home/ann/code/proj (pid 4242)
the old context folder stays:
  ~/.claude/projects/-home-ann-src-proj
""",
    100: """\
proj is in ~/code/proj now, with 12 sessions to resume there
15 files of the old context folder went among the backups:
  ~/.local/state/convergence/backups/-home-ann-src-proj/20310504T120000.000000Z
web is in ~/code/proj now, with 1 session to resume there
the old context folder stays, because Claude Code runs in /home/ann/src/proj/web (pid 4242):
  ~/.claude/projects/-home-ann-src-proj
tool is in ~/code/proj now; its sessions arrive there later: 3 held: Claude Code runs in
  /home/ann/code/proj (pid 4242)
the old context folder stays:
  ~/.claude/projects/-home-ann-src-proj
""",
}
QUESTION = {
    60: """\
What goes from this machine's store: 12 sessions of proj,
  their history and memory; 4 of them are not among Claude
  Code's own files any more.
! 1 session of these would be nowhere else: no peer has
  them.
What stays:
  Claude Code's own files in ~/.claude/projects/-home-ann-src-proj
  what peers have: hub, nas
  backups in ~/.local/state/convergence/backups/-home-ann-src-proj
""",
    100: """\
What goes from this machine's store: 12 sessions of proj, their history and memory; 4 of them are
  not among Claude Code's own files any more.
! 1 session of these would be nowhere else: no peer has them.
What stays:
  Claude Code's own files in ~/.claude/projects/-home-ann-src-proj
  what peers have: hub, nas
  backups in ~/.local/state/convergence/backups/-home-ann-src-proj
""",
}
REMOVED = {
    60: """\
proj takes part no more on this machine (~/src/proj)
Claude Code's own files, the store and your peers keep what
  they have. Back again:
  → convergencectl init /home/ann/src/proj
""",
    100: """\
proj takes part no more on this machine (~/src/proj)
Claude Code's own files, the store and your peers keep what they have. Back again:
  → convergencectl init /home/ann/src/proj
""",
}
PURGED = {
    60: """\
proj takes part no more, and this machine's copy is gone (12
  sessions)
What stays:
  Claude Code's own files in ~/.claude/projects/-home-ann-src-proj
  what peers have: hub, nas
  backups in ~/.local/state/convergence/backups/-home-ann-src-proj
Nothing names it any more. To have it off the disk as well,
  or to have it back:
  → convergencectl down && git -C /home/ann/conv/store.git gc --prune=now && convergencectl up
  → convergencectl join /home/ann/src/proj
""",
    100: """\
proj takes part no more, and this machine's copy is gone (12 sessions)
What stays:
  Claude Code's own files in ~/.claude/projects/-home-ann-src-proj
  what peers have: hub, nas
  backups in ~/.local/state/convergence/backups/-home-ann-src-proj
Nothing names it any more. To have it off the disk as well, or to have it back:
  → convergencectl down && git -C /home/ann/conv/store.git gc --prune=now && convergencectl up
  → convergencectl join /home/ann/src/proj
""",
}
DISCOVERED = """\
CHECKOUT          PROJECT  SESSIONS  STATE
~/src/proj        proj           12  tracked
~/work/tool       tool            3  sessions here
~/code/web shop   web             0  on your other machines
~/clients/secret  secret          2  left out

2 checkouts can take part:
  convergencectl join '/home/ann/code/web shop'
  convergencectl init /home/ann/work/tool
"""


@pytest.fixture(autouse=True)
def _store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVERGENCE_HOME", "/home/ann/conv")


@pytest.fixture(params=[60, 100])
def terminal(request: pytest.FixtureRequest) -> Terminal:
    return Terminal(request.param, colour=False, interactive=False)


def shown(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def test_what_became_of_moved_projects(terminal: Terminal) -> None:
    assert shown(moving.lines(MOVES, terminal)) == MOVED[terminal.width]


def test_what_is_asked_before_a_copy_goes(terminal: Terminal) -> None:
    assert shown(leaving.question(REMOVAL, terminal)) == QUESTION[terminal.width]


def test_what_removing_did(terminal: Terminal) -> None:
    assert shown(leaving.lines(REMOVAL, terminal, purge=False)) == REMOVED[terminal.width]
    assert shown(leaving.lines(REMOVAL, terminal, purge=True)) == PURGED[terminal.width]


def test_what_an_interrupted_purge_left_is_taken_away_too(terminal: Terminal) -> None:
    left: Removal = {**REMOVAL, "roots": [], "context_dirs": [], "backups": [], "peers": [], "sessions": 0}
    lines = leaving.lines(left, terminal, purge=True)
    assert lines[-1] == "  → convergencectl join PATH --id proj"
    assert "What stays:" not in lines


def test_what_was_found(terminal: Terminal) -> None:
    assert shown(list(discovery.lines(FOUND, ["/home/ann/code"], terminal))) == DISCOVERED
    (nothing,) = discovery.lines([], ["/home/ann/code"], Terminal(100, colour=False, interactive=False))
    assert nothing.startswith("no checkout below ~/code has sessions here")
    (nowhere,) = discovery.lines([], [], terminal)
    assert "give one: convergencectl project discover" in nowhere


@pytest.mark.parametrize("as_json", [True, False])
def test_a_search_that_is_broken_off_shows_what_it_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    as_json: bool,
) -> None:
    monkeypatch.setenv("CONVERGENCE_HOME", str(tmp_path / "conv"))
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "claude"))
    root = LocalPath(str(tmp_path / "work" / "tool"))
    folder = tmp_path / "claude" / "projects" / encode_folder_name(root)
    folder.mkdir(parents=True)
    (tmp_path / "work").mkdir()
    (folder / "0b5c0f6e-5b0a-4c55-8f1e-111111111111.jsonl").write_text("{}\n")

    def find(_self: GitCheckouts, roots: Sequence[LocalPath]) -> Iterator[Checkout]:
        assert roots == [str(tmp_path / "work")]
        yield Checkout(root, root, "example.org/ann/tool", None)
        raise KeyboardInterrupt

    monkeypatch.setattr(GitCheckouts, "find", find)
    assert discovery.discover([str(tmp_path / "work")], as_json=as_json) == 130
    shown = capsys.readouterr()
    assert shown.err.endswith("broken off; there may be more\n")
    if as_json:
        found = json.loads(shown.out)
        assert found["complete"] is False
        assert [one["root"] for one in found["checkouts"]] == [root]
    else:
        assert f"convergencectl init {root}" in shown.out


def test_nothing_from_outside_moves_the_cursor(terminal: Terminal) -> None:
    evil = "a\x1b[2Jb"
    moves: Moves = {"moves": [{**moved(evil, stays=evil), "old_context_dir": evil}]}
    removal: Removal = {**REMOVAL, "project": evil, "peers": [evil], "context_dirs": [evil]}
    found: list[Found] = [{**FOUND[1], "root": evil, "project": evil}]
    everything = [
        *moving.lines(moves, terminal),
        *leaving.question(removal, terminal),
        *leaving.lines(removal, terminal, purge=True),
        *discovery.lines(found, [evil], terminal),
    ]
    assert "\x1b" not in shown(everything)
