"""Lets a file grow at its end without touching what it has, so that the cost is that of what is added.

As the client itself appends: one write of whole lines through `O_APPEND`. What somebody else appends at the
very same moment stays in the file too. A process that dies in the middle of the write leaves an incomplete
last line, which the next one completes (`sync/localize`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from itertools import chain

from convergenced import steps
from convergenced.machine.durable import explained, sync, write_all
from convergenced.machine.targets import Target, changed, snapshot_of
from convergenced.model import Snapshot

MOST = 1 << 20
"""Bytes that are added in place, at most: few enough for one write to be over at once."""

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

_NOT_IN_PLACE = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENOENT, errno.ETXTBSY)
"""What `open` says where the file itself cannot be written to; a new one may still take its name."""


def gather(chunks: Iterator[bytes]) -> tuple[bytes | None, Iterator[bytes]]:
    """All of the chunks in one piece, None where they are more than `MOST`; and the chunks anew."""
    taken: list[bytes] = []
    size = 0
    for chunk in chunks:
        taken.append(chunk)
        size += len(chunk)
        if size > MOST:
            return None, chain(taken, chunks)
    return b"".join(taken), iter(taken)


def grow(
    target: Target, data: bytes, expect: Snapshot, mtime_ns: int, ready: Callable[[], None]
) -> Snapshot | None:
    """Adds `data` to the file, which must be `expect`, durably; None where that cannot be done in place.

    `ready` raises where nothing may be written now; it is called right before the last check. Raises
    `FileChangedError` where somebody else writes there, `ConvergenceError` where the disk refuses: then
    the file is what it was.
    """
    try:
        descriptor = os.open(target.name, _APPEND, dir_fd=target.place)
    except OSError as error:
        if error.errno in _NOT_IN_PLACE:
            return None
        with explained(f"cannot write {target.path}"):
            raise
    try:
        if os.fstat(descriptor).st_nlink > 1:
            return None  # another name, of a backup perhaps, stands for what the file was
        ready()
        if snapshot_of(os.fstat(descriptor)) != expect:
            raise changed(target.path, "it was written to")
        target.check(expect)
        steps.reached("grow.checked")
        with explained(f"cannot write {target.path}"):
            _add(descriptor, data, expect)
            steps.reached("grow.written")
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
            sync(descriptor)
            now = snapshot_of(os.fstat(descriptor))
    finally:
        os.close(descriptor)
    if now.size != expect.size + len(data):
        raise changed(target.path, "it was written to at the same time")
    return now


def _add(descriptor: int, data: bytes, expect: Snapshot) -> None:
    """Writes all or, where the disk takes no more and nobody else wrote, nothing."""
    try:
        write_all(descriptor, data)
    except OSError:
        now = os.fstat(descriptor).st_size
        if expect.size < now < expect.size + len(data):
            os.ftruncate(descriptor, expect.size)
            os.utime(descriptor, ns=(expect.mtime_ns, expect.mtime_ns))
        raise
