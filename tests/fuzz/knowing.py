"""Checks of what reads foreign bytes for shared knowledge: documents, settings, and what programs answer.

As in `targets`: a check takes any bytes, returns where the promises hold, and raises anything else.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

from convergenced.errors import RefusedInputError
from convergenced.knowledge.markers import read_ending
from convergenced.knowledge.provider import Answer, PartialAnswerError, ProviderError, Question
from convergenced.knowledge.providers.claude_client import ClaudeModel
from convergenced.knowledge.providers.github import GitHubRunner
from convergenced.knowledge.providers.gitlab import GitLabRunner
from convergenced.knowledge.providers.http import Access, Api, Reply
from convergenced.knowledge.synthesis import DocumentTask, ScopeResult, ScopeTask, synthesize
from convergenced.knowledge.worker import _failed, _Heard, _line, _result
from convergenced.merge.client_settings import (
    apply_settings,
    merge_settings,
    setting_changes,
    shared_settings,
)
from convergenced.merge.documents import Json
from convergenced.merge.markdown import Version, merge_markdown, removed_sections
from convergenced.merge.marks import (
    LONGEST,
    add_mark,
    changed_share,
    conflict_mark,
    find_marks,
    unverified_mark,
)
from convergenced.model import LocalPath
from convergenced.store.program import Outcome
from tests.fakes.clock import FakeClock

QUESTION = Question("s", "t", {"type": "object", "properties": {"document": {"type": "string"}}}, 10)
TASK = ScopeTask("global", ())


def _parts(data: bytes, count: int) -> list[bytes]:
    return [*data.split(b"\xff")[:count], *[b""] * count][:count]


def check_markdown(data: bytes) -> None:
    """Documents merge fairly whatever they are, and a version that says nothing new changes nothing."""
    current, *sides = _parts(data, 5)
    one, other = (
        Version(name, text, base)
        for name, text, base in (("a", sides[0], sides[2]), ("b", sides[1], sides[3] or None))
    )
    for agreed in (current, None):
        merged = merge_markdown(agreed, [one, other])
        assert merge_markdown(agreed, [other, one]) == merged
        assert all(isinstance(text, str) for text in merged.contradictions)
        find_marks(merged.data)
    assert merge_markdown(current, [Version("a", current, None)]).data == current
    assert merge_markdown(None, [Version("a", sides[0], None)]).data == sides[0]
    removed_sections(sides[2], sides[0])
    assert 0 <= changed_share(sides[0], sides[1]) <= 1


def check_marks(data: bytes) -> None:
    """A mark can be put anywhere, says what it was to say, and taking it out gives the document back."""
    document, quote, text = _parts(data, 3)
    quoted, said = (part.decode("utf-8", "surrogateescape") for part in (quote, text))
    before = find_marks(document)
    for mark in (conflict_mark(said), unverified_mark(said)):
        (alone,) = find_marks(mark)
        assert len(alone.text) <= LONGEST
        marked = add_mark(document, quoted, mark)
        assert add_mark(marked, quoted, mark) == marked
        if mark in document:
            assert marked == document
            continue
        assert mark in marked
        left = [line for line in marked.split(b"\n") if line.rstrip(b"\r") != mark]
        assert [line.rstrip(b"\r") for line in document.split(b"\n") if line.strip()] == [
            line.rstrip(b"\r") for line in left if line.strip()
        ]
        assert len(find_marks(marked)) <= len(before) + 1


def check_settings(data: bytes) -> None:
    """Settings are read or refused; what is shared is final; what is taken on is what was told."""
    current, local, wanted = _parts(data, 3)
    shared: list[bytes] = []
    for text in (current, local, wanted):
        try:
            shared.append(shared_settings(text)[0])
        except RefusedInputError:
            continue
        assert shared_settings(shared[-1]) == (shared[-1], ())
    versions = [Version("a", local, current), Version("b", wanted, None)]
    for agreed in (current, None):
        merged = merge_settings(agreed, versions)
        assert merge_settings(agreed, versions[::-1]) == merged
        assert shared_settings(merged.data) == (merged.data, ())
    if len(shared) == 3:
        changes = setting_changes(local, wanted)
        assert len({change.id for change in changes}) == len(changes)
        assert setting_changes(apply_settings(local, changes), wanted) == []
        chosen = [change for change in changes if not change.consent]
        left = setting_changes(apply_settings(local, chosen), wanted)
        assert [one.id for one in left] == [one.id for one in changes if one.consent]


def check_heard(data: bytes) -> None:
    """What the process that synthesizes says is a whole result, or there is a diagnosis."""
    try:
        result = _heard(data)
    except ProviderError as error:
        str(error)
        return
    assert result.outcome in ("copied", "merged", "rejected", "failed")
    assert all(isinstance(document, bytes) for document in result.documents.values())
    assert _heard(_line(result)) == result


def _heard(data: bytes) -> ScopeResult:
    heard = _Heard(lambda told: None, _result)
    for start in range(0, len(data), 1000):
        heard.piece(data[start : start + 1000])
    (result,) = heard.results([TASK], _failed)
    return result


class _Answering:
    """A model that answers so, whatever it is asked."""

    def __init__(self, document: str, quote: str, words: str) -> None:
        self._document, self._quote, self._words = document, quote, words

    def estimate(self, question: Question) -> float:
        return 0.01

    def ask(self, question: Question) -> Answer:
        if "claims" in question.schema["properties"]:  # type: ignore[operator]
            return Answer({"claims": [{"quote": self._quote, "claim": self._words}]}, "m", 0.01)
        found: list[Json] = [{"quote": self._quote, "description": self._words}]
        return Answer({"document": self._document, "contradictions": found}, "m", 0.01)


def check_answer(data: bytes) -> None:
    """Whatever a model answers gives a result: a document that is not empty, or why there is none."""
    current, one, other, answer, quote, words = _parts(data, 6)
    texts = [part.decode("utf-8", "replace") for part in (answer, quote, words)]
    versions = (Version("a", one, current or None), Version("b", other, None))
    task = ScopeTask("global", (DocumentTask("CLAUDE.md", current or None, versions),))
    for model in (_Answering(*texts), None):
        for most in (0, 3):
            result = synthesize(task, model, reject_above=most, budget=1.0)
            assert result.text.isprintable()
            assert all(said.isprintable() for said in (*result.marks, *result.claims))
            assert bool(result.documents) == (result.outcome in ("copied", "merged"))
            assert not (result.documents and model and result.model) or result.documents["CLAUDE.md"].strip()
            assert _heard(_line(result)) == result


class _Client(ClaudeModel):
    """An installed client that says so."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("", {"PATH": "/bin", "HOME": "/nowhere", "ANTHROPIC_API_KEY": "sk-key"})
        self._outcome = outcome

    def _run(self, client: LocalPath, question: Question, text: bytes) -> Outcome:
        return self._outcome


