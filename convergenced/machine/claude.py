"""Owns the answer to which Claude Code of this user runs, and where.

Promise: a running client is never overlooked because something about it could not be read; what cannot
be told apart counts as running. Arguments are never looked at: clients may blank theirs.

Two sources, united. The client's own `sessions/<pid>.json`, believed where the pid lives and started at
the time the file says (files stay behind after SIGKILL, and pids are used again); and the system's
process list, by program name. What the session files mean was seen in client 2.1.329:
`procStart` is field 22 of `/proc/<pid>/stat` on Linux and `ps -o lstart=` in UTC on macOS; `pidDomain` is
`linux:<machine-id>:<pid namespace>`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from calendar import timegm
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from convergenced.errors import ConvergenceError
from convergenced.machine.durable import read_bounded
from convergenced.machine.outside import Outside
from convergenced.model import ClaudeProcess, LocalPath, SessionId

MAX_SESSION_FILE = 1 << 20
MAX_SESSION_FILES = 10_000

FOREIGN_FRESH_S = 2 * 3600.0
"""How long a client in a container, whose pid means nothing here, counts as running after it last
wrote its session file. Longer, and a killed container would hold a project for long; shorter, and a
client that only waits for its user would be overlooked. An overlooked one costs a fork, no data."""

START_TOLERANCE_S = 2.0
"""By how much two readings of a process's start may differ where they have whole seconds only."""

_LINUX: bool = sys.platform.startswith("linux")
_PROGRAMS = frozenset({"claude", "claude.exe"})
_RUNTIMES = frozenset({"node", "node.exe", "nodejs", "bun"})
"""Programs that may be a client: only a session file tells."""
_ENDING = 0x4
"""The kernel's mark of a process that ends (`PF_EXITING`), among the flags in `/proc/<pid>/stat`."""


class RealProcesses:
    """`ports.Processes` from Claude Code's `sessions` folder and the system's process list."""

    def __init__(
        self, sessions: LocalPath, now: Callable[[], float] = time.time, outside: Outside | None = None
    ) -> None:
        self._sessions = sessions
        self._now = now
        self._outside = outside or Outside()
        self._domain = _pid_domain()

    def claude(self) -> list[ClaudeProcess]:
        """Every running Claude Code of this user; what cannot be told apart counts as one.

        A client whose session file names another folder than the process is in counts in both.
        """
        found: set[ClaudeProcess] = set()
        named: dict[int, SessionId | None] = {}
        for pid, entry in self._entries():
            if entry is None:
                if (process := _live(pid)) is not None and _may_be_client(process):
                    found |= self._located(process, None, None)
            elif self._is_foreign(entry.domain):
                if abs(self._now() - entry.updated_at) <= FOREIGN_FRESH_S:
                    found.add(ClaudeProcess(pid, _real(entry.cwd), entry.session))
            elif (process := _live(pid)) is not None and _started_at(process, entry.started):
                named[pid] = entry.session
                found |= self._located(process, entry.cwd, entry.session)
        for process in _suspects():
            if process.pid not in named and _is_client(process):
                found |= self._located(process, None, None)
        return sorted(found, key=lambda process: (process.pid, process.cwd or "", process.session or ""))

    def _located(
        self, process: psutil.Process, said: str | None, session: SessionId | None
    ) -> set[ClaudeProcess]:
        """The process in the folder it is in and in the one its session file says."""
        try:
            seen = process.cwd() or (_folder_of_threads(f"/proc/{process.pid}") if _LINUX else None)
        except (psutil.NoSuchProcess, _EndingError):  # a zombie counts as ended
            return set()
        except (psutil.Error, OSError):
            seen = None if said else self._outside.folder_of(process.pid, _start_ticks(process.pid))
        folders = {_real(folder) for folder in (seen, said) if folder}
        return {ClaudeProcess(process.pid, folder, session) for folder in folders or {None}}

    def _is_foreign(self, domain: str | None) -> bool:
        """Whether a pid of that domain means nothing here. An older client names no domain."""
        if domain is None:
            return False
        return domain != self._domain if self._domain is not None else domain.startswith("linux:")

    def _entries(self) -> Iterator[tuple[int, _SessionFile | None]]:
        """Pid and content of every session file, None for one that cannot be understood."""
        try:
            names = sorted(os.listdir(self._sessions))
        except OSError:
            return  # never ran here, or not ours to read: the process list still tells
        for name in names[:MAX_SESSION_FILES]:
            stem, dot, ending = name.partition(".")
            if ending == "json" and dot and stem.isascii() and stem.isdigit() and 0 < len(stem) <= 10:
                with contextlib.suppress(_GoneError):
                    yield int(stem), _read_session(LocalPath(os.path.join(self._sessions, name)))


def runs_in(process: ClaudeProcess, project_root: LocalPath, *, ignore_case: bool = False) -> bool:
    """Whether a client counts as running in a project: in its root, below it, or nobody knows where.

    Both paths are real paths. `ignore_case` is for file systems that do (macOS as it comes).
    """
    if process.cwd is None:
        return True
    cwd, root = process.cwd.rstrip("/") + "/", project_root.rstrip("/") + "/"
    if ignore_case:
        cwd, root = cwd.casefold(), root.casefold()
    return cwd.startswith(root)


class _GoneError(Exception):
    """The session file went away while it was looked at: its client ended."""


@dataclass(frozen=True, slots=True)
class _SessionFile:
    """What a `sessions/<pid>.json` says. `updated_at` is Unix seconds, 0 where it does not say."""

    session: SessionId | None
    cwd: str | None
    started: str | None
    updated_at: float
    domain: str | None


