"""Hostile, damaged and foreign content at a hub, met by whole daemons over a path and over git's own wire.

What can be read is taken without the harmful entries; the rest is told with a remedy and stays out of the
stores. The other project goes on, and when the hub is in order again, so are the machines.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.cluster import OTHER, PROJ, Cluster, copy_of, make_cluster
from tests.crash.wire import Wire
from tests.e2e.machines import git, record, stop_all
from tests.profiles import DEEP

BRANCH = f"refs/heads/project/{PROJ}"
ABSENT = "1" * 40


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Cluster]]:
    """The clusters that tests share; a test that fails leaves a new one to the next."""
    found: dict[str, Cluster] = {}
    yield found
    for cluster in found.values():
        stop_all(list(cluster.machines))


@pytest.fixture(params=["path", "wire"])
def cluster(kept: dict[str, Cluster], tmp_path: Path, request: pytest.FixtureRequest) -> Cluster:
    """Two machines in step with a hub that each reaches in the same way."""
    way = request.param
    if way in kept and not kept[way].whole:
        stop_all(list(kept[way].machines))
        del kept[way]
    if way not in kept:
        folder = tmp_path / "cluster"
        folder.mkdir()
        wire = Wire.lay(folder)
        urls = (wire.url(folder / "hub.git"),) if way == "wire" else ()
        kept[way] = make_cluster(folder, urls=urls, environ=wire.environ)
    kept[way].whole = False
    return kept[way]


class Forge:
    """Writes objects that no git program would, as a hostile peer can."""

    def __init__(self, hub: Path) -> None:
        self.hub = hub

    def object(self, kind: str, data: bytes) -> str:
        whole = f"{kind} {len(data)}\0".encode() + data
        oid = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
        return self.file(oid, zlib.compress(whole, 1))

    def file(self, oid: str, content: bytes) -> str:
        path = self.hub / "objects" / oid[:2] / oid[2:]
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_bytes(content)
        return oid

    def blob(self, data: bytes) -> str:
        return self.object("blob", data)

    def tree(self, *entries: tuple[str, str, str]) -> str:
        """A tree of (mode, name, id) in the order given."""
        raw = b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(oid) for mode, name, oid in entries)
        return self.object("tree", raw)

    def memory(self, *entries: tuple[str, str, str]) -> str:
        """The tree of a project that has only these notes."""
        return self.context(("40000", "memory", self.tree(*entries)))

    def context(self, *entries: tuple[str, str, str]) -> str:
        """The tree of a project that has only this context, and the documents of the present one."""
        kept = self.present() | {"context": ("40000", "context", self.tree(*entries))}
        return self.tree(*(kept[name] for name in sorted(kept)))

    def with_document(self, name: str, data: bytes) -> str:
        """The present tree with other bytes in one of its documents."""
        entries = self.present() | {name: ("100644", name, self.blob(data))}
        return self.tree(*(entries[known] for known in sorted(entries)))

    def present(self) -> dict[str, tuple[str, str, str]]:
        """The entries of the branch's root, by name."""
        found = {}
        for line in git("-C", self.hub, "ls-tree", BRANCH).splitlines():
            mode, _, oid, name = line.replace("\t", " ").split(" ", 3)
            found[name] = (mode.lstrip("0"), name, oid)
        return found

    def commit(self, tree: str, *, parent: bool = True) -> str:
        """Puts a commit with this tree on the project's branch."""
        person = "somebody <somebody@example.org> 1700000000 +0000"
        before = f"parent {git('-C', self.hub, 'rev-parse', BRANCH).strip()}\n" if parent else ""
        text = f"tree {tree}\n{before}author {person}\ncommitter {person}\n\nby somebody\n"
        commit = self.object("commit", text.encode())
        (self.hub / BRANCH).write_text(f"{commit}\n")
        return commit


def up(forge: Forge) -> str:
    return forge.memory(("40000", "..", forge.tree(("100644", "evil.md", forge.blob(b"evil\n")))))


def dot_git(forge: Forge) -> str:
    return forge.memory(("40000", ".GIT", forge.tree(("100644", "config", forge.blob(b"evil\n")))))


def missing_blob(forge: Forge) -> str:
    return forge.memory(("100644", "note.md", ABSENT))


def missing_tree(forge: Forge) -> str:
    return forge.context(("40000", "memory", ABSENT))


def tree_that_is_a_blob(forge: Forge) -> str:
    return forge.context(("40000", "memory", forge.blob(b"a note\n")))


def root_that_is_a_blob(forge: Forge) -> str:
    return forge.blob(b"a note\n")


