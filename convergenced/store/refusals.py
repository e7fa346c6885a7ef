"""What git, ssh and libgit2 say when an exchange fails, in words a person can act on.

Owns the reading of other programs' messages. Promises: the text it returns is one bounded line,
without control characters and without a password; what only a person can mend is a
`PeerRefusedError`, everything else, also what is not understood, a `PeerUnreachableError`, which is
tried again by itself.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from convergenced.errors import PeerError, PeerRefusedError, PeerUnreachableError
from convergenced.urls import PeerUrl, UrlKind, redact_text

BEHIND = "the peer has commits that are not here yet"
NO_SUCH_BRANCH = "there is no such branch here"
NOT_CONFIRMED = "the peer did not confirm it"

MAX_REASON = 300
"""Characters of somebody else's words that are passed on, at most."""


def is_behind(reason: str) -> bool:
    """Whether a push was refused only because the peer moved on: fetch, merge and push again."""
    return reason.startswith(BEHIND)


@dataclass(frozen=True, slots=True)
class Place:
    """Which peer a message is about. `path` is where a peer on this machine lies, else empty."""

    name: str
    url: PeerUrl
    path: str = ""

    @property
    def shown(self) -> str:
        """The peer's URL, or the path of one on this machine, as people may see it."""
        return self.path or self.url.shown


@dataclass(frozen=True, slots=True)
class Explained:
    """A failure in plain words. `one_ref`: it concerns a single branch, others may still pass."""

    error: PeerError
    one_ref: bool = False


@dataclass(frozen=True, slots=True)
class _Meaning:
    pattern: re.Pattern[str]
    words: str
    hint: str
    refused: bool
    one_ref: bool = False


def _means(pattern: str, words: str, hint: str, *, refused: bool, one_ref: bool = False) -> _Meaning:
    return _Meaning(re.compile(pattern, re.IGNORECASE), words, hint, refused, one_ref)


LATER = "it is tried again by itself; check the network if this stays"
_MAKE = "check the path; a new hub is made there with: git init --bare {quoted}"
_ACCESS = "check that the repository exists and that this user may write to it"

# From the most specific to the vaguest: ssh's own reason comes together with git's general one.
_MEANINGS = (
    _means(
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key for .* has changed",
        "the ssh host key of {host} is not the one known here",
        "find out why; if the change is genuine: ssh-keygen -R {host}, then connect once by hand: ssh {host}",
        refused=True,
    ),
    _means(
        r"host key verification failed|no .* host key is known|invalid or unknown remote ssh hostkey|hostkey",
        "the ssh host key of {host} is not known here",
        "connect once by hand and compare the fingerprint: ssh {host} "
        "(or ssh-keyscan {host} >> ~/.ssh/known_hosts)",
        refused=True,
    ),
    _means(
        r"could not resolve|name or service not known|failed to resolve address|"
        r"temporary failure in name resolution|nodename nor servname",
        "the host {host} cannot be found",
        "check the spelling of the URL and the network",
        refused=False,
    ),
    _means(r"connection refused", "nothing answers at {host}", LATER, refused=False),
    _means(
        r"timed out|timeout|operation too slow",
        "{host} did not answer in time",
        LATER,
        refused=False,
    ),
    _means(
        r"no route to host|network is unreachable|network is down|couldn't connect|failed to connect",
        "{host} cannot be reached",
        LATER,
        refused=False,
    ),
    _means(
        r"ssl certificate|certificate verif|ssl certificate is invalid|self[- ]signed",
        "the https certificate of {host} is not trusted",
        "check the URL; a private authority is made known with: git config --global http.sslCAInfo FILE",
        refused=True,
    ),
    _means(
        r"dubious ownership|is not owned by current user",
        "{place} belongs to another user",
        "if that is meant: git config --global --add safe.directory {quoted}",
        refused=True,
    ),
    _means(
        r"permission denied \(|failed to authenticate ssh session|no ssh key was accepted|"
        r"too many authentication",
        "{host} does not accept this machine's ssh key",
        "add the key there, or make it known to ssh-agent (a service may not see SSH_AUTH_SOCK); "
        "try: ssh {host}",
        refused=True,
    ),
    _means(
        r"authentication failed|could not read (username|password)|terminal prompts disabled|"
        r"invalid credentials|authentication (required|replays)|returned error: 40[13]|status code: 40[13]|"
        r"no credentials were accepted|invalid username or (password|token)",
        "{host} wants other credentials",
        "set up a git credential helper for it (for GitHub: gh auth setup-git), or use an ssh URL",
        refused=True,
    ),
    _means(
        r"repository .*not found|repository not found|returned error: 404|status code: 404|project not found",
        "{place} was not found, or is not shared with you",
        _ACCESS,
        refused=True,
    ),
    _means(
        r"not (appear to be )?a git repository|could not find repository|no such repository|"
        r"repository .*does not exist",
        "{place} is not a git repository",
        _MAKE,
        refused=True,
    ),
    _means(
        r"(git-)?(upload|receive)-pack.*not found|git.*command not found",
        "git is not installed on {host}",
        "install git there, or name another peer",
        refused=True,
    ),
    _means(
        r"cannot run .*ssh|unable to fork|cannot exec .*ssh|ssh: not found",
        "the ssh program cannot be started here",
        "install ssh, or check core.sshCommand and GIT_SSH_COMMAND",
        refused=True,
    ),
    _means(
        r"couldn't find remote ref",
        "{place} does not have a wanted branch (any more)",
        "nothing to do: it is looked up again in the next round",
        refused=True,
        one_ref=True,
    ),
    _means(
        r"no space left|disk quota|quota exceeded|disk full|storage limit",
        "there is no room left ({said})",
        "free space there (or here, if the path is this machine's)",
        refused=True,
    ),
    _means(
        # A pack that was cut short: index-pack complains too, but nothing is damaged over there.
        r"(?s)\A(?!.*repository corruption).*(early eof|rpc failed|unexpected disconnect)",
        "{host} broke off ({said})",
        LATER,
        refused=False,
    ),
    _means(
        r"fsck error|repository corruption|bad object|did not send all necessary objects|"
        r"did not receive expected object|index-pack failed|"
        r"missing (blob|tree|commit)|pack (has|is) (bad|corrupt)|inflate|is corrupt|object not found|"
        r"hash mismatch|damaged|not allowed: ",
        "{place} offers objects that are damaged or not allowed ({said})",
        "check it there with: git fsck --strict",
        refused=True,
        one_ref=True,
    ),
    _means(
        r"read-only file system",
        "{place} can only be read ({said})",
        "mount it writable; where the service's sandbox keeps it from being written: convergencectl up",
        refused=True,
    ),
    _means(
        r"permission denied|insufficient permission|operation not permitted|"
        r"access denied|unable to create temporary|"
        r"not allowed to (push|write)|permission to .* denied|write access",
        "{place} does not let this user write or read ({said})",
        _ACCESS,
        refused=True,
    ),
    _means(
        r"hook declined|protected branch|remote rejected",
        "{place} refused ({said})",
        "ask whoever keeps the repository",
        refused=True,
    ),
    _means(
        r"unknown (option|switch)|usage: git",
        "the git program here is too old ({said})",
        'install git 2.29 or newer, or set [exchange] transport = "libgit2"',
        refused=True,
    ),
    _means(
        r"transport '.*' not allowed|unsupported url protocol|protocol .* not supported",
        "{place} is of a kind that is not allowed ({said})",
        "use an https, ssh or file URL, and check url.*.insteadOf in the git configuration",
        refused=True,
    ),
    _means(
        r"connection (was )?(reset|closed|aborted)|closed by remote host|hung up|early eof|broken pipe|"
        r"disconnect|rpc failed|empty reply|unexpected eof|eof|failed to report status|ssl error: syscall|"
        r"returned error: (5\d\d|429)|status code: (5\d\d|429)",
        "{host} broke off ({said})",
        LATER,
        refused=False,
    ),
)


