"""Every invariant that can be checked, each broken on purpose, and what a repair makes of it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest

from convergenced.merge.layout import ProjectTree, SessionTree, write_folder, write_project
from convergenced.merge.roster import Policy
from convergenced.merge.segments import write_transcript
from convergenced.merge.session import write_flat
from convergenced.model import Author, Commit, Content, Finding, LocalPath, Oid, ProjectId, TreeEntry
from convergenced.store.branch import MERGER, tracking_ref
from convergenced.sync.audit import audit, audit_peer
from convergenced.sync.ingest import ingest
from convergenced.sync.replica import Replica, replica_ref
from tests.profiles import DEEP
from tests.unit.sync.world import APP, HUB, FakeMachine, World, branch, sid

S, T = sid(1), sid(2)
SOMEBODY = Author("somebody", "somebody@example.org")


def look(machine: FakeMachine, *replicas: Replica, most: int | None = None) -> list[Finding]:
    return list(audit(machine.parts, replicas or (machine.app,), None, most))


def faults(findings: Iterable[Finding]) -> set[tuple[str, str]]:
    return {(one.check, one.state) for one in findings if one.state != "ok"}


def mend(findings: Iterable[Finding]) -> set[str]:
    repairs = {one.repair for one in findings if one.repair is not None}
    return {repair() for repair in repairs}


@pytest.fixture
def pair(world: World, ann: FakeMachine, bob: FakeMachine) -> tuple[FakeMachine, FakeMachine]:
    """Two machines that went apart and came together again."""
    del world
    ann.say(S, "hello")
    ann.remember("a.md", "one\n")
    ann.files.write(f"{ann.context()}/{S}/tool-results/1.txt", b"result")
    ann.sync()
    bob.sync()
    ann.say(S, "ann goes on")
    bob.say(S, "bob goes on")
    bob.jot(S, "a title")
    bob.remember("a.md", "two\n")
    for machine in (ann, bob, ann, bob):
        machine.sync()
    return ann, bob


def hand_made(
    machine: FakeMachine, tree: ProjectTree, *more: Oid, author: Author = SOMEBODY, project: str = APP
) -> Oid:
    """A commit that some other tool put on the branch."""
    tip = machine.tip(project)
    assert tip is not None
    store = machine.store
    commit = Commit(write_project(store, tree), (tip, *more), author, int(machine.clock.now()), "by hand\n")
    oid = store.write_commit(commit)
    store.swap(branch(project), tip, oid)
    return oid


def test_nothing_is_wrong_after_a_divergence(pair: tuple[FakeMachine, FakeMachine]) -> None:
    for machine in pair:
        writes, reads = machine.store.writes, machine.store.reads
        findings = look(machine)
        assert faults(findings) == set()
        assert machine.store.writes == writes, "looking changes nothing"
        assert machine.store.reads > reads
        told = {one.check: one.text for one in findings}
        assert told["history.merges"].endswith("merges looked at")
        assert not told["history.merges"].startswith("0")


def test_only_the_newest_commits_are_compared_where_not_all_are_asked_for(
    pair: tuple[FakeMachine, FakeMachine],
) -> None:
    (told,) = [one.text for one in look(pair[0], most=2) if one.check == "history.kept"]
    assert "(2 looked at)" in told


def test_a_branch_that_was_set_back_or_is_gone_is_made_again(pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, _ = pair
    tip = ann.tip()
    assert tip is not None
    for former in (ann.store.read_commit(tip).parents[0], None):
        if former is None:
            del ann.store.ref_targets[branch(APP)]
        else:
            ann.store.ref_targets[branch(APP)] = former
        findings = look(ann)
        assert ("history.contains", "problem") in faults(findings)
        assert mend(findings)
        assert ann.tip() == tip
        assert faults(look(ann)) == set()


def test_history_of_another_project_that_was_mixed_in_is_found(
    pair: tuple[FakeMachine, FakeMachine],
) -> None:
    ann, _ = pair
    zoo = f"{ann.home}/src/zoo"
    ann.checkout(zoo, "example.org/ann/zoo")
    ann.say(T, "roar", root=zoo)
    ann.converge(ann.replica(zoo, "zoo"))
    other = ann.tip("zoo")
    assert other is not None
    assert faults(look(ann)) == set()
    hand_made(ann, ann.tree(), other)
    (found,) = [one for one in look(ann) if one.check == "history.apart"]
    assert (found.state, found.project, found.repair) == ("problem", "zoo", None)
    assert "app" in found.text


@pytest.mark.parametrize("layout", ["segments", "flat"])
def test_a_session_that_a_commit_shortened_is_restored(ann: FakeMachine, layout: str) -> None:
    policy = Policy(layout="flat" if layout == "flat" else "segments")
    ann.say(S, "one")
    ann.say(S, "two")
    ingest(ann.parts, ann.app, policy)
    tree = ann.tree()
    first = ann.local_bytes(S).splitlines(keepends=True)[0]
    canonical = ann.app.rewriter(ann.machine, True).canonicalize(first, Content.JSON)
    short = write_transcript(ann.store, [canonical])
    session = SessionTree(flat=write_flat(ann.store, short)) if layout == "flat" else SessionTree(short)
    hand_made(ann, replace(tree, sessions={S: session}))
    findings = look(ann)
    assert faults(findings) == {("history.kept", "problem"), ("local.kept", "problem")}
    assert "restored 1 session from the history" in mend(findings)
    assert ann.tree().sessions == tree.sessions
    ann.ingest()
    assert faults(look(ann)) == set()


def test_a_session_and_a_file_that_a_commit_removed_are_restored(
    pair: tuple[FakeMachine, FakeMachine],
) -> None:
    ann, bob = pair
    bob.say(T, "another")
    bob.sync()
    ann.exchange()
    tree = ann.tree()
    kept = {one: session for one, session in tree.sessions.items() if one != T}
    kept[S] = replace(kept[S], folder=None)
    hand_made(ann, replace(tree, sessions=kept))
    findings = look(ann)
    assert faults(findings) == {("history.kept", "problem")}
    assert {one.text.split()[8] for one in findings if one.state == "problem"} == {S, T}
    mend(findings)
    assert ann.tree().sessions == tree.sessions
    assert faults(look(ann)) == set()


def test_what_a_later_commit_brought_back_is_not_lost(ann: FakeMachine) -> None:
    ann.say(S, "one")
    ann.ingest()
    tree = ann.tree()
    hand_made(ann, replace(tree, sessions={}))
    hand_made(ann, tree)
    assert faults(look(ann)) == set()


def test_a_note_that_claims_too_much_is_dropped_and_the_record_committed(ann: FakeMachine) -> None:
    ann.say(S, "one")
    ann.remember("a.md", "one\n")
    ann.ingest()
    ann.say(S, "two")
    ann.remember("a.md", "two\n")
    for path, note in ann.state.files(ann.app.folder).items():
        now = ann.files.stat(ann.app.path(ann.machine, path))
        assert now is not None
        ann.state.note_file(ann.app.folder, path, replace(note, snapshot=now, consumed=now.size))
    ann.ingest()
    assert b"two" not in ann.stored(S), "the lie is believed"
    findings = look(ann)
    assert faults(findings) == {("local.notes", "problem")}
    assert mend(findings) == {"2 files are read again"}
    ann.ingest()
    assert b"two" in ann.stored(S)
    assert ann.stored_memory() == {"a.md": b"two\n"}
    assert faults(look(ann)) == set()


def test_a_record_behind_what_was_accounted_for_is_found(ann: FakeMachine) -> None:
    ann.say(S, "one")
    ann.ingest()
    ann.say(S, "two")
    (path, note), *_ = ann.state.files(ann.app.folder).items()
    now = ann.files.stat(ann.app.path(ann.machine, path))
    assert now is not None
    ann.state.note_file(ann.app.folder, path, replace(note, snapshot=now))
    assert faults(look(ann)) == {("local.notes", "problem")}


def test_a_note_that_names_nothing_is_dropped(ann: FakeMachine) -> None:
    ann.say(S, "one")
    ann.files.write(f"{ann.context()}/{S}/tool-results/1.txt", b"result")
    ann.ingest()
    for path, note in ann.state.files(ann.app.folder).items():
        ann.state.note_file(ann.app.folder, path, replace(note, oid=Oid("12" * 20)))
    findings = look(ann)
    assert faults(findings) == {("local.notes", "problem")}
    mend(findings)
    ann.ingest()
    assert faults(look(ann)) == set()


@pytest.mark.parametrize("way", ["lost records", "rewrote its tail", "cut short"])
def test_a_file_that_lost_records_is_in_step_all_the_same(ann: FakeMachine, way: str) -> None:
    for text in ("one", "two", "three"):
        ann.say(S, text)
    ann.ingest()
    first, second, third = ann.local_bytes(S).splitlines(keepends=True)
    more = ann.spoken(S, "four")
    data = {"lost records": first + third, "rewrote its tail": first + second + more, "cut short": first}[way]
    ann.files.write(ann.transcript(S), data)
    ann.ingest()
    assert faults(look(ann)) == set()


def test_what_changes_while_it_is_looked_at_is_no_fault(ann: FakeMachine) -> None:
    ann.say(S, "one")
    ann.ingest()
    ann.say(S, "two")
    ann.remember("new.md", "x")
    assert faults(look(ann)) == set()


def test_an_entry_that_is_not_believed_is_told_of(ann: FakeMachine) -> None:
    ann.say(S, "one")
    ann.ingest()
    folder = write_folder(ann.store, {"subagents/a.jsonl": ann.store.write_blob(b"{}\n")})
    bad = ann.store.write_tree(
        [*ann.store.read_tree(folder), TreeEntry("link", 0o120000, ann.store.write_blob(b"/"))]
    )
    tree = ann.tree()
    sessions = {S: replace(tree.sessions[S], folder=bad)}
    hand_made(ann, replace(tree, sessions=sessions))
    (found,) = [one for one in look(ann) if one.state != "ok"]
    assert found.check == "history.tree"
    assert "symbolic link" in found.text


def test_other_rules_of_merging_are_no_fault(pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, _ = pair
    tip = ann.tip()
    assert tip is not None
    other = ann.store.write_commit(
        Commit(ann.store.read_commit(tip).tree, (), SOMEBODY, int(ann.clock.now()), "alone\n")
    )
    hand_made(ann, ann.tree(), other, author=MERGER)
    findings = look(ann)
    assert faults(findings) == set()
    assert any("1 were made by other rules" in one.text for one in findings)


def test_history_of_its_own_at_a_peer_is_told_and_not_mixed_in(
    pair: tuple[FakeMachine, FakeMachine],
) -> None:
    ann, _ = pair
    tip = ann.tip()
    alone = ann.store.write_commit(
        Commit(write_project(ann.store, ProjectTree()), (), SOMEBODY, 1, "alone\n")
    )
    ann.store.ref_targets[tracking_ref(HUB, APP)] = alone
    findings = look(ann)
    assert faults(findings) == {("history.contains", "warning")}
    assert mend(findings) == set()
    assert ann.tip() == tip


def test_one_project_that_cannot_be_read_does_not_hide_the_others(
    pair: tuple[FakeMachine, FakeMachine],
) -> None:
    ann, _ = pair
    zoo = f"{ann.home}/src/zoo"
    ann.checkout(zoo, "example.org/ann/zoo")
    ann.say(T, "roar", root=zoo)
    replica = ann.replica(zoo, "zoo")
    ann.converge(replica)
    ann.store.ref_targets[branch("zoo")] = Oid("12" * 20)
    ann.store.ref_targets[replica_ref(ann.app)] = ann.store.ref_targets[tracking_ref(HUB, APP)]
    found = [one for one in look(ann, ann.app, replica) if one.project == APP]
    assert {one.check for one in found} >= {"history.kept", "local.notes", "history.contains"}


def test_a_peer_that_lost_something_is_found(pair: tuple[FakeMachine, FakeMachine]) -> None:
    ann, bob = pair
    projects = [ProjectId(APP)]

    def told() -> list[Finding]:
        return list(audit_peer(ann.store, HUB, ann.peer.list(), projects))

    assert faults(told()) == set()
    hub = ann.world.hub
    tip = ann.tip()
    assert tip is not None
    hub.ref_targets[branch(APP)] = ann.store.read_commit(tip).parents[0]
    assert faults(told()) == {("peers.history", "warning")}
    del hub.ref_targets[branch(APP)]
    assert faults(told()) == {("peers.history", "warning")}
    bob.say(S, "more")
    bob.sync()
    assert faults(told()) == set()
    assert "1 branches went on there" in told()[-1].text


@pytest.mark.parametrize("seed", range(400 if DEEP else 12))
def test_nothing_is_ever_wrong_whatever_machines_do(seed: int) -> None:
    chance = random.Random(seed)
    world = World()
    machines = [world.machine(name) for name in ("ann", "bob", "cleo")]
    for _ in range(25):
        machine = chance.choice(machines)
        session = sid(chance.randrange(3))
        act = chance.choice(
            ["say", "say", "jot", "remember", "rewrite", "older", "remove", "lose state", "claude"]
        )
        path = machine.transcript(session)
        kept = machine.files.stat(LocalPath(path)) is not None
        if act == "say":
            machine.say(session, "words")
        elif act == "jot":
            machine.jot(session, "title")
        elif act == "remember":
            machine.remember(f"{chance.randrange(2)}.md", f"{chance.random()}\n")
        elif act == "rewrite" and kept:
            *records, _ = machine.local_bytes(session).splitlines(keepends=True)
            machine.files.write(path, b"".join([*records, machine.spoken(session, "instead")]))
        elif act == "older" and kept:
            machine.files.write(path, machine.local_bytes(session).splitlines(keepends=True)[0])
        elif act == "remove" and kept:
            machine.files.unlink(path)
        elif act == "lose state":
            machine.lose_state()
        elif act == "claude":
            machine.processes.begin(machine.root)
        world.clock.advance(1)
        if chance.random() < 0.6:
            machine.sync()
            found = [one for one in look(machine) if one.state != "ok"]
            assert found == [], f"seed {seed}"
