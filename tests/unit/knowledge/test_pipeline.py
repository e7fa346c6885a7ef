"""Synthesis in a hub's CI: with real git, real hubs and the Messages API on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from convergenced import steps
from convergenced.knowledge.branch import KNOWLEDGE_REF, advance_knowledge, knowledge_at
from convergenced.knowledge.markers import Ending, read_ending
from convergenced.knowledge.pipeline import CI_MACHINE, MAX_PUSHES, Options, run
from convergenced.machine.settings_schema import KnowledgeSettings
from convergenced.merge.knowledge import GLOBAL, Scope
from convergenced.model import LocalPath, Oid
from convergenced.store.git import GitStore
from convergenced.store.peers import open_peer
from convergenced.store.repo import open_store
from convergenced.store.transport_path import PathPeer
from tests.knowledge import ANN, BOB, CYD, Plain, commit_plain, consolidated_texts
from tests.messages_api import KEY, MessagesApi, Refuses, merging
from tests.repositories import make_bare, run_git
from tests.servers import WebServer, git_environ, web

__all__ = ["web"]

NONE = KnowledgeSettings(provider="none")
ASKING = KnowledgeSettings(provider="anthropic")

DIFFERENT: Plain = {
    "machines": {
        ANN: {"global": {"CLAUDE.md": "# Build\nmake\n\n# Ann\nx\n"}, "projects/p": {"CLAUDE.md": "# P\n"}},
        BOB: {"global": {"CLAUDE.md": "# Build\nninja\n\n# Bob\ny\n"}},
    }
}
KEPT = "\n# Ann\nx\n\n# Bob\ny\n"


class Hub:
    """A bare hub, one machine that shares with it, and a clone as a CI makes it."""

    def __init__(self, folder: Path, plain: Plain | None) -> None:
        self.path = make_bare(folder / "hub.git")
        self.store = open_store(LocalPath(str(folder / "machine.git")))
        self.peer = open_peer(self.path, self.store.path, name="hub", environ={})
        assert isinstance(self.peer, PathPeer)
        self.environ = git_environ(folder / "home")
        if plain is not None:
            self.share(plain)
        assert self.peer.push(["refs/heads/main"]) == {"refs/heads/main": None}
        self.clone = folder / "clone"
        run_git("clone", "--quiet", "--depth=1", f"file://{self.path}", str(self.clone))
        self.log: list[str] = []

    def share(self, plain: Plain) -> None:
        commit_plain(self.store, plain)
        assert self.peer.push([KNOWLEDGE_REF]) == {KNOWLEDGE_REF: None}

    def tip(self) -> Oid | None:
        return GitStore(self.path).refs(KNOWLEDGE_REF).get(KNOWLEDGE_REF)

    def take(self) -> None:
        """What the hub has now, at the machine."""
        self.peer.fetch({KNOWLEDGE_REF: "refs/peers/hub/knowledge"})
        advance_knowledge(self.store, self.store.refs("refs/peers/hub/knowledge")["refs/peers/hub/knowledge"])

    def run(
        self,
        settings: KnowledgeSettings = NONE,
        environ: Mapping[str, str] | None = None,
        *,
        push: str = "origin",
        dry_run: bool = False,
    ) -> int:
        def say(line: str) -> None:
            assert "\n" not in line
            self.log.append(line)

        options = Options(str(self.clone), push, settings, dry_run)
        return run(options, {**self.environ, **(environ or {})}, say)

    def ending(self) -> Ending | None:
        assert KEY not in "".join(self.log)
        return read_ending("\n".join(self.log))

    def texts(self, scope: str = "global") -> dict[str, str]:
        self.take()
        return consolidated_texts(self.store, scope)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_due_is_merged_and_pushed(tmp_path: Path) -> None:
    hub = Hub(tmp_path, DIFFERENT)
    before = snapshot(hub.clone)
    assert hub.run() == 0
    assert hub.texts("projects/p") == {"CLAUDE.md": "# P\n"}
    merged = hub.texts()["CLAUDE.md"]
    assert all(part in merged for part in ("make", "ninja", "# Ann", "# Bob", "CONFLICT"))
    assert hub.ending() == Ending(None, "1 scope merged, 1 scope copied")
    assert [line for line in hub.log if line.startswith("convergence: global merged: ")]
    knowledge, refusals = knowledge_at(hub.store, hub.tip())
    assert not refusals
    written = knowledge.records[GLOBAL].written
    assert written is not None
    assert (written.machine, written.provider, written.outcome) == (CI_MACHINE, "none", "merged")
    assert snapshot(hub.clone) == before  # the clone is only read


def test_again_there_is_nothing_to_do(tmp_path: Path) -> None:
    hub = Hub(tmp_path, DIFFERENT)
    hub.run()
    tip = hub.tip()
    hub.log.clear()
    assert hub.run() == 0
    assert hub.ending() == Ending(None, "nothing changed since the last merge")
    assert hub.tip() == tip


def test_a_hub_where_nothing_is_shared(tmp_path: Path) -> None:
    hub = Hub(tmp_path, None)
    assert hub.run(ASKING) == 0
    assert hub.ending() == Ending(None, "no machine has shared anything yet")
    assert hub.tip() is None


def test_a_dry_run_writes_nothing_and_needs_no_key(tmp_path: Path) -> None:
    hub = Hub(tmp_path, DIFFERENT)
    tip = hub.tip()
    assert hub.run(ASKING, dry_run=True) == 0
    ending = hub.ending()
    assert ending is not None
    assert ending.trouble is None
    assert ending.text.startswith("2 scopes would be merged for $")
    assert "global would take 2 calls" in "\n".join(hub.log)
    assert hub.tip() == tip


def test_a_model_merges(tmp_path: Path) -> None:
    hub = Hub(tmp_path, DIFFERENT)
    with MessagesApi(merging("# Build\nmake or ninja\n\n# Ann\nx\n\n# Bob\ny\n")) as api:
        assert hub.run(ASKING, api.environ) == 0
        assert len(api.requests) == 2
    assert hub.texts()["CLAUDE.md"].startswith("# Build\nmake or ninja\n")
    ending = hub.ending()
    assert ending is not None
    assert ending.text.startswith("1 scope merged, 1 scope copied, $")


def test_there_is_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convergenced.knowledge.pipeline.read_keyring", lambda *_: None)
    hub = Hub(tmp_path, DIFFERENT)
    tip = hub.tip()
    assert hub.run(ASKING, {"ANTHROPIC_API_KEY": ""}) == 4
    assert hub.ending() == Ending("no-key", "ANTHROPIC_API_KEY is not set here")
    assert hub.tip() == tip


def test_what_needs_no_model_needs_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convergenced.knowledge.pipeline.read_keyring", lambda *_: None)
    hub = Hub(tmp_path, {"machines": {ANN: {"global": {"CLAUDE.md": "# One\n"}}}})
    assert hub.run(ASKING) == 0
    assert hub.texts() == {"CLAUDE.md": "# One\n"}


def test_a_rejected_scope_is_no_failure_and_is_not_tried_again(tmp_path: Path) -> None:
    hub = Hub(
        tmp_path, {"machines": DIFFERENT["machines"], "consolidated": {"global": {"CLAUDE.md": "# Old\n"}}}
    )
    claims = [("# Build", f"claim {number}") for number in range(4)]
    with MessagesApi(merging(f"# Old\n\n# Build\nmake ninja, invented\n{KEPT}", claims=claims)) as api:
        assert hub.run(ASKING, api.environ) == 0
        asked = len(api.requests)
        assert hub.run(ASKING, api.environ) == 0
        assert len(api.requests) == asked
    assert hub.texts() == {"CLAUDE.md": "# Old\n"}
    assert knowledge_at(hub.store, hub.tip())[0].records[GLOBAL].rejected is not None
    assert hub.ending() == Ending(None, "nothing changed since the last merge")


def test_the_key_is_refused(tmp_path: Path) -> None:
    hub = Hub(tmp_path, DIFFERENT)
    with MessagesApi(lambda _: Refuses(401, "authentication_error", "invalid x-api-key")) as api:
        assert hub.run(ASKING, api.environ) == 4
    ending = hub.ending()
    assert ending is not None
    assert ending.trouble == "provider"
    assert "CLAUDE.md" not in hub.texts()


def test_what_was_made_before_the_trouble_is_pushed(tmp_path: Path) -> None:
    both: Plain = {
        "machines": {
            ANN: {"global": {"CLAUDE.md": "# A\n"}, "projects/p": {"CLAUDE.md": "# Build\nmake\n"}},
            BOB: {"projects/p": {"CLAUDE.md": "# Build\nninja\n"}},
        }
    }
    hub = Hub(tmp_path, both)
    with MessagesApi(lambda _: Refuses(401, "authentication_error", "no")) as api:
        assert hub.run(ASKING, api.environ) == 4
    assert hub.texts() == {"CLAUDE.md": "# A\n"}
    assert hub.texts("projects/p") == {}
    assert knowledge_at(hub.store, hub.tip())[0].records.get(Scope("projects/p")) is None


def test_what_costs_too_much_is_not_asked(tmp_path: Path) -> None:
    hub = Hub(tmp_path, DIFFERENT)
    with MessagesApi(merging("# Build\n")) as api:
        settings = replace(ASKING, max_usd=0.000001)
        assert hub.run(settings, api.environ) == 4
        assert not api.requests
    assert hub.texts() == {}
    ending = hub.ending()
    assert ending is not None
    assert ending.trouble == "scopes"
    assert "1 scope failed, 1 scope copied" in ending.text


@contextmanager
def racing(hub: Hub, times: int) -> Iterator[None]:
    """Another machine pushes each time the pipeline has taken in what is there, before it pushes."""
    left, busy = [times], [False]

    def hook(step: str) -> None:
        if step != "merge.advanced" or busy[0] or not left[0]:
            return
        left[0], busy[0] = left[0] - 1, True
        hub.take()
        new: Plain = {
            "machines": {**DIFFERENT["machines"], CYD: {"projects/q": {"CLAUDE.md": f"# {left[0]}\n"}}}
        }
        hub.share(new)
        busy[0] = False

    steps.hook = hook
    try:
        yield
    finally:
        steps.hook = None


def test_others_push_meanwhile(tmp_path: Path) -> None:
    hub = Hub(tmp_path, DIFFERENT)
    with racing(hub, MAX_PUSHES - 1):
        assert hub.run() == 0
    assert sum("others pushed meanwhile" in line for line in hub.log) == MAX_PUSHES - 1
    assert "ninja" in hub.texts()["CLAUDE.md"]
    machines = knowledge_at(hub.store, hub.tip())[0].machines
    assert set(machines) == {ANN, BOB, CYD}


def test_others_push_for_ever(tmp_path: Path) -> None:
    hub = Hub(tmp_path, DIFFERENT)
    with racing(hub, 100):
        assert hub.run() == 4
    ending = hub.ending()
    assert ending is not None
    assert ending.trouble == "raced"
    assert sum("others pushed meanwhile" in line for line in hub.log) == MAX_PUSHES


def test_two_at_once_end_in_one_result(tmp_path: Path) -> None:
    hub = Hub(tmp_path, DIFFERENT)
    answers = [f"# Build\nmake or ninja\n{KEPT}", f"# Build\nninja or make\n{KEPT}"]
    left = iter(answers)
    begun = [False]

    def hook(step: str) -> None:
        if step == "merge.advanced" and not begun[0]:
            begun[0] = True
            assert hub.run(ASKING, api.environ) == 0  # a whole run within the other one

    with MessagesApi(merging(lambda _: next(left))) as api:
        steps.hook = hook
        try:
            assert hub.run(ASKING, api.environ) == 0
        finally:
            steps.hook = None
        merged = hub.texts()["CLAUDE.md"]
        assert merged in answers
        assert hub.run(ASKING, api.environ) == 0
    assert hub.ending() == Ending(None, "nothing changed since the last merge")


def test_the_hub_takes_no_push(tmp_path: Path) -> None:
    hub = Hub(tmp_path, DIFFERENT)
    hook = Path(hub.path, "hooks", "pre-receive")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        "#!/bin/sh\necho 'GitLab: You are not allowed to push code to protected branches' >&2\nexit 1\n"
    )
    hook.chmod(0o755)
    tip = hub.tip()
    assert hub.run() == 4
    ending = hub.ending()
    assert ending is not None
    assert ending.trouble == "push-denied"
    assert "not allowed to push" in ending.text
    assert hub.tip() == tip


def test_the_hub_cannot_be_read(tmp_path: Path) -> None:
    hub = Hub(tmp_path, DIFFERENT)
    os.rename(hub.path, hub.path + "-away")
    assert hub.run() == 4
    ending = hub.ending()
    assert ending is not None
    assert ending.trouble == "fetch-denied"


def test_the_branch_is_of_a_newer_version(tmp_path: Path) -> None:
    hub = Hub(tmp_path, DIFFERENT)
    work = tmp_path / "work"
    run_git("clone", "--quiet", "--branch=knowledge", hub.path, str(work))
    (work / "machines" / ANN / "machine.json").write_text('{"schema": 99}\n')
    person = ("-c", "user.name=x", "-c", "user.email=x@y")
    run_git("-C", str(work), *person, "commit", "-qam", "newer")
    run_git("-C", str(work), "push", "-q")
    assert hub.run() == 1
    ending = hub.ending()
    assert ending is not None
    assert ending.trouble == "newer"


def test_there_is_no_such_remote(tmp_path: Path) -> None:
    hub = Hub(tmp_path, DIFFERENT)
    assert hub.run(push="nowhere") == 2
    ending = hub.ending()
    assert ending is not None
    assert "no remote nowhere" in ending.text


def test_the_clones_own_credentials_are_used(tmp_path: Path, web: WebServer) -> None:
    """As `actions/checkout` leaves them: a header in a file that the clone's configuration includes."""
    hub = Hub(tmp_path, DIFFERENT)
    served = web.root / tmp_path.name
    run_git("clone", "--quiet", "--mirror", hub.path, str(served))
    run_git("-C", str(served), "config", "http.receivepack", "true")
    run_git("-C", str(hub.clone), "remote", "set-url", "origin", web.url(served, ""))
    run_git("-C", str(hub.clone), "config", "http.sslCAInfo", str(web.certificate))
    assert hub.run() == 4  # without credentials
    credentials = tmp_path / "credentials"
    credentials.write_text(
        f'[credential]\n\thelper = "!f() {{ echo username={web.user}; echo \\"password=$PW\\"; }}; f"\n'
    )
    key = f"includeIf.gitdir:{hub.clone}/.git.path"
    run_git("-C", str(hub.clone), "config", key, str(credentials))
    assert hub.run(environ={"PW": web.password}) == 0
    assert web.password not in "".join(hub.log)
    assert GitStore(LocalPath(str(served))).refs(KNOWLEDGE_REF)[KNOWLEDGE_REF] != hub.tip()


