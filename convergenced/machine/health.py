"""Checks of this machine and of our own files: permissions, space, programs, left-overs, watches.

Each function is one check. Nothing is changed but by a finding's `repair`, which touches only what is
ours: modes of our own files, temporary files that a crash left.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from convergenced.errors import ConvergenceError
from convergenced.machine.desktop import program_for
from convergenced.machine.durable import TEMPORARY_PREFIX
from convergenced.machine.folders import MAX_SWEEP_DEPTH
from convergenced.machine.locations import Locations
from convergenced.machine.settings import load_settings
from convergenced.machine.settings_schema import Settings
from convergenced.machine.watch import count_watches
from convergenced.model import Finding, LocalPath
from convergenced.urls import UrlKind, classify_url

LEAST_FREE = 64 * 1024 * 1024
"""Bytes free below which writing is about to fail."""
FREE_FOR_COMFORT = 1024 * 1024 * 1024
BACKUPS_LARGE = 5 * 1024 * 1024 * 1024
WATCHES_SHARE = 0.8
"""Share of the allowed watches from which on there is a word about it."""
STILL_IN_USE_S = 3_600.0
"""A temporary file that was touched within this time may belong to a write that is under way."""
MAX_FILES = 1_000_000

_FIX = "convergencectl doctor --fix"
_MIB = 1024 * 1024


def check_config(locations: Locations) -> Iterator[Finding]:
    """Whether config.toml can be understood."""
    try:
        load_settings(locations.config_file)
    except ConvergenceError as error:
        yield Finding("config", "problem", error.summary, fix=error.hint)
        return
    there = os.path.exists(locations.config_file)
    text = f"{locations.config_file} is valid" if there else "there is none; the defaults hold"
    yield Finding("config", "ok", text)


def check_permissions(locations: Locations) -> Iterator[Finding]:
    """Whether our own files are this user's alone."""
    folders = {locations.store, locations.state_dir, locations.backups_dir}
    files = {
        locations.config_file,
        locations.machine_id_file,
        locations.activity_log,
        state_file(locations),
    }
    wrong = []
    for path, allowed in (*((one, 0o700) for one in folders), *((one, 0o600) for one in files)):
        found = _lstat(path)
        if found is None or stat.S_ISLNK(found.st_mode):
            continue  # a config that is kept among dotfiles has what its own folder has
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid != os.getuid():
            text = f"{path} belongs to another user (uid {found.st_uid})"
            yield Finding("permissions", "problem", text, fix=f"sudo chown {os.getuid()} {path}")
        elif mode & ~allowed & 0o077:
            wrong.append(path)
            text = f"{path} can be reached by others (mode {mode:04o})"
            yield Finding(
                "permissions", "problem", text, fix=_FIX, repair=partial(_make_private, path, allowed)
            )
    if not wrong:
        yield Finding("permissions", "ok", "store, state and configuration are this user's alone")


def check_socket(locations: Locations) -> Iterator[Finding]:
    """Whether the control socket, where there is one, is out of others' reach."""
    folder = os.path.dirname(locations.socket)
    wrong = False
    for path, allowed in ((folder, 0o700), (locations.socket, 0o600)):
        if path == locations.state_dir:
            continue  # looked at as such
        found = _lstat(path)
        if found is not None and (stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.getuid()):
            wrong = True
            text = f"{path} can be reached by others (mode {stat.S_IMODE(found.st_mode):04o})"
            yield Finding(
                "socket", "problem", text, fix=_FIX, repair=partial(_make_private, LocalPath(path), allowed)
            )
    if not wrong:
        yield Finding("socket", "ok", f"{locations.socket} is private")


def check_space(locations: Locations, projects_dir: LocalPath, largest: int) -> Iterator[Finding]:
    """Free space where store, state and projects are. `largest` are the bytes of the largest transcript."""
    seen: set[int] = set()
    parts = []
    needed = max(LEAST_FREE, 2 * largest)
    for what, path in (
        ("store", locations.store),
        ("state", locations.state_dir),
        ("projects", projects_dir),
    ):
        place = _existing(path)
        device = os.stat(place).st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(place).free
        parts.append(f"{free // _MIB} MiB for {what}")
        if free < needed:
            text = f"only {free // _MIB} MiB are free where the {what} is; {needed // _MIB} MiB are needed"
            yield Finding("space", "problem", text, fix="free some space on that disk")
        elif free < FREE_FOR_COMFORT:
            text = f"{free // _MIB} MiB are free where the {what} is"
            yield Finding("space", "warning", text, fix="free some space on that disk")
    yield Finding("space", "ok", f"free: {', '.join(parts)}")


