"""Mends what the store has of shared knowledge where something of it cannot be read.

Owns what is done about the branch and what is known of the peers' ones; how objects come back is
`sync/healing`'s. Promises: no ref is moved away from what can be read; where a ref stood that nobody can
make readable is written down among what was set aside, before it goes; that is only done once every peer
was asked. This machine's documents are shared again from their files, the others' come from the others.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

from convergenced.errors import ConvergenceError, NewerSchemaError, PeerError
from convergenced.knowledge.branch import KNOWLEDGE_REF, advance_knowledge
from convergenced.model import Oid
from convergenced.ports import Peer, Store
from convergenced.store import damage
from convergenced.store.branch import PEERS
from convergenced.store.git import GitStore
from convergenced.store.heal import set_incomplete_aside
from convergenced.store.refnames import BRANCHES
from convergenced.store.verify import Flaw, verify
from convergenced.sync.board import Attention
from convergenced.sync.desk import Desk, in_words
from convergenced.sync.healing import FIRST_DELAY, LAST_DELAY, REMEDY, Outcome, Ways, heal_refs, opened
from convergenced.sync.replica import Parts
from convergenced.sync.tips import ref_of

log = logging.getLogger(__name__)

MAX_TURNS = 20
"""How often is healed and verified again, at most."""

_TRACKING = "/" + KNOWLEDGE_REF.removeprefix(BRANCHES)


def mend_branch(
    parts: Parts,
    share_again: Callable[[], object],
    peers: Mapping[str, Callable[[], Peer]],
    *,
    give_up: bool = False,
) -> Outcome:
    """Verifies the branch and mends it: from the store's packs, from peers, from local files.

    `share_again` gives the store this machine's documents. What nobody has is begun anew once every peer was
    asked; with `give_up` also where one cannot be. Raises `StoreError` where the store cannot be written.
    """
    store = parts.store
    if not isinstance(store, GitStore):
        return Outcome()  # nothing that could be damaged
    with opened(peers.values()) as there:

        def share() -> None:
            with contextlib.suppress(ConvergenceError, OSError):  # that is told of by looks
                share_again()
                store.settle()

        def rebuild(left: Sequence[Flaw]) -> str:
            asked = len(there) == len(peers) and all(map(_answers, there))
            return _begin_again(store) if left and (asked or give_up) else ""

        ways = Ways(lambda: refs_of(store), share, rebuild)
        every = heal_refs(store, parts.clock.now(), ways, there)
        outcome = every
        for _ in range(MAX_TURNS):
            if not outcome.told or outcome.left:
                break
            # What lies below an object that was missing can only be looked at now.
            outcome = heal_refs(store, parts.clock.now(), ways, there)
            every = Outcome(every.flaws + outcome.flaws, every.told + outcome.told, outcome.left)
        return every


def refs_of(store: GitStore) -> list[str]:
    """The branch and what is known of peers' ones; also files that are named like them and hold none."""
    names = {*store.refs("refs/"), *damage.ref_files(store.path)}
    return sorted({KNOWLEDGE_REF, *filter(_is_tracking, names)})


def take_up(store: Store) -> Oid | None:
    """The branch's tip; one that got lost is made of what is known of peers' ones.

    Raises `StoreError` where that cannot be read.
    """
    tip = ref_of(store, KNOWLEDGE_REF)
    if tip is None:
        for ref, commit in store.refs(PEERS).items():
            if _is_tracking(ref):
                with contextlib.suppress(NewerSchemaError):  # the round tells of it
                    tip = advance_knowledge(store, commit)
    return tip


def _begin_again(store: GitStore) -> str:
    """Sets aside what cannot be read and makes the branch of what can."""
    tips = {ref: ref_of(store, ref) for ref in refs_of(store)}
    unreadable = {ref: tip for ref, tip in tips.items() if tip is not None and _is_flawed(store, ref)}
    set_incomplete_aside(store, unreadable)
    for ref, tip in unreadable.items():
        damage.keep_ref(store.path, ref, tip)
        store.swap(ref, tip, None)
    if KNOWLEDGE_REF not in unreadable:
        return f"forgot what cannot be read of {len(unreadable)} peers' knowledge" if unreadable else ""
    made = take_up(store)
    kept = f"the branch knowledge cannot be read any more; {unreadable[KNOWLEDGE_REF]} was set aside"
    return f"{kept}, and it is made anew from {'peers' if made else 'the documents here'}"


