"""First documents for several scopes, one after the other, with the money there is for all of them.

Promises: no question is asked that could cost more than is left; what cannot be made for one scope keeps none
of the others from being made. Tasks and drafts have a form for the way between two processes.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convergenced.knowledge.bootstrap import Source, compose
from convergenced.knowledge.provider import Answer, Model, PartialAnswerError, ProviderError, Question


@dataclass(frozen=True, slots=True)
class DraftTask:
    """A first document to be made. `title` is its heading, where it needs one."""

    scope: str
    title: str
    source: Source


@dataclass(frozen=True, slots=True)
class Draft:
    """What was made of a task. Without a `document`, `trouble` says why there is none."""

    scope: str
    document: bytes | None
    usd: float = 0.0
    trouble: str = ""

    def pack(self) -> dict[str, Any]:
        """Its fields as JSON has them."""
        document = None if self.document is None else _packed(self.document)
        return {"scope": self.scope, "document": document, "usd": self.usd, "trouble": self.trouble}

    @classmethod
    def unpack(cls, fields: Mapping[str, Any]) -> Draft:
        """The inverse of `pack`."""
        document = None if fields["document"] is None else _unpacked(fields["document"])
        return cls(str(fields["scope"]), document, float(fields["usd"]), str(fields["trouble"]))


def compose_drafts(
    tasks: Sequence[DraftTask],
    model: Model | None,
    budget: float,
    say: Callable[[Draft | Mapping[str, Any]], None],
) -> None:
    """Composes them and says each as soon as it is there. `budget` is what all may cost, in dollars."""
    purse = None if model is None else _Purse(model, budget)
    try:
        for number, task in enumerate(tasks, 1):
            say({"tell": f"{task.scope} ({number} of {len(tasks)})"})
            say(_compose(task, purse))
    except ProviderError as error:
        say({"error": error.summary, "hint": error.hint})
    say({"end": True})


def _compose(task: DraftTask, purse: _Purse | None) -> Draft:
    spent = 0.0 if purse is None else purse.spent
    try:
        document, usd = compose(task.title, task.source, purse)
    except PartialAnswerError as error:
        cost = 0.0 if purse is None else purse.spent - spent
        return Draft(task.scope, None, cost, str(error))
    return Draft(task.scope, document, usd)


class _Purse:
    """A model that is asked only what can be paid for."""

    def __init__(self, model: Model, budget: float) -> None:
        self._model = model
        self._budget = budget
        self.spent = 0.0

    def estimate(self, question: Question) -> float:
        """See `Model`."""
        return self._model.estimate(question)

    def ask(self, question: Question) -> Answer:
        """See `Model`. Raises `PartialAnswerError` for what is too dear."""
        most, left = self._model.estimate(question), self._budget - self.spent
        if most > left:
            raise PartialAnswerError(
                f"asking costs up to ${most:.2f}, and ${max(0.0, left):.2f} may be spent",
                f"convergencectl config set knowledge.max_usd {math.ceil(self.spent + most)}",
                usd=0.0,
            )
        try:
            answer = self._model.ask(question)
        except PartialAnswerError as error:
            self.spent += most if error.usd is None else error.usd
            raise
        self.spent += answer.usd
        return answer


def pack_tasks(tasks: Sequence[DraftTask]) -> list[dict[str, Any]]:
    """The tasks as JSON has them."""
    return [
        {
            "scope": task.scope,
            "title": task.title,
            "notes": {name: _packed(data) for name, data in task.source.notes.items()},
            "sessions": list(task.source.sessions),
            "existing": None if task.source.existing is None else _packed(task.source.existing),
        }
        for task in tasks
    ]


def unpack_tasks(packed: Sequence[Mapping[str, Any]]) -> list[DraftTask]:
    """The inverse of `pack_tasks`."""
    return [
        DraftTask(
            one["scope"],
            one["title"],
            Source(
                {name: _unpacked(data) for name, data in one["notes"].items()},
                one["sessions"],
                None if one["existing"] is None else _unpacked(one["existing"]),
            ),
        )
        for one in packed
    ]


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unpacked(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
