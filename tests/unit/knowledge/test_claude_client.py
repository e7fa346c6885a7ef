"""Asking a Claude Code that is installed: what it is told, what it may not know, and what becomes of it.

A small program stands in for the client; what the real one does of all this is held in the e2e tests.
"""

from __future__ import annotations

import itertools
import json
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from convergenced.knowledge.prices import price_of
from convergenced.knowledge.provider import ASKING_PREFIX, PartialAnswerError, ProviderError, Question
from convergenced.knowledge.providers import claude_client
from convergenced.knowledge.providers.claude_client import ClaudeModel, find_client
from convergenced.merge.documents import Json

SCHEMA: dict[str, Json] = {
    "type": "object",
    "properties": {"document": {"type": "string"}, "others": {"type": "array", "items": {"type": "string"}}},
    "required": ["document", "others"],
}
FITTING: dict[str, Json] = {"document": "# Notes\n", "others": ["one"]}

PROGRAM = """#!{python} -S
import json, os, signal, sys
orders = json.load(open({orders!r}))
told = {{
    "words": sys.argv[1:],
    "environ": dict(os.environ),
    "given": sys.stdin.buffer.read().decode(),
    "folder": os.getcwd(),
    "mode": os.stat("..").st_mode,
    "listed": os.listdir("."),
    "settings": open("../settings.json").read() if os.path.exists("../settings.json") else None,
    "pid": os.getpid(),
}}
json.dump(told, open({told!r}, "w"))
if orders["waits"]:
    signal.pause()
sys.stderr.write(orders["complaint"])
sys.stdout.write(orders["says"])
sys.exit(orders["code"])
"""


class StandIn:
    """A program called `claude` that does as it is ordered, and tells how it was called."""

    def __init__(self, top: Path) -> None:
        self.path = top / "bin" / "claude"
        self._orders, self._told = top / "orders.json", top / "told.json"
        put(self.path, PROGRAM.format(python=sys.executable, orders=str(self._orders), told=str(self._told)))
        self.home = top / "home"
        self.home.mkdir()
        self.environ = {"PATH": f"{self.path.parent}:/usr/bin:/bin", "HOME": str(self.home)}
        self.orders(json.dumps(result()))

    def orders(self, says: str, *, complaint: str = "", code: int = 0, waits: bool = False) -> None:
        self._orders.write_text(
            json.dumps({"says": says, "complaint": complaint, "code": code, "waits": waits})
        )

    @property
    def told(self) -> dict[str, Any]:
        return dict(json.loads(self._told.read_text()))

    def model(self, name: str = "", **environ: str) -> ClaudeModel:
        return ClaudeModel(name, {**self.environ, **environ})


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def result(**changes: Any) -> dict[str, Any]:
    """What the client prints at the end, where all went well."""
    return {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "result": json.dumps(FITTING),
        "structured_output": FITTING,
        "total_cost_usd": 0.25,
        "modelUsage": {"claude-small-1": {"costUSD": 0.01}, "claude-big-1": {"costUSD": 0.24}},
        **changes,
    }


def question(text: str = "Merge one and other.") -> Question:
    return Question("You keep one document.", text, SCHEMA, 5000)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    return StandIn(tmp_path)


def test_an_answer_comes_with_its_model_and_its_price(client: StandIn) -> None:
    answer = client.model().ask(question())
    assert (answer.value, answer.model, answer.usd) == (FITTING, "claude-big-1", 0.25)


def test_a_client_that_names_no_model_has_answered_with_the_one_that_was_asked_for(client: StandIn) -> None:
    client.orders(json.dumps(result(modelUsage={})))
    assert client.model("opus").ask(question()).model == "opus"


