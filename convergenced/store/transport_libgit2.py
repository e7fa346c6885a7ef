"""A peer reached over ssh or https by libgit2 itself, for machines without the git program.

Owns libgit2's remotes and the credentials offered to them. It knows less than the git program: no
`~/.ssh/config`, no jump hosts, no hardware keys, no credential helpers. Promises: nothing is forced;
a branch counts as pushed only if the peer said so for that branch.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pygit2
from pygit2.enums import CredentialType

from convergenced.errors import BranchesRefusedError, PeerError, PeerRefusedError
from convergenced.model import LocalPath, Oid
from convergenced.store.handles import GIT_FAILURES, store_handle, tip
from convergenced.store.refnames import is_branch, is_oid, is_ref_name
from convergenced.store.refusals import (
    BEHIND,
    NO_SUCH_BRANCH,
    NOT_CONFIRMED,
    Place,
    explain,
    no_such_remote_branch,
    push_reason,
    stopped,
)
from convergenced.store.transfer import take_over
from convergenced.urls import UrlKind

KEY_FILES = ("id_ed25519", "id_ecdsa", "id_rsa")
"""Keys in ~/.ssh that are offered, in this order, after those of the agent."""

_ARRIVED = "refs/arrived/"
_HERE = "refs/here/"


class Libgit2Peer:
    """One remote, reached by libgit2. Safe for use from several threads.

    `connect` and `silence` are seconds; libgit2 keeps them for the whole process.
    """

    def __init__(
        self, place: Place, store: LocalPath, *, environ: Mapping[str, str], connect: float, silence: float
    ) -> None:
        self._place = place
        self._store = store
        self._environ = dict(environ)
        self._stopping = threading.Event()
        self._seconds = connect, silence
        pygit2.settings.server_connect_timeout = max(1, round(connect * 1000))
        pygit2.settings.server_timeout = max(1, round(silence * 1000))

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self._place.name

    def for_store(self, store: LocalPath) -> Libgit2Peer:
        """The same peer for another repository of ours."""
        connect, silence = self._seconds
        return Libgit2Peer(self._place, store, environ=self._environ, connect=connect, silence=silence)

    def list(self) -> dict[str, Oid]:
        """All branches of the peer and their tips: one round trip."""
        with self._remote(store_handle(self._store)) as (remote, callbacks):
            heads = remote.list_heads(callbacks=callbacks, proxy=True)
            found = {head.name: str(head.oid) for head in heads if head.name is not None}
        return {ref: Oid(oid) for ref, oid in found.items() if is_branch(ref) and is_oid(oid)}

    def fetch(self, wanted: Mapping[str, str]) -> None:
        """Brings remote refs (keys) into the store as tracking refs (values), which may be rewound.

        Where single branches cannot be had, the others are brought all the same, then raises.
        """
        for remote_ref, tracking in wanted.items():
            if not is_branch(remote_ref) or not is_ref_name(tracking):
                raise PeerRefusedError(f"{remote_ref!r} is no branch that can be fetched", "")
        there = self.list()  # libgit2 passes over an absent branch in silence
        failures = {ref: no_such_remote_branch(self._place) for ref in wanted if ref not in there}
        present = {ref: tracking for ref, tracking in wanted.items() if ref in there}
        if present:
            failures |= self._take_over(present)
        if failures:
            raise BranchesRefusedError.of(failures)

    def push(self, refs: Sequence[str]) -> dict[str, str | None]:
        """Offers local refs under the same name, never forced; for each ref None or the reason."""
        there = self.list()
        answer: dict[str, str | None] = {}
        store = store_handle(self._store)
        with self._remote(store) as (remote, callbacks):
            offered = []
            for ref in refs:
                answer[ref] = _known_answer(store, ref, there.get(ref))
                if answer[ref] == NOT_CONFIRMED:
                    offered.append(ref)
            if offered:
                remote.push([f"{ref}:{ref}" for ref in offered], callbacks=callbacks, proxy=True)
        for ref, said in callbacks.answers.items():
            if ref in answer:
                answer[ref] = None if said is None else push_reason(said, self._place)
        return answer

    def close(self) -> None:
        """Breaks off what runs, for good: later calls raise `PeerUnreachableError`."""
        self._stopping.set()

    def _take_over(self, wanted: Mapping[str, str]) -> dict[str, PeerError]:
        """Downloads into a repository of its own, from which only what is sound is copied.

        libgit2 looks at nothing it downloads, and lets two fetches into one repository fail on the
        lock of FETCH_HEAD.
        """
        failures: dict[str, PeerError] = {}
        store = store_handle(self._store)
        with tempfile.TemporaryDirectory(prefix="convergence-") as folder:
            annex = _annex(folder, store, wanted)
            with self._remote(annex) as (remote, callbacks):
                specs = [f"+{ref}:{_ARRIVED}{number}" for number, ref in enumerate(wanted)]
                remote.fetch(specs, callbacks=callbacks, proxy=True)
            for number, (ref, tracking) in enumerate(wanted.items()):
                arrived = tip(annex, f"{_ARRIVED}{number}")
                if arrived is None:
                    failures[ref] = no_such_remote_branch(self._place)
                    continue
                try:
                    take_over(annex, store, arrived, tracking, callbacks.check)
                except ValueError as error:
                    failures[ref] = explain(str(error), self._place).error
        return failures

    @contextmanager
    def _remote(self, repository: pygit2.Repository) -> Iterator[tuple[pygit2.Remote, _Callbacks]]:
        if self._stopping.is_set():
            raise stopped(self._place)
        callbacks = _Callbacks(self._place, self._environ, self._stopping)
        try:
            yield repository.remotes.create_anonymous(self._place.url.bare or self._place.url.text), callbacks
        except GIT_FAILURES as error:
            raise explain(str(error), self._place).error from error


def _annex(folder: str, store: pygit2.Repository, wanted: Mapping[str, str]) -> pygit2.Repository:
    """A new repository that can read the store's objects and says so to the peer."""
    annex = pygit2.init_repository(folder, bare=True)
    annex.odb.add_disk_alternate(os.path.join(store.path, "objects"))
    for number, ref in enumerate([*wanted, *wanted.values()]):
        here = tip(store, ref)
        if here is not None:
            annex.references.create(f"{_HERE}{number}", here)
    return annex


