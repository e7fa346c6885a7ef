"""Which folders take part in which projects: looks at the client's projects folder as a whole.

Promises: a project root is taken from what the transcripts say, never decoded from a folder's name;
what cannot be known is reported; worktrees and moved checkouts stay with their project; two different
projects never share an id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
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
from convergenced.sync.moving import (
    LOOK_BYTES,
    LOOK_TRANSCRIPTS,
    Moved,
    choose_former,
    hand_over,
    speaks_of,
)
from convergenced.sync.replica import Parts, Replica, replica_ref
from convergenced.sync.scan import scan_folder
from convergenced.sync.tips import ref_of, tip_of


@dataclass(frozen=True, slots=True)
class Scope:
    """Which projects the user wants: `track_all`, or only those named by hand; `exclude` are globs."""

    track_all: bool = True
    exclude: tuple[str, ...] = ()
    roots: tuple[LocalPath, ...] = ()
    auto_join: bool = True
    sought: frozenset[LocalPath] = frozenset()
    """Checkouts that are gone and are not looked for this time, because that was done a moment ago."""

    def excludes(self, root: str, home: str) -> bool:
        """Whether the user does not want what lies at `root` to be shared."""
        below = root.startswith(home.rstrip("/") + "/")
        for pattern in self.exclude:
            name = f"~{root[len(home.rstrip('/')) :]}" if below and pattern.startswith("~/") else root
            if fnmatch(name, pattern) or (pattern.endswith("/**") and name == pattern[:-3]):
                return True
        return False

    def excludes_checkout(self, checkout: Checkout | None, root: str, home: str) -> bool:
        """The same, where a linked worktree goes the way of the repository it belongs to."""
        if self.excludes(root, home):
            return True
        if checkout is None or not checkout.is_worktree:
            return False
        return self.excludes(checkout.main_root + root[len(checkout.root) :], home)


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
    moved: list[Moved] = field(default_factory=list)
    """Folders that took over from one whose checkout is gone."""
    missed: set[LocalPath] = field(default_factory=set)
    """Checkouts that are gone and were looked for in vain."""


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
        self._told: dict[ProjectId, _Told] = {}
        self._inspected: dict[LocalPath, Checkout | None] = {}
        self._present: set[str] = set()
        """The folders that stand there."""

    def run(self) -> Survey:
        listing = self._parts.files.list(self._parts.machine.projects_dir)
        if not listing and any(self._held_something(note) for note in self._notes.values()):
            what = "is missing" if listing is None else "is empty"
            self._survey.halted = f"the projects folder {self._parts.machine.projects_dir} {what}"
            return self._survey
        self._present = {entry.name for entry in listing or () if entry.kind is Kind.FOLDER}
        for name in sorted(self._present - self._notes.keys()):
            self._meet(name)
        self._follow_moves()
        links = [entry.name for entry in listing or () if entry.kind is Kind.LINK]
        for name in links:
            self._refuse(name, "is a symbolic link", "move the folder itself here; links are not followed")
        found = []
        for note in self._notes.values():
            if self._is_wanted(note):
                found.append(self._replica(note))
            else:
                self._survey.ignored.add(note.folder)
        self._survey.replicas = self._with_primaries(found)
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

    def _is_wanted(self, note: ReplicaNote) -> bool:
        return note.by_hand or (self._scope.track_all and not self._is_excluded(note.root))

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
        owner = self._owner_of(folder)
        if owner is not None:
            remedy = f"convergencectl project move {owner.root} {root}"
            self._refuse(folder, f"holds what Claude Code wrote at {owner.root}", remedy)
            return
        try:
            project = self.choose(folder, root, self._inspect(root))
        except MissingObjectError as error:
            self._refuse(folder, f"waits for the store to be healed: {error.summary}", error.hint)
            return
        former = self._left_behind().get(project)
        if former is not None:
            self._hand_over(former, root)
            return
        note = ReplicaNote(folder, project, root, by_hand=False)
        self._parts.state.note_replica(note)
        self._notes[folder] = note

    def _owner_of(self, folder: str) -> ReplicaNote | None:
        """The missing folder whose files stand here, because somebody moved it along with its checkout."""
        missing = [note for note in self._notes.values() if note.folder not in self._present]
        context_dir = LocalPath(join(self._parts.machine.projects_dir, folder))
        if not missing or folder not in self._present or speaks_of(self._parts, context_dir, folder):
            return None
        return next((note for note in missing if speaks_of(self._parts, context_dir, note.folder)), None)

    def _left_behind(self) -> dict[ProjectId, ReplicaNote]:
        """Of each project whose checkouts here are all gone, the folder that another may take over from."""
        notes: dict[ProjectId, list[ReplicaNote]] = {}
        for note in self._notes.values():
            notes.setdefault(note.project, []).append(note)
        found = {}
        for project, ones in notes.items():
            if not any(self._is_there(note.root) for note in ones):
                with suppress(MissingObjectError, NewerSchemaError):
                    former = choose_former(self._parts, filter(self._is_wanted, ones))
                    if former is not None:
                        found[project] = former
        return found

    def _is_there(self, root: LocalPath) -> bool:
        checkout = self._inspect(root)
        if checkout is not None and checkout.root == root:
            return True
        try:
            return self._parts.files.list(root) is not None
        except (ConvergenceError, OSError):
            return True  # it may not be read, so it is there

    def _hand_over(self, former: ReplicaNote, root: LocalPath) -> None:
        note = hand_over(self._parts, former, root)
        self._notes[note.folder] = note
        self._survey.moved.append(Moved(note.project, former, note))

    def _follow_moves(self) -> None:
        """Looks for checkouts that are gone; where there is one place with the same code, that is it."""
        left = {
            project: former
            for project, former in self._left_behind().items()
            if former.root not in self._scope.sought
        }
        if not left or not self._scope.roots:
            return
        checkouts = [one for one in self._checkouts.find(self._scope.roots) if not one.is_worktree]
        for project, former in left.items():
            try:
                known = self._told_of(project).identity
            except MissingObjectError:
                continue
            places = self._places_of(known, checkouts)
            if len(places) == 1 and self._owner_of(encode_folder_name(min(places))) is None:
                self._hand_over(former, places.pop())
            else:
                self._survey.missed.add(former.root)

    def _places_of(self, known: Identity, checkouts: Sequence[Checkout]) -> set[LocalPath]:
        """Where the code of a project lies among the checkouts, wherever in its repository it is."""
        home, taken = self._parts.machine.home, {note.root for note in self._notes.values()}
        if not known.has_code:
            return set()
        below = {one.partition("#")[2] for one in known.urls | known.first_commits}
        roots = {
            LocalPath(join(checkout.root, part) if part else checkout.root): checkout
            for checkout in checkouts
            for part in below
        }
        return {
            root
            for root, checkout in roots.items()
            if root not in taken
            and identity_of_checkout(checkout, root, home).is_same(known)
            and self._parts.files.list(root) is not None
            and not self._scope.excludes(root, home)
        }

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
        if not self._scope.exclude:
            return False
        return self._scope.excludes_checkout(self._inspect(root), root, self._parts.machine.home)

    def _inspect(self, root: LocalPath) -> Checkout | None:
        if root not in self._inspected:
            self._inspected[root] = self._checkouts.inspect(root)
        return self._inspected[root]

    def choose(self, folder: str, root: LocalPath, checkout: Checkout | None) -> ProjectId:
        """The project a new folder belongs to: an existing one of the same code, else a new id."""
        identity = identity_of_checkout(checkout, root, self._parts.machine.home)
        name = name_for(checkout, root)
        taken = {note.project for note in self._notes.values()}
        for project in self._projects():
            try:
                told = self._told_of(project)
            except MissingObjectError:
                self._survey.damaged.add(project)
                if project not in taken:
                    raise  # it may be the one
                continue
            once_here = folder in told.folders and not identity.is_stranger(told.identity)
            if once_here or identity.is_same(told.identity):
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

    def _told_of(self, project: ProjectId) -> _Told:
        if project not in self._told:
            store = self._parts.store
            tip = tip_of(store, project)
            try:
                tree, _ = project_at(store, tip)
            except NewerSchemaError:
                tree = ProjectTree()
            mine = [card for card in machine_cards(store, tree) if card.machine_id == self._parts.machine.id]
            self._told[project] = _Told(
                identity=identity_of_project(store, tree),
                mine=Identity(
                    frozenset(card.git_url for card in mine if card.git_url),
                    frozenset(card.first_commit for card in mine if card.first_commit),
                ),
                folders=frozenset[str]().union(*map(folders_of, mine)),
            )
        return self._told[project]

    def _replica(self, note: ReplicaNote) -> Replica:
        checkout = self._inspect(note.root)
        identity = identity_of_checkout(checkout, note.root, self._parts.machine.home)
        if not self._is_there(note.root):
            # Which code it was stays true when the checkout is gone: it is found again by that.
            with suppress(MissingObjectError):
                mine = self._told_of(note.project).mine
                identity = replace(identity, urls=mine.urls, first_commits=mine.first_commits)
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

    def _with_primaries(self, replicas: Sequence[Replica]) -> list[Replica]:
        """Marks one replica of each project as the one that takes new sessions.

        A root named by hand goes first, then one that still exists, then the main worktree.
        """

        def rank(replica: Replica) -> tuple[bool, bool, bool, str]:
            checkout = self._inspect(replica.root)
            return (
                not replica.by_hand,
                not self._is_there(replica.root),
                checkout is not None and checkout.is_worktree,
                replica.folder,
            )

        best: dict[ProjectId, Replica] = {}
        for replica in sorted(replicas, key=rank):
            best.setdefault(replica.project, replica)
        return [replace(replica, primary=best[replica.project] is replica) for replica in replicas]


@dataclass(frozen=True, slots=True)
class _Told:
    """What a project's branch says: its code, as all machines and as this one gave it, and our folders."""

    identity: Identity
    mine: Identity
    folders: frozenset[str]
