"""Owns what may stand in config.toml: the settings as values, their kinds, their defaults.

Promise: each key exists once, in `SECTIONS`, with what is allowed in words; reading, checking, editing and
the commented default file are all made from it.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from convergenced.errors import UsageError
from convergenced.urls import classify_url

MAX_TEXT = 4096
"""Characters in one text value."""

MAX_PEERS = 64

PEER_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """`name` is empty where the host name is to be taken."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """Which projects take part. Paths are as written; see `expand_home`."""

    track: Literal["all", "listed"] = "all"
    exclude: tuple[str, ...] = ()
    auto_join: bool = True
    roots: tuple[str, ...] = ("~/src",)


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """Seconds of silence before a commit, at the latest after, and between two full scans."""

    quiet: float = 2.0
    max_wait: float = 30.0
    rescan: float = 600.0


@dataclass(frozen=True, slots=True)
class ExchangeSettings:
    """`interval` in seconds."""

    interval: float = 60.0
    transport: Literal["auto", "git", "libgit2"] = "auto"


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """One `[[peers]]`. `url` may hold a password: show it through `redact_url` only."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class LocalizeSettings:
    """Whether a running Claude Code holds its own project only or the whole machine."""

    hold: Literal["project", "machine"] = "project"


@dataclass(frozen=True, slots=True)
class SecretSettings:
    """What apparent secrets lead to."""

    policy: Literal["off", "warn", "block"] = "warn"


@dataclass(frozen=True, slots=True)
class NotifySettings:
    """Whether what needs a person is shown on the desktop."""

    desktop: bool = False


@dataclass(frozen=True, slots=True)
class BackupSettings:
    """How many backups of one file are kept."""

    keep: int = 10


@dataclass(frozen=True, slots=True)
class KnowledgeSettings:
    """CLAUDE.md and settings across machines. `max_usd` is per run.

    `synthesizer` is the name or id of the machine that synthesizes, empty: whoever is first. `peer` is
    the one whose CI does it (`github`, `gitlab`), empty: the first that fits; `api_url` where its API
    is, empty: as its URL says.
    """

    enabled: bool = False
    provider: Literal["none", "anthropic", "claude", "github", "gitlab"] = "none"
    max_usd: float = 1.0
    model: str = ""
    reject_above: int = 3
    synthesizer: str = ""
    tracked_files: bool = False
    peer: str = ""
    api_url: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """All of config.toml."""

    machine: MachineSettings = MachineSettings()
    projects: ProjectSettings = ProjectSettings()
    ingest: IngestSettings = IngestSettings()
    exchange: ExchangeSettings = ExchangeSettings()
    peers: tuple[PeerSettings, ...] = ()
    localize: LocalizeSettings = LocalizeSettings()
    secrets: SecretSettings = SecretSettings()
    notify: NotifySettings = NotifySettings()
    backups: BackupSettings = BackupSettings()
    knowledge: KnowledgeSettings = KnowledgeSettings()


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value: what is allowed, and the ways between file, program and command line.

    `read` takes a TOML value and raises `ValueError` (the message, where there is one, says more than
    `allowed`); `write` is its inverse; `from_words` takes what a person typed to a TOML value.
    """

    allowed: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any] = lambda value: value
    from_words: Callable[[str], Any] = lambda words: words
    choices: tuple[str, ...] = ()
    """What a person may type, where that is one of a few words."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section, with the comment that stands beside it in the default file."""

    kind: Kind
    comment: str


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise ValueError
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError  # noqa: TRY004 (one error for all that is not allowed)
    return value


def _truth_words(words: str) -> bool:
    return {"true": True, "false": False}[words.strip().lower()]


_TRUTH = Kind("true or false", _truth, from_words=_truth_words, choices=("true", "false"))


def _choice(*choices: str) -> Kind:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

    return Kind("one of " + ", ".join(f'"{choice}"' for choice in choices), read, choices=choices)


_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)\Z")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds of `"500ms"`, `"2s"`, `"10m"`, `"1h"` or `"1d"`. Raises `ValueError`."""
    found = _DURATION.match(text)
    if found is None:
        raise ValueError(f"{text!r} is not a duration such as 2s, 10m or 1h")
    return float(found[1]) * _UNITS[found[2]]


def format_duration(seconds: float) -> str:
    """A spelling that `parse_duration` reads back, in whole units where that is exact."""
    for unit, least in (("d", 1), ("h", 1), ("m", 2), ("s", 1)):  # 60s reads better than 1m
        number = seconds / _UNITS[unit]
        if number >= least and number == int(number):
            return f"{int(number)}{unit}"
    return f"{round(seconds * 1000)}ms"


