"""A project's tree as values: what lies where on a branch `project/<id>`.

Owns the names on the branch. Promises: a peer's tree is taken for hostile, every entry that could
do harm on some machine is left out alone and reported, and every machine leaves out the same; what a
newer version put at the root is carried along untouched; folders of sessions that nobody asks about
are not opened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from convergenced.errors import RefusedInputError
from convergenced.merge.documents import MAX_DOCUMENT
from convergenced.merge.names import MAX_DEPTH, collision_key, find_fault, is_session_id
from convergenced.merge.roster import Policy, parse_policy, parse_roster
from convergenced.model import EMPTY_TREE, MODE_BLOB, MODE_TREE, Oid, Refusal, SessionId, TreeEntry
from convergenced.ports import Objects

MAX_FILE = 64 * 1024 * 1024
"""Bytes in a file of a session's folder or of memory, at most."""

MAX_ENTRIES = 200_000
"""Entries looked at in one part of a tree (a folder of the root, or the root itself), at most."""

MAX_SESSIONS = 64
"""Transcripts that lie in one folder, at most. Where there are more, each goes into a folder named by the
next hexadecimal digit of its session's id, so that a commit's cost does not grow with their number."""

ROSTER = "roster.json"
POLICY = "convergence.json"
MACHINES = "machines"
CONTEXT = "context"
SEGMENTS = "segments"
MEMORY = "memory"

_ROOT = frozenset({ROSTER, POLICY, MACHINES, CONTEXT, SEGMENTS})
_HEX = frozenset("0123456789abcdef")
_ID_DIGITS = 32

_FILE_MODES = frozenset({MODE_BLOB, 0o100755, 0o100664})
"""The last is what very old git wrote; neither means anything to us."""

_REMEDY = "it is ignored here; remove it on the machine that made it"


@dataclass(frozen=True, slots=True)
class SessionTree:
    """One session: its transcript as a tree of segments, and its folder as a tree.

    `flat` is the transcript as one blob, where the policy or a peer says so. A session that has both
    belongs together: `merge.session.transcript_of` gives the whole.
    """

    transcript: Oid | None = None
    flat: Oid | None = None
    folder: Oid | None = None


@dataclass(frozen=True, slots=True)
class ProjectTree:
    """What a project's branch holds. Every `Oid` is a blob's where not said otherwise."""

    roster: Oid | None = None
    policy: Oid | None = None
    machines: Mapping[str, Oid] = field(default_factory=dict)
    """By file name, such as `<machine id>.json`."""
    sessions: Mapping[SessionId, SessionTree] = field(default_factory=dict)
    memory: Mapping[str, Oid] = field(default_factory=dict)
    """By path below `context/memory/`."""
    other: tuple[TreeEntry, ...] = ()
    """Entries of the root that a newer version put there."""
    other_context: tuple[TreeEntry, ...] = ()
    """The same below `context/`. Never written to a local file."""


def read_project(objects: Objects, tree: Oid) -> tuple[ProjectTree, list[Refusal]]:
    """The project, without what had to be left out, and a word on each of those.

    Session folders are not opened: see `read_folder`. Raises `NewerSchemaError` where the project
    is written by a newer version, `MissingObjectError` where the store is damaged.
    """
    reading = _Reading(objects)
    root = reading.entries(tree, "", _ROOT.__contains__)
    parts = {entry.name: entry for entry in root}
    policy = reading.document(parts.pop(POLICY, None), POLICY)
    if policy is not None and not reading.accept(POLICY, parse_policy, policy):
        policy = None
    roster = reading.document(parts.pop(ROSTER, None), ROSTER)
    if roster is not None and not reading.accept(ROSTER, parse_roster, roster):
        roster = None
    if roster is None and root and not reading.refused(ROSTER):
        reading.refuse(ROSTER, "the branch has none", "a machine that takes part writes it")
    sessions, memory, other_context = _read_context(reading, parts.pop(CONTEXT, None))
    for sid, oid in _read_segments(reading, parts.pop(SEGMENTS, None)):
        former = sessions.get(sid, SessionTree())
        if former.transcript is None:
            sessions[sid] = SessionTree(oid, former.flat, former.folder)
        elif former.transcript != oid:
            reading.refuse(f"{SEGMENTS}: {sid}", "it is there twice", _REMEDY)
    project = ProjectTree(
        roster=roster,
        policy=policy,
        machines=_read_machines(reading, parts.pop(MACHINES, None)),
        sessions=sessions,
        memory=memory,
        other=tuple(parts.values()),
        other_context=other_context,
    )
    return project, reading.refusals


