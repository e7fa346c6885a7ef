"""Apparent secrets in the bytes of transcripts and notes: what and where, never the secret itself.

Owns the one question that others ask, `find_secrets`. Promises: what it answers with lets nobody log in;
a secret has one fingerprint however it was escaped; the work is linear in the input. A finding is a guess,
made so that it is rarely wrong: what is an example, a placeholder, a variable or a mere digest is none.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter

from convergenced.canon.secrets import assigned, tokens
from convergenced.canon.secrets.assigned import find_assigned
from convergenced.canon.secrets.keys import find_keys, key_body
from convergenced.canon.secrets.tokens import Hit, find_tokens

PIECE = 256 * 1024
"""Bytes that are searched at once, about: what is in the processor's cache is searched twice as fast."""

FINGERPRINT_DIGITS = 12

WHAT: dict[str, str] = {
    "private-key": "private key",
    "pgp-key": "PGP private key",
    "gcp-account": "key of a Google service account",
    **tokens.WHAT,
    **assigned.WHAT,
}
"""What each rule finds, in words."""

_ESCAPE = re.compile(rb"\\{1,16}(?:u00([0-7][0-9a-fA-F])|([/\"'\\]))")


@dataclass(frozen=True, slots=True)
class Secret:
    """An apparent secret: bytes `start` to `end`.

    `shown` is its beginning and its length, `fingerprint` tells it from others; neither gives it away.
    """

    rule: str
    start: int
    end: int
    shown: str
    fingerprint: str

    @property
    def what(self) -> str:
        """What it is, in words."""
        return WHAT[self.rule]


def is_fingerprint(text: str) -> bool:
    """Whether a text can be the fingerprint of a secret."""
    return len(text) == FINGERPRINT_DIGITS and set(text) <= set("0123456789abcdef")


def find_secrets(data: bytes, salt: bytes) -> list[Secret]:
    """The apparent secrets in whole records or a whole note, in their order.

    `salt` goes into the fingerprints, so that who sees one cannot try words on it.
    """
    found: list[Secret] = []
    start = 0
    while start < len(data):
        end = _end_of_piece(data, start)
        piece = data if end - start == len(data) else data[start:end]
        found.extend(_secret(piece, hit, start, salt) for hit in _hits(piece))
        start = end
    return found


def _end_of_piece(data: bytes, start: int) -> int:
    """Where the piece that begins at `start` ends: between records, never within a key of many lines."""
    if len(data) - start <= PIECE + PIECE // 2:
        return len(data)
    end = start + PIECE
    while data[start : start + 1] == b"{":
        cut = data.rfind(b"\n{", start, end) + 1
        if cut:
            return cut
        cut = data.find(b"\n{", end) + 1
        return cut or len(data)
    return len(data)


def _hits(data: bytes) -> list[Hit]:
    """What the rules find, the more telling one where two find the same."""
    kept: list[Hit] = []
    for hit in chain(find_keys(data), find_tokens(data), find_assigned(data)):
        at = bisect(kept, hit.start, key=attrgetter("start"))
        is_apart = at == 0 or kept[at - 1].end <= hit.start
        if is_apart and (at == len(kept) or hit.end <= kept[at].start):
            kept.insert(at, hit)
    return kept


def _secret(data: bytes, hit: Hit, offset: int, salt: bytes) -> Secret:
    raw = data[hit.start : hit.end]
    if hit.rule in ("private-key", "pgp-key", "gcp-account"):
        secret = key_body(raw[raw.index(b"KEY") :].partition(b"-----")[2])
        shown = f"({len(secret):,} characters)"
    else:
        secret = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]) if found[1] else found[2], raw)
        shown = _redacted(secret)
    digest = hashlib.sha256(salt + b"\0" + secret).hexdigest()
    return Secret(hit.rule, hit.start + offset, hit.end + offset, shown, digest[:FINGERPRINT_DIGITS])


def _redacted(secret: bytes) -> str:
    """The first characters of what is long enough to spare them, and how many there are."""
    spared = 4 if len(secret) >= 20 else 0
    begin = "".join(chr(byte) if 0x20 < byte < 0x7F else "?" for byte in secret[:spared])
    return f"{begin}… ({len(secret)} characters)"
