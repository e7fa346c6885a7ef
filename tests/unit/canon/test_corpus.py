"""What the real client wrote, taken from one machine to another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from convergenced.canon.rewrite import Rewriter
from convergenced.model import Content
from tests.property.canon import reference
from tests.property.canon.machines import ANN, MAC
from tests.unit.canon import corpus

FOLDER = corpus.ROOT / "machineA" / ".claude" / "projects" / "-home-ann-src-proj"
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file()) if FOLDER.is_dir() else []
SIGNED = re.compile(rb'"thinking":"[^"]*","signature"')

pytestmark = corpus.needed


def content_of(path: Path) -> Content:
    return Content.JSON if path.suffix in {".json", ".jsonl"} else Content.TEXT


def carried_over(data: bytes) -> bytes:
    """The same by plain replacement: in the corpus no anchor stands inside a longer name."""
    pieces = SIGNED.split(data)
    for old, new in (
        (ANN.context_dir, MAC.context_dir),
        (ANN.project_root, MAC.project_root),
        (ANN.encoded_dir, MAC.encoded_dir),
        (ANN.home or "", MAC.home or ""),
    ):
        pieces = [re.sub(re.escape(old.encode()) + rb"(?![\w-])", new.encode(), piece) for piece in pieces]
    kept = [*SIGNED.findall(data), b""]
    return b"".join(piece + signed for piece, signed in zip(pieces, kept, strict=True))


def test_the_corpus_is_not_empty() -> None:
    assert len(FILES) > 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_arrives_with_the_four_anchors_mapped_and_nothing_else(path: Path) -> None:
    data, content = path.read_bytes(), content_of(path)
    stored = Rewriter(ANN).canonicalize(data, content)
    there = Rewriter(MAC).localize(stored, content)
    assert there == carried_over(data)
    assert b"/home/ann" not in SIGNED.sub(b"", there)
    assert Rewriter(MAC).canonicalize(there, content) == stored
    assert Rewriter(ANN).localize(stored, content) == data


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.suffix == ".jsonl"], ids=lambda path: path.name
)
def test_the_definition_agrees_on_every_record(path: Path) -> None:
    data = path.read_bytes()
    stored = Rewriter(ANN).canonicalize(data, Content.JSON)
    for before, after in zip(data.split(b"\n")[:-1], stored.split(b"\n")[:-1], strict=True):
        assert reference.parse(after) == reference.canonical_value(reference.parse(before), ANN)
