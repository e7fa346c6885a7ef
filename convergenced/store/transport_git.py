"""A peer reached with the git program: what the user's ssh and git are set up for, works here too.

Owns the command lines. Promises: nothing is asked of a person; no URL with a password stands in a
process list; nothing is forced; a branch counts as pushed only if git listed it as taken; objects
enter the store as one checked pack or not at all.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from convergenced.errors import BranchesRefusedError, PeerError, PeerRefusedError, PeerUnreachableError
from convergenced.model import LocalPath, Oid
from convergenced.store.handles import store_handle, tip
from convergenced.store.program import Limits, Outcome, Programs
from convergenced.store.refnames import is_branch, is_oid, is_ref_name
from convergenced.store.refusals import (
    LATER,
    NO_SUCH_BRANCH,
    NOT_CONFIRMED,
    Place,
    explain,
    push_reason,
    stopped,
    summary_line,
)
from convergenced.urls import UrlKind


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, for a listing, for a transfer as a whole, and without a sign of life."""

    connect: float = 15.0
    listing: float = 45.0
    transfer: float = 3600.0
    stall: float = 90.0


REFS_A_CALL = 200
"""Branches named in one command line, at most."""

_CONFIG = (
    "gc.auto=0",  # upkeep of the store is ours
    "maintenance.auto=false",
    "protocol.ext.allow=never",
    "core.hooksPath=/dev/null",
    "core.fsync=all",
    "fetch.fsckObjects=true",  # a name like ".git" or a malformed object is turned away at the door
    "fetch.unpackLimit=1",  # a pack is checked as a whole before it enters; loose objects are not
    "fetch.writeCommitGraph=false",
    "fetch.recurseSubmodules=false",
    "push.gpgSign=false",
    "push.followTags=false",
    "push.recurseSubmodules=no",
    "credential.interactive=false",
)

_DROPPED = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_CURL_VERBOSE",
        "GIT_DIR",
        "GIT_INDEX_FILE",
        "GIT_NAMESPACE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_QUARANTINE_PATH",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
    }
)
"""Variables that would move git away from the store, or make it print what must stay secret."""


class GitPeer:
    """One remote, reached with the git program. Safe for use from several threads."""

    def __init__(
        self,
        place: Place,
        store: LocalPath,
        *,
        program: str,
        environ: Mapping[str, str],
        timeouts: Timeouts,
    ) -> None:
        self._place = place
        self._store = store
        self._all_environ = environ
        self._program = program
        self._timeouts = timeouts
        self._programs = Programs()
        self._environ = _git_environ(environ, place)
        self._target = place.path or place.url.bare or place.url.text
        self._config = (*_CONFIG, *_credential_config(place))

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self._place.name

    def for_store(self, store: LocalPath) -> GitPeer:
        """The same peer for another repository of ours."""
        return GitPeer(
            self._place, store, program=self._program, environ=self._all_environ, timeouts=self._timeouts
        )

    def list(self) -> dict[str, Oid]:
        """All branches of the peer and their tips: one round trip."""
        limits = Limits(self._timeouts.listing, self._timeouts.stall)
        outcome = self._git(["ls-remote", "--heads", "--", self._target], limits)
        if outcome.code != 0:
            raise explain(outcome.err, self._place).error
        return _parse_listing(outcome.out)

    def fetch(self, wanted: Mapping[str, str]) -> None:
        """Brings remote refs (keys) into the store as tracking refs (values), which may be rewound.

        Where single branches cannot be had, the others are brought all the same, then raises.
        """
        pairs = list(wanted.items())
        for remote, tracking in pairs:
            if not is_branch(remote) or not is_ref_name(tracking):
                raise PeerRefusedError(f"{remote!r} is no branch that can be fetched", "")
        failures: dict[str, PeerError] = {}
        for start in range(0, len(pairs), REFS_A_CALL):
            failures |= self._fetch_some(pairs[start : start + REFS_A_CALL])
        if failures:
            raise BranchesRefusedError.of(failures)

    def push(self, refs: Sequence[str]) -> dict[str, str | None]:
        """Offers local refs under the same name, never forced; for each ref None or the reason."""
        answer: dict[str, str | None] = dict.fromkeys(refs, NO_SUCH_BRANCH)
        here = _existing(self._store, refs)
        for start in range(0, len(here), REFS_A_CALL):
            answer |= self._push_some(here[start : start + REFS_A_CALL])
        return answer

    def close(self) -> None:
        """Breaks off what runs, for good: later calls raise `PeerUnreachableError`."""
        self._programs.close()

    def _fetch_some(self, pairs: Sequence[tuple[str, str]]) -> dict[str, PeerError]:
        options = [
            "--no-tags",
            "--no-write-fetch-head",
            "--no-prune",
            "--no-show-forced-updates",
            "--progress",
        ]
        specs = [f"+{remote}:{tracking}" for remote, tracking in pairs]
        outcome = self._git(["fetch", *options, "--", self._target, *specs], self._transfer())
        if outcome.code == 0:
            return {}
        failure = explain(outcome.err, self._place)
        if not failure.one_ref:
            raise failure.error
        if len(pairs) == 1:
            return {pairs[0][0]: failure.error}
        # git gives up on all for the sake of one: halve until it stands alone.
        middle = len(pairs) // 2
        return self._fetch_some(pairs[:middle]) | self._fetch_some(pairs[middle:])

    def _push_some(self, refs: Sequence[str]) -> dict[str, str | None]:
        options = ["--porcelain", "--no-verify", "--progress"]
        specs = [f"{ref}:{ref}" for ref in refs]
        outcome = self._git(["push", *options, "--", self._target, *specs], self._transfer())
        listed = _parse_push(outcome.out)
        if outcome.code != 0 and not any(ref in listed for ref in refs):
            raise explain(outcome.err, self._place).error
        answer: dict[str, str | None] = {}
        for ref in refs:
            said = listed.get(ref, NOT_CONFIRMED)
            if said is not None and _NOT_ABOUT_A_REF.search(said):
                raise explain(f"{outcome.err}\n{said}", self._place).error
            answer[ref] = None if said is None else self._reason(said, outcome.err)
        return answer

    def _reason(self, said: str, err: str) -> str:
        if "declined" in said:  # the hook's own words say more
            lines = [line for line in err.splitlines() if line.startswith("remote: ")]
            remote = "\n".join(line for line in lines if "hook declined" not in line)
            said = f"{said}: {summary_line(remote, self._place.url)}" if remote else said
        return push_reason(said, self._place)

    def _transfer(self) -> Limits:
        return Limits(self._timeouts.transfer, self._timeouts.stall)

    def _git(self, arguments: Sequence[str], limits: Limits) -> Outcome:
        environ = self._environ
        if self._place.url.kind is UrlKind.SSH:
            environ = environ | self._ssh(limits)
        outcome = self._run(self._config, arguments, environ, limits)
        match outcome.end:
            case "exit":
                return outcome
            case "overall" | "stall":
                seconds = limits.overall if outcome.end == "overall" else limits.stall
                how = "was not done after" if outcome.end == "overall" else "gave no sign of life for"
                raise PeerUnreachableError(f"{self._place.shown} {how} {seconds:g} s, broken off", LATER)
            case "flood":
                words = f"{self._place.shown} lists more branches than can be read"
                raise PeerRefusedError(words, "use a repository that is for convergence alone")
            case "closed":
                raise stopped(self._place)

    def _run(
        self, config: Sequence[str], arguments: Sequence[str], environ: Mapping[str, str], limits: Limits
    ) -> Outcome:
        options = [part for setting in config for part in ("-c", setting)]
        argv = [self._program, f"--git-dir={self._store}", *options, *arguments]
        try:
            return self._programs.run(argv, environ=environ, limits=limits)
        except OSError as error:
            words = f"the git program cannot be started ({error.strerror})"
            raise PeerRefusedError(words, 'install git, or set [exchange] transport = "libgit2"') from error

    def _ssh(self, limits: Limits) -> dict[str, str]:
        """The user's own ssh command, made unable to ask and unwilling to wait for ever."""
        command = self._environ.get("GIT_SSH_COMMAND", "")
        if not command:
            setting = self._run((), ["config", "--get", "core.sshCommand"], self._environ, limits)
            command = setting.out.decode("utf-8", "replace").strip() if setting.code == 0 else ""
        if not command:
            if self._environ.get("GIT_SSH"):
                return {}
            command = "ssh"
        if not _is_openssh(command):
            return {}
        connect = max(1, round(self._timeouts.connect))
        # Given last, so that whatever the user's command says itself comes first and wins.
        extra = (
            f"-o BatchMode=yes -o ConnectTimeout={connect} -o ServerAliveInterval=15 "
            "-o ServerAliveCountMax=3 -o ControlMaster=no"
        )
        return {"GIT_SSH_COMMAND": f"{command} {extra}", "GIT_SSH_VARIANT": "ssh"}