def write_project(objects: Objects, project: ProjectTree) -> Oid:
    """Keeps the project as a tree. Empty folders leave no trace."""
    context = list(project.other_context)
    segments: dict[SessionId, Oid] = {}
    for sid, session in project.sessions.items():
        if session.folder not in (None, EMPTY_TREE):
            context.append(TreeEntry(sid, MODE_TREE, session.folder))
        if session.flat is not None:
            context.append(TreeEntry(f"{sid}.jsonl", MODE_BLOB, session.flat))
        if session.transcript not in (None, EMPTY_TREE):
            segments[sid] = session.transcript
    if project.memory:
        context.append(TreeEntry(MEMORY, MODE_TREE, write_folder(objects, project.memory)))
    machines = [TreeEntry(name, MODE_BLOB, oid) for name, oid in project.machines.items()]
    root = list(project.other)
    root += _file_entry(ROSTER, project.roster)
    root += _file_entry(POLICY, project.policy)
    root += _folder_of(objects, MACHINES, machines)
    root += _folder_of(objects, CONTEXT, context)
    root += _folder_of(objects, SEGMENTS, _divide(objects, segments))
    return objects.write_tree(root)


def read_folder(objects: Objects, folder: Oid | None, where: str) -> tuple[dict[str, Oid], list[Refusal]]:
    """The files below a folder by their relative path, without what had to be left out.

    `where` names the folder in refusals, such as `context/<sid>`.
    """
    reading = _Reading(objects)
    return {} if folder is None else reading.files(folder, where), reading.refusals


def write_folder(objects: Objects, files: Mapping[str, Oid]) -> Oid:
    """Keeps files by relative path as a tree; `EMPTY_TREE` for none."""
    here: list[TreeEntry] = []
    below: dict[str, dict[str, Oid]] = {}
    for path, oid in files.items():
        name, slash, rest = path.partition("/")
        if slash:
            below.setdefault(name, {})[rest] = oid
        else:
            here.append(TreeEntry(name, MODE_BLOB, oid))
    for name, inner in below.items():
        here.append(TreeEntry(name, MODE_TREE, write_folder(objects, inner)))
    return objects.write_tree(here) if here else EMPTY_TREE


def policy_of(objects: Objects, project: ProjectTree) -> Policy:
    """What the machines of this project agreed on.

    Without a convergence.json the branch speaks for itself: it was made by context-convergence, which
    keeps transcripts flat and its one choice in the roster.
    """
    if project.policy is not None:
        return parse_policy(objects.read_blob(project.policy))
    is_flat = any(session.flat for session in project.sessions.values())
    is_cut = any(session.transcript for session in project.sessions.values())
    rewrite_home = True
    if project.roster is not None:
        rewrite_home = parse_roster(objects.read_blob(project.roster)).other.get("rewrite_home") is not False
    return Policy(rewrite_home=rewrite_home, layout="flat" if is_flat and not is_cut else "segments")


