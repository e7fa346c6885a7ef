"""Markdown of several machines becomes one text, section by section, without a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Version:
    """What one machine has of a document, and what it had made that from (None: nothing is known).

    `machine` is its name, for people.
    """

    machine: str
    data: bytes
    base: bytes | None


@dataclass(frozen=True, slots=True)
class MergedDocument:
    """One document made of several; what of it contradicts itself, in words."""

    data: bytes
    contradictions: tuple[str, ...]
