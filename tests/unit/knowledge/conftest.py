"""Machines for tests of shared knowledge."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.knowledge.machines import KnowingMachine


@pytest.fixture
def ann(tmp_path: Path) -> KnowingMachine:
    return KnowingMachine(tmp_path / "ann")


@pytest.fixture
def bob(tmp_path: Path, ann: KnowingMachine) -> KnowingMachine:
    return KnowingMachine(tmp_path / "bob", ann.store)
