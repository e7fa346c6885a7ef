r"""Owns what secrets without a shape of their own look like: by the name that they are given.

`password = "…"`, `"api_key": "…"`, `DB_PASSWORD=…`, `--token …`, `Authorization: Bearer …`,
`AccountKey=…`, `https://user:…@host`; in JSON with every quote escaped however often.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

from convergenced.canon.search import holder
from convergenced.canon.secrets.judge import is_key, is_password
from convergenced.canon.secrets.tokens import SLASH, Hit

_KEYS = b"""
api secret access private auth account signing encryption master shared service storage deploy license admin
webhook client session app application cipher crypto consumer subscription sas
""".split()
_JOINTS = (b"", b"_", b"-", b" ")
_LAST = rb"(?i:[_-]?(?:base|value|b64|base64|prod|production|live|staging|dev|string|[0-9]))?"
_MEANT = rb"(?=%s(?:\\{0,8}[\"'`\]]|\s|=|:|>))" % _LAST
"""What follows a name that is given something, not one that goes on."""

_NAMES = (
    re.compile(
        rb"k(?:en(?<=token)%s|ey%s(?:%s))"
        % (_MEANT, _MEANT, b"|".join(b"(?<=%s%skey)" % each for each in product(_KEYS, _JOINTS)))
    ),
    re.compile(rb"_pass(?<=[a-z0-9]_pass)%s" % _MEANT),
)
_GATED_NAMES = (
    (holder(b"passw"), re.compile(rb"passw(?:or)?d%s" % _MEANT)),
    (holder(b"passphrase"), re.compile(rb"passphrase%s" % _MEANT)),
    (holder(b"secret"), re.compile(rb"secret%s" % _MEANT)),
)

LONGEST_NAME = 40
_LEFT = re.compile(rb"[A-Za-z0-9_.-]{1,40}\Z")
_TO = re.compile(
    _LAST
    + rb"(?:\\{0,8}[\"'`]|\\{0,8}[\"']\])?[ \t]{0,8}"
    + rb"(?::[ \t]{0,3}[A-Za-z\[\]|* ]{1,24}=(?!=)|:=|=>|=(?!=)|:(?!:)|,(?=[ \t]{0,2}\\{0,8}[\"'])|>)"
    + rb"[ \t]{0,8}"
)
_OPTION = re.compile(rb"[ \t]{1,2}")
_QUOTED = re.compile(rb"[bru]{0,2}(\\{0,8}[\"'`])((?:[^\s\"'`\\]|\\{1,4}/){8,256})\1")
_BARE = re.compile(
    rb"((?:[^\s\"'`\\,;&(){}<>\[\]|]|\\{1,4}/){8,256})"
    rb"(?=[\s\"'`,;<|]|\\{1,8}(?:[nrt\"']|u00)|&|\Z)"
)

_HEADERS = (
    (holder(b"bearer "), re.compile(rb"bearer (?=[a-z0-9])")),
    (
        holder(b"authorization"),
        re.compile(
            rb"authorization\\{0,8}[\"']?[ \t]{0,3}[:=,][ \t]{0,3}\\{0,8}[\"'`]?"
            rb"(?:basic|apikey|token) (?=[a-z0-9])"
        ),
    ),
)
_CREDENTIALS = re.compile(rb"((?:[A-Za-z0-9_.~+/=-]|\\{1,4}/){16,512})(?![A-Za-z0-9_{$<])")

_URL = re.compile(
    rb":(?<=[A-Za-z0-9+]:)%(s)s%(s)s([^/\s:@\"'`\\<>{}]{0,64}):([^/\s@\"'`\\<>]{6,256})@[A-Za-z0-9\[]"
    % {b"s": SLASH}
)
_AZURE = re.compile(rb"Key=([A-Za-z0-9+/\\]{40,100}={1,2})")
_AWS = re.compile(rb"[A-Za-z0-9+/\\]{40,48}")

WHAT: dict[str, str] = {
    "aws-secret-key": "AWS secret key",
    "azure-key": "Azure account key",
    "url": "URL with a password",
    "authorization": "authorization header",
    "password": "password",
    "assigned": "secret next to a telling name",
}


def find_assigned(data: bytes) -> Iterator[Hit]:
    """All secrets that only their surroundings tell of."""
    yield from _find_urls(data)
    for found in _AZURE.finditer(data):
        if is_key(found[1]):
            yield Hit("azure-key", *found.span(1))
    lower = data.lower()
    yield from _find_headers(data, lower)
    for pattern in (*_NAMES, *(pattern for may_be_in, pattern in _GATED_NAMES if may_be_in(lower))):
        passed = 0
        for name in pattern.finditer(lower):
            # What is part of a value is no name; so each byte is looked at as a value once.
            if name.start() < passed:
                continue
            value = _value_of(data, name)
            if value is None:
                continue
            passed = value.end()
            hit = _judge(data, name, value)
            if hit is not None:
                yield hit


def _value_of(data: bytes, name: re.Match[bytes]) -> re.Match[bytes] | None:
    """What the name is given."""
    to = _TO.match(data, name.end())
    if to is None and b"--" in _before(data, name):
        to = _OPTION.match(data, name.end())
    if to is None:
        return None
    value = _QUOTED.match(data, to.end()) or _BARE.match(data, to.end())
    is_element = to[0].rstrip().endswith(b">") and not to[0].rstrip().endswith(b"=>")
    return None if value is None or (is_element and data[value.end() : value.end() + 1] != b"<") else value


def _before(data: bytes, name: re.Match[bytes]) -> bytes:
    """The words that the name is the end of."""
    left = _LEFT.search(data, max(0, name.start() - LONGEST_NAME), name.start())
    return b"" if left is None else left[0]


def _judge(data: bytes, name: re.Match[bytes], value: re.Match[bytes]) -> Hit | None:
    """The value, where it is a secret."""
    start, end = value.span(value.re.groups)
    found = data[start:end].replace(b"\\/", b"/")
    before = _before(data, name)
    is_expression = value.re is _BARE and b"." in found
    is_chosen = name[0].startswith((b"pass", b"_pass"))
    if is_chosen:
        return Hit("password", start, end) if is_password(found) and not is_expression else None
    if is_expression or not is_key(found) or _is_plain_token(name[0], before, found):
        return None
    called = (before[-24:] + name[0]).lower().replace(b"_", b"").replace(b"-", b"")
    is_aws = b"secret" in called and _AWS.fullmatch(data, start, end) and not found.isalnum()
    if b"aws" in called or b"secretaccesskey" in called or (is_aws and b"accesskey" in called):
        return Hit("aws-secret-key", start, end)
    return Hit("assigned", start, end)


def _is_plain_token(name: bytes, before: bytes, value: bytes) -> bool:
    """Whether this is a token of a page or a query, or a digest: nobody logs in with it."""
    if not name.startswith(b"ken"):
        return False
    called = before.lower()
    if any(word in called for word in (b"page", b"next", b"continu", b"csrf", b"xsrf", b"sync", b"cancel")):
        return True
    return not called.rstrip(b"tok") and re.fullmatch(rb"[0-9a-f]{32,64}", value) is not None


def _find_headers(data: bytes, lower: bytes) -> Iterator[Hit]:
    for may_be_in, header in _HEADERS:
        for found in header.finditer(lower) if may_be_in(lower) else ():
            value = _CREDENTIALS.match(data, found.end())
            if value is not None and is_key(value[1].replace(b"\\/", b"/")):
                yield Hit("authorization", *value.span(1))


def _find_urls(data: bytes) -> Iterator[Hit]:
    for found in _URL.finditer(data):
        user, password = found[1], found[2]
        if user != password and (is_password(password) or is_key(password)):
            yield Hit("url", *found.span(2))
