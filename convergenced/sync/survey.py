"""Which folders take part in which projects: looks at the client's projects folder as a whole.

Promises: a project root is taken from what the transcripts say, never decoded from a folder's name;
what cannot be known is reported; worktrees and moved checkouts stay with their project; two different
projects never share an id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from itertools import islice
from posixpath import join

from convergenced.canon.folder import encode_folder_name
from convergenced.canon.transcript import find_project_root, scan_cwds
from convergenced.errors import ConvergenceError, MissingObjectError, NewerSchemaError
from convergenced.machine.state import ReplicaNote
from convergenced.merge.layout import ProjectTree
from convergenced.model import Checkout, Kind, LocalPath, ProjectId, Refusal
from convergenced.ports import Checkouts
from convergenced.store.branch import PROJECTS, project_at
from convergenced.sync.identity import (
    Identity,
    distinct_name,
    folders_of,
    identity_of_checkout,
    identity_of_project,
    machine_cards,
    name_for,
)
from convergenced.sync.replica import Parts, Replica, replica_ref
from convergenced.sync.scan import scan_folder
from convergenced.sync.tips import ref_of, tip_of

LOOK_TRANSCRIPTS = 50
"""How many transcripts of a folder are looked at."""
LOOK_BYTES = 1024 * 1024
"""How far into a transcript is looked for the first `cwd`."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which projects the user wants: `track_all`, or only those named by hand; `exclude` are globs."""

    track_all: bool = True
    exclude: tuple[str, ...] = ()
    roots: tuple[LocalPath, ...] = ()
    auto_join: bool = True


@dataclass(slots=True)
class Survey:
    """What the projects folder holds."""

    replicas: list[Replica] = field(default_factory=list)
    identities: dict[ProjectId, Identity] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)
    """Folders that the user does not want to share: what happens in them is of no interest."""
    damaged: set[ProjectId] = field(default_factory=set)
    """Projects whose branch cannot be read."""
    halted: str | None = None
    """Why nothing at all is done: the projects folder is gone or empty though it held projects."""


def survey(parts: Parts, checkouts: Checkouts, scope: Scope) -> Survey:
    """Looks at every folder, keeps what is known and takes in what is new."""
    return _Surveyor(parts, checkouts, scope).run()


def choose_project(parts: Parts, checkouts: Checkouts, folder: str, root: LocalPath) -> ProjectId:
    """The project that a folder belongs to by its code: an existing one, else a new id."""
    return _Surveyor(parts, checkouts, Scope()).choose(folder, root, checkouts.inspect(root))


