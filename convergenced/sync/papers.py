"""What a machine says of itself on a project's branch: its roster entry, its card, the policy.

Promises: it is written only where it says something new; and where another machine uses this machine's
id, the two do not write over each other for ever, but a person is told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from convergenced.merge.documents import Fields, Json
from convergenced.merge.layout import ProjectTree
from convergenced.merge.roster import (
    MachineCard,
    Participant,
    Policy,
    Roster,
    format_machine,
    format_policy,
    format_roster,
    parse_machine,
    parse_roster,
)
from convergenced.model import Oid, Refusal
from convergenced.ports import Objects
from convergenced.sync.identity import FOLDERS, folders_of
from convergenced.sync.replica import Parts, Replica

TWIN_REMEDY = (
    "give one of the two an id of its own: convergencectl down, remove the file machine-id beside its store,"
    " convergencectl up"
)


@dataclass(frozen=True, slots=True)
class Papers:
    """The project's tree with what the machine says of itself, and, where the branch has that, its words."""

    tree: ProjectTree
    words: str | None
    refusals: tuple[Refusal, ...] = ()


def with_papers(
    parts: Parts,
    replica: Replica,
    policy: Policy,
    tree: ProjectTree,
    tip_tree: ProjectTree,
    tip: Oid | None,
    said: str | None,
) -> Papers:
    """Adds roster entry, machine card and policy, where they do not say so already.

    `said` is what this machine last said, from whichever folder: where the branch has something else all
    the same, another machine goes by the same id. The first card is written even for a folder that is not
    the primary one: without any card, others could not tell what code the project is about.
    """
    machine, store = parts.machine, parts.store
    name = f"{machine.id}.json"
    old_card = parse_machine(store.read_blob(tree.machines[name])) if name in tree.machines else None
    machines = dict(tree.machines)
    known = folders_of(old_card) if old_card is not None else frozenset()
    if replica.folder not in known and old_card is not None and not replica.primary:
        machines[name] = store.write_blob(format_machine(_listing(old_card, known | {replica.folder})))
    card = _listing(
        MachineCard(
            machine_id=machine.id,
            name=machine.name,
            git_url=replica.git_url,
            first_commit=replica.first_commit,
            version=machine.version,
            os=machine.os,
            other=_further(store, tree, tip_tree, name),
        ),
        known | {replica.folder},
    )
    roster, tip_roster = (_roster(store, one) for one in (tree, tip_tree))
    entry = roster.participants.get(machine.id, tip_roster.participants.get(machine.id))
    now = datetime.fromtimestamp(parts.clock.now(), UTC).isoformat(timespec="seconds")
    here = Participant(machine.id, machine.os, machine.home, replica.root, replica.folder, now, tip)
    roster_oid = tree.roster
    refusals: tuple[Refusal, ...] = ()
    words: str | None = _in_words(card, here)
    # Folders of one machine speak of different places below the same home.
    is_elsewhere = entry is not None and (entry.os, entry.home) != (here.os, here.home)
    is_renamed = old_card is not None and (old_card.name, old_card.os) != (card.name, card.os)
    if replica.primary and said == words and (is_elsewhere or is_renamed):
        other = old_card.name if old_card is not None and is_renamed else entry.home if entry else ""
        refusals = (
            Refusal("the id of this machine", f"is used by another machine too ({other})", TWIN_REMEDY),
        )
    elif replica.primary or (old_card is None and name not in tip_tree.machines):
        if old_card is None or replace(card, version=old_card.version) != old_card:
            machines[name] = store.write_blob(format_machine(card))
        if replica.primary and (entry is None or not here.same_paths(entry)):
            roster_oid = store.write_blob(format_roster(roster.with_participant(here)))
    is_new = (machines, roster_oid) != (dict(tree.machines), tree.roster)
    told = tip_roster.participants.get(machine.id)
    if not replica.primary or not (is_new or (told is not None and here.same_paths(told))):
        words = said
    policy_oid = tree.policy or store.write_blob(format_policy(policy))
    return Papers(replace(tree, machines=machines, policy=policy_oid, roster=roster_oid), words, refusals)


def _further(objects: Objects, tree: ProjectTree, tip_tree: ProjectTree, name: str) -> Fields:
    """What else this machine's card says, which is not for here to change."""
    oid = tree.machines.get(name) or tip_tree.machines.get(name)
    return {} if oid is None else parse_machine(objects.read_blob(oid)).other


def _roster(objects: Objects, tree: ProjectTree) -> Roster:
    return parse_roster(objects.read_blob(tree.roster) if tree.roster is not None else b"{}")


def _listing(card: MachineCard, folders: frozenset[str]) -> MachineCard:
    return replace(card, other={**card.other, FOLDERS: list[Json](sorted(folders))})


def _in_words(card: MachineCard, here: Participant) -> str:
    """What is said, without what changes by itself."""
    told = (
        card.name,
        card.os,
        card.git_url,
        card.first_commit,
        here.home,
        here.project_root,
        here.encoded_dir,
    )
    return "\n".join(map(str, told))
