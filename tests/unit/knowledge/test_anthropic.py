"""The provider `anthropic`: the real SDK against a Messages API on the loopback interface."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from convergenced.knowledge.provider import PartialAnswerError, ProviderError, Question
from convergenced.knowledge.providers import anthropic_api
from convergenced.knowledge.providers.anthropic_api import DEFAULT_MODEL, AnthropicModel
from tests.messages_api import KEY, MessagesApi, Refuses, Says, Script, in_turn

QUESTION = Question(
    system="You name a color.",
    text="Which one?",
    schema={
        "type": "object",
        "properties": {"color": {"type": "string"}},
        "required": ["color"],
        "additionalProperties": False,
    },
    max_tokens=2000,
)
GREEN = Says({"color": "green"}, asked_tokens=1_000_000, answered_tokens=100_000)
NOBODY = {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}


@pytest.fixture(autouse=True)
def _nobodys_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def refused(script: Script) -> ProviderError:
    """The error that comes of an API that answers so."""
    with MessagesApi(script) as api, pytest.raises(ProviderError) as caught:
        AnthropicModel("", api.environ).ask(QUESTION)
    assert KEY not in str(caught.value)
    return caught.value


def test_it_asks_for_a_shape_and_answers_with_it() -> None:
    with MessagesApi(in_turn(GREEN)) as api:
        answer = AnthropicModel("claude-opus-5", api.environ).ask(QUESTION)
        (asked,) = api.requests
    assert answer.value == {"color": "green"}
    assert answer.model == "claude-opus-5"
    assert answer.usd == pytest.approx(5.0 + 2.5)
    assert asked.key == KEY
    assert asked.body["max_tokens"] == 2000
    assert asked.body["model"] == "claude-opus-5"
    assert asked.system == QUESTION.system
    assert asked.text == QUESTION.text
    assert asked.schema == QUESTION.schema
    assert "tools" not in asked.body


def test_the_default_is_one_that_the_sdk_knows() -> None:
    import anthropic.types.model as known

    with MessagesApi(in_turn(GREEN)) as api:
        AnthropicModel("", api.environ).ask(QUESTION)
        assert api.requests[0].body["model"] == DEFAULT_MODEL
    assert f'"{DEFAULT_MODEL}"' in Path(str(known.__file__)).read_text(encoding="utf-8")


def test_an_answer_never_costs_more_than_was_estimated() -> None:
    with MessagesApi(in_turn(Says({"color": "green"}, asked_tokens=40, answered_tokens=2000))) as api:
        model = AnthropicModel("", api.environ)
        assert model.ask(QUESTION).usd <= model.estimate(QUESTION)


def test_an_estimate_needs_neither_key_nor_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anthropic", None)
    assert AnthropicModel("", {}).estimate(QUESTION) > 0


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anthropic", None)
    with pytest.raises(ProviderError, match="not installed") as caught:
        AnthropicModel("", {"ANTHROPIC_API_KEY": "x"}).ask(QUESTION)
    assert "pip install 'convergenced[synthesis]'" in caught.value.hint


@pytest.mark.parametrize(
    "trouble",
    [Refuses(429, "rate_limit_error"), Refuses(500), Refuses(529, "overloaded_error"), Refuses(503)],
    ids=["rate", "broken", "overloaded", "away"],
)
def test_it_tries_again_where_that_helps(trouble: Refuses) -> None:
    with MessagesApi(in_turn(trouble, trouble, GREEN)) as api:
        assert AnthropicModel("", api.environ).ask(QUESTION).value == {"color": "green"}
        assert len(api.requests) == 3


def test_it_gives_up_in_the_end() -> None:
    with MessagesApi(in_turn(Refuses(429, "rate_limit_error", "too many"))) as api:
        with pytest.raises(ProviderError, match="limits the rate: too many") as caught:
            AnthropicModel("", api.environ).ask(QUESTION)
        assert len(api.requests) == 1 + anthropic_api.RETRIES
    assert not isinstance(caught.value, PartialAnswerError)


@pytest.mark.parametrize("wait", ["86400", "Sun, 06 Nov 2044 08:49:37 GMT"])
def test_it_does_not_wait_for_a_day(wait: str) -> None:
    error = refused(in_turn(Refuses(429, "rate_limit_error", retry_after=wait)))
    assert "wait for long" in error.summary


@pytest.mark.parametrize(
    ("refusal", "summary", "hint"),
    [
        (Refuses(401, "authentication_error", f"invalid {KEY}"), "refused the key", "ANTHROPIC_API_KEY"),
        (Refuses(402, "billing_error"), "asks for payment", "billing"),
        (Refuses(403, "permission_error"), "may not use", "knowledge.model"),
        (
            Refuses(404, "not_found_error", "model: nope"),
            "does not know the model",
            "config set knowledge.model",
        ),
        (
            Refuses(400, "invalid_request_error", "Your credit balance is too low"),
            "credit balance",
            "billing",
        ),
        (
            Refuses(400, "invalid_request_error", "output_config: no"),
            "refused the question",
            "knowledge.model",
        ),
        (Refuses(302), "refused the question (302)", ""),
        (Refuses(500), "is not well", "later"),
    ],
    ids=["key", "payment", "permission", "model", "credit", "request", "elsewhere", "broken"],
)
def test_a_refusal_is_told_with_what_settles_it(refusal: Refuses, summary: str, hint: str) -> None:
    error = refused(in_turn(refusal))
    assert summary in error.summary
    assert hint in error.hint
    assert not isinstance(error, PartialAnswerError)


def test_an_api_that_is_not_there_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anthropic_api, "RETRIES", 0)
    environ = NOBODY | {"ANTHROPIC_API_KEY": "x", "ANTHROPIC_BASE_URL": "http://ann:pass1word@127.0.0.1:9"}
    with pytest.raises(ProviderError, match="cannot be reached") as caught:
        AnthropicModel("", environ).ask(QUESTION)
    assert "pass1word" not in str(caught.value)
    assert "127.0.0.1:9" in caught.value.summary


@pytest.mark.parametrize(
    ("says", "summary"),
    [
        (Says({"color": "green"}, stop="max_tokens"), "longer than it may be"),
        (Says({"color": "green"}, stop="refusal"), "is a refusal"),
        (Says({"color": "green"}, stop="model_context_window_exceeded"), "did not fit"),
        (Says({"color": "green"}, stop="pause_turn"), "broke off"),
        (Says({"color": "green"}, breaks_off=True), "broke off"),
        (Says("green"), "shape"),
        (Says(""), "shape"),
        (Says("[" * 100_000), "shape"),
        (Says({"colour": "green"}), "shape"),
        (Says({"color": "green", "more": 1}), "shape"),
        (Says({"color": ["green"]}), "shape"),
        (Refuses(413, "request_too_large", "1 MB"), "too long"),
    ],
    ids=[
        "long",
        "refusal",
        "window",
        "paused",
        "cut",
        "text",
        "empty",
        "deep",
        "other",
        "more",
        "kind",
        "big",
    ],
)
def test_a_part_of_an_answer_is_none(says: Says | Refuses, summary: str) -> None:
    error = refused(in_turn(says))
    assert isinstance(error, PartialAnswerError)
    assert summary in error.summary


def test_what_an_answer_cost_that_cannot_be_used_is_known() -> None:
    error = refused(in_turn(Says("green", asked_tokens=1_000_000, answered_tokens=0)))
    assert isinstance(error, PartialAnswerError)
    assert error.usd == pytest.approx(3.0)


def test_an_error_in_the_middle_of_an_answer_is_one() -> None:
    error = refused(in_turn(Refuses(529, "overloaded_error", "busy", in_stream=True)))
    assert "not well (overloaded_error)" in error.summary


def test_a_token_is_used_where_there_is_no_key() -> None:
    with MessagesApi(in_turn(GREEN)) as api:
        environ = api.environ | {"ANTHROPIC_API_KEY": " ", "ANTHROPIC_AUTH_TOKEN": "some-token"}
        AnthropicModel("", environ).ask(QUESTION)
        assert api.requests[0].key == "some-token"


def _keyring(monkeypatch: pytest.MonkeyPatch, answer: str | Exception | None) -> None:
    import keyring

    def get_password(service: str, name: str) -> str | None:
        assert (service, name) == ("convergence", "anthropic")
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(keyring, "get_password", get_password)


def test_the_keyring_is_asked_where_the_environment_has_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    _keyring(monkeypatch, "kept-key")
    with MessagesApi(in_turn(GREEN)) as api:
        environ = {name: value for name, value in api.environ.items() if name != "ANTHROPIC_API_KEY"}
        AnthropicModel("", environ).ask(QUESTION)
        assert api.requests[0].key == "kept-key"


@pytest.mark.parametrize("answer", [None, RuntimeError("locked: hunter2")], ids=["empty", "locked"])
def test_without_a_key_anywhere_it_says_where_one_belongs(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | None
) -> None:
    _keyring(monkeypatch, answer)
    with pytest.raises(ProviderError, match="no key for the Messages API") as caught:
        AnthropicModel("", NOBODY).ask(QUESTION)
    assert "ANTHROPIC_API_KEY" in caught.value.hint
    assert "keyring set convergence anthropic" in caught.value.hint
    assert "hunter2" not in str(caught.value)


def test_without_a_keyring_program_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(ProviderError, match="no key for the Messages API"):
        AnthropicModel("", NOBODY).ask(QUESTION)


def test_a_key_that_cannot_be_sent_is_not_shown() -> None:
    with pytest.raises(ProviderError, match="characters that no token has") as caught:
        AnthropicModel("", NOBODY | {"ANTHROPIC_API_KEY": "se\u00e9cret\nkey"}).ask(QUESTION)
    assert "cret" not in str(caught.value)


def test_importing_the_provider_does_not_import_the_sdk() -> None:
    assert isinstance(anthropic_api, ModuleType)
    assert "anthropic" not in vars(anthropic_api)
