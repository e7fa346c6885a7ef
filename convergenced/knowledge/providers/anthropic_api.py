"""The provider `anthropic`: the Messages API through the official SDK, an optional extra.

The SDK is imported when the first question is asked, so that an estimate needs neither it nor a key.
Promises: the key comes from this machine's environment or its keyring and goes to the API alone, into no
text of an error; an answer counts only where it ended by itself and has the shape that was asked for; a
question ends within bounded time, however long the API asks to wait.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from convergenced.errors import ConvergenceError
from convergenced.knowledge.keys import SERVICE, find_token, read_keyring
from convergenced.knowledge.prices import BYTES_PER_TOKEN, price_of
from convergenced.knowledge.provider import Answer, PartialAnswerError, ProviderError, Question, fits
from convergenced.merge.documents import Json
from convergenced.urls import redact_url

if TYPE_CHECKING:
    import anthropic
    from anthropic.types import Message

DEFAULT_MODEL = "claude-sonnet-5-5"

KEY, TOKEN = "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"
"""Variables of which one opens the API; the first one counts where both are set."""

ENTRY = "anthropic"
"""What the key is called in a keyring."""

RETRIES = 4
"""Times that the SDK tries again, with growing delays, where that helps."""

SILENCE = 120.0
"""Seconds that may pass without a sign of life while an answer comes."""

MAX_WAIT = 60.0
"""Seconds that the API may ask to wait before the next try."""

KEY_HINT = (
    f"set {KEY} where the daemon runs, or keep the key in the keyring: "
    f"`python -m keyring set {SERVICE} {ENTRY}`"
)
CREDIT_HINT = "look at the plan and billing of this key's organization in the Claude Console"
LATER_HINT = "it is tried again by itself later"


class AnthropicModel:
    """A model of the Messages API; empty names the default one."""

    def __init__(self, model: str, environ: Mapping[str, str]) -> None:
        self._model = model or DEFAULT_MODEL
        self._environ = environ
        self._access: _Access | None = None

    def estimate(self, question: Question) -> float:
        """Dollars that asking may cost at the most. Asks nobody."""
        schema = json.dumps(question.schema)
        asked = len((question.system + question.text + schema).encode("utf-8", "replace"))
        return self._price(asked // BYTES_PER_TOKEN + 1, question.max_tokens)

    def ask(self, question: Question) -> Answer:
        """Asks; tries again by itself where that helps. Raises `ProviderError`."""
        message = self._send(question)
        usage = message.usage
        read = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
        usd = self._price(usage.input_tokens + read, usage.output_tokens)
        if message.stop_reason != "end_turn":
            what, hint = _STOPPED.get(message.stop_reason or "", (f"broke off ({message.stop_reason})", ""))
            raise PartialAnswerError(f"the answer of {self._model} {what}", hint, usd)
        value = _value("".join(block.text for block in message.content if block.type == "text"))
        if not isinstance(value, dict) or not fits(value, question.schema):
            raise PartialAnswerError(
                f"the answer of {self._model} has not the shape that was asked for", "", usd
            )
        return Answer(value, message.model, usd)

    def _price(self, asked: int, answered: int) -> float:
        per_asked, per_answered = price_of(self._model)
        return (asked * per_asked + answered * per_answered) / 1e6

    def _send(self, question: Question) -> Message:
        sdk = _sdk()
        has_begun = False
        try:
            with (
                self._client(sdk) as client,
                client.messages.stream(
                    model=self._model,
                    max_tokens=question.max_tokens,
                    system=question.system,
                    messages=[{"role": "user", "content": question.text}],
                    output_config={"format": {"type": "json_schema", "schema": dict(question.schema)}},
                ) as stream,
            ):
                has_begun = True
                return stream.get_final_message()
        except ConvergenceError:
            raise
        except sdk.APIStatusError as error:
            raise self._diagnosed(error) from None
        except sdk.APIConnectionError as error:
            cause = error.__cause__ or error
            raise ProviderError(
                f"the Messages API at {self._where()} cannot be reached: {self._clean(str(cause))}",
                f"look at the network and at ANTHROPIC_BASE_URL; {LATER_HINT}",
            ) from None
        except Exception as error:  # noqa: BLE001 (the SDK lets through what breaks midway)
            what = self._clean(f"{type(error).__name__}: {error}")
            if not has_begun:
                raise ProviderError(f"the Messages API cannot be asked: {what}", KEY_HINT) from None
            raise PartialAnswerError(f"the answer of {self._model} broke off: {what}", LATER_HINT) from None

    def _client(self, sdk: Any) -> anthropic.Anthropic:
        self._access = self._access or _access(self._environ)
        client = sdk.Anthropic(
            api_key=self._access.key,
            auth_token=self._access.token,
            base_url=self._environ.get("ANTHROPIC_BASE_URL") or None,
            max_retries=RETRIES,
            timeout=sdk.Timeout(SILENCE, connect=10.0),
            http_client=sdk.DefaultHttpxClient(follow_redirects=False),  # a key goes nowhere else
            middleware=[_bounded_wait],
        )
        return cast("anthropic.Anthropic", client)

    def _diagnosed(self, error: anthropic.APIStatusError) -> ProviderError:
        said = self._clean(error.api_message or error.message)
        kind = error.type or ""
        match error.status_code:
            case 401:
                return ProviderError(f"the Messages API refused the key: {said}", KEY_HINT)
            case 402:
                return ProviderError(f"the Messages API asks for payment: {said}", CREDIT_HINT)
            case 403:
                return ProviderError(f"the key may not use {self._model}: {said}", _MODEL_HINT)
            case 404:
                return ProviderError(
                    f"the Messages API does not know the model {self._model}: {said}", _MODEL_HINT
                )
            case 413:
                return PartialAnswerError(f"the question is too long for the Messages API: {said}", "", 0.0)
            case 400 if "credit" in said or "billing" in said or kind == "billing_error":
                return ProviderError(f"the Messages API refused: {said}", CREDIT_HINT)
            case 429:
                return ProviderError(f"the Messages API limits the rate: {said}", LATER_HINT)
            case status if status >= 500 or status == 200:  # 200 where it comes in the middle of an answer
                return ProviderError(f"the Messages API is not well ({kind or status}): {said}", LATER_HINT)
            case status:
                return ProviderError(f"the Messages API refused the question ({status}): {said}", _MODEL_HINT)

    def _where(self) -> str:
        return redact_url(self._environ.get("ANTHROPIC_BASE_URL") or "https://api.anthropic.com")

    def _clean(self, text: str) -> str:
        """What somebody said, in one line and without the key."""
        for secret in (self._access.key, self._access.token) if self._access else ():
            if secret:
                text = text.replace(secret, "(key)")
        line = " ".join(text.split())
        return "".join(char for char in line if char.isprintable())[:300]


@dataclass(frozen=True, slots=True)
class _Access:
    """One of both."""

    key: str | None
    token: str | None


_MODEL_HINT = f"choose one with `convergencectl config set knowledge.model {DEFAULT_MODEL}`"

_STOPPED = {
    "max_tokens": ("is longer than it may be", "it is not taken"),
    "model_context_window_exceeded": (
        "did not fit beside the question",
        "the documents are too long for this model",
    ),
    "refusal": ("is a refusal", "the model does not want to handle these documents; another one may"),
}


def _sdk() -> Any:
    try:
        import anthropic  # noqa: PLC0415 (an optional extra, and a heavy one)
    except ImportError as error:
        raise ProviderError(
            f"the provider anthropic needs a package that is not installed ({error.name or 'anthropic'})",
            "pip install 'convergenced[synthesis]'",
        ) from None
    return anthropic


def _access(environ: Mapping[str, str]) -> _Access:
    """What opens the API, from the environment, else from the keyring. Raises `ProviderError`."""
    found = find_token((KEY, TOKEN), ENTRY, environ, read_keyring)
    if not found:
        raise ProviderError("there is no key for the Messages API", KEY_HINT)
    is_token = not environ.get(KEY, "").strip() and bool(environ.get(TOKEN, "").strip())
    return _Access(None, found) if is_token else _Access(found, None)


def _bounded_wait(request: Any, call_next: Any) -> Any:
    """Lets the SDK wait for as long as it is asked to, up to `MAX_WAIT`."""
    response = call_next(request)
    headers = response.headers
    wait = max(_seconds(headers.get("retry-after")), _seconds(headers.get("retry-after-ms")) / 1000)
    if response.status_code >= 400 and wait > MAX_WAIT:
        raise ProviderError("the Messages API asks to wait for long before the next try", LATER_HINT)
    return response


def _seconds(words: str | None) -> float:
    """Seconds of a `Retry-After`; a date is a long time."""
    try:
        return float(words or 0)
    except ValueError:
        return float("inf")


def _value(text: str) -> Json:
    try:
        return cast("Json", json.loads(text))
    except (ValueError, RecursionError):
        return None
