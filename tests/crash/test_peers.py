"""A hub whose branches somebody moves, deletes, restores or takes, while whole daemons run.

After each fault nobody does anything: the next rounds bring the hub and both machines to one tip, with every
record that was ever said; the other project never notices.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.cluster import OTHER, PROJ, Cluster, copy_of, make_cluster
from tests.e2e.machines import await_true, git, make_hub, stop_all
from tests.profiles import DEEP

Fault = Callable[[Cluster, Path], None]

BRANCH = f"refs/heads/project/{PROJ}"
SOMEBODY = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Cluster]]:
    """The cluster that tests share; a test that fails leaves a new one to the next."""
    found: list[Cluster] = []
    yield found
    for cluster in found:
        stop_all(list(cluster.machines))


@pytest.fixture
def cluster(kept: list[Cluster], tmp_path: Path) -> Cluster:
    """Two machines in step, with two hubs."""
    if not kept or not kept[-1].whole:
        kept.append(make_cluster(tmp_path / "cluster", hubs=2))
    kept[-1].whole = False
    return kept[-1]


def rewound(cluster: Cluster, before: Path) -> None:
    """Somebody's force-push: the branch is where it was some commits ago."""
    git("-C", cluster.hub, "update-ref", BRANCH, cluster.tip(before))


def deleted(cluster: Cluster, before: Path) -> None:
    git("-C", cluster.hub, "update-ref", "-d", BRANCH)


def all_deleted(cluster: Cluster, before: Path) -> None:
    for ref in git("-C", cluster.hub, "for-each-ref", "--format=%(refname)").split():
        git("-C", cluster.hub, "update-ref", "-d", ref)


def all_deleted_and_pruned(cluster: Cluster, before: Path) -> None:
    all_deleted(cluster, before)
    git("-C", cluster.hub, "gc", "-q", "--prune=now")


def made_anew(cluster: Cluster, before: Path) -> None:
    shutil.rmtree(cluster.hub)
    make_hub(cluster.hub)


def restored_from_a_backup(cluster: Cluster, before: Path) -> None:
    copy_of(before, cluster.hub)


def rewound_and_pruned(cluster: Cluster, before: Path) -> None:
    rewound(cluster, before)
    git("-C", cluster.hub, "gc", "-q", "--prune=now")


def packed(cluster: Cluster, before: Path) -> None:
    """Upkeep as a hub does it: every ref packed, every object in one pack."""
    git("-C", cluster.hub, "gc", "-q", "--aggressive", "--prune=now")


def rewound_to_somebodys_work(cluster: Cluster, before: Path) -> None:
    """Forced to an old commit and gone on from there with nothing new in the tree."""
    old = cluster.tip(before)
    commit = git(*SOMEBODY, "-C", cluster.hub, "commit-tree", f"{old}^{{tree}}", "-p", old, "-m", "by hand")
    git("-C", cluster.hub, "update-ref", BRANCH, commit.strip())


FAULTS: tuple[Fault, ...] = (
    rewound,
    deleted,
    all_deleted,
    all_deleted_and_pruned,
    made_anew,
    restored_from_a_backup,
    rewound_and_pruned,
    packed,
    rewound_to_somebodys_work,
)


SELECTED = (all_deleted_and_pruned, restored_from_a_backup, rewound_to_somebodys_work)


@pytest.mark.parametrize("fault", FAULTS if DEEP else SELECTED)
def test_a_hub_gets_its_history_back_from_the_machines(
    cluster: Cluster, tmp_path: Path, fault: Fault
) -> None:
    before = copy_of(cluster.hub, tmp_path / "before.git")
    sid = cluster.say(cluster.desktop)
    cluster.settle()
    lost = cluster.tip(cluster.hub)
    with cluster.at_rest():  # what is pushed while a hub prunes, no hub keeps
        fault(cluster, before)
    cluster.say(cluster.laptop, session=sid)
    cluster.say(cluster.desktop, OTHER)
    cluster.settle()
    git("-C", cluster.hub, "merge-base", "--is-ancestor", lost, BRANCH)


