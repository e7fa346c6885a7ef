"""Synthesis in a real process beside this one, against a Messages API on the loopback interface."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from convergenced.knowledge import worker
from convergenced.knowledge.provider import ProviderError
from convergenced.knowledge.synthesis import DocumentTask, ScopeResult, ScopeTask, gather, record
from convergenced.knowledge.worker import ScopePlan, open_model, plan_work, run_worker, serve
from convergenced.machine.settings_schema import KnowledgeSettings
from convergenced.merge.contributions import inputs_of
from convergenced.merge.knowledge import GLOBAL, DocumentPath, Knowledge, MachineKnowledge
from convergenced.merge.markdown import Version
from convergenced.merge.marks import find_marks
from convergenced.model import MachineId
from tests.fakes.store import MemoryStore
from tests.labelled import Lot
from tests.messages_api import KEY, Asked, Hangs, MessagesApi, Refuses, Reply, Says, Script, in_turn, merging

BASE = b"# Rules\n\n## Style\nUse tabs.\n"
DESK = BASE + b"\n## Build\nRun make.\n"
LAPTOP = BASE + b"\n## Tests\nRun pytest.\n"
MERGED = (DESK + b"\n## Tests\nRun pytest.\n").decode()
MODEL = KnowledgeSettings(provider="anthropic", max_usd=1.0)


def scope(name: str = "global", *, latin: bool = False) -> ScopeTask:
    versions = (Version("desk", DESK, BASE), Version("laptop", LAPTOP + (b"\xe9\n" if latin else b""), None))
    return ScopeTask(name, (DocumentTask("CLAUDE.md", BASE, versions),))


def environ_of(more: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: os.environ[name] for name in ("PATH", "TMPDIR", "COVERAGE_PROCESS_CONFIG") if name in os.environ
    }
    return kept | {"HOME": "/nonexistent", "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring", **more}


def run(
    tasks: list[ScopeTask],
    settings: KnowledgeSettings,
    more: Mapping[str, str],
    *,
    stop: threading.Event | None = None,
    told: list[str] | None = None,
) -> list[ScopeResult]:
    return run_worker(
        tasks,
        settings,
        environ_of(more),
        allowed=(),
        salt=b"salt",
        stop=stop or threading.Event(),
        tell=(told if told is not None else []).append,
    )


def served(tasks: list[ScopeTask], more: Mapping[str, str]) -> list[ScopeResult]:
    """The same within this process, through what goes between the two."""
    sink = io.BytesIO()
    serve(io.BytesIO(worker._request(tasks, MODEL, (), b"salt")), sink, environ_of(more))
    heard = worker._Heard(lambda _text: None, worker._result)
    heard.piece(sink.getvalue())
    assert heard.has_ended
    return heard.results(tasks, worker._failed)


def workers() -> list[psutil.Process]:
    """The processes that synthesize for this one."""
    return [
        child for child in psutil.Process().children() if "convergenced.knowledge.worker" in child.cmdline()
    ]


def test_a_process_merges_and_says_how_far_it_is() -> None:
    told: list[str] = []
    with MessagesApi(merging(MERGED, [("Run make.", "odd")], [("Run pytest.", "who knows")])) as api:
        results = run([scope(), scope("projects/x")], MODEL, api.environ, told=told)
        assert len(api.requests) == 4
    assert [(result.scope, result.outcome) for result in results] == [
        ("global", "merged"),
        ("projects/x", "merged"),
    ]
    document = results[0].documents["CLAUDE.md"]
    assert b"<!-- CONFLICT: odd" in document
    assert b"<!-- UNVERIFIED: who knows -->" in document
    assert results[0].marks == ("CLAUDE.md: UNVERIFIED: who knows", "CLAUDE.md: CONFLICT: odd")
    assert results[0].usd > 0
    assert told == ["global (1 of 2)", "projects/x (2 of 2)"]
    assert workers() == []


SECTIONS = b"# Rules\n\n## Style\n%s\n\n## %s\n%s\n\n## %s\n%s\n"
UNION = """# Rules

## Style
Use tabs.
Use spaces.

## Build
Run make.

## Notes
The cache lies in {{CC_HOME}}/.cache.

## Tests
Run pytest.

## Deploy
Ask Ann first.

