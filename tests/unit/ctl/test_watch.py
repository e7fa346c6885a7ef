from __future__ import annotations

from ctl.commands.watch import frame


def test_a_frame_never_erases_what_it_has_just_written() -> None:
    drawn = frame(["a" * 80, "b"], 24)
    for line in drawn.split("\n")[:-1]:
        assert line.rstrip("ab").endswith("\x1b[2K")
        assert line[-1] in "ab"


def test_a_frame_never_scrolls_the_terminal() -> None:
    assert frame(["x"] * 100, 24).count("\n") == 23
