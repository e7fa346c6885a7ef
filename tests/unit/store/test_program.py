"""A program ends, whatever it does, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from convergenced.store import program
from convergenced.store.program import Limits, Outcome, Programs

PATIENT = Limits(overall=60, stall=60)


@pytest.fixture
def programs() -> Programs:
    return Programs()


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def run(programs: Programs, code: str, limits: Limits = PATIENT) -> Outcome:
    return programs.run(python(code), environ=os.environ, limits=limits)


def eventually(holds: Callable[[], bool]) -> bool:
    never = threading.Event()
    for _ in range(500):
        if holds():
            return True
        never.wait(0.01)
    return False


def is_gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def test_what_it_says_and_how_it_ends_is_told(programs: Programs) -> None:
    outcome = run(programs, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    assert outcome == Outcome("exit", 7, b"out\n", "err\n")


def test_it_cannot_ask_anybody(programs: Programs) -> None:
    outcome = run(
        programs,
        "import os, sys\n"
        "print(repr(sys.stdin.read()))\n"
        "try: os.open('/dev/tty', os.O_RDWR)\n"
        "except OSError: print('no terminal')",
    )
    assert outcome.out == b"''\nno terminal\n"


def test_it_reads_what_it_is_given_where_it_is_put(programs: Programs, tmp_path: Path) -> None:
    given = os.urandom(1 << 20)  # more than a pipe holds
    outcome = programs.run(
        python("import sys; open('copy', 'wb').write(sys.stdin.buffer.read())"),
        environ=os.environ,
        limits=PATIENT,
        given=given,
        folder=str(tmp_path),
    )
    assert outcome == Outcome("exit", 0, b"", "")
    assert (tmp_path / "copy").read_bytes() == given


def test_an_interrupted_caller_ends_it_politely(tmp_path: Path) -> None:
    started, ended = tmp_path / "started", tmp_path / "ended"
    inner = (
        "import signal, sys\n"
        f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(open({str(ended)!r}, 'w').close()))\n"
        f"open({str(started)!r}, 'w').close()\n"
        "signal.pause()"
    )
    outer = (
        "import os\n"
        "from convergenced.store.program import Limits, Programs\n"
        f"Programs().run({python(inner)!r}, environ=os.environ, limits=Limits(60, 60))"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", outer], stderr=subprocess.PIPE, cwd=Path(program.__file__).parents[2]
    )
    assert eventually(started.exists)
    caller.send_signal(signal.SIGINT)
    _, complaint = caller.communicate(timeout=60)
    assert b"KeyboardInterrupt" in complaint
    assert ended.exists()


@pytest.mark.parametrize(
    ("limits", "end"), [(Limits(overall=0.3, stall=60), "overall"), (Limits(overall=60, stall=0.3), "stall")]
)
def test_one_that_takes_too_long_is_ended_with_all_its_children(
    programs: Programs, tmp_path: Path, limits: Limits, end: str
) -> None:
    pids = tmp_path / "pids"
    outcome = run(
        programs,
        "import os, signal\n"
        f"child = os.fork()\n"
        f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "signal.pause()",
        limits,
    )
    assert outcome.end == end
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 2
    assert eventually(lambda: all(is_gone(pid) for pid in started))


def test_signs_of_life_keep_it_going(programs: Programs) -> None:
    outcome = run(
        programs,
        "import sys, threading\n"
        "for _ in range(8): threading.Event().wait(0.1); print('.', file=sys.stderr, flush=True)",
        Limits(overall=60, stall=0.75),
    )
    assert (outcome.end, outcome.code) == ("exit", 0)


def test_one_that_ignores_the_polite_signal_is_killed(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "GRACE", 0.1)
    outcome = run(
        programs,
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()",
        Limits(overall=0.5, stall=60),
    )
    assert (outcome.end, outcome.code) == ("overall", -9)


def test_what_it_says_is_heard_as_it_is_said(programs: Programs) -> None:
    heard: list[bytes] = []
    outcome = programs.run(
        [sys.executable, "-c", "import os\nfor n in b'abc': os.write(1, bytes([n]))\nos.write(2, b'no')"],
        environ=dict(os.environ),
        limits=PATIENT,
        hear=heard.append,
    )
    assert b"".join(heard) == outcome.out == b"abc"


def test_one_that_is_heard_by_somebody_who_fails_is_ended(programs: Programs) -> None:
    def fail(_piece: bytes) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        programs.run(
            [sys.executable, "-c", "import os, signal\nos.write(1, b'x')\nsignal.pause()"],
            environ=dict(os.environ),
            limits=PATIENT,
            hear=fail,
        )


def test_a_descendant_that_keeps_the_pipes_open_keeps_nobody_waiting(programs: Programs) -> None:
    outcome = run(programs, "import os, signal\nif os.fork() == 0: signal.pause()\nos.write(1, b'done')")
    assert (outcome.end, outcome.code, outcome.out) == ("exit", 0, b"done")


def test_a_flood_of_output_is_stopped(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MAX_OUT", 100_000)
    outcome = run(programs, "import os\nwhile True: os.write(1, b'x' * 4096)")
    assert outcome.end == "flood"
    assert len(outcome.out) < 1_000_000


def test_of_endless_complaints_the_last_are_kept(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MAX_ERR", 1000)
    outcome = run(programs, "import sys\nfor n in range(10000): print(n, file=sys.stderr)")
    assert len(outcome.err) == 1000
    assert outcome.err.endswith("9999\n")


def test_closing_ends_what_runs_and_starts_nothing_more(programs: Programs, tmp_path: Path) -> None:
    started = tmp_path / "started"
    ends: list[Outcome] = []
    thread = threading.Thread(
        target=lambda: ends.append(
            run(programs, f"import signal; open({str(started)!r}, 'w').close(); signal.pause()")
        )
    )
    thread.start()
    assert eventually(started.exists)
    programs.close()
    thread.join(30)
    assert [outcome.end for outcome in ends] == ["closed"]
    assert run(programs, "print('never')") == Outcome("closed", -1, b"", "")


def test_a_program_that_is_not_there_is_an_oserror(programs: Programs) -> None:
    with pytest.raises(FileNotFoundError):
        programs.run(["/nowhere/git"], environ={}, limits=PATIENT)


def test_no_descriptor_stays_open(programs: Programs) -> None:
    run(programs, "pass")
    before = psutil.Process().num_fds()
    for _ in range(5):
        run(programs, "pass")
        with contextlib.suppress(FileNotFoundError):
            programs.run(["/nowhere/git"], environ={}, limits=PATIENT)
    assert psutil.Process().num_fds() == before
