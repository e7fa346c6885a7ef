"""config.toml as the client changes it: read, check, write whole, tell the daemon."""

from __future__ import annotations

from convergenced.errors import ConfigError, NoDaemonError
from convergenced.machine.durable import read_bounded, write_durably
from convergenced.machine.locations import Locations
from convergenced.machine.settings import MAX_CONFIG, Settings, parse_settings

from .client import Connection


def read(where: Locations) -> str | None:
    """The file's text, None where there is no file. Raises `ConfigError` where it is no text."""
    raw = read_bounded(where.config_file, MAX_CONFIG)
    try:
        return None if raw is None else raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where.config_file} is not UTF-8", "save the file as UTF-8") from error


def settings(where: Locations) -> Settings:
    """The settings in force: the file's, else the defaults. Raises `ConfigError`."""
    return parse_settings(read(where) or "", where.config_file)


def write(where: Locations, text: str) -> None:
    """Puts `text` in the file's place. Raises `ConfigError` and writes nothing where it is wrong."""
    parse_settings(text, where.config_file)
    write_durably(where.config_file, text.encode("utf-8"))


def apply(where: Locations) -> bool:
    """Tells the daemon to read the file again; False where none runs."""
    try:
        with Connection(where.socket) as daemon:
            daemon.call("reload")
    except NoDaemonError:
        return False
    return True
