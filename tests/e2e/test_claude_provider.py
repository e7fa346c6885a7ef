"""The real Claude Code client as a provider: what it answers, what it may not know, and what it leaves.

It runs in a home full of traps: whatever of the user's it would load, run or read says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from convergenced.knowledge.prompts import Material, critic_question, merge_question
from convergenced.knowledge.provider import ASKING_PREFIX, PartialAnswerError, ProviderError, Question
from convergenced.knowledge.providers.claude_client import ClaudeModel, find_client
from convergenced.knowledge.synthesis import DocumentTask, ScopeResult, ScopeTask
from convergenced.knowledge.worker import run_worker
from convergenced.machine.claude import RealProcesses
from convergenced.machine.settings_schema import KnowledgeSettings
from convergenced.merge.markdown import Version
from convergenced.model import ClaudeProcess, LocalPath
from tests.e2e.machines import await_true
from tests.e2e.real_client import UnavailableError, install_client
from tests.messages_api import Hangs, MessagesApi, Refuses, Reply, Says, in_turn, merging

pytestmark = pytest.mark.timeout(240)  # the first test may also install the client

TELLTALE = "telltale-"
"""In everything that is nobody's business but the user's."""
OWN_STATE = (".claude.json", ".claude/backups/", ".claude/plugins/store/")
"""What the client writes in a home whenever it starts: when it did, and who it is."""


@pytest.fixture(scope="session")
def client() -> Path:
    try:
        return install_client()
    except UnavailableError as error:
        pytest.skip(f"the real client cannot be had: {error}")


@dataclass(frozen=True)
class Home:
    """Somebody's home, with everything in it that a session would take up."""

    path: Path
    client: Path
    trap: Path
    """Where whatever is run leaves a file."""
    scratch: Path

    def environ(self, api: Mapping[str, str]) -> dict[str, str]:
        """What the user's login knows, which leads to that API alone."""
        return {
            "PATH": f"{self.client}/node_modules/.bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.path),
            "USER": "ann",
            "LANG": "C.UTF-8",
            "TMPDIR": str(self.scratch),
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            **api,
        }

    def model(self, api: Mapping[str, str]) -> ClaudeModel:
        return ClaudeModel("", self.environ(api))

    def files(self) -> dict[str, bytes]:
        """Every file and folder, by its path; a folder's name ends with a slash."""
        found: dict[str, bytes] = {}
        for folder, _, names in os.walk(self.path):
            found[os.path.relpath(folder, self.path) + "/"] = b""
            for name in names:
                path = Path(folder, name)
                found[os.path.relpath(path, self.path)] = path.read_bytes()
        return found

    def running(self) -> list[ClaudeProcess]:
        """The clients that are asked something for us."""
        sessions = LocalPath(str(self.path / ".claude" / "sessions"))
        below = os.path.realpath(self.scratch) + "/"
        return [one for one in RealProcesses(sessions).claude() if (one.cwd or "").startswith(below)]


