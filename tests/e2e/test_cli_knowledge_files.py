"""`knowledge bootstrap` and `scaffold` with a real daemon: shown, asked, written as they were shown."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.cli import OnTerminal, fake_program
from tests.e2e.knowing import Knower, check_out, files_below, read, start
from tests.e2e.machines import await_true, git, make_hub, record
from tests.messages_api import MessagesApi, Says

SID = "00000000-0000-4000-8000-000000000001"
WORKFLOW = ".github/workflows/convergence.yml"


@contextmanager
def machine(top: Path, **more: object) -> Iterator[Knower]:
    """A machine that does not share knowledge, with a project that has a note and a session."""
    knower = Knower(top / "desk", "desk", knowledge={"enabled": False}, **more)  # type: ignore[arg-type]
    try:
        check_out(knower.project)
        knower.write("memory/MEMORY.md", f"- build with {knower.project}/make.sh\n".encode())
        knower.append(SID, record(SID, knower.project, 0, "Speed up the parser"))
        start(knower)
        knower.do("sync", "--wait")
        yield knower
    finally:
        knower.close()


def on_terminal(knower: Knower, *words: str) -> OnTerminal:
    command = shlex.join([sys.executable, "-m", "convergencectl", "knowledge", *words])
    environ = knower.environ | {"TERM": "xterm", "PAGER": "", "NO_COLOR": "1"}
    return OnTerminal.start_shell(command, environ, knower.project)


def shelves(knower: Knower) -> dict[str, bytes]:
    """The backups of documents."""
    return files_below(knower.conv / "backups" / "knowledge")


def test_a_first_file_is_shown_asked_for_and_written(tmp_path: Path) -> None:
    with machine(tmp_path) as desk:
        file = desk.project / "CLAUDE.md"
        terminal = on_terminal(desk, "bootstrap", "--project", ".")
        shown = terminal.read_until("[q]uit: ")
        assert "made from 1 note, 1 session, without a model" in shown
        assert f"- build with {desk.project}/make.sh" in shown
        assert "- Speed up the parser" in shown
        assert read(file) is None
        terminal.type("y\n")
        code, shown = terminal.end()
        assert (code, "wrote ~/src/proj/CLAUDE.md" in shown) == (0, True)
        first = read(file)
        assert first is not None
        assert first.startswith("# proj\n")
        assert "Speed up the parser" in first

        done = desk.ctl("knowledge", "bootstrap", "--project", str(desk.project), "--force")
        assert (done.returncode, done.stdout[:17]) == (0, "nothing to write:")

        desk.write("memory/tests.md", b"- run pytest\n")
        terminal = on_terminal(desk, "bootstrap", "--project", ".")
        shown = terminal.read_until("[q]uit: ")
        assert "overwrite it?" in shown
        assert "+- run pytest" in shown
        assert "\n-" not in shown.partition("@@")[2]
        terminal.type("n\n")
        assert terminal.end()[0] == 1
        assert read(file) == first
        assert shelves(desk) == {}

        assert "wrote ~/src/proj/CLAUDE.md" in desk.do(
            "knowledge", "bootstrap", "--project", "proj", "--force"
        )
        assert "- run pytest\n" in (read(file) or "")
        assert list(shelves(desk).values()) == [first.encode()]
        assert read(desk.claude_md) is None


def test_what_a_model_wrote_is_written_as_it_was_shown_and_paid_for_once(tmp_path: Path) -> None:
    pytest.importorskip("anthropic", reason="the extra `synthesis` is not installed")
    said = Says({"document": "## Build\n\n- make\n"})
    with (
        MessagesApi(lambda _asked: said) as api,
        machine(tmp_path, extra=api.environ, more='provider = "anthropic"\n') as desk,
    ):
        client = desk.run_client()
        words = ("knowledge", "bootstrap", "--global-only", "--force")
        done = desk.ctl(*words)
        assert (done.returncode, "Claude Code runs" in done.stderr) == (1, True)
        assert read(desk.claude_md) is None
        client.kill()
        await_true(lambda: desk.ctl(*words).returncode == 0, "it to be written")
        assert read(desk.claude_md) == "# All projects\n\n## Build\n\n- make\n"
        assert len(api.requests) == 1
        assert "Speed up the parser" in api.requests[0].text


def test_the_workflow_is_written_into_a_hub_and_another_one_is_shown_first(tmp_path: Path) -> None:
    hub = make_hub(tmp_path / "hubs" / "ann" / "context.git")
    programs = tmp_path / "programs"
    # What GitHub's ssh would do with the last word: git's own command, below the hubs.
    fake_program(
        programs, "ssh", f'for last; do :; done\ncd {shlex.quote(str(tmp_path / "hubs"))} && eval "$last"'
    )
    path = {"PATH": f"{programs}:{os.environ['PATH']}"}
    with machine(tmp_path, hubs=("git@github.com:ann/context.git",), extra=path) as desk:
        done = desk.do("knowledge", "scaffold", "github")
        commit = git("-C", hub, "rev-parse", "main").strip()
        assert f"(commit {commit[:10]})" in done
        assert "https://github.com/ann/context/settings/secrets/actions/new" in done
        text = git("-C", hub, "show", f"main:{WORKFLOW}")
        assert "convergenced.knowledge.pipeline" in text
        assert f"{WORKFLOW} stands in hub already" in desk.do("knowledge", "scaffold", "github")

        desk.do("config", "set", "knowledge.max_usd", "7")
        done_again = desk.ctl("knowledge", "scaffold", "github")
        assert done_again.returncode == 2
        assert "another" in done_again.stderr
        terminal = on_terminal(desk, "scaffold", "github")
        assert "--max-usd 7" in terminal.read_until("Replace it? [y/N] ")
        terminal.type("y\n")
        assert terminal.end()[0] == 0
        assert "--max-usd 7" in git("-C", hub, "show", f"main:{WORKFLOW}")
        assert git("-C", hub, "rev-parse", "main~").strip() == commit

        refused = desk.ctl("knowledge", "scaffold", "gitlab")
        assert (refused.returncode, "no peer is on GitLab" in refused.stderr) == (4, True)
        fake_program(programs, "ssh", "exit 255")
        refused = desk.ctl("knowledge", "scaffold", "github")
        assert (refused.returncode, "Traceback" in refused.stderr) == (4, False)
