"""Running clients on a real system: session files that are right, stale, broken or from a container."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from convergenced.machine import claude
from convergenced.machine.claude import FOREIGN_FRESH_S, RealProcesses, runs_in
from convergenced.model import ClaudeProcess, LocalPath, SessionId
from tests.clients import Client, start_client

SID = "7d5c0f0e-0000-4000-8000-000000000001"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to write true session files")


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    (tmp_path / "sessions").mkdir()
    return tmp_path / "sessions"


@pytest.fixture
def processes(sessions: Path) -> RealProcesses:
    return RealProcesses(LocalPath(str(sessions)))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Starts programs in `tmp_path/proj` by default, and ends them with the test."""
    (tmp_path / "programs").mkdir()
    (tmp_path / "proj").mkdir()
    started: list[Client] = []

    def begin(name: str = "claude", cwd: Path | None = None) -> Client:
        client = start_client(tmp_path / "programs", str(cwd or tmp_path / "proj"), name)
        started.append(client)
        return client

    yield begin
    for client in started:
        client.kill()


Start = Callable[..., Client]


def of(processes: RealProcesses, *pids: int) -> list[ClaudeProcess]:
    """What is said of these pids; other clients may run on this machine while it is tested."""
    return [process for process in processes.claude() if process.pid in pids]


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits, 10 seconds at most, until the condition holds."""
    pause = threading.Event()
    assert any(condition() or pause.wait(0.01) for _ in range(1000))


def own_domain() -> str:
    machine = Path("/etc/machine-id")
    name = machine.read_text().strip() if machine.exists() else ""
    return f"linux:{name}:{os.readlink('/proc/self/ns/pid')}"


@pytest.mark.parametrize("name", ["claude", "claude.exe"])
def test_a_client_is_known_by_its_name_alone(processes: RealProcesses, start: Start, name: str) -> None:
    client = start(name)
    assert of(processes, client.pid) == [ClaudeProcess(client.pid, LocalPath(client.cwd))]


@pytest.mark.parametrize("name", ["node", "claudette", "not-claude"])
def test_another_program_is_no_client(processes: RealProcesses, start: Start, name: str) -> None:
    assert of(processes, start(name).pid) == []


def test_a_client_is_known_by_its_program_file_whatever_name_it_goes_by(
    processes: RealProcesses, start: Start, tmp_path: Path
) -> None:
    start()
    (tmp_path / "programs" / "2.1.329").symlink_to(tmp_path / "programs" / "claude")
    alias = start("2.1.329")
    assert [process.cwd for process in of(processes, alias.pid)] == [alias.cwd]


def test_a_shell_that_becomes_a_client_is_one(processes: RealProcesses, start: Start, tmp_path: Path) -> None:
    start()
    (tmp_path / "programs" / "alias").symlink_to(tmp_path / "programs" / "claude")
    script = f"echo; read _; exec {tmp_path}/programs/alias 600"
    with subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdout.readline()
        assert of(processes, shell.pid) == []
        shell.stdin.write(b"\n")
        shell.stdin.flush()
        wait_until(lambda: psutil.Process(shell.pid).name() == "alias")
        assert [process.pid for process in of(processes, shell.pid)] == [shell.pid]
        shell.kill()


def test_a_client_is_not_known_by_its_arguments(processes: RealProcesses, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input()", "claude"], stdin=subprocess.PIPE, cwd=tmp_path
    ) as other:
        assert of(processes, other.pid) == []
        other.kill()


def test_a_session_file_makes_node_a_client(processes: RealProcesses, sessions: Path, start: Start) -> None:
    client = start("node")
    client.write_session_file(sessions, SID)
    assert of(processes, client.pid) == [ClaudeProcess(client.pid, LocalPath(client.cwd), SessionId(SID))]


def test_a_session_file_with_our_own_domain_is_believed(
    processes: RealProcesses, sessions: Path, start: Start
) -> None:
    client = start("node")
    client.write_session_file(sessions, SID, pidDomain=own_domain())
    assert [process.session for process in of(processes, client.pid)] == [SID]


def test_a_session_file_with_another_start_time_is_a_leftover(
    processes: RealProcesses, sessions: Path, start: Start
) -> None:
    reused = start("node")
    reused.write_session_file(sessions, SID, procStart="12345")
    assert of(processes, reused.pid) == []


def test_a_client_with_a_leftover_under_its_pid_still_runs(
    processes: RealProcesses, sessions: Path, start: Start, tmp_path: Path
) -> None:
    client = start()
    client.write_session_file(sessions, SID, procStart="12345", cwd=str(tmp_path))
    assert of(processes, client.pid) == [ClaudeProcess(client.pid, LocalPath(client.cwd))]


def test_what_a_killed_client_left_behind_counts_for_nothing(
    processes: RealProcesses, sessions: Path, start: Start
) -> None:
    client = start()
    client.write_session_file(sessions, SID, pidDomain=own_domain())
    client.kill()
    assert (sessions / f"{client.pid}.json").exists()
    assert of(processes, client.pid) == []


def test_a_client_that_ended_but_was_not_waited_for_does_not_run(
    processes: RealProcesses, sessions: Path, start: Start
) -> None:
    client = start()
    client.write_session_file(sessions, SID)
    client.process.kill()
    os.waitid(os.P_PID, client.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(client.pid).status() == psutil.STATUS_ZOMBIE
    assert of(processes, client.pid) == []


def test_a_client_that_says_another_folder_counts_in_both(
    processes: RealProcesses, sessions: Path, start: Start, tmp_path: Path
) -> None:
    client = start()
    client.write_session_file(sessions, SID, cwd=str(tmp_path / "other"))
    assert {process.cwd for process in of(processes, client.pid)} == {client.cwd, str(tmp_path / "other")}


def test_a_folder_behind_a_symlink_is_told_by_its_real_path(
    processes: RealProcesses, sessions: Path, start: Start, tmp_path: Path
) -> None:
    client = start()
    (tmp_path / "link").symlink_to(tmp_path / "proj")
    client.write_session_file(sessions, SID, cwd=str(tmp_path / "link"))
    assert [process.cwd for process in of(processes, client.pid)] == [client.cwd]


@pytest.mark.parametrize("field", ["sessionId", "cwd", "procStart", "updatedAt"])
def test_an_older_client_may_leave_a_field_out(
    processes: RealProcesses, sessions: Path, start: Start, field: str
) -> None:
    client = start("node")
    client.write_session_file(sessions, SID, **{field: None})
    assert [process.cwd for process in of(processes, client.pid)] == [client.cwd]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"null"])
def test_a_broken_session_file_counts_where_its_pid_may_be_a_client(
    processes: RealProcesses, sessions: Path, start: Start, content: bytes
) -> None:
    maybe, other, gone = start("node"), start("not-claude"), start("claude")
    gone.kill()
    for client in (maybe, other, gone):
        (sessions / f"{client.pid}.json").write_bytes(content)
    assert of(processes, maybe.pid, other.pid, gone.pid) == [ClaudeProcess(maybe.pid, LocalPath(maybe.cwd))]


def test_odd_names_among_the_session_files_are_passed_over(
    processes: RealProcesses, sessions: Path, start: Start
) -> None:
    client = start()
    for name in (
        "x.json",
        ".json",
        f"{client.pid}.key",
        f"{client.pid}.json.tmp",
        "99999999999.json",
        "٣.json",
    ):
        (sessions / name).write_text("{}")
    (sessions / "0.json").write_text("{}")
    (sessions / "4294967295.json").write_text("{}")
    os.mkfifo(sessions / "7.json")
    (sessions / "8.json").mkdir()
    assert [process.pid for process in of(processes, client.pid)] == [client.pid]


@pytest.mark.parametrize(("age", "runs"), [(60.0, True), (FOREIGN_FRESH_S + 60, False), (-60.0, True)])
def test_a_client_in_a_container_counts_while_its_file_is_fresh(
    processes: RealProcesses, sessions: Path, start: Start, tmp_path: Path, age: float, runs: bool
) -> None:
    unrelated = start("not-claude")  # has the pid that the client has in its container
    unrelated.write_session_file(
        sessions,
        SID,
        cwd=str(tmp_path),
        pidDomain="linux:0123456789abcdef0123456789abcdef:pid:[4026539999]",
        updatedAt=int((time.time() - age) * 1000),
    )
    expected = [ClaudeProcess(unrelated.pid, LocalPath(str(tmp_path)), SessionId(SID))] if runs else []
    assert of(processes, unrelated.pid) == expected


def test_without_a_sessions_folder_the_process_list_tells(start: Start, tmp_path: Path) -> None:
    client = start()
    assert [p.pid for p in of(RealProcesses(LocalPath(str(tmp_path / "absent"))), client.pid)] == [client.pid]


def test_a_client_whose_folder_cannot_be_read_may_be_anywhere(
    processes: RealProcesses, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start()

    def denied(process: psutil.Process) -> str:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "cwd", denied)
    assert of(processes, client.pid) == [ClaudeProcess(client.pid, None)]


ENDS, RUNS = 0x400004, 0x400000
"""Flags in `/proc/<pid>/stat`, as the kernel showed them."""


@pytest.mark.parametrize(
    ("flags", "threads", "where"),
    [
        (ENDS, {"7": None}, "ended"),
        (ENDS, {"7": None, "8": None}, "ended"),
        (ENDS, {}, "ended"),
        (ENDS, {"7": None, "8": "/src/proj"}, "/src/proj"),
        (RUNS, {"7": None}, None),
    ],
)
def test_a_client_that_ends_is_nowhere_once_none_of_its_threads_has_a_folder(
    tmp_path: Path, flags: int, threads: dict[str, str | None], where: str | None
) -> None:
    (tmp_path / "stat").write_text(f"7 (a ) S 4) R 1 1 1 0 -1 {flags} 77 0 0 0 0 0 0 0 20 0 1 0 1240 0 0\n")
    for thread, folder in threads.items():
        (tmp_path / "task" / thread).mkdir(parents=True)
        if folder is not None:
            (tmp_path / "task" / thread / "cwd").symlink_to(folder)
    (tmp_path / "task").mkdir(exist_ok=True)
    if where == "ended":
        with pytest.raises(claude._EndingError):
            claude._folder_of_threads(str(tmp_path))
    else:
        assert claude._folder_of_threads(str(tmp_path)) == where


def test_clients_that_are_killed_are_never_seen_without_a_folder(
    processes: RealProcesses, start: Start
) -> None:
    for _ in range(10):
        client = start()
        client.process.kill()
        while found := of(processes, client.pid):
            assert found == [ClaudeProcess(client.pid, LocalPath(client.cwd))]
        client.process.wait()


def test_a_client_whose_folder_was_removed_still_runs(
    processes: RealProcesses, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "gone").mkdir()
    client = start(cwd=tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert [process.pid for process in of(processes, client.pid)] == [client.pid]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can run a program as somebody else")
def test_somebody_elses_client_is_not_ours(processes: RealProcesses, start: Start) -> None:
    start()
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is for our own eyes only
        os.chmod(folder, 0o755)
        program = shutil.copy(shutil.which("sleep") or "", f"{folder}/claude")
        with subprocess.Popen([program, "600"], user=65534, cwd="/") as other:
            assert of(processes, other.pid) == []
            other.kill()


def test_the_start_that_macos_tells_is_read_whatever_the_locale() -> None:
    assert claude._lstart("Fri Nov 20 18:48:35 2026") == 1795200515.0
    assert claude._lstart("Thu Jan  1 00:00:01 1970") == 1.0
    for text in ("", "Fri 20 Nov 18:48:35 2026", "12345", "Fri Nov 20 18:48 2026"):
        assert claude._lstart(text) is None


def test_the_start_that_macos_tells_is_compared_in_whole_seconds(
    processes: RealProcesses, sessions: Path, start: Start
) -> None:
    right, wrong = start("node"), start("node")
    began = psutil.Process(right.pid).create_time()
    right.write_session_file(
        sessions, SID, procStart=time.strftime("%a %b %d %H:%M:%S %Y", time.gmtime(began))
    )
    wrong.write_session_file(
        sessions, SID, procStart=time.strftime("%a %b %d %H:%M:%S %Y", time.gmtime(began - 60))
    )
    assert [process.pid for process in of(processes, right.pid, wrong.pid)] == [right.pid]


# ---------------------------------------------------------------------- in which project


def at(cwd: str | None) -> ClaudeProcess:
    return ClaudeProcess(7, LocalPath(cwd) if cwd is not None else None)


@pytest.mark.parametrize(
    ("cwd", "root", "answer"),
    [
        ("/src/proj", "/src/proj", True),
        ("/src/proj/deep/er", "/src/proj", True),
        ("/src/proj/", "/src/proj", True),
        ("/src/proj", "/src/proj/", True),
        ("/src/proj2", "/src/proj", False),
        ("/src", "/src/proj", False),
        ("/SRC/proj", "/src/proj", False),
        ("/anything", "/", True),
        (None, "/src/proj", True),
    ],
)
def test_a_client_runs_in_a_project_at_or_below_its_root(cwd: str | None, root: str, answer: bool) -> None:
    assert runs_in(at(cwd), LocalPath(root)) is answer


def test_case_is_ignored_where_the_file_system_does() -> None:
    assert runs_in(at("/Users/Ann/SRC/proj"), LocalPath("/Users/ann/src"), ignore_case=True)


def refused(process: psutil.Process) -> str:
    raise psutil.AccessDenied(process.pid)


def test_a_process_that_hides_counts_where_a_session_file_names_it(
    processes: RealProcesses, sessions: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    hiding = start("not-claude")
    hiding.write_session_file(sessions, SID, procStart=None)
    assert of(processes, hiding.pid) == []
    for name in ("name", "status", "exe"):
        monkeypatch.setattr(psutil.Process, name, refused)
    assert [process.pid for process in of(processes, hiding.pid)] == [hiding.pid]


def test_a_start_time_that_cannot_be_read_counts_as_the_right_one(
    processes: RealProcesses, sessions: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start("node")
    client.write_session_file(sessions, SID, procStart="Fri Nov 20 18:48:35 2026")
    assert of(processes, client.pid) == []
    monkeypatch.setattr(psutil.Process, "create_time", refused)
    assert [process.pid for process in of(processes, client.pid)] == [client.pid]


def test_a_client_that_ends_while_it_is_looked_at_does_not_run(
    processes: RealProcesses, sessions: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start()
    client.write_session_file(sessions, SID)

    def ended(process: psutil.Process) -> str:
        raise psutil.NoSuchProcess(process.pid)

    monkeypatch.setattr(psutil.Process, "cwd", ended)
    assert of(processes, client.pid) == []
    monkeypatch.setattr(psutil.Process, "name", ended)
    client.write_session_file(sessions, SID, procStart=None)
    assert of(processes, client.pid) == []


def test_a_session_file_that_goes_while_it_is_looked_at_is_no_client(
    processes: RealProcesses, sessions: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start("node")
    listdir = os.listdir

    def outdated(folder: str) -> list[str]:
        return [f"{client.pid}.json"] if folder == str(sessions) else listdir(folder)

    monkeypatch.setattr(os, "listdir", outdated)
    assert of(processes, client.pid) == []