class _Surveyor:
    def __init__(self, parts: Parts, checkouts: Checkouts, scope: Scope) -> None:
        self._parts = parts
        self._checkouts = checkouts
        self._scope = scope
        self._notes = {note.folder: note for note in parts.state.replicas()}
        self._survey = Survey()
        self._told: dict[ProjectId, tuple[Identity, frozenset[str]]] = {}

    def run(self) -> Survey:
        listing = self._parts.files.list(self._parts.machine.projects_dir)
        if not listing and any(self._held_something(note) for note in self._notes.values()):
            what = "is missing" if listing is None else "is empty"
            self._survey.halted = f"the projects folder {self._parts.machine.projects_dir} {what}"
            return self._survey
        present = {entry.name for entry in listing or () if entry.kind is Kind.FOLDER}
        for name in sorted(present - self._notes.keys()):
            self._meet(name)
        links = [entry.name for entry in listing or () if entry.kind is Kind.LINK]
        for name in links:
            self._refuse(name, "is a symbolic link", "move the folder itself here; links are not followed")
        found = []
        for note in self._notes.values():
            if not note.by_hand and (not self._scope.track_all or self._is_excluded(note.root)):
                self._survey.ignored.add(note.folder)
                continue
            found.append(self._replica(note))
        self._survey.replicas = _with_primaries(found, self._parts, self._checkouts)
        return self._survey

    def _held_something(self, note: ReplicaNote) -> bool:
        store = self._parts.store
        replica = Replica(note.project, note.folder, note.root, primary=False)
        head = ref_of(store, replica_ref(replica))
        if head is None:
            return bool(self._parts.state.files(note.folder))
        try:
            tree, _ = project_at(store, head)
        except (NewerSchemaError, MissingObjectError):
            return True
        return bool(tree.sessions or tree.memory)

    def _refuse(self, folder: str, reason: str, remedy: str) -> None:
        self._survey.refusals.append(Refusal(f"projects/{folder}", reason, remedy))

    def _meet(self, folder: str) -> None:
        """Takes in a folder that was not known yet, if it can be told what it is."""
        if not self._scope.track_all:
            self._survey.ignored.add(folder)
            return
        context_dir = LocalPath(join(self._parts.machine.projects_dir, folder))
        try:
            scan = scan_folder(self._parts.files, context_dir)
            if scan is None or scan.is_empty:
                return
            root = self._find_root(folder, context_dir)
        except (ConvergenceError, OSError) as error:
            self._refuse(folder, f"cannot be read: {error}", "check its permissions")
            return
        if root is None:
            what = "no transcript tells" if not scan.transcripts else "its transcripts do not tell"
            self._refuse(
                folder, f"{what} which project it belongs to", "convergencectl init PATH-OF-THE-PROJECT"
            )
            return
        if self._is_excluded(root):
            self._survey.ignored.add(folder)
            return
        try:
            project = self.choose(folder, root, self._inspect(root))
        except MissingObjectError as error:
            self._refuse(folder, f"waits for the store to be healed: {error.summary}", error.hint)
            return
        note = ReplicaNote(folder, project, root, by_hand=False)
        self._parts.state.note_replica(note)
        self._notes[folder] = note

    def _find_root(self, folder: str, context_dir: LocalPath) -> LocalPath | None:
        root = find_project_root(self._cwds(context_dir), folder)
        if root is None:
            for checkout in self._checkouts.find(self._scope.roots) if self._scope.roots else ():
                if encode_folder_name(checkout.root) == folder:
                    return checkout.root
        return LocalPath(root) if root is not None else None

    def _cwds(self, context_dir: LocalPath) -> Iterator[str]:
        scan = scan_folder(self._parts.files, context_dir)
        for sid in islice(scan.transcripts, LOOK_TRANSCRIPTS) if scan is not None else ():
            yield from scan_cwds(
                self._parts.files.read(LocalPath(join(context_dir, f"{sid}.jsonl")), 0, LOOK_BYTES)
            )

    def _is_excluded(self, root: LocalPath) -> bool:
        home = self._parts.machine.home
        for pattern in self._scope.exclude:
            glob = home + pattern[1:] if pattern.startswith("~/") else pattern
            if fnmatch(root, glob) or (glob.endswith("/**") and root == glob[:-3]):
                return True
        return False

    def _inspect(self, root: LocalPath) -> Checkout | None:
        return self._checkouts.inspect(root)

    def choose(self, folder: str, root: LocalPath, checkout: Checkout | None) -> ProjectId:
        """The project a new folder belongs to: an existing one of the same code, else a new id."""
        identity = identity_of_checkout(checkout, root, self._parts.machine.home)
        name = name_for(checkout, root)
        taken = {note.project for note in self._notes.values()}
        for project in self._projects():
            try:
                known, folders = self._told_of(project)
            except MissingObjectError:
                self._survey.damaged.add(project)
                if project not in taken:
                    raise  # it may be the one
                continue
            if folder in folders or identity.is_same(known):
                return project
            taken.add(project)
        for note in self._notes.values():
            if identity.is_same(
                identity_of_checkout(self._inspect(note.root), note.root, self._parts.machine.home)
            ):
                return note.project
        if name not in taken:
            return name
        return distinct_name(name, identity, self._parts.machine.id, root)

    def _projects(self) -> list[ProjectId]:
        return [ProjectId(ref.removeprefix(PROJECTS)) for ref in sorted(self._parts.store.refs(PROJECTS))]

    def _told_of(self, project: ProjectId) -> tuple[Identity, frozenset[str]]:
        """What a project is about, and the folders that this machine once said belong to it."""
        if project not in self._told:
            store = self._parts.store
            tip = tip_of(store, project)
            assert tip is not None, project
            try:
                tree, _ = project_at(store, tip)
            except NewerSchemaError:
                tree = ProjectTree()
            mine = (card for card in machine_cards(store, tree) if card.machine_id == self._parts.machine.id)
            folders = frozenset[str]().union(*(folders_of(card) for card in mine))
            self._told[project] = identity_of_project(store, tree), folders
        return self._told[project]

    def _replica(self, note: ReplicaNote) -> Replica:
        checkout = self._inspect(note.root)
        identity = identity_of_checkout(checkout, note.root, self._parts.machine.home)
        known = self._survey.identities.get(note.project, Identity())
        self._survey.identities[note.project] = Identity(
            known.urls | identity.urls,
            known.first_commits | identity.first_commits,
            known.places | identity.places,
        )
        return Replica(
            project=note.project,
            folder=note.folder,
            root=note.root,
            primary=False,
            git_url=next(iter(identity.urls), None),
            first_commit=next(iter(identity.first_commits), None),
            by_hand=note.by_hand,
        )


def _with_primaries(replicas: Sequence[Replica], parts: Parts, checkouts: Checkouts) -> list[Replica]:
    """Marks one replica of each project as the one that takes new sessions.

    A root named by hand goes first, then one that still exists, then the main worktree.
    """

    def rank(replica: Replica) -> tuple[bool, bool, bool, str]:
        checkout = checkouts.inspect(replica.root)
        exists = checkout is not None or parts.files.list(replica.root) is not None
        return (
            not replica.by_hand,
            not exists,
            checkout is not None and checkout.is_worktree,
            replica.folder,
        )

    best: dict[ProjectId, Replica] = {}
    for replica in sorted(replicas, key=rank):
        best.setdefault(replica.project, replica)
    return [replace(replica, primary=best[replica.project] is replica) for replica in replicas]
