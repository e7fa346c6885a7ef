"""What the socket answers about shared knowledge, with a real engine, librarian and library behind it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from convergenced.control.dispatch import Dispatcher
from convergenced.control.doctor import Doctor
from convergenced.control.knowledge import PUSH_PATIENCE, KnowledgeMethods
from convergenced.control.knowledge_files import KnowledgeFileMethods
from convergenced.control.protocol import INVALID_PARAMS, Json, Request
from convergenced.control.server import Reply
from convergenced.errors import ConvergenceError, HeldError, PeerError, TimedOutError, UsageError
from convergenced.knowledge.branch import KNOWLEDGE_REF, commit_knowledge
from convergenced.knowledge.librarian import LANE, SYNTHESIS_LANE, Librarian
from convergenced.knowledge.library import Library, open_decisions
from convergenced.machine.settings_schema import KnowledgeSettings, PeerSettings
from convergenced.merge.contributions import inputs_of, with_synthesis
from convergenced.merge.knowledge import GLOBAL, DocumentPath, Knowledge, Scope, Synthesis
from convergenced.model import LocalPath
from convergenced.ports import Peer
from convergenced.store.peers import open_peer
from tests.repositories import make_bare, run_git
from tests.unit.control.test_dispatch import NOWHERE, Answer
from tests.unit.sync.world import HUB, FakeMachine, World, sid

METHODS = ("status", "diff", "push", "synthesize", "apply", "bootstrap", "scaffold")
LINES = "".join(f"line {number}\n" for number in range(12))
HOOK: dict[str, object] = {"hooks": {"Stop": [{"hooks": [{"type": "command", "command": "make notify"}]}]}}


class Unwatched(Library):
    """Looks when it is told to: hints come from a thread."""

    def watch(self, changed: Callable[[LocalPath], None]) -> None:
        del changed


class Desk:
    """A machine whose documents are real files, and what it answers."""

    def __init__(self, top: Path, **knowledge: object) -> None:
        self.home = top / "home"
        self.root = self.home / "src" / "app"
        self.config = self.home / ".claude"
        for folder in (self.root, self.config):
            folder.mkdir(parents=True)
        self.world = World()
        self.machine: FakeMachine = self.world.machine("ann", key="ann-00000001", home=str(self.home))
        self.machine.say(sid(1), "Speed up the parser")
        self.machine.start(
            replace(self.machine.settings, knowledge=KnowledgeSettings(**{"enabled": True, **knowledge}))  # type: ignore[arg-type]
        )
        config = LocalPath(str(self.config))
        library = Unwatched(self.machine.parts, config, open_decisions(LocalPath(str(top))), {})
        engine = self.machine.engine
        self.librarian = engine.attach("knowledge", lambda desk, rounds: Librarian(desk, rounds, library))
        self.hubs: dict[str, LocalPath] = {}
        self.dispatcher = Dispatcher(
            engine,
            self.machine.parts,
            reload=lambda: None,
            add_peer=lambda name, url: None,
            remove_peer=lambda name: None,
            exclude=lambda add, remove: None,
            doctor=Doctor(self.machine.parts, NOWHERE, {}),
            shutdown=lambda: None,
            beside={
                **KnowledgeMethods(engine, self.librarian).methods,
                **KnowledgeFileMethods(engine, self.librarian, self._open_at).methods,
            },
        )

    def _open_at(self, peer: PeerSettings, path: LocalPath) -> Peer:
        return open_peer(self.hubs[peer.name], path, name=peer.name, environ={})

    def begin(self, what: str, **params: Json) -> Answer:
        """Sends a request; what it waits for has not happened yet."""
        answer = Answer()
        self.dispatcher.handle(Request(1, f"knowledge_{what}", params), cast("Reply", answer))
        self.machine.engine.turn()
        return answer

    def ask(self, what: str, **params: Json) -> Any:
        """The answer to a request."""
        answer = self._asked(what, params)
        assert answer.error_ is None, answer.error_
        assert answer.code is None
        return answer.value

    def refused(self, what: str, **params: Json) -> ConvergenceError:
        """The error that a request meets."""
        error = self._asked(what, params).error_
        assert error is not None
        return error

    def _asked(self, what: str, params: dict[str, Json]) -> Answer:
        answer = self.begin(what, **params)
        self.world.advance(5)
        assert answer.times == 1, what
        return answer

    def apply_settings(self, **changes: object) -> None:
        self.machine.engine.apply(replace(self.machine.engine.settings, **changes))  # type: ignore[arg-type]

    @property
    def file(self) -> Path:
        return self.root / "CLAUDE.md"

    def in_step(self) -> Desk:
        """A document, and settings, that are shared and merged."""
        self.file.write_text(LINES)
        (self.config / "settings.json").write_text('{"theme": "dark"}\n')
        self.world.advance(5)
        self.librarian.look()
        self.world.advance(5)
        return self

    def consolidate(self, text: str, path: str = "CLAUDE.md", scope: str = "projects/app") -> None:
        """Another machine's synthesis gives a document."""
        store = self.machine.store
        oid = store.write_blob(text.encode())

        def change(known: Knowledge) -> Knowledge:
            made = Synthesis(1, self.machine.machine.id, "none", "merged", inputs_of(known, Scope(scope)))
            return with_synthesis(known, Scope(scope), {DocumentPath(path): oid}, made)

        commit_knowledge(store, change, self.machine.machine.author, 1, "synthesis")

    def consolidate_hook(self) -> str:
        """A hook that waits for a person; the answer is the change's id."""
        values = {"theme": "dark", **HOOK}
        self.consolidate(json.dumps(values, indent=2, sort_keys=True) + "\n", "settings.json", GLOBAL)
        (change,) = self.ask("diff")["changes"]
        return str(change["id"])


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path).in_step()


