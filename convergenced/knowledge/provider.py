"""What a model is to synthesis: one question, one answer in a given shape, and what that costs.

A provider gets no tools, no files and no session of its own: whatever stands in what it is asked about
can change nothing but the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from convergenced.errors import ConvergenceError
from convergenced.merge.documents import Json


class ProviderError(ConvergenceError):
    """A provider cannot answer: no key, refused, unreachable for long. The hint says what to do."""


class PartialAnswerError(ProviderError):
    """An answer broke off or is not in the shape that was asked for; it is not used."""


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
