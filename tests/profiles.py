"""The two ways in which the suite runs: fast by default, deep with `CONVERGENCE_TEST_PROFILE=deep`."""

from __future__ import annotations

import os

import pytest

DEEP = os.environ.get("CONVERGENCE_TEST_PROFILE") == "deep"


def deep(why: str) -> pytest.MarkDecorator:
    """For a test that only the deep profile runs; `why` says what holds it by default, or what it takes."""
    return pytest.mark.skipif(not DEEP, reason=f"deep profile: {why}")
