"""Owns where things are on this machine: our own files, Claude's folders, this machine's id.

Promise: computing a location makes nothing and depends on nothing but the environment it is given,
so that daemon and client agree. The folders are those platformdirs names for the app `convergence`.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from platformdirs.macos import MacOS
from platformdirs.unix import Unix

from convergenced.errors import ConvergenceError
from convergenced.machine.durable import create_durably, explained, make_private_folders, read_bounded
from convergenced.machine.runtime import APP, folder_of_all, socket_path
from convergenced.merge.names import is_machine_id
from convergenced.model import LocalPath, MachineId

DEFAULT_CLEANUP_DAYS = 30
"""Claude Code's own default of `cleanupPeriodDays`."""

MAX_CLAUDE_SETTINGS = 4 << 20
MAX_MACHINE_ID_FILE = 1 << 10
MAX_SLUG = 40


@dataclass(frozen=True, slots=True)
class Locations:
    """Where our own files are."""

    config_file: LocalPath
    store: LocalPath
    state_dir: LocalPath
    backups_dir: LocalPath
    activity_log: LocalPath
    machine_id_file: LocalPath
    socket: LocalPath
    lock_file: LocalPath

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str], home: str, *, platform: str = sys.platform, uid: int | None = None
    ) -> Locations:
        """The locations for a user whose home folder is `home`.

        `CONVERGENCE_HOME` puts everything below one folder; else the folders are platformdirs', which
        looks at the environment of the process itself. Raises `ConvergenceError` where
        `CONVERGENCE_HOME` is not absolute.
        """
        uid = os.getuid() if uid is None else uid
        socket = socket_path(environ, home, platform, uid)
        if together := folder_of_all(environ, home):
            return cls._below((together, together, together), socket)
        named = (MacOS if platform == "darwin" else Unix)(APP, appauthor=False)
        return cls._below((named.user_config_dir, named.user_data_dir, named.user_state_dir), socket)

    @classmethod
    def _below(cls, folders: tuple[str, str, str], socket: str) -> Locations:
        config, data, state = folders

        def at(*parts: str) -> LocalPath:
            return LocalPath(os.path.join(*parts))

        return cls(
            config_file=at(config, "config.toml"),
            store=at(data, "store.git"),
            state_dir=LocalPath(state),
            backups_dir=at(state, "backups"),
            activity_log=at(state, "activity.jsonl"),
            machine_id_file=at(data, "machine-id"),
            socket=LocalPath(socket),
            lock_file=at(state, "daemon.lock"),
        )


def make_socket_folder(socket: LocalPath) -> None:
    """Makes the folder of the control socket, 0700.

    Raises `ConvergenceError` where the folder belongs to somebody else, is a symlink, or cannot be
    made: in a shared /tmp another user may have been there first.
    """
    folder = os.path.dirname(socket)
    with explained(f"cannot make the socket's folder {folder}"):
        make_private_folders(folder)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            found = os.fstat(descriptor)
            if found.st_uid != os.getuid() or stat.S_ISLNK(os.lstat(folder).st_mode):
                raise ConvergenceError(
                    f"the socket's folder {folder} is not this user's own",
                    "remove it, or set XDG_RUNTIME_DIR to a private folder",
                )
            if stat.S_IMODE(found.st_mode) & 0o077:
                os.fchmod(descriptor, 0o700)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class ClaudeLocations:
    """Where Claude Code keeps what it writes: `$CLAUDE_CONFIG_DIR`, else `~/.claude`."""

    config_dir: LocalPath

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], home: str) -> ClaudeLocations:
        """The folders for a user whose home folder is `home`."""
        chosen = environ.get("CLAUDE_CONFIG_DIR") or os.path.join(home, ".claude")
        if chosen == "~" or chosen.startswith("~/"):
            chosen = home + chosen[1:]
        return cls(LocalPath(os.path.normpath(os.path.join(home, chosen))))

    @property
    def projects(self) -> LocalPath:
        """One folder per project: transcripts, session folders, memory."""
        return LocalPath(os.path.join(self.config_dir, "projects"))

    @property
    def settings(self) -> LocalPath:
        """The user's settings, hooks among them."""
        return LocalPath(os.path.join(self.config_dir, "settings.json"))

    @property
    def sessions(self) -> LocalPath:
        """One `<pid>.json` per running client."""
        return LocalPath(os.path.join(self.config_dir, "sessions"))

    def cleanup_period_days(self) -> float:
        """After how many days without a change Claude Code deletes a transcript.

        The default where its settings do not say, cannot be read or make no sense: they are not ours to
        judge.
        """
        try:
            raw = read_bounded(self.settings, MAX_CLAUDE_SETTINGS)
            settings = json.loads(raw) if raw is not None else None
        except (ConvergenceError, ValueError, RecursionError):
            return DEFAULT_CLEANUP_DAYS
        days = settings.get("cleanupPeriodDays") if isinstance(settings, dict) else None
        if isinstance(days, bool) or not isinstance(days, int | float) or not 0 <= days < float("inf"):
            return DEFAULT_CLEANUP_DAYS
        return days


def load_or_create_machine_id(
    path: LocalPath, name: str, random_bytes: Callable[[int], bytes] = os.urandom
) -> MachineId:
    """The id of this machine, `<name>-<8 hex>`; made and kept at `path` the first time.

    A new name later does not change the id. Raises `ConvergenceError` where the file does not hold an
    id: a new one would make this machine a stranger to its own past.
    """
    found = read_machine_id(path)
    if found is None:
        fresh = f"{_slug(name)}-{random_bytes(4).hex()}"
        create_durably(path, f"{fresh}\n".encode("ascii"))  # who loses a race reads the winner's
        found = read_machine_id(path)
    if found is None:
        raise ConvergenceError(f"{path} vanished while it was made", "try again")
    return found


def read_machine_id(path: LocalPath) -> MachineId | None:
    """The id kept at `path`, None where there is none. Raises `ConvergenceError` where it is damaged."""
    raw = read_bounded(path, MAX_MACHINE_ID_FILE)
    if raw is None:
        return None
    text = raw.decode("ascii", errors="replace").strip()
    if not is_machine_id(text):
        raise ConvergenceError(
            f"{path} does not hold a machine id (it is damaged)",
            "put the id back that your projects' rosters name, or delete the file to start as a new machine",
        )
    return MachineId(text)


def _slug(name: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:MAX_SLUG].strip("-")
    return slug or "machine"
