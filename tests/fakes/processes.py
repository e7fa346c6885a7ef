"""Running clients that are only said to run."""

from __future__ import annotations

from convergenced.model import ClaudeProcess, LocalPath, SessionId


class FakeProcesses:
    """`ports.Processes` from a list."""

    def __init__(self) -> None:
        self._running: dict[int, ClaudeProcess] = {}
        self._next_pid = 1000

    def claude(self) -> list[ClaudeProcess]:
        """Every running Claude Code of this user."""
        return [self._running[pid] for pid in sorted(self._running)]

    def begin(self, cwd: str | None, session: str | None = None) -> int:
        """A client starts in `cwd` (None: nobody can tell where); the answer is its pid."""
        self._next_pid += 1
        self._running[self._next_pid] = ClaudeProcess(
            self._next_pid,
            LocalPath(cwd) if cwd is not None else None,
            SessionId(session) if session is not None else None,
        )
        return self._next_pid

    def end(self, pid: int) -> None:
        """The client ends."""
        del self._running[pid]
