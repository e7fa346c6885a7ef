"""Who else can read a peer, told before it matters."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from convergenced.control import privacy
from convergenced.control.privacy import check_privacy
from convergenced.machine.settings_schema import PeerSettings
from convergenced.model import Finding


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user can come to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


def check(url: str, home: Path) -> Finding:
    (found,) = check_privacy([PeerSettings("hub", url)], {}, str(home))
    return found


def test_a_folder_that_all_users_can_list_is_told_with_its_remedy(shared: Path) -> None:
    hub = shared / "our hub.git"
    hub.mkdir(mode=0o755)
    found = check("~/our hub.git", shared)
    assert found.state == "warning"
    assert found.text == "peer hub can be read by all users of this machine"
    assert found.fix == f"chmod -R go-rwx '{hub}'"
    hub.chmod(0o750)
    assert check(str(hub), shared).state == "ok"


def test_a_folder_that_lies_in_a_private_one_is_private(shared: Path) -> None:
    hub = shared / "hub.git"
    hub.mkdir(mode=0o755)
    shared.chmod(0o700)
    assert check(str(hub), shared).state == "ok"


def test_what_is_not_there_or_elsewhere_is_told_by_others(shared: Path) -> None:
    assert check(str(shared / "none.git"), shared).state == "ok"
    assert check("git@example.org:you/context.git", shared).state == "ok"


def test_a_hub_on_the_web_that_answers_strangers(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://example.org/you/context.git"
    monkeypatch.setattr(privacy, "answers_anybody", lambda url, environ: True)
    found = check(url, shared)
    assert (found.state, found.fix) == ("warning", "make that repository private where it is hosted")
    monkeypatch.setattr(privacy, "answers_anybody", lambda url, environ: False)
    assert check(url, shared).state == "ok"