def _is_flawed(store: GitStore, ref: str) -> bool:
    return any(flaw.oid is not None for flaw in verify(store, [ref]))


def _is_tracking(ref: str) -> bool:
    return ref.startswith(PEERS) and ref.endswith(_TRACKING) and ref.count("/") == 3


def _answers(peer: Peer) -> bool:
    try:
        peer.list()
    except PeerError:
        return False
    return True


class Mender:
    """Takes suspicions against the branch and has it mended. Belongs to the control thread.

    `prepare` gives the work of one attempt, which is done in the lane `lane`; `on_mended` is called when
    something can be read again.
    """

    def __init__(
        self,
        desk: Desk,
        lane: str,
        prepare: Callable[[], Callable[[], Outcome]],
        on_mended: Callable[[], None],
    ) -> None:
        self._desk = desk
        self._lane = lane
        self._prepare = prepare
        self._on_mended = on_mended
        self._busy = False
        self._attempts = 0
        self.due: float | None = None
        """When the next attempt is to be made."""
        self.trouble: Attention | None = None
        """What could not be mended."""

    @property
    def is_at_work(self) -> bool:
        """Whether an attempt is under way, or about to be made for the first time."""
        return self._busy or (self.due is not None and self._attempts == 0)

    def suspect(self, error: Exception) -> None:
        """Has the branch looked at soon where this error may come of its damage."""
        told = isinstance(error, PeerError)  # one who did not get it does not know why
        if (told or damage.may_be_damage(error)) and self.due is None and not self._busy:
            self.due = self._desk.clock.monotonic() + self._wait

    def hurry(self) -> None:
        """Has what could not be mended tried again now: somebody may have seen to it."""
        if self.trouble is not None and not self._busy:
            self.due = self._desk.clock.monotonic()

    def start_due(self) -> None:
        """Starts an attempt if it is time."""
        if self.due is not None and self._desk.clock.monotonic() >= self.due:
            self.due, self._busy = None, True
            self._desk.submit(self._lane, self._prepare(), self._tried, self._failed)

    def forget(self) -> None:
        """Knowledge is not shared any more."""
        self.due, self.trouble, self._attempts = None, None, 0

    @property
    def _wait(self) -> float:
        """Seconds until the next attempt: none after one that found all well, else more after each."""
        return min(LAST_DELAY, FIRST_DELAY * 2.0 ** min(self._attempts - 1, 20)) if self._attempts else 0.0

    def _tried(self, outcome: Outcome) -> None:
        self._busy = False
        # What was healed may be brought back by a peer that has it in no better state.
        self._attempts = self._attempts + 1 if outcome.flaws else 0
        for text in outcome.told:
            self._desk.note("heal", None, f"knowledge: {text}")
        if outcome.left:
            more = f", and {len(outcome.left) - 1} more" if len(outcome.left) > 1 else ""
            self._put_off(f"the store is damaged: {outcome.left[0].text}{more}")
        else:
            self.trouble = None
        if outcome.told:
            self._on_mended()

    def _failed(self, error: Exception) -> None:
        self._busy = False
        self._attempts += 1
        if not isinstance(error, (ConvergenceError, OSError)):
            log.error("mending knowledge failed", exc_info=error)
        self._put_off(f"the store is damaged and cannot be mended: {in_words(error)[0]}")

    def _put_off(self, text: str) -> None:
        former, self.trouble = self.trouble, Attention("damaged", None, f"knowledge: {text}", REMEDY)
        if former != self.trouble:
            self._desk.note("error", None, self.trouble.text)
        self.due = self._desk.clock.monotonic() + self._wait
