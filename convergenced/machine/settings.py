"""Owns config.toml: reading it, saying what is wrong with it, and editing it.

Promise: an unknown key or a bad value is an error that names file, line and what is allowed; an edit
keeps the user's comments and never leaves a file that cannot be read.

tomlkit (23 ms to import) is for editing alone; reading uses the standard library.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from convergenced.errors import ConfigError, ConvergenceError
from convergenced.machine.durable import read_bounded
from convergenced.machine.settings_schema import (
    MAX_PEERS,
    PEER_KEYS,
    SECTIONS,
    BackupSettings,
    ExchangeSettings,
    IngestSettings,
    Kind,
    KnowledgeSettings,
    LocalizeSettings,
    MachineSettings,
    PeerSettings,
    ProjectSettings,
    SecretSettings,
    Settings,
    format_duration,
    parse_duration,
)
from convergenced.model import LocalPath
from convergenced.urls import redact_url

if TYPE_CHECKING:
    import tomlkit

__all__ = [
    "BackupSettings",
    "ExchangeSettings",
    "IngestSettings",
    "KnowledgeSettings",
    "LocalizeSettings",
    "MachineSettings",
    "PeerSettings",
    "ProjectSettings",
    "SecretSettings",
    "Settings",
    "add_peer",
    "change_exclusions",
    "default_config_text",
    "expand_home",
    "format_duration",
    "get_value",
    "load_settings",
    "parse_duration",
    "parse_settings",
    "redact_url",
    "remove_peer",
    "set_value",
    "unset_value",
]

MAX_CONFIG = 1 << 20
"""Bytes of a config.toml that is read."""


def load_settings(path: LocalPath) -> Settings:
    """The settings in the file at `path`; all defaults where there is none. Raises `ConfigError`."""
    try:
        raw = read_bounded(path, MAX_CONFIG)
    except ConvergenceError as error:
        raise ConfigError(error.summary, error.hint) from error
    if raw is None:
        return Settings()
    try:
        return parse_settings(raw.decode("utf-8"), path)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8", "save the file as UTF-8") from error


def parse_settings(text: str, where: str) -> Settings:
    """The settings in `text`. Raises `ConfigError`, which calls the file `where`."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number or a nesting out of all proportion
        raise _not_toml(error, text, where) from error
    found: dict[str, Any] = {}
    for section, table in document.items():
        if section == "peers":
            found["peers"] = tuple(_peers(table, text, where))
            continue
        if section not in SECTIONS:
            raise _unknown(_line(text, section), where, section, "section", [*SECTIONS, "peers"])
        if not isinstance(table, dict):
            raise _wrong(_line(text, section), where, section, f"a section: [{section}]")
        make, keys = SECTIONS[section]
        values: dict[str, Any] = {}
        for key, value in table.items():
            line = _line(text, section, key)
            if key not in keys:
                raise _unknown(
                    line, where, f"{section}.{key}", "key", [f"{section}.{known}" for known in keys]
                )
            values[key] = _read(keys[key].kind, value, line, where, f"{section}.{key}")
        found[section] = make(**values)
    settings = Settings(**found)
    if settings.ingest.max_wait < settings.ingest.quiet:
        raise _wrong(_line(text, "ingest", "max_wait"), where, "ingest.max_wait", "at least ingest.quiet")
    return settings


def expand_home(path: str, home: str) -> LocalPath:
    """A path of the settings with `~` replaced by `home`."""
    return LocalPath(os.path.normpath(home + path[1:] if path == "~" or path.startswith("~/") else path))


def default_config_text(name: str = "", peers: Iterable[PeerSettings] = ()) -> str:
    """A first config.toml: every key with its default and what it is for. `name` is the machine's."""
    settings = Settings(machine=MachineSettings(name=name))
    lines = [
        "# Settings of convergence. Every key may be left out; what stands here are the defaults.",
        "# `convergencectl config set KEY VALUE` changes one, checks it and applies it at once.",
    ]
    for section, (_, keys) in SECTIONS.items():
        lines += ["", f"[{section}]"]
        for key, described in keys.items():
            value = described.kind.write(getattr(getattr(settings, section), key))
            lines.append(f"{f'{key} = {_toml(value)}':<32} # {described.comment}")
        if section == "exchange":
            lines += _peer_lines(peers)
    return "\n".join(lines) + "\n"