@pytest.fixture
def off(tmp_path: Path) -> Desk:
    made = Desk(tmp_path, enabled=False)
    made.world.advance(5)
    return made


# -- what is asked


@pytest.mark.parametrize(
    ("what", "params"),
    [
        *((what, {"global_only": "yes"}) for what in METHODS[:5]),
        *((what, {"project": 7}) for what in METHODS[:6]),
        ("apply", {"accept": "all"}),
        ("apply", {"decline": [7]}),
        ("synthesize", {"dry_run": 1}),
        ("synthesize", {"force": 1}),
        ("synthesize", {"wait": 1}),
        ("synthesize", {"wait": True, "timeout": "soon"}),
        ("synthesize", {"wait": True, "timeout": -1}),
        ("bootstrap", {"write": "all"}),
        ("scaffold", {}),
        ("scaffold", {"kind": "bitbucket"}),
        ("scaffold", {"kind": "github", "force": "yes"}),
    ],
)
def test_parameters_of_the_wrong_kind_are_refused(desk: Desk, what: str, params: dict[str, Json]) -> None:
    answer = desk.begin(what, **params)
    assert (answer.code, answer.times) == (INVALID_PARAMS, 1)


@pytest.mark.parametrize("what", METHODS[:6])
def test_a_project_that_nobody_knows(desk: Desk, what: str) -> None:
    error = desk.refused(what, project="zoo", path="/")
    assert isinstance(error, UsageError)
    assert (error.summary, error.hint) == ("there is no project 'zoo' here", "the projects here: app")


@pytest.mark.parametrize("what", METHODS[1:5])
def test_what_needs_it_to_be_on(off: Desk, what: str) -> None:
    assert off.refused(what).hint == "convergencectl knowledge enable"


@pytest.mark.parametrize("what", ["push", "synthesize", "apply"])
def test_nothing_is_done_while_all_is_paused_or_stopped(desk: Desk, what: str) -> None:
    desk.machine.engine.pause([], None)
    error = desk.refused(what)
    assert (type(error), error.hint) == (HeldError, "convergencectl resume")
    desk.machine.engine.resume([])
    desk.world.advance(5)
    desk.machine.engine.board.halted = "the projects folder is gone"
    assert "the projects folder is gone" in desk.begin(what).error_.summary  # type: ignore[union-attr]


