"""Owns the question whether bytes hold certain others, which is asked of every byte that is rewritten.

Promises what `needle in data` promises, and looks with the C library where that is Linux's: CPython's own
search takes half as long over a byte as hashing it does, the library's a quarter of that.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

_WORTHWHILE = 2048
"""Bytes from which on asking the library costs less than it saves."""


def holder(needle: bytes) -> Callable[[bytes], bool]:
    """What tells whether bytes hold the needle, a short one: the library's time grows with its length."""
    if _memmem is None:
        return lambda data: needle in data
    memmem, length = _memmem, len(needle)

    def holds(data: bytes) -> bool:
        size = len(data)
        return needle in data if size < _WORTHWHILE else memmem(data, size, needle, length) is not None

    return holds


def _find_memmem() -> Callable[[bytes, int, bytes, int], int | None] | None:
    """memmem(3); it is short, so it keeps the interpreter's lock."""
    if sys.platform != "linux":
        return None
    try:
        found = ctypes.PyDLL(None).memmem
    except (AttributeError, OSError):
        return None
    found.restype = ctypes.c_void_p
    found.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
    return found


_memmem = _find_memmem()