def _peer_lines(peers: Iterable[PeerSettings]) -> Iterator[str]:
    """The `[[peers]]`, or how they would look."""
    shown = False
    for peer in peers:
        shown = True
        yield from ("", "[[peers]]", f"name = {_toml(peer.name)}", f"url = {_toml(peer.url)}")
    if not shown:
        yield from (
            "",
            "# Where contexts are exchanged: any git repository you can push to, as many as you like.",
            "# [[peers]]",
            '# name = "hub"',
            '# url = "git@github.com:you/context.git"',
        )


def get_value(text: str, dotted_key: str) -> str:
    """The value in force for `section.key`, as `set_value` would take it. Raises `ConfigError`."""
    section, key, kind = _known(dotted_key)
    value = kind.write(getattr(getattr(parse_settings(text, "config.toml"), section), key))
    if isinstance(value, list):
        return _toml(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def set_value(text: str, dotted_key: str, raw_value: str) -> str:
    """`text` with `section.key` set to what a person typed. Raises `ConfigError` where it makes no sense."""
    import tomlkit  # noqa: PLC0415 (slow; only for edits)

    section, key, kind = _known(dotted_key)
    try:
        value = kind.from_words(raw_value)
        kind.read(value)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{dotted_key} cannot be {raw_value!r}", f"allowed: {kind.allowed}") from error
    document = _parse(text)
    if section not in document:
        document[section] = tomlkit.table()
    table: Any = document[section]
    table[key] = value
    return _checked(document)


def unset_value(text: str, dotted_key: str) -> str:
    """`text` without `section.key`, so that its default holds. Raises `ConfigError`."""
    section, key, _ = _known(dotted_key)
    document = _parse(text)
    table: Any = document.get(section)
    if table is None or key not in table:
        return text
    del table[key]
    return _checked(document)


def add_peer(text: str, name: str, url: str) -> str:
    """`text` with one more peer. Raises `ConfigError`; its text shows no password."""
    import tomlkit  # noqa: PLC0415 (slow; only for edits)

    for key, value in (("name", name), ("url", url)):
        _read(PEER_KEYS[key], value, None, "the peer", key)
    if any(peer.name == name for peer in parse_settings(text, "config.toml").peers):
        raise ConfigError(f"there is a peer named {name} already", "choose another name, or remove it first")
    document = _parse(text)
    peer = tomlkit.table()
    peer["name"], peer["url"] = name, url
    if "peers" not in document:
        document.add(tomlkit.nl())
        document["peers"] = tomlkit.aot()
    peers: Any = document["peers"]
    peers.append(peer)
    return _checked(document)


def remove_peer(text: str, name: str) -> str:
    """`text` without the peer of that name. Raises `ConfigError`."""
    names = [peer.name for peer in parse_settings(text, "config.toml").peers]
    if name not in names:
        raise ConfigError(f"there is no peer named {name}", f"there are: {', '.join(names) or 'none'}")
    document = _parse(text)
    peers: Any = document["peers"]
    del peers[names.index(name)]
    if not peers:
        del document["peers"]
    return _checked(document)


def change_exclusions(text: str, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> str:
    """`text` with patterns put into `projects.exclude` or taken out. Raises `ConfigError`."""
    former = parse_settings(text, "config.toml").projects.exclude
    gone = set(remove)
    patterns = list(dict.fromkeys([*(one for one in former if one not in gone), *add]))
    if tuple(patterns) == former:
        return text
    return set_value(text, "projects.exclude", _toml(patterns))


# ---------------------------------------------------------------------- reading


def _peers(value: Any, text: str, where: str) -> Iterator[PeerSettings]:
    if not isinstance(value, list):
        raise _wrong(_line(text, "peers"), where, "peers", "a list of [[peers]] sections")
    if len(value) > MAX_PEERS:
        raise _wrong(_line(text, "peers"), where, "peers", f"at most {MAX_PEERS} peers")
    names: set[str] = set()
    for number, table in enumerate(value):
        if not isinstance(table, dict):
            raise _wrong(_line(text, "peers", nth=number), where, "peers", "a list of [[peers]] sections")
        for key in table:
            if key not in PEER_KEYS:
                line = _line(text, "peers", key, nth=number)
                raise _unknown(line, where, f"peers.{key}", "key", [f"peers.{known}" for known in PEER_KEYS])
        for key, kind in PEER_KEYS.items():
            line = _line(text, "peers", key, nth=number)
            if key not in table:
                raise ConfigError(f"{_at(where, line)}: this peer has no {key}", f"{key} is {kind.allowed}")
            _read(kind, table[key], line, where, f"peers.{key}")
        peer = PeerSettings(table["name"], table["url"])
        if peer.name in names:
            line = _line(text, "peers", "name", nth=number)
            raise ConfigError(f"{_at(where, line)}: two peers are named {peer.name}", "give one another name")
        names.add(peer.name)
        yield peer


def _read(kind: Kind, value: Any, line: int | None, where: str, key: str) -> Any:
    try:
        return kind.read(value)
    except ValueError as error:
        raise _wrong(line, where, key, kind.allowed, str(error)) from error


def _known(dotted_key: str) -> tuple[str, str, Kind]:
    section, _, key = dotted_key.partition(".")
    if section in SECTIONS and key in SECTIONS[section][1]:
        return section, key, SECTIONS[section][1][key].kind
    known = [f"{name}.{key}" for name, (_, keys) in SECTIONS.items() for key in keys]
    raise ConfigError(f"there is no setting {dotted_key}", _suggestion(dotted_key, known))


# ---------------------------------------------------------------------- editing


def _parse(text: str) -> tomlkit.TOMLDocument:
    """The document for an edit; a file that is wrong already is not edited."""
    import tomlkit  # noqa: PLC0415 (slow; only for edits)

    parse_settings(text, "config.toml")
    return tomlkit.parse(text)


def _checked(document: tomlkit.TOMLDocument) -> str:
    text = document.as_string()
    parse_settings(text, "config.toml")
    return text


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)


# ---------------------------------------------------------------------- what is wrong, and where


def _at(where: str, line: int | None) -> str:
    return where if line is None else f"{where}, line {line}"


def _wrong(line: int | None, where: str, key: str, allowed: str, more: str = "") -> ConfigError:
    said = f": {more}" if more else ""
    return ConfigError(f"{_at(where, line)}: the value of {key} is not allowed{said}", f"allowed: {allowed}")


def _unknown(line: int | None, where: str, name: str, what: str, known: list[str]) -> ConfigError:
    return ConfigError(f"{_at(where, line)}: unknown {what} {name}", _suggestion(name, known))


def _suggestion(name: str, known: list[str]) -> str:
    import difflib  # noqa: PLC0415 (only for a mistake)

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"


def _not_toml(error: Exception, text: str, where: str) -> ConfigError:
    found = re.search(r"\(at line (\d+), column \d+\)", str(error))
    line = int(found[1]) if found else text.count("\n") + 1
    message = re.sub(r" \(at [^()]*\)\Z", "", str(error))
    return ConfigError(f"{where}, line {line}: not valid TOML: {message}", "correct that line")


_HEADER = re.compile(r"\s*\[\[?\s*(?P<name>[^\[\]]+?)\s*\]\]?\s*(?:#.*)?\Z")


def _line(text: str, section: str, key: str | None = None, nth: int = 0) -> int | None:
    """The line of `key` in the `nth` section of that name.

    The section's own line where the key is spelled in some other way; None where not even that is found.
    """
    name, wanted = rf"""["']?{re.escape(section)}["']?""", rf"""["']?{re.escape(key or "")}["']?"""
    in_section = re.compile(rf"\s*{wanted}\s*[=.]") if key else None
    on_top = re.compile(rf"\s*{name}\s*(?:=|\.\s*{wanted if key else ''})")
    place: int | None = None
    inside, seen = "", -1
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.match(line):
            inside = header["name"].strip("\"'")
            seen += inside == section
            if inside == section and seen == nth and place is None:
                place = number
        elif not inside:
            if on_top.match(line):
                return number
        elif inside == section and seen == nth and in_section is not None and in_section.match(line):
            return number
    return place