# -- looking


def test_status_while_it_is_off(off: Desk) -> None:
    found = off.ask("status")
    assert (found["enabled"], found["scopes"], found["waiting"]) == (False, [], [])
    assert (found["provider"], found["machine"]) == ("none", "ann")


def test_status_tells_how_each_document_stands(desk: Desk) -> None:
    everywhere, app = desk.ask("status")["scopes"]
    assert (everywhere["scope"], app["scope"]) == ("global", "projects/app")
    assert (app["machines"], app["due"], app["by"], app["provider"]) == (["ann"], False, "ann", "none")
    assert app["synthesized"].endswith("Z")
    (document,) = app["documents"]
    assert (document["state"], document["local"]) == ("same", str(desk.file))
    assert [one["scope"] for one in desk.ask("status", global_only=True)["scopes"]] == ["global"]
    for named in ({"project": "app"}, {"project": "src/app", "path": str(desk.home)}):
        assert [one["scope"] for one in desk.ask("status", **named)["scopes"]] == ["projects/app"]


def test_status_also_while_paused_and_says_why_nothing_happens(desk: Desk) -> None:
    pid = desk.machine.processes.begin("/elsewhere")
    desk.consolidate(LINES.replace("line 3", "line three"))
    desk.librarian.look()
    desk.world.advance(1)
    desk.machine.engine.pause([], None)
    found = desk.ask("status", project="app")
    assert found["waiting"] == [f"Claude Code runs in /elsewhere (pid {pid})"]
    assert found["scopes"][0]["documents"][0]["state"] == "held"


def test_diff_tells_each_change(desk: Desk) -> None:
    desk.machine.processes.begin("/elsewhere")
    desk.consolidate(LINES.replace("line 3", "line three"))
    hook = {"theme": "light", **HOOK}
    desk.consolidate(json.dumps(hook, indent=2, sort_keys=True) + "\n", "settings.json", GLOBAL)
    changes = {one["setting"] or one["path"]: one for one in desk.ask("diff")["changes"]}
    assert {name: one["consent"] for name, one in changes.items()} == {
        "hooks.Stop": "runs",
        "theme": "no",
        "CLAUDE.md": "no",
    }
    assert "-line 3\n+line three\n" in changes["CLAUDE.md"]["diff"]
    assert (changes["CLAUDE.md"]["added"], changes["CLAUDE.md"]["removed"]) == (1, 1)
    assert (changes["theme"]["before"], changes["theme"]["after"]) == ("dark", "light")
    assert all("Claude Code runs" in one["held"] for one in changes.values())
    assert [one["path"] for one in desk.ask("diff", project="app")["changes"]] == ["CLAUDE.md"]
    assert desk.file.read_text() == LINES


# -- push


def test_push_tells_what_was_new_and_who_has_it(desk: Desk) -> None:
    desk.file.write_text(LINES + "more\n")
    (desk.config / "settings.json").write_text('{"theme": "light", "apiKeyHelper": "/bin/key"}\n')
    pushed = desk.ask("push")
    assert pushed["documents"] == ["global/settings.json", "projects/app/CLAUDE.md"]
    assert pushed["peers"] == [HUB]
    assert pushed["left_out"] == ["global/settings.json: apiKeyHelper stay here"]
    assert desk.world.hub.refs(KNOWLEDGE_REF) == desk.machine.store.refs(KNOWLEDGE_REF)
    desk.file.write_text(LINES)
    assert desk.ask("push", global_only=True)["documents"] == []


def test_push_to_a_peer_that_cannot_be_reached(desk: Desk) -> None:
    desk.machine.peers[HUB].unreachable = True
    desk.file.write_text(LINES + "more\n")
    pushed = desk.ask("push")
    assert (pushed["documents"], pushed["peers"]) == (["projects/app/CLAUDE.md"], [])


