"""Builds the real parts that work on replicas needs: store, files, state, processes, clock, machine."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping

from convergenced import __version__
from convergenced.errors import ConvergenceError
from convergenced.machine.claude import RealProcesses
from convergenced.machine.clock import SystemClock
from convergenced.machine.durable import make_private_folders
from convergenced.machine.files import RealFiles, sweep_temporaries
from convergenced.machine.health import state_file
from convergenced.machine.locations import (
    ClaudeLocations,
    Locations,
    load_or_create_machine_id,
    read_machine_id,
)
from convergenced.machine.settings import Settings
from convergenced.machine.state import State
from convergenced.model import LocalPath, MachineId, Os
from convergenced.store.git import GitStore
from convergenced.store.repo import open_store
from convergenced.sync.replica import Machine, Parts

log = logging.getLogger(__name__)

STATE_FILES = ("", "-wal", "-shm")
"""What sqlite keeps beside the database, by ending."""


@contextlib.contextmanager
def real_parts(
    locations: Locations, settings: Settings, environ: Mapping[str, str], home: str
) -> Iterator[Parts]:
    """The parts for one who holds the daemon's lock: what is missing is made, what a crash left is tidied."""
    claude = ClaudeLocations.from_environment(environ, home)
    make_private_folders(locations.state_dir)
    name = settings.machine.name or platform.node() or "machine"
    make_private_folders(os.path.dirname(locations.machine_id_file))
    machine_id = load_or_create_machine_id(locations.machine_id_file, name, os.urandom)
    machine = _machine(machine_id, name, locations, claude, home)
    store = open_store(locations.store)
    sweep_temporaries(machine.projects_dir)  # what a crash left half written
    state = open_state(state_file(locations))
    try:
        yield _parts(store, state, machine, claude)
    finally:
        state.close()


@contextlib.contextmanager
def readable_parts(
    locations: Locations, settings: Settings, environ: Mapping[str, str], home: str
) -> Iterator[Parts]:
    """The parts for one who only looks: nothing is made or changed, the state is a copy.

    Where there is no store yet, an empty one stands in for it.
    """
    claude = ClaudeLocations.from_environment(environ, home)
    machine_id = read_machine_id(locations.machine_id_file) or MachineId("unknown-00000000")
    name = settings.machine.name or platform.node() or "machine"
    with tempfile.TemporaryDirectory(prefix="convergence-") as folder:
        copy = LocalPath(os.path.join(folder, "state.sqlite"))
        for ending in STATE_FILES[:2]:
            with contextlib.suppress(OSError):
                shutil.copyfile(state_file(locations) + ending, copy + ending)
        if os.path.isdir(locations.store):
            store = open_store(locations.store, recover=False)
        else:
            store = open_store(LocalPath(os.path.join(folder, "store.git")))
        damaged = find_state_damage(copy) is not None
        state = State(":memory:" if damaged else copy)
        try:
            yield _parts(store, state, _machine(machine_id, name, locations, claude, home), claude)
        finally:
            state.close()


def open_state(path: LocalPath) -> State:
    """The state database; one that is damaged is set aside, for it is only a cache."""
    try:
        return State(path)
    except sqlite3.DatabaseError as error:
        log.warning("the state database %s is damaged (%s); it is rebuilt", path, error)
        set_state_aside(path)
        return State(path)


def set_state_aside(path: LocalPath) -> LocalPath:
    """Moves a damaged state database away, that nobody has open, and says where it is now."""
    aside = LocalPath(f"{path}.damaged")
    for ending in STATE_FILES:
        with contextlib.suppress(FileNotFoundError):
            os.replace(path + ending, aside + ending)
    return aside


def find_state_damage(path: LocalPath) -> str | None:
    """What is wrong with the state database at `path`, None where nothing is or there is none.

    To be asked only while nobody writes to it: a copy is looked at.
    """
    if not os.path.exists(path):
        return None
    with tempfile.TemporaryDirectory(prefix="convergence-") as folder:
        copy = os.path.join(folder, "state.sqlite")
        try:
            for ending in STATE_FILES[:2]:
                if os.path.exists(path + ending):
                    shutil.copyfile(path + ending, copy + ending)
            state = State(copy)
        except (sqlite3.DatabaseError, OSError, ConvergenceError) as error:
            return str(error)
        try:
            return state.find_damage()
        finally:
            state.close()


def _machine(
    machine_id: MachineId, name: str, locations: Locations, claude: ClaudeLocations, home: str
) -> Machine:
    return Machine(
        id=machine_id,
        name=name,
        os=_os(),
        # Resolved, as the client resolves the working folders that transcripts speak of.
        home=LocalPath(os.path.realpath(home)),
        # As the client spells it in transcripts: it does not resolve links in its own folder.
        projects_dir=claude.projects,
        backups_dir=locations.backups_dir,
        cleanup_days=claude.cleanup_period_days(),
        version=__version__,
    )


def _parts(store: GitStore, state: State, machine: Machine, claude: ClaudeLocations) -> Parts:
    return Parts(
        store=store,
        files=RealFiles([machine.projects_dir, machine.backups_dir]),
        state=state,
        processes=RealProcesses(claude.sessions),
        clock=SystemClock(),
        machine=machine,
    )


def _os() -> Os:
    return "darwin" if sys.platform == "darwin" else "linux"
