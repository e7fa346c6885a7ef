"""`scan` and `secrets.policy` with a real daemon: warn, block, allow; and no secret comes out anywhere."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.e2e.cli import OnTerminal
from tests.e2e.machines import Machine, await_true, git, make_hub, record, stop_all
from tests.labelled import KEYS, SHAPES, Lot

SID, OTHER_SID = "2af1d7f8-1206-438d-b660-8b22937b7f38", "9fae7791-06e5-41f7-864b-f9212d050af9"
LOT = Lot(20260107)
TOKEN = SHAPES["npm"][0](LOT)
LIVE = SHAPES["stripe"][0](LOT)
KEY = KEYS["private-key"][0](LOT)
FINGERPRINT = re.compile(r"(?<= )[0-9a-f]{12}\b")


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Machine]:
    """A machine that shares a session in which a token was said, and a note with a key."""
    machine = Machine(tmp_path / "one", "desktop", (make_hub(tmp_path / "hub.git"),))
    git("init", "-q", machine.project)
    git("-C", machine.project, "remote", "add", "origin", "git@example.org:team/proj.git")
    machine.append(SID, record(SID, machine.project, 0, "publish it"))
    machine.append(SID, record(SID, machine.project, 1, f"with {TOKEN}"))
    machine.write("memory/notes.md", f"# Notes\n\n{KEY}".encode())
    yield machine
    stop_all([machine])


def at_width(machine: Machine, columns: int, *arguments: str) -> CompletedProcess[str]:
    machine.extra["COLUMNS"] = str(columns)
    try:
        return machine.ctl(*arguments)
    finally:
        del machine.extra["COLUMNS"]


def masked(text: str) -> list[str]:
    """What was printed, with what differs from run to run masked."""
    return re.sub(r"\d+ B|\d\.\d kB", "SIZE", FINGERPRINT.sub("f" * 12, text)).splitlines()


def fingerprints(machine: Machine) -> dict[str, str]:
    found = json.loads(machine.ctl("scan", "--json").stdout)
    return {one["rule"]: one["fingerprint"] for one in found["secrets"]}


def hub_has(machine: Machine, secret: str) -> bool:
    """Whether any object that the hub's branch has holds it."""
    hub = str(machine.hubs[0])
    listed = git("-C", hub, "rev-list", "--objects", "--all").splitlines()
    return any(secret in git("-C", hub, "cat-file", "-p", line.split()[0]) for line in listed)


def _store(machine: Machine) -> bytes:
    return b"".join(path.read_bytes() for path in machine.store.rglob("*") if path.is_file())


def everything_told(machine: Machine) -> str:
    """All that the run left in words: log, status, activity, state."""
    kept = [path for path in machine.conv.rglob("*") if path.is_file() and machine.store not in path.parents]
    texts = [path.read_bytes().decode("latin-1") for path in kept]
    shown = [
        machine.ctl(*words)
        for words in (["status"], ["status", "--json"], ["log"], ["scan"], ["scan", "--json"])
    ]
    return "\n".join([machine.log(), *texts, *(done.stdout + done.stderr for done in shown)])


def assert_nothing_leaked(machine: Machine) -> None:
    told = everything_told(machine)
    for secret in (TOKEN, LIVE):
        assert secret[4:12] not in told
    assert all(line[:12] not in told for line in KEY.splitlines()[1:-1])


def test_with_warn_all_is_shared_and_told_and_what_is_allowed_is_quiet(one: Machine) -> None:
    one.start()
    one.wait_synced()
    assert hub_has(one, TOKEN)
    status = one.ctl("status")
    assert status.returncode == 5
    assert f"{SID}.jsonl holds an apparent secret: npm token npm_" in status.stdout.replace("\n", "")
    assert "→ convergencectl scan proj" in status.stdout
    assert {each["kind"] for each in one.status()["attention"]} == {"secret"}
    assert one.do("log").count("holds an apparent secret") == 2

    for columns in (60, 100):
        shown = at_width(one, columns, "scan", "proj")
        assert shown.returncode == 5
        assert masked(shown.stdout) == [
            "2 apparent secrets in 2 files, SIZE",
            "",
            "proj: publish it",
            f"  {SID}.jsonl",
            "  ffffffffffff line 2: npm token npm_… (40 characters)",
            "",
            "proj: memory",
            "  memory/notes.md",
            "  ffffffffffff line 3: private key (1,588 characters)",
            "",
            "→ revoke what is real where it was made, and make a new one",
            "→ what is fine: convergencectl scan --allow ffffffffffff",
        ]

    found = fingerprints(one)
    assert one.do("scan", "--allow", found["npm"], found["private-key"]).startswith("allowed: ")
    assert one.do("scan").startswith("no apparent secret in 2 files")
    one.wait_synced()
    await_true(lambda: one.ctl("status").returncode == 0, "status to be quiet")
    one.stop()
    one.start()
    one.wait_synced()
    assert one.ctl("status").returncode == 0
    assert one.do("scan", "--allowed").count("\n") == 4
    assert json.loads(one.do("scan", "--allowed", "--json"))["allowed"].keys() == set(found.values())
    one.do("scan", "--forget", found["npm"])
    await_true(lambda: one.ctl("status").returncode == 5, "status to tell again")
    assert_nothing_leaked(one)