def test_push_does_not_wait_without_end(desk: Desk) -> None:
    answer = desk.begin("push")
    desk.machine.workers.run_one(LANE)
    desk.machine.engine.turn()
    desk.world.clock.advance(PUSH_PATIENCE - 1)
    desk.machine.engine.turn()
    assert not answer.answered
    desk.world.clock.advance(1)
    desk.machine.engine.turn()
    assert answer.times == 1
    desk.world.advance(5)
    assert answer.times == 1


def test_push_for_one_who_is_gone_ends(desk: Desk) -> None:
    answer = desk.begin("push")
    answer.closed = True
    desk.world.advance(2 * PUSH_PATIENCE)
    assert answer.times == 0


def test_a_look_that_fails_is_answered(desk: Desk) -> None:
    (desk.config / "CLAUDE.md").write_text("x")

    def broken(*_: object) -> None:
        raise ConvergenceError("the disk is full", "make room")

    desk.librarian.library.look = broken  # type: ignore[method-assign,assignment]
    for what in ("push", "apply", "synthesize"):
        assert desk.refused(what).hint == "make room"


# -- synthesize


def test_a_dry_run_tells_what_would_be_done(tmp_path: Path) -> None:
    desk = Desk(tmp_path, synthesizer="bob").in_step()
    planned = desk.ask("synthesize", dry_run=True)
    assert (planned["provider"], planned["done"]) == ("none", [])
    assert [one["scope"] for one in planned["planned"]] == ["global", "projects/app"]
    assert planned["planned"][1]["documents"] == ["CLAUDE.md"]
    assert planned["planned"][1]["machines"] == ["ann"]
    assert [one["scope"] for one in desk.ask("synthesize", dry_run=True, project="app")["planned"]] == [
        "projects/app"
    ]
    assert desk.ask("status")["scopes"][0]["synthesized"] is None


def test_one_that_is_asked_for_meanwhile_comes_after_the_other(tmp_path: Path) -> None:
    desk = Desk(tmp_path, synthesizer="bob").in_step()
    first, second = (desk.begin("synthesize", wait=True, project=name) for name in ("app", None))
    desk.world.advance(60)
    made = [[one["scope"] for one in answer.value["done"]] for answer in (first, second)]
    assert made == [["projects/app"], ["global"]]


def test_it_takes_in_what_was_written_a_moment_ago(tmp_path: Path) -> None:
    desk = Desk(tmp_path, synthesizer="bob").in_step()
    desk.file.write_text(LINES + "more\n")
    made = desk.ask("synthesize", wait=True, project="app", timeout=30)
    assert [(one["scope"], one["outcome"]) for one in made["done"]] == [("projects/app", "copied")]
    assert made["planned"] == []
    assert [one["due"] for one in desk.ask("status")["scopes"]] == [True, False]
    assert desk.ask("synthesize") == {"provider": "none", "planned": [], "done": []}
    assert [one["due"] for one in desk.ask("status")["scopes"]] == [False, False]
    assert desk.ask("synthesize", wait=True, force=True)["done"] == []


def test_it_is_not_waited_for_longer_than_said_and_goes_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path, synthesizer="bob").in_step()
    answer = desk.begin("synthesize", wait=True, timeout=30)
    desk.machine.workers.run_one(LANE)
    desk.world.clock.advance(29)
    desk.machine.engine.turn()
    assert not answer.answered
    second = desk.begin("synthesize")
    desk.machine.workers.run_one(LANE)
    desk.machine.engine.turn()
    assert second.value == {"provider": "none", "planned": [], "done": []}
    desk.world.clock.advance(1)
    desk.machine.engine.turn()
    assert isinstance(answer.error_, TimedOutError)
    desk.machine.workers.run_one(SYNTHESIS_LANE)
    desk.world.advance(5)
    assert (answer.times, second.times) == (1, 1)
    assert [one["due"] for one in desk.ask("status")["scopes"]] == [False, False]


