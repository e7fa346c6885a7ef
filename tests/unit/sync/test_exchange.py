"""Fetch and push with one peer: what it costs, what is never lost, what is never mixed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from convergenced.errors import NewerSchemaError, PeerError, PeerUnreachableError
from convergenced.merge import tree as merging
from convergenced.merge.layout import write_project
from convergenced.model import MODE_BLOB, Commit, Oid, ProjectId, TreeEntry
from convergenced.store.branch import commit_tree, project_ref, tracking_ref
from convergenced.store.peers import is_behind
from convergenced.sync.exchange import MAX_TURNS, README_REF, exchange, look_at
from convergenced.sync.identity import Identity
from convergenced.sync.joining import rename_project
from convergenced.sync.tips import ref_of
from tests.fakes.peer import MemoryPeer
from tests.fakes.store import MemoryStore
from tests.unit.sync.world import APP, HUB, FakeMachine, World, branch, project_at, sid

S = sid(1)
OTHER_CODE = "example.org/eve/app"


def calls(machine: FakeMachine) -> list[str]:
    """What was asked of the peer since the last look."""
    found = [call for call, _ in machine.peer.calls]
    machine.peer.calls.clear()
    return found


def hub_tip(world: World, project: str = APP) -> Oid | None:
    return world.hub.refs(branch(project)).get(branch(project))


def with_project(machine: FakeMachine, name: str) -> None:
    """Another project takes part."""
    root = f"{machine.home}/src/{name}"
    machine.checkout(root, f"example.org/ann/{name}")
    machine.say(sid(100), f"in {name}", root=root)
    machine.converge(machine.replica(root, name))


# -- what a round costs


def test_the_first_round_pushes_and_the_second_only_lists(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.converge()
    report = ann.exchange()
    assert report.pushed == [APP]
    assert hub_tip(world) == ann.tip()
    assert calls(ann) == ["list", "push"]
    writes = ann.store.writes + world.hub.writes
    report = ann.exchange()
    assert (report.pushed, report.fetched, report.merges) == ([], [], {})
    assert report.offered == {APP: ann.tip()}
    assert calls(ann) == ["list"]
    assert ann.store.writes + world.hub.writes == writes


def test_only_branches_that_changed_are_fetched(ann: FakeMachine, bob: FakeMachine) -> None:
    for name in ("one", "two", "three"):
        with_project(ann, name)
        with_project(bob, name)
    names = ("one", "two", "three")
    ann.exchange(*names)
    bob.exchange(*names)
    ann.exchange(*names)
    ann.peer.calls.clear()
    bob.say(sid(100), "more", root=f"{bob.home}/src/two")
    bob.converge(bob.replica(f"{bob.home}/src/two", "two"))
    bob.exchange(*names)
    report = ann.exchange(*names)
    assert report.fetched == ["two"]
    assert [refs for call, refs in ann.peer.calls if call == "fetch"] == [(branch("two"),)]


def test_projects_that_are_not_ours_are_not_fetched(ann: FakeMachine, bob: FakeMachine) -> None:
    with_project(ann, "private")
    ann.exchange("private")
    report = bob.exchange()
    assert set(report.offered) == {"private"}
    assert report.fetched == []
    assert bob.tip("private") is None


def test_a_peers_other_branches_are_passed_by(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.converge()
    ann.exchange()
    tip = hub_tip(world)
    for name in ("refs/heads/main", "refs/heads/project/-odd", "refs/heads/project/a/b"):
        world.hub.ref_targets[name] = tip  # type: ignore[assignment]
    assert set(ann.exchange().offered) == {APP}


def test_a_project_without_a_commit_yet_is_nothing_to_push(ann: FakeMachine) -> None:
    assert ann.exchange().pushed == []
    assert calls(ann) == ["list"]


def test_the_readme_goes_along_to_a_peer_that_has_none(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.converge()
    tip = ann.tip()
    assert tip is not None
    ann.store.ref_targets[README_REF] = tip
    ann.exchange()
    assert world.hub.refs(README_REF) == {README_REF: tip}
    ann.say(S, "more")
    ann.converge()
    ann.peer.calls.clear()
    ann.exchange()
    assert ann.peer.calls[-1] == ("push", (branch(APP),))


# -- both went on


def test_a_push_that_comes_too_late_is_merged_and_repeated_in_one_round(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "hello")
    ann.sync()
    bob.sync()
    bob.say(sid(2), "bob's")
    bob.converge()
    ann.say(sid(3), "ann's")
    ann.converge()
    plain = ann.peer.push

    def late(refs: list[str]) -> dict[str, str | None]:
        ann.peer.push = plain  # type: ignore[method-assign]
        bob.exchange()
        return plain(refs)

    ann.peer.push = late  # type: ignore[method-assign, assignment]
    report = ann.exchange()
    assert report.pushed == [APP]
    assert report.fetched == [APP]
    assert set(report.merges) == {APP}
    assert report.rejected == {}
    assert hub_tip(world) == ann.tip()
    assert set(ann.tree().sessions) == {S, sid(2), sid(3)}


def test_a_peer_that_always_comes_first_is_not_chased_for_ever(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "hello")
    ann.sync()
    bob.sync()
    ann.say(S, "more")
    ann.converge()
    plain = ann.peer.push

    def late(refs: list[str]) -> dict[str, str | None]:
        bob.say(sid(2), "again")
        bob.converge()
        bob.exchange()
        return plain(refs)

    ann.peer.push = late  # type: ignore[method-assign, assignment]
    calls(ann)
    report = ann.exchange()
    assert calls(ann).count("list") == MAX_TURNS
    assert report.pushed == []
    assert is_behind(report.rejected[APP]), "which is told, as else nothing would say why it is not there"
    del ann.peer.push
    report = ann.exchange()
    assert (report.pushed, report.rejected) == ([APP], {})


def test_two_machines_that_merge_the_same_tips_make_the_same_commit(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "hello")
    ann.sync()
    bob.sync()
    ann.sync()
    for machine in (ann, bob):
        machine.say(sid(2 + len(machine.name)), machine.name)
        machine.say(S, f"{machine.name} goes on")
        world.clock.advance(1)
        machine.converge()
    other = MemoryStore()
    for machine in (ann, bob):
        peer = MemoryPeer(machine.store, other)
        exchange(machine.store, peer, "relay", {APP: machine.identity()}, ())
    exchange(ann.store, MemoryPeer(ann.store, other), "relay", {APP: ann.identity()}, ())
    assert ann.tip() == bob.tip()


# -- a peer that lost something


def test_a_rewound_branch_gets_its_history_back(world: World, ann: FakeMachine) -> None:
    ann.say(S, "one")
    ann.converge()
    ann.exchange()
    old = hub_tip(world)
    ann.say(S, "two")
    ann.converge()
    ann.exchange()
    tip = ann.tip()
    ann.peer.rewind(branch(APP), old)
    report = ann.exchange()
    assert report.pushed == [APP]
    assert report.merges == {}
    assert hub_tip(world) == tip == ann.tip()


def test_a_deleted_branch_comes_back(world: World, ann: FakeMachine) -> None:
    ann.say(S, "one")
    ann.converge()
    ann.exchange()
    ann.peer.rewind(branch(APP), None)
    assert ann.exchange().pushed == [APP]
    assert hub_tip(world) == ann.tip()


def test_a_branch_begun_anew_by_somebody_is_merged_not_followed(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "one")
    ann.converge()
    ann.exchange()
    bob.say(sid(2), "two")
    bob.converge()
    ann.peer.rewind(branch(APP), None)
    bob.exchange()
    assert bob.tip() == hub_tip(world)
    report = ann.exchange()
    assert (report.strangers, report.pushed) == ([], [APP])
    assert set(project_at(world.hub, hub_tip(world)).sessions) == {S, sid(2)}


# -- a peer that fails


def test_a_rejected_push_is_told_and_not_counted(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.converge()
    ann.peer.declined[branch(APP)] = "pre-receive hook declined"
    report = ann.exchange()
    assert report.rejected == {APP: "pre-receive hook declined"}
    assert report.pushed == []
    assert ref_of(ann.store, tracking_ref(HUB, APP)) is None
    del ann.peer.declined[branch(APP)]
    report = ann.exchange()
    assert report.rejected == {}
    assert report.pushed == [APP]


def test_a_rejected_project_does_not_stop_the_others(ann: FakeMachine) -> None:
    for name in ("one", "two"):
        with_project(ann, name)
    ann.peer.declined[branch("one")] = "no"
    report = ann.exchange("one", "two")
    assert (report.pushed, report.rejected) == (["two"], {"one": "no"})


def test_a_push_without_an_answer_is_not_taken_for_done(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.converge()
    ann.peer.push = lambda refs: {}  # type: ignore[method-assign]
    assert ann.exchange().rejected == {APP: "the peer did not say what became of it"}


def test_a_push_whose_answer_got_lost_is_recognized_without_a_fetch(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.converge()
    ann.peer.lost_answers = 1
    with pytest.raises(PeerUnreachableError):
        ann.exchange()
    assert hub_tip(world) == ann.tip()
    calls(ann)
    assert ann.exchange().rejected == {}
    assert calls(ann) == ["list"]
    assert ref_of(ann.store, tracking_ref(HUB, APP)) == ann.tip()


def test_a_fetch_that_breaks_off_leaves_everything_as_it_was(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.sync()
    bob.say(sid(2), "own")
    bob.converge()
    tip = bob.tip()
    bob.peer.fetch_breaks_after = 2
    with pytest.raises(PeerError):
        bob.exchange()
    assert bob.tip() == tip
    bob.sync()
    assert bob.sessions() == {S, sid(2)}


# -- other code under our name


def test_the_same_code_begun_on_two_machines_becomes_one_project(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "ann's")
    bob.say(sid(2), "bob's")
    ann.sync()
    bob.converge()
    report = bob.exchange()
    assert report.strangers == []
    bob.converge()
    ann.sync()
    assert ann.sessions() == bob.sessions() == {S, sid(2)}


@pytest.mark.parametrize("has_history", [True, False])
def test_other_code_under_our_name_is_a_stranger_and_both_survive(
    world: World, ann: FakeMachine, has_history: bool
) -> None:
    ann.say(S, "ann's")
    ann.sync()
    eve = world.machine("eve")
    eve.checkout(eve.root, OTHER_CODE)
    mine = eve.replica()
    eve.say(sid(2), "eve's")
    eve.take_part(eve.root, APP, by_hand=False)
    if has_history:
        eve.converge(mine)
    report = eve.exchange()
    assert report.strangers == [APP]
    assert (report.pushed, report.merges) == ([], {})
    if not has_history:
        assert eve.tip() is None
        eve.converge(mine)
    assert set(eve.tree().sessions) == {sid(2)}, "nothing of it is mixed in"
    name = rename_project(eve.parts, APP, eve.identity())
    assert eve.tip() is None
    assert eve.exchange(name).pushed == [name]
    eve.converge(eve.replica(project=name))
    assert set(project_at(world.hub, hub_tip(world)).sessions) == {S}
    assert set(project_at(world.hub, hub_tip(world, name)).sessions) == {sid(2)}
    assert [note.project for note in eve.state.replicas()] == [name]
    assert eve.head(eve.replica(project=name)) is not None


def test_a_project_that_was_joined_by_hand_is_trusted(world: World, ann: FakeMachine) -> None:
    ann.say(S, "ann's")
    ann.sync()
    eve = world.machine("eve")
    eve.checkout(eve.root, OTHER_CODE)
    eve.say(sid(2), "eve's")
    eve.converge(eve.replica())
    report = eve.exchange(trusted=[APP])
    assert report.strangers == []
    assert set(eve.tree().sessions) == {S, sid(2)}


def test_looking_at_a_project_tells_its_code_and_moves_nothing(ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "ann's")
    ann.sync()
    assert look_at(bob.store, bob.peer, HUB, APP).urls == {"example.org/ann/app"}
    assert bob.tip() is None


# -- what a peer may send


def put(world: World, machine: FakeMachine, **changes: object) -> Oid:
    """Somebody pushes a changed tree on top of the hub's branch."""
    tip = hub_tip(world)
    assert tip is not None
    tree = replace(project_at(world.hub, tip), **changes)  # type: ignore[arg-type]
    commit = Commit(write_project(world.hub, tree), (tip,), machine.machine.author, 1, "pushed")
    oid = world.hub.write_commit(commit)
    world.hub.swap(branch(APP), tip, oid)
    return oid


