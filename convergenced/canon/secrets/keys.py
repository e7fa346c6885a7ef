r"""Owns what private keys look like: PEM, OpenSSH and PGP, as lines, in JSON (`\n`), numbered by a tool."""

from __future__ import annotations

import re
from collections.abc import Iterator

from convergenced.canon.search import holder
from convergenced.canon.secrets.tokens import Hit

_BEGIN = re.compile(rb"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_ACCOUNT = re.compile(rb'private_key\\{0,8}"\s{0,4}:\s{0,4}\\{0,8}"\Z')
_ESCAPE = re.compile(rb"\\{1,16}(?:u00[01][0-9a-f]|[bfnrt])")
_RUN = re.compile(rb"[A-Za-z0-9+/=]{16,}")

LONGEST = 16 * 1024
"""Bytes of a key that are looked at."""
LEAST = 60
"""Characters of base64 that the shortest private key has, nearly."""

_is_begun_in = holder(b"-----BEGIN ")


def find_keys(data: bytes) -> Iterator[Hit]:
    """All private keys; a heading without a key is none."""
    if not _is_begun_in(data):
        return
    end = 0
    for found in _BEGIN.finditer(data):
        if found.start() < end:
            continue
        end = data.find(b"-----", found.end(), found.end() + LONGEST)
        end = min(len(data), found.end() + LONGEST) if end < 0 else end
        if len(key_body(data[found.end() : end])) < LEAST:
            continue
        if b"PGP" in found[0]:
            rule = "pgp-key"
        elif _ACCOUNT.search(data, max(0, found.start() - 40), found.start()):
            rule = "gcp-account"
        else:
            rule = "private-key"
        yield Hit(rule, found.start(), end)


def key_body(data: bytes) -> bytes:
    """The base64 of a key without what stands between its lines."""
    return b"".join(_RUN.findall(_ESCAPE.sub(b" ", data).replace(b"\\/", b"/")))
