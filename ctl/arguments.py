"""The argument parser: argparse, with errors in the voice of the rest."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

from convergenced.errors import UsageError

from .commands import COMMANDS

WIDEST = 100
"""Columns that help takes, at most."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises `UsageError`, says what was meant, and keeps the lines of its example."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog=prog, formatter_class=_Help, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raises `UsageError`: the caller prints it and exits."""
        raise UsageError(message, "\n".join([*self._meant(message), f"see: {self.prog} -h"]))

    def _meant(self, message: str) -> Iterator[str]:
        if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            yield from _nearest(found[1], re.findall(r"'([^']*)'", found[2]))
        elif found := re.match(r"unrecognized arguments: (-.*)", message):
            known = [option for one in subcommands(self) for option in one._option_string_actions]
            yield from _nearest(found[1].split()[0].partition("=")[0], known)


def _nearest(text: str, known: Iterable[str]) -> Iterator[str]:
    import difflib  # only for mistakes

    for near in difflib.get_close_matches(text, list(known), n=1):
        yield f"did you mean: {near}"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Breaks paragraphs to the width; examples, of which the shell sees every character, stay as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST))

    def _format_usage(self, *arguments: Any) -> str:
        """As argparse has it; where that is too wide for the terminal, with less of an indentation."""
        usage = super()._format_usage(*arguments)
        if all(len(line) <= self._width for line in usage.split("\n")):
            return usage
        lines = [f"usage: {self._prog}", " " * 3]
        for part in re.findall(r"\[.*?\]+(?=\s|$)|\(.*?\)+(?=\s|$)|\S+", " ".join(usage.split())):
            if part not in lines[0].split():
                fits = len(lines[-1]) + 1 + len(part) <= self._width
                lines[-1:] = [f"{lines[-1]} {part}"] if fits else [lines[-1], f"{'':4}{part}"]
        return "\n".join(lines) + "\n\n"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = [
            one
            if one.startswith("example")
            else textwrap.fill(" ".join(one.split()), width, break_long_words=False, break_on_hyphens=False)
            for one in text.split("\n\n")
        ]
        return "\n\n".join(paragraphs)


def command_parser(name: str) -> tuple[Parser, Callable[[argparse.Namespace], int]]:
    """The parser of that command, and what runs it."""
    parser = Parser(f"convergencectl {name}")
    parser.set_defaults(command=name)
    module = importlib.import_module(f".commands.{COMMANDS[name].module}", __package__)
    module.configure(parser)
    return parser, module.run


def actions_of(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[Parser] | None:
    """The argument that chooses among the command's actions, such as `project move`."""
    return next((one for one in parser._actions if isinstance(one, argparse._SubParsersAction)), None)


def subcommands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser, and those of its actions."""
    yield parser
    chosen = actions_of(parser)
    for one in {} if chosen is None else chosen.choices.values():
        yield from subcommands(one)


def example(*lines: str) -> str:
    """The epilog of a command's help."""
    return "\n".join(["example:" if len(lines) == 1 else "examples:", *(f"  {line}" for line in lines)])


def project_argument(text: str) -> str:
    """A project as the daemon understands it: an id as it is, a path made absolute.

    What holds a separator or begins with `.` or `~` is a path; ids do neither.
    """
    if os.sep in text or text.startswith((".", "~")):
        return os.path.realpath(os.path.expanduser(text))
    return text


def url_argument(text: str) -> str:
    """A peer's URL; a path that is relative to here is made absolute, for the daemon lives elsewhere."""
    relative = "://" not in text and not text.startswith(("/", "~", "-"))
    return os.path.abspath(text) if relative and (text.startswith(".") or os.path.isdir(text)) else text