## Monitoring
Graphs are on port 3000.
"""


@pytest.mark.parametrize(("invented", "outcome"), [(1, "merged"), (4, "rejected")])
def test_two_machines_come_to_one_document_or_keep_the_old_one(invented: int, outcome: str) -> None:
    desk = SECTIONS % (
        b"Use tabs.",
        b"Build",
        b"Run make.",
        b"Notes",
        b"The cache lies in {{CC_HOME}}/.cache.",
    )
    laptop = SECTIONS % (b"Use spaces.", b"Tests", b"Run pytest.", b"Deploy", b"Ask Ann first.")
    one, other, path = MachineId("a" * 32), MachineId("b" * 32), DocumentPath("CLAUDE.md")
    store = MemoryStore()
    known = Knowledge(
        machines={
            one: MachineKnowledge("desk", {GLOBAL: {path: store.write_blob(desk)}}),
            other: MachineKnowledge("laptop", {GLOBAL: {path: store.write_blob(laptop)}}),
        },
        consolidated={GLOBAL: {path: store.write_blob(BASE)}},
    )
    claims = [("Graphs are on port 3000.", f"invention {number}") for number in range(invented)]
    with MessagesApi(merging(UNION, [("Use spaces.", "desk says tabs, laptop says spaces")], claims)) as api:
        (result,) = served([gather(store, known, GLOBAL)], api.environ)
        merge, critic = api.requests
    assert all(data.decode() in asked.text for data in (BASE, desk, laptop) for asked in (merge, critic))
    assert (merge.is_critic, critic.is_critic) == (False, True)
    assert result.outcome == outcome
    after = record(store, known, result, inputs_of(known, GLOBAL), "anthropic", one, 1000)
    document = store.read_blob(after.consolidated[GLOBAL][path])
    if outcome == "rejected":
        assert document == BASE
        assert len(result.claims) == 4
        return
    unmarked = [line for line in document.decode().splitlines() if not line.startswith("<!-- ")]
    assert unmarked == UNION.splitlines()
    assert [(mark.kind, mark.text) for mark in find_marks(document)] == [
        ("CONFLICT", "desk says tabs, laptop says spaces"),
        ("UNVERIFIED", "invention 0"),
    ]


def test_bytes_that_are_no_text_come_back_as_they_were() -> None:
    with MessagesApi(merging(MERGED)) as api:
        (result,) = run([scope(latin=True)], MODEL, api.environ)
        assert api.requests == []
    assert b"\xe9\n" in result.documents["CLAUDE.md"]


def test_no_secret_leaves_and_each_comes_back() -> None:
    secret = "gh" + "p_" + Lot(5).key("ABCDEFGHJKLMNPabcdefghjkmnp23456789", 36)

    def document(asked: Asked) -> str:
        start = asked.text.index("[[withheld-")
        return f"{MERGED}\nToken: {asked.text[start : asked.text.index(']]', start) + 2]}\n"

    versions = (
        Version("desk", DESK + f"Token: {secret}\n".encode(), BASE),
        Version("laptop", LAPTOP, None),
    )
    with MessagesApi(merging(document)) as api:
        (result,) = run(
            [ScopeTask("global", (DocumentTask("CLAUDE.md", BASE, versions),))], MODEL, api.environ
        )
        assert len(api.requests) == 2
        assert secret.encode() not in api.sent
        assert all(secret not in json.dumps(dict(asked.headers)) for asked in api.requests)
    assert f"Token: {secret}\n".encode() in result.documents["CLAUDE.md"]


def test_without_a_model_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    (result,) = run([scope()], KnowledgeSettings(), {})
    assert (result.outcome, result.documents) == ("merged", {"CLAUDE.md": MERGED.encode()})


def test_a_plan_asks_nobody_and_needs_no_key() -> None:
    (plan,) = plan_work([scope()], MODEL, {})
    assert (plan.scope, plan.calls, plan.text) == ("global", 2, "1 document merged by a model")
    assert 0 < plan.usd < 1
    assert plan_work([scope()], KnowledgeSettings(), {}) == [
        ScopePlan("global", 0, 0.0, "1 document merged by rule")
    ]


def test_what_a_hub_merges_no_model_merges_here() -> None:
    assert open_model(KnowledgeSettings(provider="github"), {}) is None


def test_what_concerns_every_scope_is_raised_with_what_settles_it() -> None:
    with pytest.raises(ProviderError, match="no key for the Messages API") as caught:
        run([scope()], MODEL, {})
    assert "ANTHROPIC_API_KEY" in caught.value.hint


def test_what_was_made_before_trouble_began_is_kept() -> None:
    good = merging(MERGED)
    count = iter(range(100))

    def script(asked: Asked) -> Reply:
        return good(asked) if next(count) < 2 else Refuses(401, "authentication_error", "revoked")

    with MessagesApi(script) as api:
        first, second = served([scope(), scope("projects/x")], api.environ)
    assert (first.outcome, second.outcome) == ("merged", "failed")
    assert "refused the key: revoked" in second.text
    assert KEY not in second.text


@pytest.mark.parametrize(
    "script",
    [
        in_turn(Says({"document": MERGED, "contradictions": []}, stop="max_tokens")),
        in_turn(Says({"document": MERGED, "contradictions": []}, breaks_off=True)),
    ],
    ids=["too long", "cut"],
)
def test_a_part_of_an_answer_fails_its_scope_alone(script: Script) -> None:
    copied = ScopeTask("projects/x", (DocumentTask("CLAUDE.md", None, (Version("desk", DESK, None),)),))
    with MessagesApi(script) as api:
        failed, other = served([scope(), copied], api.environ)
    assert (failed.outcome, dict(failed.documents)) == ("failed", {})
    assert failed.usd > 0
    assert (other.outcome, other.documents) == ("copied", {"CLAUDE.md": DESK})


def test_the_money_is_for_the_whole_run() -> None:
    asked_tokens = 230_000  # $0.69 a call
    reply = Says({"document": MERGED, "contradictions": []}, asked_tokens=asked_tokens)
    critic = Says({"claims": []}, asked_tokens=0)
    with MessagesApi(lambda asked: critic if asked.is_critic else reply) as api:
        first, second = served([scope(), scope("projects/x")], api.environ)
        assert len(api.requests) == 2
    assert (first.outcome, second.outcome) == ("merged", "failed")
    assert "may be spent" in second.text


def test_it_is_gone_when_it_is_to_stop() -> None:
    stop = threading.Event()
    caught: list[ProviderError] = []

    def work(environ: Mapping[str, str]) -> None:
        with pytest.raises(ProviderError) as error:
            run([scope()], MODEL, environ, stop=stop)
        caught.append(error.value)

    with MessagesApi(lambda _asked: Hangs()) as api:
        thread = threading.Thread(target=work, args=(api.environ,))
        thread.start()
        api.wait_for(1)
        (process,) = workers()
        assert process.nice() >= worker.NICENESS
        stop.set()
        thread.join(60)
        assert not process.is_running()
    assert "interrupted" in caught[0].summary


def test_one_that_dies_is_told_of() -> None:
    caught: list[ProviderError] = []

    def work(environ: Mapping[str, str]) -> None:
        with pytest.raises(ProviderError) as error:
            run([scope()], MODEL, environ)
        caught.append(error.value)

    with MessagesApi(lambda _asked: Hangs()) as api:
        thread = threading.Thread(target=work, args=(api.environ,))
        thread.start()
        api.wait_for(1)
        workers()[0].send_signal(signal.SIGKILL)
        thread.join(60)
    assert caught[0].summary == "the process that synthesizes ended (-9)"


def _instead(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Has something else run where the process would."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


RESULT = json.loads(worker._line(ScopeResult("global", "merged")))["result"]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]x",
        "7",
        '{"result": {"scope": "global"}}',
        '{"result": 1}',
        '{"result": {"documents": 1}}',
        json.dumps({"result": {**RESULT, "outcome": "eaten"}}),
        json.dumps({"result": {**RESULT, "usd": 10**400}}),
        json.dumps({"result": {**RESULT, "usd": -1.0}}),
        json.dumps({"result": {**RESULT, "documents": {"CLAUDE.md": "no base64"}}}),
    ],
)
def test_nonsense_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str) -> None:
    _instead(monkeypatch, tmp_path, f"echo '{line}'; sleep 60")
    with pytest.raises(ProviderError, match="does not say what it should"):
        run([scope()], MODEL, {})


def test_its_last_complaint_is_shown_without_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = "gh" + "p_" + Lot(6).key("ABCDEFGHJKLMNPabcdefghjkmnp23456789", 36)
    _instead(monkeypatch, tmp_path, f'echo one >&2; echo "no $ANTHROPIC_API_KEY {token}" >&2; exit 3')
    with pytest.raises(ProviderError) as caught:
        run([scope()], MODEL, {"ANTHROPIC_API_KEY": "quite-ordinary"})
    assert caught.value.summary == "the process that synthesizes ended (3): no (key) (secret)"


def test_one_that_cannot_be_started_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ProviderError, match="cannot be started: No such file"):
        run([scope()], MODEL, {})


def test_it_takes_no_module_from_the_folder_it_is_started_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "anthropic.py").write_text("raise SystemExit('taken from the folder')\n")
    monkeypatch.chdir(tmp_path)
    with MessagesApi(merging(MERGED)) as api:
        (result,) = run([scope()], MODEL, api.environ)
    assert result.outcome == "merged"


def test_a_request_is_served_from_a_pipe_and_answered_in_lines() -> None:
    sink = io.BytesIO()
    request = worker._request([scope()], KnowledgeSettings(), (), b"")
    serve(io.BytesIO(request), sink, {})
    told, result, end = map(json.loads, sink.getvalue().splitlines())
    assert told == {"tell": "global (1 of 1)"}
    assert result["result"]["outcome"] == "merged"
    assert end == {"end": True}


def test_who_starts_it_imports_no_sdk() -> None:
    code = (
        "import sys, convergenced.knowledge.worker as w; from convergenced.machine.settings_schema import *; "
        "w.open_model(KnowledgeSettings(provider='anthropic'), {}); "
        "sys.exit('anthropic' in sys.modules or 'keyring' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
