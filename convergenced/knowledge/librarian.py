"""The librarian: decides when documents are looked at, synthesized and applied, and tells what came of it.

A companion of the engine (`sync/companion`). What takes time is done by `library` in lanes of its own. A
look commits what changed here and writes what may be written; a synthesis makes one document of what all
machines have. Promises: nothing happens while shared knowledge is off or all is paused; trouble with it
troubles no project; a model is asked only when inputs have come to rest, by one machine where that can be
arranged, and never again for what was rejected.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from convergenced.errors import ConvergenceError
from convergenced.knowledge.branch import KNOWLEDGE_REF, advance_knowledge
from convergenced.knowledge.library import Library
from convergenced.knowledge.look import KIND, Look, Wish
from convergenced.knowledge.mending import Mender
from convergenced.knowledge.synthesis import ScopeResult
from convergenced.merge.contributions import digest_of_inputs, inputs_of
from convergenced.merge.knowledge import Knowledge, Scope
from convergenced.model import LocalPath, Oid, ProjectId
from convergenced.ports import Store
from convergenced.sync.board import ALL, Attention, Missing
from convergenced.sync.desk import Desk, in_words
from convergenced.sync.healing import Outcome
from convergenced.sync.plan import retry_delay
from convergenced.sync.replica import Replica
from convergenced.sync.rounds import Rounds
from convergenced.sync.side_branches import SideReport
from convergenced.wording import plural

log = logging.getLogger(__name__)

LANE = "knowledge"
SYNTHESIS_LANE = "knowledge-synthesis"

BLIND = 60.0
"""Seconds between two looks where hints may be missing; else looks follow hints, and the rescan."""
HEAR_FIRST = 30.0
"""Seconds for which nothing is shared after the start until each peer was heard, or was found to be away: a
machine that came out of a backup is to learn what it wrote since before it writes on."""
AGAIN = 2.0
"""Seconds after which a file is looked at again that was being written."""
HELD_POLL = 10.0
"""Seconds between two looks whether Claude Code still runs, while something waits for its end."""
SETTLE = 20.0
"""Seconds for which nothing may have changed before a model is asked."""
SPREAD = 40.0
"""Seconds over which machines spread that would all ask: who comes later finds it done."""
LATER, LAST = 600.0, 86_400.0
"""Seconds after which a synthesis that failed is tried again by itself, where nothing changed: at first, and
at the most. Each failure makes it four times as long, for asking may cost something each time."""


class KnowledgeBranch:
    """The branch as rounds with peers see it."""

    ref = KNOWLEDGE_REF

    def advance(self, store: Store, commit: Oid) -> Oid:
        """Takes in a peer's (see `SideBranch`)."""
        return advance_knowledge(store, commit)


@dataclass(slots=True)
class _Trouble:
    """Why a part of it does not work, and since when (wall clock)."""

    text: str
    hint: str
    since: float


