"""What crash tests share."""

from __future__ import annotations

import pytest

from tests.crash.pairs import Files, Pair, lose_all_but_files, make_pair


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


@pytest.fixture(scope="session")
def undisturbed(kept_pair: Pair) -> Files:
    """What both machines hold in the end when nothing goes wrong."""
    kept_pair.restore()
    kept_pair.settle()
    kept_pair.check_equal(kept_pair.files())
    return kept_pair.files()


@pytest.fixture(scope="session")
def undisturbed_anew(kept_pair: Pair) -> Files:
    """The same where the desktop begins with its local files alone."""
    kept_pair.restore()
    lose_all_but_files(kept_pair.desktop)
    kept_pair.settle()
    kept_pair.check_equal(kept_pair.files())
    return kept_pair.files()
