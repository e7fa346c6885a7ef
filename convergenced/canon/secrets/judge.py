"""Owns the judgement whether something that has a secret's place or shape is one, or only stands for one.

Promise: examples, placeholders, variables, hashes that name things, and words are none.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

_PLACEHOLDER = re.compile(
    rb"(?i:example|sample|dummy|placeholder|redacted|change_?me|insert|foobar|not[_-]?(?:a|real|set)[_-])"
    rb"|your|YOUR|Your|fake|FAKE|mock|MOCK|lorem|[xX]{4}|\*{3}|\.{3}|-{4}|_{4}|0{6}|\xe2\x80\xa6"
    rb"|[<>{}]|\$\(|%\(|%s\b"
)
_WORDS_FOR_IT = re.compile(
    rb"(?i)p[a@4][s5$]{2}w|passphrase|secret|token|test|admin|default|letmein|qwerty|hunter2|abc123"
    rb"|api_?key|string|none|null|undefined|guest|root|postgres|minio|rabbit|mysql|redis"
)
"""What a password or a key that somebody made up for a test or a development machine says of itself."""
_VARIABLE = re.compile(rb"[$&]\w|%\w+%")
_PATH_ENTROPY = 4.4
"""A key may begin with a slash too; names of folders are less mixed."""
_PATH = re.compile(rb"[.~]?\.?/|[A-Za-z][\w+.-]*:(?:\\*/){2}|[A-Za-z]:\\")
_NAMES = re.compile(
    rb"(?i)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?:sha(?:1|256|384|512)|md5)[-:].*"
    rb"|\$(?:2[abxy]?|5|6|y|argon2\w*|pbkdf2[\w-]*|scrypt)\$.*|\{S?SHA\d*\}.*|v?\d+(?:\.\d+)+[\w.-]*",
    re.DOTALL,
)
"""UUIDs, digests, passwords that are hashed, and versions."""
_CODE = re.compile(rb"[()\[\];]|\.(?:get|env|environ|value|read|text|decode|format|strip)\b|->|::|=>|&&|\|\|")
_WORDS = re.compile(rb"(?:[A-Za-z]+|[0-9]{1,4})(?:[ _./:-](?:[A-Za-z]+|[0-9]{1,4}))*")
_PROSE = re.compile(rb"[a-z]+(?:[_-][a-z]+)+")
_PART = re.compile(rb"[^A-Za-z0-9]+")
_HEX = re.compile(rb"[0-9a-fA-F]+")

_RUN = 6
"""Characters that each follow the one before (`abcdef`, `123456`): nobody draws them by lot."""


def entropy(data: bytes) -> float:
    """Bits in each byte, judged from how often each occurs."""
    size = len(data)
    return -sum(count / size * math.log2(count / size) for count in Counter(data).values())


def is_drawn(body: bytes) -> bool:
    """Whether what follows a well-known prefix was drawn by lot."""
    if _PLACEHOLDER.search(body) or _has_run(body) or _PROSE.fullmatch(body):
        return False
    return entropy(body) >= min(3.0, 0.75 * math.log2(len(body)))


def is_key(value: bytes) -> bool:
    """Whether a value is long and mixed enough to be a key, next to a name that says so."""
    if len(value) < 16 or _stands_for_it(value) or _has_run(value) or _WORDS_FOR_IT.search(value):
        return False
    if entropy(value) < (3.0 if _HEX.fullmatch(value) else 3.3):
        return False
    return any(len(part) >= 8 and _kinds(part) >= 2 and not part.isalpha() for part in _PART.split(value))


def is_password(value: bytes) -> bool:
    """Whether a value can be a password that somebody chose or was given, next to a name that says so."""
    if len(value) < 8 or _stands_for_it(value) or _has_run(value) or _WORDS_FOR_IT.search(value):
        return False
    if _WORDS.fullmatch(value.rstrip(b"=:")) or value[:1] in b"-:@":
        return False
    return _kinds(value) >= 2 and not value.isalpha() and entropy(value) >= 2.2


def _stands_for_it(value: bytes) -> bool:
    return bool(
        _PLACEHOLDER.search(value)
        or _VARIABLE.match(value)
        or (_PATH.match(value) and entropy(value) < _PATH_ENTROPY)
        or _NAMES.fullmatch(value)
        or _CODE.search(value)
    )


def _kinds(value: bytes) -> int:
    """How many of lower case, upper case, digits and others occur."""
    return sum(bool(kind.search(value)) for kind in _KINDS)


_KINDS = tuple(map(re.compile, (rb"[a-z]", rb"[A-Z]", rb"[0-9]", rb"[^A-Za-z0-9]")))


def _has_run(body: bytes) -> bool:
    run = 1
    for before, after in pairwise(body):
        run = run + 1 if after - before == 1 else 1
        if run >= _RUN:
            return True
    return False
