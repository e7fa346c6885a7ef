"""The branch of shared knowledge damaged, lost or set back, here and at the hub, with real daemons.

Whatever happens to it: the project goes on, what this machine or a peer has comes back by itself, and what
cannot be read stays where it is or is set aside, never written over.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.pairs import session
from tests.crash.test_objects import REMEDY, flipped, is_whole, loose, missing, truncated
from tests.e2e.knowing import REF, Knower, check_out, machines, read, tip_of, write
from tests.e2e.machines import git, record
from tests.profiles import DEEP, deep

SESSION = session("beside knowledge")
PROJECT = "refs/heads/project/proj"
TRACKING = "refs/peers/hub/knowledge"


@dataclass
class Both:
    """Two machines in step, and how they were then."""

    top: Path
    ann: Knower
    bob: Knower
    turns: int = 0

    @property
    def hub(self) -> Path:
        hub = self.ann.hubs[0]
        assert isinstance(hub, Path)
        return hub

    def restore(self) -> None:
        for name in ("ann/conv", "ann/home", "bob/conv", "bob/home", "hub.git"):
            shutil.rmtree(self.top / "now" / name)
            shutil.copytree(self.top / "then" / name, self.top / "now" / name, symlinks=True)

    def go_on(self) -> None:
        """Ann edits her CLAUDE.md and says something."""
        self.turns += 1
        write(self.ann.claude_md, f"{read(self.ann.claude_md)}- turn {self.turns}\n")
        self.ann.append(SESSION, record(SESSION, self.ann.project, self.turns))

    def settle(self) -> None:
        """Lets both exchange until there is nothing new; then each has all, and every repository is whole."""
        for machine in (self.bob, self.ann) * 3:
            once(machine)
            if self.is_at_rest():
                break
        else:
            raise AssertionError("it does not come to rest")
        self.check_project()
        assert f"- turn {self.turns}\n" in (read(self.ann.claude_md) or "")
        assert all(map(is_whole, (self.ann.store, self.bob.store, self.hub)))
        folders = git("-C", self.hub, "ls-tree", "--name-only", f"{REF}:machines").splitlines()
        assert [name.rpartition("-")[0] for name in folders] == ["ann", "bob"]

    def is_at_rest(self) -> bool:
        tips = {tip_of(one) for one in (self.ann.store, self.bob.store, self.hub)}
        return len(tips) == 1 and read(self.ann.claude_md) == read(self.bob.claude_md)

    def check_project(self) -> None:
        assert git("-C", self.hub, "rev-parse", PROJECT).strip() == self.ann.tip()


def once(machine: Knower, code: int = 0) -> str:
    """One pass of everything; what the daemon said of it."""
    done = machine.run_daemon("--once")
    assert done.returncode == code, (machine.name, done.returncode, done.stderr)
    return done.stderr


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    top = tmp_path_factory.mktemp("knowledge")
    with machines(top / "now", "ann", "bob") as (ann, bob):
        for machine in (ann, bob):
            check_out(machine.project)
            write(machine.claude_md, f"# All\nthe same\n\n# Of {machine.name}\nalone\n")
        ann.append(SESSION, record(SESSION, ann.project, 0))
        for machine in (ann, bob, ann, bob):
            once(machine)
        shutil.copytree(top / "now", top / "then", symlinks=True)
        yield Both(top, ann, bob)


@pytest.fixture
def both(kept: Both) -> Both:
    """Two machines in step, of which ann has something new."""
    kept.restore()
    kept.go_on()
    return kept


# -- in the store


def test_damaged_objects_come_from_the_hub(both: Both) -> None:
    names = (REF, f"{REF}:machines", f"{REF}:meta/sync-log.json")
    paths = [loose(both.ann.store, name) for name in names]
    for fault, path in zip((truncated, missing, flipped), paths, strict=True):
        fault(path)
    told = once(both.ann)  # what lies below what is missing is looked at once that is there
    assert sum(map(int, re.findall("healed ([0-9]+) objects? from hub", told))) == 3
    assert is_whole(both.ann.store)
    both.settle()


def test_this_machines_document_comes_from_its_file(both: Both) -> None:
    once(both.ann)
    truncated(loose(both.ann.store, f"{REF}:consolidated/global/CLAUDE.md"))
    truncated(loose(both.hub, f"{REF}:consolidated/global/CLAUDE.md"))
    fixed = json.loads(both.ann.ctl("doctor", "--deep", "--fix", "--json").stdout)["fixed"]
    assert "healed 1 object from local files" in {one["text"] for one in fixed}
    assert all(map(is_whole, (both.ann.store, both.hub)))
    assert "set-aside" not in str(fixed)


@deep("tests/unit/knowledge/test_mending.py holds the rule")
def test_while_a_peer_is_away_that_may_have_it_nothing_is_given_up(both: Both) -> None:
    former = tip_of(both.ann.store)
    truncated(loose(both.ann.store, f"{REF}^{{tree}}"))
    both.hub.rename(both.hub.with_suffix(".away"))
    try:
        assert "the store is damaged: tree" in once(both.ann, code=6)
        assert tip_of(both.ann.store) == former
    finally:
        both.hub.with_suffix(".away").rename(both.hub)
    assert "healed 1 object from hub" in once(both.ann)
    both.settle()


@deep("tests/unit/store/test_heal.py holds what is set aside")
def test_what_nobody_has_is_set_aside_and_begun_anew(both: Both) -> None:
    former = tip_of(both.ann.store)
    for repository in (both.ann.store, both.hub):
        missing(loose(repository, f"{REF}^{{tree}}"))
    told = once(both.ann, code=6)  # the hub still has what cannot be read
    assert f"{former} was set aside, and it is made anew from the documents here" in told
    assert (both.ann.store / "set-aside" / f"{REF.replace('/', '+')}@{former}").exists()
    assert tip_of(both.hub) == former
    both.check_project()
    both.bob.ctl("doctor", "--deep", "--fix")  # which has it, and gives it to the hub
    once(both.ann)
    both.settle()


def empty_ref(both: Both) -> None:
    (both.ann.store / REF).write_bytes(b"")


def lost_ref(both: Both) -> None:
    (both.ann.store / REF).unlink()


def lost_store(both: Both) -> None:
    shutil.rmtree(both.ann.store)


def older_store(both: Both) -> None:
    older = git("-C", both.ann.store, "rev-parse", f"{REF}~1").strip()
    for ref in (REF, TRACKING):
        (both.ann.store / ref).write_text(f"{older}\n")


def older_hub(both: Both) -> None:
    older = git("-C", both.hub, "rev-parse", f"{REF}~2").strip()
    git("-C", both.hub, "update-ref", REF, older)


def hub_without(both: Both) -> None:
    git("-C", both.hub, "update-ref", "-d", REF)


def _at_hub(both: Both, *words: str, said: str = "") -> str:
    """Git in the hub, with an index of its own."""
    environ = {**os.environ, "GIT_INDEX_FILE": str(both.top / "index")}
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        environ[name] = "x@example.org"
    command = ["git", "-C", str(both.hub), *words]
    done = subprocess.run(command, env=environ, input=said, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def hub_of_strangers(both: Both) -> None:
    """Another history, whose tree is of no use to anybody."""
    blob = _at_hub(both, "hash-object", "-w", "--stdin", said="x")
    entries = f"100644 blob {blob}\tmachines\n120000 blob {blob}\tmeta\n"
    commit = _at_hub(both, "commit-tree", _at_hub(both, "mktree", said=entries), "-m", "strange")
    _at_hub(both, "update-ref", REF, commit)


LOSSES: tuple[Callable[[Both], None], ...] = (
    *(empty_ref, lost_ref, lost_store, older_store),
    *(older_hub, hub_without, hub_of_strangers),
)
SELECTED = (empty_ref, lost_store, hub_of_strangers)


@pytest.mark.parametrize("lose", LOSSES if DEEP else SELECTED)
def test_what_is_lost_or_set_back_comes_back(both: Both, lose: Callable[[Both], None]) -> None:
    lose(both)
    once(both.ann)
    both.settle()


def a_blob(both: Both) -> str:
    blob = _at_hub(both, "hash-object", "-w", "--stdin", said="x")
    (both.hub / REF).write_text(f"{blob}\n")
    return "it is not the commit it is named as"


def a_newer_format(both: Both) -> str:
    paper = _at_hub(both, "hash-object", "-w", "--stdin", said='{"schema": 99}')
    names = _at_hub(both, "ls-tree", "-r", "--name-only", REF).splitlines()
    (place,) = [name for name in names if name.endswith("machine.json") and "/bob" in name]
    _at_hub(both, "read-tree", REF)
    _at_hub(both, "update-index", "--cacheinfo", f"100644,{paper},{place}")
    commit = _at_hub(both, "commit-tree", _at_hub(both, "write-tree"), "-p", REF, "-m", "newer")
    _at_hub(both, "update-ref", REF, commit)
    return "was written by a newer version"


@deep("tests/unit/merge/test_knowledge.py holds what is refused")
@pytest.mark.parametrize("spoil", [a_blob, a_newer_format] if DEEP else [a_newer_format])
def test_what_the_hub_has_and_nobody_can_take_is_told_and_stays(
    both: Both, spoil: Callable[[Both], str]
) -> None:
    good = tip_of(both.hub)
    words = spoil(both)
    bad = git("-C", both.hub, "rev-parse", REF).strip()
    assert words in once(both.ann, code=6)
    assert git("-C", both.hub, "rev-parse", REF).strip() == bad
    both.check_project()
    once(both.bob, code=6)
    assert tip_of(both.bob.store) == good
    (both.hub / REF).write_text(f"{good}\n")
    once(both.ann)
    both.settle()


# -- what a running daemon says, and what doctor does


@deep("tests/unit/knowledge/test_mending.py holds what is told")
def test_a_running_daemon_tells_and_doctor_ends_it(both: Both) -> None:
    missing(loose(both.ann.store, f"{REF}^{{tree}}"))
    former = tip_of(both.ann.store)
    both.hub.rename(both.hub.with_suffix(".away"))
    try:
        both.ann.start()
        both.ann.ctl("wait", "--for", "synced", "--timeout", "3")
        (told,) = [one for one in both.ann.status()["attention"] if one["kind"] == "damaged"]
        assert told["fix"] == REMEDY
        assert tip_of(both.ann.store) == former
        found = json.loads(both.ann.ctl("doctor", "--deep", "--json").stdout)["findings"]
        assert {"store", "knowledge.branch"} <= {one["check"] for one in found if one["state"] == "problem"}
        fixed = json.loads(both.ann.ctl("doctor", "--deep", "--fix", "--json").stdout)
        assert any(f"{former} was set aside" in one["text"] for one in fixed["fixed"])
        assert {one["state"] for one in fixed["findings"] if one["check"].startswith("knowledge")} == {"ok"}
    finally:
        both.hub.with_suffix(".away").rename(both.hub)
        both.ann.kill()
    once(both.ann)
    both.settle()


def test_doctor_heals_the_branch_at_a_hub_on_this_machine(both: Both) -> None:
    truncated(loose(both.hub, f"{REF}~1^{{tree}}"))
    found = both.ann.ctl("doctor", "--deep")
    assert "hub: tree" in found.stdout
    both.ann.ctl("doctor", "--deep", "--fix")
    assert is_whole(both.hub)
