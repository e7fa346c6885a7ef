"""What `doctor` says of shared knowledge, and what it does not say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from convergenced.control import knowledge_doctor
from convergenced.control.knowledge_doctor import check_knowledge
from convergenced.knowledge.branch import KNOWLEDGE_REF
from convergenced.machine.settings_schema import KnowledgeSettings, PeerSettings, Settings
from convergenced.merge.layout import write_folder
from convergenced.model import Commit, Finding
from convergenced.sync.screening import Policy
from tests.unit.knowledge.machines import KnowingMachine

KEY = "sk-" + "ant-api03-" + "a1B2c3D4e5F6g7H8" * 5


@pytest.fixture
def ann(tmp_path: Path) -> KnowingMachine:
    made = KnowingMachine(tmp_path / "ann")
    (made.config / "CLAUDE.md").write_text("be brief\n")
    made.take()
    return made


@pytest.fixture(autouse=True)
def _no_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge_doctor, "read_keyring", lambda service, name: None)


def findings(
    machine: KnowingMachine,
    knowledge: KnowledgeSettings | None = None,
    environ: Mapping[str, str] | None = None,
    peers: tuple[PeerSettings, ...] = (),
    deaf: str | None = None,
) -> dict[str, list[Finding]]:
    settings = Settings(knowledge=knowledge or KnowledgeSettings(enabled=True), peers=peers)
    told: dict[str, list[Finding]] = {}
    for one in check_knowledge(machine.parts, machine.replicas, settings, environ or {}, lambda: deaf):
        told.setdefault(one.check.removeprefix("knowledge."), []).append(one)
        assert KEY not in f"{one.text} {one.fix}"
    return told


def provider(
    machine: KnowingMachine, name: str, environ: Mapping[str, str], *peers: PeerSettings, max_usd: float = 1.0
) -> Finding:
    settings = KnowledgeSettings(enabled=True, provider=name, max_usd=max_usd)  # type: ignore[arg-type]
    (found,) = findings(machine, settings, environ, peers)["provider"]
    return found


def test_of_what_is_not_shared_there_is_nothing_to_say(ann: KnowingMachine) -> None:
    assert findings(ann, KnowledgeSettings()) == {}


def test_all_is_well(ann: KnowingMachine) -> None:
    before = dict(ann.store.objects), dict(ann.store.ref_targets)
    found = findings(ann)
    assert {name: [one.state for one in those] for name, those in found.items()} == {
        "branch": ["ok"],
        "documents": ["ok"],
        "provider": ["ok"],
    }
    assert "1 machine shares" in found["branch"][0].text
    assert (ann.store.objects, ann.store.ref_targets) == before


class TestDocuments:
    def test_what_cannot_be_shared_is_named_with_its_remedy(self, ann: KnowingMachine) -> None:
        (ann.config / "settings.json").write_text('{"theme": ')
        (ann.root / "CLAUDE.md").write_bytes(b"x" * (2 << 20))
        told = findings(ann)["documents"]
        assert [one.state for one in told] == ["warning", "warning"]
        assert ["settings.json" in one.text for one in told] == [True, False]
        assert all(one.fix for one in told)

    @pytest.mark.parametrize(("policy", "state"), [("block", "warning"), ("warn", "ok"), ("off", "ok")])
    def test_secrets_that_are_not_to_leave(self, ann: KnowingMachine, policy: Policy, state: str) -> None:
        ann.screen.policy = policy
        (ann.config / "CLAUDE.md").write_text(f"the key is {KEY}\n")
        (told,) = findings(ann)["documents"]
        assert told.state == state

    def test_looking_writes_nothing(self, ann: KnowingMachine) -> None:
        (ann.config / "CLAUDE.md").write_text("something new\n")
        before = dict(ann.store.objects)
        findings(ann)
        assert ann.store.objects == before

    def test_that_changes_are_found_late_is_no_trouble(self, ann: KnowingMachine) -> None:
        (told,) = findings(ann, deaf="no more watches")["hints"]
        assert (told.state, "no more watches" in told.text) == ("ok", True)


class TestBranch:
    def test_a_newer_format(self, ann: KnowingMachine) -> None:
        paper = ann.store.write_blob(b'{"schema": 99}')
        tree = write_folder(ann.store, {"machines/bob-00000002/machine.json": paper})
        tip = ann.tip
        assert tip is not None
        newer = ann.store.write_commit(Commit(tree, (tip,), ann.machine.author, 1, "newer"))
        ann.store.swap(KNOWLEDGE_REF, tip, newer)
        (told,) = findings(ann)["branch"]
        assert (told.state, "newer version" in told.text) == ("warning", True)
        assert "update" in told.fix

    def test_damage(self, ann: KnowingMachine) -> None:
        assert ann.tip is not None
        del ann.store.objects[ann.store.read_commit(ann.tip).tree]
        (told,) = findings(ann)["branch"]
        assert (told.state, told.fix) == ("problem", "convergencectl doctor --deep --fix")

    def test_entries_of_others_that_are_left_alone(self, ann: KnowingMachine) -> None:
        blob = ann.store.write_blob(b"x")
        tree = write_folder(ann.store, {"machines/bob-00000002/global/evil.sh": blob})
        tip = ann.tip
        assert tip is not None
        other = ann.store.write_commit(Commit(tree, (tip,), ann.machine.author, 1, "other"))
        ann.store.swap(KNOWLEDGE_REF, tip, other)
        (told,) = findings(ann)["branch"]
        assert (told.state, "evil.sh" in told.text) == ("warning", True)

    def test_there_is_none_yet(self, tmp_path: Path) -> None:
        (told,) = findings(KnowingMachine(tmp_path / "bob"))["branch"]
        assert told.state == "ok"


class TestProviders:
    def test_the_messages_api(self, ann: KnowingMachine, monkeypatch: pytest.MonkeyPatch) -> None:
        missing = provider(ann, "anthropic", {})
        assert (missing.state, "ANTHROPIC_API_KEY" in missing.fix) == ("problem", True)
        assert provider(ann, "anthropic", {"ANTHROPIC_API_KEY": KEY}).state == "ok"
        broken = provider(ann, "anthropic", {"ANTHROPIC_API_KEY": "a b"})
        assert broken.state == "problem"
        monkeypatch.setattr(knowledge_doctor, "read_keyring", lambda service, name: KEY)
        assert provider(ann, "anthropic", {}).state == "ok"
        monkeypatch.setattr(knowledge_doctor, "find_spec", lambda name: None)
        uninstalled = provider(ann, "anthropic", {"ANTHROPIC_API_KEY": KEY})
        assert (uninstalled.state, "pip install" in uninstalled.fix) == ("problem", True)

    @pytest.mark.parametrize(
        ("says", "state"),
        [
            ("2.1.329 (Claude Code)", "ok"),
            ("2.1.40", "ok"),
            ("1.0.5 (Claude Code)", "warning"),
            ("", "warning"),
        ],
    )
    def test_the_installed_client(self, ann: KnowingMachine, says: str, state: str) -> None:
        client = ann.home / "bin" / "claude"
        client.parent.mkdir()
        client.write_text(f'#!/bin/sh\necho x > "$HOME/.claude.json"\necho "{says}"\n')
        client.chmod(0o755)
        before = sorted(ann.home.rglob("*"))
        environ = {"PATH": f"{client.parent}:{os.environ['PATH']}", "HOME": str(ann.home)}
        found = provider(ann, "claude", environ)
        assert (found.state, str(client) in found.text) == (state, True)
        assert sorted(ann.home.rglob("*")) == before
        assert bool(found.fix) == (state != "ok")

    def test_a_client_that_is_not_there_or_does_not_run(
        self, ann: KnowingMachine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(knowledge_doctor, "find_client", lambda environ: None)
        missing = provider(ann, "claude", {})
        assert (missing.state, "install it" in missing.fix) == ("problem", True)
        monkeypatch.undo()
        client = ann.home / "bin" / "claude"
        client.parent.mkdir()
        client.write_text("#!/nowhere/at/all\n")
        client.chmod(0o755)
        found = provider(ann, "claude", {"PATH": str(client.parent), "HOME": str(ann.home)})
        assert (found.state, "version" in found.text) == ("warning", True)

    def test_a_hubs_ci(self, ann: KnowingMachine) -> None:
        hub = PeerSettings("hub", "https://github.com/you/context.git")
        elsewhere = PeerSettings("hub", "/srv/context.git")
        assert provider(ann, "github", {"GITHUB_TOKEN": KEY}, hub).state == "ok"
        assert provider(ann, "github", {"GITHUB_TOKEN": KEY}, elsewhere).state == "problem"
        gitlab = PeerSettings("hub", "git@gitlab.com:you/context.git")
        assert provider(ann, "gitlab", {"GITLAB_TOKEN": KEY}, gitlab).state == "ok"

    def test_a_run_that_may_cost_less_than_anything_does(self, ann: KnowingMachine) -> None:
        environ = {"ANTHROPIC_API_KEY": KEY}
        for max_usd, is_told in ((0.001, True), (50.0, False)):
            settings = KnowledgeSettings(enabled=True, provider="anthropic", max_usd=max_usd)
            told = findings(ann, settings, environ).get("costs", [])
            assert [one.state for one in told] == ["warning"] * is_told
            assert all("knowledge.max_usd" in one.fix for one in told)
