"""First documents of a machine: from what they are made, what is kept, and that only that is written."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from convergenced import steps
from convergenced.errors import HeldError, RefusedInputError, UsageError
from convergenced.knowledge import drafting
from convergenced.knowledge.drafting import KEPT_S, Drafts, FirstDocument
from convergenced.knowledge.library import Library, open_decisions
from convergenced.machine.settings_schema import BackupSettings, KnowledgeSettings, Settings
from convergenced.merge.knowledge import GLOBAL, Scope
from convergenced.model import LocalPath
from convergenced.sync.ingest import ingest, policy_of
from tests.e2e.machines import record
from tests.messages_api import MessagesApi, Says
from tests.unit.knowledge.machines import APP, KnowingMachine
from tests.unit.knowledge.test_worker import environ_of
from tests.unit.sync.world import sid


class Desk:
    """A machine with its drafts."""

    def __init__(self, machine: KnowingMachine) -> None:
        self.machine = machine
        self.settings = Settings()
        decisions = open_decisions(LocalPath(str(machine.home)))
        self.library = Library(machine.parts, LocalPath(str(machine.config)), decisions, {})
        self.drafts = Drafts(self.library)
        self.told: list[str] = []

    def note(self, name: str, text: str, root: Path | None = None) -> None:
        replica = next(one for one in self.machine.replicas if root is None or one.root == str(root))
        path = Path(replica.path(self.machine.machine, f"memory/{name}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def talk(self, number: int, text: str) -> None:
        """A session that the store has."""
        machine = self.machine
        replica = machine.replicas[0]
        path = Path(replica.path(machine.machine, f"{sid(number)}.jsonl"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record(sid(number), machine.root, 2 * number, text))
        machine.clock.advance(100)
        ingest(machine.parts, replica, policy_of(machine.parts, replica))

    def compose(self, only: Collection[Scope] | None = None) -> list[FirstDocument]:
        stop = threading.Event()
        replicas = self.machine.replicas
        return self.drafts.compose(self.settings, replicas, only, stop=stop, tell=self.told.append)

    def write(self, *ids: str) -> list[FirstDocument]:
        return self.drafts.write(self.settings, self.machine.replicas, ids)


@pytest.fixture
def desk(ann: KnowingMachine) -> Desk:
    one = Desk(ann)
    one.note("MEMORY.md", f"- build with {ann.root}/make.sh\n")
    return one


def test_what_there_is_to_say_is_told_for_the_project_and_for_all(desk: Desk) -> None:
    desk.talk(1, "Older")
    desk.talk(2, f"Look at {desk.machine.root}/src")
    everywhere, app = desk.compose()
    assert [everywhere.scope, app.scope] == [GLOBAL, APP]
    assert everywhere.local == str(desk.machine.config / "CLAUDE.md")
    assert app.local == str(desk.machine.root / "CLAUDE.md")
    assert app.sources == ("1 note", "2 sessions")
    assert f"- build with {desk.machine.root}/make.sh" in app.text.decode()
    assert f"- Look at {desk.machine.root}/src\n- Older\n" in app.text.decode()
    assert "## app/MEMORY" in everywhere.text.decode()
    assert not app.exists
    assert not app.diff
    assert desk.told == ["global (1 of 2)", "projects/app (2 of 2)"]
    assert not Path(app.local).exists()


def test_only_what_is_meant_and_has_something_to_say(desk: Desk) -> None:
    other = desk.machine.home / "src" / "other"
    other.mkdir()
    desk.machine.replicas.append(desk.machine.replica("other", other))
    assert [one.scope for one in desk.compose()] == [GLOBAL, APP]
    assert [one.scope for one in desk.compose({APP})] == [APP]
    assert desk.compose({Scope("projects/other"), Scope("projects/elsewhere")}) == []
    desk.note("notes.md", " \n", other)
    assert desk.compose({Scope("projects/other")}) == []


def test_what_was_shown_is_written_and_then_there_is_nothing_more_to_write(desk: Desk) -> None:
    everywhere, app = desk.compose()
    (written,) = desk.write(app.id)
    assert written == replace(app, written=True)
    assert Path(app.local).read_bytes() == app.text
    assert not Path(everywhere.local).exists()
    assert [one.scope for one in desk.compose()] == [GLOBAL]
    with pytest.raises(UsageError, match=f"no draft {app.id}"):
        desk.write(app.id)


def test_what_stands_there_stays_and_goes_among_the_backups(desk: Desk) -> None:
    file = desk.machine.root / "CLAUDE.md"
    file.write_text("# Mine\n\nBe kind.\n")
    (app,) = desk.compose({APP})
    assert app.exists
    assert "+- build with" in app.diff
    assert "Be kind." in app.text.decode()
    desk.write(app.id)
    assert file.read_bytes() == app.text
    (backup,) = (path for path in (desk.machine.home / "backups").rglob("*") if path.is_file())
    assert backup.read_text() == "# Mine\n\nBe kind.\n"


def test_backups_are_kept_as_many_as_the_settings_say(desk: Desk) -> None:
    desk.settings = Settings(backups=BackupSettings(keep=1))
    file = desk.machine.root / "CLAUDE.md"
    for number in range(3):
        file.write_text(f"# Mine {number}\n")
        os.utime(file, (desk.machine.clock.now(),) * 2)
        desk.machine.clock.advance(100)
        (app,) = desk.compose({APP})
        desk.write(app.id)
    (backup,) = (path for path in (desk.machine.home / "backups").rglob("*") if path.is_file())
    assert backup.read_text() == "# Mine 2\n"


@pytest.mark.parametrize("before", [None, "# Mine\n"])
def test_a_file_that_changed_since_is_left_alone_and_told(desk: Desk, before: str | None) -> None:
    file = desk.machine.root / "CLAUDE.md"
    if before is not None:
        file.write_text(before)
    everywhere, app = desk.compose()
    file.write_text("# Mine, edited meanwhile\n")
    first, second = desk.write(everywhere.id, app.id)
    assert first.written
    assert (second.written, second.trouble) == (False, drafting.EDITED)
    assert file.read_text() == "# Mine, edited meanwhile\n"
    (again,) = desk.compose({APP})
    assert again.id != app.id
    assert desk.write(again.id)[0].written


def test_a_place_that_became_a_link_is_not_written_through(desk: Desk) -> None:
    (app,) = desk.compose({APP})
    target = desk.machine.home / "important.txt"
    target.write_text("important\n")
    (desk.machine.root / "CLAUDE.md").symlink_to(target)
    (written,) = desk.write(app.id)
    assert not written.written
    assert written.trouble
    assert target.read_text() == "important\n"
    (told,) = desk.compose({APP})
    assert (told.id, "symbolic link" in told.trouble) == ("", True)


def test_nothing_is_written_while_a_client_runs_and_what_was_composed_is_kept(desk: Desk) -> None:
    (app,) = desk.compose({APP})
    pid = desk.machine.processes.begin("/elsewhere")
    with pytest.raises(HeldError) as held:
        desk.write(app.id)
    assert held.value.pid == pid
    assert not Path(app.local).exists()
    desk.machine.processes.end(pid)
    desk.told.clear()
    assert desk.compose({APP}) == [app]
    assert desk.told == []  # not made again
    assert desk.write(app.id)[0].written


def test_drafts_are_kept_for_an_hour_and_not_without_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    (app,) = desk.compose({APP})
    desk.machine.clock.advance(KEPT_S)
    with pytest.raises(UsageError):
        desk.write(app.id)
    monkeypatch.setattr(drafting, "MAX_KEPT", 2)
    ids = []
    for number in range(3):
        desk.note("MEMORY.md", f"- rule {number}\n")
        ids.append(desk.compose({APP})[0].id)
    with pytest.raises(UsageError):
        desk.write(ids[0])
    assert desk.write(ids[1])[0].written


def test_a_document_beside_the_usual_place_goes_on(desk: Desk) -> None:
    nested = desk.machine.root / ".claude" / "CLAUDE.md"
    nested.parent.mkdir()
    nested.write_text("# Mine\n")
    (app,) = desk.compose({APP})
    assert app.local == str(nested)
    (desk.machine.root / "CLAUDE.md").write_text("# First\n")
    (app,) = desk.compose({APP})
    assert app.local == str(desk.machine.root / "CLAUDE.md")


def test_a_file_that_nobody_can_take_in_is_told(desk: Desk) -> None:
    file = desk.machine.config / "CLAUDE.md"
    file.touch()
    os.truncate(file, 300 * 1024 * 1024)
    everywhere, app = desk.compose()
    assert (everywhere.id, "is larger than" in everywhere.trouble) == ("", True)
    assert app.id


def test_much_memory_is_read_as_far_as_there_is_room(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "MAX_NOTES_BYTES", 400)
    desk.note("a.md", "a" * 60 + "\n")
    desk.note("b.md", "b" * 900 + "\n")
    desk.note("c.md", "c" * 60 + "\n")
    (app,) = desk.compose({APP})
    text = app.text.decode()
    assert "a" * 60 in text
    assert "c" * 60 not in text


def test_apparent_secrets_are_not_in_it(desk: Desk) -> None:
    key = "AKIA" + "Q3EGRZXW7P2LMNTV"
    desk.note("keys.md", f"- aws_access_key_id = {key}\n- keep it safe\n")
    assert all(key not in one.text.decode() for one in desk.compose())


def test_what_a_model_cannot_be_paid_for_is_told_and_what_it_wrote_is_not_paid_for_twice(desk: Desk) -> None:
    pytest.importorskip("anthropic", reason="the extra `synthesis` is not installed")
    with MessagesApi(lambda _asked: Says({"document": "## Build\n\n- make\n"})) as api:
        desk.library.environ = environ_of(api.environ)
        desk.settings = Settings(knowledge=KnowledgeSettings(provider="anthropic", max_usd=0.001))
        documents = desk.compose()
        assert api.requests == []
        assert [(one.id, "may be spent" in one.trouble) for one in documents] == [("", True)] * 2
        desk.settings = Settings(knowledge=KnowledgeSettings(provider="anthropic"))
        made = desk.compose()
        assert [one.text.endswith(b"## Build\n\n- make\n") for one in made] == [True, True]
        assert all(one.usd > 0 for one in made)
        assert desk.compose() == made
        assert len(api.requests) == 2


def test_a_file_that_cannot_be_written_is_told_and_others_are_written(desk: Desk) -> None:
    everywhere, app = desk.compose()

    def stand_in(_step: str) -> None:
        raise RefusedInputError("the folder belongs to somebody else", "make it your own")

    steps.hook = stand_in
    try:
        first, second = desk.write(everywhere.id, app.id)
    finally:
        steps.hook = None
    assert not first.written
    assert first.trouble == second.trouble == "the folder belongs to somebody else (make it your own)"
    assert [one.written for one in desk.write(everywhere.id, app.id)] == [True, True]