_NOT_ABOUT_A_REF = re.compile(r"failed to report status|unpacker error|no space|quota", re.IGNORECASE)


def _git_environ(environ: Mapping[str, str], place: Place) -> dict[str, str]:
    kept = {
        name: value
        for name, value in environ.items()
        if name not in _DROPPED and not name.startswith("GIT_TRACE")
    }
    kept |= {
        "LC_ALL": "C",
        "LANGUAGE": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "SSH_ASKPASS_REQUIRE": "never",
        "GCM_INTERACTIVE": "never",
    }
    if place.url.password is not None:
        kept |= {
            "CONVERGENCE_PEER_USER": place.url.user or "",
            "CONVERGENCE_PEER_PASSWORD": place.url.password,
        }
    return kept


_HELPER = (
    '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n" '
    '"$CONVERGENCE_PEER_USER" "$CONVERGENCE_PEER_PASSWORD"; }; f'
)


def _credential_config(place: Place) -> list[str]:
    """Gives git the URL's password through the environment, for that one host, kept nowhere."""
    if place.url.password is None:
        return []
    scheme, _, rest = place.url.bare.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return ["credential.helper=", f"credential.{scheme}://{host}.helper={_HELPER}"]


def _is_openssh(command: str) -> bool:
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    return bool(words) and PurePath(words[0]).name in ("ssh", "ssh.exe")


def _parse_listing(out: bytes) -> dict[str, Oid]:
    found: dict[str, Oid] = {}
    for line in out.decode("utf-8", "surrogateescape").split("\n"):
        oid, tab, ref = line.partition("\t")
        if tab and is_oid(oid) and is_branch(ref):
            found[ref] = Oid(oid)
    return found


def _parse_push(out: bytes) -> dict[str, str | None]:
    """Per remote ref None, or git's summary and reason, from `push --porcelain`."""
    listed: dict[str, str | None] = {}
    for line in out.decode("utf-8", "replace").split("\n"):
        parts = line.split("\t")
        if len(parts) != 3 or len(parts[0]) != 1:
            continue
        flag, names, said = parts
        ref = names.rpartition(":")[2]
        listed[ref] = None if flag in " *=" else said
    return listed


def _existing(store: LocalPath, refs: Sequence[str]) -> list[str]:
    repository = store_handle(store)
    return [ref for ref in dict.fromkeys(refs) if is_branch(ref) and tip(repository, ref) is not None]
