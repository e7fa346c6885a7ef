"""The rules that every command's help keeps, held by walking the parsers themselves."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import pytest

from convergenced.errors import UsageError
from ctl.arguments import Parser, command_parser, subcommands
from ctl.commands import COMMANDS
from ctl.completion import KINDS
from ctl.overview import GROUPS, overview


def parsers() -> Iterator[argparse.ArgumentParser]:
    for name in COMMANDS:
        yield from subcommands(command_parser(name)[0])


PARSERS = list(parsers())
EACH = pytest.mark.parametrize("parser", PARSERS, ids=[one.prog for one in PARSERS])


def arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            yield action


@EACH
def test_says_what_it_does_and_shows_an_example_of_itself(parser: argparse.ArgumentParser) -> None:
    assert parser.description
    assert re.match(r"[A-Z].*[.:)]", parser.description, re.DOTALL), parser.description
    assert parser.epilog
    shown = re.match(r"examples?:\n((?:  .*\n?)+)", parser.epilog)
    assert shown, parser.epilog
    name = parser.prog.removeprefix("convergencectl ")
    assert re.search(rf"convergencectl(.exe)? {name}\b", shown[1]), shown[1]


@EACH
def test_every_argument_is_explained(parser: argparse.ArgumentParser) -> None:
    for action in arguments(parser):
        assert action.help, action
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            assert {one.dest for one in action._choices_actions if one.help} == set(action.choices)


@EACH
def test_the_tab_key_knows_what_every_argument_takes(parser: argparse.ArgumentParser) -> None:
    for action in arguments(parser):
        if action.nargs != 0 and action.choices is None:
            assert isinstance(action.metavar, str), action
            assert set(action.metavar.split("|")) <= set(KINDS), action


@EACH
def test_an_exit_code_of_its_own_is_named(parser: argparse.ArgumentParser) -> None:
    """Where the text speaks of exit codes, it says what they mean."""
    text = f"{parser.description}\n{parser.epilog}"
    for code in re.findall(r"exit codes: (.*)", text):
        assert re.match(r"\d \w+", code), text


@EACH
@pytest.mark.parametrize("columns", [60, 100])
def test_help_fits_the_terminal(
    parser: argparse.ArgumentParser, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    examples = set((parser.epilog or "").split("\n"))
    for line in parser.format_help().split("\n"):
        assert len(line) <= columns or line in examples, line


@pytest.mark.parametrize("columns", [60, 100])
def test_the_overview_has_every_command_once_and_fits(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(COMMANDS)
    lines = overview("convergencectl").split("\n")
    assert all(len(line) <= columns for line in lines)
    assert [line.split()[0] for line in lines if re.match(r"  \w", line)][: len(COMMANDS)] == [
        name for names in GROUPS.values() for name in names
    ]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["sync", "--wiat"], "--wait"),
        (["sync", "--timeou=3"], "--timeout"),
        (["hook", "instal"], "install"),
        (["session", "show", "x", "--jsno"], "--json"),
        (["conflict", "resolve", "x", "--take", "their"], "theirs"),
    ],
)
def test_what_is_mistyped_is_answered_with_what_was_meant(words: list[str], meant: str) -> None:
    parser, _ = command_parser(words[0])
    with pytest.raises(UsageError) as caught:
        parser.parse_args(words[1:])
    assert caught.value.hint.split("\n")[0] == f"did you mean: {meant}"
    assert caught.value.hint.split("\n")[-1].startswith("see: convergencectl")


def test_what_resembles_nothing_gets_no_guess() -> None:
    with pytest.raises(UsageError) as caught:
        Parser("convergencectl x").parse_args(["--qqqq"])
    assert caught.value.hint == "see: convergencectl x -h"
