"""`project move` and `project remove`: how they run in a daemon. Everything here is in the control thread.

Promises: the answer comes once the new folder was written or it is known why that waits; what is taken away
of a project is taken away while nothing else is done for it; and what would be nowhere else then goes only
where a person said so by the project's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from posixpath import join

from convergenced import steps
from convergenced.control import answers
from convergenced.errors import AttentionError, ConvergenceError
from convergenced.machine.claude import runs_in
from convergenced.model import LocalPath, ProjectId
from convergenced.sync.board import Missing, held_text
from convergenced.sync.clearing import PutAway, put_away, runs
from convergenced.sync.converge import converge
from convergenced.sync.engine import Engine
from convergenced.sync.leaving import (
    Leaving,
    exclusions_of,
    find_project,
    forget_folders,
    plan_leaving,
    purge,
)
from convergenced.sync.moving import Moved, as_replica, is_misplaced, move_checkout, plan_move
from convergenced.sync.replica import Parts
from convergenced.sync.scan import scan_folder

MOVE_S = 60.0
"""How long the engine gets to write the folder at the new place."""


class Move:
    """One `project move`."""

    def __init__(
        self,
        engine: Engine,
        old: LocalPath,
        new: LocalPath,
        *,
        done: Callable[[answers.Moves], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._engine = engine
        self._old = old
        self._new = new
        self._done = done
        self._failed = failed
        self._answers: list[answers.Moved] = []

    def plan(self) -> None:
        """Answers what would follow, and what forbids to move the checkout right now."""
        parts, checkouts = self._engine.desk.parts, self._engine.checkouts

        def look() -> answers.Moves:
            moves = plan_move(parts, checkouts, self._old, self._new)
            places = (self._old, self._new)
            running = [
                one for one in parts.processes.claude() if any(runs_in(one, place) for place in places)
            ]
            waits = runs(running[0]) if running else None
            return {"moves": [_moved(parts, one, waits) for one in moves]}

        self._engine.background(look, self._done, self._failed)

    def start(self) -> None:
        """Has the folders at the new place take over; the answer comes later."""
        engine = self._engine
        parts, checkouts = engine.desk.parts, engine.checkouts
        if engine.board.halted is not None:
            self._failed(ConvergenceError(f"nothing is synced: {engine.board.halted}", "bring it back first"))
            return
        engine.background(
            lambda: move_checkout(parts, checkouts, self._old, self._new), self._taken_over, self._failed
        )

    def _taken_over(self, moves: list[Moved]) -> None:
        engine = self._engine
        for one in moves:
            engine.desk.note("move", one.project, f"{one.former.root} is now {one.note.root}")
        # The folders at the new place are on the board once they were surveyed.
        since = engine.look_at_everything(one.project for one in moves)
        deadline = engine.desk.clock.monotonic() + MOVE_S

        def is_written(_: list[Missing]) -> bool:
            late = engine.desk.clock.monotonic() >= deadline
            if not late and not all(self._was_looked_at(one, since) for one in moves):
                return False
            self._put_away(moves)
            return True

        engine.wait([one.project for one in moves], since, MOVE_S, is_written)

    def _was_looked_at(self, moved: Moved, since: float) -> bool:
        board = self._engine.board
        if board.is_paused(moved.project):
            return True
        state = board.replicas.get(moved.note.folder)
        return state is not None and not state.busy and (state.started_at >= since or state.error is not None)

    def _put_away(self, moves: Sequence[Moved]) -> None:
        """Puts the old folders away, one after the other, and answers after the last one."""
        if not moves:
            self._engine.tracked_anew()
            self._done({"moves": self._answers})
            return
        moved, *others = moves
        engine, parts = self._engine, self._engine.desk.parts
        waits = self._why_it_waits(moved)
        if waits is not None:
            self._answers.append(_moved(parts, moved, waits))
            self._put_away(others)
            return
        whole_machine = engine.desk.whole_machine
        folders = (moved.former.folder, moved.note.folder)
        replicas = [engine.board.replicas[one].replica for one in folders if one in engine.board.replicas]

        def work() -> answers.Moved:
            # What came in meanwhile is written as well, so that both hold the same.
            for replica in replicas:
                converge(parts, replica, whole_machine=whole_machine)
            away = put_away(parts, moved.former, moved.note, whole_machine=whole_machine)
            return _moved(parts, moved, None, away)

        def ended(answer: answers.Moved) -> None:
            if answer["files"]:
                text = f"put {answer['files']} files of the old folder among the backups"
                engine.desk.note("move", moved.project, text)
            self._answers.append(answer)
            self._put_away(others)

        engine.alone_with(moved.project, work, ended, self._failed)

    def _why_it_waits(self, moved: Moved) -> str | None:
        board = self._engine.board
        state = board.replicas.get(moved.note.folder)
        if board.is_paused(moved.project):
            return f"{moved.project} is paused"
        if state is None or state.result is None or state.error is not None:
            return (state.error if state is not None else None) or "the new folder is still looked at"
        localized = state.result.localize
        if localized is None:
            return state.result.ingest.halted or "the new folder is gone"
        if localized.held:
            return held_text(state.result)
        return None if localized.settled else "not everything could be written there yet"


def _moved(parts: Parts, moved: Moved, waits: str | None, away: PutAway | None = None) -> answers.Moved:
    scan = scan_folder(parts.files, as_replica(moved.note).context_dir(parts.machine))
    return {
        "project": moved.project,
        "old": moved.former.root,
        "new": moved.note.root,
        "old_context_dir": as_replica(moved.former).context_dir(parts.machine),
        "context_dir": as_replica(moved.note).context_dir(parts.machine),
        "sessions": 0 if scan is None else len(scan.transcripts),
        "waits": waits,
        "files": 0 if away is None else away.files,
        "backups": None if away is None else away.backups,
        "stays": None if away is None else away.stays,
        "misplaced": away is None and waits is None and is_misplaced(parts, moved),
    }


@dataclass(frozen=True, slots=True)
class Removal:
    """One `project remove`. `exclude` changes `projects.exclude` (added, removed) and applies that."""

    engine: Engine
    exclude: Callable[[Sequence[str], Sequence[str]], None]
    done: Callable[[answers.Removal], None]
    failed: Callable[[Exception], None]

    def plan(self, name: str, path: LocalPath) -> None:
        """Answers what would go and what would stay."""
        self._look(name, path, lambda found: self.done(self._answer(found)))

    def start(self, name: str, path: LocalPath, *, is_purge: bool, is_named: bool) -> None:
        """Has the project take part no more; `is_named`: a person confirmed that by its name."""

        def go(found: Leaving) -> None:
            if is_purge and found.only_here and not is_named:
                raise AttentionError(
                    f"{found.only_here} of {found.sessions} sessions of {found.project} are nowhere else",
                    "bring them to a peer first: convergencectl sync --wait\n"
                    f"or without them, on a terminal: convergencectl project remove {found.project} --purge",
                )
            self._leave(found, is_purge=is_purge)

        self._look(name, path, go)

    def _look(self, name: str, path: LocalPath, then: Callable[[Leaving], None]) -> None:
        parts = self.engine.desk.parts

        def found(leaving: Leaving) -> None:
            try:
                then(leaving)
            except ConvergenceError as error:
                self.failed(error)

        self.engine.background(
            lambda: plan_leaving(parts, find_project(parts, name, path)), found, self.failed
        )

    def _leave(self, found: Leaving, *, is_purge: bool) -> None:
        engine, parts, project = self.engine, self.engine.desk.parts, found.project
        wanted = exclusions_of(found.notes, parts.machine.home)
        missing = [one for one in wanted if one not in engine.settings.projects.exclude]
        if missing:
            self.exclude(missing, [])
        steps.reached("leave.excluded")

        def work() -> answers.Removal:
            answer = self._answer(found)
            if is_purge:
                purge(parts, project)
            else:
                forget_folders(parts, found.notes)
            return answer

        def left(answer: answers.Removal) -> None:
            self._forget(project, is_purge=is_purge)
            self.done(answer)

        engine.alone_with(project, work, left, self.failed)

    def _forget(self, project: ProjectId, *, is_purge: bool) -> None:
        engine, board = self.engine, self.engine.board
        if is_purge:
            board.tips.pop(project, None)
            for key in [key for key in board.tracked if key[1] == project]:
                del board.tracked[key]
        if project in board.pauses:
            engine.resume([project])
        text = "takes part no more, and the copy here is taken away" if is_purge else "takes part no more"
        engine.desk.note("leave", project, text)

    def _answer(self, found: Leaving) -> answers.Removal:
        parts = self.engine.desk.parts
        backups = [LocalPath(join(parts.machine.backups_dir, note.folder)) for note in found.notes]
        return {
            "project": found.project,
            "roots": [note.root for note in found.notes],
            "context_dirs": [as_replica(note).context_dir(parts.machine) for note in found.notes],
            "sessions": found.sessions,
            "archived": found.archived,
            "only_here": found.only_here,
            "peers": list(found.peers),
            "backups": [folder for folder in backups if parts.files.list(folder) is not None],
        }