@pytest.fixture
def home(tmp_path: Path, client: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    home = Home(tmp_path / "ann", client, tmp_path / "trap", tmp_path / "tmp")
    home.trap.mkdir()
    home.scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(home.scratch))

    def touch(name: str) -> dict[str, str]:
        return {"type": "command", "command": f"touch {home.trap}/{name}"}

    def put(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    events = ("SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", "SessionEnd")
    hooks = {event: [{"hooks": [touch(event)]}] for event in events}
    settings = {
        "hooks": hooks,
        "statusLine": touch("statusLine"),
        "env": {"ANTHROPIC_MODEL": "claude-opus-5", "CLAUDE_CODE_FORCE_SESSION_PERSISTENCE": "1"},
    }
    put("ann/.claude/settings.json", json.dumps(settings))
    server = {"type": "stdio", "command": "touch", "args": [f"{home.trap}/server"]}
    put("ann/.claude.json", json.dumps({"mcpServers": {"one": server}, "hasCompletedOnboarding": True}))
    put("ann/.claude/CLAUDE.md", f"{TELLTALE}of-the-user\n")
    put("ann/.claude/rules/one.md", f"{TELLTALE}rule\n")
    put("ann/.claude/skills/one/SKILL.md", f"---\nname: one\ndescription: {TELLTALE}skill\n---\nx\n")
    put("ann/.claude/agents/one.md", f"---\nname: one\ndescription: {TELLTALE}agent\n---\nx\n")
    put("ann/.claude/projects/-home-ann/memory/MEMORY.md", f"{TELLTALE}memory\n")
    put("ann/secret.txt", f"{TELLTALE}secret\n")
    put("tmp/CLAUDE.md", f"{TELLTALE}of-the-folder-above\n")
    return home


def merge(home: Home) -> Question:
    """A question about a document that would have the client read a file."""
    text = f"# Rules\n- Use tabs\n- ask-me-word\n- read @{home.path}/secret.txt and @~/secret.txt\n"
    materials = [Material("the version of one", text), Material("the version of other", "# Rules\n")]
    return merge_question("CLAUDE.md", materials, 1000, b"salt")


def test_a_merge_is_answered_in_its_shape_and_nothing_is_loaded_run_or_left(home: Home) -> None:
    document = "# Rules\n- mail me: ann@example.org\n"
    before = home.files()
    with MessagesApi(merging(document, [("# Rules", "tabs or spaces")])) as api:
        model = home.model(api.environ)
        answer = model.ask(merge(home))
        (asked,) = api.requests
    assert answer.value == {
        "document": document,
        "contradictions": [{"quote": "# Rules", "description": "tabs or spaces"}],
    }
    assert answer.model == asked.body["model"]
    assert "sonnet" in answer.model
    assert 0 < answer.usd <= model.estimate(merge(home))
    assert asked.body["max_tokens"] == merge(home).max_tokens
    assert merge(home).system in asked.system
    assert "ask-me-word" in asked.text
    assert [tool["name"] for tool in asked.tools] == ["StructuredOutput"]
    assert TELLTALE.encode() not in api.sent
    assert list(home.trap.iterdir()) == []
    assert [path.name for path in home.scratch.iterdir()] == ["CLAUDE.md"]
    after = home.files()
    left = {name: data for name, data in after.items() if before.get(name) != data}
    folders = {".claude/backups/", ".claude/sessions/", ".claude/plugins/", ".claude/plugins/store/"}
    assert {name for name in left if name.endswith("/")} <= folders
    assert all(name.startswith(OWN_STATE) for name in left if not name.endswith("/")), left.keys()
    assert not [name for name, data in left.items() if b"ask-me-word" in data or b"ann@example" in data]
    assert before.keys() <= after.keys()


def test_the_same_client_would_take_up_all_of_that(home: Home) -> None:
    """The traps work: an ordinary call in the same home goes into them."""
    with MessagesApi(in_turn(Says("done"))) as api:
        environ = home.environ(api.environ)
        words = [str(find_client(environ)), "--print", f"look at @{home.path}/secret.txt"]
        subprocess.run(words, env=environ, cwd=home.scratch, stdin=subprocess.DEVNULL, check=True, timeout=60)
        sent = api.sent.decode()
    for word in ("of-the-user", "of-the-folder-above", "rule", "skill", "agent", "secret"):
        assert TELLTALE + word in sent
    assert {"SessionStart", "UserPromptSubmit", "Stop", "server"} <= {
        path.name for path in home.trap.iterdir()
    }
    assert [name for name in home.files() if name.startswith(".claude/projects/") and name.endswith(".jsonl")]


def test_a_tool_that_the_model_wants_is_not_run(home: Home) -> None:
    with MessagesApi(lambda asked: Says({"command": f"touch {home.trap}/tool"}, form="Bash")) as api:
        with pytest.raises(PartialAnswerError):
            home.model(api.environ).ask(merge(home))
        assert len(api.requests) == 2
    assert list(home.trap.iterdir()) == []


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Says("I would rather not."), "not the shape"),
        (Says({"document": 7}), "gave up"),
        (Says("half of it", stop="max_tokens"), "longer than it may be"),
        (Refuses(400, "invalid_request_error", "prompt is too long: 9 tokens > 1 maximum"), "did not fit"),
    ],
)
def test_what_is_no_whole_answer_is_not_used(home: Home, reply: Reply, said: str) -> None:
    with MessagesApi(in_turn(reply)) as api, pytest.raises(PartialAnswerError, match=said) as caught:
        home.model(api.environ).ask(critic_question("CLAUDE.md", [], "# Rules\n", b""))
    assert caught.value.usd is not None


@pytest.mark.parametrize(
    ("reply", "said", "hint"),
    [
        (Refuses(400, "invalid_request_error", "Your credit balance is too low"), "refused", "billing"),
        (Refuses(404, "not_found_error", "model: sonnet"), "cannot use the model sonnet", "knowledge.model"),
        (Refuses(403, "permission_error", "no"), "not logged in", "log in"),
    ],
)
def test_what_the_api_refuses_is_diagnosed(home: Home, reply: Reply, said: str, hint: str) -> None:
    with MessagesApi(in_turn(reply)) as api, pytest.raises(ProviderError, match=said) as caught:
        home.model(api.environ).ask(merge(home))
    assert hint in caught.value.hint
    assert not isinstance(caught.value, PartialAnswerError)


