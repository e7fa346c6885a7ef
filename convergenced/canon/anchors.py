r"""Owns what an `Anchors` value means: which paths are rewritten, in which order, spelled how.

The canonical form is a composition of layers, one per anchor. Each layer is a one-to-one mapping
of bytes to bytes, so the whole is one too, and localizing is the same layers backwards:

0. every literal sentinel in the local text gets one `_LIT` more;
1. the slash anchors, longest first, so that the project root goes before the home that holds it;
2. the encoded name, last: what is left of it stands outside the context folder's path.

An anchor is disabled where it would not mean anything: no home by policy, `/` as home, a relative
path, an encoded name that could be read as a number. A disabled anchor and its sentinel are left as
they stand in both directions, so that a machine without a usable home hands on what others wrote.

In JSON, an anchor is recognized where its slashes are all spelled alike and its other characters
plainly (a quote and a backslash as JSON must spell them, everything else as raw UTF-8), a sentinel
where at most its closing braces are escaped. Any other mixture is left as it stands.

Two properties of a JSON spelling carry information that the decoded text does not:

* the *style*: how its slashes are spelled, all alike: `/`, `\/`, `\u002f`, `\u002F`. The sentinel
  carries it in the spelling of its closing braces, so that localizing can reproduce it;
* the *depth*: how many of the last characters are spelled `\u00xx` though they need not be. Local
  text of depth n + 1 is canonical text of depth n. That is how another machine's path stays that
  path in the store although it happens to be an anchor here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from convergenced.model import Anchors, Os

Name = Literal["PROJECT_ROOT", "PROJECT_CONTEXT_DIR", "ENCODED_DIR", "HOME"]

SLASHES: tuple[bytes, ...] = (b"/", rb"\/", rb"\u002f", rb"\u002F")
"""The slash of each style, in JSON."""

CLOSINGS: tuple[bytes, ...] = (b"}}", rb"}\u007d", rb"\u007d}", rb"\u007d\u007d")
"""The closing braces of a sentinel that stands for an anchor of that style, in JSON. Only these
spellings are sentinels: the opening is always plain, so that all are found by the same bytes."""

DEPTH_LIMIT = 3
"""Characters at the end of an anchor that can be spelled as escapes. What is spelled so already cannot
be told apart any more: nobody writes such text but us, and we stop here."""

PLAIN_AT_LEAST = 3
"""Characters of the last name that stay plain. A shorter name gives two all the same, or the only one
of a path such as `/app` gives one, because what stays plain is what the search looks for."""

_ORDER: tuple[Name, ...] = ("PROJECT_ROOT", "PROJECT_CONTEXT_DIR", "HOME")
_MEANINGFUL = re.compile(r"[A-DF-Za-df-z]")  # -1e5 would be a JSON number
_WINDOWS_ROOT = re.compile(r"[A-Za-z]:[\\/]|/[A-Za-z]/|\\\\")
_SHORT = {'"': rb"\"", "\\": rb"\\", "\b": rb"\b", "\f": rb"\f", "\n": rb"\n", "\r": rb"\r", "\t": rb"\t"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One anchor that is rewritten: its sentinel's name and its path, without a trailing slash."""

    name: Name
    path: str

    @property
    def sentinel(self) -> bytes:
        """The sentinel in its plain spelling."""
        return sentinel(self.name)


def sentinel(name: Name, style: int = 0) -> bytes:
    """What stands for the anchor `name` in canonical form."""
    return b"{{CC_" + name.encode() + CLOSINGS[style]


@lru_cache(maxsize=64)
def layers(anchors: Anchors) -> tuple[Layer, ...]:
    """The enabled anchors in the order in which canonicalizing goes through them."""
    paths: dict[Name, str | None] = {
        "PROJECT_ROOT": anchors.project_root,
        "PROJECT_CONTEXT_DIR": anchors.context_dir,
        "HOME": anchors.home,
    }
    slashed = [Layer(name, path) for name in _ORDER if (path := _usable(paths[name], anchors.os)) is not None]
    slashed.sort(key=lambda layer: -len(layer.path))
    if _MEANINGFUL.search(anchors.encoded_dir):
        slashed.append(Layer("ENCODED_DIR", anchors.encoded_dir))
    names = tuple(layer.name for layer in slashed)
    return tuple(Layer(layer.name, _lifted(layer.path, names)) for layer in slashed)


def _usable(path: str | None, system: Os) -> str | None:
    """The path without trailing slashes, or None where it names nothing that could be rewritten."""
    if path is None:
        return None
    if system == "windows":
        bare = path.rstrip("\\/")
        return bare if _WINDOWS_ROOT.match(path) and len(bare) > len("C:") else None
    bare = path.rstrip("/")
    return bare if bare.startswith("/") else None


def _lifted(path: str, names: tuple[Name, ...]) -> str:
    """The path as it stands after layer 0: even a path may hold a literal sentinel."""
    literal = r"(\{\{CC_(?:" + "|".join(names) + r")(?:_LIT)*)\}\}"
    return re.sub(literal, r"\1_LIT}}", path)


def text_spelling(path: str) -> bytes:
    """The path as it stands in plain text."""
    return b"".join(_raw(character) for character in path)


def json_spellings(path: str) -> tuple[tuple[bytes, ...], ...]:
    """How the path is recognized in JSON, by style and then by depth; `[0][0]` is the usual one.

    A path without a slash has one style only. The depth stays within the last name of a path.
    """
    styles = SLASHES if "/" in path else SLASHES[:1]
    return tuple(_depths(path, slash) for slash in styles)


def _depths(path: str, slash: bytes) -> tuple[bytes, ...]:
    plain = [slash if character == "/" else _plain(character) for character in path]
    spellings = [b"".join(plain)]
    name_start = max(path.rfind("/") + 1, 1)
    at_least = 2 if name_start > 1 else 1
    limit = min(DEPTH_LIMIT, max(at_least, len(path) - name_start - PLAIN_AT_LEAST))
    for at in range(len(path) - 1, name_start - 1, -1):
        escaped = _escaped(path[at])
        if escaped is None or escaped == plain[at]:
            continue
        plain[at] = escaped
        spellings.append(b"".join(plain))
        if len(spellings) > limit:
            break
    return tuple(spellings)


def _plain(character: str) -> bytes:
    """One character as the client writes it into a JSON string."""
    if character in _SHORT:
        return _SHORT[character]
    if character < " " or "\ud800" <= character <= "\udc7f" or "\udd00" <= character <= "\udfff":
        return rb"\u%04x" % ord(character)
    return _raw(character)


def _raw(character: str) -> bytes:
    """One character as UTF-8; a surrogate escape is the byte it stands for."""
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00])
    return character.encode("utf-8", "surrogatepass")


def _escaped(character: str) -> bytes | None:
    r"""One character spelled as `\uxxxx`, lower case; None for a byte that is no character."""
    if "\ud800" <= character <= "\udfff":
        return None
    units = character.encode("utf-16-be")
    return b"".join(rb"\u%02x%02x" % (units[at], units[at + 1]) for at in range(0, len(units), 2))