def test_with_block_a_session_stays_here_until_it_is_allowed(one: Machine) -> None:
    one.start()
    one.wait_synced()
    one.do("config", "set", "secrets.policy", "block")
    one.append(SID, record(SID, one.project, 2, f"charge it with {LIVE}"))
    one.append(OTHER_SID, record(OTHER_SID, one.project, 0, "nothing to see"))
    await_true(lambda: hub_has(one, "nothing to see"), "the other session at the hub")
    await_true(lambda: "quarantine" in {each["kind"] for each in one.status()["attention"]}, "the matter")
    (matter,) = (each for each in one.status()["attention"] if each["kind"] == "quarantine")
    assert re.match(rf"{SID}\.jsonl stays on this machine: it holds .* Stripe key .k_l… \(", matter["text"])
    fingerprint = fingerprints(one)["stripe"]
    assert matter["fix"].endswith(f"convergencectl scan --allow {fingerprint}")
    assert one.ctl("status").returncode == 5
    assert not hub_has(one, LIVE)
    assert LIVE.encode() not in _store(one)
    one.append(SID, record(SID, one.project, 3, "and go on"))
    one.wait_synced()
    assert not hub_has(one, "and go on")

    one.do("scan", "--allow", fingerprint)
    await_true(lambda: hub_has(one, LIVE) and hub_has(one, "and go on"), "all of it at the hub")
    assert "quarantine" not in {each["kind"] for each in one.status()["attention"]}
    assert_nothing_leaked(one)


def test_what_was_kept_here_leaves_once_the_policy_says_so(one: Machine) -> None:
    config = one.conv / "config.toml"
    config.write_text(f'[secrets]\npolicy = "block"\n{config.read_text()}')
    one.start()
    one.wait_synced()
    assert {each["kind"] for each in one.status()["attention"]} == {"quarantine"}
    assert not hub_has(one, TOKEN)
    one.do("config", "set", "secrets.policy", "off")
    await_true(lambda: hub_has(one, TOKEN), "the session at the hub")
    one.wait_synced()
    assert one.ctl("status").returncode == 0


def test_scan_without_a_daemon_of_what_only_the_store_has_and_mistyped(one: Machine) -> None:
    assert one.do("scan").startswith("no apparent secret in 0 files")
    one.start()
    one.wait_synced()
    (one.context / f"{SID}.jsonl").unlink()
    one.wait_synced()
    one.stop()
    found = json.loads(one.ctl("scan", str(one.project), "--json").stdout)
    assert [(each["path"] is None, each["rule"]) for each in found["secrets"]] == [
        (False, "private-key"),
        (True, "npm"),
    ]
    assert "in the store only" in one.ctl("scan").stdout
    assert one.ctl("scan", "--allow", found["secrets"][0]["fingerprint"]).returncode == 3
    for words in (["nowhere"], ["--allow", "xyz"], ["proj", "--allowed"], ["--allow"]):
        assert one.ctl("scan", *words).returncode == 2, words


def test_a_long_scan_says_how_far_it_is_and_can_be_interrupted(one: Machine) -> None:
    one.start()
    one.wait_synced()
    one.stop()
    filler = record(SID, one.project, 5, "x y " * 250_000)
    for number in range(100):
        one.append(f"{number:08d}-1206-438d-b660-8b22937b7f38", filler)
    shown = OnTerminal.start(
        one.conv, "scan", environ=one.environ | {"CLAUDE_CONFIG_DIR": str(one.home / ".claude")}
    )
    shown.read_until("searching proj, ")
    code, _ = shown.end(signal.SIGINT)
    assert code == 130