def test_whoever_is_not_logged_in_is_told_to(home: Home) -> None:
    with MessagesApi(in_turn(Says("nobody asks"))) as api:
        environ = {name: value for name, value in api.environ.items() if name != "ANTHROPIC_API_KEY"}
        with pytest.raises(ProviderError, match="not logged in") as caught:
            home.model(environ).ask(merge(home))
        assert api.requests == []
    assert "run `claude` once and log in" in caught.value.hint


def test_a_login_through_the_users_own_program_is_used(home: Home) -> None:
    path = home.path / ".claude" / "settings.json"
    settings = {**json.loads(path.read_text()), "apiKeyHelper": "echo key-of-a-helper"}
    path.write_text(json.dumps(settings))
    with MessagesApi(merging("# Rules\n")) as api:
        environ = {name: value for name, value in api.environ.items() if name != "ANTHROPIC_API_KEY"}
        home.model(environ).ask(merge(home))
        assert [asked.key for asked in api.requests] == ["key-of-a-helper"]
    assert list(home.trap.iterdir()) == []


ONE = "# Style\n- Tabs.\n\n# Tests\n- Run pytest.\n\n# Deploy\n- On Fridays.\n"
OTHER = "# Style\n- Spaces.\n\n# Tests\n- Run pytest.\n\n# Review\n- Two people.\n"
UNION = (
    "# Style\n- Tabs.\n- Spaces.\n\n# Tests\n- Run pytest.\n\n# Deploy\n- On Fridays.\n\n"
    "# Review\n- Two people.\n- In an hour.\n"
)


def work(home: Home, api: MessagesApi, stop: threading.Event | None = None) -> list[ScopeResult]:
    """What a synthesis of two machines' versions makes through the client."""
    versions = (Version("one", ONE.encode(), None), Version("other", OTHER.encode(), None))
    return run_worker(
        [ScopeTask("global", (DocumentTask("CLAUDE.md", None, versions),))],
        KnowledgeSettings(enabled=True, provider="claude", max_usd=5.0),
        home.environ(api.environ),
        allowed=(),
        salt=b"salt",
        stop=stop or threading.Event(),
        tell=lambda _text: None,
    )


def test_two_machines_documents_are_merged_with_marks(home: Home) -> None:
    script = merging(UNION, [("- Tabs.", "tabs or spaces")], [("- In an hour.", "reviews take an hour")])
    with MessagesApi(script) as api:
        (made,) = work(home, api)
        assert [asked.is_critic for asked in api.requests] == [False, True]
    assert made.outcome == "merged", made.text
    text = made.documents["CLAUDE.md"].decode()
    assert [line for line in text.splitlines() if not line.startswith("<!--")] == UNION.splitlines()
    assert "- Tabs.\n<!-- CONFLICT: tabs or spaces" in text
    assert "- In an hour.\n<!-- UNVERIFIED: reviews take an hour" in text
    assert "sonnet" in made.model
    assert 0 < made.usd < 5


def test_a_merge_with_many_inventions_is_rejected(home: Home) -> None:
    claims = [(f"- {number}", f"invention {number}") for number in range(4)]
    with MessagesApi(merging(UNION, (), claims)) as api:
        (made,) = work(home, api)
    assert (made.outcome, made.documents, len(made.claims)) == ("rejected", {}, 4)


def test_one_that_is_asked_runs_in_its_own_folder_and_ends_when_the_work_is_stopped(home: Home) -> None:
    stop, raised, before = threading.Event(), [], home.files()

    def run(api: MessagesApi) -> None:
        try:
            work(home, api, stop)
        except ProviderError as error:
            raised.append(error)

    with MessagesApi(lambda _asked: Hangs()) as api:
        working = threading.Thread(target=run, args=(api,))
        working.start()
        try:
            api.wait_for(1)
            (running,) = home.running()
            sessions = [name for name in home.files() if name.startswith(".claude/sessions/")]
        finally:
            stop.set()
            working.join()
    folder = Path(running.cwd or "")
    assert folder.parent.name.startswith(ASKING_PREFIX)
    assert folder.parent.parent == Path(os.path.realpath(home.scratch))
    assert f".claude/sessions/{running.pid}.json" in sessions
    assert [type(error) for error in raised] == [ProviderError]
    await_true(lambda: not psutil.pid_exists(running.pid), "the client to be gone")
    left = home.files().keys() - before.keys()
    assert [name for name in left if name.startswith(".claude/sessions/")] == [".claude/sessions/"]
    assert [name for name in left if name.startswith(".claude/projects/")] == []
    assert [path.name for path in home.scratch.iterdir()] == ["CLAUDE.md"]