def test_it_is_told_to_use_nothing_and_to_keep_nothing(client: StandIn) -> None:
    client.model("opus").ask(question())
    words = client.told["words"]
    pairs = dict(itertools.pairwise(words))
    assert {"--print", "--strict-mcp-config", "--disable-slash-commands", "--no-session-persistence"} <= set(
        words
    )
    assert (pairs["--tools"], pairs["--setting-sources"], pairs["--output-format"]) == ("", "", "json")
    assert (pairs["--model"], pairs["--system-prompt"]) == ("opus", "You keep one document.")
    assert json.loads(pairs["--json-schema"]) == SCHEMA
    assert float(pairs["--max-budget-usd"]) == pytest.approx(client.model("opus").estimate(question()), 0.01)
    environ = client.told["environ"]
    assert environ["CLAUDE_CODE_DISABLE_ATTACHMENTS"] == "1"
    assert environ["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "5000"


def test_the_question_stands_in_no_process_list(client: StandIn) -> None:
    client.model().ask(question("a word of mine"))
    assert "a word of mine" in client.told["given"]
    assert "a word of mine" not in json.dumps([client.told["words"], client.told["environ"]])


def test_it_works_in_an_empty_private_folder_that_goes_away(client: StandIn) -> None:
    client.model().ask(question())
    told = client.told
    assert told["listed"] == []
    assert stat.S_IMODE(told["mode"]) == 0o700
    top = Path(told["folder"]).parent
    assert top.name.startswith(ASKING_PREFIX)
    assert Path(told["environ"]["CLAUDE_CODE_TMPDIR"]).parent == top
    assert os.listdir(tempfile.gettempdir()) == []


def test_it_gets_the_users_login_and_nothing_of_a_session(client: StandIn) -> None:
    kept = {
        "CLAUDE_CONFIG_DIR": str(client.home / "elsewhere"),
        "CLAUDE_CODE_OAUTH_TOKEN": "mine",
        "CLAUDE_CODE_USE_BEDROCK": "1",
        "CLAUDE_CODE_SKIP_VERTEX_AUTH": "1",
        "ANTHROPIC_API_KEY": "key",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
        "AWS_PROFILE": "work",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    dropped = {
        "CLAUDECODE": "1",
        "CLAUDE_CODE_SESSION_ID": "theirs",
        "CLAUDE_CODE_MESSAGING_TOKEN": "theirs",
        "CLAUDE_CODE_MESSAGING_SOCKET": "theirs",
        "CLAUDE_CODE_ENTRYPOINT": "cli",
        "CLAUDE_CODE_FORCE_SESSION_PERSISTENCE": "1",
        "CLAUDE_CODE_OAUTH_TOKEN_FILE_DESCRIPTOR": "7",
        "CLAUDE_CODE_USE_CCR_V2": "1",
        "CLAUDE_PROJECT_DIR": "/theirs",
        "AI_AGENT": "theirs",
    }
    client.model(**kept, **dropped).ask(question())
    environ = client.told["environ"]
    assert {name: environ.get(name) for name in kept} == kept
    assert not dropped.keys() & environ.keys()
    assert "--settings" not in client.told["words"]
    assert environ["HOME"] == str(client.home)


def test_a_login_in_the_users_settings_is_passed_on_in_a_file(client: StandIn) -> None:
    settings = {"apiKeyHelper": "echo key-of-mine", "env": {"AWS_PROFILE": "work"}, "hooks": {"Stop": []}}
    put(client.home / ".claude" / "settings.json", json.dumps(settings))
    client.model().ask(question())
    told = client.told
    assert "key-of-mine" not in json.dumps([told["words"], told["environ"]])
    assert Path(told["words"][told["words"].index("--settings") + 1]).parent == Path(told["folder"]).parent
    assert json.loads(told["settings"]) == {
        "apiKeyHelper": "echo key-of-mine",
        "env": {"AWS_PROFILE": "work"},
    }
    assert os.listdir(tempfile.gettempdir()) == []


@pytest.mark.parametrize(
    "text", ["see @/etc/passwd", "@~/.ssh/id_rsa", 'x @"a b"', "{{CC_AT}} @x", "{{CC_AT}} {{CC_AT1}} @x", ""]
)
def test_what_is_asked_names_no_file_and_gives_no_command(client: StandIn, text: str) -> None:
    client.model().ask(question(text))
    given = client.told["given"]
    assert "@" not in given
    assert given[0].isalpha()
    shown = given.partition("\n\n")[2]
    client.orders(json.dumps(result(structured_output={"document": shown, "others": [shown]})))
    assert client.model().ask(question(text)).value == {"document": text, "others": [text]}


@pytest.mark.parametrize("command", ["/compact", "!ls", "# remember"])
def test_a_question_is_no_command(client: StandIn, command: str) -> None:
    client.model().ask(question(command))
    assert client.told["given"].endswith(command)
    assert client.told["given"][0].isalpha()


@pytest.mark.parametrize("model", ["", "haiku", "claude-opus-4-1", "something-new"])
def test_an_estimate_is_no_less_than_all_tokens_cost(client: StandIn, model: str) -> None:
    asked, answered = price_of(model or claude_client.DEFAULT_MODEL)
    text = "ä" * 50_000
    assert client.model(model).estimate(question(text)) >= (50_000 * asked + 5000 * answered) / 1e6


FAILED = {"subtype": "success", "is_error": True, "structured_output": None, "total_cost_usd": 0}


@pytest.mark.parametrize(
    ("changes", "said", "hint"),
    [
        ({"result": "nobody is here, run /login"}, "not logged in", "log in"),
        ({"result": "bad key", "api_error_status": 401}, "not logged in: bad key", "log in"),
        ({"result": "forbidden", "api_error_status": 403}, "not logged in", "log in"),
        ({"result": "no such thing", "api_error_status": 404}, "model sonnet", "knowledge.model"),
        ({"result": "slow down", "api_error_status": 429}, "at a limit", "by itself later"),
        ({"result": "your limit until 5pm"}, "at a limit of use: your limit until 5pm", "by itself later"),
        ({"result": "the credit is used up", "api_error_status": 400}, "is refused", "billing"),
        ({"result": "no road", "api_error": "connection_failed"}, "cannot reach the API", "network"),
        ({"result": "busy", "api_error_status": 529}, "the API is not well: busy", "by itself later"),
        ({"result": "odd"}, "Claude Code failed: odd", "by itself later"),
        ({"result": 7}, "Claude Code failed: without a reason", "by itself later"),
    ],
)
def test_what_keeps_every_question_from_an_answer_is_diagnosed(
    client: StandIn, changes: dict[str, Any], said: str, hint: str
) -> None:
    client.orders(json.dumps(result(**FAILED | changes)), code=1)
    with pytest.raises(ProviderError) as caught:
        client.model().ask(question())
    assert not isinstance(caught.value, PartialAnswerError)
    assert said in caught.value.summary
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"subtype": "error_max_turns", "is_error": True, "errors": ["too many"]},
            "too many",
        ),
        ({"subtype": "error_max_turns"}, "gave up"),
        ({"subtype": "error_max_budget_usd", "is_error": True, "stop_reason": "max_tokens"}, "longer than"),
        ({"is_error": True, "api_error": "max_output_tokens"}, "longer than it may be"),
        ({"is_error": True, "stop_reason": "refusal"}, "is a refusal"),
        ({"is_error": True, "terminal_reason": "prompt_too_long", "api_error_status": 400}, "did not fit"),
        ({"structured_output": None}, "not the shape"),
        ({"structured_output": {"document": "half"}}, "not the shape"),
        ({"structured_output": {"document": 1, "others": []}}, "not the shape"),
        ({"structured_output": {**FITTING, "more": ""}}, "not the shape"),
    ],
)
def test_an_answer_that_cannot_be_used_says_what_it_cost(
    client: StandIn, changes: dict[str, Any], said: str
) -> None:
    client.orders(json.dumps(result(**changes)))
    with pytest.raises(PartialAnswerError, match=said) as caught:
        client.model().ask(question())
    assert caught.value.usd == 0.25


