"""A document as it stands on this machine: its bytes, and what of them is shared in which spelling.

Owns the step from a local file to canonical form and back. Promises: what would not come back byte for byte
is refused alone; a file that holds just what a canonical document looks like here is known to be that very
document, also where its spelling could not be told from the file.
"""

from __future__ import annotations

from dataclasses import dataclass

from convergenced.errors import FileChangedError, MissingObjectError, RefusedInputError
from convergenced.knowledge.places import Place
from convergenced.merge.client_settings import shared_settings
from convergenced.merge.knowledge import MAX_DOCUMENT_BYTES, SETTINGS
from convergenced.model import Oid, Snapshot
from convergenced.ports import Files, Objects
from convergenced.store.objects import object_id


@dataclass(frozen=True, slots=True)
class LocalDocument:
    """One file as it was read at one moment.

    `shared` is the part that is shared, in local form: all but in settings, which have keys that belong to
    this machine. `left_out` names those. `oid` is the blob of `canonical`.
    """

    snapshot: Snapshot
    data: bytes
    shared: bytes
    left_out: tuple[str, ...]
    canonical: bytes
    oid: Oid


def read_local(files: Files, place: Place) -> LocalDocument | None:
    """The document at its place; None where no file is there.

    Raises `RefusedInputError` for what cannot be shared, `FileChangedError` where it is being written.
    """
    snapshot = files.stat(place.local)
    if snapshot is None:
        return None
    if snapshot.size > MAX_DOCUMENT_BYTES:
        raise RefusedInputError(
            f"{place.local} is larger than {MAX_DOCUMENT_BYTES} bytes", "it is not shared; make it shorter"
        )
    data = files.read(place.local, 0, MAX_DOCUMENT_BYTES + 1)
    if files.stat(place.local) != snapshot or len(data) != snapshot.size:
        raise FileChangedError(f"{place.local} is being written", "it is looked at again")
    shared, left_out = shared_part(place, data)
    canonical = place.rewriter.canonicalize(shared, place.content)
    if place.rewriter.localize(canonical, place.content) != shared:
        raise RefusedInputError(
            f"{place.local} spells paths in a way that other machines could not give back",
            "it is not shared; write the paths in it alike",
        )
    return LocalDocument(snapshot, data, shared, left_out, canonical, object_id("blob", canonical))


def shared_part(place: Place, data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """What of a file is shared, and the settings that are not. Raises `RefusedInputError`."""
    return shared_settings(data) if place.path == SETTINGS else (data, ())


def localized(objects: Objects, place: Place, document: Oid) -> bytes:
    """A canonical document as it looks here. Raises `MissingObjectError`."""
    return place.rewriter.localize(objects.read_blob(document), place.content)


def is_same_here(objects: Objects, place: Place, local: LocalDocument, document: Oid | None) -> bool:
    """Whether the file holds just what a canonical document looks like here.

    Canonical text may hold a path of another machine that means something else here: the file alone does
    not tell.
    """
    if document is None or local.oid == document:
        return document is not None
    try:
        return shared_part(place, localized(objects, place, document))[0] == local.shared
    except (MissingObjectError, RefusedInputError):
        return False