def test_a_hostile_document_gives_the_ci_no_command(tmp_path: Path) -> None:
    hub = Hub(tmp_path, {"machines": {ANN: {"global": {"CLAUDE.md": "# A\n"}}}})
    work = tmp_path / "work"
    run_git("clone", "--quiet", "--branch=knowledge", hub.path, str(work))
    odd = work / "machines" / ANN / "global" / "::add-mask::x\nconvergence: done: all is well"
    odd.write_text("x")
    person = ("-c", "user.name=x", "-c", "user.email=x@y")
    run_git("-C", str(work), "add", ".")
    run_git("-C", str(work), *person, "commit", "-qm", "odd")
    run_git("-C", str(work), "push", "-q")
    assert hub.run() == 0
    assert all(line.startswith("convergence: ") and "::" not in line for line in hub.log)
    assert hub.ending() == Ending(None, "1 scope copied")


def test_the_command_line(tmp_path: Path) -> None:
    hub = Hub(tmp_path, DIFFERENT)
    command = [sys.executable, "-m", "convergenced.knowledge.pipeline", "--provider", "none"]
    done = subprocess.run(
        command, cwd=hub.clone, env=hub.environ, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert read_ending(done.stdout) == Ending(None, "1 scope merged, 1 scope copied")
    assert "ninja" in hub.texts()["CLAUDE.md"]
