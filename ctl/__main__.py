"""`convergencectl`: finds the command, runs it, and turns errors into a line and an exit code.

Starts in a few milliseconds because it imports nothing but the command that was asked for.
"""

from __future__ import annotations

import contextlib
import os
import sys

from convergenced.errors import ConvergenceError, UsageError

from .commands import COMMANDS
from .overview import overview

PROGRAM = "convergencectl"
INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a test's own stream
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except ConvergenceError as error:
        return _complain(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough. Point stdout elsewhere, or the flush at exit complains again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _complain(ConvergenceError(str(error), "check permissions and free space, then try again"))
    return code


def _dispatch(argv: list[str]) -> int:
    if not argv:
        sys.stderr.write(overview(PROGRAM))
        return UsageError.exit_code
    name, *rest = argv
    if name in {"-h", "--help", "help"}:
        if not rest:
            sys.stdout.write(overview(PROGRAM))
            return 0
        name, rest = rest[0], ["-h"]
    if name in {"-V", "--version"}:
        name = "version"
    if name not in COMMANDS:
        raise _unknown(name)
    from .arguments import command_parser  # the overview needs no argparse

    parser, run = command_parser(name)
    return run(parser.parse_args(rest))


def _unknown(name: str) -> UsageError:
    import difflib  # only for mistakes

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean: {PROGRAM} {near[0]}" if near else f"see: {PROGRAM} -h"
    return UsageError(f"there is no command {name!r}", hint)


def _complain(error: ConvergenceError) -> int:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        # Not even an error of a peer's may move the cursor; a hint's own line breaks are meant.
        print(f"{PROGRAM}: {_harmless(error.summary)}", file=sys.stderr)
        for line in error.hint.splitlines():
            print(f"  {_harmless(line)}", file=sys.stderr)
    return error.exit_code


def _harmless(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


if __name__ == "__main__":
    sys.exit(main())