@pytest.mark.parametrize("fault", [rewound, deleted, made_anew])
def test_a_hub_gets_its_history_back_though_nobody_writes_anything(
    cluster: Cluster, tmp_path: Path, fault: Fault
) -> None:
    before = copy_of(cluster.hub, tmp_path / "before.git")
    cluster.say(cluster.desktop)
    cluster.settle()
    lost = cluster.tip(cluster.hub)
    with cluster.at_rest():  # what is pushed while a hub prunes, no hub keeps
        fault(cluster, before)
    cluster.settle()
    assert cluster.tip(cluster.hub) == lost


def test_a_hub_that_loses_every_push_gets_it_again_each_round(cluster: Cluster, tmp_path: Path) -> None:
    before = copy_of(cluster.hub, tmp_path / "before.git")
    sid = cluster.say(cluster.desktop)
    for machine in (*cluster.machines, *cluster.machines):
        cluster.say(machine, session=sid if machine is cluster.desktop else None)
        assert machine.sync() == []
        assert cluster.tip(cluster.hub) == cluster.tip(machine.store)
        rewound(cluster, before)
    cluster.settle()


def test_of_two_hubs_the_rewound_one_gets_from_the_machines_what_the_other_has(
    cluster: Cluster, tmp_path: Path
) -> None:
    before = copy_of(cluster.hub, tmp_path / "before.git")
    cluster.say(cluster.desktop)
    cluster.settle()
    rewound(cluster, before)
    git("-C", cluster.hubs[1], "update-ref", "-d", f"refs/heads/project/{OTHER}")
    cluster.settle()


def test_a_machine_that_was_away_brings_back_what_the_hub_and_all_others_lost(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The hub is rewound before the laptop has seen what the desktop pushed, and the desktop is off."""
    before = copy_of(cluster.hub, tmp_path / "before.git")
    cluster.say(cluster.desktop)
    cluster.desktop.sync()
    for hub in cluster.hubs:
        copy_of(before, hub)
    cluster.desktop.stop()
    cluster.say(cluster.laptop)
    assert cluster.laptop.sync() == []
    cluster.desktop.start()
    cluster.settle()


def test_a_branch_whose_ref_file_is_torn_is_told_of_and_hides_nothing_else(cluster: Cluster) -> None:
    cluster.say(cluster.desktop)
    cluster.settle()
    ref = cluster.hub / BRANCH
    whole = ref.read_bytes()
    ref.write_bytes(whole[:20])
    cluster.say(cluster.laptop)
    cluster.say(cluster.laptop, OTHER)
    assert any(f"{PROJ}: " in miss for miss in cluster.laptop.sync())
    assert cluster.laptop.states() == {PROJ: "pending", OTHER: "synced"}
    assert any(text.startswith(f"{PROJ}: ") for text in cluster.laptop.told())
    ref.write_bytes(whole)
    cluster.settle()


def test_a_hub_without_its_folder_is_told_with_the_command_that_makes_it(cluster: Cluster) -> None:
    aside = cluster.hub.rename(cluster.top / "aside.git")
    cluster.say(cluster.desktop)
    cluster.say(cluster.desktop, OTHER)
    misses = cluster.desktop.sync()
    assert {miss.partition(":")[0] for miss in misses} == {PROJ, OTHER}
    status = cluster.desktop.status()
    assert [peer["state"] for peer in status["peers"]] == ["failing", "ok"]
    assert f"git init --bare {cluster.hub}" in status["attention"][0]["fix"]
    assert cluster.tip(cluster.desktop.store) == cluster.tip(cluster.hubs[1]), "the other hub goes on"
    assert "synced" not in cluster.desktop.states().values()
    aside.rename(cluster.hub)
    await_true(lambda: not cluster.desktop.sync(), "the hub to be taken again")
    cluster.settle()