def check_programs(environ: Mapping[str, str], settings: Settings) -> Iterator[Finding]:
    """Whether git and ssh are on the PATH of the process that asks, where a peer needs them."""
    kinds = {classify_url(peer.url).kind for peer in settings.peers}
    remote = bool(kinds & {UrlKind.SSH, UrlKind.WEB})
    path = environ.get("PATH", os.defpath)
    found = {name: shutil.which(name, path=path) for name in ("git", "ssh")}
    transport = settings.exchange.transport
    if found["git"] is None and remote and transport != "libgit2":
        text = "git is not on the PATH; ssh configuration and credential helpers are not used without it"
        fix = "install git, or add it to the service's PATH"
        yield Finding("programs", "problem" if transport == "git" else "warning", text, fix=fix)
    elif found["ssh"] is None and UrlKind.SSH in kinds and transport != "libgit2":
        text = "ssh is not on the PATH, and a peer is reached by it"
        yield Finding("programs", "problem", text, fix="install ssh, or add it to the service's PATH")
    else:
        shown = ", ".join(f"{name} is {place}" for name, place in found.items() if place is not None)
        yield Finding("programs", "ok", shown or "neither git nor ssh is needed")
    if settings.notify.desktop and program_for(environ) is None:
        text = "what needs you is to be shown on the desktop, and the program for that is not on the PATH"
        fix = "install notify-send (libnotify), or: convergencectl config set notify.desktop false"
        yield Finding("programs", "warning", text, fix=fix)


def check_watches(projects_dir: LocalPath) -> Iterator[Finding]:
    """Whether the system's limit leaves room to watch all folders."""
    folders, limit = count_watches(projects_dir)
    if limit is not None and folders > limit * WATCHES_SHARE:
        text = f"{folders} folders are to be watched and the system allows {limit}; the rescan finds the rest"
        yield Finding(
            "watches",
            "warning",
            text,
            fix=f"sudo sysctl fs.inotify.max_user_watches={max(524_288, 4 * folders)}",
        )
        return
    allowed = f" of {limit} allowed" if limit is not None else ""
    yield Finding("watches", "ok", f"{folders} folders to watch{allowed}")


def check_leftovers(folders: Iterable[LocalPath], *, in_use: bool) -> Iterator[Finding]:
    """Temporary files that a crash left. With `in_use`, young ones may belong to a write under way."""
    before = time.time() - STILL_IN_USE_S if in_use else None
    found = [path for folder in dict.fromkeys(folders) for path in _leftovers(folder, before)]
    if found:
        noun = "temporary file is" if len(found) == 1 else "temporary files are"
        text = f"{len(found)} {noun} left over, such as {found[0]}"
        yield Finding("leftovers", "warning", text, fix=_FIX, repair=partial(_remove, found))
    else:
        yield Finding("leftovers", "ok", "no temporary file is left over")


def check_backups(locations: Locations, keep: int) -> Iterator[Finding]:
    """How much the backups take."""
    files = size = 0
    for place, _, names in os.walk(locations.backups_dir):
        for name in names:
            status = _lstat(os.path.join(place, name))
            files += 1
            size += 0 if status is None else status.st_size
    text = f"{size // _MIB} MiB in {files} {'backup' if files == 1 else 'backups'} of replaced files"
    if size > BACKUPS_LARGE:
        fix = f"keep fewer: convergencectl config set backups.keep {max(1, keep // 2)}"
        yield Finding("backups", "warning", text, fix=fix)
    else:
        yield Finding("backups", "ok", text)


def state_file(locations: Locations) -> LocalPath:
    """The state database."""
    return LocalPath(os.path.join(locations.state_dir, "state.sqlite"))


def _make_private(path: LocalPath, mode: int) -> str:
    os.chmod(path, stat.S_IMODE(os.lstat(path).st_mode) & mode)
    return f"made {path} private"


def _remove(paths: list[str]) -> str:
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue
    return f"removed {len(paths)} temporary {'file' if len(paths) == 1 else 'files'}"


def _leftovers(folder: LocalPath, before: float | None) -> Iterator[str]:
    """Follows no symlink below `folder`. The change time counts, for the other one is set by us."""
    waiting = [(folder, 0)]
    seen = 0
    while waiting and seen < MAX_FILES:
        place, depth = waiting.pop()
        try:
            with os.scandir(place) as found:
                items = list(found)
        except OSError:
            continue  # gone meanwhile, or not ours to read
        seen += len(items)
        for item in items:
            if item.is_dir(follow_symlinks=False):
                if depth < MAX_SWEEP_DEPTH:
                    waiting.append((LocalPath(item.path), depth + 1))
            elif item.name.startswith(TEMPORARY_PREFIX):
                status = _lstat(item.path)
                if status is not None and (before is None or status.st_ctime < before):
                    yield item.path


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _existing(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path
