"""`doctor` as a person sees it: what is printed, and the exit codes, with a daemon that has no engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from convergenced import __version__
from convergenced.control.protocol import Json
from convergenced.errors import ConvergenceError
from convergenced.machine.locations import Locations
from tests.e2e.cli import environment, run
from tests.fakes.daemon import FakeDaemon


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def daemon(home: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(Locations.from_environment(environment(home), str(home))) as one:
        yield one


def finding(check: str, state: str = "ok", project: str | None = None, **more: Json) -> dict[str, Json]:
    fix = "" if state == "ok" else f"mend {check}"
    return {
        "check": check,
        "state": state,
        "project": project,
        "text": f"words about {check}",
        "fix": fix,
        "fixable": False,
        **more,
    }


def answer(*findings: Json, fixed: Json = None) -> Json:
    return {"schema": 1, "findings": [*findings], "fixed": fixed or []}


def test_all_is_well(home: Path, daemon: FakeDaemon) -> None:
    daemon.answers["doctor"] = answer(finding("config"), finding("files", project="proj"))
    done = run(home, "doctor")
    assert done.code == 0
    assert done.out.splitlines()[1:] == [
        "this machine",
        f"✓ version: daemon and command are of version {__version__}",
        "✓ service: there is none here; after a restart of the machine: convergencectl up",
        "✓ config: words about config",
        "",
        "proj",
        "✓ files: words about files",
        "",
        "all well: 4 checks",
    ]
    assert daemon.params("doctor") == {"path": None, "deep": False, "fix": False}


def test_warnings_exit_5_and_problems_6_each_with_its_remedy(home: Path, daemon: FakeDaemon) -> None:
    warning = finding("watches", "warning")
    daemon.answers["doctor"] = answer(warning)
    done = run(home, "doctor")
    assert done.code == 5
    assert "! watches: words about watches\n    → mend watches\n" in done.out
    assert "1 warning, 2 checks well" in done.out
    daemon.answers["doctor"] = answer(warning, finding("store", "problem", fixable=True))
    done = run(home, "doctor", "--deep")
    assert done.code == 6
    assert done.out.index("! watches") < done.out.index("✗ store"), "the worst comes last, next to the prompt"
    assert "1 problem and 1 warning, 2 checks well; --fix can repair 1 of them" in done.out
    assert daemon.params("doctor") == {"path": None, "deep": True, "fix": False}


def test_what_was_repaired_is_said_first(home: Path, daemon: FakeDaemon) -> None:
    fixed: Json = [{"check": "local.notes", "project": "proj", "text": "1 file is read again"}]
    daemon.answers["doctor"] = answer(fixed=fixed)
    done = run(home, "doctor", "--fix", ".")
    assert done.code == 0
    assert done.out.startswith("repaired: proj: 1 file is read again\n")
    assert daemon.params("doctor") == {"path": str(home.parent), "deep": False, "fix": True}


def test_many_projects_are_told_briefly(home: Path, daemon: FakeDaemon) -> None:
    many = [finding(check, project=f"p{number}") for number in range(5) for check in ("files", "records")]
    daemon.answers["doctor"] = answer(*many, finding("files", "warning", "p3"))
    done = run(home, "doctor")
    assert done.out.count("✓ 2 checks: all well") == 5
    assert "✓ files" not in done.out
    assert "! files: words about files" in done.out


def test_for_programs_it_answers_in_json(home: Path, daemon: FakeDaemon) -> None:
    daemon.answers["doctor"] = answer(finding("peers", "warning"))
    done = run(home, "doctor", "--json")
    assert done.code == 5
    found = json.loads(done.out)
    assert found["schema"] == 1
    assert [one["check"] for one in found["findings"]] == ["version", "service", "peers"]


def test_nothing_from_outside_moves_the_cursor(home: Path, daemon: FakeDaemon) -> None:
    daemon.answers["doctor"] = answer(finding("peers", "warning", text="said \x1b[2J", fix="do\x1b[1m"))
    assert "\x1b" not in run(home, "doctor").out


def test_a_daemon_that_cannot_exits_1(home: Path, daemon: FakeDaemon) -> None:
    daemon.answers["doctor"] = ConvergenceError("it failed", "see the log")
    done = run(home, "doctor")
    assert done.code == 1
    assert "it failed" in done.err