def test_one_who_is_gone_is_not_answered(tmp_path: Path) -> None:
    desk = Desk(tmp_path, synthesizer="bob").in_step()
    answer = desk.begin("synthesize", wait=True, timeout=30)
    answer.closed = True
    desk.world.advance(60)
    assert answer.error_ is None


def test_what_broke_is_told_to_who_waits(tmp_path: Path) -> None:
    desk = Desk(tmp_path, provider="github", synthesizer="bob").in_step()
    error = desk.refused("synthesize", wait=True)
    assert "no peer is on GitHub" in error.summary
    assert error.exit_code == PeerError.exit_code
    assert desk.ask("status")["trouble"] == [{"text": error.summary, "hint": error.hint}]


# -- apply


def test_what_needs_nobody_is_applied(desk: Desk) -> None:
    desk.consolidate(LINES.replace("line 3", "line three"))
    done = desk.ask("apply")
    assert (done["applied"], done["left"], done["declined"]) == ([str(desk.file)], [], [])
    assert [Path(one).read_text() for one in done["backups"]] == [LINES]
    assert desk.file.read_text() == LINES.replace("line 3", "line three")


def test_what_needs_a_yes_is_applied_after_that(desk: Desk) -> None:
    hook = desk.consolidate_hook()
    assert [one["id"] for one in desk.ask("apply")["left"]] == [hook]
    done = desk.ask("apply", accept=[hook])
    assert (done["applied"], done["left"]) == ([str(desk.config / "settings.json")], [])
    assert json.loads((desk.config / "settings.json").read_text()) == {"theme": "dark", **HOOK}


def test_what_is_declined_is_not_shown_again(desk: Desk) -> None:
    hook = desk.consolidate_hook()
    done = desk.ask("apply", decline=[hook])
    assert (done["applied"], done["declined"], done["left"]) == ([], [hook], [])
    found = desk.ask("diff")
    assert (found["changes"], [one["id"] for one in found["declined"]]) == ([], [hook])
    assert "hooks" not in (desk.config / "settings.json").read_text()
    assert desk.ask("apply", accept=[hook])["applied"] == [str(desk.config / "settings.json")]
    assert desk.ask("diff") == {"changes": [], "declined": []}


def test_a_file_that_can_take_no_part_is_told_with_what_to_do(desk: Desk) -> None:
    (desk.config / "settings.json").write_text("{")
    (trouble,) = desk.ask("apply")["trouble"]
    assert trouble["text"].startswith("global/settings.json settings.json is not JSON")
    assert trouble["hint"].startswith("correct the file")
    assert desk.ask("status")["trouble"] == [trouble]
    assert desk.ask("status", project="app")["trouble"] == []
    assert desk.ask("apply", project="app")["trouble"] == []


def test_a_change_that_is_none_any_more(desk: Desk) -> None:
    error = desk.refused("apply", accept=["0123456789ab"])
    assert isinstance(error, UsageError)
    assert error.summary == "there is no change 0123456789ab any more"
    assert desk.librarian.library.decisions.accepted() == frozenset()


def test_a_running_client_is_told(desk: Desk) -> None:
    desk.consolidate(LINES.replace("line 3", "line three"))
    desk.machine.processes.begin("/elsewhere")
    done = desk.ask("apply")
    assert done["applied"] == []
    assert "Claude Code runs in /elsewhere" in done["left"][0]["held"]


# -- first documents


def test_a_first_document_is_composed_and_then_written_also_while_it_is_off(off: Desk) -> None:
    (everywhere, app) = off.ask("bootstrap", write=[])
    assert [one["scope"] for one in (everywhere, app)] == ["global", "projects/app"]
    assert (app["local"], app["exists"], app["diff"], app["written"]) == (str(off.file), False, "", False)
    assert (app["sources"], app["usd"], app["trouble"]) == (["1 session"], 0.0, "")
    assert "- Speed up the parser" in app["text"]
    assert [one["id"] for one in off.ask("bootstrap", write=[], project="app")] == [app["id"]]
    assert not off.file.exists()
    (written,) = off.ask("bootstrap", write=[app["id"]], project="app")
    assert written["written"]
    assert off.file.read_text() == app["text"]
    assert off.ask("bootstrap", write=[], project="app") == []
    assert isinstance(off.refused("bootstrap", write=[app["id"]]), UsageError)
    assert off.ask("status")["waiting"] == []


