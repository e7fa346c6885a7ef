"""Taking part by hand: what `init` and `join` do, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from convergenced.errors import PeerError, PeerUnreachableError, UsageError
from convergenced.merge.layout import policy_of
from convergenced.model import LocalPath
from convergenced.ports import Peer
from convergenced.sync.tracking import Tracked, begin_project, join_project
from tests.fakes.peer import MemoryPeer
from tests.unit.sync.world import APP, APP_URL, HUB, FakeMachine, World, branch, sid

S = sid(1)


@pytest.fixture
def bob(world: World, ann: FakeMachine) -> FakeMachine:
    """A machine beside one that has pushed `app`."""
    ann.say(S, "ann's")
    ann.sync()
    return world.machine("bob")


def begin(
    machine: FakeMachine, path: str | None = None, wanted: str | None = None, *, rewrite_home: bool = True
) -> Tracked:
    at = LocalPath(path or machine.root)
    return begin_project(machine.parts, machine.checkouts, at, wanted, rewrite_home)


def join(
    machine: FakeMachine,
    path: str | None = None,
    wanted: str | None = None,
    peers: Mapping[str, Callable[[], Peer]] | None = None,
) -> Tracked:
    at = LocalPath(path or machine.root)
    asked = peers if peers is not None else {HUB: lambda: machine.peer}
    return join_project(machine.parts, machine.checkouts, asked, at, wanted)


def projects(machine: FakeMachine) -> dict[str, str]:
    return {note.root: note.project for note in machine.state.replicas()}


# -- init


def test_a_project_is_begun_under_the_name_its_code_suggests(ann: FakeMachine) -> None:
    tracked = begin(ann)
    assert (tracked.project, tracked.root, tracked.context_dir) == (APP, ann.root, ann.context())
    (note,) = ann.state.replicas()
    assert note.by_hand
    (replica,) = ann.survey().replicas
    assert replica.primary
    assert ann.converge(replica).ingest.message == "takes part"


def test_beginning_twice_changes_nothing(ann: FakeMachine) -> None:
    assert begin(ann) == begin(ann) == begin(ann, wanted=APP)
    assert len(ann.state.replicas()) == 1


def test_a_project_can_be_given_a_name(ann: FakeMachine) -> None:
    assert begin(ann, wanted="mine").project == "mine"
    with pytest.raises(UsageError, match="already takes part in project mine"):
        begin(ann, wanted="other")


def test_what_takes_part_by_itself_is_confirmed_by_hand(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.survey()
    begin(ann)
    assert [note.by_hand for note in ann.state.replicas()] == [True]


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "x.lock", "a b"])
def test_a_name_that_cannot_be_one_is_refused(ann: FakeMachine, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a project's id"):
        begin(ann, wanted=name)


def test_a_place_that_is_no_folder_is_refused(ann: FakeMachine) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        begin(ann, "/nowhere")


def test_the_name_of_other_code_is_refused(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.converge()
    ann.checkout("/srv/zoo", "example.org/ann/zoo")
    with pytest.raises(UsageError, match="taken by another project"):
        begin(ann, "/srv/zoo", APP)
    assert begin(ann, "/srv/zoo").project == "zoo"


def test_a_second_checkout_of_the_same_code_takes_part_in_the_same_project(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.converge()
    ann.checkout("/srv/app", APP_URL)
    assert begin(ann, "/srv/app").project == APP
    ann.checkout("/srv/app2", APP_URL)
    assert begin(ann, "/srv/app2", APP).project == APP


def test_home_can_be_left_as_it_is_from_the_beginning(ann: FakeMachine) -> None:
    begin(ann, rewrite_home=False)
    ann.say(S, f"{ann.home}/x and {ann.root}")
    assert not policy_of(ann.store, ann.tree()).rewrite_home
    (replica,) = ann.survey().replicas
    ann.converge(replica)
    assert f"{ann.home}/x and {{{{CC_PROJECT_ROOT}}}}".encode() in ann.stored(S)
    assert begin(ann, rewrite_home=False).project == APP


def test_home_cannot_be_left_as_it_is_later(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.converge()
    with pytest.raises(UsageError, match="already rewrites the home folder"):
        begin(ann, rewrite_home=False)


# -- join


def test_a_project_of_the_peers_is_joined_by_its_code(ann: FakeMachine, bob: FakeMachine) -> None:
    assert join(bob).project == APP
    assert bob.tip() == ann.tip(), "its history is here before the first pass"
    (replica,) = bob.survey().replicas
    bob.converge(replica)
    assert bob.sessions() == {S}


def test_other_code_of_the_same_name_is_joined_only_where_a_person_says_so(
    ann: FakeMachine, bob: FakeMachine
) -> None:
    bob.checkout(bob.root, "example.org/eve/app")
    with pytest.raises(UsageError, match="is other code than what is checked out at"):
        join(bob)
    assert bob.tip() is None
    assert projects(bob) == {}
    assert join(bob, wanted=APP).project == APP
    assert bob.tip() == ann.tip()


def test_joining_twice_changes_nothing(bob: FakeMachine) -> None:
    assert join(bob) == join(bob)
    assert len(bob.state.replicas()) == 1


def test_a_project_is_joined_by_name_whatever_the_code(bob: FakeMachine) -> None:
    bob.files.make_folder("/srv/elsewhere")
    assert join(bob, "/srv/elsewhere", APP).project == APP
    assert projects(bob) == {"/srv/elsewhere": APP}


def test_a_project_that_nobody_has_cannot_be_joined(bob: FakeMachine) -> None:
    with pytest.raises(UsageError, match="no peer has a project zoo") as caught:
        join(bob, wanted="zoo")
    assert "the peers have: app" in caught.value.hint
    bob.checkout("/srv/zoo", "example.org/ann/zoo")
    with pytest.raises(UsageError, match="no project of the peers is named like zoo"):
        join(bob, "/srv/zoo")


def test_more_than_one_fitting_project_has_to_be_named(ann: FakeMachine, bob: FakeMachine) -> None:
    tip = ann.tip()
    assert tip is not None
    ann.world.hub.swap(branch("app-123456"), None, tip)
    with pytest.raises(UsageError, match="more than one project"):
        join(bob)
    assert join(bob, wanted="app-123456").project == "app-123456"


def test_sessions_that_were_there_already_come_along(ann: FakeMachine, bob: FakeMachine) -> None:
    bob.files.make_folder(f"{bob.home}/other")
    bob.say(sid(2), "bob's", root=f"{bob.home}/other")
    (replica,) = bob.survey().replicas
    bob.converge(replica)
    assert replica.project == "other"
    assert join(bob, f"{bob.home}/other", APP).project == APP
    (replica,) = bob.survey().replicas
    bob.converge(replica)
    assert bob.sessions(f"{bob.home}/other") == {S, sid(2)}
    assert set(bob.tree().sessions) == {S, sid(2)}


def test_what_takes_part_by_hand_already_is_not_moved_to_another_project(bob: FakeMachine) -> None:
    begin(bob, wanted="mine")
    with pytest.raises(UsageError, match="already takes part in project mine"):
        join(bob, wanted=APP)
    bob.take_part(bob.root, "mine", by_hand=False)
    bob.take_part(f"{bob.home}/second", "mine", by_hand=False)
    with pytest.raises(UsageError, match="already takes part in project mine"):
        join(bob, wanted=APP)


def test_a_project_that_is_only_in_the_store_can_be_joined(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.converge()
    ann.checkout("/srv/app", APP_URL)
    assert join(ann, "/srv/app", peers={}).project == APP


def test_one_peer_that_fails_does_not_stop_the_others(bob: FakeMachine) -> None:
    gone = MemoryPeer(bob.store, bob.world.hub, name="gone")
    gone.unreachable = True

    def refuse() -> Peer:
        raise PeerUnreachableError("no such host")

    assert join(bob, peers={"gone": lambda: gone, "none": refuse, HUB: lambda: bob.peer}).project == APP


def test_where_no_peer_answers_the_reason_is_told(bob: FakeMachine) -> None:
    bob.peer.unreachable = True
    with pytest.raises(PeerError, match="cannot be reached"):
        join(bob)