def tree_under_a_wrong_name(forge: Forge) -> str:
    """A tree whose bytes stand for another id, so that it could name itself."""
    raw = b"40000 memory\0" + bytes.fromhex(ABSENT)
    forge.file(ABSENT, zlib.compress(b"tree %d\0" % len(raw) + raw))
    return forge.context(("40000", "memory", ABSENT))


def unsorted(forge: Forge) -> str:
    note = forge.blob(b"a note\n")
    return forge.memory(("100644", "z.md", note), ("100644", "a.md", note))


def declared_larger_than_any(forge: Forge) -> str:
    """A blob that says it has 2 GiB."""
    data = zlib.compress(b"blob %d\0" % (2 << 30) + b"x" * 100)
    oid = "2" * 40
    forge.file(oid, data)
    return forge.memory(("100644", "note.md", oid))


def bomb_under_a_small_name(forge: Forge) -> str:
    """A blob that says it has ten bytes and inflates to 512 MiB."""
    packer = zlib.compressobj(9)
    data = packer.compress(b"blob 10\0")
    for _ in range(512):
        data += packer.compress(bytes(1 << 20))
    oid = "3" * 40
    forge.file(oid, data + packer.flush())
    return forge.memory(("100644", "note.md", oid))


REFUSED: tuple[Callable[[Forge], str], ...] = (
    up,
    dot_git,
    missing_blob,
    missing_tree,
    tree_that_is_a_blob,
    root_that_is_a_blob,
    tree_under_a_wrong_name,
    unsorted,
    declared_larger_than_any,
    bomb_under_a_small_name,
)
SELECTED = (up, missing_blob, tree_that_is_a_blob, tree_under_a_wrong_name, declared_larger_than_any)


@pytest.mark.parametrize("make", REFUSED if DEEP else SELECTED)
def test_what_git_itself_would_not_have_is_told_of_and_never_enters_a_store(
    cluster: Cluster, tmp_path: Path, make: Callable[[Forge], str]
) -> None:
    sound = copy_of(cluster.hub, tmp_path / "sound.git")
    commit = Forge(cluster.hub).commit(make(Forge(cluster.hub)))
    for project in cluster.said:
        cluster.say(cluster.desktop, project)
    misses = cluster.desktop.sync()
    assert [miss.partition(":")[0] for miss in misses] == [PROJ], misses
    assert any(text.startswith(f"{PROJ}: ") for text in cluster.desktop.told())
    states = cluster.desktop.states()
    assert (states[PROJ], states[OTHER]) == ("quarantined", "synced")
    assert git("-C", cluster.hub, "rev-parse", BRANCH).strip() == commit, "nothing is forced"
    copy_back(sound, cluster.hub)
    cluster.settle()
    for machine in cluster.machines:
        assert not list(machine.top.rglob("evil.md"))


def copy_back(sound: Path, hub: Path) -> None:
    """Somebody puts the hub in order."""
    shutil.rmtree(hub)
    shutil.copytree(sound, hub, symlinks=True)


def deep(forge: Forge) -> str:
    """A thousand folders inside each other."""
    tree = forge.tree(("100644", "note.md", forge.blob(b"deep\n")))
    for _ in range(1000):
        tree = forge.tree(("40000", "d", tree))
    return forge.memory(("40000", "d", tree))


def links(forge: Forge) -> str:
    target = forge.blob(b"/etc/passwd")
    return forge.memory(("120000", "link.md", target), ("160000", "sub", ABSENT))


def roster_no_json(forge: Forge) -> str:
    return forge.with_document("roster.json", b"{not json")


def roster_of_wrong_types(forge: Forge) -> str:
    return forge.with_document("roster.json", b"7")


def policy_no_json(forge: Forge) -> str:
    return forge.with_document("convergence.json", b"\xff\xfe")


def policy_of_wrong_types(forge: Forge) -> str:
    return forge.with_document("convergence.json", b'{"schema": "one", "policy": []}')


def roster_huge(forge: Forge) -> str:
    return forge.with_document("roster.json", b'{"participants": {}, "x": "' + b"x" * (17 << 20) + b'"}')


MENDED: tuple[Callable[[Forge], str], ...] = (
    deep,
    links,
    roster_no_json,
    roster_of_wrong_types,
    policy_no_json,
    policy_of_wrong_types,
    roster_huge,
)
SELECTED_MENDED = (deep, links, roster_of_wrong_types, policy_no_json)


