"""Two machines with running daemons, two projects and one hub that tests ill-treat again and again.

The daemons live on from test to test: what one fault left behind must not matter for the next. Rounds
with the hub happen when a test asks for them, as the interval is long; being asked does nothing that the
next interval would not do.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from convergenced.errors import NoDaemonError
from convergenced.machine.locations import Locations
from ctl.client import Connection
from tests.e2e.machines import PATIENCE, Machine, await_true, git, make_hub, record, stop_all

MAX_ROUNDS = 8
"""After this many looks at the hub by each machine, one after the other, all must be in step."""

PROJ, OTHER = "proj", "other"


class Host(Machine):
    """A machine with a second project, asked over its socket in this process."""

    @property
    def folders(self) -> dict[str, Path]:
        """The context folder of each project."""
        return {PROJ: self.context, OTHER: self.context.with_name(f"{self.context.name}er")}

    @property
    def roots(self) -> dict[str, Path]:
        """Where each project is checked out."""
        return {PROJ: self.project, OTHER: self.project.with_name(f"{self.project.name}er")}

    def prepare(self) -> None:
        """Makes the checkouts that tell the two projects apart."""
        for name, root in self.roots.items():
            git("init", "-q", root)
            git("-C", root, "remote", "add", "origin", f"git@example.org:team/{name}.git")

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """One request to the daemon."""
        locations = Locations.from_environment(self.environ, str(self.home))
        with Connection(locations.socket) as connection:
            answer = connection.call(method, cast("dict[str, Any]", params), timeout=PATIENCE)
        assert isinstance(answer, dict)
        return cast("dict[str, Any]", answer)

    def sync(self) -> list[str]:
        """Looks at everything now; returns in words what is not in step after that."""
        answer = self.ask("sync", wait=True, timeout=PATIENCE)
        return [f"{one['project']}: {one['text']}" for one in answer["unsynced"]]

    def is_ready(self) -> bool:
        """Whether the daemon answers and knows what takes part."""
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            return bool(self.ask("ping")["ready"])
        except NoDaemonError:
            return False

    def status(self) -> dict[str, Any]:
        """The daemon's own answer."""
        return self.ask("status")

    def states(self) -> dict[str, str]:
        """Each project's state."""
        return {one["id"]: one["state"] for one in self.status()["projects"]}

    def is_in_step(self) -> bool:
        """Whether every project is called synced and no round is under way."""
        status = self.status()
        under_way = any(peer["next_try"] is None for peer in status["peers"])
        return not under_way and {one["state"] for one in status["projects"]} == {"synced"}

    def is_quiet(self) -> bool:
        """Whether no round is under way."""
        return all(peer["next_try"] is not None for peer in self.status()["peers"])

    def told(self) -> list[str]:
        """What a person is told to look at; each comes with a remedy."""
        found = self.status()["attention"]
        assert all(one["text"] and one["fix"] for one in found), found
        return [f"{one['project'] or ''}: {one['text']}" for one in found]


@dataclass
class Cluster:
    """The machines, what was ever said on them, and the repositories that must be whole in the end."""

    top: Path
    desktop: Host
    laptop: Host
    hubs: tuple[Path, ...]
    said: dict[str, dict[str, set[str]]] = field(default_factory=lambda: {PROJ: {}, OTHER: {}})
    """By project and session, the uuids of all records."""
    whole: bool = True

    @property
    def hub(self) -> Path:
        return self.hubs[0]

    @property
    def machines(self) -> tuple[Host, Host]:
        return self.desktop, self.laptop

    def say(self, machine: Host, project: str = PROJ, *, session: str | None = None, times: int = 1) -> str:
        """Appends records to a session, a new one unless told, and remembers them for ever."""
        sid = session or str(uuid.uuid4())
        known = self.said[project].setdefault(sid, set())
        for _ in range(times):
            line = record(sid, machine.roots[project], len(known))
            path = machine.folders[project] / f"{sid}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as stream:
                stream.write(line)
            known.add(json.loads(line)["uuid"])
        return sid

    def tip(self, repository: Path, project: str = PROJ) -> str:
        """Where a project's branch stands."""
        return git("-C", repository, "rev-parse", "--verify", f"refs/heads/project/{project}").strip()

    def sync(self) -> None:
        """Both machines look at the hub, whatever they find there."""
        for machine in self.machines:
            machine.sync()

    def settle(self) -> None:
        """Nobody does anything but wait; in the end all is in step, and nothing was lost."""
        for _ in range(MAX_ROUNDS):
            left = [miss for machine in self.machines for miss in machine.sync()]
            if not left and self._at_one() and all(machine.is_in_step() for machine in self.machines):
                break
        else:
            raise AssertionError((left, [machine.log()[-2000:] for machine in self.machines]))
        self.check()
        self.whole = True

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Nobody talks to a hub meanwhile."""
        for machine in self.machines:
            machine.ask("pause", projects=[])
            await_true(machine.is_quiet, "a round is under way")
        yield
        for machine in self.machines:
            machine.ask("resume", projects=[])

    def _at_one(self) -> bool:
        stores = [machine.store for machine in self.machines]
        return all(
            len({_refs(one).get(f"refs/heads/project/{project}") for one in (*stores, *self.hubs)}) == 1
            for project in self.said
        )

    def check(self) -> None:
        """Every record is on every machine, once for each session; nothing is damaged or complained about."""
        for machine in self.machines:
            assert machine.told() == []
            for project, sessions in self.said.items():
                assert read_sessions(machine.folders[project]) == sessions, (machine.name, project)
            assert git("-C", machine.store, "fsck", "--strict", "--full", "--no-dangling") == ""
        for hub in self.hubs:
            assert git("-C", hub, "fsck", "--strict", "--full", "--no-dangling") == ""
        for project in self.said:
            for sid in self.said[project]:
                tree = git("-C", self.hub, "ls-tree", "-r", "--name-only", f"project/{project}", "segments/")
                assert sid in tree


def read_sessions(folder: Path) -> dict[str, set[str]]:
    """The uuids in each transcript; none may stand there twice."""
    found = {}
    for path in folder.glob("*.jsonl"):
        uuids = [json.loads(line)["uuid"] for line in path.read_bytes().splitlines()]
        assert len(uuids) == len(set(uuids)), path
        found[path.stem] = set(uuids)
    return found


def _refs(repository: Path) -> dict[str, str]:
    lines = git("-C", repository, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return dict(line.split(" ") for line in lines)


def make_cluster(
    top: Path, hubs: int = 1, urls: tuple[str, ...] = (), environ: dict[str, str] | None = None
) -> Cluster:
    """Both machines in step on both projects, their daemons running. `urls` replace the hubs' paths."""
    made = tuple(make_hub(top / f"hub{number or ''}.git") for number in range(hubs))
    hosts = []
    for name, place in (("desktop", "src/proj"), ("laptop", "code/proj")):
        host = Host(top / name, name, urls or made, interval="10m", project_name=place)
        host.extra = dict(environ or {})
        host.prepare()
        hosts.append(host)
    cluster = Cluster(top, hosts[0], hosts[1], made)
    for project in cluster.said:
        for host in hosts:
            cluster.say(host, project)
    try:
        for host in hosts:
            host.start()
        cluster.settle()
    except BaseException:
        stop_all(list(hosts))
        raise
    return cluster


def copy_of(repository: Path, to: Path) -> Path:
    """A repository as it is now."""
    if to.exists():
        shutil.rmtree(to)
    shutil.copytree(repository, to, symlinks=True)
    return to
