"""Nothing that is to stay on a machine is in any object of the store: secrets, its own settings, its paths.

Not only what the branch reaches is looked at, but all that was ever written beside it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convergenced.knowledge.branch import KNOWLEDGE_REF, commit_knowledge, knowledge_at
from convergenced.knowledge.synthesis import gather, record, synthesize
from convergenced.merge.contributions import due_scopes, inputs_of
from convergenced.merge.knowledge import Knowledge
from convergenced.model import Oid
from convergenced.store.objects import parse_commit, parse_tree
from convergenced.sync.tips import ref_of
from tests.fakes.store import MemoryStore
from tests.unit.knowledge.machines import KnowingMachine

SECRETS = {
    "messages api": "sk-" + "ant-api03-" + "q7Rw2ZxT9mKp4LdV8sJh" * 4,
    "github": "gh" + "p_" + "a8Kd93jfLq02mZx7Wv5RtYb1NcEu6HsGoPi4",
    "aws": "AK" + "IAQ3EGRIZ7WKX2M5TN",
    "slack": "xox" + "b-1837264950-9283746501827-Zq3dE6gH9jK2mN5pQ8sT1vW4",
    "password": "correct-Horse7-battery!staple",
    "bearer": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
}
OWN = {
    name: f"mine-{number}-of-this-machine" for number, name in enumerate(("key", "proxy", "tmp", "id", "ssh"))
}


def settings_of(home: Path) -> dict[str, object]:
    """A settings.json with about everything that must not leave, beside what may."""
    here = str(home)
    return {
        "theme": "dark",
        "apiKeyHelper": f"{here}/bin/{OWN['key']}",
        "machineID": OWN["id"],
        "primaryApiKey": SECRETS["messages api"],
        "env": {
            "EDITOR": f"{here}/bin/edit",
            "HTTPS_PROXY": f"http://{OWN['proxy']}:3128",
            "TMPDIR": f"/{OWN['tmp']}",
            "SSH_AUTH_SOCK": f"/{OWN['ssh']}",
            "ANTHROPIC_API_KEY": SECRETS["messages api"],
            "GH_PAT": SECRETS["github"],
            "DB_PASSWORD": SECRETS["password"],
            "INNOCENT": SECRETS["aws"],
            SECRETS["github"]: "1",
        },
        "hooks": {
            "Stop": [
                {"hooks": [{"type": "command", "command": f"{here}/hooks/done"}]},
                {"hooks": [{"type": "command", "command": f"curl -H 'x: {SECRETS['slack']}' https://e.org"}]},
            ]
        },
        "mcpServers": {
            "one": {"command": "x", "env": {"API_KEY": SECRETS["password"]}},
            "two": {"type": "http", "headers": {"Authorization": f"Bearer {SECRETS['bearer']}"}},
            "three": {"command": f"{here}/mcp/run", "args": [f"--root={here}/src"]},
        },
        "permissions": {
            "allow": [f"Read({here}/**)", f"Bash(export T={SECRETS['github']})", "Bash(make test:*)"],
            "additionalDirectories": [f"{here}/src/other"],
        },
        "statusLine": {"type": "command", "command": f"{here}/.claude/line.sh --token {SECRETS['github']}"},
    }


def claude_md(home: Path) -> str:
    return f'# Paths\nSources are in {home}/src, `{home}/src/app/main.py`, file://{home}/x and "{home}".\n'


@pytest.fixture
def machine(ann: KnowingMachine) -> KnowingMachine:
    ann.screen.policy = "block"
    (ann.config / "settings.json").write_text(json.dumps(settings_of(ann.home), indent=2))
    (ann.config / "CLAUDE.md").write_text(claude_md(ann.home))
    (ann.root / "CLAUDE.md").write_text(claude_md(ann.home) + f"Notes: {ann.memory}/a.md\n")
    ann.memory.mkdir(parents=True)
    (ann.memory / "a.md").write_text(f"{ann.root}/x was moved to {ann.home}/y\n")
    return ann


def every_object(store: MemoryStore) -> bytes:
    """All that was ever written, whatever it is."""
    return b"\n".join(data for _, data in store.objects.values())


def reachable(store: MemoryStore) -> set[Oid]:
    """All that the branch reaches."""
    tip = ref_of(store, KNOWLEDGE_REF)
    pending = [] if tip is None else [tip]
    seen: set[Oid] = set()
    while pending:
        oid = pending.pop()
        if oid in seen or oid not in store.objects:
            continue
        seen.add(oid)
        kind, data = store.objects[oid]
        if kind == "commit":
            commit = parse_commit(data)
            pending += [commit.tree, *commit.parents]
        elif kind == "tree":
            pending += [entry.oid for entry in parse_tree(data)]
    return seen


def synthesize_all(machine: KnowingMachine) -> None:
    """What `none` makes of all that is due."""

    def change(knowledge: Knowledge) -> Knowledge:
        for scope in due_scopes(knowledge):
            used = inputs_of(knowledge, scope)
            result = synthesize(gather(machine.store, knowledge, scope), None, reject_above=3, budget=1.0)
            knowledge = record(machine.store, knowledge, result, used, "none", machine.machine.id, 1)
        return knowledge

    commit_knowledge(machine.store, change, machine.machine.author, 1, "synthesis")


def check_nothing_leaks(*machines: KnowingMachine) -> None:
    data = every_object(machines[0].store)
    for name, secret in SECRETS.items():
        assert secret.encode() not in data, name
        assert json.dumps(secret)[1:-1].encode() not in data, name
    for name, value in OWN.items():
        assert value.encode() not in data, name
    for one in machines:
        home = str(one.home)
        for spelled in (home, home.replace("/", "\\/"), home.replace("/", "\\u002f"), home.replace("/", "-")):
            assert spelled.encode() not in data


def test_nothing_of_a_nasty_set_leaks(machine: KnowingMachine, bob: KnowingMachine) -> None:
    bob.screen.policy = "block"
    (bob.config / "settings.json").write_text(json.dumps({**settings_of(bob.home), "theme": "light"}))
    (bob.config / "CLAUDE.md").write_text(claude_md(bob.home) + "and more\n")
    (bob.root / "CLAUDE.md").write_text("something else\n")
    for one in (machine, bob):
        assert one.take().commit is not None
    synthesize_all(machine)
    for one in (machine, bob):
        one.apply()
        one.take()
    check_nothing_leaks(machine, bob)
    known, _ = knowledge_at(machine.store, machine.tip)
    assert len(reachable(machine.store)) > 10
    shared = b"".join(
        machine.store.read_blob(oid) for those in known.consolidated.values() for oid in those.values()
    )
    for kept in (
        b'"theme"',
        b"EDITOR",
        b"/hooks/done",
        b"/mcp/run",
        b"Bash(make test:*)",
        b"# Paths",
        b"moved to",
    ):
        assert kept in shared, kept  # what may be shared is


@pytest.mark.parametrize("name", SECRETS)
def test_a_document_with_a_secret_does_not_leave_and_what_was_shared_stays(
    machine: KnowingMachine, name: str
) -> None:
    machine.take()
    before = machine.shared(), every_object(machine.store)
    said = "password: " if name == "password" else "Use this: "
    for path in (machine.root / "CLAUDE.md", machine.config / "CLAUDE.md", machine.memory / "a.md"):
        path.write_text(f"{path.read_text()}{said}{SECRETS[name]}\n")
    report = machine.take()
    assert len(report.refusals) == 3
    assert all(SECRETS[name] not in f"{one.where} {one.reason} {one.remedy}" for one in report.refusals)
    assert (machine.shared(), every_object(machine.store)) == before
    check_nothing_leaks(machine)


@pytest.mark.parametrize("ascii_only", [True, False])
def test_however_a_path_is_spelled_in_settings(machine: KnowingMachine, ascii_only: bool) -> None:
    text = json.dumps(settings_of(machine.home), ensure_ascii=ascii_only)
    slashes = text.replace("/", "\\/") if ascii_only else text.replace("/", "\\u002f")
    (machine.config / "settings.json").write_text(slashes)
    machine.take()
    check_nothing_leaks(machine)