def _read_session(path: LocalPath) -> _SessionFile | None:
    try:
        raw = read_bounded(path, MAX_SESSION_FILE)
    except ConvergenceError:
        return None
    if raw is None:
        raise _GoneError
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None

    def text(key: str) -> str | None:
        found = value.get(key)
        return str(found) if isinstance(found, str | int) and found != "" else None

    session, updated = text("sessionId"), value.get("updatedAt") or value.get("startedAt")
    return _SessionFile(
        session=SessionId(session) if session is not None else None,
        cwd=text("cwd"),
        started=text("procStart"),
        updated_at=_seconds(updated),
        domain=text("pidDomain"),
    )


def _seconds(milliseconds: object) -> float:
    """Unix seconds; 0 for what is no time."""
    if not isinstance(milliseconds, int | float):
        return 0.0
    try:
        return milliseconds / 1000
    except OverflowError:
        return 0.0


def _pid_domain() -> str | None:
    """What a client that runs beside us writes as `pidDomain`; None on other systems than Linux."""
    if not _LINUX:
        return None
    try:
        raw = read_bounded(LocalPath("/etc/machine-id"), 1024)
    except ConvergenceError:
        raw = None
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"linux:{(raw or b'').decode('ascii', 'replace').strip()}:{namespace}"


def _live(pid: int) -> psutil.Process | None:
    """The process of that pid, None where it ended (a zombie has)."""
    try:
        process = psutil.Process(pid)
    except (psutil.NoSuchProcess, OverflowError, ValueError):
        return None
    return None if _is_zombie(process) else process


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _started_at(process: psutil.Process, started: str | None) -> bool:
    """Whether the process is the one that the session file was written for."""
    if started is None:
        return _may_be_client(process)  # an older client: the name has to do
    if started.isdigit() and _LINUX:
        return started == _start_ticks(process.pid)
    moment = _lstart(started)
    if moment is None:
        return _may_be_client(process)
    try:
        return bool(abs(process.create_time() - moment) <= START_TOLERANCE_S)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _start_ticks(pid: int) -> str | None:
    """Field 22 of `/proc/<pid>/stat`. The name before it, in parentheses, may hold anything."""
    raw = _proc_stat(pid)
    fields = raw.rpartition(b")")[2].split()
    return fields[19].decode("ascii", "replace") if len(fields) > 19 else None


def _proc_stat(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read(4096)
    except OSError:
        return b""


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _lstart(text: str) -> float | None:
    """Unix seconds of `Fri Nov 20 18:48:35 2026` in UTC, without asking the locale; None for others."""
    parts = text.replace(":", " ").split()
    try:
        _, month, day, hour, minute, second, year = parts
        moment = (int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second))
        return float(timegm((*moment, 0, 0, 0)))
    except (ValueError, OverflowError):
        return None


def _suspects() -> Iterator[psutil.Process]:
    """Processes of this user that may be clients: on Linux those that look like one at the first glance.

    There are hundreds of processes, and each write waits for this; elsewhere psutil keeps the list.
    """
    uid = os.getuid()
    for process in _at_first_glance() if _LINUX else psutil.process_iter():
        try:
            if process.uids().real == uid:
                yield process
        except psutil.Error:
            continue  # ended meanwhile, or another user's


def _at_first_glance() -> Iterator[psutil.Process]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (_comm(name) in _PROGRAMS or _program_name(name) in _PROGRAMS):
            with contextlib.suppress(psutil.NoSuchProcess):
                yield psutil.Process(int(name))


def _comm(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb", buffering=0) as file:
            return file.read(64).decode("utf-8", "replace").removesuffix("\n")
    except OSError:
        return ""  # it ended


def _program_name(pid: str | int) -> str:
    """The name of the file that the process runs now: psutil would remember the one before an `exec`."""
    try:
        file = (
            os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
            if _LINUX
            else psutil.Process(int(pid)).exe()
        )
    except (psutil.Error, OSError):
        return ""  # another user's, or it ended
    return os.path.basename(file)


def _is_client(process: psutil.Process) -> bool:
    """Whether name or program file is the client's own."""
    try:
        if process.name() in _PROGRAMS:
            return not _is_zombie(process)
        return _program_name(process.pid) in _PROGRAMS
    except (psutil.Error, OSError):
        return False  # ended meanwhile; or a program of ours whose file is hidden, and its name is not claude


def _may_be_client(process: psutil.Process) -> bool:
    try:
        return process.name() in _RUNTIMES or _is_client(process)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


class _EndingError(Exception):
    """The process has ended but for the kernel's last bookkeeping."""


def _folder_of_threads(process: str) -> str | None:
    """Where a process is whose own link says nothing; `process` is its folder in `/proc`.

    A process that ends lets go of its files, then of its folder, and is seen for a while longer, under its
    name. A thread may still be at work; where none is, `_EndingError`. None where that cannot be told.
    """
    try:
        for thread in os.listdir(f"{process}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                return os.readlink(f"{process}/task/{thread}/cwd")
        with open(f"{process}/stat", "rb") as file:
            fields = file.read(4096).rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if not os.path.lexists(process):
            raise _EndingError from None
        raise
    if len(fields) > 6 and fields[6].isdigit() and int(fields[6]) & _ENDING:
        raise _EndingError
    return None


def _real(folder: str | None) -> LocalPath | None:
    if folder is None or not os.path.isabs(folder):
        return None
    try:
        return LocalPath(os.path.realpath(folder))
    except (OSError, ValueError):
        return None
