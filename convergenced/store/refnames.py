"""Which names and ids of a foreign repository are believed at all.

A peer can list anything. Promise: what passes here is safe as an argument of the git program, as a
ref of the store and as part of a refspec; everything else is treated as if it were not there.
"""

from __future__ import annotations

import re

BRANCHES = "refs/heads/"
MAX_REF = 1024
"""Characters in the name of a ref, at most."""

_OID = re.compile(r"[0-9a-f]{40}\Z")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\\ud800-\udfff]|\.\.|@\{|//")
_ZERO = "0" * 40


def is_ref_name(name: str) -> bool:
    """Whether `name` is a full ref name by git's rules (git-check-ref-format)."""
    if not name.startswith("refs/") or len(name) > MAX_REF or _FORBIDDEN.search(name):
        return False
    return all(
        part and not part.startswith(".") and not part.endswith((".lock", ".")) for part in name.split("/")
    )


def is_branch(name: str) -> bool:
    """Whether `name` is a full and well-formed branch name."""
    return name.startswith(BRANCHES) and is_ref_name(name)


def is_oid(text: str) -> bool:
    """Whether `text` is the id of something: 40 lower-case hex digits, not all zero."""
    return _OID.match(text) is not None and text != _ZERO