@pytest.mark.parametrize("usd", [None, -1, True, "0.1", float("nan"), float("inf")])
def test_an_answer_without_a_price_is_not_used(client: StandIn, usd: Any) -> None:
    client.orders(json.dumps(result(total_cost_usd=usd)))
    with pytest.raises(PartialAnswerError) as caught:
        client.model().ask(question())
    assert caught.value.usd is None


def test_a_client_that_does_not_know_an_option_is_to_be_updated(client: StandIn) -> None:
    client.orders("", complaint="error: unknown option '--no-session-persistence'\n", code=1)
    with pytest.raises(ProviderError, match="is too old") as caught:
        client.model().ask(question())
    assert "claude update" in caught.value.hint


@pytest.mark.parametrize(
    "says", ["", "Killed", "[]", '{"type": "other"}', "[" * 100_000, '{"type": "result"']
)
def test_a_client_that_prints_something_else_has_failed(client: StandIn, says: str) -> None:
    client.orders(says, complaint="Segmentation\tfault\x1b[0m\n", code=139)
    with pytest.raises(ProviderError) as caught:
        client.model().ask(question())
    assert "exit code 139): Segmentation fault[0m" in caught.value.summary


def test_no_secret_stands_in_what_is_said(client: StandIn) -> None:
    client.orders(json.dumps(result(**FAILED | {"result": "the key abc-123 is bad"})), code=1)
    with pytest.raises(ProviderError) as caught:
        client.model(ANTHROPIC_API_KEY="abc-123").ask(question())
    assert caught.value.summary.endswith("the key (key) is bad")