def check_client(data: bytes) -> None:
    """What Claude Code prints is an answer of the shape that was asked for, or a diagnosis in one line."""
    out, err = _parts(data, 2)
    outcome = Outcome("exit", len(err) % 3, out, err.decode("utf-8", "replace"))
    with patch("convergenced.knowledge.providers.claude_client.find_client", lambda environ: "/bin/claude"):
        try:
            answer = _Client(outcome).ask(QUESTION)
        except (PartialAnswerError, ProviderError) as error:
            summary, text = error.summary, str(error)
        else:
            assert answer.value.keys() == {"document"}
            assert answer.usd >= 0
            assert answer.model.isprintable()
            return
    assert "sk-key" not in text
    assert "\n" not in summary


def check_forge(data: bytes) -> None:
    """Whatever a forge answers to each request, a run ends: with a word on it, or with a diagnosis."""
    statuses = (200, 200, 200, 201, 204, 302, 307, 400, 403, 404, 422, 429, 500, 503)
    answers = [(statuses[part[0] % len(statuses)], part[1:]) for part in data.split(b"\xff") if part]
    clock = FakeClock()

    def script(asked: list[int]) -> Callable[..., Reply]:
        def once(*asked_for: object, **how: object) -> Reply:
            status, body = answers[min(len(asked), len(answers) - 1)] if answers else (200, b"")
            asked.append(status)
            header, _, rest = body.partition(b"\n") if b":" in body.split(b"\n")[0][:30] else (b"", b"", body)
            key, _, value = header.decode("latin-1").partition(":")
            return Reply(status, {key.lower(): value}, rest)

        return once

    access = Access("https://api.example.org", {"Authorization": "Bearer token-of-mine"}, {}, {})
    runners: Sequence[Any] = (
        GitHubRunner("o/n", access, clock=clock, wait=clock.advance, nonce=lambda: "nonce"),
        GitLabRunner("o/n", access, "", clock=clock, wait=clock.advance),
        GitLabRunner("o/n", access, "trigger", clock=clock, wait=clock.advance),
    )
    for runner in runners:
        with patch.object(Api, "_once", script([])):
            try:
                text = runner.run(threading.Event(), lambda told: None, 600.0)
            except ProviderError as error:
                text = str(error)
            assert "token-of-mine" not in text
    read_ending(data.decode("utf-8", "replace"))


