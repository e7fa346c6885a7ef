"""First documents for several scopes: what the money is for, what troubles whom, how they travel."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import pytest

from convergenced.knowledge import worker
from convergenced.knowledge.bootstrap import Source
from convergenced.knowledge.composing import Draft, DraftTask, compose_drafts, pack_tasks, unpack_tasks
from convergenced.knowledge.provider import Answer, PartialAnswerError, ProviderError, Question
from convergenced.knowledge.worker import run_composer, serve
from convergenced.machine.settings_schema import KnowledgeSettings
from tests.unit.knowledge.test_worker import environ_of

SOURCE = Source({"MEMORY.md": b"- run make \xff\n"}, ["Speed up the parser"], None)
WRITTEN = {"document": "## Build\n\n- make\n"}


def task(scope: str, source: Source = SOURCE) -> DraftTask:
    return DraftTask(scope, scope.rpartition("/")[2], source)


@dataclass
class Scripted:
    """A model that answers as it is told, each for half a dollar."""

    say: Callable[[int], Mapping[str, object]] = lambda _number: WRITTEN
    most: float = 0.75
    asked: list[Question] = field(default_factory=list)

    def estimate(self, question: Question) -> float:
        assert question.text
        return self.most

    def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        return Answer(self.say(len(self.asked)), "scripted", 0.5)  # type: ignore[arg-type]


def composed(
    *tasks: DraftTask, model: Scripted | None, budget: float = 9.0
) -> tuple[list[Draft], list[object]]:
    """The drafts, and all else that was said."""
    said: list[Draft | Mapping[str, object]] = []
    compose_drafts(tasks, model, budget, said.append)
    return [one for one in said if isinstance(one, Draft)], [
        one for one in said if not isinstance(one, Draft)
    ]


def test_without_a_model_notes_and_titles_make_it_up() -> None:
    (draft,), others = composed(task("projects/app"), model=None)
    assert draft.document is not None
    assert draft.document.startswith(b"# app\n")
    assert b"- run make" in draft.document
    assert b"Speed up the parser" in draft.document
    assert (draft.usd, draft.trouble) == (0.0, "")
    assert others == [{"tell": "projects/app (1 of 1)"}, {"end": True}]


def test_no_question_is_asked_that_could_cost_more_than_is_left() -> None:
    model = Scripted()
    drafts, _ = composed(*(task(f"projects/{name}") for name in "abc"), model=model, budget=1.25)
    assert [draft.document is None for draft in drafts] == [False, False, True]
    assert len(model.asked) == 2
    assert "asking costs up to $0.75, and $0.25 may be spent" in drafts[2].trouble
    assert "convergencectl config set knowledge.max_usd 2" in drafts[2].trouble


def test_an_answer_that_broke_off_is_paid_for_and_troubles_no_other_scope() -> None:
    def say(number: int) -> Mapping[str, object]:
        if number == 1:
            raise PartialAnswerError("it broke off", usd=None)
        return WRITTEN

    drafts, others = composed(task("global"), task("projects/a"), model=Scripted(say), budget=1.25)
    assert [draft.document is None for draft in drafts] == [True, True]  # the most it can have cost is gone
    assert drafts[0].usd == 0.75
    assert "it broke off" in drafts[0].trouble
    drafts, others = composed(task("global"), task("projects/a"), model=Scripted(say), budget=2.0)
    assert [draft.document is None for draft in drafts] == [True, False]
    assert others[-1] == {"end": True}


def test_trouble_of_all_ends_the_work() -> None:
    def say(number: int) -> Mapping[str, object]:
        if number == 2:
            raise ProviderError("no key", "set one")
        return WRITTEN

    model = Scripted(say)
    drafts, others = composed(*(task(f"projects/{name}") for name in "abc"), model=model)
    assert [draft.scope for draft in drafts] == ["projects/a"]
    assert others[-2:] == [{"error": "no key", "hint": "set one"}, {"end": True}]


@pytest.mark.parametrize("existing", [None, b"", b"# Mine\n\xff\n"])
def test_tasks_and_drafts_come_back_from_json_as_they_were(existing: bytes | None) -> None:
    tasks = [
        task("global", Source({"a \udcff.md": b"\x00\xff"}, ["one", "ö \ud800"], existing)),
        task("projects/x"),
    ]
    assert unpack_tasks(json.loads(json.dumps(pack_tasks(tasks)))) == tasks
    for draft in (Draft("global", existing, 0.25), Draft("global", None, trouble="why")):
        assert Draft.unpack(json.loads(json.dumps(draft.pack()))) == draft


def test_the_process_beside_answers_a_request_for_drafts() -> None:
    settings = KnowledgeSettings(provider="none")
    sink = io.BytesIO()
    request = {"drafts": pack_tasks([task("projects/app")]), "settings": asdict(settings)}
    serve(io.BytesIO(json.dumps(request).encode()), sink, environ_of({}))
    heard = worker._Heard(lambda _text: None, Draft.unpack)
    heard.piece(sink.getvalue())
    assert heard.has_ended
    (draft,) = heard.results([task("projects/app")], lambda scope, text: Draft(scope, None, trouble=text))
    assert draft == composed(task("projects/app"), model=None)[0][0]


def test_without_a_model_no_process_is_started_and_without_a_key_that_is_said() -> None:
    told: list[str] = []
    stop = threading.Event()
    (draft,) = run_composer([task("global")], KnowledgeSettings(), {}, stop=stop, tell=told.append)
    assert draft.document is not None
    assert told == ["global (1 of 1)"]
    pytest.importorskip("anthropic", reason="the extra `synthesis` is not installed")
    paid = KnowledgeSettings(provider="anthropic")
    with pytest.raises(ProviderError, match="key"):
        run_composer([task("global")], paid, environ_of({}), stop=stop, tell=told.append)
