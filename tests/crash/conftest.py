"""What crash tests share."""

from __future__ import annotations

import pytest

from tests.crash.pairs import Pair, make_pair


@pytest.fixture(scope="session")
def kept_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The one pair there is, as any test may have left it."""
    pair = make_pair(tmp_path_factory.mktemp("pair"))
    pair.keep()
    return pair


@pytest.fixture
def pair(kept_pair: Pair) -> Pair:
    """Two machines which have something to tell each other; see `tests.crash.pairs`."""
    kept_pair.restore()
    return kept_pair
