from __future__ import annotations

import pytest

from convergenced.control.answers import Status
from ctl.commands.watch import cut, frame, with_gauge
from ctl.gauge import BAR, SLOW, Gauge
from ctl.render import Terminal, width
from tests.fakes.daemon import synced

PLAIN = Terminal(100, colour=False, interactive=True)


def importing(done: int, of: int, name: str = "proj") -> Status:
    status = synced()
    status["projects"][0]["id"] = name
    status["projects"][0]["progress"] = {"done": done, "of": of}
    return status


def test_an_import_shows_how_far_how_fast_and_how_long() -> None:
    gauge = Gauge()
    (first,) = gauge.lines(importing(0, 1_000_000_000), PLAIN, 100.0)
    assert first == f"proj {'░' * BAR}   0 %  0 of 1,000 MB"
    (later,) = gauge.lines(importing(250_000_000, 1_000_000_000), PLAIN, 105.0)
    assert later == f"proj {'█' * 6}{'░' * 18}  25 %  250 of 1,000 MB, 50.0 MB/s, 15 s left"
    (slower,) = gauge.lines(importing(260_000_000, 1_000_000_000), PLAIN, 115.0)
    assert "1.0 MB/s, 12 min left" in slower, "only the last seconds count"
    assert gauge.lines(synced(), PLAIN, 116.0) == []
    (again,) = gauge.lines(importing(10, 1_000), PLAIN, 117.0)
    assert again.endswith("0 of 0 MB"), "another import has a speed of its own"


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_a_gauge_fits_the_terminal(columns: int) -> None:
    gauge, terminal = Gauge(), Terminal(columns, colour=False, interactive=True)
    name = "日本語のとても長い名前のプロジェクト\x1b[2J"
    for second in range(3):
        (line,) = gauge.lines(importing(second * 70_000_000, 1_024_000_000, name), terminal, float(second))
        assert width(line) <= columns
        assert "\x1b" not in line


def test_an_exchange_is_shown_when_it_takes_long() -> None:
    status, gauge = synced(), Gauge()
    status["peers"][0]["busy"] = True
    assert gauge.lines(status, PLAIN, 10.0) == []
    assert gauge.lines(status, PLAIN, 10.0 + SLOW) == ["exchanging with hub for 3 s"]
    status["peers"][0]["busy"] = False
    assert gauge.lines(status, PLAIN, 14.0) == []


def test_gauges_stand_below_the_verdict() -> None:
    assert with_gauge(["importing", "", "PROJECT"], ["bar"]) == ["importing", "", "bar", "", "PROJECT"]
    assert with_gauge(["all synced"], []) == ["all synced"]


def test_what_does_not_fit_is_counted() -> None:
    assert cut(list("abc"), 3, PLAIN) == list("abc")
    assert cut(list("abcd"), 3, PLAIN) == ["a", "b", "… 2 more lines: convergencectl status"]


def test_a_frame_never_erases_what_it_has_just_written() -> None:
    drawn = frame(["a" * 80, "b"], 24)
    for line in drawn.split("\n")[:-1]:
        assert line.rstrip("ab").endswith("\x1b[2K")
        assert line[-1] in "ab"


def test_a_frame_never_scrolls_the_terminal() -> None:
    assert frame(["x"] * 100, 24).count("\n") == 23
