from __future__ import annotations

import pytest

from convergenced.errors import UsageError
from ctl.durations import seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("45s", 45), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("2d", 172800), (" 0.5 ", 0.5)],
)
def test_a_span_is_read_as_people_write_it(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    "text", ["", "2x", "h", "-3", "1h-2m", "0", "0s", "nan", "inf", "9999d", "1 2 3x", "٣"]
)
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        seconds(text)