def test_a_first_document_is_shared_where_it_is_on(desk: Desk) -> None:
    (written,) = desk.ask("bootstrap", write=[desk.ask("bootstrap", write=[], global_only=True)[0]["id"]])
    assert written["local"] == str(desk.config / "CLAUDE.md")
    desk.world.advance(5)
    paths = [one["path"] for one in desk.ask("status")["scopes"][0]["documents"]]
    assert paths == ["CLAUDE.md", "settings.json"]


def test_a_first_document_of_another_texts_time(off: Desk) -> None:
    (app,) = off.ask("bootstrap", write=[], project="app")
    off.machine.engine.pause([], None)  # which is about syncing
    off.file.write_text("# Mine\n")
    (told,) = off.ask("bootstrap", write=[app["id"]])
    assert (told["written"], "edited" in told["trouble"]) == (False, True)
    assert off.file.read_text() == "# Mine\n"
    (again,) = off.ask("bootstrap", write=[], project="app")
    assert (again["exists"], "+- Speed up the parser" in again["diff"]) == (True, True)


def test_no_first_document_beneath_a_running_client(off: Desk) -> None:
    (app,) = off.ask("bootstrap", write=[], project="app")
    off.machine.processes.begin("/elsewhere")
    assert isinstance(off.refused("bootstrap", write=[app["id"]]), HeldError)
    assert not off.file.exists()


def test_how_far_first_documents_are(off: Desk) -> None:
    answer = off.begin("bootstrap", write=[])
    off.machine.workers.run_one("knowledge-files")
    off.machine.engine.desk.messages.get_nowait()()
    assert off.librarian.composing == "global (1 of 2)"
    off.machine.engine.turn()
    assert answer.times == 1
    assert off.ask("status")["waiting"] == []


def test_before_it_is_known_what_takes_part_there_is_nothing_to_write(tmp_path: Path) -> None:
    assert "again" in Desk(tmp_path, enabled=False).begin("bootstrap").error_.hint  # type: ignore[union-attr]


# -- a hub's workflow


def test_a_workflow_is_written_once_and_another_is_left_alone(off: Desk, tmp_path: Path) -> None:
    off.apply_settings(peers=(PeerSettings("nas", "/srv/x"), PeerSettings("gh", "git@github.com:ann/c.git")))
    off.hubs["gh"] = make_bare(tmp_path / "hub.git")
    made = off.ask("scaffold", kind="github", force=False)
    assert (made["peer"], made["written"], made["existing"]) == ("gh", True, None)
    assert made["commit"] == run_git("-C", off.hubs["gh"], "rev-parse", "main").strip()
    assert run_git("-C", off.hubs["gh"], "show", f"main:{made['file']}") == made["text"]
    assert any("https://github.com/ann/c/settings" in line for line in made["next"])
    assert off.ask("scaffold", kind="github", force=False)["written"] is False
    off.apply_settings(knowledge=KnowledgeSettings(max_usd=7.0))
    other = off.ask("scaffold", kind="github", force=False)
    assert (other["written"], other["existing"]) == (False, made["text"])
    assert off.ask("scaffold", kind="github", force=True)["written"] is True


def test_no_workflow_where_no_hub_is_or_it_cannot_be_reached(off: Desk, tmp_path: Path) -> None:
    error = off.refused("scaffold", kind="gitlab")
    assert (error.exit_code, "no peer is on GitLab" in error.summary) == (PeerError.exit_code, True)
    off.apply_settings(peers=(PeerSettings("gh", "git@github.com:ann/c.git"),))
    off.hubs["gh"] = LocalPath(str(tmp_path / "nothing.git"))
    assert off.refused("scaffold", kind="github").exit_code == PeerError.exit_code
