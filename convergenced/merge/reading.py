"""Walking over a tree that somebody else committed, which is taken for hostile.

Owns the judgement on entries. Promises: what could do harm on some machine is left out alone and
reported, and every machine leaves out the same; however large a tree is, the work is bounded; a
folder that was read from a store once is not read again, because an object never changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakKeyDictionary

from convergenced.errors import RefusedInputError
from convergenced.merge.documents import MAX_DOCUMENT
from convergenced.merge.names import MAX_DEPTH, collision_key, find_fault
from convergenced.model import EMPTY_TREE, MODE_BLOB, MODE_TREE, Oid, Refusal, TreeEntry
from convergenced.ports import Objects

MAX_FILE = 64 * 1024 * 1024
"""Bytes in a file of a session's folder or of memory, at most."""

MAX_ENTRIES = 200_000
"""Entries looked at in one part of a tree (a folder of the root, or the root itself), at most."""

MAX_KEPT = 4_096
"""Folders of one store that are kept in memory, at most."""

_FILE_MODES = frozenset({MODE_BLOB, 0o100755, 0o100664})
"""The last is what very old git wrote; neither means anything to us."""

_REMEDY = "it is ignored here; remove it on the machine that made it"


class _Kept(NamedTuple):
    """What a folder gave when it was read."""

    found: object
    refusals: tuple[Refusal, ...]
    looked_at: int


_kept: WeakKeyDictionary[Objects, dict[tuple[Oid, str], _Kept]] = WeakKeyDictionary()


def forget_folders(objects: Objects) -> None:
    """Has every folder read again: what was kept of a damaged store must not hide the damage."""
    _kept.pop(objects, None)


class Reading:
    """One walk over a hostile tree: what was left out, and how much was looked at."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.refusals: list[Refusal] = []
        self._looked_at: Counter[str] = Counter()

    def recall(self, tree: Oid, where: str) -> object:
        """What a folder gave that was read before, None where it was not. Its refusals are told again."""
        known = _kept.get(self.objects, {}).get((tree, where))
        if known is None:
            return None
        self._looked_at[_part(where)] += known.looked_at
        self.refusals += known.refusals
        return known.found

    def mark(self, where: str) -> tuple[int, int]:
        """How much was refused and looked at so far, to be given to `remember`."""
        return len(self.refusals), self._looked_at[_part(where)]

    def remember(self, tree: Oid, where: str, found: object, since: tuple[int, int]) -> None:
        """Keeps what a folder gave, with what was refused in it."""
        refused, looked_at = since
        folders = _kept.setdefault(self.objects, {})
        if len(folders) >= MAX_KEPT:
            folders.clear()
        now = self._looked_at[_part(where)]
        if now <= MAX_ENTRIES:  # else it depends on what else there is
            folders[tree, where] = _Kept(found, tuple(self.refusals[refused:]), now - looked_at)

    def refuse(self, where: str, reason: str, remedy: str = _REMEDY) -> None:
        """Leaves something out."""
        self.refusals.append(Refusal(where, reason, remedy))

    def refused(self, where: str) -> bool:
        """Whether what stands there was left out."""
        return any(refusal.where == where for refusal in self.refusals)

    def entries(
        self, tree: Oid, where: str, is_ours: Callable[[str], bool] = lambda _: False
    ) -> list[TreeEntry]:
        """The entries of one folder that may stay, as plain files and folders, ours first, in byte order.

        What some file system takes for one of ours is left out, even where ours is not there: in a
        merge the two would meet, and nothing may hide or crowd out a session.
        """
        part = _part(where)
        kept: dict[str, TreeEntry] = {}
        found = self.objects.read_tree(tree)
        for entry in sorted(found, key=lambda entry: (not is_ours(entry.name), _name_bytes(entry))):
            self._looked_at[part] += 1
            if self._looked_at[part] > MAX_ENTRIES:
                self.refuse(where, f"the tree has more than {MAX_ENTRIES} entries; the rest is not looked at")
                break
            place = _place(where, entry.name)
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

    def folder(self, entry: TreeEntry | None, name: str) -> Oid:
        """The tree of a folder of the root."""
        if entry is None:
            return EMPTY_TREE
        if not entry.is_tree:
            self.refuse(name, "it should be a folder")
            return EMPTY_TREE
        return entry.oid

    def folders(
        self, tree: Oid, where: str, is_ours: Callable[[str], bool], what: str, most: int
    ) -> list[tuple[str, Oid]]:
        """The folders in one folder that are each named by an id, `most` at most, in byte order.

        `what` says what they are: `a machine`. Ids that differ only in case are different.
        """
        part = _part(where)
        kept: list[tuple[str, Oid]] = []
        for entry in sorted(self.objects.read_tree(tree), key=_name_bytes):
            self._looked_at[part] += 1
            if len(kept) == most or self._looked_at[part] > MAX_ENTRIES:
                self.refuse(where, f"it holds more than {len(kept)}; the rest is not looked at")
                break
            if is_ours(entry.name) and entry.is_tree:
                kept.append((entry.name, entry.oid))
            else:
                self.refuse(_place(where, entry.name), f"it is not the folder of {what}")
        return kept

    def files(
        self, tree: Oid, where: str, path: str = "", depth: int = 1, largest: int | None = None
    ) -> dict[str, Oid]:
        """All files below a folder, by their path from the folder where the walk began.

        Those with more than `largest` bytes, `MAX_FILE` where nothing is said, are left out.
        """
        limit = MAX_FILE if largest is None else largest
        found: dict[str, Oid] = {}
        for entry in self.entries(tree, f"{where}/{path}".rstrip("/")):
            inner = path + entry.name
            if entry.is_tree and depth >= MAX_DEPTH:
                self.refuse(f"{where}/{inner}", f"it lies more than {MAX_DEPTH} folders deep")
            elif entry.is_tree:
                found |= self.files(entry.oid, where, inner + "/", depth + 1, largest)
            elif self.objects.blob_size(entry.oid) > limit:
                self.refuse(f"{where}/{inner}", f"it is larger than {limit >> 20} MiB")
            else:
                found[inner] = entry.oid
        return found

    def document(self, entry: TreeEntry | None, where: str, largest: int = MAX_DOCUMENT) -> Oid | None:
        """The blob of one of our files, if it can be one."""
        if entry is None:
            return None
        if entry.is_tree:
            self.refuse(where, "it should be a file")
        elif self.objects.blob_size(entry.oid) > largest:
            self.refuse(where, f"it is larger than {largest >> 20} MiB")
        else:
            return entry.oid
        return None

    def accept(self, where: str, parse: Callable[[bytes], object], oid: Oid) -> bool:
        """Whether a document can be read; `NewerSchemaError` is not caught."""
        try:
            parse(self.objects.read_blob(oid))
        except RefusedInputError as error:
            self.refuse(where, error.summary, error.hint)
            return False
        return True


def _part(where: str) -> str:
    return where.partition("/")[0]


def _place(where: str, name: str) -> str:
    shown = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return f"{where}/{shown}" if where else shown


def _name_bytes(entry: TreeEntry) -> bytes:
    return entry.name.encode("utf-8", "surrogateescape")


def _describe_mode(mode: int) -> str:
    match mode:
        case 0o120000:
            return "it is a symbolic link"
        case 0o160000:
            return "it is a submodule"
    return f"it has the mode {mode:o}"
