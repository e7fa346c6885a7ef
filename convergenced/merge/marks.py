"""Marks: what a merge was not sure of, said within the Markdown itself.

A mark is an HTML comment, which no rendering shows and every model reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark as it stands in a document; `line` counts from 1, `text` is what it says."""

    kind: Literal["CONFLICT", "UNVERIFIED"]
    line: int
    text: str
