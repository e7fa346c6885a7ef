"""What a peer's URL may look like, and how it is shown.

Owns the reading of URLs, for everyone who meets one: settings, peers, messages. Two promises: a
URL that passed `classify_url` can be handed to the git program or to libgit2 without being taken
for an option, a helper program or a place relative to somewhere; and what `redact_url` and
`redact_text` return holds no password. Pure: no file is looked at, no name resolved.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from convergenced.errors import UsageError

ALLOWED = (
    "allowed are an absolute path or ~/path, file:///path, user@host:path, ssh://user@host/path "
    "and https://host/path"
)
"""The hint of every refused URL."""

MAX_URL = 4096
"""Characters in a URL, at most."""

HIDDEN = "***"


class UrlKind(enum.Enum):
    """How a peer is reached."""

    PATH = "path"
    """A folder on this machine, written as a path."""
    FILE = "file"
    """A folder on this machine, written as `file://`."""
    SSH = "ssh"
    WEB = "web"
    """`https://`, or `http://` to this machine itself."""


@dataclass(frozen=True, slots=True)
class PeerUrl:
    """A URL that is safe to use. `text` is as given and may hold a password: show `shown` instead.

    `path` is the folder for PATH (possibly beginning with `~/`) and FILE (percent signs decoded).
    `user` and `password` are decoded; a `password` exists for WEB only.
    """

    kind: UrlKind
    text: str = field(repr=False)
    host: str = ""
    path: str = ""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    bare: str = field(default="", repr=False)
    """For WEB: the URL without user and password."""

    @property
    def shown(self) -> str:
        """The URL as people may see it."""
        return redact_url(self.text)


_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HELPER = re.compile(r"[A-Za-z0-9+.-]*::")
_AUTHORITY = re.compile(
    r"(?:(?P<user>.*)@)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[^@:\[\]]*)(?::(?P<port>[0-9]{0,5}))?\Z"
)
_SCP = re.compile(
    r"(?:(?P<user>[^@:/]+)@)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[^@:/\[\]]+):(?P<path>.+)\Z", re.DOTALL
)
_HOST = re.compile(r"\[[0-9A-Fa-f:.%]+\]\Z|[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?\Z")
_USER = re.compile(r"[A-Za-z0-9_.+][A-Za-z0-9_.+\\@-]*\Z")


def classify_url(url: str) -> PeerUrl:
    """The kind and parts of a peer's URL. Raises `UsageError`, whose text holds no password."""
    problem = _unprintable(url)
    if problem:
        raise _refused("this URL", problem)
    if url.startswith("-"):
        raise _refused(url, "it begins with a dash")
    if url.startswith("/"):
        return PeerUrl(UrlKind.PATH, url, path=url)
    if url.startswith("~"):
        if url != "~" and not url.startswith("~/"):
            raise _refused(url, "only ~/ is understood, not another user's home")
        return PeerUrl(UrlKind.PATH, url, path=url)
    if _HELPER.match(url):
        raise _refused(url, "it names a helper program")
    scheme = _SCHEME.match(url)
    if scheme is None:
        return _scp_like(url)
    rest = url[scheme.end() :]
    match scheme[1].lower():
        case "file":
            return _file(url, rest)
        case "ssh" | "git+ssh" | "ssh+git":
            return _ssh(url, rest)
        case "https" | "http" as web:
            return _web(url, web, rest)
        case other:
            raise _refused(url, f"{other}:// is not supported")


