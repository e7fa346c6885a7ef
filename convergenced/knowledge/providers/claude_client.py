"""The provider `claude`: the Claude Code that is installed here, in print mode, with this user's login.

Promises: it can use no tool, and loads nothing that a user or a project configured (hooks, MCP servers,
CLAUDE.md, plugins); what it is asked stands in no process list and cannot make it read a file; it leaves no
session behind, which would be shared; it works in a folder of its own that goes away with it, for a bounded
time; an answer counts only where it is whole and has the shape that was asked for.
What its options do was seen in clients 2.1.329 and 2.1.40. One that does not know an option refuses to start.
"""

from __future__ import annotations

import glob
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from convergenced.knowledge.prices import BYTES_PER_TOKEN, price_of
from convergenced.knowledge.provider import (
    ASKING_PREFIX,
    Answer,
    PartialAnswerError,
    ProviderError,
    Question,
    fits,
)
from convergenced.knowledge.providers.claude_login import home_of, locations, login_environ, login_settings
from convergenced.merge.documents import Json
from convergenced.model import LocalPath
from convergenced.store.program import Limits, Outcome, Programs

DEFAULT_MODEL = "sonnet"

TIMEOUT = 600.0
"""Seconds that one question may take."""

OVERHEAD_TOKENS = 4000
"""Tokens that the client adds to a question, at the most."""

TURNS = 2
"""Calls of the model: older clients need the second to end, and one that did not fit is corrected in it."""

RETRIES = 4
"""Times that the client tries again, with growing delays, where the API is not well."""

LOGIN_HINT = "run `claude` once and log in; a key that you use instead must be set where the daemon runs"
LATER_HINT = "it is tried again by itself later"
MODEL_HINT = f"choose one with `convergencectl config set knowledge.model {DEFAULT_MODEL}`"
OTHER_HINT = "choose another provider: `convergencectl config set knowledge.provider none`"

_OPTIONS = (
    *("--print", "--output-format", "json", "--max-turns", str(TURNS)),
    *("--tools", "", "--strict-mcp-config", "--setting-sources", "", "--disable-slash-commands"),
    "--no-session-persistence",
)

_SETTINGS = {
    "CLAUDE_CODE_DISABLE_ATTACHMENTS": "1",  # a path behind an at sign would be read and sent along
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",
    "CLAUDE_CODE_DISABLE_CLAUDE_MDS": "1",
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",  # makes a folder for the session's project
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_DISABLE_THINKING": "1",
    "MAX_THINKING_TOKENS": "0",  # the same for older clients
    "CLAUDE_CODE_MAX_RETRIES": str(RETRIES),
    "DISABLE_AUTOUPDATER": "1",
}

_SHARED_PLACES = ("/usr/local/bin", "/opt/homebrew/bin")

_SECRETS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")


