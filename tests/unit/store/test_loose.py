"""Loose objects are read as git wrote them, whatever the compression made of them."""

from __future__ import annotations

import hashlib
import random
import zlib
from pathlib import Path

import pytest

from convergenced.model import Oid
from convergenced.store.loose import check_loose, loose_header, read_loose, write_loose


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 4_000, 70_000])
@pytest.mark.parametrize("letters", [1, 60, 256])
@pytest.mark.parametrize("level", [0, 1])
def test_an_object_of_any_size_and_compression_comes_back(
    tmp_path: Path, size: int, letters: int, level: int
) -> None:
    chance = random.Random(f"{size} {letters}")
    data = bytes(chance.choices(range(letters), k=size))
    whole = b"blob %d\0" % size + data
    oid = Oid(hashlib.sha1(whole, usedforsecurity=False).hexdigest())
    file = tmp_path / "objects" / oid[:2] / oid[2:]
    file.parent.mkdir(parents=True)
    file.write_bytes(zlib.compress(whole, level))
    assert read_loose(str(tmp_path), oid) == ("blob", data)
    assert loose_header(str(tmp_path), oid) == ("blob", size)
    assert check_loose(str(tmp_path), oid) == "blob"
    file.unlink()
    write_loose(str(tmp_path), oid, "blob", data)
    assert read_loose(str(tmp_path), oid) == ("blob", data)
