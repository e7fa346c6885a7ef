"""A project's tree as values: what lies where on a branch `project/<id>`.

Owns the names on the branch. Promises: a peer's tree is taken for hostile, every entry that could
do harm on some machine is left out alone and reported, and every machine leaves out the same; what a
newer version put at the root is carried along untouched; folders of sessions that nobody asks about
are not opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

from convergenced.merge.names import is_session_id
from convergenced.merge.reading import Reading
from convergenced.merge.roster import Policy, parse_policy, parse_roster
from convergenced.merge.sessions import (
    ID_DIGITS,
    MAX_SESSIONS,
    Beside,
    Division,
    Sessions,
    SessionTree,
    digits_of,
)
from convergenced.model import EMPTY_TREE, MODE_BLOB, MODE_TREE, Oid, Refusal, SessionId, TreeEntry
from convergenced.ports import Objects

__all__ = [
    "CONTEXT",
    "MEMORY",
    "ProjectTree",
    "SessionTree",
    "policy_of",
    "read_folder",
    "read_project",
    "write_folder",
    "write_project",
]

ROSTER = "roster.json"
POLICY = "convergence.json"
MACHINES = "machines"
CONTEXT = "context"
SEGMENTS = "segments"
MEMORY = "memory"

_ROOT = frozenset({ROSTER, POLICY, MACHINES, CONTEXT, SEGMENTS})
_HEX = frozenset("0123456789abcdef")


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
    reading = Reading(objects)
    known = reading.recall(tree, "")
    if isinstance(known, ProjectTree):
        return known, reading.refusals
    before = reading.mark("")
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
    context = _read_context(reading, parts.pop(CONTEXT, None))
    segments = reading.folder(parts.pop(SEGMENTS, None), SEGMENTS)
    transcripts = _read_division(reading, segments, SEGMENTS)
    project = ProjectTree(
        roster=roster,
        policy=policy,
        machines=_read_machines(reading, parts.pop(MACHINES, None)),
        sessions=Sessions(transcripts, context.beside),
        memory=context.memory,
        other=tuple(parts.values()),
        other_context=context.other,
    )
    reading.remember(tree, "", project, before)
    return project, reading.refusals


def write_project(objects: Objects, project: ProjectTree) -> Oid:
    """Keeps the project as a tree. Empty folders leave no trace."""
    context = list(project.other_context)
    sessions = Sessions.of(project.sessions)
    for sid, beside in sessions.beside.items():
        if beside.folder is not None:
            context.append(TreeEntry(sid, MODE_TREE, beside.folder))
        if beside.flat is not None:
            context.append(TreeEntry(f"{sid}.jsonl", MODE_BLOB, beside.flat))
    if project.memory:
        context.append(TreeEntry(MEMORY, MODE_TREE, write_folder(objects, project.memory)))
    machines = [TreeEntry(name, MODE_BLOB, oid) for name, oid in project.machines.items()]
    root = list(project.other)
    root += _file_entry(ROSTER, project.roster)
    root += _file_entry(POLICY, project.policy)
    root += _folder_of(objects, MACHINES, machines)
    root += _folder_of(objects, CONTEXT, context)
    if sessions.transcripts.count:
        root.append(TreeEntry(SEGMENTS, MODE_TREE, sessions.transcripts.write(objects)))
    return objects.write_tree(root)


def read_folder(objects: Objects, folder: Oid | None, where: str) -> tuple[dict[str, Oid], list[Refusal]]:
    """The files below a folder by their relative path, without what had to be left out.

    `where` names the folder in refusals, such as `context/<sid>`.
    """
    reading = Reading(objects)
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


@dataclass(frozen=True, slots=True)
class _Context:
    """What is below `context/`."""

    beside: Mapping[SessionId, Beside]
    memory: Mapping[str, Oid]
    other: tuple[TreeEntry, ...]


def _read_context(reading: Reading, entry: TreeEntry | None) -> _Context:
    tree = reading.folder(entry, CONTEXT)
    known = reading.recall(tree, CONTEXT)
    if isinstance(known, _Context):
        return known
    before = reading.mark(CONTEXT)
    beside: dict[SessionId, Beside] = {}
    memory: dict[str, Oid] = {}
    other: list[TreeEntry] = []
    for child in reading.entries(tree, CONTEXT, _is_in_context):
        sid, dot, suffix = child.name.partition(".")
        if child.name == MEMORY and child.is_tree:
            memory = reading.files(child.oid, f"{CONTEXT}/{MEMORY}")
        elif is_session_id(child.name) and child.is_tree:
            if child.oid != EMPTY_TREE:
                beside[SessionId(sid)] = Beside(beside.get(SessionId(sid), Beside()).flat, child.oid)
        elif is_session_id(sid) and dot + suffix == ".jsonl" and not child.is_tree:
            beside[SessionId(sid)] = Beside(child.oid, beside.get(SessionId(sid), Beside()).folder)
        elif child.name == MEMORY or is_session_id(sid):
            reading.refuse(f"{CONTEXT}/{child.name}", "it should be a file or a folder, and is the other")
        else:
            other.append(child)
    found = _Context(beside, memory, tuple(other))
    reading.remember(tree, CONTEXT, found, before)
    return found


def _read_division(reading: Reading, tree: Oid, where: str, digits: str = "") -> Division:
    """A folder of transcripts whose ids begin with `digits`; one that is not as we write it is mended."""
    known = reading.recall(tree, where)
    if isinstance(known, Division):
        return known
    before = reading.mark(where)
    sessions: dict[SessionId, Oid] = {}
    children: dict[str, Division] = {}
    for child in reading.entries(tree, where, _is_in_segments):
        inner = f"{where}/{child.name}"
        if is_session_id(child.name) and child.is_tree and digits_of(child.name).startswith(digits):
            sessions[SessionId(child.name)] = child.oid
        elif child.name in _HEX and child.is_tree and len(digits) < ID_DIGITS:
            children[child.name] = _read_division(reading, child.oid, inner, digits + child.name)
        else:
            reading.refuse(inner, "it is no session's transcript")
    found = Division(sessions, children)
    found.oid, found.home = tree, reading.objects
    is_ours = (not children and found.count <= MAX_SESSIONS) or (not sessions and found.count > MAX_SESSIONS)
    if not is_ours or reading.mark(where)[0] != before[0] or EMPTY_TREE in sessions.values():
        for sid, oid in chain.from_iterable(child.items() for child in children.values()):
            if sessions.setdefault(sid, oid) != oid:
                reading.refuse(f"{where}: {sid}", "it is there twice")
        found = Division.of({sid: oid for sid, oid in sessions.items() if oid != EMPTY_TREE}, len(digits))
    reading.remember(tree, where, found, before)
    return found


def _read_machines(reading: Reading, entry: TreeEntry | None) -> dict[str, Oid]:
    machines: dict[str, Oid] = {}
    for child in reading.entries(reading.folder(entry, MACHINES), MACHINES, _is_card):
        where = f"{MACHINES}/{child.name}"
        if not child.name.endswith(".json"):
            reading.refuse(where, "it is no machine's card")
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
