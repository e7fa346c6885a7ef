"""config.toml as a daemon follows it: the last good one is kept, and a file being saved is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convergenced.control.configured import KEPT, STILL, Configured
from convergenced.errors import ConfigError
from convergenced.model import LocalPath

GOOD = "[backups]\nkeep = 3\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def configured(config: Path) -> Configured:
    return Configured(LocalPath(str(config)), LocalPath(str(config.parent / "state")))


def test_a_wrong_file_at_the_start_leaves_the_last_good_one_in_force(config: Path) -> None:
    config.write_text(GOOD)
    assert configured(config).begin()[1] is None
    kept = config.parent / "state" / KEPT
    assert kept.read_text() == GOOD
    assert kept.stat().st_mode & 0o777 == 0o600
    config.write_text("[backups]\nkeeep = 4\n")
    for _ in range(2):
        settings, wrong = configured(config).begin()
        assert settings.backups.keep == 3
        assert wrong is not None
        assert "config.toml, line 2" in wrong.summary
    config.write_text("[backups]\nkeep = 5\n")
    assert configured(config).begin() == (configured(config).read(), None)
    assert "5" in kept.read_text()


def test_a_first_file_that_is_wrong_is_an_error(config: Path) -> None:
    config.write_text("[")
    with pytest.raises(ConfigError):
        configured(config).begin()


def test_a_state_folder_that_takes_nothing_is_no_reason_to_refuse(config: Path) -> None:
    config.write_text(GOOD)
    (config.parent / "state").touch()
    assert configured(config).begin()[0].backups.keep == 3


def test_a_file_counts_once_it_is_still(config: Path) -> None:
    config.write_text(GOOD)
    one = configured(config)
    one.read()
    assert not one.was_saved(0.0)
    config.write_text("")  # as some editors begin
    assert not one.was_saved(10.0)
    assert not one.was_saved(10.0 + STILL / 2)
    config.write_text(GOOD + "# more\n")
    assert not one.was_saved(10.0 + STILL)
    assert one.was_saved(10.0 + 2 * STILL)
    one.read()
    assert not one.was_saved(100.0)


def test_a_file_that_is_gone_changes_nothing(config: Path) -> None:
    config.write_text(GOOD)
    one = configured(config)
    one.read()
    config.unlink()
    assert not one.was_saved(10.0)
    assert not one.was_saved(10.0 + 2 * STILL)
    replacement = config.parent / "new"
    replacement.write_text(GOOD + "# new\n")
    os.replace(replacement, config)
    assert not one.was_saved(20.0)
    assert one.was_saved(20.0 + STILL)