def _read_context(
    reading: _Reading, entry: TreeEntry | None
) -> tuple[dict[SessionId, SessionTree], dict[str, Oid], tuple[TreeEntry, ...]]:
    sessions: dict[SessionId, SessionTree] = {}
    memory: dict[str, Oid] = {}
    other: list[TreeEntry] = []
    for child in reading.below(entry, CONTEXT, _is_in_context):
        sid, dot, suffix = child.name.partition(".")
        if child.name == MEMORY and child.is_tree:
            memory = reading.files(child.oid, f"{CONTEXT}/{MEMORY}")
        elif is_session_id(child.name) and child.is_tree:
            former = sessions.get(SessionId(sid), SessionTree())
            sessions[SessionId(sid)] = SessionTree(None, former.flat, child.oid)
        elif is_session_id(sid) and dot + suffix == ".jsonl" and not child.is_tree:
            former = sessions.get(SessionId(sid), SessionTree())
            sessions[SessionId(sid)] = SessionTree(None, child.oid, former.folder)
        elif child.name == MEMORY or is_session_id(sid):
            reading.refuse(
                f"{CONTEXT}/{child.name}", "it should be a file or a folder, and is the other", _REMEDY
            )
        else:
            other.append(child)
    return sessions, memory, tuple(other)


def _divide(objects: Objects, segments: Mapping[SessionId, Oid], digits: str = "") -> list[TreeEntry]:
    """The entries of a folder for these transcripts, whose ids all begin with `digits` (hyphens left out)."""
    if len(segments) <= MAX_SESSIONS:
        return [TreeEntry(sid, MODE_TREE, oid) for sid, oid in segments.items()]
    groups: dict[str, dict[SessionId, Oid]] = {}
    for sid, oid in segments.items():
        groups.setdefault(_digits(sid)[len(digits)], {})[sid] = oid
    return [
        TreeEntry(digit, MODE_TREE, objects.write_tree(_divide(objects, group, digits + digit)))
        for digit, group in groups.items()
    ]


def _read_segments(
    reading: _Reading, entry: TreeEntry | None, where: str = SEGMENTS, digits: str = ""
) -> Iterator[tuple[SessionId, Oid]]:
    for child in reading.below(entry, where, _is_in_segments):
        inner = f"{where}/{child.name}"
        if is_session_id(child.name) and child.is_tree and _digits(child.name).startswith(digits):
            yield SessionId(child.name), child.oid
        elif child.name in _HEX and child.is_tree and len(digits) < _ID_DIGITS:
            yield from _read_segments(reading, child, inner, digits + child.name)
        else:
            reading.refuse(inner, "it is no session's transcript", _REMEDY)


def _digits(sid: str) -> str:
    return sid.replace("-", "")


def _read_machines(reading: _Reading, entry: TreeEntry | None) -> dict[str, Oid]:
    machines: dict[str, Oid] = {}
    for child in reading.below(entry, MACHINES, _is_card):
        where = f"{MACHINES}/{child.name}"
        if not child.name.endswith(".json"):
            reading.refuse(where, "it is no machine's card", _REMEDY)
        elif (oid := reading.document(child, where)) is not None:
            machines[child.name] = oid
    return machines


def _is_in_context(name: str) -> bool:
    return name == MEMORY or is_session_id(name.removesuffix(".jsonl"))


def _is_in_segments(name: str) -> bool:
    return is_session_id(name) or name in _HEX


def _is_card(name: str) -> bool:
    """Machines' ids are in lower case."""
    return name.endswith(".json")


def _file_entry(name: str, oid: Oid | None) -> list[TreeEntry]:
    return [] if oid is None else [TreeEntry(name, MODE_BLOB, oid)]


def _folder_of(objects: Objects, name: str, entries: list[TreeEntry]) -> list[TreeEntry]:
    return [TreeEntry(name, MODE_TREE, objects.write_tree(entries))] if entries else []


