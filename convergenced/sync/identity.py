"""Which project a folder belongs to: by the code it holds, never by guessing from a folder's name.

A project's id is the name of the code's git repository, else the folder's name. What makes two
projects the same is their code: an equal normalized remote URL, else an equal first commit. Folders
without any code are the same project only where they lie at the same place below the home folder,
or where the user says so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from posixpath import basename, relpath

from convergenced.errors import NewerSchemaError, RefusedInputError
from convergenced.machine.checkouts import repository_name
from convergenced.merge.layout import ProjectTree
from convergenced.merge.names import valid_project_id
from convergenced.merge.roster import MachineCard, Participant, parse_machine, parse_roster
from convergenced.model import Checkout, LocalPath, ProjectId
from convergenced.ports import Objects

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
FOLDERS = "folders"
"""The field of a machine's card that lists its context folders."""
FALLBACK_NAME = "project"
SUFFIX_DIGITS = 6
MAX_NAME = 80
"""Characters of a name, so that a suffix still fits."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What is known of the code of a project, on one machine or on all that take part.

    `places` are the roots below home (`src/proj`) of participants; they count only between
    identities that know of no code.
    """

    urls: frozenset[str] = frozenset()
    first_commits: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()

    @property
    def has_code(self) -> bool:
        """Whether any code is known."""
        return bool(self.urls or self.first_commits)

    def is_same(self, other: Identity) -> bool:
        """Whether both speak of one project, as far as that can be known."""
        if self.urls and other.urls:
            return bool(self.urls & other.urls)
        if self.has_code and other.has_code:
            return bool(self.first_commits & other.first_commits)
        return not self.has_code and not other.has_code and bool(self.places & other.places)

    def is_stranger(self, other: Identity) -> bool:
        """Whether both are known to be different code."""
        return self.has_code and other.has_code and not self.is_same(other)


def identity_of_checkout(checkout: Checkout | None, root: LocalPath, home: LocalPath) -> Identity:
    """The identity of a project root on this machine.

    A session started in a subfolder of a repository is a project of its own to the client, so the
    way to it is part of the identity.
    """
    below = _within(checkout, root)
    part = f"#{below}" if below else ""
    return Identity(
        urls=frozenset({checkout.git_url + part} if checkout and checkout.git_url else ()),
        first_commits=frozenset({checkout.first_commit + part} if checkout and checkout.first_commit else ()),
        places=_place(root, home),
    )


def identity_of_project(objects: Objects, tree: ProjectTree) -> Identity:
    """The identity all participants of a project give it together."""
    cards = machine_cards(objects, tree)
    return Identity(
        urls=frozenset(card.git_url for card in cards if card.git_url),
        first_commits=frozenset(card.first_commit for card in cards if card.first_commit),
        places=frozenset().union(
            *(_place(one.project_root, one.home) for one in participants(objects, tree))
        ),
    )


def machine_cards(objects: Objects, tree: ProjectTree) -> list[MachineCard]:
    """What the machines of a project say of themselves; a card that cannot be read says nothing."""
    cards = []
    for _, oid in sorted(tree.machines.items()):
        with suppress(RefusedInputError, NewerSchemaError):
            cards.append(parse_machine(objects.read_blob(oid)))
    return cards


def folders_of(card: MachineCard) -> frozenset[str]:
    """The context folders that a machine says take part in a project."""
    folders = card.other.get(FOLDERS)
    return (
        frozenset(one for one in folders if isinstance(one, str))
        if isinstance(folders, list)
        else frozenset()
    )


def participants(objects: Objects, tree: ProjectTree) -> tuple[Participant, ...]:
    """The entries of a project's roster."""
    if tree.roster is None:
        return ()
    return tuple(parse_roster(objects.read_blob(tree.roster)).participants.values())


def name_for(checkout: Checkout | None, root: LocalPath) -> ProjectId:
    """The id a project would like to have."""
    if checkout is not None and checkout.git_url:
        wanted = repository_name(checkout.git_url)
    else:
        wanted = basename(checkout.main_root if checkout is not None else root)
    if below := _within(checkout, root):
        wanted = f"{wanted}-{below}"
    name = _UNSAFE.sub("-", wanted)[:MAX_NAME].strip("-.")
    while name.endswith(".lock"):
        name = name.removesuffix(".lock")
    return ProjectId(name if valid_project_id(name) else FALLBACK_NAME)


def distinct_name(name: ProjectId, identity: Identity, machine_id: str, root: LocalPath) -> ProjectId:
    """Another id for a project whose wished one is taken by other code.

    Two machines with the same code find the same one.
    """
    told = sorted(identity.urls) or sorted(identity.first_commits) or [machine_id, root]
    digest = hashlib.sha256("\n".join(told).encode("utf-8", "surrogateescape")).hexdigest()
    return ProjectId(f"{name[:MAX_NAME]}-{digest[:SUFFIX_DIGITS]}")


def may_be_named(project: str, names: Iterable[str]) -> bool:
    """Whether a peer's project could be one of these names, with or without a distinguishing suffix."""
    return any(name in (project, stem_of(project)) for name in names)


def stem_of(project: str) -> str:
    """An id without its distinguishing suffix, if it has one."""
    return re.sub(rf"-[0-9a-f]{{{SUFFIX_DIGITS}}}\Z", "", project)


def _within(checkout: Checkout | None, root: LocalPath) -> str:
    """Where in its repository a project root lies: empty for the top, and without a repository."""
    below = relpath(root, checkout.root) if checkout is not None else "."
    return "" if below == "." else below


def _place(root: str | None, home: str | None) -> frozenset[str]:
    if not root or not home or not root.startswith(home.rstrip("/") + "/"):
        return frozenset()
    return frozenset({relpath(root, home)})
