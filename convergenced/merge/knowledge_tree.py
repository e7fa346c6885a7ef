"""The branch `knowledge` as values: its tree read and written.

Promises: a peer's tree is taken for hostile, every entry that could do harm is left out alone and reported,
and every machine leaves out the same; what a newer version put at the root or below `meta/` is carried
along untouched; equal knowledge gives an equal tree, whoever writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from convergenced.merge.knowledge import (
    FIXED_GLOBAL,
    FIXED_PROJECT,
    GLOBAL,
    MAX_DOCUMENT_BYTES,
    MAX_MACHINES,
    MAX_NOTES,
    MAX_PROJECTS,
    MEMORY,
    PROJECTS,
    DocumentPath,
    Documents,
    Knowledge,
    MachineKnowledge,
    Scope,
    is_document,
    project_scope,
)
from convergenced.merge.knowledge_files import (
    MAX_RECORDS,
    format_machine_file,
    format_records,
    read_machine_file,
    read_records,
)
from convergenced.merge.knowledge_log import format_log, read_log
from convergenced.merge.layout import write_folder
from convergenced.merge.names import is_machine_id, valid_project_id
from convergenced.merge.reading import Reading
from convergenced.model import EMPTY_TREE, MODE_BLOB, MODE_TREE, MachineId, Oid, ProjectId, Refusal, TreeEntry
from convergenced.ports import Objects

MACHINES = "machines"
CONSOLIDATED = "consolidated"
META = "meta"
MACHINE_FILE = "machine.json"
RECORDS_FILE = "last-synthesis.json"
LOG_FILE = "sync-log.json"

_RECORDS_PLACE = f"{META}/{RECORDS_FILE}"
_LOG_PLACE = f"{META}/{LOG_FILE}"

_ROOT = frozenset({MACHINES, CONSOLIDATED, META})
_META = frozenset({RECORDS_FILE, LOG_FILE})
_SCOPES = frozenset({str(GLOBAL), PROJECTS})
_HOLDER = _SCOPES | {MACHINE_FILE}
_GLOBAL_NAMES = frozenset(map(str, FIXED_GLOBAL))
_PROJECT_FOLDERS = frozenset({MEMORY} | {path.partition("/")[0] for path in FIXED_PROJECT if "/" in path})
_PROJECT_NAMES = _PROJECT_FOLDERS | {path for path in FIXED_PROJECT if "/" not in path}
_NONE: frozenset[str] = frozenset()


def read_knowledge(objects: Objects, tree: Oid) -> tuple[Knowledge, list[Refusal]]:
    """The knowledge, without what had to be left out, and a word on each of those.

    No document is opened. Raises `NewerSchemaError` where a part was written by a newer version, and
    `MissingObjectError` where the store is damaged.
    """
    reading = Reading(objects)
    known = reading.recall(tree, "")
    if isinstance(known, Knowledge):
        return known, reading.refusals
    before = reading.mark("")
    parts = {entry.name: entry for entry in reading.entries(tree, "", _ROOT.__contains__)}
    machines = _read_machines(reading, reading.folder(parts.pop(MACHINES, None), MACHINES))
    consolidated = reading.folder(parts.pop(CONSOLIDATED, None), CONSOLIDATED)
    meta = reading.folder(parts.pop(META, None), META)
    papers = {entry.name: entry for entry in reading.entries(meta, META, _META.__contains__)}
    records_oid = reading.document(papers.pop(RECORDS_FILE, None), _RECORDS_PLACE, MAX_RECORDS)
    records, other = read_records(reading, records_oid, _RECORDS_PLACE)
    log = read_log(reading, reading.document(papers.pop(LOG_FILE, None), _LOG_PLACE), _LOG_PLACE)
    knowledge = Knowledge(
        machines=machines,
        consolidated=_read_holder(reading, consolidated, CONSOLIDATED, _SCOPES)[0],
        records=records,
        log=log,
        other=other,
        others=tuple(parts.values()),
        others_meta=tuple(papers.values()),
    )
    reading.remember(tree, "", knowledge, before)
    return knowledge, reading.refusals


def write_knowledge(objects: Objects, knowledge: Knowledge) -> Oid:
    """Keeps the knowledge as a tree. Empty scopes leave no trace."""
    machines: dict[str, Oid] = {}
    for machine, known in knowledge.machines.items():
        machines[f"{machine}/{MACHINE_FILE}"] = objects.write_blob(format_machine_file(known))
        machines |= _by_path(known.documents, f"{machine}/")
    meta = [
        *knowledge.others_meta,
        *_file(objects, RECORDS_FILE, format_records(knowledge.records, knowledge.other)),
        *_file(objects, LOG_FILE, format_log(knowledge.log)),
    ]
    root = [
        *knowledge.others,
        *_folder(MACHINES, write_folder(objects, machines)),
        *_folder(CONSOLIDATED, write_folder(objects, _by_path(knowledge.consolidated))),
        *_folder(META, objects.write_tree(meta) if meta else EMPTY_TREE),
    ]
    return objects.write_tree(root)


def _read_machines(reading: Reading, tree: Oid) -> dict[MachineId, MachineKnowledge]:
    machines: dict[MachineId, MachineKnowledge] = {}
    for name, folder in reading.folders(tree, MACHINES, is_machine_id, "a machine", MAX_MACHINES):
        where = f"{MACHINES}/{name}"
        known = reading.recall(folder, where)
        if not isinstance(known, MachineKnowledge):
            before = reading.mark(where)
            documents, paper = _read_holder(reading, folder, where, _HOLDER)
            told = read_machine_file(reading, paper, f"{where}/{MACHINE_FILE}")
            known = replace(told, documents=documents)
            reading.remember(folder, where, known, before)
        machines[MachineId(name)] = known
    return machines


def _read_holder(
    reading: Reading, tree: Oid, where: str, ours: frozenset[str]
) -> tuple[dict[Scope, Documents], Oid | None]:
    """Whatever has documents by scope: a machine, or the consolidated ones. And its `machine.json`."""
    found: dict[Scope, Documents] = {}
    paper: Oid | None = None
    for entry in reading.entries(tree, where, ours.__contains__):
        inner = f"{where}/{entry.name}"
        if entry.name not in ours:
            reading.refuse(inner, "it is no part of what is shared")
        elif entry.name == MACHINE_FILE:
            paper = reading.document(entry, inner)
        elif entry.name == GLOBAL:
            found[GLOBAL] = _read_scope(reading, GLOBAL, reading.folder(entry, inner), inner)
        else:
            projects = reading.folders(
                reading.folder(entry, inner), inner, valid_project_id, "a project", MAX_PROJECTS
            )
            for name, folder in projects:
                scope = project_scope(ProjectId(name))
                found[scope] = _read_scope(reading, scope, folder, f"{inner}/{name}")
    return {scope: documents for scope, documents in found.items() if documents}, paper


def _read_scope(reading: Reading, scope: Scope, tree: Oid, where: str) -> Documents:
    known = reading.recall(tree, where)
    if isinstance(known, dict):
        return known
    before = reading.mark(where)
    found: dict[DocumentPath, Oid] = {}
    names, folders = (_GLOBAL_NAMES, _NONE) if scope == GLOBAL else (_PROJECT_NAMES, _PROJECT_FOLDERS)
    for entry in reading.entries(tree, where, names.__contains__):
        inner = f"{where}/{entry.name}"
        if entry.name in folders:
            found |= _read_notes(reading, scope, reading.folder(entry, inner), inner)
        elif not is_document(scope, entry.name):
            reading.refuse(inner, "it is no part of what is shared")
        elif (oid := reading.document(entry, inner, MAX_DOCUMENT_BYTES)) is not None:
            found[DocumentPath(entry.name)] = oid
    reading.remember(tree, where, found, before)
    return found


def _read_notes(reading: Reading, scope: Scope, tree: Oid, where: str) -> dict[DocumentPath, Oid]:
    """The documents in a folder of a scope."""
    found: dict[DocumentPath, Oid] = {}
    folder = where.rpartition("/")[2]
    for name, oid in reading.files(tree, where, largest=MAX_DOCUMENT_BYTES).items():
        if not is_document(scope, f"{folder}/{name}"):
            reading.refuse(f"{where}/{name}", "it is no part of what is shared")
        elif len(found) == MAX_NOTES:
            reading.refuse(where, f"it holds more than {MAX_NOTES} notes; the rest is not looked at")
            break
        else:
            found[DocumentPath(f"{folder}/{name}")] = oid
    return found


def _by_path(scopes: Mapping[Scope, Documents], prefix: str = "") -> dict[str, Oid]:
    return {f"{prefix}{scope}/{path}": oid for scope, paths in scopes.items() for path, oid in paths.items()}


def _file(objects: Objects, name: str, data: bytes | None) -> list[TreeEntry]:
    return [] if data is None else [TreeEntry(name, MODE_BLOB, objects.write_blob(data))]


def _folder(name: str, tree: Oid) -> list[TreeEntry]:
    return [] if tree == EMPTY_TREE else [TreeEntry(name, MODE_TREE, tree)]
