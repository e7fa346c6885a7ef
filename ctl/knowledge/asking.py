"""Questions to the person at the terminal.

Promise: nothing but an answer that was typed counts as a yes; where the input ends, it is a no.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from convergenced.errors import UsageError

QUIT = "q"


def can_ask() -> bool:
    """Whether somebody can answer."""
    return sys.stdin.isatty()


def require_answers(what: str, hint: str) -> None:
    """Raises `UsageError` where nobody can be asked whether `what`."""
    if not can_ask():
        raise UsageError(f"there is no terminal to ask whether {what}", hint)


def ask(question: str, answers: Mapping[str, str]) -> str:
    """The letter of the answer, one of `answers` (a letter and what it means) or `QUIT` at the input's end.

    What is none of them is asked again. An interrupt is passed on, after a word that nothing happened.
    """
    choices = ", ".join(f"[{letter}]{meaning.removeprefix(letter)}" for letter, meaning in answers.items())
    while True:
        said = _read(f"{question} {choices}: ").lower()
        if not said:
            return QUIT
        for letter, meaning in answers.items():
            if said.strip() in {letter, meaning.split()[0]}:
                return letter


def agrees(question: str) -> bool:
    """Whether a person says yes; anything else is a no."""
    return _read(f"{question} [y/N] ").strip().lower() in {"y", "yes"}


def _read(prompt: str) -> str:
    """One line with its end; empty at the end of the input."""
    sys.stdout.flush()
    try:
        print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        print("\nnothing of this was changed", file=sys.stderr)
        raise
    if not line:
        print(file=sys.stderr)
    return line
