"""Which sessions a machine has open, as its card on a project's branch tells the others.

Owns the field `live` of `machines/<id>.json`: the ids of open sessions and since when, and until when that is
to be believed, for a machine that goes away says nothing more. Only the machine itself writes it. Advice for
people: nothing is held or refused because of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from convergenced.errors import MissingObjectError, NewerSchemaError
from convergenced.merge.documents import Json
from convergenced.merge.layout import write_project
from convergenced.merge.names import is_session_id
from convergenced.merge.roster import MachineCard, format_machine, parse_machine
from convergenced.model import LocalPath, MachineId, Oid, ProjectId, SessionId
from convergenced.ports import Store
from convergenced.store.branch import commit_tree, project_at, project_ref
from convergenced.sync.identity import machine_cards
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.scan import TRANSCRIPT_SUFFIX
from convergenced.sync.tips import tip_of

FIELD = "live"
EXPIRES = 12 * 3600.0
"""Seconds for which it is believed that a session is open."""
MAX_SESSIONS = 200
"""Sessions that one machine can have open in one project."""
OPENED, CLOSED = "a session was opened", "no session is open any more"

Open = Mapping[SessionId, float]
"""Open sessions, and since when: Unix seconds."""


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session that another machine has open. `since` is Unix seconds by that machine's clock."""

    project: ProjectId
    session: SessionId
    machine: str
    machine_id: MachineId
    since: float


def live_in(store: Store, project: ProjectId, tip: Oid) -> list[tuple[LiveSession, float]]:
    """All that the machines of a project say they have open, each with until when that is to be believed."""
    with suppress(MissingObjectError, NewerSchemaError):
        tree, _ = project_at(store, tip)
        return [
            (LiveSession(project, sid, card.name, card.machine_id, since), until)
            for card in machine_cards(store, tree)
            for sid, since, until in _claims(card)
        ]
    return []


def believed(claims: Iterable[tuple[LiveSession, float]], own: MachineId, now: float) -> list[LiveSession]:
    """Those of other machines that are to be believed at `now` (Unix seconds), the latest first.

    What a clock far ahead of ours wrote never ends by itself, and is not believed.
    """
    found = [one for one, until in claims if one.machine_id != own and now < until <= now + 2 * EXPIRES]
    return sorted(found, key=lambda one: (-one.since, one.session))


def open_sessions(parts: Parts, replicas: Iterable[Replica]) -> dict[ProjectId, frozenset[SessionId]]:
    """The sessions that running clients have open here and that have a transcript in one of the folders."""
    sids = {one.session for one in parts.processes.claude() if one.session is not None}
    found: dict[ProjectId, set[SessionId]] = {}
    for replica in replicas if sids else ():
        for sid in sids:
            path = replica.path(parts.machine, f"{sid}{TRANSCRIPT_SUFFIX}")
            if is_session_id(sid) and parts.files.stat(LocalPath(path)) is not None:
                found.setdefault(replica.project, set()).add(sid)
    return {project: frozenset(sorted(ones)[:MAX_SESSIONS]) for project, ones in found.items()}


def tell(parts: Parts, project: ProjectId, sessions: Open, *, renewed: bool) -> Oid | None:
    """Puts onto the project's branch which sessions are open here; None where nothing had to be said.

    Belongs into the project's lane. What the branch says already is said again only where that is to be
    `renewed`. Raises `RefMovedError` where the branch moved meanwhile.
    """
    store, now = parts.store, parts.clock.now()
    tip = tip_of(store, project)
    tree, left_out = project_at(store, tip)
    name = f"{parts.machine.id}.json"
    if tip is None or left_out or name not in tree.machines:
        return None  # nothing is said of this machine yet, or a commit would leave something out
    card = parse_machine(store.read_blob(tree.machines[name]))
    said = {sid: since for sid, since, _ in _claims(card)}
    if said.keys() == sessions.keys() and not (renewed and sessions):
        return None
    blob = store.write_blob(format_machine(_saying(card, {**sessions, **_kept(said, sessions)}, now)))
    oid = write_project(store, replace(tree, machines={**tree.machines, name: blob}))
    subject = OPENED if sessions.keys() - said.keys() else CLOSED if not sessions else _count(len(sessions))
    return commit_tree(store, project_ref(project), oid, (tip,), parts.machine.author, int(now), subject)


def _kept(said: Open, sessions: Open) -> Open:
    """What was said of sessions that are still open: a daemon that started again knows no better."""
    return {sid: since for sid, since in said.items() if sid in sessions}


def _count(number: int) -> str:
    return "1 session is open" if number == 1 else f"{number} sessions are open"


def _saying(card: MachineCard, sessions: Open, now: float) -> MachineCard:
    other = {key: value for key, value in card.other.items() if key != FIELD}
    if sessions:
        told: dict[str, Json] = {sid: _iso(since) for sid, since in sorted(sessions.items())}
        other[FIELD] = {"sessions": told, "until": _iso(now + EXPIRES)}
    return replace(card, other=other)


def _claims(card: MachineCard) -> Iterator[tuple[SessionId, float, float]]:
    """What a card says, as far as it makes sense: session, since when, until when."""
    field = card.other.get(FIELD)
    if not isinstance(field, dict):
        return
    sessions, until = field.get("sessions"), _moment(field.get("until"))
    if not isinstance(sessions, dict) or until is None:
        return
    for sid, told in list(sessions.items())[:MAX_SESSIONS]:
        since = _moment(told)
        if is_session_id(sid) and since is not None:
            yield SessionId(sid), since, until


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(value: Json) -> float | None:
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
        return found.timestamp() if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