# -- what fuzzing begins with


def markdown_seeds() -> list[bytes]:
    """Documents with what Markdown has, as `check_markdown` takes them apart."""
    text = b"---\na: b\n---\n# A\nx\n## B\n- y\n- z\n```sh\ncode\n```\n| a |\n| - |\n"
    return [
        b"\xff".join((text, text.replace(b"x", b"q"), text.replace(b"- z\n", b""), text, text)),
        b"\xff".join((text, b"T\n===\n" + text, b"<!-- a\n" + text, b"# A\n", text)),
        text.replace(b"\n", b"\r\n") + b"\xff" + text + b"\xff\xef\xbb\xbf" + text,
    ]


def mark_seeds() -> list[bytes]:
    """A document, a quote and a text."""
    document = b"# A\n- one\n```\ntwo\n```\n" + conflict_mark("a or b") + b"\n"
    return [document + b"\xffone\xffwho says --> that?", document + b"\xfftwo\nx\xffa or b", b"\r\n\xff\xff"]


def setting_seeds() -> list[bytes]:
    """Settings of all kinds, as `check_settings` takes them apart."""
    one = {
        "theme": "dark",
        "env": {"FOO": "1", "API_TOKEN": "x"},
        "permissions": {"allow": ["Bash(ls)", "WebSearch"], "defaultMode": "plan"},
        "hooks": {"Stop": [{"hooks": [{"type": "command", "command": "say done"}]}]},
        "apiKeyHelper": "/bin/key",
        "mcpServers": {"one": {"command": "x", "env": {"KEY": "abc"}}},
    }
    other = {**one, "theme": "light", "permissions": {"deny": [1, True, None, 1.0]}, "hooks": {}}
    texts = [json.dumps(value, indent=indent).encode() for value in (one, other) for indent in (None, 2)]
    return [
        b"\xff".join(texts[:3]),
        b"\xff".join(texts[1:]),
        b'{}\xff{"a":1,"a":{"b":[]}}\xff{"a":{"b":[1]}}',
        b"\xff\xff" + texts[0],
    ]


def heard_seeds() -> list[bytes]:
    """What a worker says."""
    result = ScopeResult("global", "merged", {"CLAUDE.md": b"x\n"}, ("m",), (), "model", "p", 0.1, "text")
    end = b'{"tell":"global (1 of 1)"}\n%s{"end":true}\n'
    return [end % _line(result), end % b'{"error":"no key","hint":"set one"}\n']


def answer_seeds() -> list[bytes]:
    """Documents, what a model makes of them, and what it says of that."""
    return [
        b"# A\nx\n\xff# A\nx\ny\n\xff# A\nz\n\xff# A\nx\ny\nz\n\xffz\xffnobody says z",
        b"\xffa\xffb\xff \xff",
    ]


def client_seeds() -> list[bytes]:
    """What Claude Code prints."""
    result = {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "total_cost_usd": 0.5,
        "structured_output": {"document": "x"},
        "modelUsage": {"claude-x": {"costUSD": 0.5}},
    }
    failed = {**result, "is_error": True, "api_error_status": 401, "result": "Please run /login"}
    odd = {**failed, "subtype": "gave\nup", "modelUsage": {"a\nb": {"costUSD": 1}}}
    return [json.dumps(one).encode() for one in (result, failed, odd)] + [b"\xfferror: unknown option '--x'"]


def forge_seeds() -> list[bytes]:
    """What forges answer, one request after the other; the first byte chooses the status."""
    hub = b'\x00{"default_branch":"main"}'
    run = b'\x00{"status":"completed","conclusion":"%s","html_url":"u","id":1,"web_url":"w"}'
    jobs = b'\x00{"jobs":[{"id":1,"name":"j","conclusion":"failure","steps":[{"conclusion":"failure"}]}]}'
    return [
        b"\xff".join((hub, b'\x03{"workflow_run_id":1}', run % b"success", jobs, b"\x00log")),
        b"\xff".join(
            (hub, b"\x04", b'\x00{"workflow_runs":[{"display_title":"nonce","id":2}]}', run % b"failure")
        ),
        b"\xff".join((hub, b'\x00{"id":1,"web_url":"w"}', b'\x00{"status":"failed"}', b"\x00[]")),
        b"\xff".join((hub, b'\x0bretry-after: 5\n{"message":"slow"}', b'\x08{"message":{"base":["no"]}}')),
    ]
