"""The argument parser: argparse, with errors in the voice of the rest."""

from __future__ import annotations

import argparse
import os
from typing import Any, NoReturn

from convergenced.errors import UsageError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises `UsageError` and keeps the lines of its example."""

    def __init__(self, prog: str, **options: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, formatter_class=formatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raises `UsageError`: the caller prints it and exits."""
        raise UsageError(message, f"see: {self.prog} -h")


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
