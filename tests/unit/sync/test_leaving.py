"""Taking part no more, and taking a project's copy away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convergenced.errors import UsageError
from convergenced.model import LocalPath, ProjectId
from convergenced.store.branch import LOCAL, PEERS, PROJECTS
from convergenced.sync.leaving import find_project, forget_folders, plan_leaving, purge
from tests.unit.sync.engines import INTERVAL
from tests.unit.sync.world import APP, FakeMachine, World, sid

S = sid(1)
Pair = tuple[FakeMachine, FakeMachine]
ZOO = ProjectId("zoo")


def refs(machine: FakeMachine) -> set[str]:
    return {ref for prefix in (PROJECTS, LOCAL, PEERS) for ref in machine.store.refs(prefix)}


def test_what_would_be_nowhere_else_is_counted(ann: FakeMachine) -> None:
    for number in (1, 2, 3):
        ann.say(sid(number), "hello")
    ann.survey()
    ann.sync()
    ann.say(sid(4), "not pushed")
    ann.converge()
    ann.say(sid(3), "neither is this")
    ann.converge()
    for number in (2, 3, 4):
        ann.files.unlink(ann.transcript(sid(number)))
    ann.converge()
    found = plan_leaving(ann.parts, APP)
    assert (found.sessions, found.archived, found.only_here, found.peers) == (4, 3, 2, ("hub",))
    assert [note.root for note in found.notes] == [ann.root]
    ann.exchange()
    assert plan_leaving(ann.parts, APP).only_here == 0


def test_a_project_is_meant_by_its_id_or_its_root(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.survey()
    assert find_project(ann.parts, APP, LocalPath("/x")) == APP
    assert find_project(ann.parts, ann.root, ann.root) == APP
    with pytest.raises(UsageError, match="there is no project 'zoo' here") as caught:
        find_project(ann.parts, "zoo", LocalPath("/zoo"))
    assert "app" in caught.value.hint


def test_one_project_is_purged_and_the_others_are_as_they_were(world: World, ann: FakeMachine) -> None:
    ann.checkout(f"{ann.home}/src/zoo", "example.org/ann/zoo")
    ann.say(S, "hello")
    ann.say(sid(2), "hello", root=f"{ann.home}/src/zoo")
    ann.start()
    world.advance(2 * INTERVAL)
    zoo = {ref for ref in refs(ann) if "/zoo" in ref}
    assert len(zoo) == 3
    files = {path: ann.files.content(path) for path in ann.files.paths(ann.machine.projects_dir)}
    ann.stop()
    purge(ann.parts, APP)
    assert refs(ann) == zoo
    assert [note.project for note in ann.state.replicas()] == [ZOO]
    assert ann.state.files(ann.app.folder) == {}
    assert ann.state.told(APP) is None
    assert ann.state.said(APP) is None
    assert ann.state.told(ZOO) is not None
    purge(ann.parts, APP)
    assert refs(ann) == zoo
    assert {path: ann.files.content(path) for path in files} == files


def test_what_was_removed_is_remembered_where_it_takes_part_again(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.say(sid(2), "hello")
    ann.survey()
    ann.converge()
    ann.files.unlink(ann.transcript(sid(2)))
    ann.converge()
    forget_folders(ann.parts, ann.state.replicas())
    assert ann.state.replicas() == []
    (replica,) = ann.survey().replicas
    ann.converge(replica)
    assert ann.sessions() == {S}


def test_a_round_that_is_under_way_brings_nothing_back(world: World, pair: Pair) -> None:
    ann, bob = pair
    bob.say(S, "new")
    world.advance(5.0)
    bob.stop()
    exclude = ann.engine.settings.projects
    ann.engine.tracked_anew()
    ann.engine.turn()
    assert any(peer.busy for peer in ann.engine.board.peers.values())
    done: list[None] = []
    ann.engine.apply(replace(ann.engine.settings, projects=replace(exclude, exclude=("~/src/app",))))
    ann.engine.alone_with(
        APP, lambda: purge(ann.parts, APP), done.append, lambda error: pytest.fail(str(error))
    )
    assert done == []
    world.settle()
    assert done == [None]
    world.advance(5 * INTERVAL)
    assert refs(ann) == set()
    assert ann.engine.board.projects() == []
