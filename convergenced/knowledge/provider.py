"""What a model is to synthesis: one question, one answer in a given shape, and what that costs.

A provider gets no tools, no files and no session of its own: whatever stands in what it is asked about
can change nothing but the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from convergenced.errors import ConvergenceError, PeerError
from convergenced.merge.documents import Json

ASKING_PREFIX = "convergence-ask-"
"""How the temporary folders begin in which clients are asked: a client that runs below one is ours."""


class ProviderError(ConvergenceError):
    """A provider cannot answer: no key, refused, unreachable for long. The hint says what to do."""

    exit_code = PeerError.exit_code


class PartialAnswerError(ProviderError):
    """One question has no answer that could be used; others may be answered.

    It broke off, has not the shape that was asked for, or was refused.
    `usd` is what asking cost; None where nobody knows, which counts as much as it can have been.
    """

    def __init__(self, summary: str, hint: str = "", usd: float | None = None) -> None:
        super().__init__(summary, hint)
        self.usd = usd


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked. `schema` is the JSON schema of the answer; `max_tokens` bounds it."""

    system: str
    text: str
    schema: Mapping[str, Json]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: `value` fits the question's schema. `model` is the one that answered."""

    value: Mapping[str, Json]
    model: str
    usd: float


class Model(Protocol):
    """A model behind a provider."""

    def estimate(self, question: Question) -> float:
        """Dollars that asking may cost at the most. Asks nobody."""
        ...

    def ask(self, question: Question) -> Answer:
        """Asks; tries again by itself where that helps. Raises `ProviderError`."""
        ...


def fits(value: Json, schema: Mapping[str, Json]) -> bool:
    """Whether a value has the shape of a schema made of objects, lists and texts.

    An object has exactly the fields that `properties` names.
    """
    match schema.get("type"):
        case "string":
            return isinstance(value, str)
        case "array":
            items = schema.get("items")
            assert isinstance(items, dict)
            return isinstance(value, list) and all(fits(one, items) for one in value)
        case "object":
            shapes = schema.get("properties")
            assert isinstance(shapes, dict)
            return (
                isinstance(value, dict)
                and value.keys() == shapes.keys()
                and all(fits(value[name], shape) for name, shape in shapes.items() if isinstance(shape, dict))
            )
    raise AssertionError(f"no shape that anybody asks for: {schema}")
