"""What a look at this machine's documents found, and what of it needs a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from convergenced.knowledge.places import Place
from convergenced.knowledge.standing import Plan
from convergenced.merge.contributions import contributions
from convergenced.merge.knowledge import Knowledge, Scope
from convergenced.model import LocalPath, Oid, Refusal
from convergenced.sync.board import Attention
from convergenced.wording import plural

MAX_TOLD = 10
"""Matters of one kind that status shows, at most."""
KIND = "knowledge"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person said of changes, by their ids."""

    accept: frozenset[str] = frozenset()
    decline: frozenset[str] = frozenset()

    @classmethod
    def united(cls, wishes: Iterable[Wish]) -> Wish:
        """All of them together."""
        united = cls()
        for one in wishes:
            united = cls(united.accept | one.accept, united.decline | one.decline)
        return united


@dataclass(frozen=True, slots=True)
class Look:
    """What a look found and did. `plan` is as things stand afterwards.

    `due` are the scopes that have something new in them. `documents` were new in the snapshot, as
    `scope/path`. `applied` and `declined` are ids of changes. `left_out` names by document the settings
    that belong to this machine alone. `retry`: a file was being written, so it is to be looked at again.
    """

    tip: Oid | None
    knowledge: Knowledge
    plan: Plan
    places: tuple[Place, ...]
    due: tuple[Scope, ...] = ()
    documents: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    secrets: tuple[str, ...] = ()
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    written: tuple[LocalPath, ...] = ()
    backups: tuple[LocalPath, ...] = ()
    applied: frozenset[str] = frozenset()
    declined: frozenset[str] = frozenset()
    retry: bool = False

    def beside(self, former: Look) -> Look:
        """The same with what only a look that takes a snapshot finds, as `former` has it."""
        return replace(
            self,
            refusals=tuple(dict.fromkeys((*self.refusals, *former.refusals))),
            secrets=former.secrets,
            left_out=former.left_out,
        )

    @property
    def held_names(self) -> list[str]:
        """The documents that wait for Claude Code's end."""
        return [f"{one.scope}/{one.path}" for one in self.plan.documents if one.is_held]

    @property
    def held(self) -> str:
        """Why what could be written is not, in words; empty where nothing waits for that."""
        return self.plan.held if self.held_names else ""

    def attention(self) -> list[Attention]:
        """What needs a person, the gravest first."""
        refused = [
            Attention("quarantine", None, f"{one.where} {one.reason}", one.remedy) for one in self.refusals
        ]
        fix = "take it out, or if it is fine: convergencectl scan --allow FINGERPRINT"
        secrets = [Attention("secret", None, text, fix) for text in self.secrets[:MAX_TOLD]]
        return [*refused, *self._asked(), *self._rejected(), *self._marked(), *secrets]

    def _asked(self) -> Iterator[Attention]:
        asked = [one for one in self.plan.changes if one.consent != "no" and one.id not in self.declined]
        if asked:
            files = sorted({change.place.name for change in asked})
            wait = "waits" if len(asked) == 1 else "wait"
            text = f"{plural(len(asked), 'change')} to {', '.join(files[:3])} {wait} for your yes"
            yield Attention(KIND, None, text, "convergencectl knowledge apply")

    def _rejected(self) -> Iterator[Attention]:
        for scope, known in sorted(self.knowledge.records.items()):
            if known.rejected is not None and contributions(self.knowledge, scope):
                claims = plural(len(known.rejected.claims), "claim")
                text = f"the merge of {scope} was rejected: it makes {claims} that no machine's file makes"
                fix = "convergencectl knowledge status; again: convergencectl knowledge synthesize --force"
                yield Attention(KIND, None, text, fix)

    def _marked(self) -> Iterator[Attention]:
        marked = [(one, mark) for one in self.plan.documents if one.state == "same" for mark in one.marks]
        for one, mark in marked[:MAX_TOLD]:
            if one.local is not None:
                text = f"{one.local}, line {mark.line}: {mark.kind}: {mark.text}"
                yield Attention(KIND, None, text, "settle it there and take the mark out")
