"""JSON as programs and people write it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

SPACE = st.sampled_from(
    ["", "", " ", "\n", "\n  ", "\n\t", "\r\n    ", "\n\n  ", "\t ", "\n }".removesuffix("}")]
)


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """A value as some program or person might spell it; an object is a tuple of pairs, so keys may repeat."""

    def inside(one: Any) -> str:
        if isinstance(one, list):
            parts = [f"{draw(SPACE)}{inside(element)}{draw(SPACE)}" for element in one]
            return f"[{','.join(parts) or draw(SPACE)}]"
        if isinstance(one, tuple):
            parts = [
                f"{draw(SPACE)}{inside(key)}{draw(SPACE)}:{draw(SPACE)}{inside(part)}" for key, part in one
            ]
            return "{" + (",".join(f"{part}{draw(SPACE)}" for part in parts) or draw(SPACE)) + "}"
        return json.dumps(one, ensure_ascii=draw(st.booleans()))

    return inside(value)
