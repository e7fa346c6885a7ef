"""What models cost at the most."""

from __future__ import annotations

import pytest

from convergenced.knowledge.prices import price_of


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("claude-opus-4-1-20250805", (15, 75)),
        ("claude-opus-4-20250514", (15, 75)),
        ("claude-3-opus-latest", (15, 75)),
        ("claude-opus-4-5", (5, 25)),
        ("us.anthropic.claude-Opus-5-5-v1:0", (5, 25)),
        ("sonnet", (3, 15)),
        ("claude-haiku-4-5", (1, 5)),
        ("fable", (10, 50)),
    ],
)
def test_a_model_is_known_by_its_family(model: str, price: tuple[float, float]) -> None:
    assert price_of(model) == price


def test_an_unknown_model_costs_no_less_than_any_known_one() -> None:
    known = [price_of(model) for model in ("claude-3-opus", "opus", "fable", "sonnet", "haiku")]
    assert price_of("something-new") == (max(asked for asked, _ in known), max(told for _, told in known))