@pytest.mark.parametrize("make", MENDED if DEEP else SELECTED_MENDED)
def test_what_git_takes_is_taken_without_what_could_do_harm(
    cluster: Cluster, make: Callable[[Forge], str]
) -> None:
    forge = Forge(cluster.hub)
    before = {machine.name: machine.files() for machine in cluster.machines}
    known = len(log_of(cluster))
    commit = forge.commit(make(forge))
    cluster.say(cluster.desktop)
    cluster.desktop.sync()
    log = log_of(cluster)[known:]
    assert any(one["kind"] == "quarantine" and one.get("project") == PROJ for one in log), log
    cluster.say(cluster.laptop)
    cluster.settle()
    git("-C", cluster.hub, "merge-base", "--is-ancestor", commit, BRANCH)
    for machine in cluster.machines:
        new = machine.files().keys() - before[machine.name].keys()
        assert all(name.endswith(".jsonl") for name in new), new


def log_of(cluster: Cluster) -> list[dict[str, str]]:
    """What the desktop has told of, oldest first."""
    lines = cluster.desktop.do("log", "-n", "10000", "--json").splitlines()
    return [json.loads(line) for line in lines]


def test_a_newer_schema_is_told_of_and_not_followed_and_the_other_project_goes_on(
    cluster: Cluster, tmp_path: Path
) -> None:
    sound = copy_of(cluster.hub, tmp_path / "sound.git")
    forge = Forge(cluster.hub)
    commit = forge.commit(forge.with_document("convergence.json", b'{"schema": 99}'))
    for project in cluster.said:
        cluster.say(cluster.desktop, project)
    assert [miss.partition(":")[0] for miss in cluster.desktop.sync()] == [PROJ]
    assert any("newer version" in text for text in cluster.desktop.told())
    assert cluster.desktop.states() == {PROJ: "quarantined", OTHER: "synced"}
    assert git("-C", cluster.hub, "rev-parse", BRANCH).strip() == commit
    copy_back(sound, cluster.hub)
    cluster.settle()


@pytest.mark.parametrize("lost", ["newest", "all"])
def test_a_hub_that_lost_objects_is_told_of_and_taken_again_when_it_is_repaired(
    cluster: Cluster, tmp_path: Path, lost: str
) -> None:
    sid = cluster.say(cluster.laptop, times=2)
    cluster.laptop.sync()
    sound = copy_of(cluster.hub, tmp_path / "sound.git")
    for folder in cluster.hub.glob("objects/??"):
        if lost == "all" or folder.name == cluster.tip(cluster.hub)[:2]:
            shutil.rmtree(folder)
    for project in cluster.said:
        cluster.say(cluster.desktop, project)
    misses = cluster.desktop.sync()
    assert any(miss.startswith(f"{PROJ}:") for miss in misses)
    assert cluster.desktop.states()[PROJ] != "synced"
    assert any(text.startswith((f"{PROJ}: ", ": hub")) for text in cluster.desktop.told())
    copy_back(sound, cluster.hub)
    cluster.say(cluster.laptop, session=sid)
    cluster.settle()


def stranger(forge: Forge, url: str | None) -> str:
    """The tree of a project that somebody else began under our name."""
    sid = "0f0e0d0c-0b0a-4908-8706-050403020100"
    segment = forge.blob(record(sid, "{{CC_PROJECT_ROOT}}", 0, "a stranger's"))
    session = forge.tree(("40000", "0000", forge.tree(("100644", "00", segment))))
    entries = [("40000", "segments", forge.tree(("40000", sid, session)))]
    if url is not None:
        card = {"machine_id": "eve-00000000", "host": "eve", "git_url": url}
        folder = forge.tree(("100644", "eve-00000000.json", forge.blob(json.dumps(card).encode())))
        entries.insert(0, ("40000", "machines", folder))
    return forge.tree(*entries)


@pytest.mark.parametrize("url", ["example.org/eve/proj", None])
def test_other_code_under_our_name_is_never_mixed_with_ours(cluster: Cluster, url: str | None) -> None:
    """Ours goes on under a name that both machines find by themselves."""
    forge = Forge(cluster.hub)
    theirs = forge.commit(stranger(forge, url), parent=False)
    cluster.say(cluster.desktop)
    for _ in range(3):
        cluster.sync()
    assert cluster.tip(cluster.hub) == theirs
    names = {name for machine in cluster.machines for name in machine.states() if name != OTHER}
    assert len(names) == 1
    (name,) = names
    assert name.startswith(f"{PROJ}-")
    tree = git("-C", cluster.hub, "ls-tree", "-r", "--name-only", f"project/{name}")
    assert "0f0e0d0c" not in tree
    assert all(sid in tree for sid in cluster.said[PROJ])
    for machine in cluster.machines:
        assert not list(machine.projects.rglob("0f0e0d0c*"))
        assert machine.states() == {name: "synced", OTHER: "synced"}
        assert "other code" in machine.do("log", "-n", "100")
