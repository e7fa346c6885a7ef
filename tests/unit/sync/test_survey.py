"""Which folders take part in which projects."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from convergenced.canon.folder import encode_folder_name
from convergenced.errors import RefusedInputError
from convergenced.merge.layout import write_project
from convergenced.model import Commit, LocalPath, ProjectId
from convergenced.sync.exchange import exchange
from convergenced.sync.leaving import exclusion_of
from convergenced.sync.survey import Scope, choose_project
from tests.unit.sync.world import APP, APP_URL, HUB, FakeMachine, World, branch, sid

S = sid(1)


def projects(machine: FakeMachine, scope: Scope | None = None) -> dict[str, str]:
    """What a survey finds: root → project."""
    return {replica.root: replica.project for replica in machine.survey(scope).replicas}


# -- where a project root is taken from


def test_the_root_is_the_cwd_whose_encoding_is_the_folders_name(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    result = ann.survey()
    assert [(one.project, one.root, one.primary) for one in result.replicas] == [(APP, ann.root, True)]
    assert result.identities[APP].urls == {APP_URL}
    assert result.halted is None
    assert result.refusals == []


def test_the_root_is_an_ancestor_where_the_client_went_deeper(ann: FakeMachine) -> None:
    ann.say(S, "hello", cwd=f"{ann.root}/deep/er")
    assert projects(ann) == {ann.root: APP}


def test_a_folder_whose_transcripts_speak_of_elsewhere_is_reported_and_never_guessed(
    ann: FakeMachine,
) -> None:
    ann.say(S, "hello", cwd="/somewhere/else")
    result = ann.survey()
    assert result.replicas == []
    (refusal,) = result.refusals
    assert refusal.where == f"projects/{encode_folder_name(ann.root)}"
    assert refusal.reason == "its transcripts do not tell which project it belongs to"
    assert "init" in refusal.remedy


def test_a_folder_with_memory_alone_is_reported(ann: FakeMachine) -> None:
    ann.remember("a.md", "x")
    (refusal,) = ann.survey().refusals
    assert refusal.reason == "no transcript tells which project it belongs to"


def test_a_folder_with_memory_alone_is_known_by_a_checkout_of_that_name(ann: FakeMachine) -> None:
    ann.remember("a.md", "x")
    scope = Scope(roots=(LocalPath(f"{ann.home}/src"),))
    assert projects(ann, scope) == {ann.root: APP}
    ann.remember("a.md", "x", root=f"{ann.home}/src/unknown")
    assert len(ann.survey(scope).refusals) == 1


def test_an_empty_folder_and_a_stray_file_are_nothing(ann: FakeMachine) -> None:
    ann.files.make_folder(f"{ann.machine.projects_dir}/-empty")
    ann.files.write(f"{ann.machine.projects_dir}/notes.txt", b"x")
    ann.files.write(f"{ann.machine.projects_dir}/-other/settings.json", b"x")
    result = ann.survey()
    assert (result.replicas, result.refusals, result.halted) == ([], [], None)


def test_a_linked_folder_is_reported_and_not_followed(ann: FakeMachine) -> None:
    ann.files.link(f"{ann.machine.projects_dir}/-linked", "/elsewhere")
    (refusal,) = ann.survey().refusals
    assert refusal.reason == "is a symbolic link"


def test_an_unreadable_folder_does_not_stop_the_others(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.checkout(f"{ann.home}/src/zoo")
    ann.say(sid(2), "hello", root=f"{ann.home}/src/zoo")

    def forbid(verb: str, path: LocalPath) -> None:
        if verb == "read" and "zoo" in path:
            raise PermissionError(13, "Permission denied", path)

    ann.files.before = forbid
    result = ann.survey()
    assert [one.project for one in result.replicas] == [APP]
    assert "Permission denied" in result.refusals[0].reason


def test_a_folder_that_cannot_be_listed_does_not_stop_the_others(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.say(sid(2), "hello", root=f"{ann.home}/src/zoo")

    def forbid(verb: str, path: LocalPath) -> None:
        if verb == "list" and "zoo" in path:
            raise RefusedInputError("may not be read")

    ann.files.before = forbid
    result = ann.survey()
    assert [one.project for one in result.replicas] == [APP]
    assert "may not be read" in result.refusals[0].reason


# -- what is wanted


@pytest.mark.parametrize("pattern", ["~/src/app", "~/src/**", "/home/ann/*/app", "~/src/app/**"])
def test_what_is_excluded_is_left_alone(ann: FakeMachine, pattern: str) -> None:
    ann.say(S, "hello")
    scope = Scope(exclude=(pattern,))
    result = ann.survey(scope)
    assert (result.replicas, result.refusals) == ([], [])
    assert result.ignored == {ann.app.folder}
    assert ann.state.replicas() == []
    assert projects(ann) == {ann.root: APP}
    assert projects(ann, scope) == {}, "also once it took part"


def test_an_exclusion_of_elsewhere_excludes_nothing(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    assert projects(ann, Scope(exclude=("~/clients/**", "~/src/ap"))) == {ann.root: APP}


def test_with_track_listed_only_what_was_named_by_hand_takes_part(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.say(sid(2), "hello", root=f"{ann.home}/src/zoo")
    listed = Scope(track_all=False)
    assert projects(ann, listed) == {}
    ann.take_part(ann.root, APP)
    assert projects(ann, listed) == {ann.root: APP}
    assert projects(ann, Scope(exclude=("~/src/**",))) == {ann.root: APP}, "by hand beats a glob"


# -- one project or two


def test_two_repositories_of_one_name_get_distinct_ids(ann: FakeMachine) -> None:
    other = f"{ann.home}/work/app"
    ann.checkout(other, "example.org/work/app")
    ann.say(S, "hello")
    ann.say(sid(2), "hello", root=other)
    found = projects(ann)
    assert found[ann.root] == "app"
    assert found[LocalPath(other)].startswith("app-")


def test_the_same_code_gets_the_same_distinct_id_everywhere(world: World) -> None:
    found = []
    for name in ("ann", "bob"):
        machine = world.machine(name)
        other = f"{machine.home}/work/app"
        machine.checkout(other, "example.org/work/app")
        machine.say(S, "hello")
        machine.say(sid(2), "hello", root=other)
        found.append(set(projects(machine).values()))
    assert found[0] == found[1]


def test_a_linked_worktree_stays_with_its_repository(ann: FakeMachine) -> None:
    tree = LocalPath(f"{ann.home}/src/app-tree")
    ann.checkout(tree, APP_URL, main_root=ann.root)
    ann.say(S, "hello", root=tree)
    ann.say(sid(2), "hello")
    result = ann.survey()
    assert {one.root: (one.project, one.primary) for one in result.replicas} == {
        ann.root: (APP, True),
        tree: (APP, False),
    }


def test_a_worktree_alone_is_the_primary_folder(ann: FakeMachine) -> None:
    tree = LocalPath(f"{ann.home}/src/app-tree")
    ann.checkout(tree, APP_URL, main_root=ann.root)
    ann.say(S, "hello", root=tree)
    (replica,) = ann.survey().replicas
    assert (replica.project, replica.primary) == (APP, True)


def test_a_moved_checkout_stays_the_same_project_and_becomes_the_primary_folder(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.survey()
    ann.converge()
    ann.checkouts.take_away(ann.root)
    ann.files.unlink(ann.root)
    moved = LocalPath(f"{ann.home}/code/app")
    ann.checkout(moved, APP_URL)
    ann.say(sid(2), "moved", root=moved)
    result = ann.survey()
    assert {one.root: (one.project, one.primary) for one in result.replicas} == {
        ann.root: (APP, False),
        moved: (APP, True),
    }


def test_a_folder_chosen_by_hand_is_the_primary_one(ann: FakeMachine) -> None:
    second = f"{ann.home}/src/zz"
    ann.checkout(second, APP_URL)
    ann.say(S, "hello")
    ann.say(sid(2), "hello", root=second)
    ann.take_part(second, APP)
    assert {one.root: one.primary for one in ann.survey().replicas} == {ann.root: False, second: True}


def test_folders_without_code_are_one_project_only_at_the_same_place(world: World, ann: FakeMachine) -> None:
    bob = world.machine("bob")
    for machine, root in ((ann, "notes"), (bob, "notes"), (bob, "old/notes")):
        at = f"{machine.home}/{root}"
        machine.files.make_folder(at)
        machine.say(sid(3), "hello", root=at)
    ann.survey()
    ann.converge(ann.replica(f"{ann.home}/notes", "notes"))
    ann.exchange("notes")
    found = projects(bob)
    assert found[LocalPath(f"{bob.home}/notes")] == "notes"
    assert found[LocalPath(f"{bob.home}/old/notes")] != "notes"
    identity = bob.identity(f"{bob.home}/notes")
    exchange(bob.store, bob.peer, HUB, {ProjectId("notes"): identity}, ())
    assert bob.tip("notes") is not None


def test_a_subfolder_of_a_repository_is_a_project_of_its_own(ann: FakeMachine) -> None:
    web = LocalPath(f"{ann.root}/web")
    ann.say(S, "hello")
    ann.say(sid(2), "hello", root=web)
    assert projects(ann) == {ann.root: APP, web: "app-web"}


def test_a_project_that_is_known_from_a_peer_is_met_again_by_its_code(world: World, ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.sync()
    bob = world.machine("bob")
    elsewhere = LocalPath(f"{bob.home}/elsewhere/clone")
    bob.checkout(elsewhere, APP_URL)
    bob.exchange()
    bob.say(sid(2), "hello", root=elsewhere)
    assert projects(bob) == {elsewhere: APP}


def test_after_the_state_was_lost_a_folder_is_met_again_by_what_this_machine_said(ann: FakeMachine) -> None:
    plain = LocalPath("/srv/plain")
    ann.files.make_folder(plain)
    ann.say(S, "hello", root=plain)
    (replica,) = ann.survey().replicas
    ann.converge(replica)
    ann.lose_state()
    assert ann.survey().replicas == [replica]


def test_a_project_can_be_chosen_for_a_root_without_a_folder(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.converge()
    other = LocalPath(f"{ann.home}/clone")
    ann.checkout(other, APP_URL)
    assert choose_project(ann.parts, ann.checkouts, encode_folder_name(other), other) == APP


def test_a_project_of_a_newer_format_does_not_stop_the_others(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.converge()
    tree = ann.tree()
    newer = ann.store.write_blob(json.dumps({"schema": 99}).encode())
    commit = Commit(
        write_project(ann.store, replace(tree, policy=newer)), (), ann.machine.author, 1, "from tomorrow"
    )
    ann.store.swap(branch("tomorrow"), None, ann.store.write_commit(commit))
    ann.say(sid(2), "hello", root=f"{ann.home}/src/zoo")
    assert set(projects(ann).values()) == {APP, "zoo"}


# -- nothing there


@pytest.mark.parametrize("left", ["missing", "empty"])
@pytest.mark.parametrize("state_too", [False, True])
def test_a_projects_folder_that_lost_everything_halts_all(
    ann: FakeMachine, left: str, state_too: bool
) -> None:
    ann.say(S, "hello")
    ann.survey()
    ann.converge()
    ann.files.unlink(ann.machine.projects_dir)
    if left == "empty":
        ann.files.make_folder(ann.machine.projects_dir)
    if state_too:
        ann.lose_state()
        ann.take_part(ann.root, APP, by_hand=False)
    result = ann.survey()
    assert result.halted == f"the projects folder {ann.machine.projects_dir} is {left}"
    assert result.replicas == []


def test_what_the_store_remembers_is_enough_to_halt(ann: FakeMachine) -> None:
    ann.say(S, "hello")
    ann.survey()
    ann.ingest()
    ann.state.forget_files(ann.app.folder)
    ann.files.unlink(ann.machine.projects_dir)
    assert ann.survey().halted is not None


def test_a_machine_that_never_held_anything_is_not_halted(ann: FakeMachine) -> None:
    ann.files.unlink(ann.machine.projects_dir)
    ann.take_part(ann.root, APP)
    result = ann.survey()
    assert result.halted is None
    assert [one.project for one in result.replicas] == [APP]


def test_first_use_without_any_projects_folder_is_no_trouble(ann: FakeMachine) -> None:
    ann.files.unlink(ann.machine.projects_dir)
    result = ann.survey()
    assert (result.replicas, result.refusals, result.halted) == ([], [], None)


# -- checkouts that moved


def gone(machine: FakeMachine, root: str | None = None) -> None:
    """The checkout is not there any more."""
    at = root or machine.root
    machine.checkouts.take_away(at)
    machine.files.unlink(at)


def moves(machine: FakeMachine, to: str, url: str | None = APP_URL) -> LocalPath:
    """The checkout of `app` is at `to` now."""
    gone(machine)
    machine.checkout(to, url)
    return LocalPath(to)


@pytest.fixture
def settled(ann: FakeMachine) -> FakeMachine:
    """A machine with two sessions and a note in step, another of whose sessions was removed since."""
    for number in (1, 2, 3):
        ann.say(sid(number), f"in {ann.root}")
    ann.remember("a.md", f"see {ann.root}\n")
    (replica,) = ann.survey().replicas
    ann.converge(replica)
    ann.converge(replica)
    ann.files.unlink(ann.transcript(sid(3)))
    ann.converge(replica)
    return ann


def test_a_checkout_that_moved_is_followed_before_any_client_runs_there(settled: FakeMachine) -> None:
    ann = settled
    moved = moves(ann, f"{ann.home}/code/app")
    result = ann.survey(Scope(roots=(LocalPath(f"{ann.home}/code"),)))
    assert [(one.former.root, one.note.root) for one in result.moved] == [(ann.root, moved)]
    assert {one.root: one.primary for one in result.replicas} == {ann.root: False, moved: True}
    old, new = sorted(result.replicas, key=lambda one: one.primary)
    ann.converge(old)
    done = ann.converge(new)
    assert done.localize is not None
    assert done.localize.settled
    assert ann.sessions(moved) == {sid(1), sid(2)}, "what was removed stays removed"
    assert ann.texts(S, moved) == [f"in {moved}"]
    assert ann.notes(moved) == {"a.md": f"see {moved}\n"}
    assert ann.sessions() == {sid(1), sid(2)}, "the old folder stays as it is"
    assert ann.head(new) == ann.tip()
    again = ann.survey(Scope(roots=(LocalPath(f"{ann.home}/code"),)))
    assert again.moved == []
    before = ann.tip()
    assert ann.converge(new).ingest.commit is None
    assert ann.tip() == before


def test_what_was_removed_stays_so_where_a_client_ran_at_the_new_place_first(settled: FakeMachine) -> None:
    ann = settled
    moved = moves(ann, f"{ann.home}/code/app")
    ann.say(sid(4), "new", root=moved)
    result = ann.survey()
    assert [one.note.root for one in result.moved] == [moved]
    (new,) = (one for one in result.replicas if one.primary)
    ann.converge(new)
    ann.converge(new)
    assert ann.sessions(moved) == {sid(1), sid(2), sid(4)}
    assert set(ann.tree().sessions) == {sid(1), sid(2), sid(3), sid(4)}


def test_a_new_place_that_waits_for_a_client_to_end_is_no_accident(settled: FakeMachine) -> None:
    ann = settled
    moved = moves(ann, f"{ann.home}/code/app")
    (new,) = (
        one for one in ann.survey(Scope(roots=(LocalPath(f"{ann.home}/code"),))).replicas if one.primary
    )
    pid = ann.processes.begin(moved)
    for _ in range(2):
        held = ann.converge(new)
        assert held.ingest.halted is None
        assert held.localize is not None
        assert held.localize.held == 3
    ann.processes.end(pid)
    ann.converge(new)
    assert ann.sessions(moved) == {sid(1), sid(2)}


def test_by_hand_stays_by_hand_where_a_checkout_moves(settled: FakeMachine) -> None:
    ann = settled
    ann.take_part(ann.root, APP)
    moved = moves(ann, f"{ann.home}/code/app")
    listed = Scope(track_all=False, roots=(LocalPath(f"{ann.home}/code"),))
    assert projects(ann, listed) == {ann.root: APP, moved: APP}
    assert {note.root: note.by_hand for note in ann.state.replicas()} == {ann.root: True, moved: True}
    assert {one.root: one.primary for one in ann.survey(listed).replicas} == {ann.root: False, moved: True}


def test_a_checkout_that_is_gone_is_not_taken_for_one_of_several(settled: FakeMachine) -> None:
    ann = settled
    moves(ann, f"{ann.home}/code/app")
    ann.checkout(f"{ann.home}/code/app2", APP_URL)
    scope = Scope(roots=(LocalPath(f"{ann.home}/code"),))
    result = ann.survey(scope)
    assert (result.moved, result.missed) == ([], {ann.root})
    assert ann.survey(replace(scope, sought=frozenset({ann.root}))).missed == set()


@pytest.mark.parametrize("why", ["other code", "excluded", "a worktree", "another folder is there"])
def test_what_only_looks_like_a_move_is_not_followed(settled: FakeMachine, why: str) -> None:
    ann = settled
    there = f"{ann.home}/code/app"
    scope = Scope(roots=(LocalPath(f"{ann.home}/code"),))
    if why == "another folder is there":
        ann.checkout(f"{ann.home}/src/second", APP_URL)
        ann.say(sid(9), "second", root=f"{ann.home}/src/second")
        ann.survey()
    moves(ann, there, "example.org/eve/app" if why == "other code" else APP_URL)
    if why == "a worktree":
        ann.checkouts.add(there, APP_URL, main_root=f"{ann.home}/elsewhere")
    if why == "excluded":
        scope = replace(scope, exclude=("~/code/**",))
    assert ann.survey(scope).moved == []


def test_a_subfolder_of_a_repository_moves_with_it(ann: FakeMachine) -> None:
    web = f"{ann.root}/web"
    ann.files.make_folder(web)
    ann.say(S, "hello", root=web)
    (replica,) = ann.survey().replicas
    ann.converge(replica)
    moved = moves(ann, f"{ann.home}/code/app")
    ann.files.make_folder(f"{moved}/web")
    result = ann.survey(Scope(roots=(LocalPath(f"{ann.home}/code"),)))
    assert [(one.project, one.note.root) for one in result.moved] == [("app-web", f"{moved}/web")]


def test_which_code_it_was_stays_known_when_the_checkout_is_gone(settled: FakeMachine) -> None:
    ann = settled
    before = ann.tip()
    gone(ann)
    result = ann.survey()
    assert result.identities[APP].urls == {APP_URL}
    ann.converge(result.replicas[0])
    assert ann.tip() == before


def test_other_code_at_the_old_place_is_another_project(settled: FakeMachine) -> None:
    ann = settled
    ann.lose_state()
    ann.checkout(ann.root, "example.org/eve/app")
    assert set(projects(ann).values()) != {APP}


@pytest.mark.parametrize("root", ["/home/ann/a[1]b*?", "/srv/x[y]", "/home/annex/app"])
def test_an_exclusion_of_one_root_leaves_out_that_one_alone(root: str) -> None:
    home = LocalPath("/home/ann")
    scope = Scope(exclude=(exclusion_of(LocalPath(root), home),))
    assert scope.excludes(root, home)
    assert not scope.excludes(f"{root}2", home)
    assert not scope.excludes(f"{root}/sub", home)
    assert not scope.excludes("/home/ann/a1bxy", home)


def test_a_worktree_of_what_is_excluded_is_excluded(ann: FakeMachine) -> None:
    tree = f"{ann.home}/trees/app-wt"
    ann.checkout(tree, APP_URL, main_root=ann.root)
    ann.say(S, "hello", root=tree)
    assert projects(ann, Scope(exclude=("~/src/app",))) == {}
