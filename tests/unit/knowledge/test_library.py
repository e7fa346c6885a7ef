"""Looks and syntheses as a whole: real files of machines, the branch in memory."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convergenced import steps
from convergenced.knowledge import runs, worker
from convergenced.knowledge.branch import KNOWLEDGE_REF, commit_knowledge
from convergenced.knowledge.librarian import KnowledgeBranch
from convergenced.knowledge.library import Library, open_decisions
from convergenced.knowledge.look import Look, Wish
from convergenced.knowledge.provider import ProviderError
from convergenced.knowledge.providers import following
from convergenced.knowledge.synthesis import ScopeResult, ScopeTask
from convergenced.machine.settings_schema import BackupSettings, KnowledgeSettings, PeerSettings, Settings
from convergenced.merge.contributions import digest_of_inputs, inputs_of, with_rejection
from convergenced.merge.knowledge import GLOBAL, SETTINGS, Knowledge, Rejection, Scope
from convergenced.model import LocalPath
from convergenced.store.branch import peer_ref
from convergenced.sync.exchange import exchange
from convergenced.sync.tips import ref_of
from tests.fakes.peer import MemoryPeer
from tests.fakes.store import MemoryStore
from tests.forges import TOKEN, GitHub, serving
from tests.knowledge import consolidated_texts
from tests.unit.knowledge.machines import APP, CLAUDE, KnowingMachine

LINES = "".join(f"line {number}\n" for number in range(12))
HOOK = {"hooks": {"Stop": [{"hooks": [{"type": "command", "command": "make notify"}]}]}}


class Shop:
    """A machine with its library; it meets others at a hub."""

    def __init__(self, machine: KnowingMachine, hub: MemoryStore | None = None) -> None:
        self.machine = machine
        self.settings = Settings(knowledge=KnowledgeSettings(enabled=True))
        self.hub = hub or MemoryStore()
        self.environ: dict[str, str] = {}
        self.library = self.fresh_library()
        self.told: list[str] = []

    def fresh_library(self) -> Library:
        """As after a restart."""
        config, home = LocalPath(str(self.machine.config)), LocalPath(str(self.machine.home))
        return Library(self.machine.parts, config, open_decisions(home), self.environ)

    @property
    def claude(self) -> Path:
        return self.machine.root / "CLAUDE.md"

    @property
    def config(self) -> Path:
        return self.machine.config / "settings.json"

    def look(self, *, accept: tuple[str, ...] = (), decline: tuple[str, ...] = ()) -> Look:
        self.machine.clock.advance(10)
        wish = Wish(frozenset(accept), frozenset(decline))
        return self.library.look(self.settings, self.machine.replicas, wish)

    def synthesize(self, stop: threading.Event | None = None, *, again: bool = False) -> list[ScopeResult]:
        stop = stop or threading.Event()
        return self.library.runs.run(self.settings, None, again=again, stop=stop, tell=self.told.append)

    def exchange(self) -> None:
        peer = MemoryPeer(self.machine.store, self.hub, name="hub")
        report = exchange(self.machine.store, peer, "hub", {}, (), sides=[KnowledgeBranch()])
        assert report.sides[KNOWLEDGE_REF].error is None

    def in_step(self, text: str = LINES) -> Path:
        """A document that is shared, merged and the same here."""
        self.claude.write_text(text)
        self.look()
        self.synthesize()
        assert self.look().due == ()
        return self.claude

    def settings_in_step(self, values: dict[str, object]) -> Path:
        self.config.write_text(json.dumps(values, indent=2) + "\n")
        self.look()
        self.synthesize()
        self.look()
        return self.config

    def consolidate_settings(self, values: dict[str, object]) -> None:
        data = json.dumps(values, indent=2, sort_keys=True) + "\n"
        self.machine.consolidate(data.encode(), SETTINGS, GLOBAL)


@pytest.fixture(autouse=True)
def no_hook() -> Iterator[None]:
    yield
    steps.hook = None


@pytest.fixture
def shop(ann: KnowingMachine) -> Shop:
    return Shop(ann)


def backups(shop: Shop) -> list[str]:
    return sorted(path.read_text() for path in (shop.machine.home / "backups").rglob("*") if path.is_file())


def files_below(top: Path) -> dict[str, tuple[bytes, int]]:
    return {str(one): (one.read_bytes(), one.stat().st_mtime_ns) for one in top.rglob("*") if one.is_file()}


# -- looks


def test_a_look_shares_what_is_new_and_the_next_one_finds_nothing(shop: Shop) -> None:
    shop.claude.write_text(LINES)
    found = shop.look()
    assert found.documents == ("projects/app/CLAUDE.md",)
    assert found.due == (APP,)
    assert found.tip == shop.machine.tip
    again = shop.look()
    assert (again.documents, again.written, again.tip) == ((), (), found.tip)


def test_what_is_consolidated_is_written_and_taken_in_by_the_same_look(shop: Shop) -> None:
    path = shop.in_step()
    shop.machine.consolidate(LINES.replace("line 3", "line three").encode())
    found = shop.look()
    assert found.written == (str(path),)
    assert path.read_text() == LINES.replace("line 3", "line three")
    assert (found.due, found.held, found.retry) == ((), "", False)
    assert [one.state for one in found.plan.documents] == ["same"]
    assert found.documents == ()  # it was not this machine that said something new
    assert shop.machine.mine.applied[APP] == shop.machine.knowledge.consolidated[APP]
    assert backups(shop) == [LINES]
    assert shop.look().written == ()


def test_a_running_client_holds_everything(shop: Shop) -> None:
    path = shop.in_step()
    shop.machine.consolidate(LINES.replace("line 3", "line three").encode())
    pid = shop.machine.processes.begin("/elsewhere")
    found = shop.look()
    assert (found.written, found.held) == ((), f"Claude Code runs in /elsewhere (pid {pid})")
    assert found.held_names == ["projects/app/CLAUDE.md"]
    assert path.read_text() == LINES
    shop.machine.processes.end(pid)
    assert shop.look().written == (str(path),)


def test_an_edit_right_before_it_is_written_stays_and_is_shared(shop: Shop) -> None:
    path = shop.in_step()
    shop.machine.consolidate(LINES.replace("line 3", "line three").encode())

    def edit(step: str) -> None:
        if step == "replace.written":
            steps.hook = None
            path.write_text(LINES + "mine\n")

    assert "replace.written" in steps.STEPS
    steps.hook = edit
    found = shop.look()
    assert (found.written, found.retry) == ((), True)
    assert path.read_text() == LINES + "mine\n"
    assert shop.look().due == (APP,)
    shop.synthesize()
    shop.look()
    assert path.read_text() == LINES.replace("line 3", "line three") + "mine\n"


def test_backups_are_put_away(shop: Shop) -> None:
    shop.settings = replace(shop.settings, backups=BackupSettings(keep=2))
    path = shop.in_step()
    for number in range(5):
        shop.machine.consolidate(LINES.replace("line 3", f"line three, {number}").encode())
        os.utime(path, (shop.machine.clock.now(),) * 2)
        assert shop.look().written
    assert backups(shop) == [LINES.replace("line 3", f"line three, {number}") for number in (2, 3)]


def test_leftovers_of_a_crash_are_swept_once(shop: Shop) -> None:
    shop.in_step()
    leftover = shop.machine.root / ".convergence-0123456789abcdef"
    leftover.write_text("half")
    os.utime(leftover, (1, 1))
    shop.look()
    assert leftover.exists()
    shop.library = shop.fresh_library()
    shop.look()
    assert not leftover.exists()


# -- a person's word


def change_of(found: Look) -> str:
    (change,) = found.plan.changes
    assert change.consent == "runs"
    return change.id


def test_a_yes_counts_once(shop: Shop) -> None:
    path = shop.settings_in_step({"theme": "dark"})
    shop.consolidate_settings({"theme": "dark", **HOOK})
    asked = shop.look()
    assert (asked.written, [one.kind for one in asked.attention()]) == ((), ["knowledge"])
    wanted = change_of(asked)
    found = shop.look(accept=(wanted,))
    assert (found.applied, found.written) == (frozenset({wanted}), (str(path),))
    assert json.loads(path.read_text()) == {"theme": "dark", **HOOK}
    assert shop.library.decisions.accepted() == frozenset()

    path.write_text('{"theme": "dark"}\n')  # the person takes it back
    shop.look()
    shop.consolidate_settings({"theme": "dark", **HOOK, "verbose": True})  # others still have it
    shop.look()
    shop.consolidate_settings({"theme": "dark", **HOOK})
    assert "hooks" not in json.loads(path.read_text())


def test_a_yes_that_a_crash_left_is_no_yes_to_the_same_change_later(shop: Shop) -> None:
    path = shop.settings_in_step({"theme": "dark"})
    shop.consolidate_settings({"theme": "dark", **HOOK})
    wanted = change_of(shop.look())

    def crash(step: str) -> None:
        if step == "replace.published":
            raise SystemExit

    steps.hook = crash
    with pytest.raises(SystemExit):
        shop.look(accept=(wanted,))
    steps.hook = None
    assert "hooks" in json.loads(path.read_text())
    shop.library = shop.fresh_library()
    assert shop.library.decisions.accepted() == {wanted}
    shop.look()
    assert shop.library.decisions.accepted() == frozenset()


def test_a_yes_waits_for_a_clients_end(shop: Shop) -> None:
    path = shop.settings_in_step({"theme": "dark"})
    shop.consolidate_settings({"theme": "dark", **HOOK})
    wanted = change_of(shop.look())
    pid = shop.machine.processes.begin("/elsewhere")
    assert shop.look(accept=(wanted,)).held_names == ["global/settings.json"]
    shop.library = shop.fresh_library()
    assert shop.look().written == ()
    shop.machine.processes.end(pid)
    assert shop.look().written == (str(path),)


def test_a_no_stays_a_no(shop: Shop) -> None:
    path = shop.settings_in_step({"theme": "dark"})
    shop.consolidate_settings({"theme": "light", **HOOK})
    changes = shop.look().plan.changes
    (hook,) = (change.id for change in changes if change.consent == "runs")
    found = shop.look(decline=(hook,))
    assert found.declined == {hook}
    assert found.attention() == []
    shop.library = shop.fresh_library()
    assert shop.look().declined == {hook}
    assert json.loads(path.read_text()) == {"theme": "light"}
    assert shop.look(accept=(hook,)).written == (str(path),)
    assert shop.look().declined == frozenset()


def test_a_survey_tells_the_same_and_changes_nothing(shop: Shop) -> None:
    shop.in_step()
    shop.settings_in_step({"theme": "dark"})
    shop.machine.consolidate(LINES.replace("line 3", "line three").encode())
    shop.consolidate_settings({"theme": "dark", **HOOK})
    tip, before = shop.machine.tip, files_below(shop.machine.home)
    found = shop.fresh_library().survey(shop.settings, shop.machine.replicas)
    assert (shop.machine.tip, files_below(shop.machine.home)) == (tip, before)
    assert sorted(change.consent for change in found.plan.changes) == ["no", "runs"]
    assert (found.tip, found.written, found.documents) == (tip, (), ())


def test_what_a_synthesis_left_to_a_person_is_told(shop: Shop) -> None:
    path = shop.in_step()
    marked = LINES.replace("line 3\n", "line 3\n<!-- CONFLICT: tabs or spaces — resolve manually -->\n")
    shop.machine.consolidate(marked.encode())
    (told,) = shop.look().attention()
    assert told.text == f"{path}, line 5: CONFLICT: tabs or spaces"

    path.write_text(marked + "more\n")
    shop.look()

    def reject(known: Knowledge) -> Knowledge:
        digest = digest_of_inputs(inputs_of(known, APP))
        claims = ("one", "two", "three", "four")
        return with_rejection(known, APP, Rejection(1, shop.machine.machine.id, "anthropic", digest, claims))

    commit_knowledge(shop.machine.store, reject, shop.machine.machine.author, 1, "rejected")
    found = shop.look()
    assert found.due == ()
    assert "the merge of projects/app was rejected: it makes 4 claims" in found.attention()[0].text
    assert "--force" in found.attention()[0].fix
    assert [result.outcome for result in shop.synthesize(again=True)] == ["copied"]
    assert all("rejected" not in one.text for one in shop.look().attention())


# -- syntheses


def test_two_machines_come_to_one_document(ann: KnowingMachine, tmp_path: Path) -> None:
    hub = MemoryStore()
    shops = [Shop(ann, hub), Shop(KnowingMachine(tmp_path / "bob"), hub)]
    for shop, text in zip(shops, ("## Build\n\nmake\n", "## Tests\n\npytest\n"), strict=True):
        shop.claude.write_text(f"# App\n\nIn {shop.machine.home}/src.\n\n{text}")
        shop.look()
        shop.exchange()
    one, other = shops
    one.exchange()
    assert one.look().due == (APP,)
    (plan, documents, names), *_ = one.library.runs.plan(one.settings, None, again=False)
    assert (plan.scope, plan.calls, plan.usd) == (APP, 0, 0.0)
    assert (documents, sorted(names)) == (["CLAUDE.md"], ["ann", "bob"])
    assert one.library.runs.plan(one.settings, [GLOBAL], again=False) == []
    (result,) = one.synthesize()
    assert (result.scope, result.outcome, one.told) == (APP, "merged", ["projects/app (1 of 1)"])
    written = one.machine.knowledge.records[APP].written
    assert written is not None
    assert (written.provider, written.machine) == ("none", ann.machine.id)
    assert one.synthesize() == []
    for shop in (one, other, one):
        shop.exchange()
        shop.look()
    for shop in shops:
        text = shop.claude.read_text()
        assert f"In {shop.machine.home}/src." in text
        assert "## Build\n\nmake\n" in text
        assert "## Tests\n\npytest\n" in text
        assert shop.look().due == ()
    for shop in (one, other, one):
        shop.exchange()
    assert one.machine.tip == other.machine.tip


class Meanwhile:
    """Merges, and has somebody write something else before the result is taken, so many times."""

    def __init__(self, shop: Shop, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.shop, self.left, self.budgets = shop, times, list[float]()
        self._run = worker.run_worker
        monkeypatch.setattr(runs, "run_worker", self)

    def __call__(
        self, tasks: Sequence[ScopeTask], settings: KnowledgeSettings, *rest: Any, **more: Any
    ) -> Any:
        self.budgets.append(settings.max_usd)
        results = [replace(result, usd=0.25) for result in self._run(tasks, settings, *rest, **more)]
        if self.left:
            self.left -= 1
            self.shop.claude.write_text(f"{self.left} left\n")
            self.shop.look()
        return results


def test_what_changed_while_it_was_merged_is_merged_anew(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.claude.write_text("one\n")
    shop.look()
    meanwhile = Meanwhile(shop, monkeypatch, 1)
    (result,) = shop.synthesize()
    assert (result.scope, result.outcome, result.usd) == (APP, "copied", 0.5)
    assert meanwhile.budgets == [1.0, 0.75]
    assert consolidated_texts(shop.machine.store, APP) == {"CLAUDE.md": "0 left\n"}
    assert shop.look().due == ()


def test_what_changes_again_and_again_is_not_said_to_be_merged(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.claude.write_text("one\n")
    shop.look()
    meanwhile = Meanwhile(shop, monkeypatch, runs.MAX_RUNS)
    (result,) = shop.synthesize()
    assert (result.outcome, result.usd) == ("failed", 0.25 * runs.MAX_RUNS)
    assert "changed again and again" in result.text
    assert consolidated_texts(shop.machine.store, APP) == {}
    assert shop.look().due == (APP,)
    assert len(meanwhile.budgets) == runs.MAX_RUNS
    (result,) = shop.synthesize()
    assert result.outcome == "copied"
    assert shop.claude.read_text() == "0 left\n"


class Hub:
    """A machine whose hub's CI merges."""

    def __init__(self, shop: Shop, github: GitHub) -> None:
        self.shop, self.github = shop, github
        shop.environ["GITHUB_TOKEN"] = TOKEN
        peers = (PeerSettings("nas", "/srv/x.git"), PeerSettings("gh", "git@github.com:ann/context.git"))
        knowledge = KnowledgeSettings(enabled=True, provider="github", api_url=github.url)
        shop.settings = Settings(peers=peers, knowledge=knowledge)

    def receive(self, peer: str) -> None:
        """A peer has what is here."""
        store = self.shop.machine.store
        tracking = peer_ref(peer, "knowledge")
        store.swap(tracking, ref_of(store, tracking), self.shop.machine.tip)


