"""Real files, where they are there: `shared/corpus` beside the project."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4] / "shared" / "corpus"

needed = pytest.mark.skipif(not ROOT.is_dir(), reason=f"no corpus at {ROOT}")
