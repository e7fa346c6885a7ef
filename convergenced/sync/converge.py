"""One pass over one replica: ingest what is local, then localize what arrived."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from convergenced.errors import StoreError
from convergenced.model import Oid, Refusal
from convergenced.store.branch import project_at
from convergenced.sync.conflicts import names_in_conflict
from convergenced.sync.ingest import Bulk, IngestReport, ingest, policy_of
from convergenced.sync.localize import LocalizeReport, localize
from convergenced.sync.news import News, find_news
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.scan import MEMORY, Glance, Scan
from convergenced.sync.tips import tip_of


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass did and found."""

    ingest: IngestReport
    localize: LocalizeReport | None
    tip: Oid | None
    conflicts: tuple[str, ...] = ()
    """Memory files that hold both sides between markers."""
    left_out: tuple[Refusal, ...] = ()
    """Entries of the branch's tree that are not believed, whoever committed them."""
    news: News | None = None
    """What the log does not tell yet, where the tip is not the one it told of last."""

    @property
    def is_clean(self) -> bool:
        """Whether everything was seen and is in step, so that a later pass may go by what this one saw."""
        ingested, localized = self.ingest, self.localize
        return not (localized is None or not localized.settled or ingested.retry or self.refusals)

    @property
    def refusals(self) -> list[Refusal]:
        """All that was set aside, each once."""
        local = self.localize.refusals if self.localize is not None else []
        merged = self.ingest.merged.refusals if self.ingest.merged is not None else ()
        return list(dict.fromkeys([*self.ingest.refusals, *merged, *local, *self.left_out]))


def converge(
    parts: Parts,
    replica: Replica,
    *,
    whole_machine: bool,
    since: Glance | None = None,
    bulk: Bulk | None = None,
) -> Pass:
    """Makes the replica and its project's branch agree, as far as nothing holds it.

    Looks at every file, or, with a glance, at those that may have changed since it.
    """
    policy = policy_of(parts, replica)
    wanted = parts.state.wanted(replica.folder)
    ingested = ingest(parts, replica, policy, None if wanted else since, bulk)
    returned: list[str] = []
    if wanted and ingested.halted is not None:
        # The client's cleanup may have taken all there was. No pass went on from here, but a person did.
        restored = localize(parts, replica, policy, whole_machine=whole_machine, only_wanted=True)
        if restored.held or restored.retry or restored.refusals or not restored.written:
            return Pass(ingested, restored, tip_of(parts.store, replica.project))
        returned = restored.written
        ingested = ingest(parts, replica, policy, None, bulk)
    localized = None
    if ingested.halted is None and not ingested.gone:
        refused = [refusal.where for refusal in ingested.refusals]
        localized = localize(
            parts,
            replica,
            policy,
            whole_machine=whole_machine,
            set_aside=refused,
            scan=ingested.scan,
            is_whole=ingested.looked_at is None,
        )
        _count(parts, replica, ingested, localized)
        localized.written[:0] = returned
    tip = tip_of(parts.store, replica.project)
    if tip is None:
        return Pass(ingested, localized, tip)
    tree, refusals = project_at(parts.store, tip)
    marked = names_in_conflict(parts.store, tree)
    told = parts.state.told(replica.project)
    news = None
    if told != tip:
        with contextlib.suppress(StoreError):  # a damaged past holds nothing up: it is told once it is healed
            news = find_news(parts.store, replica.project, told, tip, tree, marked, parts.clock.now())
    conflicts = tuple(f"{MEMORY}/{name}" for name in marked)
    return Pass(ingested, localized, tip, conflicts, tuple(refusals), news)


def _count(parts: Parts, replica: Replica, ingested: IngestReport, localized: LocalizeReport) -> None:
    """Counts what stands in the folder now, after localize has written and removed some of it."""
    scan = ingested.scan or Scan()
    for path in {*localized.written, *localized.removed}:
        before, after = scan.snapshot(path), parts.files.stat(replica.path(parts.machine, path))
        ingested.size += (after.size if after else 0) - (before.size if before else 0)
        if "/" not in path:
            ingested.sessions += (after is not None) - (before is not None)
