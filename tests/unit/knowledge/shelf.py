"""A library whose work is told beforehand, beside a real engine on fakes, for tests of what decides on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from convergenced.knowledge.branch import KNOWLEDGE_REF, commit_knowledge, knowledge_at
from convergenced.knowledge.librarian import Librarian
from convergenced.knowledge.library import Library
from convergenced.knowledge.look import Look, Wish
from convergenced.knowledge.places import CLAUDE_MD
from convergenced.knowledge.standing import Plan, Standing
from convergenced.knowledge.synthesis import ScopeResult
from convergenced.machine.settings_schema import KnowledgeSettings, Settings
from convergenced.merge.contributions import due_scopes, inputs_of, with_synthesis
from convergenced.merge.knowledge import GLOBAL, Knowledge, Scope, Synthesis
from convergenced.model import LocalPath, Oid, ProjectId
from convergenced.sync.replica import Replica
from convergenced.sync.tips import ref_of
from tests.knowledge import ANN, Plain, commit_plain, consolidated_texts, documents
from tests.unit.sync.world import FakeMachine, World, sid

FILE = LocalPath("/home/ann/.claude/CLAUDE.md")


class Shelf:
    """Stands in for `Library`: looks at what the store's branch says; what work meets is set by the test."""

    def __init__(self, machine: FakeMachine) -> None:
        self._machine = machine
        self.is_blind = False
        self.changes: Callable[[Look], Look] = lambda look: look
        """What a look finds besides the branch."""
        self.trouble: Exception | None = None
        """What every look meets."""
        self.looks: list[float] = []
        self.wishes: list[Wish] = []
        self.syntheses: list[tuple[float, list[Scope] | None, bool]] = []
        """When each was made, of what, and whether again."""
        self.outcome: Callable[[Sequence[Scope]], list[ScopeResult]] = lambda scopes: []
        self.told = ""
        self.stop: threading.Event | None = None
        self.watching: Callable[[LocalPath], None] | None = None

    @property
    def runs(self) -> Shelf:
        """It runs syntheses, too."""
        return self

    def look(self, settings: Settings, replicas: Sequence[Replica], wish: Wish) -> Look:
        self.looks.append(self._machine.clock.monotonic())
        self.wishes.append(wish)
        assert settings.knowledge.enabled
        del replicas
        if self.trouble is not None:
            raise self.trouble
        return self.found()

    def found(self) -> Look:
        tip = ref_of(self._machine.store, KNOWLEDGE_REF)
        knowledge, _ = knowledge_at(self._machine.store, tip)
        return self.changes(Look(tip, knowledge, Plan(()), (), due=tuple(due_scopes(knowledge))))

    def run(
        self,
        settings: Settings,
        only: Sequence[Scope] | None,
        *,
        again: bool,
        stop: threading.Event,
        tell: Callable[[str], None],
    ) -> list[ScopeResult]:
        assert settings.knowledge.enabled
        self.syntheses.append((self._machine.clock.monotonic(), None if only is None else list(only), again))
        self.stop = stop
        tell(self.told or "at work")
        return self.outcome(only or self.found().due)

    def move_scope(self, old: ProjectId, new: ProjectId) -> None:
        raise AssertionError(f"nobody renames {old} to {new} here")

    def watch(self, changed: Callable[[LocalPath], None]) -> None:
        self.watching = changed

    def unwatch(self) -> None:
        self.watching = None


class Reading:
    """A machine that runs, with a librarian beside."""

    def __init__(self, machine: FakeMachine, **knowledge: object) -> None:
        self.machine = machine
        self.world: World = machine.world
        self.shelf = Shelf(machine)
        machine.say(sid(1), "hello")
        machine.start(self.settings_with(**{"enabled": True, **knowledge}))
        shelf = cast("Library", self.shelf)
        self.librarian = machine.engine.attach(
            "knowledge", lambda desk, rounds: Librarian(desk, rounds, shelf)
        )

    def settings_with(self, **knowledge: object) -> Settings:
        return replace(self.machine.settings, knowledge=KnowledgeSettings(**knowledge))  # type: ignore[arg-type]

    def set(self, **knowledge: object) -> None:
        """Other settings are in force."""
        self.machine.engine.apply(self.settings_with(**knowledge))

    def come_to_rest(self) -> Reading:
        """Lets everything be done that is due within some seconds, and forgets what that was."""
        self.world.advance(10)
        self.shelf.looks.clear()
        return self

    def hint(self) -> None:
        """A file may have changed, as the watcher says from its thread."""
        assert self.shelf.watching is not None
        self.shelf.watching(FILE)

    # -- the branch

    def have(self, plain: Plain) -> Oid:
        """The branch, as a snapshot or a peer would leave it."""
        return commit_plain(self.machine.store, plain)

    def write(self, text: str, *more: str) -> Oid:
        """A machine's documents: one that belongs to no project, and the same of some projects."""
        mine = {"global": {"CLAUDE.md": text}} | {f"projects/{name}": {"CLAUDE.md": text} for name in more}
        return self.have({"machines": {ANN: mine}})

    def merge(self, scopes: Sequence[Scope]) -> list[ScopeResult]:
        """What a synthesis does that takes in all there is: for `Shelf.outcome`."""
        store = self.machine.store
        knowledge, _ = knowledge_at(store, ref_of(store, KNOWLEDGE_REF))
        for scope in scopes:
            made = documents(store, {"CLAUDE.md": f"made of {sorted(inputs_of(knowledge, scope))}\n"})
            written = Synthesis(1, ANN, "none", "merged", inputs_of(knowledge, scope))
            knowledge = with_synthesis(knowledge, scope, made, written)
        self._commit(knowledge)
        return [ScopeResult(scope, "merged", text="2 machines", usd=0.25) for scope in scopes]

    def fail(self, scopes: Sequence[Scope]) -> list[ScopeResult]:
        """What a synthesis says that comes to nothing: for `Shelf.outcome`."""
        return [ScopeResult(scope, "failed", text="the answer broke off") for scope in scopes]

    def consolidated(self, scope: Scope = GLOBAL) -> dict[str, str]:
        return consolidated_texts(self.machine.store, scope)

    def _commit(self, knowledge: Knowledge) -> None:
        commit_knowledge(
            self.machine.store, lambda _former: knowledge, self.machine.machine.author, 1, "merged"
        )

    # -- what is told

    def texts(self, kind: str) -> list[str]:
        return self.machine.log.texts(kind)

    def missing(self, since: float = -1.0) -> list[tuple[str, str]]:
        """Why it is not in step: causes and texts."""
        return [(miss.cause, miss.text) for miss in self.librarian.missing(since)]


def held(look: Look, why: str = "Claude Code runs in /x (pid 7)") -> Look:
    """The same with a document that waits for Claude Code's end."""
    standing = Standing(GLOBAL, CLAUDE_MD, FILE, "held", why, is_held=True)
    return replace(look, plan=Plan((standing,), why))