def test_a_client_that_does_not_end_is_ended(client: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claude_client, "TIMEOUT", 2.0)
    client.orders("", waits=True)
    with pytest.raises(ProviderError, match="did not answer"):
        client.model().ask(question())
    assert not psutil.pid_exists(client.told["pid"])
    assert os.listdir(tempfile.gettempdir()) == []


def test_a_client_that_cannot_be_started_is_named(client: StandIn) -> None:
    put(client.path, "#!/nowhere/node\n")
    with pytest.raises(ProviderError, match=f"Claude Code at {client.path} cannot be started"):
        client.model().ask(question())


def test_without_a_client_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claude_client, "_SHARED_PLACES", ())
    with pytest.raises(ProviderError, match="not installed here") as caught:
        ClaudeModel("", {"PATH": str(tmp_path), "HOME": str(tmp_path)}).ask(question())
    assert "knowledge.provider" in caught.value.hint


@pytest.mark.parametrize(
    "place",
    [
        ".local/bin/claude",
        ".claude/local/claude",
        ".npm-global/bin/claude",
        ".bun/bin/claude",
        ".nvm/versions/node/v22.1.0/bin/claude",
    ],
)
def test_a_client_is_found_where_installers_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(claude_client, "_SHARED_PLACES", ())
    put(tmp_path / place, "#!/bin/sh\n")
    environ = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)}
    assert find_client(environ) == str(tmp_path / place)


def test_the_path_comes_first_then_the_configured_folder(tmp_path: Path) -> None:
    for place in ("bin/claude", "elsewhere/local/claude", ".claude/local/claude"):
        put(tmp_path / place, "#!/bin/sh\n")
    environ = {"HOME": str(tmp_path), "CLAUDE_CONFIG_DIR": str(tmp_path / "elsewhere"), "PATH": "/nowhere"}
    assert find_client(environ) == str(tmp_path / "elsewhere/local/claude")
    assert find_client({**environ, "PATH": f"/nowhere:{tmp_path / 'bin'}"}) == str(tmp_path / "bin/claude")


def test_of_several_versions_of_node_the_latest_client_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claude_client, "_SHARED_PLACES", ())
    for age, version in enumerate(("v9", "v22", "v10")):
        path = tmp_path / ".nvm" / "versions" / "node" / version / "bin" / "claude"
        put(path, "#!/bin/sh\n")
        os.utime(path, (1000 - age, 1000 + age))
    found = find_client({"PATH": "/nowhere", "HOME": str(tmp_path)})
    assert found == str(tmp_path / ".nvm/versions/node/v10/bin/claude")


def test_a_client_off_the_path_finds_what_was_installed_with_it(client: StandIn) -> None:
    beside = client.home / ".local" / "bin"
    beside.mkdir(parents=True)
    client.path.rename(beside / "claude")
    client.model(PATH="/usr/bin:/bin").ask(question())
    assert client.told["environ"]["PATH"] == f"/usr/bin:/bin:{beside}"