def _known_answer(repository: pygit2.Repository, ref: str, there: Oid | None) -> str | None:
    """What can be said without asking the peer, as libgit2 gives up on all for the sake of one."""
    here = tip(repository, ref) if is_branch(ref) else None
    if here is None:
        return NO_SUCH_BRANCH
    if there is None:
        return NOT_CONFIRMED
    old = pygit2.Oid(hex=there)
    if old == here:
        return None
    return (
        NOT_CONFIRMED
        if old in repository and repository.descendant_of(here, old)
        else f"{BEHIND} (fetch first)"
    )


class _Callbacks(pygit2.RemoteCallbacks):
    """Offers credentials, one after the other, and hears what the peer says of each branch."""

    def __init__(self, place: Place, environ: Mapping[str, str], stopping: threading.Event) -> None:
        super().__init__()
        self.answers: dict[str, str | None] = {}
        self._place = place
        self._stopping = stopping
        self._user = place.url.user or environ.get("USER") or environ.get("LOGNAME") or "git"
        self._offers = _offers(place, self._user, environ)

    def credentials(
        self, url: str, username_from_url: str | None, allowed_types: CredentialType
    ) -> pygit2.Username | pygit2.UserPass | pygit2.Keypair:
        """The next credential; raises when all have been offered."""
        if allowed_types & CredentialType.USERNAME:
            return pygit2.Username(self._user)
        offer = next(self._offers, None)
        if offer is None:
            ssh = self._place.url.kind is UrlKind.SSH
            said = "no ssh key was accepted" if ssh else "no credentials were accepted"
            raise explain(said, self._place).error
        return offer

    def certificate_check(self, certificate: object, valid: bool, host: bytes) -> bool:
        """Only who is known: left to itself, the binding takes every ssh host for genuine."""
        if not valid:
            ssh = self._place.url.kind is UrlKind.SSH
            said = "host key verification failed" if ssh else "ssl certificate is not valid"
            raise explain(said, self._place).error
        return True

    def push_update_reference(self, refname: str, message: str | None) -> None:
        """Keeps the peer's word on one branch."""
        self.answers[refname] = message

    def transfer_progress(self, stats: object) -> None:
        """Ends a download once the daemon stops."""
        self.check()

    def push_transfer_progress(self, objects_pushed: int, total_objects: int, bytes_pushed: int) -> None:
        """Ends an upload once the daemon stops."""
        self.check()

    def check(self) -> None:
        """Raises once the daemon stops."""
        if self._stopping.is_set():
            raise stopped(self._place)


def _offers(
    place: Place, user: str, environ: Mapping[str, str]
) -> Iterator[pygit2.UserPass | pygit2.Keypair]:
    if place.url.kind is UrlKind.WEB:
        if place.url.password is not None:
            yield pygit2.UserPass(place.url.user or "", place.url.password)
        return
    if environ.get("SSH_AUTH_SOCK"):
        yield pygit2.KeypairFromAgent(user)
    folder = os.path.join(environ.get("HOME", "/"), ".ssh")
    for name in KEY_FILES:
        key = os.path.join(folder, name)
        if os.path.isfile(key) and os.path.isfile(f"{key}.pub"):
            yield pygit2.Keypair(user, f"{key}.pub", key, "")
