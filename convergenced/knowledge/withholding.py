"""Apparent secrets and what stands in their place in all that is asked.

Promise: what was withheld stands in no text that `hide` gave back, wherever else in them it stood; `restore`
is the exact inverse; what people read names none of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterable
from itertools import count

from convergenced.canon.secrets import find_secrets

SHOWN = "(withheld)"
"""What stands in a placeholder's place in what people read."""


class Withholding:
    """What is withheld of these texts: each apparent secret that is not `allowed` (fingerprints).

    One that is known from one text is withheld in all, also where nothing gives it away. `salt` goes into
    the fingerprints and into the placeholders, so that no text can hold one that was not put there.
    """

    def __init__(self, texts: Iterable[bytes], allowed: Container[str], salt: bytes) -> None:
        known = list(dict.fromkeys(texts))
        secrets = dict.fromkeys(
            text[one.start : one.end]
            for text in known
            for one in find_secrets(text, salt)
            if one.fingerprint not in allowed
        )
        self._hidden = dict(zip(secrets, _placeholders(len(secrets), known, salt), strict=True))
        self._shown = {placeholder: secret for secret, placeholder in self._hidden.items()}
        self._find = _any_of(self._hidden)
        self._find_back = _any_of(self._shown)

    def __len__(self) -> int:
        return len(self._hidden)

    def hide(self, text: bytes) -> bytes:
        """The text with placeholders."""
        if not self._hidden:
            return text
        return self._find.sub(lambda found: self._hidden[found[0]], text)

    def restore(self, text: bytes) -> bytes:
        """The text with what belongs in the places of its placeholders."""
        if not self._shown:
            return text
        return self._find_back.sub(lambda found: self._shown[found[0]], text)

    def for_people(self, text: str) -> str:
        """A text that was made of hidden ones, to be shown or logged."""
        for placeholder in self._shown:
            text = text.replace(placeholder.decode(), SHOWN)
        return text

    def is_kept(self, answer: bytes, asked: Iterable[bytes]) -> bool:
        """Whether an answer holds each placeholder of what was asked, and none more often than that did."""
        texts = list(asked)
        return all(
            min(1, there) <= answer.count(placeholder) <= there
            for placeholder in self._shown
            for there in (sum(text.count(placeholder) for text in texts),)
        )


def _placeholders(number: int, texts: list[bytes], salt: bytes) -> list[bytes]:
    """Names that stand in none of the texts."""
    for attempt in count():
        digest = hashlib.sha256(b"withheld %d\0" % attempt + salt)
        for text in texts:
            digest.update(hashlib.sha256(text).digest())
        mark = digest.hexdigest()[:8].encode()
        if not any(mark in text for text in texts):
            return [b"[[withheld-%d-%s]]" % (index, mark) for index in range(1, number + 1)]
    raise AssertionError


def _any_of(words: Iterable[bytes]) -> re.Pattern[bytes]:
    """Finds any of them, the longest first."""
    return re.compile(b"|".join(map(re.escape, sorted(words, key=len, reverse=True))))