class _Reading:
    """One walk over a hostile tree: what was left out, and how much was looked at."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._looked_at: Counter[str] = Counter()
        self.refusals: list[Refusal] = []

    def refuse(self, where: str, reason: str, remedy: str = _REMEDY) -> None:
        self.refusals.append(Refusal(where, reason, remedy))

    def refused(self, where: str) -> bool:
        return any(refusal.where == where for refusal in self.refusals)

    def entries(
        self, tree: Oid, where: str, is_ours: Callable[[str], bool] = lambda _: False
    ) -> list[TreeEntry]:
        """The entries of one folder that may stay, as plain files and folders, ours first, in byte order.

        What some file system takes for one of ours is left out, even where ours is not there: in a
        merge the two would meet, and nothing may hide or crowd out a session.
        """
        part = where.partition("/")[0]
        kept: dict[str, TreeEntry] = {}
        prefix = f"{where}/" if where else ""
        found = self._objects.read_tree(tree)
        for entry in sorted(found, key=lambda entry: (not is_ours(entry.name), _name_bytes(entry))):
            self._looked_at[part] += 1
            if self._looked_at[part] > MAX_ENTRIES:
                self.refuse(where, f"the tree has more than {MAX_ENTRIES} entries; the rest is not looked at")
                break
            place = prefix + entry.name.encode("utf-8", "backslashreplace").decode("utf-8")
            key = collision_key(entry.name)
            if fault := find_fault(entry.name):
                self.refuse(place, f"its name {fault}")
            elif not entry.is_tree and entry.mode not in _FILE_MODES:
                self.refuse(place, _describe_mode(entry.mode))
            elif key != entry.name and is_ours(key):
                self.refuse(place, f"its name would hide {key!r}")
            elif key in kept:
                self.refuse(place, f"its name collides with {kept[key].name!r}")
            else:
                kept[key] = TreeEntry(entry.name, MODE_TREE if entry.is_tree else MODE_BLOB, entry.oid)
        return list(kept.values())

    def below(self, entry: TreeEntry | None, name: str, is_ours: Callable[[str], bool]) -> list[TreeEntry]:
        """The entries of a folder of the root."""
        if entry is None:
            return []
        if not entry.is_tree:
            self.refuse(name, "it should be a folder")
            return []
        return self.entries(entry.oid, name, is_ours)

    def files(self, tree: Oid, where: str, path: str = "", depth: int = 1) -> dict[str, Oid]:
        """All files below a folder, by their path from the folder where the walk began."""
        found: dict[str, Oid] = {}
        for entry in self.entries(tree, f"{where}/{path}".rstrip("/")):
            inner = path + entry.name
            if entry.is_tree and depth >= MAX_DEPTH:
                self.refuse(f"{where}/{inner}", f"it lies more than {MAX_DEPTH} folders deep")
            elif entry.is_tree:
                found |= self.files(entry.oid, where, inner + "/", depth + 1)
            elif self._objects.blob_size(entry.oid) > MAX_FILE:
                self.refuse(f"{where}/{inner}", f"it is larger than {MAX_FILE >> 20} MiB")
            else:
                found[inner] = entry.oid
        return found

    def document(self, entry: TreeEntry | None, where: str) -> Oid | None:
        """The blob of one of our JSON files, if it can be one."""
        if entry is None:
            return None
        if entry.is_tree:
            self.refuse(where, "it should be a file")
        elif self._objects.blob_size(entry.oid) > MAX_DOCUMENT:
            self.refuse(where, f"it is larger than {MAX_DOCUMENT >> 20} MiB")
        else:
            return entry.oid
        return None

    def accept(self, where: str, parse: Callable[[bytes], object], oid: Oid) -> bool:
        """Whether a document can be read; `NewerSchemaError` is not caught."""
        try:
            parse(self._objects.read_blob(oid))
        except RefusedInputError as error:
            self.refuse(where, error.summary, error.hint)
            return False
        return True


def _name_bytes(entry: TreeEntry) -> bytes:
    return entry.name.encode("utf-8", "surrogateescape")


def _describe_mode(mode: int) -> str:
    match mode:
        case 0o120000:
            return "it is a symbolic link"
        case 0o160000:
            return "it is a submodule"
    return f"it has the mode {mode:o}"
