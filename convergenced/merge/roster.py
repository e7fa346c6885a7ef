"""What machines say of themselves and of the project: roster, policy, machine cards.

Owns `roster.json`, `convergence.json` and `machines/<id>.json`. Promises: what is not understood in
them is kept; a roster never loses a participant by merging; a newer schema is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from convergenced.errors import RefusedInputError
from convergenced.merge.documents import (
    MAX_DOCUMENT,
    Fields,
    Json,
    check_schema,
    format_document,
    others_of,
    parse_document,
    parse_fields,
    text_of,
)
from convergenced.merge.segments import SEGMENT_BYTES
from convergenced.model import SCHEMA, MachineId

Layout = Literal["segments", "flat"]

MAX_PARTICIPANTS = 10_000
"""Participants in a roster, at most."""


@dataclass(frozen=True, slots=True)
class Participant:
    """A machine's entry in a project's roster: its path identity, and when that last changed.

    `os` is as written, a peer's may be one we do not know. `last_converged` is a time as text, only
    ever compared with another of the same machine.
    """

    machine_id: MachineId
    os: str = ""
    home: str = ""
    project_root: str = ""
    encoded_dir: str = ""
    last_converged: str | None = None
    last_converged_commit: str | None = None
    other: Fields = field(default_factory=dict)
    """Fields of a newer version, kept."""

    def same_paths(self, than: Participant) -> bool:
        """Whether both name the same places; only a change of these is worth a commit."""
        return _identity(self) == _identity(than)


@dataclass(frozen=True, slots=True)
class Roster:
    """The participants of a project, by machine."""

    participants: Mapping[MachineId, Participant] = field(default_factory=dict)
    other: Fields = field(default_factory=dict)
    """Fields beside the participants (context-convergence keeps the project's id and policy here)."""

    def with_participant(self, participant: Participant) -> Roster:
        """The roster with this entry in place of the machine's former one."""
        return replace(self, participants={**self.participants, participant.machine_id: participant})


@dataclass(frozen=True, slots=True)
class Policy:
    """What all machines of a project agreed on, in `convergence.json`.

    `segment_bytes` says how segments were cut; this version knows one size only and never changes it.
    """

    schema: int = SCHEMA
    rewrite_home: bool = True
    layout: Layout = "segments"
    segment_bytes: int = SEGMENT_BYTES
    other: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MachineCard:
    """What one machine says of itself and of its checkout of the project's code."""

    machine_id: MachineId
    name: str
    git_url: str | None
    first_commit: str | None
    version: str
    os: str
    schema: int = SCHEMA
    other: Fields = field(default_factory=dict)


_ENTRY = (
    "machine_id",
    "os",
    "home",
    "project_root",
    "encoded_dir",
    "last_converged",
    "last_converged_commit",
)
_POLICY = ("schema", "rewrite_home", "layout", "segment_bytes")
_CARD = ("schema", "machine_id", "name", "git_url", "first_commit", "version", "os")


def parse_roster(data: bytes) -> Roster:
    """The roster, in any of the shapes it has been seen in.

    These are a list of entries or entries keyed by machine, bare or under `participants`. Entries
    without a machine are dropped. Raises `RefusedInputError` for what is no roster.
    """
    value = parse_document(data, "roster.json")
    other: Fields = {}
    if isinstance(value, dict) and "participants" in value:
        other = others_of(value, ("participants",))
        check_schema(other, "roster.json")
        value = value["participants"]
    if isinstance(value, dict):
        entries = [{"machine_id": key, **entry} for key, entry in value.items() if isinstance(entry, dict)]
    elif isinstance(value, list):
        entries = [entry for entry in value if isinstance(entry, dict)]
    else:
        raise RefusedInputError(
            "roster.json holds no participants", "a machine that takes part writes it again"
        )
    if len(entries) > MAX_PARTICIPANTS:
        raise RefusedInputError(
            f"roster.json holds more than {MAX_PARTICIPANTS} participants", "see who wrote it"
        )
    participants: dict[MachineId, Participant] = {}
    for entry in entries:
        participant = _parse_participant(entry)
        if participant is not None:
            former = participants.get(participant.machine_id, participant)
            participants[participant.machine_id] = _newest(former, participant)
    return Roster(participants, other)


def format_roster(roster: Roster) -> bytes:
    """The roster's bytes: entries sorted by machine."""
    entries: list[Json] = [
        _participant_fields(participant) for _, participant in sorted(roster.participants.items())
    ]
    return format_document({**roster.other, "participants": entries})


def merge_rosters(ours: bytes, theirs: bytes, base: bytes | None = None) -> bytes:
    """The union by machine: the entry that says it is newer wins, then the greater bytes.

    Nobody is removed, so `base` has no say. Commutative. A side that cannot be read counts as empty,
    as long as the other can; raises `RefusedInputError` where neither can. Where both together would
    be too large for anyone to read, the smaller side stays alone: it is not the one that went wild.
    """
    del base
    if ours == theirs:
        return ours
    readable = [(side, roster) for side in sorted((ours, theirs)) if (roster := _parse_or_none(side))]
    if not readable:
        raise RefusedInputError(
            "roster.json cannot be read on either side", "the next machine to take part writes it"
        )
    participants: dict[MachineId, Participant] = {}
    other: dict[str, Json] = {}
    for _, roster in readable:
        other |= roster.other
        for machine, participant in roster.participants.items():
            participants[machine] = _newest(participants.get(machine, participant), participant)
    merged = format_roster(Roster(participants, other))
    if len(merged) > MAX_DOCUMENT or len(participants) > MAX_PARTICIPANTS:
        return min((side for side, _ in readable), key=lambda side: (len(side), side))
    return merged


def parse_policy(data: bytes) -> Policy:
    """The policy. Raises `NewerSchemaError`, and `RefusedInputError` for what is none."""
    fields = parse_fields(data, "convergence.json")
    schema = check_schema(fields, "convergence.json")
    rewrite_home = fields.get("rewrite_home", True)
    layout = fields.get("layout", "segments")
    segment_bytes = fields.get("segment_bytes", SEGMENT_BYTES)
    if not isinstance(rewrite_home, bool) or not isinstance(segment_bytes, int):
        raise RefusedInputError("convergence.json has a value of the wrong kind", _POLICY_REMEDY)
    if layout not in ("segments", "flat"):
        raise RefusedInputError(f"convergence.json names the unknown layout {layout!r}", _POLICY_REMEDY)
    known_layout: Layout = "flat" if layout == "flat" else "segments"
    return Policy(schema, rewrite_home, known_layout, segment_bytes, others_of(fields, _POLICY))


def format_policy(policy: Policy) -> bytes:
    """The policy's bytes."""
    known: dict[str, Json] = {key: getattr(policy, key) for key in _POLICY}
    return format_document({**policy.other, **known})


def parse_machine(data: bytes) -> MachineCard:
    """A machine's card. Raises `NewerSchemaError`, and `RefusedInputError` for what is none."""
    fields = parse_fields(data, "a machine's card")
    schema = check_schema(fields, "a machine's card")
    machine_id = text_of(fields, "machine_id")
    if not machine_id:
        raise RefusedInputError("a machine's card names no machine", "that machine will write it again")
    return MachineCard(
        machine_id=MachineId(machine_id),
        name=text_of(fields, "name") or machine_id,
        git_url=text_of(fields, "git_url"),
        first_commit=text_of(fields, "first_commit"),
        version=text_of(fields, "version") or "",
        os=text_of(fields, "os") or "",
        schema=schema,
        other=others_of(fields, _CARD),
    )


def format_machine(card: MachineCard) -> bytes:
    """The card's bytes."""
    known: dict[str, Json] = {key: getattr(card, key) for key in _CARD}
    return format_document({**card.other, **known})


_POLICY_REMEDY = "it is ignored; correct it on any machine"


def _identity(participant: Participant) -> tuple[str, ...]:
    return participant.os, participant.home, participant.project_root, participant.encoded_dir


def _parse_participant(fields: Fields) -> Participant | None:
    machine_id = text_of(fields, "machine_id")
    if not machine_id:
        return None
    return Participant(
        machine_id=MachineId(machine_id),
        os=text_of(fields, "os") or "",
        home=text_of(fields, "home") or "",
        project_root=text_of(fields, "project_root") or "",
        encoded_dir=text_of(fields, "encoded_dir") or "",
        last_converged=text_of(fields, "last_converged"),
        last_converged_commit=text_of(fields, "last_converged_commit"),
        other=others_of(fields, _ENTRY),
    )


def _participant_fields(participant: Participant) -> dict[str, Json]:
    known: dict[str, Json] = {key: getattr(participant, key) for key in _ENTRY}
    return {**participant.other, **known}


def _newest(one: Participant, other: Participant) -> Participant:
    return max(
        one,
        other,
        key=lambda entry: (entry.last_converged or "", format_document(_participant_fields(entry))),
    )


def _parse_or_none(data: bytes) -> Roster | None:
    try:
        return parse_roster(data)
    except RefusedInputError:
        return None
