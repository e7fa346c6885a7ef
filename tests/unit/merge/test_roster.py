"""Rosters, policies and cards: read with suspicion, written alike, merged without losing anyone."""

from __future__ import annotations

import json

import pytest

from convergenced.errors import NewerSchemaError, RefusedInputError
from convergenced.merge.roster import (
    MachineCard,
    Participant,
    Policy,
    Roster,
    format_machine,
    format_policy,
    format_roster,
    merge_rosters,
    parse_machine,
    parse_policy,
    parse_roster,
)
from convergenced.model import MachineId

DESK = Participant(
    MachineId("desk"), "linux", "/home/ann", "/home/ann/p", "-home-ann-p", "2025-11-20T10:00:00Z", "abc"
)
LAP = Participant(MachineId("lap"), "darwin", "/Users/ann", "/Users/ann/p", "-Users-ann-p")


def roster(*participants: Participant, **other: str) -> bytes:
    return format_roster(Roster({entry.machine_id: entry for entry in participants}, other))


def entry(machine: str) -> dict[str, str]:
    return {"machine_id": machine, "os": "linux", "home": "/h"}


@pytest.mark.parametrize(
    "value",
    [
        {"participants": [entry("a")]},
        {"participants": {"a": {"os": "linux", "home": "/h"}}},
        [entry("a")],
        {"a": {"os": "linux", "home": "/h"}},
        {"participants": [entry("a"), {"os": "linux"}, 3, {"machine_id": 7}], "project_id": "x"},
    ],
)
def test_a_roster_is_understood_in_every_shape_seen(value: object) -> None:
    assert parse_roster(json.dumps(value).encode()).participants == {
        "a": Participant(MachineId("a"), os="linux", home="/h")
    }


def test_a_roster_comes_back_with_what_is_not_understood() -> None:
    data = json.dumps(
        {"project_id": "x", "participants": [{**entry("a"), "future": [1, {"b": None}]}]}
    ).encode()
    again = json.loads(format_roster(parse_roster(data)))
    assert again["project_id"] == "x"
    assert again["participants"][0]["future"] == [1, {"b": None}]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"3", b'"x"', b"null", b'{"participants": 3}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_roster_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedInputError):
        parse_roster(data)


def test_equal_rosters_are_equal_bytes() -> None:
    assert roster(DESK, LAP) == roster(LAP, DESK)


def test_merging_keeps_everybody() -> None:
    merged = merge_rosters(roster(DESK), roster(LAP), None)
    assert merged == merge_rosters(roster(LAP), roster(DESK), None)
    assert set(parse_roster(merged).participants) == {"desk", "lap"}
    assert merge_rosters(merged, roster(DESK), roster(DESK)) == merged


def test_the_newest_entry_of_a_machine_wins() -> None:
    moved = Participant(MachineId("desk"), "linux", "/home/ann", "/new/p", "-new-p", "2025-11-21T10:00:00Z")
    for other in (moved, Participant(MachineId("desk"), project_root="/z")):
        assert merge_rosters(roster(DESK), roster(other)) == merge_rosters(roster(other), roster(DESK))
    assert parse_roster(merge_rosters(roster(DESK), roster(moved))).participants[MachineId("desk")] == moved


def test_a_broken_side_counts_as_empty() -> None:
    assert merge_rosters(b"{", roster(DESK)) == merge_rosters(roster(DESK), b"{") == roster(DESK)
    with pytest.raises(RefusedInputError):
        merge_rosters(b"{", b"[1")


def test_only_the_paths_make_an_entry_another() -> None:
    assert DESK.same_paths(Participant(MachineId("desk"), "linux", "/home/ann", "/home/ann/p", "-home-ann-p"))
    assert not DESK.same_paths(LAP)


def test_policy_and_card_come_back_with_what_is_not_understood() -> None:
    policy = Policy(rewrite_home=False, layout="flat", other={"future": 1})
    assert parse_policy(format_policy(policy)) == policy
    card = MachineCard(
        MachineId("m"), "Ann's", "github.com/ann/p", None, "0.1", "linux", other={"future": [2]}
    )
    assert parse_machine(format_machine(card)) == card
    assert parse_policy(b"{}") == Policy()


@pytest.mark.parametrize(
    "data",
    [b'{"layout": "round"}', b'{"rewrite_home": 1}', b'{"segment_bytes": "x"}', b'{"schema": "x"}', b"[]"],
)
def test_a_policy_that_makes_no_sense_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedInputError):
        parse_policy(data)


def test_a_newer_schema_is_left_alone() -> None:
    for parse in (parse_policy, parse_machine):
        with pytest.raises(NewerSchemaError, match="newer"):
            parse(b'{"schema": 2, "machine_id": "m"}')
    with pytest.raises(NewerSchemaError):
        parse_roster(b'{"schema": 2, "participants": []}')
    with pytest.raises(RefusedInputError):
        parse_machine(b"{}")