def redact_url(url: str) -> str:
    """The URL without what may be secret: password, user of a web address, query. Never fails."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        return url
    rest = url[scheme.end() :]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    end = authority.rfind("@")
    if end < 0 and _AUTHORITY.match(authority) is None:
        end = rest.rfind("@")  # an unescaped "/" in a password moves the end of the authority
    if end >= 0:
        user = rest[:end].partition(":")[0] if scheme[1].lower().endswith("ssh") else HIDDEN
        rest = f"{user}{rest[end:]}"
    shown, mark, _ = rest.partition("?")
    return f"{scheme[0]}{shown}{mark}{HIDDEN if mark else ''}"


_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}://[^\s'\"<>]+")


def redact_text(text: str, url: PeerUrl) -> str:
    """What a program said about `url`, without its password and without anybody else's."""
    text = text.replace(url.text, url.shown)
    if url.password:
        text = text.replace(url.password, HIDDEN)
    return _URL_IN_TEXT.sub(lambda found: redact_url(found[0]), text)


def _unprintable(url: str) -> str | None:
    if not url:
        return "it is empty"
    if len(url) > MAX_URL:
        return f"it is longer than {MAX_URL} characters"
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in url):
        return "it holds a control character"
    if any(0xD800 <= ord(char) < 0xE000 for char in url):
        return "it is not valid UTF-8"
    return None


def _refused(url: str, why: str) -> UsageError:
    return UsageError(f"{redact_url(url)} cannot be a peer: {why}", ALLOWED)


def _scp_like(url: str) -> PeerUrl:
    found = _SCP.match(url)
    if found is None:
        raise _refused(url, "it is neither an absolute path nor a URL")
    user, host, path = found["user"], found["host"], found["path"]
    if len(host) == 1 and user is None:
        raise _refused(url, "it looks like a Windows path")
    _check_host(url, host, user)
    if path.startswith("-"):
        raise _refused(url, "its path begins with a dash")
    return PeerUrl(UrlKind.SSH, url, host=host.strip("[]"), path=path, user=user)


def _file(url: str, rest: str) -> PeerUrl:
    host, slash, path = rest.partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise _refused(url, "a file URL has three slashes and an absolute path")
    path = unquote("/" + path, errors="surrogateescape")
    problem = _unprintable(path)
    if problem or "\0" in path:
        raise _refused("this file URL", problem or "it holds a control character")
    return PeerUrl(UrlKind.FILE, url, path=path)


def _ssh(url: str, rest: str) -> PeerUrl:
    authority, slash, path = rest.partition("/")
    found = _AUTHORITY.match(authority)
    if found is None or not slash or not path:
        raise _refused(url, "it does not read as ssh://user@host/path")
    user = None if found["user"] is None else unquote(found["user"])
    if user is not None and ":" in user:
        raise _refused(url, "ssh takes no password from a URL; use a key")
    _check_host(url, found["host"], user)
    if path.startswith("-") or unquote(path).startswith("-"):
        raise _refused(url, "its path begins with a dash")
    return PeerUrl(UrlKind.SSH, url, host=found["host"].strip("[]"), path="/" + path, user=user)


def _web(url: str, scheme: str, rest: str) -> PeerUrl:
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    found = _AUTHORITY.match(authority)
    if found is None:
        raise _refused(url, f"it does not read as {scheme}://host/path")
    host = found["host"].strip("[]")
    _check_host(url, found["host"], None)
    if scheme == "http" and not _is_loopback(host):
        raise _refused(url, "http:// is neither secret nor genuine; use https://")
    user: str | None = None
    password: str | None = None
    if found["user"] is not None:
        name, colon, secret = found["user"].partition(":")
        user, password = unquote(name), unquote(secret) if colon else None
        if _unprintable(user or "x") or _unprintable(password or "x"):
            raise _refused(url, "its user or password holds a control character")
    bare = f"{scheme}://{rest[len(found['user']) + 1 :] if found['user'] is not None else rest}"
    return PeerUrl(
        UrlKind.WEB, url, host=host, path=rest[len(authority) :], user=user, password=password, bare=bare
    )


def _check_host(url: str, host: str, user: str | None) -> None:
    if not _HOST.match(host):
        raise _refused(url, "its host name is not one")
    if user is not None and not _USER.match(user):
        raise _refused(url, "its user name is not one")


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