@pytest.fixture
def hub(shop: Shop) -> Iterator[Hub]:
    with serving(GitHub()) as forge:
        yield Hub(shop, forge)


def test_nothing_due_asks_no_hub(hub: Hub) -> None:
    assert hub.shop.synthesize() == []
    assert hub.github.asked == []


def test_a_run_begins_only_when_that_hub_has_what_is_new(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.shop.claude.write_text("one\n")
    hub.shop.look()
    hub.receive("nas")
    monkeypatch.setattr(runs, "PUSHED_WITHIN", 0.4)
    monkeypatch.setattr(following, "FIRST_LOOK_S", 0.1)
    with pytest.raises(ProviderError, match="gh does not have what is new here yet"):
        hub.shop.synthesize()
    assert hub.github.asked == []
    hub.receive("gh")
    hub.github.job = lambda: (True, "done")
    (result,) = hub.shop.synthesize()
    assert (result.scope, result.outcome) == (APP, "merged")
    assert len(hub.github.runs) == 1


def test_an_end_while_it_waits_for_the_hub_starts_nothing(hub: Hub) -> None:
    hub.shop.claude.write_text("one\n")
    hub.shop.look()
    stop = threading.Event()
    stop.set()
    assert hub.shop.synthesize(stop) == []
    assert hub.github.asked == []


# -- hints


def test_documents_are_watched_and_what_is_new_among_them_as_well(shop: Shop) -> None:
    came = threading.Event()

    def until(act: Callable[[], object]) -> bool:
        came.clear()
        act()
        return came.wait(30)

    blind = [shop.library.is_blind]
    shop.look()
    shop.library.watch(lambda _path: came.set())
    blind.append(shop.library.is_blind)
    try:
        assert until(lambda: shop.claude.write_text("one\n"))
        assert until(lambda: (shop.machine.config / "CLAUDE.md").write_text("two\n"))
        other = shop.machine.home / "src" / "other"
        other.mkdir()
        shop.machine.replicas.append(shop.machine.replica("other", other))
        shop.look()
        shop.library.watch(lambda _path: came.set())
        assert until(lambda: (other / "CLAUDE.md").write_text("three\n"))
    finally:
        shop.library.unwatch()
    assert [*blind, shop.library.is_blind] == [True, False, True]


def test_notes_and_other_scopes_are_shared_too(shop: Shop) -> None:
    shop.machine.memory.mkdir(parents=True)
    (shop.machine.memory / "MEMORY.md").write_text("- a\n")
    (shop.machine.config / "CLAUDE.md").write_text("# Mine\n")
    assert shop.look().documents == ("global/CLAUDE.md", "projects/app/memory/MEMORY.md")
    assert [result.scope for result in shop.synthesize()] == [GLOBAL, Scope("projects/app")]
    assert shop.machine.shared(CLAUDE, GLOBAL) == b"# Mine\n"