def test_a_newer_format_is_left_alone_with_a_clear_word_and_the_others_go_on(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "hello")
    ann.sync()
    bob.sync()
    with_project(bob, "two")
    newer = put(world, ann, policy=world.hub.write_blob(json.dumps({"schema": 99}).encode()))
    bob.say(S, "mine")
    bob.converge()
    before = bob.tip()
    report = bob.exchange(APP, "two")
    assert "newer" in report.refusals[APP][0].reason
    assert report.refusals[APP][0].remedy
    assert report.pushed == ["two"]
    assert bob.tip() == before
    assert hub_tip(world) == newer


def test_a_newer_format_that_goes_on_from_our_tip_is_not_followed(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "hello")
    ann.sync()
    bob.sync()
    bob.exchange()
    before = bob.tip()
    put(world, ann, policy=world.hub.write_blob(json.dumps({"schema": 99}).encode()))
    report = bob.exchange()
    assert "newer" in report.refusals[APP][0].reason
    assert bob.tip() == before
    bob.say(S, "goes on here")
    assert bob.converge().ingest.commit is not None


def test_looking_at_a_newer_format_says_so(world: World, ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.sync()
    put(world, ann, policy=world.hub.write_blob(json.dumps({"schema": 99}).encode()))
    with pytest.raises(NewerSchemaError):
        look_at(bob.store, bob.peer, HUB, APP)


def test_hostile_entries_are_set_aside_and_the_rest_arrives(
    world: World, ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "hello")
    ann.sync()
    blob = world.hub.write_blob(b"evil")
    tree = world.hub.write_tree(
        [
            TreeEntry("fine.md", MODE_BLOB, blob),
            TreeEntry("..", MODE_BLOB, blob),
            TreeEntry("link.md", 0o120000, blob),
            TreeEntry(".git", MODE_BLOB, blob),
        ]
    )
    tip = hub_tip(world)
    assert tip is not None
    root = {entry.name: entry for entry in world.hub.read_tree(world.hub.read_commit(tip).tree)}
    root["context"] = TreeEntry(
        "context", 0o040000, world.hub.write_tree([TreeEntry("memory", 0o040000, tree)])
    )
    commit = Commit(world.hub.write_tree(root.values()), (tip,), ann.machine.author, 1, "evil")
    world.hub.swap(branch(APP), tip, world.hub.write_commit(commit))
    bob.exchange()
    passed = bob.converge()
    assert bob.notes() == {"fine.md": "evil"}
    assert len([one for one in passed.refusals if one.where.startswith("context/memory/")]) == 3
    bob.say(sid(2), "own")
    bob.converge()
    assert bob.exchange().pushed == [APP]


def test_a_merge_that_is_refused_does_not_stop_the_others(
    world: World, ann: FakeMachine, bob: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.say(S, "hello")
    ann.sync()
    bob.sync()
    with_project(bob, "two")
    ann.say(S, "ann")
    bob.say(S, "bob")
    ann.sync()
    bob.converge()
    monkeypatch.setattr(merging, "MAX_FORKS", 0)
    report = bob.exchange(APP, "two")
    assert "forks" in report.refusals[APP][0].reason
    assert report.pushed == ["two"]


def test_a_damaged_history_does_not_stop_the_others(world: World, ann: FakeMachine, bob: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.sync()
    bob.say(sid(2), "own")
    bob.converge()
    with_project(bob, "two")
    plain = bob.store.read_commit
    broken = hub_tip(world)

    def read_commit(oid: Oid) -> Commit:
        if oid == broken:
            bob.store.objects.pop(oid, None)
        return plain(oid)

    bob.store.read_commit = read_commit  # type: ignore[method-assign]
    report = bob.exchange(APP, "two")
    assert set(report.refusals) == {APP}
    assert report.pushed == ["two"]


def test_renaming_goes_on_where_it_broke_off(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.take_part(ann.root, APP, by_hand=False)
    ann.converge()
    ann.exchange()
    tip = ann.tip()
    name = ProjectId("app-" + rename_name(ann).rpartition("-")[2])
    ann.store.swap(branch(name), None, tip)
    assert rename_project(ann.parts, APP, ann.identity()) == name
    assert (ann.tip(), ann.tip(name)) == (None, tip)
    assert ref_of(ann.store, tracking_ref(HUB, APP)) is None


def test_a_name_that_is_taken_as_well_is_told(ann: FakeMachine, bob: FakeMachine) -> None:
    from convergenced.errors import ConvergenceError

    ann.say(S, "hello")
    ann.converge()
    ann.say(S, "more")
    older = ann.tip()
    ann.converge()
    assert older is not None
    ann.store.swap(branch(rename_name(ann)), None, older)
    with pytest.raises(ConvergenceError, match="taken as well"):
        rename_project(ann.parts, APP, ann.identity())
    assert ann.tip() is not None


def rename_name(machine: FakeMachine) -> ProjectId:
    from convergenced.sync.identity import distinct_name

    return distinct_name(APP, machine.identity(), machine.machine.id, machine.root)


def test_an_identity_that_knows_nothing_is_nobody(ann: FakeMachine) -> None:
    assert not Identity().is_same(Identity())
    assert not Identity().is_stranger(ann.identity())


def test_what_a_pass_leaves_out_of_a_tip_that_moved_meanwhile_is_told(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    ann.say(S, "hello")
    for machine in (ann, bob, ann):
        machine.sync()
    tree = ann.tree()
    link = TreeEntry("link", 0o120000, ann.store.write_blob(b"/etc/passwd"))
    hostile = ann.store.write_tree([*ann.store.read_tree(write_project(ann.store, tree)), link])
    tip = ann.tip()
    assert tip is not None
    commit_tree(ann.store, project_ref(APP), hostile, (tip,), ann.machine.author, 1, "by hand")
    ann.exchange()
    bob.say(S, "more")
    bob.files.before = lambda what, _path: fetch(what)

    def fetch(what: str) -> None:
        if what == "read" and bob.tip() == bob.head():
            bob.exchange()

    result = bob.converge()
    assert result.ingest.merged is not None
    assert [refusal.where for refusal in result.refusals] == ["link"]
