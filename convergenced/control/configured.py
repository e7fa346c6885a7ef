"""config.toml as a daemon follows it.

Promises: a file that is wrong never takes the daemon down, for the last one that was right is kept in the
state's folder; and a file that somebody is saving just now is left until it has been still for a while.
"""

from __future__ import annotations

import logging
import os

from convergenced.errors import ConfigError, ConvergenceError
from convergenced.machine.durable import read_bounded, write_durably
from convergenced.machine.settings import MAX_CONFIG, Settings, load_settings
from convergenced.model import LocalPath

log = logging.getLogger(__name__)

KEPT = "config.last-good.toml"
STILL = 2.0
"""Seconds without a change after which a file counts as saved: some programs empty it first."""

_Looks = tuple[int, int, int, int]


class Configured:
    """The file at `path`, and the last good one in `state_dir`."""

    def __init__(self, path: LocalPath, state_dir: LocalPath) -> None:
        self._path = path
        self._kept = LocalPath(os.path.join(state_dir, KEPT))
        self._read: _Looks | None = None
        self._seen: tuple[_Looks, float] | None = None

    def begin(self) -> tuple[Settings, ConfigError | None]:
        """The settings to start with, and what is wrong with the file where they are the last good ones.

        Raises `ConfigError` where the file is wrong and there are none from before.
        """
        try:
            return self.read(), None
        except ConfigError as error:
            if not os.path.exists(self._kept):
                raise
            return load_settings(self._kept), error

    def read(self) -> Settings:
        """The file's settings, which are kept as good. Raises `ConfigError`."""
        self._read, self._seen = self._looks(), None
        settings = load_settings(self._path)
        try:
            raw = read_bounded(self._path, MAX_CONFIG) or b""
            if raw != read_bounded(self._kept, MAX_CONFIG):
                write_durably(self._kept, raw)
        except ConvergenceError as error:  # a full disk is no reason to refuse good settings
            log.warning("%s", error)
        return settings

    def was_saved(self, now: float) -> bool:
        """Whether the file is another one than was read, and still since `STILL` seconds before `now`.

        A file that is gone counts as one that is being saved. `now` are monotonic seconds.
        """
        looks = self._looks()
        if looks is None or looks == self._read:
            self._seen = None
            return False
        if self._seen is None or self._seen[0] != looks:
            self._seen = looks, now
        return now - self._seen[1] >= STILL

    def _looks(self) -> _Looks | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
