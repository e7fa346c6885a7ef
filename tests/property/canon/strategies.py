"""Hypothesis strategies that make bytes full of anchors, near-anchors, sentinels and escapes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hypothesis import strategies as st

from convergenced.canon.anchors import json_spellings, layers, text_spelling
from convergenced.model import Anchors

NAMES = ("PROJECT_ROOT", "PROJECT_CONTEXT_DIR", "ENCODED_DIR", "HOME")

_CLOSINGS = (b"}}", rb"}\u007d", rb"\u007d}", rb"\u007d\u007d", rb"\u007D}")
_PIECES = (
    b"/", b"-", b".", b"_", b"x", b"n", b" ", b":", b"{", b"}", b"\n", b"\r", b"\x00", b"\xff", "é".encode(),
    "\u2028".encode(), b"\\", b"\\\\", b'\\"', b"\\/", b"\\n", b"\\\\n", b"\\b", b"\\q", b"\\u", b"\\u00",
    b"\\u001b", b"\\u00e9", b"\\u0041", b"\\u002f", b"\\u002F", b"\\u002e", b"\\ud83d\\ude00", b"\\ud800",
    b"\\u005f", b'"', b'"thinking":"', b'"signature":"x"', b".x", b".\\n", b".\\u0041", b"src", b"proj",
    b"/src/proj", b"/code/proj", b"/.claude/projects/", b"home", b"{{CC_", b"{{CC_OTHER}}", b"_LIT", b"}}",
    b"/etc/claude/projects/", b"{{CC_HOME", b"{{", b"\\u007d", b"a", b"9", b"|", b"$",
)  # fmt: skip


def spellings(machines: Sequence[Anchors], *, depth: int) -> list[bytes]:
    """All spellings of all anchors of the machines in JSON, up to `depth`."""
    found = [
        spelling
        for machine in machines
        for layer in layers(machine)
        for style in json_spellings(layer.path)
        for spelling in style[: depth + 1]
    ]
    return sorted(set(found))


def sentinels() -> st.SearchStrategy[bytes]:
    """Sentinels of any level, their closing braces spelled in any way."""
    return st.builds(
        lambda name, level, closing: b"{{CC_" + name.encode() + b"_LIT" * level + closing,
        st.sampled_from(NAMES),
        st.integers(0, 3),
        st.sampled_from(_CLOSINGS),
    )


def _signed(text: bytes, kind: int) -> bytes:
    match kind:
        case 0:
            return b'{"type":"thinking","thinking":"' + text + b'","signature":"c2ln"}'
        case 1:
            return (
                b'{"signature" : "'
                + text
                + b'","n":[1,{"a":null}],"thinking":"'
                + text
                + b'","type":"thinking"}'
            )
        case 2:
            return b'{"type":"redacted_thinking","data":"' + text + b'"}'
        case _:
            return b'{"type":"thinking","thinking":"' + text + b'","signature":""}'


def json_bytes(machines: Sequence[Anchors], *, depth: int = 99) -> st.SearchStrategy[bytes]:
    """Bytes that look like JSON here and there: anything may stand beside anything."""
    token = st.one_of(
        st.sampled_from(spellings(machines, depth=depth)),
        sentinels(),
        st.sampled_from(_PIECES),
        st.sampled_from([b"".join(pair) for pair in zip(_PIECES, reversed(_PIECES), strict=True)]),
    )
    if depth == 99:
        token |= st.binary(max_size=4)
    loose = st.lists(token, max_size=12).map(b"".join)
    signed = st.builds(_signed, loose, st.integers(0, 3))
    record = st.lists(st.one_of(signed, loose.map(lambda text: b'"' + text + b'"')), max_size=3).map(
        lambda values: b'{"a":[' + b",".join(values) + b"]}\n"
    )
    return st.lists(st.one_of(loose, record), max_size=4).map(b"".join)


def text_bytes(machines: Sequence[Anchors]) -> st.SearchStrategy[bytes]:
    """Plain text with anchors, sentinels and anything else."""
    anchors = sorted({text_spelling(layer.path) for machine in machines for layer in layers(machine)})
    token = st.one_of(st.sampled_from(anchors), sentinels(), st.sampled_from(_PIECES), st.binary(max_size=3))
    return st.lists(token, max_size=20).map(b"".join)


def foreign_text(own: Anchors, other: Anchors) -> st.SearchStrategy[bytes]:
    """Text of `own` that does not hold an anchor of `other`, nor what could become one."""
    anchors = sorted({text_spelling(layer.path) for layer in layers(own)})
    plain = st.sampled_from([b" ", b"x", b".", b"-", b"\n", b"/x", b"{", b"}", "é".encode(), b"9", b"\xff"])
    return st.lists(st.one_of(st.sampled_from(anchors), sentinels(), plain), max_size=20).map(b"".join)


def divided(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """The same bytes in chunks with arbitrary borders, empty ones too."""
    return st.lists(st.integers(0, len(data)), max_size=6).map(
        lambda cuts: [
            data[start:end] for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True)
        ]
    )


@st.composite
def spelled_strings(draw: st.DrawFn, machine: Anchors) -> tuple[str, bytes]:
    """A string and one of its spellings as JSON in which each anchor is spelled in one style."""
    slash = draw(st.sampled_from(["/", "\\/", "\\u002f", "\\u002F"]))
    anchors = [layer.path for layer in layers(machine)]
    marks = ["{{CC_" + name + "_LIT" * level + "}}" for name in NAMES for level in (0, 1)]
    whole = st.sampled_from(
        [*anchors, *marks, *(path + end for path in anchors for end in ("x", ".x", "/x", "-x", ".", "_"))]
    )
    filler = st.text(st.sampled_from(" x.-_9éß😀\u2028\x1b\n\t\"\\{}n'日"), max_size=3)
    decoded, raw = "", ""
    for piece, plain in draw(
        st.lists(st.one_of(st.tuples(whole, st.just(True)), st.tuples(filler, st.just(False))))
    ):
        for character in piece:
            decoded += character
            if character == "/":
                raw += slash
            elif plain or draw(st.booleans()):
                raw += json.dumps(character, ensure_ascii=False)[1:-1]
            else:
                units = character.encode("utf-16-be").hex()
                raw += "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
    return decoded, b'"' + raw.encode() + b'"'
