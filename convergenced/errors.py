"""The one tree of errors that a person may see.

Every error says what happened and where (`summary`), what to do about it (`hint`) and how a
command that meets it exits (`exit_code`, the table of the command contract)::

    ConvergenceError                1
    ├── UsageError                  2   the request itself is wrong
    │   └── ConfigError             2   config.toml, with the line
    ├── NoDaemonError               3
    ├── PeerError                   4   a peer refused or could not be reached
    │   ├── PeerUnreachableError    4   worth trying again by itself
    │   └── PeerRefusedError        4   needs a person
    │       └── BranchesRefusedError 4  only some branches; the others arrived
    ├── AttentionError              5   conflicts, secrets, quarantine
    ├── DegradedError               6
    ├── TimedOutError               7
    ├── StoreError                  1   the store cannot be read or written
    │   ├── RefMovedError           1   a compare-and-swap lost
    │   └── MissingObjectError      1   an object is absent or damaged
    ├── HeldError                   1   Claude Code runs where we would write
    ├── FileChangedError            1   a local file is not what was planned for
    ├── RefusedInputError           1   foreign or local input that is set aside
    └── NewerSchemaError            1   written by a newer version; left alone
"""

from __future__ import annotations

from collections.abc import Mapping

MAX_NAMED = 3
"""Failures that one error spells out, at most; the rest is counted."""


class ConvergenceError(Exception):
    """Something a person can be told about: one line of what, one of what to do."""

    exit_code = 1

    def __init__(self, summary: str, hint: str = "") -> None:
        super().__init__(summary)
        self.summary = summary
        self.hint = hint

    def __str__(self) -> str:
        """Summary and hint on one line, for logs."""
        return f"{self.summary} ({self.hint})" if self.hint else self.summary


class UsageError(ConvergenceError):
    """The request is wrong: an unknown project, a bad option, a path that is not there."""

    exit_code = 2


class ConfigError(UsageError):
    """A key or value in config.toml is wrong; the summary names file and line."""


class NoDaemonError(ConvergenceError):
    """No daemon answers on the control socket."""

    exit_code = 3


class PeerError(ConvergenceError):
    """An exchange with a peer failed."""

    exit_code = 4


class PeerUnreachableError(PeerError):
    """The peer could not be reached or broke off; trying again by itself may help."""


class PeerRefusedError(PeerError):
    """The peer answered and said no (permission, not a repository, a hook): a person has to act."""


class BranchesRefusedError(PeerRefusedError):
    """Single branches of a peer could not be had (gone, damaged, not allowed); the others arrived.

    `reasons` has the failure of each full ref name.
    """

    def __init__(self, summary: str, hint: str = "", reasons: Mapping[str, PeerError] | None = None) -> None:
        super().__init__(summary, hint)
        self.reasons = dict(reasons or {})

    @classmethod
    def of(cls, reasons: Mapping[str, PeerError]) -> BranchesRefusedError:
        """The error for these failures; names the first few."""
        shown = "; ".join(f"{error.summary} [{ref}]" for ref, error in list(reasons.items())[:MAX_NAMED])
        more = f"; and {len(reasons) - MAX_NAMED} more" if len(reasons) > MAX_NAMED else ""
        first = next(iter(reasons.values()), PeerError("nothing arrived"))
        return cls(shown + more, first.hint, reasons)


class AttentionError(ConvergenceError):
    """Something waits for a person: conflicts, secrets, quarantine."""

    exit_code = 5


class DegradedError(ConvergenceError):
    """Works, but not all of it: the summary says which part does not."""

    exit_code = 6


class TimedOutError(ConvergenceError):
    """What was waited for did not happen in time."""

    exit_code = 7


class StoreError(ConvergenceError):
    """The store cannot be opened, read or written."""


class RefMovedError(StoreError):
    """A ref was not at the expected commit: somebody else moved it. Read again and repeat."""


class MissingObjectError(StoreError):
    """An object the store should have is absent or does not match its name."""


class HeldError(ConvergenceError):
    """Claude Code runs where we would write. Carries the pid, or None where it is unknown."""

    def __init__(self, summary: str, hint: str = "", pid: int | None = None) -> None:
        super().__init__(summary, hint)
        self.pid = pid


class FileChangedError(ConvergenceError):
    """A local file changed between the plan and the act. Nothing was written; plan again."""


class RefusedInputError(ConvergenceError):
    """Input that is set aside alone: a hostile path, a FIFO, a record that cannot round-trip."""


class NewerSchemaError(ConvergenceError):
    """Written by a newer version of convergence. It is left exactly as it is."""
