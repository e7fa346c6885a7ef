"""The search for secrets: how fast, against hashing the same bytes, and what it makes of an append."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import random
from collections.abc import Iterator

from convergenced.canon import anchors, conversation, exact, fast, rewrite, text, transcript
from convergenced.canon.secrets import find_secrets
from tests.bench.corpus import DESKTOP, Author
from tests.bench.measure import Row, side_by_side
from tests.labelled import negatives

SID = "2af1d7f8-1206-438d-b660-8b22937b7f38"
SIZE = 24_000_000
APPEND = 2_000
SALT = b"bench"
HARD = "nothing but what looks like secrets"
LEAST = 60.0
"""MB/s in one process."""


def measure(scale: float = 1.0) -> Iterator[Row]:
    """The rows; `scale` makes the data smaller."""
    size = int(SIZE * scale)
    kinds = {
        "conversation": Author(DESKTOP, SID).transcript(size),
        "code": _filled(_code(), size),
        "signatures and images": _filled(_drawn(), size),
        HARD: _filled(b"".join(one.data for one in negatives(1, 1)), size),
    }
    for what, data in kinds.items():
        sha1, searched = side_by_side(
            lambda data=data: hashlib.sha1(data).digest(),  # type: ignore[misc]
            lambda data=data: find_secrets(data, SALT),  # type: ignore[misc]
            turns=3,
        )
        speed = len(data) / 1e6 / searched
        note = f"{searched / sha1:.0f} times as long as sha1"
        least = None if what == HARD else LEAST
        yield Row("secrets", f"search {what}", speed, "MB/s", least, "least", note)
    record = Author(DESKTOP, SID).record(APPEND)
    (once,) = side_by_side(lambda: [find_secrets(record, SALT) for _ in range(100)])
    yield Row("secrets", f"search an append of {len(record):,} bytes", once * 1e4, "\u00b5s")


def _filled(record: bytes, size: int) -> bytes:
    return record * max(1, size // len(record))


def _code() -> bytes:
    """Tool results with the program's own text."""
    sources = (anchors, conversation, exact, fast, rewrite, text, transcript)
    return b"".join(_record(inspect.getsource(source)) for source in sources)


def _drawn() -> bytes:
    """Records with base64."""
    chance = random.Random(1)
    return b"".join(_record(base64.b64encode(chance.randbytes(4000)).decode()) for _ in range(40))


def _record(content: str) -> bytes:
    return json.dumps({"type": "user", "message": {"content": content}}).encode() + b"\n"