def explain(said: str, place: Place) -> Explained:
    """The error that `said`, the words of a program or library, stands for."""
    said = said[-_MAX_READ:]
    line = summary_line(said, place.url)
    short = "\n".join(part[:_MAX_LINE] for part in re.split(r"[\r\n]+", said))
    for meaning in _MEANINGS:
        if meaning.pattern.search(short):
            return _explained(meaning, place, line)
    words = f"the exchange with {place.shown} failed ({line or 'without a word'})"
    return Explained(PeerUnreachableError(words, LATER))


_MAX_READ = 64 * 1024
_MAX_LINE = 1024
"""Characters of a line that are read: the patterns look through the rest of a line from every start."""


def stopped(place: Place) -> PeerUnreachableError:
    """The exchange was ended from here, by `close`."""
    return PeerUnreachableError(f"the exchange with {place.name} was broken off because the daemon stops")


def no_such_remote_branch(place: Place) -> PeerError:
    """A wanted branch is not there."""
    return explain("couldn't find remote ref", place).error


def not_a_repository(place: Place) -> PeerRefusedError:
    """The path of a peer on this machine is not there, or is something else."""
    return PeerRefusedError(f"{place.shown} is not a git repository", _MAKE.format(quoted=_quoted(place)))


_MOVED = re.compile(
    r"non-fast-?forward|fetch first|stale info|incorrect old value|failed to update ref|"
    r"reference already exists|cannot lock ref|failed to lock|not present locally",
    re.IGNORECASE,
)


def push_reason(said: str, place: Place) -> str:
    """Why one branch was not taken. `is_behind` knows the answer for a peer that moved on."""
    line = summary_line(said, place.url) or "no reason given"
    return f"{BEHIND} ({line})" if _MOVED.search(said) else line


def summary_line(said: str, url: PeerUrl) -> str:
    """The line of a program's complaint that says most, safe to print."""
    lines = [_printable(line) for line in re.split(r"[\r\n]+", said)]
    lines = [line for line in lines if line and not line.startswith(("hint:", "Please make sure"))]
    telling = [
        line
        for line in lines
        if line.startswith(("fatal:", "error:", "remote: error:", "remote: fatal:", "ERROR:"))
    ]
    best = (telling or lines or [""])[0]
    best = re.sub(r"^((remote|fatal|error|ERROR): *)+", "", best)
    best = redact_text(best, url)
    return best if len(best) <= MAX_REASON else best[: MAX_REASON - 1] + "…"


def _explained(meaning: _Meaning, place: Place, line: str) -> Explained:
    facts = {
        "host": place.url.host or place.shown,
        "place": place.shown,
        "quoted": _quoted(place),
        "said": line,
    }
    summary = meaning.words.format(**facts)
    hint = meaning.hint.format(**facts)
    error = PeerRefusedError(summary, hint) if meaning.refused else PeerUnreachableError(summary, hint)
    return Explained(error, meaning.one_ref)


def _quoted(place: Place) -> str:
    if place.path:
        return shlex.quote(place.path)
    return shlex.quote(place.url.path) if place.url.kind is UrlKind.SSH else "PATH"


def _printable(line: str) -> str:
    return "".join(char for char in line if char.isprintable()).strip()