class ClaudeModel:
    """A model behind the installed client; empty names the default one."""

    def __init__(self, model: str, environ: Mapping[str, str]) -> None:
        self._model = model or DEFAULT_MODEL
        self._environ = environ
        self._programs = Programs()

    def estimate(self, question: Question) -> float:
        """Dollars that an answer may cost at the most: at that the client itself gives up. Asks nobody."""
        sent = question.system + _Sheltered(question.text).text + json.dumps(question.schema)
        asked = OVERHEAD_TOKENS + len(sent.encode("utf-8", "replace")) // BYTES_PER_TOKEN + 1
        per_asked, per_answered = price_of(self._model)
        return (asked * per_asked + question.max_tokens * per_answered) / 1e6

    def ask(self, question: Question) -> Answer:
        """Asks; the client tries again by itself where that helps. Raises `ProviderError`."""
        client = find_client(self._environ)
        if client is None:
            raise ProviderError(
                "Claude Code is not installed here: there is no program `claude` on the PATH",
                f"install it, or {OTHER_HINT}",
            )
        sheltered = _Sheltered(question.text)
        result = self._result(client, self._run(client, question, sheltered.text.encode("utf-8", "replace")))
        usd = _dollars(result)
        if result.get("is_error") is not False or result.get("subtype") != "success":
            raise self._diagnosed(result, usd)
        value = sheltered.restored(result.get("structured_output"))
        if usd is None or not isinstance(value, dict) or not fits(value, question.schema):
            raise PartialAnswerError(
                f"the answer of {self._model} has not the shape that was asked for", "", usd
            )
        return Answer(value, self._answered_by(result), usd)

    def _run(self, client: LocalPath, question: Question, text: bytes) -> Outcome:
        words = [
            *(client, *_OPTIONS, "--model", self._model, "--system-prompt", question.system),
            *("--json-schema", json.dumps(question.schema)),
            *("--max-budget-usd", f"{self.estimate(question):.4f}"),
        ]
        try:
            with tempfile.TemporaryDirectory(prefix=ASKING_PREFIX, ignore_cleanup_errors=True) as top:
                work, scratch = os.path.join(top, "work"), os.path.join(top, "tmp")
                os.mkdir(work, 0o700)
                os.mkdir(scratch, 0o700)
                environ = {
                    **login_environ(self._environ),
                    **_SETTINGS,
                    "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(question.max_tokens),
                    "CLAUDE_CODE_TMPDIR": scratch,
                    "PATH": _path(self._environ, client),
                    "PWD": work,
                }
                return self._programs.run(
                    [*words, *_login_options(login_settings(self._environ), top)],
                    environ=environ,
                    limits=Limits(TIMEOUT, TIMEOUT),
                    given=text,
                    folder=work,
                )
        except OSError as error:
            raise ProviderError(
                f"Claude Code at {client} cannot be started: {error.strerror}", OTHER_HINT
            ) from None

    def _result(self, client: LocalPath, outcome: Outcome) -> Mapping[str, Any]:
        """What the client says came of it, if it got so far."""
        match outcome.end:
            case "exit":
                pass
            case "flood":
                raise PartialAnswerError(f"Claude Code at {client} answers without an end")
            case "closed":
                raise ProviderError("Claude Code was ended before it answered", LATER_HINT)
            case _:
                raise ProviderError(
                    f"Claude Code at {client} did not answer in {TIMEOUT / 60:.0f} minutes",
                    f"look whether it answers when you run it yourself; {LATER_HINT}",
                )
        try:
            result = json.loads(outcome.out)
        except (ValueError, RecursionError):
            result = None
        if isinstance(result, dict) and result.get("type") == "result":
            return result
        said = self._clean(outcome.err or outcome.out.decode("utf-8", "replace"))
        if "unknown option" in said:
            raise ProviderError(f"Claude Code at {client} is too old: {said}", "update it: `claude update`")
        raise ProviderError(
            f"Claude Code at {client} gave no answer (exit code {outcome.code}): {said or 'not a word'}",
            "look whether it works when you run it yourself",
        )

    def _diagnosed(self, result: Mapping[str, Any], usd: float | None) -> ProviderError:
        subtype, status = result.get("subtype"), result.get("api_error_status")
        errors = result.get("errors")
        listed = " ".join(map(_text, errors)) if isinstance(errors, list) else ""
        said = self._clean(listed or _text(result.get("result")))
        if (stopped := _stopped(result)) is not None:
            what, hint = stopped
            return PartialAnswerError(f"the answer of {self._model} {what}", hint, usd)
        if subtype != "success":
            return PartialAnswerError(
                f"Claude Code gave up ({self._clean(_text(subtype))[:60]}): {said or 'without a reason'}",
                "",
                usd,
            )
        lower = said.lower()
        if "credit" in lower or "billing" in lower:
            return ProviderError(f"Claude Code is refused: {said}", "look at your plan and its billing")
        if status in (401, 403) or "/login" in lower or "log in" in lower:
            return ProviderError(f"Claude Code is not logged in: {said}", LOGIN_HINT)
        if status == 404:
            return ProviderError(f"Claude Code cannot use the model {self._model}: {said}", MODEL_HINT)
        if status == 429 or "limit" in lower:
            return ProviderError(f"Claude Code is at a limit of use: {said}", LATER_HINT)
        if result.get("api_error") == "connection_failed":
            return ProviderError(
                f"Claude Code cannot reach the API: {said}", f"look at the network; {LATER_HINT}"
            )
        if isinstance(status, int) and status >= 500:
            return ProviderError(f"the API is not well: {said}", LATER_HINT)
        return ProviderError(f"Claude Code failed: {said or 'without a reason'}", LATER_HINT)

    def _answered_by(self, result: Mapping[str, Any]) -> str:
        """The model that did most of the work."""
        usage = result.get("modelUsage")
        if not isinstance(usage, dict) or not usage:
            return self._model
        return self._clean(max(usage, key=lambda name: _number(usage[name], "costUSD") or 0.0))[:100]

    def _clean(self, text: str) -> str:
        """What the client said, in one line and without a secret."""
        for name in _SECRETS:
            if secret := self._environ.get(name):
                text = text.replace(secret, "(key)")
        return "".join(char for char in " ".join(text.split()) if char.isprintable())[:300]


