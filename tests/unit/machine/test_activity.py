"""The activity log: what is appended is read, whatever stands between, and it never grows without end."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convergenced.errors import RefusedInputError
from convergenced.machine.activity import Activity, ActivityLog, Event, older, read_activity
from convergenced.model import LocalPath, ProjectId
from tests.fakes.clock import FakeClock


@pytest.fixture
def path(tmp_path: Path) -> LocalPath:
    return LocalPath(str(tmp_path / "state" / "activity.jsonl"))


@pytest.fixture
def log(path: LocalPath) -> ActivityLog:
    return ActivityLog(path, FakeClock())


def texts(path: LocalPath, n: int = 1_000_000) -> list[str]:
    return [activity.event.text for activity in read_activity(path, n)]


def test_what_is_appended_is_read_newest_last(path: LocalPath) -> None:
    clock = FakeClock()
    log = ActivityLog(path, clock)
    first = Event("ingest", "2 sessions +41 records", ProjectId("proj"), (("commit", "abc"),))
    second = Event("daemon", "started")
    log.append(first)
    clock.advance(1.5)
    log.append(second)
    assert read_activity(path, 10) == [
        Activity("2026-01-01T00:00:00.000Z", first),
        Activity("2026-01-01T00:00:01.500Z", second),
    ]
    assert log.trouble is None


def test_each_line_is_one_json_object(log: ActivityLog, path: LocalPath) -> None:
    log.append(Event("ingest", "naïve \n\u2028 text", ProjectId("proj")))
    line = Path(path).read_bytes()
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "time": "2026-01-01T00:00:00.000Z",
        "kind": "ingest",
        "project": "proj",
        "text": "naïve \n\u2028 text",
    }


def test_the_log_is_for_this_user_alone(log: ActivityLog, path: LocalPath) -> None:
    log.append(Event("daemon", "started"))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


@pytest.mark.parametrize(
    ("n", "expected"), [(0, []), (1, ["4"]), (3, ["2", "3", "4"]), (99, ["0", "1", "2", "3", "4"])]
)
def test_the_newest_few_are_read(log: ActivityLog, path: LocalPath, n: int, expected: list[str]) -> None:
    for number in range(5):
        log.append(Event("x", str(number)))
    assert texts(path, n) == expected


def test_a_log_that_is_not_there_holds_nothing(path: LocalPath) -> None:
    assert read_activity(path, 10) == []


def test_a_torn_last_line_costs_only_itself(log: ActivityLog, path: LocalPath) -> None:
    log.append(Event("x", "before"))
    with open(path, "ab") as file:
        file.write(b'{"time":"2026-01-01T00:00:00.000Z","kind":"x","te')
    assert texts(path) == ["before"]
    log.append(Event("x", "after"))
    assert texts(path) == ["before", "after"]


@pytest.mark.parametrize(
    "line", [b"[]", b"{}", b"null", b"\xff", b'{"time":1,"kind":"x","text":"y"}', b"[" * 99_999]
)
def test_a_line_that_is_not_ours_is_skipped(log: ActivityLog, path: LocalPath, line: bytes) -> None:
    log.append(Event("x", "before"))
    with open(path, "ab") as file:
        file.write(line + b"\n")
    log.append(Event("x", "after"))
    assert texts(path) == ["before", "after"]


def test_a_full_log_is_put_aside_and_both_are_read(path: LocalPath) -> None:
    log = ActivityLog(path, FakeClock(), max_bytes=1000)
    for number in range(100):
        log.append(Event("x", str(number)))
        assert os.stat(path).st_size <= 1000
    assert sorted(os.listdir(os.path.dirname(path))) == ["activity.jsonl", "activity.jsonl.1"]
    assert os.stat(older(path)).st_size <= 1000
    read = texts(path)
    assert read == [str(number) for number in range(100 - len(read), 100)]
    assert len(read) > 10
    assert texts(path, len(read) - 1) == read[1:]


def test_a_full_disk_is_remembered_and_never_raised(
    log: ActivityLog, path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append(Event("x", "before"))

    def full(_descriptor: int, data: bytes) -> int:
        if data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        log.append(Event("x", "lost"))
    assert "No space left" in (log.trouble or "")
    log.append(Event("x", "after"))
    assert log.trouble is None
    assert texts(path) == ["before", "after"]


def test_a_detail_never_takes_the_place_of_a_field(log: ActivityLog, path: LocalPath) -> None:
    log.append(Event("x", "true", ProjectId("p"), (("text", "false"), ("time", "never"), ("more", "1"))))
    (activity,) = read_activity(path, 1)
    assert (activity.event.text, activity.event.details) == ("true", (("more", "1"),))


def test_a_symlink_in_the_logs_place_is_not_followed(
    log: ActivityLog, path: LocalPath, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "precious").write_bytes(b"x")
    Path(path).symlink_to(tmp_path / "precious")
    log.append(Event("x", "y"))
    assert log.trouble is not None
    assert (tmp_path / "precious").read_bytes() == b"x"


def test_a_log_that_cannot_be_read_is_told(path: LocalPath) -> None:
    os.makedirs(path)
    with pytest.raises(RefusedInputError):
        read_activity(path, 1)


def test_several_threads_do_not_mix_their_lines(log: ActivityLog, path: LocalPath) -> None:
    def many(name: str) -> None:
        for number in range(50):
            log.append(Event("x", f"{name}{number}"))

    threads = [threading.Thread(target=many, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(texts(path)) == sorted(f"{name}{number}" for name in "abcd" for number in range(50))


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=200)), max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, str]]) -> None:
    path = LocalPath(str(tmp_path_factory.mktemp("log") / "activity.jsonl"))
    log = ActivityLog(path, FakeClock())
    for kind, text in said:
        log.append(Event(kind, text))
    assert [(one.event.kind, one.event.text) for one in read_activity(path, 99)] == said
