"""Damage that keeps the structure: what fuzzing does to bytes that were once well-formed.

Pure given its `Random`, so that a seed repeats it. Needs nothing but the package under test.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from convergenced.canon.anchors import json_spellings, layers, text_spelling
from convergenced.model import Anchors
from tests.property.canon import machines

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
"""Files that a real client wrote, where they are there."""

_ANN = r"C:\Users\ann"

WINDOWS = (
    Anchors(
        "windows",
        r"C:\src\proj",
        r"C:\Users\ann\.claude\projects\C--src-proj",
        "C--src-proj",
        r"C:\Users\ann",
    ),
    Anchors("windows", r"\\host\share\p q", r"D:\c\projects\--host-share-p-q", "--host-share-p-q", "D:\\c\\"),
)

ODD = (
    Anchors("linux", "/home/jo", "/home/jo/.claude/projects/-home-jo", "-home-jo", "/home/jo"),
    Anchors("linux", "/", "/.claude/projects/-", "-", "/"),
    Anchors("linux", "/a/a/a", "/a/a/a/a", "-a-a-a", "/a"),
    Anchors("darwin", "/Users/a b/my proj", "/Users/a b/.claude/projects/x", "-Users-a-b-proj", "/Users/a b"),
    Anchors("linux", "/h/{{CC_HOME}}", "/h/.c/{{CC_HOME_LIT}}", "-h---CC-HOME--", "/h"),
    Anchors("linux", "/h/\\u002f", '/h/"', "-h--u002f", "/h/\\"),
    Anchors("linux", "/h/\udcff\udcfe", "/h/.c/-h---", "-h---", "/h"),
    Anchors("linux", "/tmp/\n\t", "/tmp/\x01", "-tmp---", "/tmp"),
)

POSIX = (*machines.ALL, *machines.ODD, *ODD)
EVERYONE = (*POSIX, *WINDOWS)

_PIECES = (
    b'"', b"\\", b'\\"', b"\\\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"\x00", b"\xff",
    b"\xc3", b"/", b"\\/", b"\\u002f", b"\\u002F", b"\\u", b"\\ud83d", b"\\u0000", b"\\n", b" ", b"-", b".",
    b"_", b"{{CC_", b"_LIT", b"}}", b"\\u007d", b"null", b"true", b"-0", b"1e999", b"NaN", b"9" * 30,
    '"é"'.encode(), "\u2028".encode(), b'"cwd":"', b'"cwd" : "/', b'"sessionId":"', b'"uuid":"',
    b'"type":"user"', b'"timestamp":"2025-11-20T10:00:00Z"', b'"type":"thinking"', b'"thinking":"',
    b'"signature":"x"', b'"type":"redacted_thinking","data":"', b'"schema":2', b'"participants":',
    b'"machine_id":"', b'"last_converged":"', b'"layout":"flat"', b'"segment_bytes":', b'"id":',
    b'"jsonrpc":"2.0"', b'"method":"', b'"params":', b'"result":', b'"error":', b'"code":-32000',
    b"100644 ", b"40000 ", b"<<<<<<< convergence\n", b"=======\n", b">>>>>>> convergence\n", b"C:\\",
    b"C:\\\\", b"/c/",
)  # fmt: skip


@lru_cache(maxsize=1)
def tokens() -> tuple[bytes, ...]:
    """What is worth putting in: anchors of everyone in every spelling, sentinels, punctuation."""
    spelled = {
        spelling
        for machine in EVERYONE
        for layer in layers(machine)
        for style in json_spellings(layer.path)
        for spelling in (*style, text_spelling(layer.path))
    }
    names = (b"PROJECT_ROOT", b"PROJECT_CONTEXT_DIR", b"ENCODED_DIR", b"HOME")
    closings = (b"}}", b"}\\u007d", b"\\u007d}", b"\\u007d\\u007d", b"\\u007D}", b"_LIT}}")
    sentinels = {b"{{CC_" + name + closing for name in names for closing in closings}
    return (*sorted(spelled), *sorted(sentinels), *_PIECES)


def mutate(data: bytes, rng: random.Random, limit: int) -> bytes:
    """The bytes after one to four changes, at most `limit` of them."""
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(_CHANGES)(data, rng)[:limit]
    return data


def corpus_samples(count: int, size: int) -> list[tuple[str, bytes]]:
    """Beginnings and middles of the corpus's files by a name to show; none where it is not there."""
    found: list[tuple[str, bytes]] = []
    for path in sorted(path for path in CORPUS.rglob("*") if path.is_file()):
        data = path.read_bytes()
        starts = sorted({0, *(at for at in range(0, len(data), max(size, len(data) // count + 1)))})
        for start in starts[:count]:
            line = data.rfind(b"\n", 0, start) + 1
            found.append((f"{path.name}@{line}", data[line : line + size]))
    return found


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randint(0, len(data))
    return start, min(len(data), start + rng.choice((0, 1, 2, 4, 16, 256)))


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice(tokens()) + data[at:]


def _replace(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.choice(tokens()) + data[end:]


def _beside(data: bytes, rng: random.Random) -> bytes:
    """Something right before or behind a token that stands there already."""
    token = rng.choice(tokens())
    at = data.find(token)
    if at < 0:
        return _insert(data, rng)
    at += rng.choice((0, len(token)))
    return data[:at] + rng.choice(tokens()) + data[at:]


def _delete(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 2, 30)) + data[end:]


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return b"\xff"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _shuffle(data: bytes, rng: random.Random) -> bytes:
    """Two parts between line ends, quotes or slashes change places."""
    mark = rng.choice((b"\n", b'"', b"/", b","))
    parts = data.split(mark)
    one, other = rng.randrange(len(parts)), rng.randrange(len(parts))
    parts[one], parts[other] = parts[other], parts[one]
    return mark.join(parts)


def _nest(data: bytes, rng: random.Random) -> bytes:
    """A part once more as the text of a JSON string, as a tool's output holds it."""
    start, end = _span(data, rng)
    text = data[start:end].decode("utf-8", "replace")
    return (
        data[:start]
        + json.dumps(text, ensure_ascii=rng.random() < 0.3).encode("utf-8", "replace")
        + data[end:]
    )


def _respell(data: bytes, rng: random.Random) -> bytes:
    """A part with slashes or other characters as escapes."""
    start, end = _span(data, rng)
    part = data[start:end]
    if rng.random() < 0.6:
        part = part.replace(b"/", rng.choice((b"\\/", b"\\u002f", b"\\u002F", b"\\", b"\\\\")))
    else:
        part = b"".join(b"\\u%04x" % byte if 0x20 < byte < 0x7F else bytes([byte]) for byte in part)
    return data[:start] + part + data[end:]


def _cut(data: bytes, rng: random.Random) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] if rng.random() < 0.5 else data[at:]


_CHANGES = (
    _insert,
    _insert,
    _replace,
    _beside,
    _beside,
    _delete,
    _repeat,
    _flip,
    _shuffle,
    _nest,
    _respell,
    _cut,
)


def choose(data: bytes, among: Sequence[Anchors]) -> tuple[Anchors, Anchors, bytes]:
    """Two participants, told by the first two bytes, and the rest."""
    head, rest = (data + b"\0\0")[:2], data[2:]
    return among[head[0] % len(among)], among[head[1] % len(among)], rest