def find_client(environ: Mapping[str, str]) -> LocalPath | None:
    """Where Claude Code is: on the PATH, else where its installers put it."""
    on_path = shutil.which("claude", path=environ.get("PATH", os.defpath))
    places = [on_path] if on_path else _usual_places(environ)
    found = next((place for place in places if os.access(place, os.X_OK)), None)
    return None if found is None else LocalPath(os.path.abspath(found))


def _usual_places(environ: Mapping[str, str]) -> Iterator[str]:
    home = home_of(environ)
    yield os.path.join(home, ".local", "bin", "claude")
    yield os.path.join(locations(environ).config_dir, "local", "claude")
    for folder in _SHARED_PLACES:
        yield os.path.join(folder, "claude")
    for folder in (".npm-global/bin", ".bun/bin", ".volta/bin"):
        yield os.path.join(home, folder, "claude")
    installed = glob.glob(os.path.join(glob.escape(home), ".nvm/versions/node/*/bin/claude"))
    yield from sorted(installed, key=os.path.getmtime, reverse=True)


def _login_options(settings: Mapping[str, Json], folder: str) -> tuple[str, ...]:
    """What gives the client these settings: a file, since a key may be among them."""
    if not settings:
        return ()
    path = os.path.join(folder, "settings.json")
    with open(path, "x", encoding="utf-8") as file:
        json.dump(settings, file)
    return ("--settings", path)


def _path(environ: Mapping[str, str], client: LocalPath) -> str:
    """The PATH, with the client's folder: a script needs the node that it was installed with."""
    beside = os.path.dirname(client)
    folders = environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(folders if beside in folders else [*folders, beside])


class _Sheltered:
    """A text that tells the client nothing but itself: neither names a file to read nor gives a command."""

    def __init__(self, text: str) -> None:
        self._sign = next(sign for number in count() if (sign := f"{{{{CC_AT{number or ''}}}}}") not in text)
        shown = text.replace("@", self._sign)
        self.text = f"In this text {self._sign} stands for the at sign; write it in the same way.\n\n{shown}"

    def restored(self, value: Json) -> Json:
        """What was answered, with the at signs in it."""
        match value:
            case str():
                return value.replace(self._sign, "@")
            case list():
                return [self.restored(one) for one in value]
            case dict():
                return {name: self.restored(one) for name, one in value.items()}
        return value


def _stopped(result: Mapping[str, Any]) -> tuple[str, str] | None:
    """What became of this one answer, and what helps; None where it is not the answer's own fault."""
    if result.get("stop_reason") == "refusal":
        return "is a refusal", "the model does not want to handle these documents; another one may"
    if result.get("terminal_reason") == "prompt_too_long":
        return "did not fit beside the question", "the documents are too long for this model"
    if result.get("stop_reason") == "max_tokens" or result.get("api_error") == "max_output_tokens":
        return "is longer than it may be", "it is not taken"
    return None


def _dollars(result: Mapping[str, Any]) -> float | None:
    return _number(result, "total_cost_usd")


def _number(values: object, name: str) -> float | None:
    """A number that is not below zero; None for anything else."""
    value = values.get(name) if isinstance(values, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
