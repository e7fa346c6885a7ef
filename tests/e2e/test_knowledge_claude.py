"""Shared knowledge through the real Claude Code client, which a real daemon asks: offline, by a script."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.knowing import (
    DESKTOP,
    DIFFER,
    INVENTED,
    LAPTOP,
    MARKED,
    UNION,
    canonical,
    machines,
    read,
    settle,
    start,
    write,
)
from tests.e2e.real_client import UnavailableError, install_client
from tests.messages_api import MessagesApi, merging

pytestmark = pytest.mark.timeout(240)  # the first test may also install the client


def test_two_machines_take_on_what_the_client_made_of_theirs(tmp_path: Path) -> None:
    try:
        client = install_client()
    except UnavailableError as error:
        pytest.skip(f"the real client cannot be had: {error}")
    script = merging(canonical(UNION), [DIFFER], [INVENTED])
    with (
        MessagesApi(script) as api,
        machines(tmp_path, "desktop", "laptop", provider="claude", synthesizer="desktop", max_usd=5.0) as (
            one,
            other,
        ),
    ):
        one.extra |= {
            **api.environ,
            "PATH": f"{client}/node_modules/.bin:/usr/local/bin:/usr/bin:/bin",
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        write(one.claude_md, one.of_home(DESKTOP))
        write(other.claude_md, other.of_home(LAPTOP))
        assert other.run_daemon("--once").returncode == 0
        start(one)
        settle(one)
        (done,) = one.synthesize(code=5)
        assert (done["outcome"], done["usd"] > 0) == ("merged", True)
        assert [asked.is_critic for asked in api.requests] == [False, True]
        settle(one)
        assert other.run_daemon("--once").returncode == 0
        for machine in (one, other):
            assert read(machine.claude_md) == machine.of_home(MARKED)
        assert one.document()["state"] == "same"
        # The client that was asked is nobody's session.
        assert list(one.projects.iterdir()) == []
        assert one.status()["projects"] == []
