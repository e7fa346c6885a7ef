"""One pass over one replica: ingest what is local, then localize what arrived."""

from __future__ import annotations

from dataclasses import dataclass

from convergenced.merge.conflict import has_conflict
from convergenced.merge.layout import read_project
from convergenced.model import Oid
from convergenced.sync.ingest import IngestReport, ingest, policy_of
from convergenced.sync.localize import LocalizeReport, localize
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.scan import MEMORY
from convergenced.sync.tips import tip_of


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass did and found."""

    ingest: IngestReport
    localize: LocalizeReport | None
    tip: Oid | None
    conflicts: tuple[str, ...] = ()
    """Memory files that hold both sides between markers."""


def converge(parts: Parts, replica: Replica, *, whole_machine: bool) -> Pass:
    """Makes the replica and its project's branch agree, as far as nothing holds it."""
    policy = policy_of(parts, replica)
    ingested = ingest(parts, replica, policy)
    if ingested.halted is not None or ingested.gone:
        return Pass(ingested, None, tip_of(parts.store, replica.project))
    localized = localize(parts, replica, policy, whole_machine=whole_machine)
    tip = tip_of(parts.store, replica.project)
    return Pass(ingested, localized, tip, _conflicts(parts, tip))


def _conflicts(parts: Parts, tip: Oid | None) -> tuple[str, ...]:
    if tip is None:
        return ()
    tree, _ = read_project(parts.store, parts.store.read_commit(tip).tree)
    marked = (name for name, oid in tree.memory.items() if has_conflict(parts.store.read_blob(oid)))
    return tuple(f"{MEMORY}/{name}" for name in marked)
