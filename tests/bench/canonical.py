"""Canonical form: how fast bytes go there and back, against hashing and parsing the same bytes."""

from __future__ import annotations

import hashlib
import re
import tracemalloc
from collections.abc import Iterator, Mapping

import orjson

from convergenced.canon.rewrite import Rewriter
from convergenced.merge.segments import SEGMENT_BYTES
from convergenced.model import Content
from tests.bench.corpus import DESKTOP, LAPTOP, Author
from tests.bench.measure import Row, exponent, side_by_side

SID = "2af1d7f8-1206-438d-b660-8b22937b7f38"
SIZE = 36_000_000


def measure(scale: float = 1.0) -> Iterator[Row]:
    """The rows; `scale` makes the data smaller."""
    data = Author(DESKTOP, SID).transcript(int(SIZE * scale))
    here, there = Rewriter(DESKTOP.anchors), Rewriter(LAPTOP.anchors)
    canonical = here.canonicalize(data, Content.JSON)
    assert here.localize(canonical, Content.JSON) == data
    records = data.splitlines()
    pieces = [canonical[at : at + SEGMENT_BYTES] for at in range(0, len(canonical), SEGMENT_BYTES)]
    sha1, forth, back, streamed = side_by_side(
        lambda: hashlib.sha1(data).digest(),
        lambda: here.canonicalize(data, Content.JSON),
        lambda: there.localize(canonical, Content.JSON),
        lambda: sum(map(len, there.localize_chunks(pieces, Content.JSON))),
    )
    megabytes = len(data) / 1e6
    yield Row(
        "canonical form",
        "canonicalize, share of sha1's speed",
        sha1 / forth,
        "x",
        0.25,
        "least",
        f"{megabytes / forth:.0f} MB/s",
    )
    yield Row(
        "canonical form",
        "localize, share of sha1's speed",
        sha1 / back,
        "x",
        0.45,
        "least",
        f"{megabytes / back:.0f} MB/s",
    )
    yield Row("canonical form", "localize a stream of segments", sha1 / streamed, "x", None, "least")
    assert all(map(_does_the_same, records, canonical.splitlines()))
    walked, forth = side_by_side(
        lambda: [orjson.dumps(_walk(orjson.loads(record))) for record in records],
        lambda: here.canonicalize(data, Content.JSON),
        turns=3,
    )
    yield Row(
        "canonical form",
        "canonicalize, times as fast as orjson and a walk",
        walked / forth,
        "x",
        10,
        "least",
    )
    sizes = [size for part in (0.03, 0.1, 0.3, 1.0) if (size := int(len(data) * part))]
    peaks = [_peak(here, data[:size]) for size in sizes]
    yield Row(
        "canonical form",
        "peak memory of a stream, over its size",
        exponent(sizes, peaks),
        "exponent",
        0.1,
        note=f"{peaks[-1] / 1e6:.1f} MB",
    )


_PLACES = {
    DESKTOP.root: "{{CC_PROJECT_ROOT}}",
    f"{DESKTOP.home}/.claude/projects/{DESKTOP.encoded}": "{{CC_PROJECT_CONTEXT_DIR}}",
    DESKTOP.encoded: "{{CC_ENCODED_DIR}}",
    DESKTOP.home: "{{CC_HOME}}",
}
_ANCHOR = re.compile(
    rf"(?<![A-Za-z0-9])(?:{'|'.join(sorted(map(re.escape, _PLACES), key=len, reverse=True))})"
    r"(?![A-Za-z0-9_-]|\.[A-Za-z0-9])"
)


_LITERAL = re.compile(r"(\{\{CC_(?:PROJECT_ROOT|PROJECT_CONTEXT_DIR|ENCODED_DIR|HOME)(?:_LIT)*)\}\}")


def _walk(value: object) -> object:
    """What a tool does that looks for anchors in parsed records: the same, but for odd spellings."""
    if isinstance(value, str):
        return _ANCHOR.sub(lambda found: _PLACES[found[0]], _LITERAL.sub(r"\1_LIT}}", value))
    if isinstance(value, dict):
        kept = _signed(value)
        return {_walk(key): inner if key in kept else _walk(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_walk(inner) for inner in value]
    return value


def _signed(value: Mapping[object, object]) -> tuple[str, ...]:
    """The keys of an object whose values are signed."""
    kind = value.get("type")
    if kind == "thinking" and value.get("signature"):
        return "thinking", "signature"
    return ("data", "signature") if kind == "redacted_thinking" else ()


def _does_the_same(record: bytes, canonical: bytes) -> bool:
    return bool(_walk(orjson.loads(record)) == orjson.loads(canonical))


def _peak(rewriter: Rewriter, data: bytes) -> float:
    chunks = (data[at : at + SEGMENT_BYTES] for at in range(0, len(data), SEGMENT_BYTES))
    tracemalloc.start()
    for _ in rewriter.canonicalize_chunks(chunks, Content.JSON):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return float(peak)
