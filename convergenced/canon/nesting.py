"""How deep a JSON value is, told alike on every machine: a stack's depth and Python's limits have no say."""

from __future__ import annotations


def is_deeper(value: object, limit: int) -> bool:
    """Whether lists and objects stand more than `limit` inside one another. Linear, without recursion."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(value, list | dict) for value in level)
