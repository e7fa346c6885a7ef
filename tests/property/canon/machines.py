"""Participants whose anchors are unlike each other, for the tests of the canonical form."""

from __future__ import annotations

from convergenced.canon.folder import encode_folder_name
from convergenced.model import Anchors


def machine(root: str, home: str | None, *, config: str | None = None) -> Anchors:
    """A POSIX participant with its project at `root`."""
    encoded = encode_folder_name(root)
    folder = f"{config or f'{home}/.claude'}/projects/{encoded}"
    return Anchors("linux", root, folder, encoded, home)


ANN = machine("/home/ann/src/proj", "/home/ann")
MAC = machine("/Users/ann/code/proj", "/Users/ann")
CONTAINER = machine("/workspace", "/root")
ELSEWHERE = machine("/opt/data/proj", "/home/bob", config="/etc/claude")
JAPANESE = machine("/home/日本/プロ", "/home/日本")
AT_HOME = machine("/home/dan", "/home/dan")
HOMELESS = machine("/srv/app", None, config="/srv/claude")
SLASH_HOME = machine("/build/app", "/", config="/cfg")
QUOTED = machine('/home/o"neil/a\\b', '/home/o"neil')
DOTTED = machine("/my.data/proj", "/home/eve")
SHORT = machine("/p", "/h")
NESTED = machine("/home/ann/.claude/projects", "/home/ann")

TAME = (ANN, MAC, CONTAINER, ELSEWHERE)
"""Ordinary participants: every law holds for them without an exception."""

ALL = (*TAME, JAPANESE, AT_HOME, HOMELESS, SLASH_HOME, QUOTED, DOTTED, SHORT, NESTED)

ODD = (
    machine("/data+/data+", "/data+"),
    Anchors("linux", "/app", "/-app/projects/-app", "-app", "/home/a"),
)
"""Anchors that overlap themselves or hold each other in the middle: their bytes come back all the same."""
