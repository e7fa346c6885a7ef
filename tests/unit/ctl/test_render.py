from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctl import render
from ctl.render import (
    Column,
    Terminal,
    clean,
    clip,
    iso,
    parse_time,
    size,
    span,
    table,
    tilde,
    when,
    width,
    wrap,
)

TEXT = st.text(alphabet="ab 漢字😀é\u0301-/…", max_size=60)


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "colour", "interactive"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_a_terminal_is_taken_for_what_it_is(environ: dict[str, str], colour: bool, interactive: bool) -> None:
    terminal = Terminal.of(Tty(), environ)
    assert (terminal.colour, terminal.interactive) == (colour, interactive)


def test_a_pipe_gets_neither_colour_nor_its_width_from_a_terminal() -> None:
    terminal = Terminal.of(io.StringIO(), {"TERM": "xterm"})
    assert terminal == Terminal(render.PIPE_WIDTH, colour=False, interactive=False)
    assert terminal.style("x", "red") == "x"


def test_nothing_from_outside_moves_the_cursor() -> None:
    assert "\x1b" not in clean("a\x1b[2Jb")
    assert clean("a\nb\tc") == "a b c"
    assert "\u202e" not in clean("\u202eevil")
    assert clean("漢字 ok") == "漢字 ok"


@pytest.mark.parametrize(("text", "expected"), [("abc", 3), ("漢字", 4), ("e\u0301", 1), ("😀", 2), ("", 0)])
def test_wide_characters_count_as_two(text: str, expected: int) -> None:
    assert width(text) == expected


@given(TEXT, st.integers(0, 30), st.booleans())
def test_a_clipped_text_fits(text: str, room: int, middle: bool) -> None:
    shown = clip(text, room, middle=middle)
    assert width(shown) <= room
    if width(text) <= room:
        assert shown == text


def test_a_clipped_path_keeps_both_ends() -> None:
    shown = clip("/home/ann/a/very/long/way/to/proj", 16, middle=True)
    assert shown.startswith("/home")
    assert shown.endswith("to/proj")


@given(TEXT, st.integers(8, 40))
def test_wrapped_lines_fit_and_lose_no_word(text: str, room: int) -> None:
    lines = wrap(text, room, "  ", "! ")
    assert all(width(line) <= room for line in lines)
    joined = "".join("".join(lines).split())
    assert joined == "!" + "".join(text.split())


@given(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=5), st.integers(40, 120))
def test_no_row_of_a_table_is_wider_than_the_terminal(rows: list[tuple[str, str, str]], room: int) -> None:
    columns = (
        Column("ONE", least=8),
        Column("TWO", right=True, drop=1),
        Column("THREE", least=8, path=True, drop=2),
    )
    lines = table(columns, rows, room)
    assert len(lines) == len(rows) + 1
    assert all(width(line) <= room for line in lines)


def test_columns_line_up_under_wide_characters() -> None:
    lines = table((Column("A"), Column("B")), [("漢字", "x"), ("abcd", "y")], 40)
    assert lines == ["A     B", "漢字  x", "abcd  y"]


def test_a_table_drops_what_matters_least_first() -> None:
    columns = (Column("ID", least=4), Column("SIZE", drop=1), Column("ROOT", least=10, drop=2))
    rows = [("project-one", "x" * 20, "/a/b/c/d/e/f")]
    assert table(columns, rows, 40)[0].split() == ["ID", "SIZE", "ROOT"]
    assert table(columns, rows, 30)[0].split() == ["ID", "SIZE"]
    assert table(columns, rows, 20)[0].split() == ["ID"]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_440_000, "1.4 MB"),
        (23_000_000_000, "23 GB"),
        (10**16, "10000 TB"),
    ],
)
def test_sizes_are_for_people(count: int, expected: str) -> None:
    assert size(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(-5, "0 s"), (8, "8 s"), (200, "3 min"), (7300, "2 h"), (5e5, "5 d")]
)
def test_spans_use_their_largest_unit(seconds: float, expected: str) -> None:
    assert span(seconds) == expected


def test_times_are_local_and_relative(utc: None) -> None:
    now = parse_time("2031-05-04T12:05:00Z")
    assert now is not None
    assert when("2031-05-04T12:02:00Z", now) == "12:02, 3 min ago"
    assert when("2031-05-04T12:04:59Z", now) == "12:04, just now"
    assert when("2031-05-04T12:15:00+00:00", now, short=True) == "in 10 min"
    assert when("2031-05-01T09:00:00Z", now) == "May 1 09:00, 3 d ago"
    assert when("2030-05-01T09:00:00Z", now).startswith("2030-05-01 09:00")
    assert when(None, now) == "never"
    assert when("rubbish\x1b", now) == "rubbish\N{REPLACEMENT CHARACTER}"


@given(st.integers(0, 2**33))
def test_iso_times_come_back(moment: int) -> None:
    assert parse_time(iso(moment)) == moment


def test_the_home_directory_is_a_tilde() -> None:
    assert tilde("/home/ann/src", "/home/ann") == "~/src"
    assert tilde("/home/ann", "/home/ann") == "~"
    assert tilde("/home/anna", "/home/ann") == "/home/anna"
    assert tilde("/src", "/") == "/src"
