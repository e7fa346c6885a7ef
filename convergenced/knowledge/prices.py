"""What models cost at the most, in dollars per million tokens: for estimates, never for bills.

A family is listed with the highest price a model of it has had, so that a new or an unnoticed old one
does not cost more than was said; single models whose price is another are listed before their family.
"""

from __future__ import annotations

_PRICES = (
    ("opus-4-1", 15.0, 75.0),
    ("opus-4-2", 15.0, 75.0),  # claude-opus-4-20250514
    ("opus-4-0", 15.0, 75.0),
    ("3-opus", 15.0, 75.0),
    ("opus", 5.0, 25.0),
    ("fable", 10.0, 50.0),
    ("sonnet", 3.0, 15.0),
    ("haiku", 1.0, 5.0),
)
_UNKNOWN = (15.0, 75.0)

BYTES_PER_TOKEN = 2
"""UTF-8 bytes of a token, at the least: what an estimate counts with. Prose has about four."""


def price_of(model: str) -> tuple[float, float]:
    """Dollars per million tokens (asked, answered) of a model's name or alias, at the most."""
    name = model.lower()
    for part, asked, answered in _PRICES:
        if part in name:
            return asked, answered
    return _UNKNOWN