def _duration(low: str, high: str) -> Kind:
    def read(value: Any) -> float:
        if not isinstance(value, str):
            raise ValueError  # noqa: TRY004 (one error for all that is not allowed)
        seconds = parse_duration(value)
        if not parse_duration(low) <= seconds <= parse_duration(high):
            raise ValueError
        return seconds

    return Kind(f'a duration from "{low}" to "{high}", such as "2s", "10m" or "1h"', read, format_duration)


def _whole(low: int, high: int) -> Kind:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return Kind(f"a whole number from {low} to {high}", read, from_words=int)


def _dollars(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10_000:
        raise ValueError
    return float(value)


def _dollar_words(words: str) -> float:
    value = float(words)
    if not math.isfinite(value):
        raise ValueError
    return value


def _paths(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError  # noqa: TRY004 (one error for all that is not allowed)
    for path in value:
        _text(path)
        if path != "~" and not path.startswith(("~/", "/")):
            raise ValueError
    return tuple(value)


def _path_words(words: str) -> Any:
    if words.lstrip().startswith("["):
        return tomllib.loads(f"paths = {words}")["paths"]
    return [path.strip() for path in words.split(",") if path.strip()]


_PATHS = Kind('a list of paths that begin with "~/" or "/", such as ["~/src"]', _paths, list, _path_words)


def _peer_name(value: Any) -> str:
    if not PEER_NAME.match(_text(value)):
        raise ValueError
    return str(value)


def _url(value: Any) -> str:
    try:
        classify_url(_text(value))
    except UsageError as error:
        raise ValueError(str(error)) from error
    return str(value)


PEER_KEYS: Mapping[str, Kind] = {
    "name": Kind("1 to 64 letters, digits, dots, dashes or underscores", _peer_name),
    "url": Kind("the URL of a git repository", _url),
}

_QUIET = _duration("100ms", "1h")
_INTERVAL = _duration("1s", "7d")

SECTIONS: Mapping[str, tuple[Callable[..., Any], Mapping[str, Key]]] = {
    "machine": (
        MachineSettings,
        {"name": Key(Kind("a text", _text), "how peers see this machine; the host name if empty")},
    ),
    "projects": (
        ProjectSettings,
        {
            "track": Key(_choice("all", "listed"), '"all", or "listed": only what `init` or `join` named'),
            "exclude": Key(_PATHS, 'never shared, such as ["~/clients/**"]'),
            "auto_join": Key(_TRUTH, "join what a peer has when the same code is checked out here"),
            "roots": Key(_PATHS, "where to look for checkouts"),
        },
    ),
    "ingest": (
        IngestSettings,
        {
            "quiet": Key(_QUIET, "commit after this much silence …"),
            "max_wait": Key(_QUIET, "… or at the latest after this"),
            "rescan": Key(_duration("1s", "1d"), "look at every file again this often"),
        },
    ),
    "exchange": (
        ExchangeSettings,
        {
            "interval": Key(_INTERVAL, "ask the peers this often"),
            "transport": Key(
                _choice("auto", "git", "libgit2"),
                '"auto": the git program for ssh and https where it exists, libgit2 otherwise',
            ),
        },
    ),
    "localize": (
        LocalizeSettings,
        {"hold": Key(_choice("project", "machine"), '"project", or "machine": while any Claude Code runs')},
    ),
    "secrets": (SecretSettings, {"policy": Key(_choice("off", "warn", "block"), "off | warn | block")}),
    "notify": (
        NotifySettings,
        {
            "desktop": Key(
                _TRUTH, "show what needs you (a conflict, a peer that refuses) on the desktop, once"
            )
        },
    ),
    "backups": (BackupSettings, {"keep": Key(_whole(1, 1000), "of each file that was replaced")}),
    "knowledge": (
        KnowledgeSettings,
        {
            "enabled": Key(_TRUTH, "share CLAUDE.md and settings"),
            "provider": Key(
                _choice("none", "anthropic", "claude", "github", "gitlab"),
                "none | anthropic | claude | github | gitlab",
            ),
            "max_usd": Key(
                Kind("a number of dollars from 0 to 10000", _dollars, from_words=_dollar_words), "per run"
            ),
            "model": Key(Kind("a text", _text), "which model merges; the provider's own choice if empty"),
            "reject_above": Key(
                _whole(0, 100), "a merge with more claims that nobody made is not taken; fewer are marked"
            ),
            "synthesizer": Key(Kind("a text", _text), "the machine that merges; whoever is first if empty"),
            "tracked_files": Key(_TRUTH, "also a project's CLAUDE.md that its own git carries"),
            "peer": Key(Kind("a text", _text), "whose CI merges (github, gitlab); the first fit if empty"),
            "api_url": Key(Kind("a text", _text), "where its API is; as its URL says if empty"),
        },
    ),
}
