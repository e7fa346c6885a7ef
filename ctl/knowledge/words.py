"""Names of scopes, files and marks, and what a provider means for the text that it is given."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..render import Terminal, clean, tilde

if TYPE_CHECKING:
    from convergenced.control.knowledge_answers import Trouble
    from convergenced.machine.settings import KnowledgeSettings

_MARK = re.compile(r"line (\d+): (.*)", re.DOTALL)
_JOINERS = "\u200c\u200d"
_SELECTORS = range(0xE0100, 0xE01F0)


def scope_name(scope: str) -> str:
    """A scope for people: the project's id, or `global`."""
    project = scope.removeprefix("projects/")
    return visible(scope if project == "global" else project)


def document_name(scope: str, path: str) -> str:
    """A document that need not be on this machine: `proj: CLAUDE.md`."""
    return f"{scope_name(scope)}: {visible(path)}"


def file_name(local: str) -> str:
    """A file of this machine."""
    return visible(tilde(local))


def marks_in(local: str, marks: Iterable[str]) -> Iterator[str]:
    """What stands in a file as CONFLICT or UNVERIFIED, as `file:line: what`."""
    for mark in marks:
        found = _MARK.fullmatch(mark)
        yield (
            f"{file_name(local)}:{found[1]}: {visible(found[2])}"
            if found
            else (f"{file_name(local)}: {visible(mark)}")
        )


def trouble_lines(troubles: Iterable[Trouble], terminal: Terminal) -> Iterator[str]:
    """What is not as it should be, each with what settles it."""
    for one in troubles:
        yield from terminal.paragraph(visible(one["text"]), first="! ", indent="  ")
        if one["hint"]:
            yield f"  → {visible(one['hint'])}"


def visible(text: str) -> str:
    """`clean` text, in which also what has no width can be seen: a model would read it."""
    if text.isascii():
        return clean(text)
    return "".join(f"<U+{ord(one):04X}>" if _is_hidden(one) else one for one in clean(text))


def _is_hidden(one: str) -> bool:
    return (unicodedata.category(one) == "Cf" and one not in _JOINERS) or ord(one) in _SELECTORS


def dollars(amount: float) -> str:
    """`$0.04`; `-` for nothing."""
    if not amount:
        return "-"
    return f"${amount:.2f}" if amount >= 0.005 else "<$0.01"


def made_by(provider: str, model: str) -> str:
    """`anthropic (claude-…)`."""
    return visible(f"{provider} ({model})" if model else provider)


def where_text_goes(knowledge: KnowledgeSettings) -> str:
    """What the provider means: who gets to see the text, on what account, and for how much."""
    most = f"${knowledge.max_usd:.2f}"
    apart = "Where several machines changed one document differently, "
    match knowledge.provider:
        case "none":
            return (
                f"{apart}it is merged by section. No model is asked: nothing goes to anybody but your peers."
            )
        case "anthropic":
            return (
                f"{apart}its text goes to Anthropic's API, on the key that is found on the machine that "
                f"merges, for {most} a run at most."
            )
        case "claude":
            return (
                f"{apart}its text goes to Anthropic through the Claude Code that is installed here, on its "
                f"login, for {most} a run at most."
            )
        case "github" | "gitlab":
            name, what = (
                ("GitHub", "a workflow") if knowledge.provider == "github" else ("GitLab", "a pipeline")
            )
            return (
                f"{apart}{what} in your repository on {name} merges it; from there its text goes to "
                f"Anthropic's API, on the key that is kept there, for {most} a run at most."
            )
