"""`knowledge` as a person runs it, in this process, against a scripted daemon on a real socket."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from convergenced.machine.locations import Locations
from ctl.__main__ import main
from ctl.render import parse_time
from tests.fakes.daemon import Answer, FakeDaemon
from tests.unit.ctl.knowledge import HOME

NOW = parse_time("2031-05-04T12:05:00Z") or 0.0


class Typed(io.StringIO):
    """A terminal's input, typed beforehand; None in its place interrupts."""

    def __init__(self, *answers: str | None) -> None:
        super().__init__()
        self._answers = list(answers)

    def isatty(self) -> bool:
        return True

    def readline(self, _size: int | None = -1) -> str:  # type: ignore[override]
        answer = self._answers.pop(0) if self._answers else ""
        if answer is None:
            raise KeyboardInterrupt
        return answer


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


@dataclass
class Stage:
    """One machine and its scripted daemon."""

    daemon: FakeDaemon
    locations: Locations
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def answer(self, method: str, *answers: Answer | Callable[[dict[str, object]], Answer]) -> None:
        """What `knowledge_<method>` answers, one after the other, the last one again and again."""
        left = list(answers)

        def give(_: object) -> Answer:
            one = left.pop(0) if len(left) > 1 else left[0]
            assert not callable(one)
            return one

        self.daemon.answers[f"knowledge_{method}"] = give

    def run(self, *words: str, typed: Typed | None = None, columns: int = 100) -> Ran:
        self.monkeypatch.setenv("COLUMNS", str(columns))
        self.monkeypatch.setattr(sys, "stdin", io.StringIO() if typed is None else typed)
        code = main(["knowledge", *words])
        said = self.capsys.readouterr()
        return Ran(code, said.out, said.err)

    def asked(self, method: str) -> list[dict[str, object]]:
        """The parameters of every `knowledge_<method>` so far."""
        return [dict(params) for name, params in self.daemon.asked if name == f"knowledge_{method}"]


@pytest.fixture
def stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Stage]:
    monkeypatch.setenv("CONVERGENCE_HOME", str(tmp_path))
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "claude"))
    monkeypatch.setenv("HOME", HOME)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(time, "time", lambda: NOW)
    time.tzset()
    locations = Locations.from_environment({"CONVERGENCE_HOME": str(tmp_path)}, HOME)
    with FakeDaemon(locations) as daemon:
        yield Stage(daemon, locations, monkeypatch, capsys)
    monkeypatch.undo()
    time.tzset()