class Librarian:
    """Owns the times. Everything belongs to the control thread."""

    def __init__(self, desk: Desk, rounds: Rounds, library: Library) -> None:
        self._desk = desk
        self._rounds = rounds
        self.library = library
        self.last: Look | None = None
        """What the newest look found."""
        self.trouble: dict[str, _Trouble] = {}
        """By what does not work: `look` or `synthesis`."""
        self.peers: dict[str, SideReport] = {}
        """What the newest round with each peer did about the branch."""
        self.synthesizing: str | None = None
        """How far a synthesis under way is, in words."""
        self.composing: str | None = None
        """How far first documents are that somebody asked for, in words."""
        self.stopping = threading.Event()
        """Set when nothing is to be started any more, and what runs is to be broken off."""
        self._hear_until = desk.clock.monotonic() + HEAR_FIRST
        self._looked_at = -1.0
        self._busy = False
        self._asked: float | None = 0.0
        self._first_change: float | None = None
        self._last_change: float | None = None
        self._poll_at = 0.0
        self._held_at: float | None = None
        self._failures = {"look": 0, "synthesis": 0}
        self._synthesis_at: float | None = None
        self._next_syntheses: deque[tuple[Callable[[], None], Callable[[Exception], None]]] = deque()
        """What begins those that somebody asked for while another was under way, and tells of trouble."""
        self._awaited: dict[Scope, str] = {}
        """The scopes for which `_synthesis_at` stands, with a digest of their inputs."""
        self._tried: dict[Scope, str] = {}
        """With which inputs scopes were synthesized last: the same again is not tried soon."""
        self._attention: list[Attention] = []
        self._wishes: list[_Wished] = []
        self._mender = Mender(desk, LANE, self._mending, self._mended)
        self._following: set[ProjectId] = set()
        """Projects with a new id, which what was shared of them has yet to get."""
        rounds.on_sides = self._exchanged
        rounds.on_moving, rounds.on_moved = library.move_scope, self._moved
        self.settings_changed()

    # -- companion

    @property
    def is_on(self) -> bool:
        """Whether knowledge is shared."""
        return self._desk.settings.knowledge.enabled

    @property
    def knowledge(self) -> Knowledge:
        """What all machines know, as the newest look found it."""
        return Knowledge() if self.last is None else self.last.knowledge

    @property
    def due(self) -> float | None:
        """When there is something to start."""
        if not self._may_work():
            return None
        times = [self._synthesis_at, self._mender.due, None if self._busy else self._look_due()]
        return min((at for at in times if at is not None), default=None)

    def _may_work(self) -> bool:
        board = self._desk.board
        stopped = board.halted is not None or ALL in board.pauses or board.surveyed_at < 0
        return self.is_on and not stopped and not self.stopping.is_set()

    def _look_due(self) -> float:
        pace = self._desk.pace
        times = [self._poll_at]
        if self._first_change is not None and self._last_change is not None:
            times.append(min(self._last_change + pace.quiet, self._first_change + pace.max_wait))
        if self._asked is not None:
            times.append(self._asked)
        if self._held_at is not None:
            times.append(self._held_at + HELD_POLL)
        if self.last is None and any(peer.started_at < 0 for peer in self._desk.board.peers.values()):
            return max(min(times), self._hear_until)
        return min(times)

    def start_due(self) -> None:
        """Starts what is due."""
        if not self._may_work():
            return
        now = self._desk.clock.monotonic()
        self._mender.start_due()
        if not self._busy and now >= self._look_due():
            self._look()
        if self._synthesis_at is not None and now >= self._synthesis_at and self.synthesizing is None:
            self._synthesis_at = None
            self._synthesize(list(self._awaited))

    def look(self) -> None:
        """Has everything looked at now."""
        self._asked = self._desk.clock.monotonic()
        self._mender.hurry()

    def settings_changed(self) -> None:
        """Begins, ends, or goes on otherwise."""
        self._open_sides()
        self._failures["synthesis"] = 0
        self.trouble.clear()
        if self.is_on:
            self._awaited, self._tried = {}, {}
            self.look()
            self._rounds.offer_sides()
        else:
            self.library.unwatch()
            self._mender.forget()
            self.last, self._synthesis_at, self._attention = None, None, []
            self.peers.clear()
            failed = [*(one.failed for one in self._wishes), *(tell for _, tell in self._next_syntheses)]
            self._wishes = []
            self._next_syntheses.clear()
            for tell in failed:
                tell(ConvergenceError("shared knowledge was disabled", "convergencectl knowledge enable"))

    def close(self) -> None:
        """Breaks off a synthesis and ends watching."""
        self.stopping.set()
        self.library.unwatch()

    def replicas(self) -> list[Replica]:
        """The folders whose projects' documents are looked at."""
        board = self._desk.board
        states = board.replicas.values()
        away = self._rounds.renaming
        return [
            state.replica
            for state in states
            if not board.is_paused(state.replica.project) and state.replica.project not in away
        ]

    # -- looking

    def _look(self) -> None:
        desk, started = self._desk, self._desk.clock.monotonic()
        self._busy = True
        self._poll_at = started + (BLIND if self.library.is_blind else desk.pace.rescan)
        self._asked = self._first_change = self._last_change = self._held_at = None
        settings, replicas = desk.settings, self.replicas()
        wishes, self._wishes = self._wishes, []
        wish = Wish.united(one.wish for one in wishes)

        def done(found: Look) -> None:
            self._looked(found, started)
            for one in wishes:
                one.done(found)

        def failed(error: Exception) -> None:
            self._busy = False
            self._failures["look"] += 1
            self._poll_at = desk.clock.monotonic() + max(BLIND, retry_delay(self._failures["look"]))
            self._note_trouble("look", error)
            self._mender.suspect(error)
            for one in wishes:
                one.failed(error)

        desk.submit(LANE, lambda: self.library.look(settings, replicas, wish), done, failed)

    def _looked(self, found: Look, started: float) -> None:
        desk, former = self._desk, self.last
        self._busy, self._looked_at = False, started
        self._failures["look"] = 0
        self.trouble.pop("look", None)
        if not self.is_on:
            return
        self.last = found
        self.library.watch(lambda path: desk.post(lambda: self._changed(path)))
        self._attention = found.attention()
        if found.retry:
            self._poll_at = min(self._poll_at, desk.clock.monotonic() + AGAIN)
        if found.documents:
            desk.note("knowledge", None, f"shared {_some(found.documents)}")
        for path in found.written:
            desk.note("knowledge", None, f"wrote {path}")
        known = set(former.refusals) if former is not None else set()
        for refusal in found.refusals:
            if refusal not in known:
                desk.note("quarantine", None, f"{refusal.where} {refusal.reason}")
        if found.held:
            self._held_at = desk.clock.monotonic()
            if former is None or not former.held:
                desk.note("hold", None, f"{_some(found.held_names)} held: {found.held}")
        if any(report.tracked != found.tip for report in self.peers.values()):
            self._rounds.offer_sides()
        self._plan_synthesis()

    def _changed(self, _path: LocalPath) -> None:
        now = self._desk.clock.monotonic()
        self._last_change = now
        if self._first_change is None:
            self._first_change = now

    def _exchanged(self, name: str, reports: Mapping[str, SideReport]) -> None:
        report = reports.get(KNOWLEDGE_REF)
        if report is None:
            return
        former = self.peers.get(name)
        self.peers[name] = report
        self.peers = {peer: one for peer, one in self.peers.items() if peer in self._desk.board.peers}
        if report.error is not None and (former is None or str(former.error) != str(report.error)):
            self._desk.note("knowledge", None, f"{name}: {report.error.summary}")
            self._mender.suspect(report.error)
        if report.fetched:
            self._desk.note("fetch", None, f"fetched knowledge from {name}")
        if report.tip is not None and (self.last is None or report.tip != self.last.tip):
            self.look()

    # -- damage

    def _mending(self) -> Callable[[], Outcome]:
        settings, open_peer = self._desk.settings, self._desk.surroundings.open_peer
        peers = {peer.name: partial(open_peer, peer) for peer in settings.peers}
        return partial(self.library.mend, settings, self.replicas(), peers)

    def _mended(self) -> None:
        # What rounds met of the damage does not hold any more; the next ones tell how it is now.
        self.peers = {name: report for name, report in self.peers.items() if report.error is None}
        self.look()
        self._rounds.offer_sides()

    def _moved(self, project: ProjectId, name: ProjectId) -> None:
        """Once more behind looks under way: one that began before may have shared under the old id.

        Until then nothing comes from peers that speak of other code by that id.
        """
        self._following.add(name)
        self._open_sides()

        def done(_: None) -> None:
            self._following.discard(name)
            self._open_sides()
            self._rounds.offer_sides()
            self.look()

        def failed(error: Exception) -> None:
            self._note_trouble("look", error)
            done(None)

        self._desk.submit(LANE, lambda: self.library.move_scope(project, name), done, failed)

    def _open_sides(self) -> None:
        """Has the branch exchanged, or not just now."""
        self._rounds.sides = [KnowledgeBranch()] if self.is_on and not self._following else []

    # -- synthesis

    def _plan_synthesis(self) -> None:
        """Sets the time of the next synthesis by what the newest look found.

        What has other inputs than when it was tried last is synthesized without the rest.
        """
        due = self._due_inputs()
        if not due or not self.synthesizes_here:
            self._synthesis_at, self._awaited = None, {}
            return
        fresh = {scope: digest for scope, digest in due.items() if self._tried.get(scope) != digest}
        awaited = fresh or due
        if awaited == self._awaited and (self._synthesis_at is not None or self.synthesizing is not None):
            return
        now, wait = self._desk.clock.monotonic(), 0.0
        if self._desk.settings.knowledge.provider != "none":
            wait = SETTLE + SPREAD * self._desk.surroundings.chance()
        if not fresh:
            wait = min(LAST, LATER * 4.0 ** max(0, min(self._failures["synthesis"], 8) - 1))
        self._synthesis_at, self._awaited = now + wait, awaited

    def _due_inputs(self) -> dict[Scope, str]:
        """The scopes that are due, with a digest of what would go in."""
        if self.last is None:
            return {}
        knowledge = self.last.knowledge
        return {scope: digest_of_inputs(inputs_of(knowledge, scope)) for scope in self.last.due}

    @property
    def synthesizes_here(self) -> bool:
        """Whether this machine may."""
        machine, chosen = self._desk.parts.machine, self._desk.settings.knowledge.synthesizer
        return chosen in ("", machine.name, machine.id)

    def synthesize(
        self,
        only: Sequence[Scope] | None,
        *,
        again: bool,
        done: Callable[[list[ScopeResult]], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Synthesizes what is due, now or after the one that is under way.

        With `again` also what was rejected as it stands.
        """
        begin = partial(self._synthesize, only, again=again, done=done, failed=failed)
        if self.synthesizing is None:
            begin()
        else:
            self._next_syntheses.append((begin, failed))

    def _synthesize(
        self,
        only: Sequence[Scope] | None = None,
        *,
        again: bool = False,
        done: Callable[[list[ScopeResult]], None] = lambda results: None,
        failed: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        desk, settings = self._desk, self._desk.settings
        self.synthesizing = "begins"
        due = self._due_inputs()
        now = {scope: digest for scope, digest in due.items() if only is None or scope in only}
        self._tried = {scope: self._tried[scope] for scope in due if scope in self._tried} | now

        def tell(text: str) -> None:
            desk.post(lambda: self._show(text))

        def ended(results: list[ScopeResult]) -> None:
            self.synthesizing = None
            self._synthesized(results)
            done(results)
            self._synthesize_next()

        def broke(error: Exception) -> None:
            self.synthesizing = None
            self._failures["synthesis"] += 1
            self._note_trouble("synthesis", error)
            self._mender.suspect(error)
            self.look()
            failed(error)
            self._synthesize_next()

        desk.submit(
            SYNTHESIS_LANE,
            lambda: self.library.runs.run(settings, only, again=again, stop=self.stopping, tell=tell),
            ended,
            broke,
        )

    def _synthesize_next(self) -> None:
        if self._next_syntheses and self.synthesizing is None:
            begin, _ = self._next_syntheses.popleft()
            begin()

    def _show(self, text: str) -> None:
        if self.synthesizing is not None:
            self.synthesizing = text

    def _synthesized(self, results: Sequence[ScopeResult]) -> None:
        desk = self._desk
        problems = [result for result in results if result.outcome == "failed"]
        if problems:
            self._failures["synthesis"] += 1
            first = problems[0]
            self._note_trouble("synthesis", ConvergenceError(f"{first.scope}: {first.text}"))
        else:
            self._failures["synthesis"] = 0
            self.trouble.pop("synthesis", None)
        for result in results:
            if result.outcome != "failed":
                cost = f", ${result.usd:.2f}" if result.usd else ""
                became = "" if result.outcome in result.text else f" {result.outcome}"
                desk.note("knowledge", None, f"{result.scope}{became}: {result.text}{cost}")
        self.look()
        self._rounds.offer_sides()

    def _note_trouble(self, part: str, error: Exception) -> None:
        if not isinstance(error, (ConvergenceError, OSError)):
            log.error("%s of knowledge failed", part, exc_info=error)
        text, hint = in_words(error)
        former = self.trouble.get(part)
        if former is None or former.text != text:
            self._desk.note("error", None, f"knowledge: {text}")
        since = former.since if former is not None else self._desk.clock.now()
        self.trouble[part] = _Trouble(text, hint, since)

    # -- what people ask for

    def wish(self, wish: Wish, done: Callable[[Look], None], failed: Callable[[Exception], None]) -> None:
        """Has a look made that grants a wish; both answers come in the control thread."""
        self._wishes.append(_Wished(wish, done, failed))
        self.look()

    def missing(self, since: float) -> list[Missing]:
        """Why CLAUDE.md and settings are not in step (see `Companion`)."""
        if not self.is_on or ALL in self._desk.board.pauses:
            return []
        look = self.last
        if self._mender.is_at_work:
            return [Missing("", "what the store has of CLAUDE.md and settings is being mended", "work")]
        if "look" in self.trouble and not self._busy and self._asked is None:
            return [Missing("", f"knowledge: {self.trouble['look'].text}", "person")]
        if self._busy or self._first_change is not None or look is None or self._looked_at < since:
            return [Missing("", "CLAUDE.md and settings are being looked at", "work")]
        found = []
        if look.held:
            found.append(Missing("", f"{_some(look.held_names)} held: {look.held}", "held"))
        if look.due and self.synthesizes_here and self._desk.settings.knowledge.provider == "none":
            trouble = self.trouble.get("synthesis")
            if trouble is None:
                found.append(Missing("", "CLAUDE.md and settings are being merged", "work"))
            else:
                found.append(Missing("", f"knowledge: {trouble.text}", "person"))
        for name, peer in self._desk.board.peers.items():
            report = self.peers.get(name)
            if peer.error is not None:
                found.append(Missing("", f"{name} fails: {peer.error}", "peer"))
            elif (
                report is None
                or peer.started_at < since
                or (report.tracked != look.tip and report.error is None)
            ):
                found.append(Missing("", f"knowledge is not exchanged with {name} yet", "work"))
            elif report.error is not None:
                found.append(Missing("", f"{name}: {report.error.summary}", "peer"))
        return found

    def attention(self) -> list[Attention]:
        """What needs a person (see `Companion`)."""
        if not self.is_on:
            return []
        return self.troubles("knowledge: ") + self._attention

    def troubles(self, prefix: str = "") -> list[Attention]:
        """What keeps shared knowledge from going on; `prefix` leads what does not say what it is of."""
        found = [Attention(KIND, None, f"{prefix}{one.text}", one.hint) for one in self.trouble.values()]
        if self._mender.trouble is not None:
            found.insert(0, self._mender.trouble)
        for name, report in self.peers.items():
            if report.error is not None and name in self._desk.board.peers:
                found.append(Attention(KIND, None, report.error.summary, report.error.hint))
        return found


@dataclass(frozen=True, slots=True)
class _Wished:
    wish: Wish
    done: Callable[[Look], None]
    failed: Callable[[Exception], None]


def _some(names: Sequence[str]) -> str:
    """A few of the names, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {plural(len(names) - 3, 'other')}"
