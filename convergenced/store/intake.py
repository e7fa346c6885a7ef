"""What was written to a repository and is not on the disk yet.

Owns new objects until they are made durable, all together, right before a ref moves: waiting for the
disk once costs as much for one object as for many. Promises: what was written can be read at once, by
any thread; objects get their names in the order in which they came; after `settle` they are durable, and
a thread whose objects were lost because the disk refused hears of it before it moves a ref; memory stays
bounded, as many objects go into a pack on the disk.
"""

from __future__ import annotations

import threading
from os.path import join

from convergenced.errors import StoreError
from convergenced.model import LocalPath, Oid
from convergenced.store.loose import Objects, write_loose_together
from convergenced.store.objects import ObjectKind
from convergenced.store.packfile import PackWriter

FEW_OBJECTS = 64
FEW_BYTES = 1024 * 1024
"""So many become loose objects; more become a pack."""

PACK_BYTES = 1 << 30
"""A pack that has grown to this size is finished."""

_HINT = "free space on the disk?"


class _Batch:
    """Objects that become durable together."""

    def __init__(self) -> None:
        self.few: Objects = {}
        self.size = 0
        self.pack: PackWriter | None = None

    def __contains__(self, oid: Oid) -> bool:
        return oid in self.few or (self.pack is not None and oid in self.pack)

    def read(self, oid: Oid) -> tuple[ObjectKind, bytes]:
        if self.pack is not None and oid in self.pack:
            return self.pack.read(oid)
        return self.few[oid]

    def put(self, oid: Oid, kind: ObjectKind, data: bytes, folder: str) -> None:
        """Adds an object, in memory where there are few."""
        self.few[oid] = kind, data
        self.size += len(data)
        if len(self.few) > FEW_OBJECTS or self.size > FEW_BYTES:
            self.pack = PackWriter(folder)
            for one, (its_kind, its_data) in self.few.items():
                self.pack.append(one, its_kind, its_data)
            self.few = {}

    def settle(self, repository: LocalPath) -> None:
        if self.pack is not None:
            self.pack.finish()
        if self.few:
            write_loose_together(repository, self.few)

    def drop(self) -> None:
        if self.pack is not None:
            self.pack.drop()


class Intake:
    """The new objects of one repository. Safe for several threads."""

    def __init__(self, repository: LocalPath) -> None:
        self._repository = repository
        self._packs = join(repository, "objects", "pack")
        self._lock = threading.Lock()
        self._settling = threading.Lock()
        self._batch = _Batch()
        self._leaving = _Batch()
        """What is just being made durable."""
        self._lost = 0
        """How often objects were lost because the disk refused."""
        self._threads = threading.local()

    def read(self, oid: Oid) -> tuple[ObjectKind, bytes] | None:
        """An object that is not settled yet; None for any other."""
        with self._lock:
            for batch in (self._batch, self._leaving):
                if oid in batch:
                    return batch.read(oid)
        return None

    def holds(self, oid: Oid) -> bool:
        """Whether the object is here, so that the calling thread need not write it again."""
        with self._lock:
            self._relied_on()
            return oid in self._batch or oid in self._leaving

    def add(self, oid: Oid, kind: ObjectKind, data: bytes) -> None:
        """Takes an object. Raises `StoreError`; then what is here is lost."""
        with self._lock:
            self._relied_on()
            batch = self._batch
            if oid in batch or oid in self._leaving:  # another thread was faster
                return
            try:
                if batch.pack is None:
                    batch.put(oid, kind, data, self._packs)
                else:
                    batch.pack.append(oid, kind, data)
            except OSError as error:
                self._batch = _Batch()
                self._lost += 1
                batch.drop()
                raise StoreError(f"{self._packs} cannot be written: {error}", _HINT) from error
            is_full = batch.pack is not None and batch.pack.size > PACK_BYTES
        if is_full:
            self._settle()

    def settle(self) -> None:
        """Makes all that was written durable.

        Raises `StoreError` where that, or anything else that this thread wrote since its last call, was lost.
        """
        try:
            self._settle()
            if getattr(self._threads, "relies_on", self._lost) != self._lost:
                raise StoreError("what was written was lost on the way to the disk", _HINT)
        finally:
            self._threads.__dict__.pop("relies_on", None)

    def _settle(self) -> None:
        with self._settling:
            with self._lock:
                batch = self._leaving = self._batch
                self._batch = _Batch()
            try:
                batch.settle(self._repository)
            except StoreError:
                self._lost += 1
                raise
            except OSError as error:
                self._lost += 1
                raise StoreError(f"{self._packs} cannot be written: {error}", _HINT) from error
            finally:
                with self._lock:
                    self._leaving = _Batch()

    def _relied_on(self) -> None:
        """The calling thread goes on as if all that was written so far will be durable."""
        if not hasattr(self._threads, "relies_on"):
            self._threads.relies_on = self._lost
