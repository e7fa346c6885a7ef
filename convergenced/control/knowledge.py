"""What the control socket does with shared knowledge.

Requests arrive in the control thread. What reads files or the store is done by a worker in the librarian's
lane; what changes something is a wish for the librarian's next look, or a synthesis of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from convergenced.control import knowledge_answers as answers
from convergenced.control.knowledge_view import (
    Only,
    format_changes,
    format_diff,
    format_planned,
    format_refusals,
    format_result,
    format_status,
    is_meant,
    meant_in,
    waiting_of,
)
from convergenced.control.params import Method, fail, number_in, texts_in, truth_in
from convergenced.control.protocol import Json
from convergenced.control.server import Reply
from convergenced.errors import ConvergenceError, HeldError, TimedOutError, UsageError
from convergenced.knowledge.librarian import LANE, Librarian
from convergenced.knowledge.look import Look, Wish
from convergenced.knowledge.synthesis import ScopeResult
from convergenced.knowledge.worker import ScopePlan
from convergenced.merge.knowledge import Scope
from convergenced.sync.board import ALL
from convergenced.sync.engine import Engine

PUSH_PATIENCE = 60.0
"""Seconds within which the peers are to have what was pushed; after that it goes on by itself."""


class KnowledgeMethods:
    """The methods, by the names they have on the socket."""

    def __init__(self, engine: Engine, librarian: Librarian) -> None:
        self._engine = engine
        self._librarian = librarian
        self.methods: dict[str, Method] = {
            "knowledge_status": self._status,
            "knowledge_diff": self._diff,
            "knowledge_push": self._push,
            "knowledge_synthesize": self._synthesize,
            "knowledge_apply": self._apply,
        }

    # -- looking

    def _status(self, params: dict[str, Json], reply: Reply) -> None:
        only, librarian = self._meant(params), self._librarian
        settings, machine = self._engine.settings, self._engine.desk.parts.machine
        waiting, trouble = waiting_of(librarian), librarian.troubles()

        def done(found: Look) -> None:
            look = found if librarian.last is None else found.beside(librarian.last)
            reply.result(cast("Json", format_status(look, settings, machine, only, waiting, trouble)))

        if not librarian.is_on:
            reply.result(cast("Json", format_status(None, settings, machine, only, waiting)))
            return
        self._survey(done, reply)

    def _diff(self, params: dict[str, Json], reply: Reply) -> None:
        only = self._meant(params)
        self._refuse_off()

        def done(found: Look) -> None:
            reply.result(cast("Json", format_diff(found, only)))

        self._survey(done, reply)

    def _survey(self, done: Callable[[Look], None], reply: Reply) -> None:
        desk, library = self._engine.desk, self._librarian.library
        settings = desk.settings
        replicas = [state.replica for state in desk.board.replicas.values()]  # also those that are paused
        desk.submit(LANE, lambda: library.survey(settings, replicas), done, lambda error: fail(reply, error))

    # -- doing

    def _push(self, params: dict[str, Json], reply: Reply) -> None:
        only = self._meant(params)
        self._refuse_off()
        self._refuse_stopped()

        def looked(found: Look) -> None:
            since = self._engine.desk.clock.monotonic()
            for peer in self._engine.board.peers.values():
                peer.due_at = since
            self._when_exchanged(found, only, since, reply)

        self._librarian.wish(Wish(), looked, lambda error: fail(reply, error))

    def _when_exchanged(self, found: Look, only: Only, since: float, reply: Reply) -> None:
        """Answers once every peer that can be reached was visited."""
        board, deadline = self._engine.board, since + PUSH_PATIENCE

        def answer(_: object) -> bool:
            if reply.closed:
                return True
            late = self._engine.desk.clock.monotonic() >= deadline
            if not late and any(peer.started_at < since for peer in board.peers.values()):
                return False
            have = [
                name
                for name, report in self._librarian.peers.items()
                if report.in_step and name in board.peers and board.peers[name].error is None
            ]
            refused = [f"{one.where} {one.reason}" for one in found.refusals]
            kept = [f"{name}: {', '.join(keys)} stay here" for name, keys in found.left_out.items()]
            pushed: answers.KnowledgePushed = {
                "documents": [name for name in found.documents if is_meant(name, only)],
                "peers": have,
                "left_out": refused + kept,
            }
            reply.result(cast("Json", pushed))
            return True

        self._engine.wait((), since, PUSH_PATIENCE, answer)

    def _synthesize(self, params: dict[str, Json], reply: Reply) -> None:
        meant = self._meant(params)
        only = None if meant is None else sorted(meant)
        again, provider = truth_in(params, "force"), self._engine.settings.knowledge.provider
        self._refuse_off()
        if truth_in(params, "dry_run"):
            self._plan_synthesis(only, again=again, reply=reply)
            return
        self._refuse_stopped()
        wait, timeout = truth_in(params, "wait"), number_in(params, "timeout")
        answer = _Once(reply)

        def done(results: list[ScopeResult]) -> None:
            made = [cast("Json", format_result(result)) for result in results]
            answer.result({"provider": provider, "planned": [], "done": made})

        def looked(_: Look) -> None:
            self._librarian.synthesize(only, again=again, done=done, failed=answer.fail)
            if not wait:
                answer.result({"provider": provider, "planned": [], "done": []})

        if wait and timeout is not None:
            late = TimedOutError(
                "the synthesis has not ended in time; it goes on", "see: convergencectl knowledge status"
            )
            clock = self._engine.desk.clock
            deadline = clock.monotonic() + timeout

            def is_over(_: object) -> bool:
                if not answer.is_open or reply.closed:
                    return True
                if clock.monotonic() >= deadline:
                    answer.fail(late)
                    return True
                return False

            self._engine.wait((), clock.monotonic(), timeout, is_over)
        # What was written a moment ago is to be part of it.
        self._librarian.wish(Wish(), looked, answer.fail)

    def _plan_synthesis(self, only: Sequence[Scope] | None, *, again: bool, reply: Reply) -> None:
        desk, runs = self._engine.desk, self._librarian.library.runs
        settings = desk.settings

        def done(planned: list[tuple[ScopePlan, list[str], list[str]]]) -> None:
            plans = [cast("Json", format_planned(*one)) for one in planned]
            reply.result({"provider": settings.knowledge.provider, "planned": plans, "done": []})

        desk.submit(
            LANE, lambda: runs.plan(settings, only, again=again), done, lambda error: fail(reply, error)
        )

    def _apply(self, params: dict[str, Json], reply: Reply) -> None:
        only = self._meant(params)
        accept, decline = (frozenset(texts_in(params, name)) for name in ("accept", "decline"))
        self._refuse_off()
        self._refuse_stopped()
        former = self._librarian.last

        def looked(found: Look) -> None:
            known = {change.id for change in former.plan.changes} if former is not None else set()
            known |= {change.id for change in found.plan.changes}
            if unknown := sorted((accept | decline) - known - found.applied):
                error = UsageError(
                    f"there is no change {unknown[0]} any more",
                    "see what there is: convergencectl knowledge diff",
                )
                reply.error(error)
                return
            answer: answers.KnowledgeApplied = {
                "applied": [*found.written],
                "backups": [*found.backups],
                "declined": sorted(decline & found.declined),
                "left": format_changes(found, only),
                "trouble": format_refusals(found, only),
            }
            reply.result(cast("Json", answer))

        self._librarian.wish(Wish(accept, decline), looked, lambda error: fail(reply, error))

    # -- what is meant

    def _meant(self, params: dict[str, Json]) -> Only:
        """The scopes that a request is about; None for all. Raises `UsageError`."""
        desk = self._engine.desk
        replicas = [state.replica for state in desk.board.replicas.values()]
        return meant_in(params, replicas, desk.parts.machine, self._librarian.knowledge)

    def _refuse_off(self) -> None:
        if not self._librarian.is_on:
            raise ConvergenceError(
                "CLAUDE.md and settings are not shared from this machine", "convergencectl knowledge enable"
            )

    def _refuse_stopped(self) -> None:
        board = self._engine.board
        if board.halted is not None:
            raise ConvergenceError(f"nothing is synced: {board.halted}", "bring it back first")
        if ALL in board.pauses:
            raise HeldError("syncing is paused", "convergencectl resume")


class _Once:
    """A reply that is given once, by whoever is first."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.is_open = True

    def result(self, value: Json) -> None:
        if self.is_open:
            self.is_open = False
            self._reply.result(value)

    def fail(self, error: Exception) -> None:
        if self.is_open:
            self.is_open = False
            fail(self._reply, error)
